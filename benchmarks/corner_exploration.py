"""Does a learner explore before it adapts? The four corners of Rothfuss et al. (2019, section 6.2).

Only the goal's own quadrant pays. A learner that does not visit all four quadrants before adaptation therefore has
nothing to adapt to. The benchmark measures returns by gradient step on held-out corners, and the fraction of the time
before adaptation that each learner spends in each quadrant (beyond |x| + |y| = 0.5).

    python benchmarks/corner_exploration.py                # MAML-TRPO, with the low-variance estimator, E-MAML, ProMP
    python benchmarks/corner_exploration.py --cells promp
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from adaptation_table import TableRow, main
from results_file import provenance, write_row

EPISODES = 200
CELLS = {name: TableRow(f"{name}-corners", {}) for name in ("maml", "lvc", "e-maml", "promp")}


def visits(cell: TableRow, evaluation: dict[str, Any]) -> None:
    """Write a row with the fraction of time that the policy of each seed spends in each quadrant before adaptation."""
    from metarl_jax import problems
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder

    folder = RunFolder(Path(evaluation["folder"]))
    built = train.build(folder.config)
    states = train.load_states(folder, built).state.algorithm
    problem = built.inner_problem
    assert problem is not None

    @jax.jit
    def positions(params: Any) -> jax.Array:
        def one(key: jax.Array) -> problems.Rollouts:
            key_task, key_play = jax.random.split(key)
            return problem.support(key_play, params, problem.tasks.sample_heldout(key_task))

        rollouts = jax.vmap(one)(jax.random.split(jax.random.key(2**31 + 13), EPISODES))
        return rollouts.inputs.obs.reshape(-1, 2)

    shares = []
    for seed in range(folder.config.seeds):
        position = np.asarray(positions(jax.tree.map(lambda x, s=seed: jnp.asarray(x)[s], states.params)))
        outside = np.abs(position).sum(axis=1) >= 0.5
        shares.append(
            [
                float(np.mean(outside & (position[:, 0] * x > 0) & (position[:, 1] * y > 0)))
                for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))
            ]
        )
        print(f"{cell.experiment}, seed {seed}: time in each quadrant {[round(s, 3) for s in shares[-1]]}", flush=True)
    row = {"experiment": cell.experiment, "variant": "", "metric": "time in each quadrant before adaptation"}
    row |= {"by_seed": shares, "least_by_seed": [min(share) for share in shares], **provenance()}
    write_row("corner_exploration", row, ("experiment", "variant", "metric"))


if __name__ == "__main__":
    main("corner_exploration", __doc__ or "", CELLS, also=visits)
