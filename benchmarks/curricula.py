"""Prioritised level replay on GridNavi with rare far goals: the worst decile of tasks at equal environment steps.

    nice python benchmarks/curricula.py                   # all cells, three seeds each; call again to go on
    nice python benchmarks/curricula.py --cells plain     # one way of choosing the tasks of training

RL² is trained on ``environments.gridnavi.rare_far_goals`` in three ways: without a curriculum (tasks are drawn from the
distribution of tasks), with prioritised level replay, and with its robust variant. The steps in which the curricula
score tasks count as environment steps, so curricula have fewer meta-iterations.

The family has finitely many goals, so a score is the mean return of a trial on each goal, over many trials. The "worst
decile" is the mean over the tasks with the lowest mean returns that together have a probability of 10 %. It is computed
for two distributions: the family's own, and equally likely goals. "Regret" is the difference from the optimal return of
the known goal.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from results_file import provenance, write_row

import metarl_jax as mrl
from metarl_jax.environments import gridnavi
from metarl_jax.environments.dark_room import RoomParams
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.types import Algorithm, EnvFamily

NAME = "curricula"
SIZE, HORIZON, EPISODES, FAR_SHARE = 5, 15, 4, 0.02
CELLS = {"plain": None, "plr": 0.5, "robust plr": 1.0}
"""The probability of replay of each cell; None: no curriculum."""
STEPS = 12_000_000
WORST = 0.1
PPO: dict[str, Any] = {
    **{"episodes": EPISODES, "trials": 64, "epochs": 2, "minibatches": 4, "discount": 0.97, "gae_lambda": 0.95},
    **{"learning_rate": 3e-3, "entropy_coefficient": 0.1, "entropy_decay": 0.9},
}
NETWORK: dict[str, Any] = {"hidden_size": 32, "embedding_size": 32, "previous_observation": True}
CURRICULUM: dict[str, Any] = {"buffer_size": 256, "new_tasks": 16, "rescored_tasks": 16}


def worst(scores: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean of the lowest scores, whose tasks together have the probability ``WORST``."""
    order = np.argsort(scores)
    cumulative = np.minimum(np.cumsum(probability[order]), WORST)
    return float(np.sum(np.diff(cumulative, prepend=0) * scores[order]) / WORST)


def make(cell: str, steps: int) -> tuple[Algorithm, int]:
    """Make the algorithm of a cell, and return it with the number of environment steps of a run."""
    family = gridnavi.rare_far_goals(SIZE, HORIZON, FAR_SHARE)
    replay, trial = CELLS[cell], EPISODES * HORIZON
    config = mrl.curricula.Config(**CURRICULUM, replay_probability=replay or 0.0)
    first, others = (0, 0) if replay is None else (config.buffer_size, config.scored_tasks)
    per_iteration = (PPO["trials"] + others) * trial
    iterations = (steps - first * trial) // per_iteration

    def algorithm(family: EnvFamily) -> Algorithm:
        policy = mrl.networks.recurrent.make(family, mrl.networks.recurrent.Settings(**NETWORK))
        return mrl.algorithms.rl2.make(family, policy, mrl.algorithms.rl2.Config(**PPO, iterations=iterations))

    made = algorithm(family) if replay is None else mrl.curricula.prioritised(algorithm, family, config)
    return made, first * trial + iterations * per_iteration


def measure(cell: str, seed: int, trials: int, steps: int) -> dict[str, Any]:
    """Train one seed, and return the mean return of a trial on each goal."""
    algorithm, steps = make(cell, steps)
    began, cpu = time.perf_counter(), time.process_time()
    run = mrl.train(jax.random.key(seed), algorithm, progress=True)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu

    def one(key: jax.Array, goal: jax.Array) -> jax.Array:
        return jnp.sum(algorithm.adapt(key, run.state.algorithm, RoomParams(goal[None], HORIZON)).score)

    goals = jnp.array(gridnavi.goals(SIZE), jnp.int32)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2**31), seed), (len(goals), trials))
    returns = jax.jit(jax.vmap(jax.vmap(one, (0, None))))(keys, goals)
    found = {"returns": np.asarray(returns).mean(axis=1).tolist(), "env_steps": steps, "wall_s": wall_s, "cpu_s": cpu_s}
    return found | {"iterations": int(run.state.step), "diverged": bool(run.diverged), "trials": trials}


