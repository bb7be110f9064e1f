"""The animation in a report, and the last picture of each episode.

The animation is a video that ``metarl-jax record`` wrote, or a trial that is played for the report.
"""

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
"""The largest size of a video in a report. Pictures are left out of a larger one."""
MOST_BYTES_READ = 100_000_000
"""The size of the largest video file that is read."""
MOST_PIXELS = 100_000_000
"""The largest number of pixels of all pictures of a video together. A video from a stranger may have any size."""
MOST_STILLS = 8
"""The largest number of episodes whose last picture is shown."""


class Animation(NamedTuple):
    """The animation of a trial on a held-out task."""

    iteration: int
    """The iteration of the checkpoint that played the trial."""
    video: bytes
    """The video as a GIF."""
    size: tuple[int, int]
    """The width and the height in pixels."""
    stills: list[bytes]
    """The last picture of each episode, as PNG."""
    caption: str
    """The caption, which describes the pictures."""


def recorded(folder: RunFolder) -> tuple[int, Path] | None:
    """Return the iteration and the path of the newest video in a run folder; None if there is no video."""
    found = []
    for path in folder.path.glob("trial-iteration*-seed*.gif"):
        if match := re.fullmatch(r"trial-iteration(\d{1,9})-seed(\d{1,10})\.gif", path.name):
            found.append((int(match[1]), -int(match[2]), path))
    return (max(found)[0], max(found)[2]) if found else None


def _thinned(frames: list[tuple[Image.Image, int]], every: int) -> bytes:
    """Make a GIF of every ``every``-th picture and the last picture of each episode. Its duration is unchanged."""
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
    """Check a video, reduce its size for a page, and extract the last picture of each episode.

    Args:
        iteration: the iteration of the checkpoint that played the trial.
        video: the video as a GIF.
        caption: the caption of the animation.

    Raises:
        ValueError: if the video is not a complete GIF, or its pictures are too large.
    """
    try:
        with Image.open(io.BytesIO(video), formats=("GIF",)) as opened:
            if opened.width * opened.height * getattr(opened, "n_frames", 1) > MOST_PIXELS:
                raise ValueError("its pictures are too large")
            pictures = ImageSequence.Iterator(opened)
            frames = [(frame.convert("RGB"), int(frame.info.get("duration", 0))) for frame in pictures]
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError("it is not a complete GIF") from error
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
    """Return the animation of a run, if its tasks can be drawn, and the problems that prevented one.

    Args:
        folder: the run.
        play: whether to play a trial if there is no video of the newest checkpoint.
        keep: whether to store the video of that trial in the run folder.

    Returns:
        The animation, or None; and the problems as sentences for the report.
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
        return None, problems or ["There is no animation of the run yet (metarl-jax record)."]
    iteration, path = found
    try:
        return animation(iteration, files.read(path, MOST_BYTES_READ), caption), problems
    except OSError as error:
        return None, [*problems, f"{path.name} cannot be shown: {error.strerror or error}."]
    except ValueError as error:
        return None, [*problems, f"{path.name} cannot be shown: {error}."]
