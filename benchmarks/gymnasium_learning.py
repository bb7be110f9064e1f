"""RL² on CartPoles of Gymnasium whose force has an unknown direction: the return of the second episode.

    nice python benchmarks/gymnasium_learning.py
    nice python benchmarks/gymnasium_learning.py --seed 1

The experiment is ``tests/data/gymnasium_cartpole.py``: Gymnasium's class runs on the host, in the process that trains.
The bar is a mean return of 150 of 200 in the second episode, after at most 20 minutes on two cores. The time includes
compilation, and does not include the evaluation on held-out tasks. On a shared machine the CPU time says more than the
wall time; both are in the row.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
from results_file import provenance, write_row

import metarl_jax as mrl
from metarl_jax import experiments
from metarl_jax.ops.statistics import mean_with_interval

NAME = "gymnasium_learning"
REFERENCE = f"{Path(__file__).resolve().parent.parent / 'tests' / 'data' / 'gymnasium_cartpole.py'}:cartpole"
TARGET = 150.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="default: as the experiment says")
    parser.add_argument("--tasks", type=int, default=1000, help="held-out tasks")
    arguments = parser.parse_args()
    experiment = experiments.load(REFERENCE)
    changed = {} if arguments.iterations is None else {"iterations": arguments.iterations}
    problem = experiment.build(experiment.with_overrides(changed))
    began, cpu = time.perf_counter(), time.process_time()
    run = mrl.train(jax.random.key(arguments.seed), problem.algorithm, progress=True)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    evaluation_key = jax.random.fold_in(jax.random.key(1), arguments.seed)
    scores = mrl.evaluate(evaluation_key, problem.algorithm, run.state, problem, num_tasks=arguments.tasks)
    print(scores)
    by_episode = [mean_with_interval(scores.score[:, episode]) for episode in range(scores.score.shape[1])]
    second = by_episode[1]
    row = {
        "experiment": experiment.name,
        "metric": "return of the second episode",
        "seed": arguments.seed,
        "ours": second.mean,
        "ci95": [second.low, second.high],
        "score_by_stage": [estimate.mean for estimate in by_episode],
        "ci95_by_stage": [[estimate.low, estimate.high] for estimate in by_episode],
        "target": TARGET,
        "reached": bool(second.low >= TARGET),
        "heldout_tasks": arguments.tasks,
        "iterations": int(run.state.step),
        "steps": int(run.state.step) * problem.steps_per_iteration,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        **provenance(),
    }
    write_row(NAME, row, ("experiment", "metric", "seed"))


if __name__ == "__main__":
    main()
