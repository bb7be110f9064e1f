"""The command ``watch``: show the progress of a run or a study from another terminal.

The progress is read from the metrics that training writes. No lock is taken.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from metarl_jax.runs import files, metrics, progress, study_folder
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.runs.metrics import Line
from metarl_jax.runs.study_folder import StudyFolder

_RATE_LINES = 64
"""The number of the latest iterations over which the speed is measured."""
_MOST = 1e15
"""The largest number of iterations, steps or seconds that is accepted. A line with a larger one counts as damaged."""


class Status(NamedTuple):
    """The progress of a run."""

    text: str
    """The line that describes the progress."""
    finished: bool
    """Whether the run has finished."""


class Follower:
    """A reader of the new lines of a run's metrics."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """Begin to follow a run.

        Args:
            folder: the folder of the run, which need not exist yet.
            config: the configuration of the run.

        Raises:
            UserError: if the configuration does not say how many iterations there are.
        """
        self._path = folder / "metrics.jsonl"
        total = config.settings.get("iterations")
        if not isinstance(total, int) or not 0 < total < _MOST:
            raise UserError(f"the configuration of {folder} does not say how many iterations there are")
        self._total = total
        self._seeds = config.seeds
        self._experiment = config.resolve()
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self._recent: deque[Line] = deque(maxlen=_RATE_LINES)
        self._validation: float | None = None

    def _read(self) -> float:
        """Read the complete new lines, and return the time in seconds since the file was last written."""
        with files.open_regular(self._path) as file:
            status = os.fstat(file.fileno())
            if status.st_size < self._offset or not self._take(file):
                # A resumed run has removed lines, and writes them again.
                self._forget()
                self._take(file)
        return max(0.0, time.time() - status.st_mtime)

    def _take(self, file: IO[bytes]) -> bool:
        """Read the lines that follow, and leave out lines that cannot be read.

        Returns:
            Whether the new lines continue the lines that were read before. At the start of the file, always True.
        """
        file.seek(self._offset)
        new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        for text in whole.splitlines():
            line = _line(text)
            if self._offset and (line is None or line["iteration"] != self._recent[-1]["iteration"] + 1):
                return False
            if line is None:
                continue
            if validation := _numbers(line.get("validation_score")):
                self._validation = float(np.mean(validation))
            self._recent.append(line)
        self._offset = self._offset + len(whole) if self._recent else 0
        return True

    def status(self) -> Status:
        """Return the current progress of the run."""
        try:
            age_s = self._read()
        except OSError:
            age_s = 0.0
        if not self._recent:
            return Status("nothing written yet", False)
        first, last = self._recent[0], self._recent[-1]
        iteration = last["iteration"]
        seconds = last["wall_s"] - first["wall_s"]
        rate = (iteration - first["iteration"]) / seconds if seconds > 0 else 0.0
        unit_rate = rate * last["steps"] / iteration * self._seeds
        measure = self._experiment.measure
        scores = _numbers(last.get(measure.training_metric), partly=True)
        score = float(np.mean(scores)) if scores else float("nan")
        if iteration >= self._total:
            validation = "" if self._validation is None else f", validation {self._validation:.3f}"
            text = f"iteration {iteration}/{self._total}, finished, {measure.progress_title} {score:.3f}{validation}"
            return Status(text, True)
        text = progress.line(
            iteration,
            self._total,
            unit_rate,
            self._experiment.unit,
            rate,
            measure.progress_title,
            score,
            self._validation,
        )
        return Status(f"{text}; written {progress.duration(age_s)} ago", False)


def _line(text: bytes) -> Line | None:
    """Parse a line of metrics; return None if it is damaged."""
    try:
        line = metrics.parse(text)
    except ValueError:
        return None
    numbers = _numbers([line.get(name) for name in ("iteration", "steps", "wall_s")])
    return line if numbers and max(numbers) < _MOST else None


def _numbers(values: object, partly: bool = False) -> list[float]:
    """Return a list of finite numbers as floats; an empty list if ``values`` is anything else.

    Args:
        values: the content of a line.
        partly: whether to leave out the entries that are not finite numbers, instead of returning an empty list.
    """
    if not isinstance(values, list):
        return []
    found = [float(v) for v in values if isinstance(v, int | float) and abs(v) < 1e300]
    return found if partly or len(found) == len(values) else []


def folder(path: Path) -> RunFolder | StudyFolder:
    """Open the run or the study in a folder.

    Raises:
        UserError: if the folder holds neither.
    """
    return StudyFolder(path) if os.path.lexists(path / study_folder.CONFIG) else RunFolder(path)


def followers(found: RunFolder | StudyFolder) -> dict[str, Follower]:
    """Return one follower for a run, or one for each cell of a study, by name.

    Raises:
        UserError: if the configuration does not say how many iterations there are.
    """
    if isinstance(found, RunFolder):
        return {"": Follower(found.path, found.config)}
    return {cell.name: Follower(found.cell(cell), cell.config) for cell in found.cells}


def say(some: dict[str, Follower], write: Callable[[str], object]) -> bool:
    """Write the progress of all runs in one text, and return whether all of them have finished."""
    now = {name: follower.status() for name, follower in some.items()}
    write("\n".join(f"{name}: {status.text}" if name else status.text for name, status in now.items()))
    return all(status.finished for status in now.values())
