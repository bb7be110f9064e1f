"""RL² in mazes with a first-person view: steps to the target in the first and in the second episode of a trial.

python benchmarks/maze_navigation.py                                   # tiny mazes, one seed
python benchmarks/maze_navigation.py --sizes small large --seeds 3     # call again after an interruption to go on

A run that was interrupted continues where it stopped. A learner that was trained in mazes of one size is also tested in
mazes of the next size. The difference between the episodes is paired by trial, and its interval shows whether learners
remember the maze. Published steps are from mazes of another geometry (``metarl_jax.environments.maze``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from results_file import provenance, write_row
from rl2_table import train_seconds

from metarl_jax import experiments
from metarl_jax.environments import maze
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.rollout import trial
from metarl_jax.runs import compilation_cache, train
from metarl_jax.runs.folder import RunConfig, RunFolder, default_evaluate_every
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key, Params, Policy

EPISODES = 2
TRIALS_AT_ONCE = 50
PUBLISHED = {
    "small": {"random": (188.6, 187.7), "RL² (LSTM)": (52.4, 39.1), "SNAIL": (50.3, 34.8)},
    "large": {"random": (420.2, 420.8), "RL² (LSTM)": (180.1, 150.6), "SNAIL": (140.5, 105.9)},
}
FAMILIES = {"tiny": maze.tiny, "small": maze.small, "large": maze.large}


def measure(family: EnvFamily, policy: Policy, params: Params, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure the steps of each episode, and whether it reached the target, ``[N, 2]`` each.

    An episode that does not reach the target counts with the limit of steps.
    """

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        carry, output = policy.step(params, carry, inputs)
        return carry, output.distribution.sample(key), ()

    def one(key: Key) -> tuple[Array, Array]:
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample_heldout(key_task)
        _, t = trial(key_trial, act, policy.initial_carry(params), family, task, EPISODES)

        def by_episode(steps: Array) -> Array:
            counted = jnp.where(t.valid, steps, False).astype(jnp.int32)
            return jax.ops.segment_sum(counted, t.episode, num_segments=EPISODES)

        return by_episode(t.valid), by_episode(t.terminated)

    # The keys of training come from small seeds, and this key from a large one. All seeds get the same mazes.
    keys = jax.random.split(jax.random.key(2**31 + 11), trials)
    steps, reached = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=TRIALS_AT_ONCE))(keys)
    return np.asarray(steps, np.float64), np.asarray(reached, np.float64)


def learner(run: RunFolder) -> tuple[Policy, Params]:
    """Return the policy of a run's network, and its newest parameters."""
    config = run.config
    experiment = config.resolve()
    policy = experiment.make_networks(config.settings, experiment.make_family(config.settings))
    assert isinstance(policy, Policy)
    state = train.load_states(run, train.build(config)).state.algorithm
    return policy, jax.tree.map(lambda x: x[0], state.params)


def trained(size: str, seed: int, folder: Path, minutes: float, changes: dict[str, Any]) -> RunFolder | None:
    """Train the run of a seed to its end, and return it; None if the time limit came first."""
    name = f"rl2-maze-{size}"
    path = folder / f"{name}-seed-{seed}"
    if path.exists():
        run = RunFolder(path)
    else:
        settings = experiments.get(name).with_overrides(changes)
        every = default_evaluate_every(settings)
        run = train.new_run(
            path, RunConfig(experiment=name, settings=settings, seed=seed, seeds=1, evaluate_every=every)
        )
    return run if train.train(run, train.Options(time_limit=minutes)).finished else None


def row(trained_in: str, tested_in: str, runs: list[RunFolder], trials: int) -> dict[str, Any]:
    """Return the row of results of all seeds that were trained in one size of mazes and tested in another."""
    measured = [measure(FAMILIES[tested_in](), *learner(run), trials) for run in runs]
    # All seeds got the same mazes, so the mean over seeds in one maze is one observation.
    steps, reached = (np.mean(x, axis=0) for x in zip(*measured, strict=True))
    gain = mean_with_interval(steps[:, 0] - steps[:, 1])
    by_episode = [mean_with_interval(steps[:, episode]) for episode in range(EPISODES)]
    summary = json.loads((runs[0].path / "summary.json").read_text())
    return {
        "experiment": f"rl2-maze-{trained_in}",
        "tested_in": tested_in,
        "metric": "steps_to_target",
        "ours": [episode.mean for episode in by_episode],
        "ci95": [[episode.low, episode.high] for episode in by_episode],
        "by_seed": [steps.mean(axis=0).tolist() for steps, _ in measured],
        "fewer_in_second": gain.mean,
        "fewer_in_second_ci95": [gain.low, gain.high],
        "reached": reached.mean(axis=0).tolist(),
        "paper": PUBLISHED.get(tested_in),
        "source": "Duan et al. 2016; Mishra et al. 2018" if tested_in in PUBLISHED else None,
        "seeds": len(runs),
        "heldout_tasks": trials,
        "env_steps": summary["steps"],
        "train_wall_s": float(np.mean([train_seconds(run.path) for run in runs])),
        "settings": runs[0].config.settings,
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(FAMILIES), default=["tiny"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=1000, help="held-out mazes (1000 published)")
    parser.add_argument("--iterations", type=int, help="number of training iterations; default: the preset's")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    arguments = parser.parse_args()
    compilation_cache.enable()
    changes = {"iterations": arguments.iterations} if arguments.iterations else {}
    for size in arguments.sizes:
        runs = [trained(size, seed, arguments.folder, arguments.minutes, changes) for seed in range(arguments.seeds)]
        if None in runs:
            print(f"{size}: time ran out before every seed was trained; call again to go on", flush=True)
            continue
        sizes = list(FAMILIES)
        for tested_in in sizes[sizes.index(size) :][:2]:
            result = row(size, tested_in, [run for run in runs if run], arguments.trials)
            write_row("maze_navigation", result, ("experiment", "tested_in", "metric"))
            first, second = result["ours"]
            low, high = result["fewer_in_second_ci95"]
            print(
                f"trained in {size}, tested in {tested_in} mazes: {first:.1f} steps, then {second:.1f}; fewer by"
                f" {result['fewer_in_second']:.1f} [{low:.1f}, {high:.1f}]; published {result['paper']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
