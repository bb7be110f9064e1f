"""The command ``study``: compare one experiment under several settings, with several seeds each.

Each combination of settings is a *cell*. Cells are ranked and compared by their scores on validation tasks. Their
scores on held-out tasks are reported, and nothing is selected by them. Therefore the held-out score of the cell that
ranks first has no selection bias.

If cells differ only in numbers that a program can take as arguments, one program trains them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.evaluation import Split, meta_test
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.ops.statistics import interquartile_mean, probability_of_improvement, stratified_bootstrap
from metarl_jax.runs import commands, evaluate, hosts, programs, report, train
from metarl_jax.runs import study_figures as figures
from metarl_jax.runs.errors import UserError, storing
from metarl_jax.runs.files import check_shape, exists, finite, read_json, read_shaped, write_atomically, write_json
from metarl_jax.runs.folder import RunFolder, created, lock
from metarl_jax.runs.study_folder import CONFIG, StudyConfig, StudyFolder, Variant, cells
from metarl_jax.types import Array, Key, RunState

SCHEMA = 2
"""The schema of ``table.json``. In schema 1, cells were ranked by their scores on held-out tasks."""
TITLES: dict[Split, str] = {"validation": "validation", "heldout": "held-out"}
"""The splits of tasks that cells are evaluated on, and their names in tables."""


def new_study(path: Path, config: StudyConfig, *, numbered: bool = False) -> StudyFolder:
    """Create a study folder, which gets its final name only when it is complete.

    Args:
        path: the path of the new folder.
        config: the configuration of the study.
        numbered: whether the folder may get the name ``NAME-2``, ``NAME-3`` and so on if ``NAME`` exists.

    Raises:
        UserError: if a setting of any cell is out of range, if two cells are the same, or if the folder exists.
        StorageError: if the folder cannot be written.
    """
    try:
        found = cells(config)
    except ValueError as error:
        raise UserError(str(error)) from None
    for name, values in config.vary.items():
        if len({repr(value) for value in values}) < len(values):
            raise UserError(f"--vary {name} names a value twice: {', '.join(map(str, values))}")
    for cell in found:
        train.build(cell.config)
    with created(path, "study", numbered=numbered, experiment=config.experiment) as (staging, final):
        (staging / "cells").mkdir()
        write_json(staging / CONFIG, config.stored())
    return StudyFolder(final[0])


def resume_command(study: StudyFolder) -> str:
    """Return the command line that resumes a study."""
    return commands.on_folder("resume", study.path, study.config.experiment)


def run(study: StudyFolder, options: train.Options, tasks: int | None, say: Callable[[str], None]) -> int:
    """Train the cells that are not yet trained, evaluate all cells, and write the table and the figures.

    Args:
        study: the study.
        options: the options of training. A time limit is that of all cells together.
        tasks: the number of validation tasks, and also of held-out tasks; None for the experiment's number.
        say: a function that gets lines about the progress.

    Returns:
        The exit code of training. Nothing is evaluated if training was interrupted.

    Raises:
        UserError: if another process trains the study or one of its cells, or if no checkpoint of a cell can be used.
        StorageError: if a file cannot be written.
    """
    with contextlib.ExitStack() as held:
        hosts.on_first(lambda: held.enter_context(lock(study.path)))
        experiment = study.config.resolve()
        grouped = programs.groups(experiment, [cell.config for cell in study.cells], train.build)
        seeds = study.config.seeds
        say(f"{len(study.cells)} cells, {seeds} seed(s) each, in {len(grouped)} program(s)")
        deadline = time.monotonic() + 60 * options.time_limit if options.time_limit is not None else None
        for number, indices in enumerate(grouped, 1):
            group = [study.cells[i] for i in indices]
            say(f"program {number} of {len(grouped)}: {len(group)} cell(s), {len(group) * seeds} runs")
            if deadline is not None:
                options = dataclasses.replace(options, time_limit=max(0.0, (deadline - time.monotonic()) / 60))
            outcome = _train(_folders(study, group), options, resume_command(study), say)
            if not outcome.finished:
                return outcome.exit_code
        if not hosts.first():
            return 0
        rows = _measure(study, experiment, [[study.cells[i] for i in indices] for indices in grouped], tasks, say)
        write(study, table(study, experiment, rows, tasks or experiment.heldout_tasks))
        return 0


def _folders(study: StudyFolder, group: Sequence[Variant]) -> list[RunFolder]:
    """Return the run folders of cells that one program can train. Missing folders are created."""

    def make() -> None:
        missing = [cell for cell in group if not exists(study.cell(cell))]
        if missing:
            configs = [cell.config for cell in missing]
            train.new_runs([study.cell(cell) for cell in missing], configs, train.build(configs[0]))

    hosts.on_first(make)
    return [RunFolder(study.cell(cell)) for cell in group]


def _train(
    folders: Sequence[RunFolder], options: train.Options, again: str, say: Callable[[str], None]
) -> train.Outcome:
    """Train all cells at the same time, or sequentially in groups that fit into memory."""
    try:
        return train.train_together(folders, options, again)
    except programs.TooLarge as large:
        fit = max(1, int(len(folders) * programs.MEMORY_SHARE * large.free / large.needed))
        say(f"{len(folders)} cells do not fit into memory (one program {large}): {fit} at a time")
    outcome = _train(folders[:fit], options, again, say)
    return _train(folders[fit:], options, again, say) if outcome.finished else outcome


def _measure(
    study: StudyFolder,
    experiment: Experiment,
    grouped: list[list[Variant]],
    tasks: int | None,
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Evaluate all cells on validation tasks and on held-out tasks, and return the scores by cell.

    All cells get the same tasks. The held-out tasks are those of ``metarl-jax evaluate``. The key of the validation
    tasks differs from the key of the validations during training. The evaluation is compiled once for each group of
    cells.
    """
    tasks = experiment.heldout_tasks if tasks is None else tasks
    rows: dict[str, dict[str, Any]] = {}
    for group in grouped:
        problem = train.build(group[0].config)
        values = programs.values_of([cell.config for cell in group])
        tests = {split: _test(experiment, problem, tasks, study.config.seeds, split) for split in TITLES}
        for index, cell in enumerate(group):
            folder = RunFolder(study.cell(cell))
            checkpoint = train.load_states(folder, problem)
            row: dict[str, Any] = {
                "cell": cell.name,
                "settings": cell.changes,
                "iteration": checkpoint.iteration,
                "diverged": checkpoint.extra["diverged"],
            }
            for split in TITLES:
                if not row["diverged"]:
                    path = folder.path / f"scores-iteration{checkpoint.iteration}-tasks{tasks}-{split}.json"
                    if not exists(path):
                        own = {name: each[index] for name, each in values.items()}
                        scores = np.asarray(tests[split](_key(split), checkpoint.state, own), np.float64)
                        per_task = evaluate.per_task(experiment.measure.headline(scores))
                        by_stage = finite(scores.mean(axis=1).tolist())
                        write_json(path, {"per_seed_by_stage": by_stage, "per_task": per_task})
                    row[split] = read_shaped(path, {"per_seed_by_stage": [[float]]})
            rows[cell.name] = row
            say(f"  {cell.name}: {', '.join(f'{TITLES[s]} {_headline(experiment, row, s)}' for s in TITLES)}")
    return rows


