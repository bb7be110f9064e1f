"""PEARL on point robots of Rakelly et al. (2019), with a dense reward, and with a reward only near the goal.

python benchmarks/pearl_point_robot.py                     # both, three seeds each; call again after an interruption
python benchmarks/pearl_point_robot.py --cells sparse
python benchmarks/pearl_point_robot.py --cells paper       # the sparse task at published sizes, for an accelerator
python benchmarks/pearl_point_robot.py --references        # the reference learners of the sparse task, without training
python benchmarks/pearl_point_robot.py --speed             # gradient steps per second at the published sizes

For the sparse task, the benchmark reports how often the goal is reached in each episode on a held-out goal. For both
tasks, it reports the standard deviation of the belief at the start of each episode.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from adaptation_table import TableRow, main
from results_file import provenance, write_row

NAME = "pearl_point_robot"
IDENTITY = ("experiment", "variant", "metric")
STEPS_ALLOWED = 1_500_000


def training_seconds(run: Any) -> float:
    """Return the seconds of the training of a run."""
    return json.loads((run.path / "summary.json").read_text())["train_wall_s"]


def by_episode(cell: TableRow, evaluation: dict[str, Any]) -> None:
    """Write rows with the rate of reached goals, the return and the belief's standard deviation, for each episode."""
    from metarl_jax import experiments
    from metarl_jax.evaluation import meta_test
    from metarl_jax.ops.statistics import mean_with_interval
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder

    run = RunFolder(Path(evaluation["folder"]))
    problem, seeds, number = train.build(run.config), run.config.seeds, evaluation["tasks"]
    algorithm, family = problem.algorithm, problem.family
    states = train.load_states(run, problem).state.algorithm
    key = jax.random.key(2**31 + 6)

    def returns(adapt: Any, states: Any, learners: int) -> np.ndarray:
        """Return the scores, ``[learners, tasks, episodes]``."""

        @jax.jit
        def test(key: jax.Array, states: Any) -> jax.Array:
            return meta_test(key, adapt, states, problem.tasks, num_tasks=number, num_seeds=learners).score

        return np.asarray(test(key, states), np.float64)

    def deviations(state: Any) -> jax.Array:
        """Return the belief's standard deviation, a geometric mean over latent variables, ``[tasks, episodes]``."""

        def one(key: jax.Array) -> jax.Array:
            key_task, key_adapt = jax.random.split(key)
            learner = algorithm.adapt(key_adapt, state, problem.tasks.sample_heldout(key_task)).learner
            return jax.numpy.exp(jax.numpy.mean(jax.numpy.log(learner.std), axis=-1))

        return jax.vmap(one)(jax.random.split(key, number))

    measured = {"return": returns(algorithm.adapt, states, seeds)}
    measured["belief's standard deviation"] = np.asarray(jax.jit(lambda s: jax.lax.map(deviations, s))(states))
    references: dict[str, np.ndarray] = {}
    if family.privileged is not None:
        met = measured["return"] > 0
        measured["goals met"] = met.astype(float)
        measured["goals met so far"] = np.maximum.accumulate(met, axis=-1).astype(float)
        for oracle in experiments.get(cell.experiment).oracles(problem, problem.stages):
            references[oracle.name] = returns(oracle.adapt, (), 1)[0]
    # This number includes the episodes before the first iteration.
    steps = int(np.asarray(states.episodes).sum(axis=-1).max()) * family.horizon
    for metric, values in measured.items():
        estimates = [mean_with_interval(values[..., e].mean(axis=0)) for e in range(values.shape[-1])]
        theirs = references if metric == "return" else {}
        if metric.startswith("goals met"):
            theirs = {name: (score > 0).astype(float) for name, score in references.items()}
        if metric == "goals met so far":
            theirs = {name: np.maximum.accumulate(score, axis=-1) for name, score in theirs.items()}
        row = {
            "experiment": cell.experiment,
            "variant": cell.variant,
            "metric": f"{metric} by episode",
            "ours": [estimate.mean for estimate in estimates],
            "ci95": [[estimate.low, estimate.high] for estimate in estimates],
            "by_seed": values.mean(axis=1).tolist(),
            "references": {name: score.mean(axis=0).tolist() for name, score in theirs.items()},
            "seeds": seeds,
            "heldout_tasks": number,
            "env_steps_of_a_seed": steps,
            "within_allowed": steps <= STEPS_ALLOWED,
            **provenance(),
        }
        write_row(NAME, row, IDENTITY)
        if metric == "goals met so far":
            for episodes in (5, 8):
                last = episodes - 1
                within = {
                    "metric": f"goals met within {episodes} episodes",
                    **{name: row[name][last] for name in ("ours", "ci95")},
                    "by_seed": [seed[last] for seed in row["by_seed"]],
                    "references": {name: score[last] for name, score in row["references"].items()},
                }
                write_row(NAME, row | within | {"train_wall_s": training_seconds(run)}, IDENTITY)
        print(f"{cell.experiment}: {row['metric']} {', '.join(f'{x:.3f}' for x in row['ours'])}", flush=True)
        for name, score in row["references"].items():
            print(f"  {name}: {', '.join(f'{x:.3f}' for x in score)}", flush=True)


