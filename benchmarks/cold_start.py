"""Cold start: RL² and PEARL with new users, compared with popularity, Thompson sampling for each user, and others.

python benchmarks/cold_start.py                  # both learners, three seeds each; call again after an interruption
python benchmarks/cold_start.py --cells rl2

The measure is the mean reward of the interactions after the tenth, on held-out users. All learners get the same users,
so that differences are paired by user.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from adaptation_table import TableRow, main
from results_file import provenance, write_row

NAME = "cold_start"
AFTER = 10
# The beginnings of the names of the recommenders that the learner must beat.
TO_BEAT = ("popularity", "Thompson sampling, each user alone")


def late_rewards(cell: TableRow, evaluation: dict[str, Any]) -> None:
    """Write the row of the interactions after the tenth, with the paired difference to each other recommender."""
    from metarl_jax import experiments
    from metarl_jax.evaluation import meta_test
    from metarl_jax.ops.statistics import mean_with_interval
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder

    run = RunFolder(Path(evaluation["folder"]))
    problem, seeds, users = train.build(run.config), run.config.seeds, evaluation["tasks"]

    def late(adapt: Any, states: Any, number: int) -> np.ndarray:
        """Return the mean reward of late interactions, ``[number, users]``."""

        @jax.jit
        def test(key: jax.Array, states: Any) -> jax.Array:
            return meta_test(key, adapt, states, problem.tasks, num_tasks=users, num_seeds=number).score

        return np.asarray(test(jax.random.key(2**31 + 5), states), np.float64)[..., AFTER:].mean(axis=-1)

    ours = late(problem.algorithm.adapt, train.load_states(run, problem).state.algorithm, seeds)
    mean, over = mean_with_interval(ours.mean(axis=0)), {}
    for oracle in experiments.get(cell.experiment).oracles(problem, problem.stages):
        others = late(oracle.adapt, (), 1)
        gain = mean_with_interval((ours - others).mean(axis=0))
        worst = min(mean_with_interval(each - others[0]).low for each in ours)
        over[oracle.name] = {
            "theirs": float(others.mean()),
            "gain": gain.mean,
            "ci95": [gain.low, gain.high],
            "lower end of the worst seed": worst,
        }
        print(f"  over {oracle.name} ({others.mean():.4f}): {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})")
    beaten = [gain["lower end of the worst seed"] > 0 for name, gain in over.items() if name.startswith(TO_BEAT)]
    row = {
        "experiment": cell.experiment,
        "variant": cell.variant,
        "metric": f"mean reward of an interaction after {AFTER}",
        "ours": mean.mean,
        "ci95": [mean.low, mean.high],
        "by_seed": ours.mean(axis=1).tolist(),
        "gains": over,
        "reached": all(beaten),
        "seeds": seeds,
        "heldout_tasks": users,
        **provenance(),
    }
    write_row(NAME, row, ("experiment", "variant", "metric"))
    print(f"{cell.experiment}: {row['metric']} {mean.mean:.4f}, beats who does not compare users: {row['reached']}")


CELLS = {name: TableRow(f"{name}-cold-start", {}) for name in ("rl2", "pearl")}

if __name__ == "__main__":
    main(NAME, __doc__ or "", CELLS, also=late_rewards)
