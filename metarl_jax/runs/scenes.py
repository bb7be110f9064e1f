"""Pictures of one moment of a trial: drawn by the environment, or else made of its observation, action and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from metarl_jax.environments.drawing import SIZE, Drawable, Frame, blank
from metarl_jax.types import Box, Discrete, EnvFamily, Space, Task

SCALE = 8
"""Pixels of the video along each side of a pixel of an observed image."""

Draw: TypeAlias = Callable[[Sequence[Frame]], Image.Image]
"""``frames of a trial so far -> picture of the last one``."""


def _seen(space: Box) -> Draw:
    """The observed image."""
    low, high = (np.asarray(bound, np.float32) for bound in (space.low, space.high))

    def draw(frames: Sequence[Frame]) -> Image.Image:
        image = np.round(255 * (frames[-1].observation.astype(np.float32) - low) / (high - low)).astype(np.uint8)
        image = image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).convert("RGB")

    return draw


def _numbers(observation: Space, action: Space) -> Draw:
    """Bars for the observation, the action, and the return of each episode so far."""
    height = SIZE // 3

    def row(canvas: ImageDraw.ImageDraw, top: float, values: np.ndarray, most: float, colour: str) -> None:
        """Columns up and down from a middle line, the largest of them ``most``."""
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
    """A function that draws trials on a task.

    An environment with a method ``draw`` draws itself (``environments.drawing.Drawable``). Of others, images are shown
    if their observations are images, and bars of numbers if not.
    """
    env, space = family.env, family.observation_space
    if isinstance(env, Drawable):
        return lambda frames: env.draw(frames, task)
    if isinstance(space, Box) and len(space.shape) == 3:
        return _seen(space)
    return _numbers(space, family.action_space)


def described(family: EnvFamily) -> str:
    """A sentence or more on what the pictures that ``scene`` draws show."""
    space = family.observation_space
    if isinstance(family.env, Drawable):
        return str(getattr(family.env, "caption", "The trial, as its environment draws it."))
    if isinstance(space, Box) and len(space.shape) == 3:
        return "What the agent sees."
    return "From top to bottom: what the agent sees, what it did, and what each episode has paid so far."
