"""Read a run folder from Python: its configuration, metrics, evaluations and figures.

Opening a run and reading its metrics does not import JAX. Only folders of version 0.1 need JAX, to migrate their
settings.
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
"""The columns that have one value for each iteration, for any number of seeds."""
_MOST = 2**53
"""The largest number of iterations, steps or seconds that is accepted. A line with a larger one counts as damaged."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """The scores of one learner on held-out tasks. A mean score is NaN if adaptation diverged on one of the tasks."""

    name: str
    """The name of the learner."""
    score: float
    """The score that is reported, a mean over tasks and seeds."""
    interval: tuple[float, float]
    """The 95 % interval of ``score``, over tasks."""
    by_stage: np.ndarray
    """The mean score of each adaptation episode, or after each gradient step, ``[E]``."""
    interval_by_stage: np.ndarray
    """The 95 % intervals of ``by_stage``, over tasks, ``[E, 2]``."""
    per_seed: np.ndarray
    """The reported score of each seed, ``[S]``."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation of a run on held-out tasks. ``print`` and notebooks display its tables."""

    stored: Mapping[str, Any]
    """The content of the file ``evaluation-*.json``."""

    @property
    def iteration(self) -> int:
        """The iteration of the checkpoint that was evaluated."""
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
        """The reference learners, which were evaluated on the same tasks."""
        return tuple(map(_learner, self.stored["oracles"]))

    @property
    def published(self) -> dict[str, float]:
        """The published scores, by the name of the learner; empty if no published score is comparable."""
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
        """The trained learner's mean score of each adaptation episode, or after each gradient step, ``[E]``."""
        return self.ours.by_stage

    def __repr__(self) -> str:
        low, high = self.interval
        return f"Evaluation({self.name}: {self.score:.4g} ({low:.4g} to {high:.4g}), {self.tasks} held-out tasks)"

    def __str__(self) -> str:
        return report.text(dict(self.stored))

    def _repr_html_(self) -> str:
        return report.html(dict(self.stored))


class Run:
    """A run folder, opened for reading. The run may still be training: files that have changed are read again."""

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
        """The metrics of the L iterations so far, by name.

        ``iteration`` ``[L]``, ``steps`` ``[L]`` (of each seed) and ``wall_s`` ``[L]`` always exist. They are empty if
        the run has not been trained yet. Every other metric is a float64 array, ``[L]`` for a run of one seed and
        ``[L, S]`` for S seeds. After a seed has diverged, its entries are NaN. ``validation_score`` is NaN for an
        iteration without a validation. The arrays are read-only. Damaged lines of the file are left out, with a
        warning.

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
        """Return the metrics as a pandas data frame.

        Returns:
            A data frame with a row for each iteration. If the run has several seeds, the data frame has a row for each
            iteration and seed, and a column ``seed``.

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

        They are sorted by three criteria: later iterations first, then evaluations without changed settings first, then
        larger numbers of tasks first. A file that cannot be read is left out, with a warning.
        """
        from metarl_jax.runs import evaluate

        found, wrong = evaluate.read_all(self._folder)
        for error in wrong:
            warnings.warn(f"left out: {error}", stacklevel=2)
        return tuple(Evaluation(stored=MappingProxyType(stored)) for stored in found)

    def plot_learning(self, metric: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw a metric against the steps of a seed: the mean over seeds, with a band from the minimum to the maximum.

        Args:
            metric: the name of the metric; None for the score on validation tasks and, if it is comparable, the score
                on training tasks.
            ax: the axes to draw on; None for those of a new figure, which a notebook displays.

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
            evaluation: one of ``evaluations``; None for the first one.
            ax: the axes to draw on; None for those of a new figure, which a notebook displays.

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
    """Open a run folder for reading. The run may still be training.

    Args:
        path: the folder of a run, or of one cell of a study (``STUDY/cells/NAME``).

    Raises:
        UserError: if the path is not a run folder that this version can read, or if a part of it is a symbolic link.

    Example:
        >>> import metarl_jax as mrl
        >>> run = mrl.runs.open("runs/my-run")  # a folder that metarl-jax train has written
        >>> run.metrics["trial_reward"].shape  # iterations
        (6,)
        >>> run.evaluations[0].ours.by_stage.shape  # episodes
        (3,)
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
    """Convert numbers to a float64 array, in which NaN replaces None."""
    return np.array(values, np.float64)


def _lines(content: bytes, seeds: int) -> tuple[list[Line], int]:
    """Return the complete lines that are in order, and the number of all other lines.

    An incomplete last line, which a killed process may leave, is not counted.
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
    """Raise a ValueError if a line does not have the form that training writes."""
    for name in _BOOKKEEPING:
        files.check_shape(line.get(name), int if name in _COUNTS else float, name)
        if line[name] is None or not 0 <= line[name] < _MOST:
            raise ValueError(f"{name} is out of range")
    for name, values in line.items():
        if name not in _BOOKKEEPING:
            files.check_shape(values, [float], name)
            if len(values) != seeds or any(value is not None and abs(value) > 1e300 for value in values):
                raise ValueError(f"{name} does not have one number for each seed")


def _arrays(lines: list[Line], seeds: int) -> Mapping[str, np.ndarray]:
    """Convert lines to columns, by name."""
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