def references(number: int = 20_000, episodes: int = 8) -> None:
    """Write how often reference learners meet the goal of the sparse task, by the end of each episode."""
    from metarl_jax import experiments
    from metarl_jax.evaluation import meta_test
    from metarl_jax.ops.statistics import mean_with_interval

    experiment = experiments.get("pearl-point-robot-sparse")
    problem = experiment.build(experiment.with_overrides({}))
    for oracle in experiment.oracles(problem, episodes):
        test = jax.jit(
            lambda key, adapt=oracle.adapt: (
                meta_test(key, adapt, (), problem.tasks, num_tasks=number, batch_size=1000).score
            )
        )
        met = np.maximum.accumulate(np.asarray(test(jax.random.key(2**31 + 6)))[0] > 0, axis=-1)
        estimates = [mean_with_interval(met[:, episode]) for episode in range(episodes)]
        row = {
            "experiment": experiment.name,
            "variant": f"reference: {oracle.name}",
            "metric": "goals met so far by episode",
            "ours": [estimate.mean for estimate in estimates],
            "ci95": [[estimate.low, estimate.high] for estimate in estimates],
            "heldout_tasks": number,
            **provenance(),
        }
        write_row(NAME, row, IDENTITY)
        print(f"{oracle.name}: {', '.join(f'{x:.3f}' for x in row['ours'])}", flush=True)


# Gradient steps per second of the authors' program on two CPU cores, at these sizes.
PUBLISHED_RATE = 2.24
PUBLISHED_SIZES = {
    **{"meta_batch": 16, "batch_size": 256, "context_size": 64, "units": 300, "encoder_units": 200, "layers": 3},
    **{"latent_size": 5, "gradient_steps": 20},
}


def speed(repeats: int = 5) -> None:
    """Measure gradient steps per second at the published sizes."""
    from metarl_jax import experiments

    experiment = experiments.get("pearl-point-robot-dense")
    problem = experiment.build(experiment.with_overrides(PUBLISHED_SIZES))
    state = jax.jit(problem.algorithm.init)(jax.random.key(0))
    begin = time.perf_counter()
    step = jax.jit(problem.algorithm.step, donate_argnums=1).lower(jax.random.key(0), state).compile()
    compile_s = time.perf_counter() - begin
    seconds = []
    for i in range(repeats + 1):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(step(jax.random.key(i), state))
        seconds.append(time.perf_counter() - begin)
    rate = PUBLISHED_SIZES["gradient_steps"] / statistics.median(seconds[1:])
    row = {
        "experiment": "pearl-point-robot-dense",
        "variant": "published sizes",
        "metric": "gradient steps per second",
        "ours": rate,
        "by_repeat": [PUBLISHED_SIZES["gradient_steps"] / s for s in seconds[1:]],
        "compile_s": compile_s,
        "peer": PUBLISHED_RATE,
        "ratio": rate / PUBLISHED_RATE,
        "target": 5.0,
        "reached": rate >= 5 * PUBLISHED_RATE,
        "settings": PUBLISHED_SIZES,
        **provenance(),
    }
    write_row(NAME, row, IDENTITY)
    print(f"{rate:.2f} gradient steps/s, {row['ratio']:.1f} times the published program's {PUBLISHED_RATE}")


CELLS = {name: TableRow(f"pearl-point-robot-{name}", {}) for name in ("dense", "sparse")}
# The settings of the authors' code for the sparse tasks, in episodes of 20 steps. Their weight of the KL divergence, 1,
# is for its sum over the 16 tasks of a gradient step, and not for its mean.
PUBLISHED: dict[str, Any] = {
    "iterations": 500,
    "tasks": 5,
    "prior_episodes": 5,
    "posterior_episodes": 45,
    "posterior_context_episodes": 45,
    "initial_episodes": 100,
    "replay_episodes": 5000,
    "gradient_steps": 1000,
    "meta_batch": 16,
    "batch_size": 256,
    "context_size": 1024,
    "consistency_weight": None,
    "learning_rate": 3e-4,
    "reward_scale": 100.0,
    "kl_weight": 16.0,
    "automatic_temperature": False,
    "deterministic": True,
    "latent_size": 5,
    "encoder_units": 200,
    "units": 300,
    "layers": 3,
}
MORE = {
    "paper": {
        "sparse-published": TableRow("pearl-point-robot-sparse", {}, settings=PUBLISHED, variant="published sizes")
    }
}

if __name__ == "__main__":
    if "--speed" in sys.argv:
        speed()
    elif "--references" in sys.argv:
        references()
    else:
        main(NAME, __doc__ or "", CELLS, more=MORE, also=by_episode)
