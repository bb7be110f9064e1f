"""The animation in a report: a video that ``record`` wrote, or a trial played for it, and how each episode ended."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageSequence

from metarl_jax.runs import checkpoints, files, record, scenes
from metarl_jax.runs.errors import StorageError, UserError
from metarl_jax.runs.folder import RunFolder

MOST_BYTES = 3_000_000
"""Of a video in a report; of a larger one, pictures are left out."""
MOST_BYTES_READ = 100_000_000
MOST_PIXELS = 100_000_000
"""Of all pictures together: what comes from elsewhere may be anything."""
MOST_STILLS = 8


class Animation(NamedTuple):
    """A trial on a held-out task."""

    iteration: int
    """After which it was played."""
    video: bytes
    """A GIF."""
    size: tuple[int, int]
    """Width and height in pixels."""
    stills: list[bytes]
    """The last picture of each episode, as PNG."""
    caption: str


def recorded(folder: RunFolder) -> tuple[int, Path] | None:
    """The newest video in a run folder, after the iteration it is of."""
    found = []
    for path in folder.path.glob("trial-iteration*-seed*.gif"):
        if match := re.fullmatch(r"trial-iteration(\d{1,9})-seed(\d{1,10})\.gif", path.name):
            found.append((int(match[1]), -int(match[2]), path))
    return (max(found)[0], max(found)[2]) if found else None


def _thinned(frames: list[tuple[Image.Image, int]], every: int) -> bytes:
    """A GIF of every so manieth picture and those that end episodes, as long as that of all."""
    kept: list[tuple[Image.Image, int]] = []
    for at, (picture, duration) in enumerate(frames):
        if kept and at % every and duration < record.LAST_MILLISECONDS:
            kept[-1] = kept[-1][0], kept[-1][1] + duration
        else:
            kept.append((picture, duration))
    buffer = io.BytesIO()
    first, *others = (picture for picture, _ in kept)
    durations = [duration for _, duration in kept]
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return buffer.getvalue()


def animation(iteration: int, video: bytes, caption: str) -> Animation:
    """Make a video fit for a page.

    Raises:
        ValueError: if it is no whole GIF, or its pictures are too large.
    """
    try:
        with Image.open(io.BytesIO(video), formats=("GIF",)) as opened:
            if opened.width * opened.height * getattr(opened, "n_frames", 1) > MOST_PIXELS:
                raise ValueError("its pictures are too large")
            pictures = ImageSequence.Iterator(opened)
            frames = [(frame.convert("RGB"), int(frame.info.get("duration", 0))) for frame in pictures]
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError("it is no whole GIF") from error
    stills = []
    for picture, duration in frames:
        if duration >= record.LAST_MILLISECONDS and len(stills) < MOST_STILLS:
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", optimize=True)
            stills.append(buffer.getvalue())
    every = 1
    while len(video) > MOST_BYTES and every < len(frames):
        every *= 2
        video = _thinned(frames, every)
    if len(video) > MOST_BYTES:
        raise ValueError("it is too large")
    return Animation(iteration, video, frames[0][0].size, stills, caption)


def of_run(folder: RunFolder, *, play: bool, keep: bool) -> tuple[Animation | None, list[str]]:
    """The animation of a run, where its tasks can be drawn; and what stood in the way of one.

    Args:
        folder: the run.
        play: whether to play a trial if there is no video of the newest checkpoint.
        keep: whether to keep the video of that in the run's folder.
    """
    saved = checkpoints.paths(folder.checkpoints)
    found, problems = recorded(folder), []
    try:
        folder.config.resolve()
    except ValueError:
        return None, []
    try:
        if (family := record.environment(folder.config)) is None:
            return None, []
        caption = scenes.described(family)
        if play and saved and (found is None or found[0] < checkpoints.iteration_of(saved[0])):
            video = record.render(folder, 0)
            if keep:
                record.save(folder, video, 0)
            return animation(video.iteration, video.content, caption), []
    except (UserError, StorageError, ImportError, ValueError) as error:
        problems.append(f"No trial could be played for an animation: {' '.join(str(error).split())}.")
        caption = ""
    if found is None:
        return None, problems or ["There is no animation of it yet (metarl-jax record)."]
    iteration, path = found
    try:
        return animation(iteration, files.read(path, MOST_BYTES_READ), caption), problems
    except OSError as error:
        return None, [*problems, f"{path.name} cannot be shown: {error.strerror or error}."]
    except ValueError as error:
        return None, [*problems, f"{path.name} cannot be shown: {error}."]
