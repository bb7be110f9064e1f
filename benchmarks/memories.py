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
CELLS: dict[str, Cell] = {
    "gridnavi-gru": GRIDNAVI,
    "gridnavi-hypernetwork": GRIDNAVI._replace(network="hypernetwork", settings=HYPERNETWORK, reference="gridnavi-gru"),
    "gridnavi-hypernetwork-kaiming": GRIDNAVI._replace(
        network="hypernetwork", settings={**HYPERNETWORK, "initialisation": "kaiming"}
    ),
}


def settings_of(cell: Cell) -> dict[str, Any]:
    """Return the settings of a cell that differ from those of the combination."""
    from metarl_jax import experiments

    if cell.base is None:
        return cell.settings
    known = experiments.get(f"rl2 {cell.family} {cell.network}").fields()
    shared = experiments.get(cell.base).with_overrides({})
    return {name: value for name, value in shared.items() if name in known} | cell.settings


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
