"""A run folder, read from Python: its configuration, metrics, evaluations and figures.

Opening a run and reading its metrics imports no JAX. Only folders of version 0.1 need JAX, to migrate their settings.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl_jax.checks import did_you_mean
from metarl_jax.runs import commands, files, metrics, report, run_figures
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.runs.metrics import Line

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_COUNTS = ("iteration", "steps")
_BOOKKEEPING = (*_COUNTS, "wall_s")
"""The columns that have one value an iteration, for any number of seeds."""
_MOST = 2**53
"""A larger number of iterations, steps or seconds is taken for damage."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """The scores of one learner on held-out tasks. A score is NaN where adaptation diverged on a task."""

    name: str
    """The name of the learner."""
    score: float
    """The score that is reported, a mean over tasks and seeds."""
    interval: tuple[float, float]
    """The 95 % interval of ``score``, over tasks."""
    by_stage: np.ndarray
    """``[E]``, the mean score of each adaptation episode, or after each gradient step."""
    interval_by_stage: np.ndarray
    """``[E, 2]``, the 95 % intervals of ``by_stage``."""
    per_seed: np.ndarray
    """``[S]``, the reported score of each seed."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation of a run on held-out tasks. ``print`` and notebooks show its tables."""

    stored: Mapping[str, Any]
    """The content of the file ``evaluation-*.json``."""

    @property
    def iteration(self) -> int:
        """The iteration of the checkpoint that was measured."""
        return self.stored["iteration"]

    @property
    def tasks(self) -> int:
        """The number of held-out tasks."""
        return self.stored["tasks"]

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that differ from those of training, by name."""
        return dict(self.stored["changes"])

    @property
    def ours(self) -> Learner:
        """The trained learner."""
        return _learner(self.stored["ours"])

    @property
    def references(self) -> tuple[Learner, ...]:
        """The reference learners, which were measured on the same tasks."""
        return tuple(map(_learner, self.stored["oracles"]))

    @property
    def published(self) -> dict[str, float]:
        """Published scores, by the name of the learner; empty where none are comparable."""
        return dict(self.stored["paper"])

    @property
    def name(self) -> str:
        """The name of the trained learner."""
        return self.ours.name

    @property
    def score(self) -> float:
        """The score of the trained learner, a mean over tasks and seeds."""
        return self.ours.score

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of ``score``, over tasks."""
        return self.ours.interval

    @property
    def by_stage(self) -> np.ndarray:
        """``[E]``, the trained learner's mean score of each adaptation episode, or after each gradient step."""
        return self.ours.by_stage

    def __repr__(self) -> str:
        low, high = self.interval
        return f"Evaluation({self.name}: {self.score:.4g} ({low:.4g} to {high:.4g}), {self.tasks} held-out tasks)"

    def __str__(self) -> str:
        return report.text(dict(self.stored))

    def _repr_html_(self) -> str:
        return report.html(dict(self.stored))


