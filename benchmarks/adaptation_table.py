"""Train and test learners that are scored by stage, such as by gradient step. Several benchmarks share this module.

Every experiment is one run, and one program trains all its seeds at the same time. A run that was interrupted continues
where it stopped. A run that is done is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from results_file import provenance, write_row


class TableRow(NamedTuple):
    """One experiment of a benchmark."""

    experiment: str
    """The name of the preset."""
    targets: Mapping[int, float]
    """The acceptance bar of the score by stage (gradient step or reading); empty if there is no bar."""
    source: str = ""
    """The beginning of the name of the published numbers to compare with; empty if there are none."""
    settings: Mapping[str, Any] = {}
    """The settings that differ from those of the preset."""
    testing: Mapping[str, Any] = {}
    """The settings that differ from those of training on held-out tasks."""
    variant: str = ""
    """A name for the changed settings. It is part of the names of the run and its rows, so that several runs of one
    experiment are different."""
    success_targets: Mapping[int, float] = {}
    """The acceptance bar of the success rate by stage, for tasks that define success."""
    test_variant: str = ""
    """A name for the changes in testing. It is part of the names of rows, so that several tests of one run are
    different."""


def measure(
    cell: TableRow, seeds: int, tasks: int | None, folder: Path, minutes: float, number: int
) -> dict[str, Any] | None:
    """Train (or continue training) on a number of devices, and test; None if the time limit came first."""
    from metarl_jax import experiments
    from metarl_jax.runs import compilation_cache, devices, evaluate, train
    from metarl_jax.runs.folder import RunConfig, RunFolder, default_evaluate_every

    compilation_cache.enable()
    devices.prepare(number)
    path = folder / "-".join([cell.experiment, *cell.variant.split(), f"{seeds}-seeds"])
    if path.exists():
        run = RunFolder(path)
    else:
        settings = experiments.get(cell.experiment).with_overrides(cell.settings)
        every = default_evaluate_every(settings)
        config = RunConfig(experiment=cell.experiment, settings=settings, seed=0, seeds=seeds, evaluate_every=every)
        run = train.new_run(path, config)
    outcome = train.train(run, train.Options(time_limit=minutes, devices=number))
    if outcome.exit_code:
        # A signal stopped the run, so the benchmark stops as well.
        raise SystemExit(outcome.exit_code)
    if not outcome.finished:
        return None
    say = lambda text: print(text, flush=True)  # noqa: E731
    return evaluate.evaluate(run, tasks, cell.testing, 0, say) | {"folder": str(path)}


def report(name: str, cell: TableRow, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Write a row for each stage with a bar or a published number, for the first two stages and for the last one.

    If the tasks define success, the success rate has separate rows.
    """
    from metarl_jax.runs.folder import RunFolder

    folder = Path(evaluation["folder"])
    summary = json.loads((folder / "summary.json").read_text())
    settings = RunFolder(folder).config.settings
    measure, ours = evaluation["measure"], evaluation["ours"]
    published = next((scores for learner, scores in evaluation["paper_by_stage"].items() if cell.source in learner), {})
    published = published if cell.source else {}
    first = measure["first_stage"]
    last = first + len(ours["score_by_stage"]) - 1
    # An entry is: title, name of the score, prefix of names, bars, sign of an improvement, published scores.
    better = 1 if measure["higher_is_better"] else -1
    measured = [(measure["title"], "score", "", cell.targets, better, published)]
    if "success_by_stage" in ours:
        measured.append(("success rate", "success", "success_", cell.success_targets, 1, {}))
    rows = []
    for (title, name_by, prefix, targets, better, paper), stage in (
        (one, stage) for one in measured for stage in sorted({first, 1, last, *one[3], *map(int, one[5])})
    ):
        at = stage - first
        by_seed = [scores[at] for scores in ours[f"per_seed_{prefix}by_stage"]]
        target = targets.get(stage)
        row = {
            "experiment": cell.experiment,
            "variant": ", ".join(filter(None, (cell.variant, cell.test_variant))),
            "metric": f"{title} after {stage} {measure['stage']}{'s' * (stage != 1)}",
            "ours": ours[f"{name_by}_by_stage"][at],
            "ci95": ours[f"{prefix}ci95_by_stage"][at],
            "by_seed": by_seed,
            "target": target,
            "reached": None
            if target is None
            else all(score is not None and better * (score - target) >= 0 for score in by_seed),
            "paper": paper.get(str(stage)),
            "source": cell.source or None,
            "gains": {g["over"]: [g["mean"], *g["ci95"]] for g in evaluation["gains"]}
            if stage == last and name_by == "score"
            else None,
            # Only some reference learners have a success rate.
            "references": {
                o["name"]: o[f"{name_by}_by_stage"][at] for o in evaluation["oracles"] if f"{name_by}_by_stage" in o
            },
            "seeds": len(by_seed),
            "heldout_tasks": evaluation["tasks"],
            "steps": summary["steps"],
            "train_wall_s": summary["train_wall_s"],
            # Where the data were is nobody's business.
            "settings": {k: v for k, v in settings.items() if k not in ("data_dir", "histories")},
            "testing": evaluation["changes"],
            **provenance(),
        }
        write_row(name, row, ("experiment", "variant", "metric"))
        rows.append(row)
    return rows


def main(
    name: str,
    description: str,
    cells: Mapping[str, TableRow],
    *,
    more: Mapping[str, Mapping[str, TableRow]] | None = None,
    data: bool = False,
    also: Callable[[TableRow, dict[str, Any]], None] | None = None,
) -> None:
    """Parse the command line, and run the benchmark.

    Args:
        name: the name of the results file.
        description: the text of --help.
        cells: the cells that are run by default.
        more: further cells by the name of a group. The command line can name a cell or a whole group.
        data: whether the experiments need a folder with data.
        also: a function that measures something else of a cell. Its arguments are the cell and the evaluation that
            ``measure`` returned.
    """
    groups = more or {}
    known = {**cells, **{key: cell for group in groups.values() for key, cell in group.items()}}
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=[*known, *groups], default=list(cells))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, help="held-out tasks; default: the experiment's")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--devices", type=int, default=1, help="to spread tasks over; on a CPU, its cores")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    parser.add_argument("--iterations", type=int, help="of training, for a trial: results are of another variant")
    if data:
        parser.add_argument("--data-dir", required=True, help="where the data are")
    arguments = parser.parse_args()
    for key in [k for asked in arguments.cells for k in groups.get(asked, [asked])]:
        cell = known[key]
        if data:
            cell = cell._replace(settings={**cell.settings, "data_dir": arguments.data_dir})
        if arguments.iterations is not None:
            shorter = {**cell.settings, "iterations": arguments.iterations}
            variant = ", ".join(filter(None, (cell.variant, f"{arguments.iterations} iterations")))
            cell = cell._replace(settings=shorter, variant=variant)
        limits = arguments.folder, arguments.minutes, arguments.devices
        evaluation = measure(cell, arguments.seeds, arguments.tasks, *limits)
        if evaluation is None:
            print(f"{key}: time ran out; call again to go on", flush=True)
            continue
        if also is not None:
            also(cell, evaluation)
        for row in report(name, cell, evaluation):
            print(
                f"{key}: {row['metric']} {row['ours']} {row['ci95']}, seeds {row['by_seed']};"
                f" target {row['target']}, paper {row['paper']}",
                flush=True,
            )
