"""HyperX compared with VariBAD on the sparse half-circle, with equal numbers of environment steps.

    python benchmarks/exploration_bonuses.py                    # a million steps, three seeds
    python benchmarks/exploration_bonuses.py --learners hyperx  # one learner
    python benchmarks/exploration_bonuses.py --steps 10000000   # ten million steps, in rows of their own

The measure is the return of each of three episodes on held-out tasks, without bonuses. Settings are those of the
presets, except for the number of iterations. A run that was interrupted continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compare import STEPS, compared
from results_file import read_rows, write_row

NAME, FAMILY, LEARNERS = "exploration_bonuses", "half-circle", ("varibad", "hyperx")
IDENTITY = ("family", "learner", "metric", "variant")


def target(variant: str) -> float | None:
    """Return the bar of HyperX: the return of VariBAD in the last episode after as many steps; None if not measured."""
    rows = [row for row in read_rows(NAME) if (row["learner"], row["variant"]) == ("varibad", variant)]
    return rows[0]["ours"][-1] if rows else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=LEARNERS)
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="environment steps of each seed, rounded to iterations"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    arguments = parser.parse_args()
    variant = f"{arguments.steps / 1e6:g} million steps"
    for learner in arguments.learners:
        row = compared(FAMILY, learner, arguments.steps, arguments.seeds, arguments.folder, arguments.minutes)
        if row is None:
            print(f"{learner}: time ran out; call again to go on", flush=True)
            continue
        bar = target(variant) if learner == "hyperx" else None
        reached = None if bar is None else all(scores[-1] > bar for scores in row["by_seed"])
        write_row(NAME, {**row, "variant": variant, "target": bar, "reached": reached}, IDENTITY)
        scores = ", ".join(f"{score:.2f}" for score in row["ours"])
        seeds = ", ".join(f"{scores[-1]:.2f}" for scores in row["by_seed"])
        print(f"{learner}: {scores}; last episode by seed {seeds}; target {bar}", flush=True)


if __name__ == "__main__":
    main()
