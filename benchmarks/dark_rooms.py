"""Dark Room and Dark Key-to-Door: the return of each episode of a trial, compared with a policy that knows the task.

    python benchmarks/dark_rooms.py                        # all, three seeds each
    python benchmarks/dark_rooms.py --cells rl2-dark-room  # one; call again after an interruption to go on
    python benchmarks/dark_rooms.py --cells accelerator --seeds 1   # 410 million steps

The measure is the return of the last episode. The bar is 95 % of the return with a known goal, which is exact.
"""

from __future__ import annotations

from typing import Any

from adaptation_table import TableRow, main
from results_file import provenance, write_row

NAME = "dark_rooms"
TARGET = 0.95
KNOWN = "best play, goal known"


def share_of_best(cell: TableRow, evaluation: dict[str, Any]) -> None:
    """Write the row of the last episode's return, as a fraction of the best return."""
    best = next(oracle["score_by_stage"][-1] for oracle in evaluation["oracles"] if oracle["name"] == KNOWN)
    ours = evaluation["ours"]
    by_seed = [scores[-1] / best for scores in ours["per_seed_by_stage"]]
    row = {
        "experiment": cell.experiment,
        "variant": ", ".join(filter(None, (cell.variant, cell.test_variant))),
        "metric": "share of the known goal's return in the last episode",
        "ours": ours["score_by_stage"][-1] / best,
        "ci95": [end / best for end in ours["ci95_by_stage"][-1]],
        "by_seed": by_seed,
        "score_by_stage": ours["score_by_stage"],
        "optimum": best,
        "target": TARGET,
        "reached": min(by_seed) >= TARGET,
        "seeds": len(by_seed),
        "heldout_tasks": evaluation["tasks"],
        **provenance(),
    }
    write_row(NAME, row, ("experiment", "variant", "metric"))
    print(f"{cell.experiment}: {row['ours']:.3f} {row['ci95']} of the known goal's {best:.3f}", flush=True)


EXPERIMENTS = (
    "rl2-dark-room",
    "rl2-dark-room-new-goals",
    "rl2-dark-room-10x10",
    "rl2-dark-key-to-door",
)
CELLS = {name: TableRow(name, {}) for name in EXPERIMENTS}
LINEAR = TableRow("rl2-linear-dark-key-to-door", {})
ACCELERATOR = {
    LINEAR.experiment: LINEAR,
    # These trials are three times as long as those of training.
    f"{LINEAR.experiment}-30": LINEAR._replace(testing={"episodes": 30}, test_variant="30 episodes"),
}

if __name__ == "__main__":
    main(NAME, __doc__ or "", CELLS, more={"accelerator": ACCELERATOR}, also=share_of_best)
