"""Pictures of one step of a trial: drawn by the family or the environment, or charts of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl_jax.environments.drawing import SIZE, Drawable, Frame, blank
from metarl_jax.runs.errors import UserError
from metarl_jax.types import Box, Discrete, EnvFamily, Space, Task

Draw: TypeAlias = Callable[[Sequence[Frame]], Image.Image]
"""A function from the frames of a trial so far to a picture of the last frame."""

SHORTEST = 5
"""The shortest mean length of episodes, in moments, between which lines are drawn."""
FEWEST, MOST = 20, 120
"""The smallest and the largest number of moments on the horizontal axis of a chart."""
MOST_DOTS = 60
"""The largest number of moments that are drawn as dots on a line."""
MOST_LINES = 6
"""The largest number of components that are drawn as lines. More components are drawn as rows of colours."""
LINES = ("royalblue", "darkorange", "seagreen", "purple", "crimson", "dimgray")
"""The colours of lines."""
TITLE, MARGIN = 28.0, 8.0
"""The heights in pixels of the title above a chart, and of the empty space below it."""


def _enlarged(picture: Image.Image) -> Image.Image:
    """Enlarge a picture by a whole number, so that it is at least ``SIZE`` pixels wide."""
    factor = math.ceil(SIZE / picture.width)
    size = picture.width * factor, picture.height * factor
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _seen(space: Box) -> Draw:
    """Return a function that draws the observed image."""
    low, high = (np.asarray(bound, np.float32) for bound in (space.low, space.high))

    def draw(frames: Sequence[Frame]) -> Image.Image:
        image = np.round(255 * (frames[-1].observation.astype(np.float32) - low) / (high - low)).astype(np.uint8)
        return _enlarged(Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]))

    return draw


def _rendered(render: Callable[[Any, Task], Any], task: Task) -> Draw:
    """Return a function that draws by ``EnvFamily.render``."""

    def draw(frames: Sequence[Frame]) -> Image.Image:
        picture = np.asarray(render(frames[-1].state, task))
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise UserError(
                "render of the family must return an array of uint8 and of the shape [H, W, 3], not one of "
                f"{picture.dtype} and of the shape {[*picture.shape]}"
            )
        return _enlarged(Image.fromarray(picture))

    return draw


class _Chart(NamedTuple):
    """A chart over the moments of a trial."""

    picture: Image.Image
    canvas: ImageDraw.ImageDraw
    top: float
    """The upper edge in pixels."""
    bottom: float
    """The lower edge in pixels."""
    width: float
    """The width of a moment in pixels."""

    def lines(self, values: np.ndarray, low: float, high: float) -> None:
        """Draw components ``[T, n]`` as lines; NaN where there is no value."""
        scale = (self.bottom - self.top) / max(high - low, 1e-9)
        for component, column in enumerate(values.T):
            before, colour = None, LINES[component % len(LINES)]
            for at, value in enumerate(column):
                here = None if np.isnan(value) else ((at + 0.5) * self.width, self.bottom - (value - low) * scale)
                if here and len(values) <= MOST_DOTS:
                    self.canvas.ellipse((here[0] - 3, here[1] - 3, here[0] + 3, here[1] + 3), fill=colour)
                if here and before:
                    self.canvas.line((*before, *here), fill=colour, width=3)
                before = here

    def rows(self, values: np.ndarray, most: float) -> None:
        """Draw components ``[T, n]`` as rows of colours: orange above zero, blue below; NaN where there is no value."""
        strength = np.minimum(np.nan_to_num(np.abs(values)) / most, 1.0).T[..., None]
        full = np.where(values.T[..., None] > 0, (230, 110, 0), (30, 80, 200))
        colours = Image.fromarray((255 + (full - 255) * strength).astype(np.uint8))
        size = round(len(values) * self.width), round(self.bottom - self.top)
        self.picture.paste(colours.resize(size, Image.Resampling.NEAREST), (0, round(self.top)))

    def choices(self, values: np.ndarray, number: int) -> None:
        """Draw one of several choices at each moment, ``[T]``, the first one at the top; NaN where there is none."""
        height = (self.bottom - self.top) / number
        for at, value in enumerate(values):
            if not np.isnan(value):
                x, y = at * self.width, self.top + value * height
                self.canvas.rectangle((x, y, x + self.width - 1, y + max(2.0, height - 1)), fill="royalblue")

    def bars(self, values: np.ndarray, low: float, high: float) -> None:
        """Draw numbers ``[T]`` as bars from zero; NaN where there is no value."""
        scale = (self.bottom - self.top) / max(high - low, 1e-9)
        zero = self.bottom + low * scale
        self.canvas.line((0, zero, SIZE, zero), fill="silver", width=2)
        for at, value in enumerate(values):
            if not np.isnan(value):
                first, last = sorted((zero, zero - value * scale))
                self.canvas.rectangle((at * self.width + 1, first, (at + 1) * self.width - 1, last), fill="green")


def _column(space: Space, value: np.ndarray | None) -> np.ndarray:
    """Return a value of a space as numbers ``[n]``; NaN where there is no finite number."""
    size = 1 if isinstance(space, Discrete) else math.prod(space.shape)
    numbers = np.full(size, np.nan) if value is None else np.ravel(value).astype(float)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _rewards(frames: Sequence[Frame]) -> np.ndarray:
    """Return the reward of the step to each frame, ``[T]``; NaN at the beginning of an episode."""
    totals = np.array([frame.total for frame in frames])
    started = np.array([frame.step == 0 for frame in frames])
    return np.where(started, np.nan, np.diff(totals, prepend=0.0))


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest of the values that are finite; 0 and 0 if there are none."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)


def _charts(observation: Space, action: Space) -> Draw:
    """Return a function that draws the observation, the action and the reward over the steps of the trial."""
    font = ImageFont.load_default(size=16)
    third = SIZE / 3

    def draw(frames: Sequence[Frame]) -> Image.Image:
        picture, canvas = blank()
        shown = frames[-MOST:]
        width = SIZE / max(FEWEST, len(shown))
        values = [frame.observation for frame in frames], [frame.action for frame in frames]
        words = []
        for place, (name, space) in enumerate((("observation", observation), ("action", action))):
            chart = _Chart(picture, canvas, place * third + TITLE, (place + 1) * third - MARGIN, width)
            table = np.stack([_column(space, value) for value in values[place]])
            recent, (low, high) = table[-MOST:], _range(table)
            if isinstance(space, Discrete):
                now = "none" if np.isnan(recent[-1, 0]) else f"{recent[-1, 0]:.0f}"
                words.append(f"{name}: {now} (from the top: 0 to {space.n - 1})")
                chart.choices(recent[:, 0], int(space.n))
            elif not recent.shape[1]:
                words.append(f"{name}: it has no numbers")
            else:
                number = recent.shape[1]
                words.append(f"{name}: {number} number{'s' * (number > 1)} between {low:.3g} and {high:.3g}")
                if number <= MOST_LINES:
                    chart.lines(recent, low, high)
                else:
                    chart.rows(recent, max(-low, high, 1e-9))
        rewards = _rewards(frames)
        low, high = _range(np.append(rewards, 0.0))
        _Chart(picture, canvas, 2 * third + TITLE, SIZE - MARGIN, width).bars(rewards[-MOST:], low, high)
        words.append(f"reward of a step: {low:.3g} to {high:.3g}; of this episode: {frames[-1].total:.3g}")
        begins = [at for at, frame in enumerate(shown) if frame.step == 0 and at]
        if len(begins) * SHORTEST <= len(shown):
            for at in begins:
                canvas.line((at * width, TITLE, at * width, SIZE), fill="silver", width=2)
        for place, text in enumerate(words):
            canvas.text((6, place * third + 4), text, fill="black", font=font)
            canvas.line((0, place * third, SIZE, place * third), fill="black")
        return picture

    return draw


def scene(family: EnvFamily, task: Task) -> Draw:
    """Return a function that draws trials on a task. The pictures are at least ``SIZE`` pixels wide.

    A family with a function ``render`` is drawn by it, and an environment with a method ``draw`` draws itself
    (``environments.drawing.Drawable``). For any other environment, the picture is the observation if that is an image.
    Otherwise, it has charts of the observation, the action and the reward.
    """
    env, space = family.env, family.observation_space
    if family.render is not None:
        return _rendered(family.render, task)
    if isinstance(env, Drawable):
        return lambda frames: _enlarged(env.draw(frames, task))
    if isinstance(space, Box) and len(space.shape) == 3:
        return _seen(space)
    return _charts(space, family.action_space)


def described(family: EnvFamily) -> str:
    """Return a caption of one or more sentences for the pictures that ``scene`` draws."""
    space = family.observation_space
    if family.render is not None:
        return "The trial, as its family draws it."
    if isinstance(family.env, Drawable):
        return str(getattr(family.env, "caption", "The trial, as its environment draws it."))
    if isinstance(space, Box) and len(space.shape) == 3:
        return "The observation of the agent."
    return (
        "From top to bottom: the observation of the agent, its action, and the reward, over the steps of the trial. "
        "Vertical lines separate episodes. A number is a line, or a row that is orange above zero and blue below."
    )