def _key(split: Split) -> Key:
    """Return the key of the tasks of a split. For held-out tasks, it is the key of ``evaluate`` with seed 0."""
    tag = train.VALIDATION_TAG if split == "validation" else evaluate.EVALUATION_TAG
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), tag), 0)


def _test(
    experiment: Experiment, problem: Problem, tasks: int, seeds: int, split: Split
) -> Callable[[Key, RunState, Mapping[str, Any]], Array]:
    """Return a compiled function from a key, the states and the values of a cell to scores ``[S, N, E]``.

    S, N and E are the numbers of seeds, tasks and stages.
    """

    @jax.jit
    def test(key: Key, states: RunState, values: Mapping[str, Any]) -> Array:
        return meta_test(
            key,
            programs.algorithm(problem, values).adapt,
            states.algorithm,
            problem.tasks,
            num_tasks=tasks,
            num_seeds=seeds,
            batch_size=experiment.heldout_batch,
            split=split,
        ).score

    return test


def _per_seed(experiment: Experiment, row: dict[str, Any], split: Split) -> np.ndarray | None:
    """Return the reported score of each seed, ``[S]``; None if training or adaptation diverged."""
    scores = np.asarray(row.get(split, {}).get("per_seed_by_stage", np.nan), np.float64)
    if not np.isfinite(scores).all():
        return None
    return experiment.measure.headline(scores)


