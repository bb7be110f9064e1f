"""Read and check the data of a run for a report. The run may be damaged, unfinished, or from a stranger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.experiments.base import Experiment, Measure
from metarl_jax.reports.animation import Animation
from metarl_jax.reports.figures import Series, drawable
from metarl_jax.runs import evaluate, files, metrics, report
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.runs.metrics import Line

MOST_POINTS = 120
"""The largest number of points of a curve. With more iterations, each point is the mean of several iterations."""
BOOKKEEPING = {"iteration", "steps", "wall_s"}
"""The entries of every line of ``metrics.jsonl`` that are not metrics."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The data of a run that can be read."""

    label: str
    """The name of the run in the report."""
    config: RunConfig
    """The configuration of the run."""
    experiment: Experiment | None
    """The experiment of the run; None if this program has no experiment of that name."""
    lines: list[Line]
    """The lines of metrics that can be read."""
    evaluations: list[dict[str, Any]]
    """The evaluations. The first one is reported as the result."""
    versions: list[dict[str, str]]
    """The software and hardware that trained the run, with one entry for each change of them."""
    animation: Animation | None
    """The animation of a trial; None if there is no animation."""
    problems: list[str]
    """The parts that are damaged or missing, as sentences for the report."""

    @property
    def title(self) -> str:
        """The description of the experiment; its name if this program does not have it."""
        description = self.experiment.description.rstrip(".") if self.experiment else ""
        return description[:1].upper() + description[1:] if description else self.config.experiment

    def published(self, evaluation: dict[str, Any]) -> tuple[str, float] | None:
        """Return the published score of the same method.

        Args:
            evaluation: an evaluation of the run.

        Returns:
            The name of the published learner and its score; None if no comparable score of the same method is known.
        """
        name = self.experiment.same_method if self.experiment else None
        if name is None:
            return None
        value = evaluation["paper"].get(name)
        if value is None and not report.measure_of(evaluation).total:
            last = report.stages(evaluation)[-1]
            value = evaluation["paper_by_stage"].get(name, {}).get(str(last))
        value = drawable(value)
        return None if value is None else (name, value)

    @property
    def iteration(self) -> int:
        """The last iteration that has metrics; 0 if there are no metrics."""
        return self.lines[-1]["iteration"] if self.lines else 0

    @property
    def measure(self) -> Measure | None:
        """The measure that is reported; None if it is not known."""
        if self.evaluations:
            return report.measure_of(self.evaluations[0])
        return self.experiment.measure if self.experiment else None

    @property
    def unit(self) -> str:
        """The unit of a seed's steps."""
        return self.experiment.unit if self.experiment else "steps"

    @property
    def metrics(self) -> list[str]:
        """The names of all curves."""
        return sorted({name for line in self.lines for name in line} - BOOKKEEPING)

    def curve(self, metric: str, name: str, style: int) -> Series | None:
        """Return the curve of a metric against the steps of a seed: mean, minimum and maximum over seeds.

        Args:
            metric: the name of the metric in the lines.
            name: the name of the curve.
            style: the style of the curve.

        Returns:
            The curve; None if the metric has no value.
        """
        seeds = self.config.seeds
        table = [
            (line["steps"], [np.nan if (value := drawable(v)) is None else value for v in line[metric]])
            for line in self.lines
            if isinstance(line.get(metric), list) and len(line[metric]) == seeds
        ]
        if not table:
            return None
        pieces = np.array_split(np.arange(len(table)), min(len(table), MOST_POINTS))
        values = np.array([row for _, row in table], np.float64)
        x: list[float] = []
        mean: list[float | None] = []
        low: list[float | None] = []
        high: list[float | None] = []
        for piece in pieces:
            x.append(float(np.mean([table[i][0] for i in piece])))
            known = ~np.isnan(values[piece])
            alive = known.any(axis=0)
            each = np.where(known, values[piece], 0.0).sum(axis=0)[alive] / known.sum(axis=0)[alive]
            mean.append(float(each.mean()) if each.size else None)
            low.append(float(each.min()) if each.size else None)
            high.append(float(each.max()) if each.size else None)
        if all(value is None for value in mean):
            return None
        return Series(name, x, mean, style, low if seeds > 1 else (), high if seeds > 1 else ())

    def averaged(self) -> int:
        """Return the number of iterations that each point of a training curve is the mean of."""
        return max(1, round(len(self.lines) / MOST_POINTS))


