"""How an environment draws itself, for the videos of ``metarl-jax record`` and the animations of reports.

An environment that has a method ``draw`` (``Drawable``) is drawn by it, also one outside this package:

    class MyEnvironment(Environment):
        caption = "Green: the goal; blue: the path so far in this episode."

        def draw(self, frames, task):
            picture, canvas = blank()
            canvas.line([tuple(frame.observation) for frame in of_episode(frames)], fill="royalblue")
            return picture

A family may instead have a function ``render(state, task) -> picture`` (``EnvFamily.render``). Other environments are
shown by their observations, actions and rewards. Pillow is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from metarl_jax.types import AutoResetEnvironment, Task

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SIZE = 480
"""Width and height in pixels of the pictures that this package draws. Videos enlarge pictures that are not as wide."""


class Frame(NamedTuple):
    """One moment of a recorded trial."""

    observation: np.ndarray
    """The observation, as the environment returned it."""
    state: Any
    """The environment's state as a tree of NumPy arrays, in which random keys are stored as their data. If the
    environment has a method ``drawn_state``, the field holds its result instead. In the last frame of an episode it is
    the state before the last step, because ``step`` returns the state of the next episode. It is ``()`` for an
    environment without ``draw``, unless the family has ``render``."""
    action: np.ndarray | None
    """The action that led to this moment. None at the beginning of an episode."""
    episode: int
    """Index of the episode within the trial."""
    step: int
    """Number of steps of this episode so far; 0 at its beginning."""
    total: float
    """Sum of the rewards of this episode so far."""
    last: bool
    """Whether the episode ends here."""


@runtime_checkable
class Drawable(Protocol):
    """An environment that draws itself.

    Two more attributes are optional. ``caption``, a string, says what the pictures show; reports print it below them.
    ``drawn_state(state)`` is traced with each state and returns the part of it, a tree of arrays, that ``draw`` needs
    in ``Frame.state``; without it, frames hold the whole state.
    """

    def draw(self, frames: Sequence[Frame], task: Task) -> Image:
        """Draw the last of the given frames.

        Args:
            frames: all frames of the trial so far, at least one.
            task: the task of the trial.

        Returns:
            An RGB picture. All pictures of a trial have the same size.
        """
        ...


@runtime_checkable
class Recordable(Protocol):
    """An environment that computes pictures in its steps, which takes time, so it does this in recordings only."""

    def recorded(self) -> AutoResetEnvironment:
        """Return the environment that is recorded in place of this one."""
        ...


def of_episode(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames that belong to the episode of the last frame."""
    return frames[len(frames) - 1 - frames[-1].step :]


def blank(width: int = SIZE, height: int = SIZE) -> tuple[Image, ImageDraw]:
    """Return a white picture of this size in pixels, and the canvas that draws on it."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), "white")
    return picture, ImageDraw.Draw(picture)
