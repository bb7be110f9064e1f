"""Compare all kinds of learners on the same task families, with equal numbers of environment steps.

    python benchmarks/compare.py                              # everything, one seed, a million steps each
    python benchmarks/compare.py --families cartpole --seeds 3
    python benchmarks/compare.py --readme                     # put the table into benchmarks/README.md

The measure is the return of an episode on held-out tasks, before adaptation and after each stage of adaptation. A stage
is an episode, or a gradient step, which uses several episodes. Settings are those of the presets, except for the number
of iterations. RL² with other memories has the settings of RL² with a GRU. A run that was interrupted continues where it
stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from adaptation_table import TableRow, measure
from results_file import PAGE, provenance, read_rows, table, with_block, write_row

from metarl_jax.runs.errors import Diverged

NAME = "compare"
# Memories other than the GRU. Their other settings are those of the family's RL² with a GRU.
MEMORIES = {"rl2-hypernetwork": "hypernetwork", "rl2-split-aggregation": "split-aggregation"}
_TRIALS = ("rl2", *MEMORIES, "varibad", "pearl")
_ALL_TRIALS = (*_TRIALS, "recurrent-sac")
# The learners of each family. On the half-circle only the surroundings of the goal pay, so before the goal has been
# reached, policy gradients carry no information. Therefore gradient-based learners are left out there.
FAMILIES = {
    "navigation": ("maml", "promp", "multi-task", *_ALL_TRIALS),
    "cartpole": ("maml", "promp", "reptile", "multi-task", *_ALL_TRIALS),
    "half-circle": (*_ALL_TRIALS, "hyperx"),
    "half-cheetah-direction": ("maml", "promp", *_TRIALS),
}
STEPS = 1_000_000
HEADER = (
    "family",
    "learner",
    "first",
    "after one",
    "last",
    "stages",
    "episodes seen before the last",
    "seeds",
    "steps",
    "minutes",
)


def experiment_of(family: str, learner: str) -> tuple[Any, dict[str, Any]]:
    """Return the experiment of a learner on a family, and the settings that differ from those of the experiment."""
    from metarl_jax import experiments

    if learner not in MEMORIES:
        return experiments.get(f"{learner}-{family}"), {}
    experiment = experiments.get(f"rl2 {family} {MEMORIES[learner]}")
    shared = experiments.get(f"rl2-{family}").with_overrides({})
    return experiment, {name: value for name, value in shared.items() if name in experiment.fields()}


def compared(family: str, learner: str, steps: int, seeds: int, folder: Path, minutes: float) -> dict[str, Any] | None:
    """Train and test one learner on one family; None if the time limit came first."""
    experiment, changed = experiment_of(family, learner)
    usual = experiment.with_overrides(changed)
    iterations = max(1, round(steps / experiment.build(usual).steps_per_iteration))
    changed["iterations"] = iterations
    cell = TableRow(experiment.name, {}, settings=changed, variant=f"{iterations} iterations")
    evaluation = measure(cell, seeds, None, folder, minutes, 1)
    if evaluation is None:
        return None
    summary = json.loads((Path(evaluation["folder"]) / "summary.json").read_text())
    what, ours = evaluation["measure"], evaluation["ours"]
    stages = len(ours["score_by_stage"])
    # A gradient step uses several episodes. If stages are episodes, each is one.
    episodes = usual["episodes"] if what["stage"] == "gradient step" else 1
    return {
        "family": family,
        "learner": learner,
        "metric": "return of an episode by stage",
        "stage": what["stage"],
        "ours": ours["score_by_stage"],
        "ci95": ours["ci95_by_stage"],
        "by_seed": ours["per_seed_by_stage"],
        "episodes_before_last": episodes * (stages - 1),
        "references": {oracle["name"]: oracle["score_by_stage"] for oracle in evaluation["oracles"]},
        "seeds": len(ours["per_seed_by_stage"]),
        "heldout_tasks": evaluation["tasks"],
        "steps": summary["steps"],
        "train_wall_s": summary["train_wall_s"],
        "settings": cell.settings,
        **provenance(),
    }


def shown() -> str:
    """Return the table in Markdown."""

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        scores, intervals = row["ours"], row["ci95"]
        number = (lambda x: f"{x:.2f}") if max(map(abs, scores)) < 100 else (lambda x: f"{x:.0f}")
        low, high = intervals[-1]
        return (
            row["family"],
            row["learner"],
            number(scores[0]),
            number(scores[1]),
            f"**{number(scores[-1])}** ({number(low)} to {number(high)})",
            f"{len(scores)} ({row['stage']}s)",
            str(row["episodes_before_last"]),
            str(row["seeds"]),
            f"{row['steps'] / row['seeds'] / 1e6:.1f} million",
            f"{row['train_wall_s'] / 60:.1f}",
        )

    order = {(family, learner): i for i, (family, learners) in enumerate(FAMILIES.items()) for learner in learners}
    rows = sorted(read_rows(NAME), key=lambda row: order[row["family"], row["learner"]])
    return table(HEADER, map(cells, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    known = sorted({learner for learners in FAMILIES.values() for learner in learners})
    parser.add_argument("--learners", nargs="+", choices=known, help="default: all that apply")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="environment steps of each seed, rounded to iterations"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    parser.add_argument("--readme", action="store_true", help="run nothing; put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    if arguments.readme:
        PAGE.write_text(with_block(PAGE.read_text(), "compare.py", shown()))
        return
    for family in arguments.families:
        for learner in FAMILIES[family]:
            if arguments.learners and learner not in arguments.learners:
                continue
            try:
                row = compared(family, learner, arguments.steps, arguments.seeds, arguments.folder, arguments.minutes)
            except Diverged as error:
                print(f"{learner} on {family}: {error}", flush=True)
                continue
            if row is None:
                print(f"{learner} on {family}: time ran out; call again to go on", flush=True)
                continue
            write_row(NAME, row, ("family", "learner", "metric"))
            scores = ", ".join(f"{score:.2f}" for score in row["ours"])
            print(f"{learner} on {family}: {scores}; {row['train_wall_s']:.0f} s", flush=True)
    print(shown())


if __name__ == "__main__":
    main()
