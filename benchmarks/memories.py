"""Memories of RL² compared with a GRU at equal numbers of environment steps.

    python benchmarks/memories.py                               # everything, three seeds each; call again to go on
    python benchmarks/memories.py --cells gridnavi-gru gridnavi-hypernetwork

- gridnavi: recurrent hypernetworks (Beck et al. 2023) on GridNavi of Zintgraf et al. (2020), 4 million steps.
- t-maze: aggregating memories (SplAgger, Beck et al. 2024) on a T-maze of 50 steps, and on its noisy copy.
- bandit: the same memories on Bernoulli bandits of 100 pulls and 5 arms.

All learners of a task have the same settings of PPO. The bar of each learner is the score of the GRU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from adaptation_table import TableRow, measure
from results_file import provenance, read_rows, write_row

NAME = "memories"
METRIC = "reward of a trial"


class Cell(NamedTuple):
    """A learner on a task."""

    network: str
    family: str
    settings: dict[str, Any]
    """The settings that differ from those of ``base``."""
    base: str | None = None
    """The preset of the GRU whose settings all learners have, as far as they exist; None: the combination's."""
    reference: str | None = None
    """The key of the cell whose score is the bar; None if this cell has no bar."""
    below: float = 0.0
    """The bar is this much below the score of the reference."""
    strict: bool = False
    """Whether the score must be above the bar; otherwise it may be equal."""


GRIDNAVI = Cell("recurrent", "gridnavi", {"iterations": 1042}, "rl2-gridnavi")
# The policy has one layer, as in the authors' configuration of GridNavi.
HYPERNETWORK: dict[str, Any] = {**GRIDNAVI.settings, "policy_layers": 1}
# One episode of 50 steps is a trial, and its last step has the only reward.
MAZE = Cell(
    "recurrent",
    "t-maze",
    {
        "episodes": 1,
        "trials": 64,
        "discount": 1.0,
        "gae_lambda": 0.95,
        "hidden_size": 64,
        "embedding_size": 64,
        "readout_size": 64,
        "previous_observation": True,
        "iterations": 160,
    },
)
BANDIT = Cell("recurrent", "bandit", {"iterations": 80}, "rl2-bandit-100x5")
AGGREGATING: dict[str, tuple[str, dict[str, Any]]] = {
    "split": ("split-aggregation", {}),
    "set-max": ("set-aggregation", {"aggregate": "max"}),
    "set-mean": ("set-aggregation", {"aggregate": "mean"}),
}
PARALLEL: dict[str, tuple[str, dict[str, Any]]] = {"min-gru": ("min-gru", {}), "selective": ("selective", {})}


def compared(task: str, gru: Cell, below: float, strict: bool) -> dict[str, Cell]:
    """Return the cells of a task by key: the GRU, the aggregating memories with a bar, and parallel memories without.

    Args:
        task: the beginning of the keys.
        gru: the cell of the GRU.
        below: the bar is this much below the GRU's score.
        strict: whether the score must be above the bar.
    """
    cells = {f"{task}-gru": gru}
    for name, (network, settings) in {**AGGREGATING, **PARALLEL}.items():
        cell = gru._replace(network=network, settings={**gru.settings, **settings})
        if name in AGGREGATING:
            cell = cell._replace(reference=f"{task}-gru", below=below, strict=strict)
        cells[f"{task}-{name}"] = cell
    return cells


CELLS: dict[str, Cell] = {
    "gridnavi-gru": GRIDNAVI,
    "gridnavi-hypernetwork": GRIDNAVI._replace(network="hypernetwork", settings=HYPERNETWORK, reference="gridnavi-gru"),
    "gridnavi-hypernetwork-kaiming": GRIDNAVI._replace(
        network="hypernetwork", settings={**HYPERNETWORK, "initialisation": "kaiming"}
    ),
    **compared("t-maze", MAZE, 0.0, True),
    **compared("noisy-t-maze", MAZE._replace(settings={**MAZE.settings, "noise_features": 1}), 0.0, True),
    **compared("bandit", BANDIT, 0.5, False),
}


def settings_of(cell: Cell) -> dict[str, Any]:
    """Return the settings of a cell that differ from those of the combination.

    Settings of the GRU that a network does not have are left out, and so is None for layers that a network always has.
    """
    from metarl_jax import experiments

    known = experiments.get(f"rl2 {cell.family} {cell.network}").fields()
    shared = {} if cell.base is None else experiments.get(cell.base).with_overrides({})
    settings = {name: value for name, value in {**shared, **cell.settings}.items() if name in known}
    if cell.network == "recurrent":
        return settings
    return {name: x for name, x in settings.items() if x is not None or known[name].default is None}


def report(key: str, cell: Cell, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Write the row of a cell."""
    from metarl_jax.runs.folder import RunFolder

    folder, ours = Path(evaluation["folder"]), evaluation["ours"]
    summary = json.loads((folder / "summary.json").read_text())
    reference = next((row for row in read_rows(NAME) if row["experiment"] == cell.reference), None)
    target = None if reference is None else reference["ours"] - cell.below
    score = ours["score"]
    row = {
        "experiment": key,
        "learner": f"rl2 {cell.network}",
        "family": cell.family,
        "metric": METRIC,
        "ours": score,
        "ci95": ours["ci95"],
        "by_seed": ours["per_seed"],
        "reference": cell.reference,
        "target": target,
        "reached": None if target is None else bool(score > target if cell.strict else score >= target),
        "score_by_stage": ours["score_by_stage"],
        "references": {oracle["name"]: oracle["score"] for oracle in evaluation["oracles"]},
        "seeds": len(ours["per_seed"]),
        "heldout_tasks": evaluation["tasks"],
        "env_steps": summary["steps"] // len(ours["per_seed"]),
        "train_wall_s": summary["train_wall_s"],
        "settings": RunFolder(folder).config.settings,
        **provenance(),
    }
    write_row(NAME, row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, help="held-out tasks; default: the experiment's")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    arguments = parser.parse_args()
    for key in arguments.cells:
        cell = CELLS[key]
        run = TableRow(f"rl2 {cell.family} {cell.network}", {}, settings=settings_of(cell), variant=key)
        evaluation = measure(run, arguments.seeds, arguments.tasks, arguments.folder, arguments.minutes, 1)
        if evaluation is None:
            print(f"{key}: time ran out; call again to go on", flush=True)
            continue
        row = report(key, cell, evaluation)
        seeds = ", ".join(f"{x:.3f}" for x in row["by_seed"])
        print(f"{key}: {row['ours']:.3f} {row['ci95']}, seeds {seeds}; target {row['target']}", flush=True)


if __name__ == "__main__":
    main()
