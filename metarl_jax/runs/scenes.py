"""Pictures of one step of a trial: drawn by the environment, or made from observation, action and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from metarl_jax.environments.drawing import SIZE, Drawable, Frame, blank
from metarl_jax.types import Box, Discrete, EnvFamily, Space, Task

SCALE = 8
"""The factor by which each side of an observed image is enlarged in the video."""

Draw: TypeAlias = Callable[[Sequence[Frame]], Image.Image]
"""A function from the frames of a trial so far to a picture of the last frame."""


def _seen(space: Box) -> Draw:
    """Return a function that draws the observed image."""
    low, high = (np.asarray(bound, np.float32) for bound in (space.low, space.high))

    def draw(frames: Sequence[Frame]) -> Image.Image:
        image = np.round(255 * (frames[-1].observation.astype(np.float32) - low) / (high - low)).astype(np.uint8)
        image = image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).convert("RGB")

    return draw


def _numbers(observation: Space, action: Space) -> Draw:
    """Return a function that draws bars for the observation, the action, and the return of each episode so far."""
    height = SIZE // 3

    def row(canvas: ImageDraw.ImageDraw, top: float, values: np.ndarray, most: float, colour: str) -> None:
        """Draw values as bars above and below a middle line. The row's height corresponds to ``most``."""
        middle, width = top + height / 2, SIZE / max(1, len(values))
        canvas.line((0, middle, SIZE, middle), fill="silver")
        for at, value in enumerate(values):
            ends = sorted((middle, middle - float(np.clip(value / most, -1, 1)) * (height / 2 - 4)))
            canvas.rectangle((at * width + 1, ends[0], max(at * width + 1, (at + 1) * width - 2), ends[1]), colour)

    def shown(space: Space, value: np.ndarray) -> np.ndarray:
        return np.eye(space.n)[int(value)] if isinstance(space, Discrete) else np.ravel(value).astype(float)

    def draw(frames: Sequence[Frame]) -> Image.Image:
        picture, canvas = blank()
        seen = np.array([shown(observation, frame.observation) for frame in frames])
        row(canvas, 0, seen[-1], max(1.0, float(np.abs(seen).max(initial=0.0))), "royalblue")
        if (done := frames[-1].action) is not None:
            row(canvas, height, shown(action, done), 1.0, "navy")
        paid = {frame.episode: frame.total for frame in frames}
        row(canvas, 2 * height, np.array(list(paid.values())), max(1e-9, *map(abs, paid.values()), 0.0), "green")
        return picture

    return draw


def scene(family: EnvFamily, task: Task) -> Draw:
    """Return a function that draws trials on a task.

    An environment with a method ``draw`` draws itself (``environments.drawing.Drawable``). For any other environment,
    the picture shows the observation if it is an image, and otherwise bars of numbers.
    """
    env, space = family.env, family.observation_space
    if isinstance(env, Drawable):
        return lambda frames: env.draw(frames, task)
    if isinstance(space, Box) and len(space.shape) == 3:
        return _seen(space)
    return _numbers(space, family.action_space)


def described(family: EnvFamily) -> str:
    """Return a caption of one or more sentences for the pictures that ``scene`` draws."""
    space = family.observation_space
    if isinstance(family.env, Drawable):
        return str(getattr(family.env, "caption", "The trial, as its environment draws it."))
    if isinstance(space, Box) and len(space.shape) == 3:
        return "The observation of the agent."
    return "From top to bottom: the observation of the agent, its action, and the return of each episode so far."
