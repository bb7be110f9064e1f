"""What a report needs from a run folder: checked, since it may be damaged, unfinished, or from someone else."""

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
"""Of a curve; of more iterations, several are averaged."""
BOOKKEEPING = {"iteration", "steps", "wall_s"}
"""What is in every line of ``metrics.jsonl`` beside the metrics."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as far as it can be read."""

    label: str
    config: RunConfig
    experiment: Experiment | None
    """None: this program has none of that name."""
    lines: list[Line]
    evaluations: list[dict[str, Any]]
    """The one to be reported comes first."""
    versions: list[dict[str, str]]
    """What ran it: an entry for each time that this changed."""
    animation: Animation | None
    problems: list[str]
    """What is damaged or missing, in sentences."""

    @property
    def iteration(self) -> int:
        """The last one that metrics tell of."""
        return self.lines[-1]["iteration"] if self.lines else 0

    @property
    def measure(self) -> Measure | None:
        """What is reported; None if nobody knows."""
        if self.evaluations:
            return report.measure_of(self.evaluations[0])
        return self.experiment.measure if self.experiment else None

    @property
    def unit(self) -> str:
        """What a seed's progress is counted in."""
        return self.experiment.unit if self.experiment else "steps"

    @property
    def metrics(self) -> list[str]:
        """The names of all curves."""
        return sorted({name for line in self.lines for name in line} - BOOKKEEPING)

    def curve(self, metric: str, name: str, style: int) -> Series | None:
        """A metric against the steps of a seed: mean, least and largest over seeds; None if it never had a value."""
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
        """How many iterations each point of a training curve is the mean of."""
        return max(1, round(len(self.lines) / MOST_POINTS))


def labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; nothing of a machine that need not be known."""
    whole = [path.resolve() for path in paths]
    for parts in range(1, max(len(path.parts) for path in whole) + 1):
        short = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(short)) == len(short):
            return short
    raise ValueError("a path is there twice")


def _lines(path: Path, problems: list[str]) -> list[Line]:
    """The lines of ``metrics.jsonl`` that are whole."""
    try:
        content = files.read(path) if files.exists(path) else b""
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror}.")
        return []
    found, damaged = [], 0
    # What a killed process left half written at the end is not counted.
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
        problems.append("What ran it is not known: versions.json cannot be read.")
        return []
    if not entries:
        problems.append("What ran it is not known: there is no versions.json.")
    return [{name: str(value) for name, value in entry.items()} for entry in entries]


def _finish(run: Run, folder: RunFolder) -> None:
    """Note what is not as it would be after a run that went to its end."""
    iterations = run.config.settings.get("iterations")
    note = run.problems.append
    if run.experiment is None:
        note(f"This program has no experiment {run.config.experiment}.")
    if not run.lines:
        note("It has not been trained yet: there are no metrics.")
    elif isinstance(iterations, int) and run.iteration < iterations:
        note(f"Training is not finished: it stands at iteration {run.iteration:,} of {iterations:,}.")
    last = run.lines[-1].values() if run.lines else ()
    values = [v for v in last if isinstance(v, list) and len(v) == run.config.seeds]
    for offset, of_seed in enumerate(zip(*values, strict=True)):
        if all(value is None for value in of_seed):
            note(f"Seed {run.config.seed + offset} diverged: it has no numbers at iteration {run.iteration:,}.")
    if not run.evaluations:
        note("It has not been measured on held-out tasks yet (metarl-jax evaluate).")
    elif run.lines and run.evaluations[0]["iteration"] < run.iteration:
        at = run.evaluations[0]["iteration"]
        note(f"It was measured at iteration {at:,}, and trained until {run.iteration:,} since.")


def collect(folder: RunFolder, label: str, animation: Animation | None, problems: Sequence[str]) -> Run:
    """Read a run.

    Args:
        folder: the run.
        label: what to call it.
        animation: of a trial.
        problems: those known already.
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
    """Open runs.

    Raises:
        UserError: if one is none, or is named twice.
    """
    folders = [RunFolder(path) for path in paths]
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path} is the same run as {seen[path.resolve()]}")
        seen[path.resolve()] = path
    return folders
