"""In-context learners that imitate: Algorithm Distillation, and the Decision-Pretrained Transformer.

    python benchmarks/in_context.py                                   # a dark room, and bandits; three seeds each
    python benchmarks/in_context.py --cells algorithm-distillation-dark-room --seeds 1

Algorithm Distillation is measured by its return in the last episode on held-out goals, as a share of the exact best
return of these goals (the bar is 95 % within 50 episodes). The Decision-Pretrained Transformer is measured by its
cumulative regret, relative to that of exact Thompson sampling (the bar is at most 1.05).
"""

from __future__ import annotations

import math
from typing import Any

from adaptation_table import TableRow, main
from results_file import provenance, write_row

NAME = "in_context"
LEAST_SHARE, LARGEST_RATIO = 0.95, 1.05
KNOWN, SAMPLING = "best play, goal known", "Thompson sampling"
DISTILLATION, PRETRAINED = "algorithm-distillation-dark-room", "decision-pretrained-gaussian-bandit-500x5"
CELLS = {
    # Training has trials of 25 episodes.
    DISTILLATION: TableRow(DISTILLATION, {}, testing={"episodes": 50}, test_variant="50 episodes"),
    PRETRAINED: TableRow(PRETRAINED, {}),
}


def compared(cell: TableRow, evaluation: dict[str, Any]) -> None:
    """Write the row of the experiment's bar: a share of the best return, or a ratio of regrets."""
    ours = evaluation["ours"]
    oracles = {oracle["name"]: oracle for oracle in evaluation["oracles"]}
    if cell.experiment == DISTILLATION:
        best = oracles[KNOWN]["score_by_stage"][-1]
        numbers = {
            "metric": "share of the known goal's return in the last episode",
            "ours": ours["score_by_stage"][-1] / best,
            "ci95": [end / best for end in ours["ci95_by_stage"][-1]],
            "by_seed": [scores[-1] / best for scores in ours["per_seed_by_stage"]],
            "score_by_stage": ours["score_by_stage"],
            "target": LEAST_SHARE,
        }
        reached = min(numbers["by_seed"]) >= LEAST_SHARE
    else:
        reference, pulls = oracles[SAMPLING], len(ours["score_by_stage"])
        best = ours["cumulative_regret"][-1] + sum(ours["score_by_stage"])
        regret = reference["cumulative_regret"][-1]
        ratio = ours["cumulative_regret"][-1] / regret
        # The two learners meet the same bandits, but their errors are added as if they were independent.
        errors = [(learner["ci95"][1] - learner["ci95"][0]) / 2 for learner in (ours, reference)]
        half = math.hypot(errors[0], ratio * errors[1]) / regret
        numbers = {
            "metric": f"regret after {pulls} pulls, relative to exact Thompson sampling",
            "ours": ratio,
            "ci95": [ratio - half, ratio + half],
            "by_seed": [(best - sum(scores)) / regret for scores in ours["per_seed_by_stage"]],
            "regrets": {"ours": ours["cumulative_regret"][-1], SAMPLING: regret},
            "target": LARGEST_RATIO,
        }
        reached = max(numbers["by_seed"]) <= LARGEST_RATIO
    row = {
        "experiment": cell.experiment,
        "variant": ", ".join(filter(None, (cell.variant, cell.test_variant))),
        **numbers,
        "reached": reached,
        "seeds": len(numbers["by_seed"]),
        "heldout_tasks": evaluation["tasks"],
        **provenance(),
    }
    write_row(NAME, row, ("experiment", "variant", "metric"))
    print(f"{cell.experiment}: {row['metric']} {row['ours']:.3f} {row['ci95']}, seeds {row['by_seed']}", flush=True)


if __name__ == "__main__":
    main(NAME, __doc__ or "", CELLS, also=compared)