class Run:
    """A run folder. The run may still be training: metrics and evaluations are read anew where files have changed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a run folder; see ``open``."""
        self._folder = RunFolder(Path(path))
        self._read: tuple[tuple[int, ...], Mapping[str, np.ndarray]] | None = None

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def config(self) -> RunConfig:
        """The configuration of the run: the experiment, the seeds, and every setting by name."""
        return self._folder.config

    @property
    def seeds(self) -> range:
        """The random seeds, in the order of the columns of ``metrics``."""
        return range(self.config.seed, self.config.seed + self.config.seeds)

    @property
    def metrics(self) -> Mapping[str, np.ndarray]:
        """The metrics of every iteration so far, by name.

        ``iteration`` ``[L]``, ``steps`` ``[L]`` (of each seed) and ``wall_s`` ``[L]`` are always there; they are empty
        where the run has not been trained yet. Every other metric is of type float64, ``[L]`` for a run of one seed and
        ``[L, S]`` for S seeds. It is NaN after a seed has diverged, and ``validation_score`` is NaN for an iteration
        without a validation. The arrays are read-only. Lines of the file that are damaged are left out, with a warning.

        Raises:
            UserError: if the file cannot be read.
        """
        path = self._folder.metrics
        try:
            if not files.exists(path):
                return _arrays([], self.config.seeds)
            status = os.lstat(path)
            state = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._read is None or self._read[0] != state:
                lines, damaged = _lines(files.read(path), self.config.seeds)
                if damaged:
                    warnings.warn(f"{damaged} damaged lines of {path} are left out", stacklevel=2)
                self._read = state, _arrays(lines, self.config.seeds)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        return self._read[1]

    def frame(self) -> pandas.DataFrame:
        """The metrics as a pandas data frame.

        Returns:
            A row for each iteration, or for each iteration and seed, with a column ``seed``, if there are several.

        Raises:
            ImportError: if pandas is not installed.
            UserError: if the metrics cannot be read.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Run.frame needs pandas: pip install pandas") from error
        found, number = self.metrics, self.config.seeds
        if number == 1:
            return pandas.DataFrame(dict(found))
        length = len(found["iteration"])
        columns = {
            name: np.repeat(array, number) if array.ndim == 1 else array.ravel() for name, array in found.items()
        }
        seeds = np.tile(np.asarray(self.seeds), length)
        shared = {name: columns.pop(name) for name in _BOOKKEEPING}
        return pandas.DataFrame({**shared, "seed": seeds, **columns})

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations on held-out tasks.

        That of the latest iteration comes first; of these, those without changed settings; of these, that of the most
        tasks. A file that cannot be read is left out, with a warning.
        """
        from metarl_jax.runs import evaluate

        found, wrong = evaluate.read_all(self._folder)
        for error in wrong:
            warnings.warn(f"left out: {error}", stacklevel=2)
        return tuple(Evaluation(stored=MappingProxyType(stored)) for stored in found)

    def plot_learning(self, metric: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw a metric against the steps of a seed: the mean over seeds, with a band from the least to the largest.

        Args:
            metric: its name; None: the score on validation tasks, and that on training tasks where it is comparable.
            ax: where to draw; None: a figure of its own, which a notebook shows.

        Returns:
            The axes.

        Raises:
            ValueError: if there is no such metric.
            UserError: if there are no metrics yet, or this version does not have the experiment.
        """
        found = self.metrics
        if not len(found["iteration"]):
            raise UserError(f"{self.path} has no metrics yet: {commands.command('resume', self.path)}")
        names = sorted(found.keys() - set(_BOOKKEEPING))
        if metric is not None and metric not in names:
            raise ValueError(
                f"the run has no metric {metric!r}{did_you_mean(metric, names)}; it has {', '.join(names)}"
            )
        try:
            experiment = self.config.resolve()
        except ValueError as error:
            raise UserError(f"{self.path} cannot be drawn: {error}") from None
        return run_figures.learning(experiment, found, metric, ax)

    def plot_adaptation(self, evaluation: Evaluation | None = None, ax: Axes | None = None) -> Axes:
        """Draw the score of each adaptation episode, or after each gradient step, with 95 % intervals over tasks.

        Args:
            evaluation: one of ``evaluations``; None: the first one.
            ax: where to draw; None: a figure of its own, which a notebook shows.

        Returns:
            The axes.

        Raises:
            UserError: if the run has not been evaluated yet.
        """
        if evaluation is None:
            found = self.evaluations
            if not found:
                raise UserError(f"{self.path} has not been evaluated: {commands.command('evaluate', self.path)}")
            evaluation = found[0]
        return run_figures.adaptation(dict(evaluation.stored), ax)

    def __repr__(self) -> str:
        config, iterations = self.config, self.metrics["iteration"]
        of = config.settings.get("iterations")
        at = f"iteration {iterations[-1] if len(iterations) else 0}" + (f" of {of}" if isinstance(of, int) else "")
        return f"Run({str(self.path)!r}: {config.experiment}, {config.seeds} seed{'s' * (config.seeds != 1)}, {at})"


def open(path: str | os.PathLike[str]) -> Run:
    """Open a run folder, also one that is still being trained.

    Args:
        path: the folder of a run, or of one cell of a study (``STUDY/cells/NAME``).

    Raises:
        UserError: if it is no run folder that this version can read, or a part of it is a symbolic link.
    """
    return Run(path)


def _learner(stored: Mapping[str, Any]) -> Learner:
    low, high = _numbers(stored["ci95"])
    return Learner(
        name=stored["name"],
        score=float(_numbers([stored["score"]])[0]),
        interval=(float(low), float(high)),
        by_stage=_numbers(stored["score_by_stage"]),
        interval_by_stage=_numbers(stored["ci95_by_stage"]),
        per_seed=_numbers(stored["per_seed"]),
    )


def _numbers(values: Any) -> np.ndarray:
    """Numbers as float64; None becomes NaN."""
    return np.array(values, np.float64)


def _lines(content: bytes, seeds: int) -> tuple[list[Line], int]:
    """The lines that are whole and in order, and the number of the other lines.

    A last line without an end, which a killed process may leave, is not counted.
    """
    found: list[Line] = []
    damaged = 0
    for text in content.split(b"\n")[:-1]:
        try:
            line = metrics.parse(text)
            _check(line, seeds)
        except ValueError:
            damaged += 1
            continue
        if found and line["iteration"] <= found[-1]["iteration"]:
            damaged += 1
        else:
            found.append(line)
    return found, damaged


def _check(line: Line, seeds: int) -> None:
    """Raise ValueError if a line has not the form that training writes."""
    for name in _BOOKKEEPING:
        files.check_shape(line.get(name), int if name in _COUNTS else float, name)
        if line[name] is None or not 0 <= line[name] < _MOST:
            raise ValueError(f"{name} is out of range")
    for name, values in line.items():
        if name not in _BOOKKEEPING:
            files.check_shape(values, [float], name)
            if len(values) != seeds or any(value is not None and abs(value) > 1e300 for value in values):
                raise ValueError(f"{name} has not one number for each seed")


def _arrays(lines: list[Line], seeds: int) -> Mapping[str, np.ndarray]:
    """The columns of a table of lines."""
    found: dict[str, np.ndarray] = {}
    for name in _COUNTS:
        found[name] = np.array([line[name] for line in lines], np.int64)
    found["wall_s"] = np.array([line["wall_s"] for line in lines], np.float64)
    names = dict.fromkeys(name for line in lines for name in line if name not in found)
    missing = [None] * seeds
    for name in names:
        array = _numbers([line.get(name, missing) for line in lines])
        found[name] = array[:, 0] if seeds == 1 else array
    for array in found.values():
        array.setflags(write=False)
    return MappingProxyType(found)
