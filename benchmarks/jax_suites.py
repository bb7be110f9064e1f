"""RL² against policies without a memory on other suites in JAX: layouts of Navix, and worlds of Craftax-Classic.

    nice python benchmarks/jax_suites.py rl2-navix
    nice python benchmarks/jax_suites.py rl2-craftax-classic --seed 1

Each preset is trained, and so is RL² with the network "none", which has no memory, with the same settings and as many
steps. Both adapt to the same held-out tasks with the same protocol. The bar is a return of RL² that is higher with 95 %
confidence: the whole interval of the mean difference, over paired tasks, is above zero. The program also writes the
difference between the last and the first episode of RL², which is zero if the memory only helps within an episode.
Times include compilation and do not include the evaluation. On a shared machine, the CPU time says more than the wall
time.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import numpy as np
from results_file import provenance, write_row

import metarl_jax as mrl
from metarl_jax import experiments
from metarl_jax.ops.statistics import mean_with_interval

NAME = "jax_suites"
PRESETS = ("rl2-navix", "rl2-craftax-classic")
# The memoryless policy has two layers; the second is as wide as the GRU.
WITHOUT_MEMORY = {"units": 64}


def trained(experiment: experiments.Experiment, settings: dict[str, Any], seed: int, tasks: int) -> tuple[Any, dict]:
    """Train one learner; return its returns on held-out tasks, ``[tasks, episodes]``, and a part of its row."""
    known = {name: value for name, value in settings.items() if name in experiment.fields()}
    problem = experiment.build(experiment.with_overrides(known))
    began, cpu = time.perf_counter(), time.process_time()
    run = mrl.train(jax.random.key(seed), problem.algorithm, progress=True)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    evaluation_key = jax.random.fold_in(jax.random.key(1), seed)
    scores = mrl.evaluate(
        evaluation_key, problem.algorithm, run.state, problem, num_tasks=tasks, batch_size=min(tasks, 250)
    )
    by_episode = [mean_with_interval(column) for column in scores.score.T]
    return scores.score, {
        "score_by_stage": [estimate.mean for estimate in by_episode],
        "ci95_by_stage": [[estimate.low, estimate.high] for estimate in by_episode],
        "iterations": int(run.state.step),
        "steps": int(run.state.step) * problem.steps_per_iteration,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="default: as the preset says")
    parser.add_argument("--tasks", type=int, default=1000, help="held-out tasks")
    arguments = parser.parse_args()
    experiment = experiments.get(arguments.preset)
    settings = dict(experiment.settings)
    if arguments.iterations is not None:
        settings["iterations"] = arguments.iterations
    memoryless = experiments.combination("rl2", experiment.family, "none")
    with_memory, row = trained(experiment, settings, arguments.seed, arguments.tasks)
    without, baseline = trained(memoryless, {**settings, **WITHOUT_MEMORY}, arguments.seed, arguments.tasks)
    ours, theirs = (mean_with_interval(np.mean(scores, axis=1)) for scores in (with_memory, without))
    gain = mean_with_interval(np.mean(with_memory - without, axis=1))
    adapted = mean_with_interval(with_memory[:, -1] - with_memory[:, 0])
    print(f"RL² {ours.mean:.3f}, without a memory {theirs.mean:.3f}")
    for what, found in (("gain", gain), ("last minus first episode", adapted)):
        print(f"{what} {found.mean:.3f} ({found.low:.3f} .. {found.high:.3f})")
    row = {
        "experiment": experiment.name,
        "metric": "return of an episode, mean over the trial",
        "seed": arguments.seed,
        "ours": ours.mean,
        "ci95": [ours.low, ours.high],
        "target": theirs.mean,
        "gain": gain.mean,
        "gain_ci95": [gain.low, gain.high],
        "last_minus_first": adapted.mean,
        "last_minus_first_ci95": [adapted.low, adapted.high],
        "reached": bool(gain.low > 0),
        "heldout_tasks": arguments.tasks,
        **row,
        "without_memory": baseline,
        **provenance(),
    }
    write_row(NAME, row, ("experiment", "metric", "seed"))


if __name__ == "__main__":
    main()