def summarise(found: dict[str, Any]) -> dict[str, float]:
    """Return the measures of one seed, by name."""
    family = gridnavi.rare_far_goals(SIZE, HORIZON, FAR_SHARE)
    assert family.optimal_return is not None
    goals = gridnavi.goals(SIZE)
    tasks = [RoomParams(jnp.array([goal], jnp.int32), HORIZON) for goal in goals]
    best = np.array([EPISODES * float(family.optimal_return(task)) for task in tasks])
    own, equal = gridnavi.goal_probabilities(SIZE, FAR_SHARE), np.full(len(goals), 1 / len(goals))
    returns = np.array(found["returns"])
    return {
        "worst decile": worst(returns, own),
        "worst decile, goals equally likely": worst(returns, equal),
        "reward of a trial": float(returns @ own),
        "reward of a trial, goals equally likely": float(returns @ equal),
        "regret of a trial, goals equally likely": float((best - returns) @ equal),
    }


def report(seeds: dict[str, list[dict[str, Any]]]) -> None:
    """Write a row for each cell and measure; a curriculum's row has the difference from training without it."""
    measures = {cell: [summarise(found) for found in results] for cell, results in seeds.items()}
    for cell, results in seeds.items():
        for metric in measures[cell][0]:
            by_seed = [one[metric] for one in measures[cell]]
            estimate = mean_with_interval(by_seed)
            row = {
                "experiment": f"rl2-gridnavi-rare-far-goals ({cell})",
                "metric": metric,
                "ours": estimate.mean,
                "ci95": [estimate.low, estimate.high],
                "by_seed": by_seed,
                "seeds": len(by_seed),
                "heldout_tasks": len(results[0]["returns"]) * results[0]["trials"],
                "env_steps": results[0]["env_steps"],
                "iterations": results[0]["iterations"],
                "diverged": [one["diverged"] for one in results],
                "train_wall_s": [round(one["wall_s"], 1) for one in results],
                "train_cpu_s": [round(one["cpu_s"], 1) for one in results],
                "returns_by_goal": [[round(x, 3) for x in one["returns"]] for one in results],
                "settings": {
                    **{"size": SIZE, "horizon": HORIZON, "far_share": FAR_SHARE, **PPO, **NETWORK},
                    **({} if CELLS[cell] is None else {**CURRICULUM, "replay_probability": CELLS[cell]}),
                },
                **provenance(),
            }
            if cell != "plain" and len(by_seed) == len(measures.get("plain", [])):
                difference = mean_with_interval(np.array(by_seed) - [one[metric] for one in measures["plain"]])
                row["difference"] = difference.mean
                row["difference_ci95"] = [difference.low, difference.high]
                if metric.startswith("worst decile"):
                    # The bar is a better worst decile than without a curriculum, at equal steps.
                    row["reached"] = difference.low > 0
            write_row(NAME, row)
            text = f"{cell}: {metric} {estimate.mean:.2f}, seeds {', '.join(f'{x:.2f}' for x in by_seed)}"
            print(text + (f", difference {row['difference']:.2f}" if "difference" in row else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="seeds from 100 on are for choosing settings")
    parser.add_argument("--trials", type=int, default=200, help="held-out trials on each goal")
    parser.add_argument("--steps", type=int, default=STEPS, help="environment steps of a run, with those of scores")
    parser.add_argument("--folder", type=Path, default=Path("runs/curricula"), help="where results of seeds are kept")
    parser.add_argument("--one", action="store_true", help="train at most one seed, and stop")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    seeds: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for cell in arguments.cells:
            path = arguments.folder / f"{cell.replace(' ', '-')}-{arguments.steps}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(measure(cell, seed, arguments.trials, arguments.steps)))
                print(cell, seed, summarise(json.loads(path.read_text())), flush=True)
                if arguments.one:
                    return
            seeds.setdefault(cell, []).append(json.loads(path.read_text()))
    if arguments.first_seed < 100:
        report(seeds)


if __name__ == "__main__":
    main()
