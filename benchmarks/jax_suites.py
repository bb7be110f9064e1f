"""RL² and policies without a memory on other suites in JAX: layouts of Navix, and worlds of Craftax-Classic.

    nice python benchmarks/jax_suites.py rl2-navix
    nice python benchmarks/jax_suites.py rl2-navix --network none
    nice python benchmarks/jax_suites.py rl2-craftax-classic --seed 1

A call trains one learner: RL² as the preset says, or with the network "none", which has no memory, the same settings
and as many steps. Both adapt to the same held-out tasks with the same protocol. RL² reaches the bar if its interval of
the mean return of an episode lies above that of the policy without a memory. The row also has the difference between
the last and the first episode, which is zero if a memory only helps within an episode. Times include compilation and
do not include the evaluation. On a shared machine, the CPU time says more than the wall time.
"""

from __future__ import annotations

import argparse
import time

import jax
from results_file import provenance, write_row

import metarl_jax as mrl
from metarl_jax import experiments
from metarl_jax.ops.statistics import mean_with_interval

NAME = "jax_suites"
PRESETS = ("rl2-navix", "rl2-craftax-classic")
# Layers of the policy without a memory that are as wide as the GRU.
WITHOUT_MEMORY = {"units": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--network", choices=("recurrent", "none"), default="recurrent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="default: as the preset says")
    parser.add_argument("--tasks", type=int, default=1000, help="held-out tasks")
    arguments = parser.parse_args()
    preset = experiments.get(arguments.preset)
    settings = dict(preset.settings)
    if arguments.iterations is not None:
        settings["iterations"] = arguments.iterations
    experiment = preset
    if arguments.network == "none":
        experiment = experiments.combination("rl2", preset.family, "none")
        fields = experiment.fields()
        settings = {name: value for name, value in {**settings, **WITHOUT_MEMORY}.items() if name in fields}
    problem = experiment.build(experiment.with_overrides(settings))
    began, cpu = time.perf_counter(), time.process_time()
    run = mrl.train(jax.random.key(arguments.seed), problem.algorithm, progress=True)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    evaluation_key = jax.random.fold_in(jax.random.key(1), arguments.seed)
    scores = mrl.evaluate(
        evaluation_key, problem.algorithm, run.state, problem, num_tasks=arguments.tasks, batch_size=250
    )
    by_episode = [mean_with_interval(column) for column in scores.score.T]
    overall = mean_with_interval(scores.score.mean(axis=1))
    adapted = mean_with_interval(scores.score[:, -1] - scores.score[:, 0])
    row = {
        "experiment": preset.name,
        "network": arguments.network,
        "metric": "return of an episode, mean over the trial",
        "seed": arguments.seed,
        "ours": overall.mean,
        "ci95": [overall.low, overall.high],
        "score_by_stage": [estimate.mean for estimate in by_episode],
        "ci95_by_stage": [[estimate.low, estimate.high] for estimate in by_episode],
        "last_minus_first": adapted.mean,
        "last_minus_first_ci95": [adapted.low, adapted.high],
        "heldout_tasks": arguments.tasks,
        "iterations": int(run.state.step),
        "steps": int(run.state.step) * problem.steps_per_iteration,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        **provenance(),
    }
    print(row)
    write_row(NAME, row, ("experiment", "metric", "seed", "network"))


if __name__ == "__main__":
    main()