def _headline(experiment: Experiment, row: dict[str, Any], split: Split) -> str:
    scores = _per_seed(experiment, row, split)
    return "diverged" if scores is None else f"{interquartile_mean(scores):.3f}"


def _statistics(own: np.ndarray | None) -> dict[str, Any]:
    """Return the mean, the interquartile mean and its interval, of the scores of the seeds, ``[S]``.

    All of them are None for a cell that diverged.
    """
    if own is None:
        return {"per_seed": None, "mean": None, "iqm": None, "ci95": None}
    estimate = stratified_bootstrap(own[:, None])
    interval = [estimate.low, estimate.high] if len(own) >= evaluate.FEWEST_SEEDS else None
    return {"per_seed": own.tolist(), "mean": float(own.mean()), "iqm": estimate.mean, "ci95": interval}


def _gain(experiment: Experiment, row: dict[str, Any], first: str, of_first: dict[str, Any]) -> dict[str, Any] | None:
    """Return the mean difference between a cell and the first one, paired by validation task.

    It is None if one of them diverged, or was evaluated by a version that did not store the scores of single tasks.
    """
    scores = [np.array([r.get("validation", {}).get("per_task") or [None]], np.float64) for r in (row, of_first)]
    if not all(np.isfinite(each).all() for each in scores):
        return None
    return evaluate.gain(first, scores[0], scores[1], experiment.measure)


def table(study: StudyFolder, experiment: Experiment, rows: dict[str, dict[str, Any]], tasks: int) -> dict[str, Any]:
    """Return the content of ``table.json``: the cells, best first, and the probabilities of improvement between them.

    The order and the probabilities are computed from scores on validation tasks.

    Args:
        study: the study.
        experiment: the experiment of its cells.
        rows: the scores that ``_measure`` returned.
        tasks: the number of tasks of each split.
    """
    sign = 1 if experiment.measure.higher_is_better else -1
    first = study.cells[0].name
    found = []
    for name, row in rows.items():
        splits: dict[str, Any] = {}
        for split in TITLES:
            splits[split] = row.get(split, {}) | _statistics(_per_seed(experiment, row, split))
            splits[split].pop("per_task", None)
        found.append(row | splits | {"gain": None if name == first else _gain(experiment, row, first, rows[first])})
    found.sort(key=lambda e: math.inf if e["validation"]["iqm"] is None else -sign * e["validation"]["iqm"])
    scores = {name: _per_seed(experiment, row, "validation") for name, row in rows.items()}
    better: dict[str, dict[str, Any]] = {}
    for name, other in itertools.permutations(rows, 2):
        ours, theirs = scores[name], scores[other]
        if ours is not None and theirs is not None:
            estimate = probability_of_improvement(sign * ours[:, None], sign * theirs[:, None])
            interval = [estimate.low, estimate.high] if len(ours) >= evaluate.FEWEST_SEEDS else [None, None]
            better.setdefault(name, {})[other] = {"probability": estimate.mean, "ci95": interval}
    return {
        "schema": SCHEMA,
        "experiment": study.config.experiment,
        "measure": experiment.measure._asdict(),
        "tasks": tasks,
        "seeds": study.config.seeds,
        "compared_with": first,
        "cells": found,
        "probability_of_improvement": better,
        "versions": evaluate.versions(),
    }


_TABLE: dict[str, Any] = {
    "experiment": str,
    "measure": {"title": str},
    "tasks": int,
    "seeds": int,
    "compared_with": str,
    "cells": [{"cell": str, "validation": {"iqm": float}, "heldout": {"iqm": float}}],
    "probability_of_improvement": {str: {str: {"probability": float, "ci95": [float]}}},
}
_MEASURED: dict[str, Any] = {"per_seed": [float], "mean": float}
"""The shape of the scores on one split, of a cell that did not diverge."""


def read(study: StudyFolder) -> dict[str, Any]:
    """Read the table of a study.

    Raises:
        UserError: if there is no table yet, or if it is damaged or has another schema.
    """
    path = study.path / "table.json"
    if not exists(path):
        raise UserError(f"not evaluated yet: {resume_command(study)}")
    result = read_json(path)
    if result.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has schema {result.get('schema')}, this program has {SCHEMA}; to write it again: "
            f"{resume_command(study)}"
        )
    try:
        _check(result)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}; to write it again: {resume_command(study)}") from error
    return result