def labels(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that are different from each other.

    The beginnings of the paths are left out, so that a report reveals little about the machine.
    """
    whole = [path.resolve() for path in paths]
    for parts in range(1, max(len(path.parts) for path in whole) + 1):
        short = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(short)) == len(short):
            return short
    raise ValueError("a path occurs twice")


def _lines(path: Path, problems: list[str]) -> list[Line]:
    """Return the complete lines of ``metrics.jsonl``."""
    try:
        content = files.read(path) if files.exists(path) else b""
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror}.")
        return []
    found, damaged = [], 0
    # An incomplete last line, which a killed process may leave, is not counted.
    for text in content.split(b"\n")[:-1]:
        try:
            line = metrics.parse(text)
            if drawable(line["steps"]) is not None:
                found.append(line)
                continue
        except (ValueError, KeyError):
            pass
        damaged += 1
    if damaged:
        problems.append(f"{damaged} of the lines of metrics.jsonl cannot be read, and are left out.")
    return found


def _versions(folder: RunFolder, problems: list[str]) -> list[dict[str, str]]:
    try:
        entries = folder.versions()
    except UserError:
        problems.append("The software and hardware of the run are not known: versions.json cannot be read.")
        return []
    if not entries:
        problems.append("The software and hardware of the run are not known: there is no versions.json.")
    return [{name: str(value) for name, value in entry.items()} for entry in entries]


def _finish(run: Run, folder: RunFolder) -> None:
    """Add problems for everything that is missing from a finished run."""
    iterations = run.config.settings.get("iterations")
    note = run.problems.append
    if run.experiment is None:
        note(f"This program has no experiment {run.config.experiment}.")
    if not run.lines:
        note("The run has not been trained yet: there are no metrics.")
    elif isinstance(iterations, int) and run.iteration < iterations:
        note(f"Training is not finished: it has reached iteration {run.iteration:,} of {iterations:,}.")
    last = run.lines[-1].values() if run.lines else ()
    values = [v for v in last if isinstance(v, list) and len(v) == run.config.seeds]
    for offset, of_seed in enumerate(zip(*values, strict=True)):
        if all(value is None for value in of_seed):
            note(f"Seed {run.config.seed + offset} diverged: it has no numbers at iteration {run.iteration:,}.")
    if not run.evaluations:
        note("The run has not been evaluated on held-out tasks yet (metarl-jax evaluate).")
    elif run.lines and run.evaluations[0]["iteration"] < run.iteration:
        at = run.evaluations[0]["iteration"]
        note(f"The run was evaluated at iteration {at:,}, and then trained until iteration {run.iteration:,}.")


def collect(folder: RunFolder, label: str, animation: Animation | None, problems: Sequence[str]) -> Run:
    """Read the data of a run for a report.

    Args:
        folder: the run.
        label: the name of the run in the report.
        animation: the animation of a trial; None if there is none.
        problems: the problems that are already known.
    """
    problems = list(problems)
    evaluations, wrong = evaluate.read_all(folder)
    problems += [f"{error}.".replace(f"{folder.path}/", "") for error in wrong]
    try:
        experiment = folder.config.resolve()
    except ValueError:
        experiment = None
    run = Run(
        label=label,
        config=folder.config,
        experiment=experiment,
        lines=_lines(folder.metrics, problems),
        evaluations=evaluations,
        versions=_versions(folder, problems),
        animation=animation,
        problems=problems,
    )
    _finish(run, folder)
    return run


def unique(paths: Sequence[Path]) -> list[RunFolder]:
    """Open run folders, each of which may occur only once.

    Raises:
        UserError: if a path is not a run folder, or if a run is named twice.
    """
    folders = [RunFolder(path) for path in paths]
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path} is the same run as {seen[path.resolve()]}")
        seen[path.resolve()] = path
    return folders