def _check(result: dict[str, Any]) -> None:
    """Raise a ValueError if a table does not have the form that ``table`` returns."""
    check_shape(result, _TABLE)
    intervals = [pair["ci95"] for row in result["probability_of_improvement"].values() for pair in row.values()]
    for cell in result["cells"]:
        for split in TITLES:
            own = cell[split]
            if own["iqm"] is None:
                continue
            check_shape(own, _MEASURED, split)
            if not own["per_seed"] or None in own["per_seed"]:
                raise ValueError(f"{split}.per_seed does not have a score for each seed")
            if own.get("ci95") is not None:
                check_shape(own["ci95"], [float], f"{split}.ci95")
                intervals.append(own["ci95"])
        if cell.get("gain") is not None:
            check_shape(cell["gain"], {"mean": float, "ci95": [float]}, "gain")
            intervals.append(cell["gain"]["ci95"])
    if any(len(interval) != 2 for interval in intervals):
        raise ValueError("an interval does not have two ends")


def _title(result: dict[str, Any]) -> str:
    return (
        f"{result['experiment']}: {result['measure']['title']}, {result['seeds']} seed(s); interquartile mean (IQM) "
        f"over seeds on {result['tasks']} validation tasks, by which the cells are ranked and compared, and on "
        f"{result['tasks']} held-out tasks, by which nothing is selected"
    )


def rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the table, and a row for each cell. The first five columns are the main ones."""
    first = result["compared_with"]

    def iqm(own: dict[str, Any]) -> str:
        interval = report.interval_text(own["ci95"])
        text = report.number_text(own["iqm"])
        return "diverged" if own["iqm"] is None else f"{text} ({interval})" if interval else text

    def of_seeds(own: dict[str, Any]) -> list[str]:
        if own["iqm"] is None:
            return ["", ""]
        return [report.number_text(own["mean"]), ", ".join(map(report.number_text, own["per_seed"]))]

    titles = [
        "cell",
        "validation IQM (95 % interval)",
        f"better than {first} by (paired by validation task)",
        f"probability of improvement over {first} (validation)",
        "held-out IQM (95 % interval)",
        *("validation mean", "validation seeds", "held-out mean", "held-out seeds"),
    ]
    found = []
    for entry in result["cells"]:
        better = result["probability_of_improvement"].get(entry["cell"], {}).get(first)
        text = f"{better['probability']:.2f}" if better else ""
        if better and None not in better["ci95"]:
            text += f" ({better['ci95'][0]:.2f} to {better['ci95'][1]:.2f})"
        gain = entry.get("gain")
        by = f"{report.number_text(gain['mean'])} ({report.interval_text(gain['ci95'])})" if gain else ""
        validation, heldout = entry["validation"], entry["heldout"]
        found.append(
            [entry["cell"], iqm(validation), by, text, iqm(heldout), *of_seeds(validation), *of_seeds(heldout)]
        )
    return titles, found


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    titles, found = rows(result)
    shown = Table(title=_title(result), title_justify="left")
    for i, title in enumerate(titles[:5]):
        shown.add_column(title, overflow="fold", justify="left" if i == 0 else "right")
    for row in found:
        shown.add_row(*row[:5])
    Console().print(shown)


def write(study: StudyFolder, result: dict[str, Any]) -> list[Path]:
    """Write ``table.json``, ``table.md``, ``learning_curves.png``, ``scores.png`` and ``improvement.png``.

    Returns:
        The files written.

    Raises:
        StorageError: if the files cannot be written.
    """
    titles, found = rows(result)
    lines = [_title(result), "", f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in found]
    with storing(f"write into {study.path}"):
        write_json(study.path / "table.json", result)
        write_atomically(study.path / "table.md", ("\n".join(lines) + "\n").encode())
        measured = [entry for entry in result["cells"] if entry["validation"]["iqm"] is not None]
        written = [study.path / "table.json", study.path / "table.md", figures.curves(study, result)]
        if measured:
            written += [figures.scores(study, result, measured), figures.improvement(study, result, measured)]
    return written
