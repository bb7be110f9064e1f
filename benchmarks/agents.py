"""What one step of ``Agent.act`` costs in a NumPy loop, and whether agents score what ``evaluate`` says.

    taskset -c 0 python benchmarks/agents.py
    taskset -c 0 python benchmarks/agents.py --kinds rl2 varibad

Time: the median milliseconds of ``act(observation, reward, done)`` after warm-up, for one task and for a batch of
tasks, and of ``adapt`` for learners that adapt by gradient descent. The time includes the conversion of NumPy arrays,
all checks and, for gradient-based learners, the record of episodes. The observation is constant, because the
environment is not what is measured. Score: every learner is trained for some iterations of its preset. It then meets
held-out tasks in a loop over ``act``, where only the environment is compiled. The total score is compared with that of
``evaluate`` on other held-out tasks: the two agree if their difference is below four of its standard errors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from results_file import provenance, table, write_row

import metarl_jax as mrl
from metarl_jax.ops.statistics import Estimate, mean_with_interval
from metarl_jax.types import Discrete, EnvFamily, Space

NAME = "agents"


class Kind(NamedTuple):
    """A learner: a preset, and the number of iterations that it is trained for here."""

    preset: str
    iterations: int
    settings: Mapping[str, Any] = MappingProxyType({})


KINDS = {
    "rl2": Kind("rl2-bandit-10x5", 200),
    "snail": Kind("rl2-snail-bandit-100x5", 10),
    "varibad": Kind("varibad-gridnavi", 200),
    "pearl": Kind("pearl-point-robot-sparse", 5, {"gradient_steps": 100}),
    "maml-trpo": Kind("maml-navigation", 5, {"adaptation_steps": 2}),
}
HEADER = ("learner", "one task, ms", "batch of 100, ms", "adapt, ms", "score in a loop", "score by evaluate", "agree")


class Tasks:
    """Held-out tasks of a family as a batch of environments that reset themselves, with NumPy in and out."""

    def __init__(self, family: EnvFamily, seed: int, number: int) -> None:
        key_tasks, self._key = jax.random.split(jax.random.key(seed))
        self.number = number
        self._tasks = jax.vmap(family.tasks.sample_heldout)(jax.random.split(key_tasks, number))
        self._reset, self._step = jax.jit(jax.vmap(family.env.reset)), jax.jit(jax.vmap(family.env.step))

    def _keys(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return jax.random.split(key, self.number)

    def reset(self) -> np.ndarray:
        obs, self._state = self._reset(self._keys(), self._tasks)
        return np.asarray(obs)

    def step(self, action: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observation, reward, whether the episode has ended, and the observation before any reset."""
        obs, self._state, reward, terminated, truncated, info = self._step(
            self._keys(), self._state, action, self._tasks
        )
        done = np.logical_or(terminated, truncated)
        return np.asarray(obs), np.asarray(reward), done, np.asarray(info["final_observation"])


def play(agent: mrl.Agent, env: Tasks, stages: int, episodes: int | None) -> np.ndarray:
    """The score of each stage on each task, ``[N, stages]``; of gradient-based learners a stage is a gradient step."""
    agent.reset(seed=0, batch=env.number)
    observation = env.reset()
    if episodes is None:
        returns, episode = np.zeros((env.number, stages + 1)), np.zeros(env.number, int)
        while np.any(episode < stages):
            observation, reward, done, final = env.step(agent.act(observation))
            agent.observe(reward, done, final)
            # The column behind the last stage takes what a task plays while others are not through.
            returns[np.arange(env.number), episode] += reward
            episode = np.minimum(episode + done, stages)
        return returns[:, :stages]
    scores = np.zeros((env.number, stages))
    for stage in range(stages):
        played: Any = agent.episodes()
        while min(map(len, played)) < episodes:
            observation, reward, done, final = env.step(agent.act(observation))
            agent.observe(reward, done, final)
            played = agent.episodes()
        used = [of_task[:episodes] for of_task in played]
        scores[:, stage] = [np.mean([episode.rewards.sum() for episode in of_task]) for of_task in used]
        agent.adapt(used)
    return scores


def an_observation(space: Space, batch: int | None) -> np.ndarray:
    shape = () if isinstance(space, Discrete) else space.shape
    dtype = np.int32 if isinstance(space, Discrete) else np.float32
    return np.zeros(shape if batch is None else (batch, *shape), dtype)


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def acting(agent: mrl.Agent, batch: int | None, steps: int) -> float:
    """Median milliseconds of ``act``. The time of the step at which an episode ends is one among many."""
    agent.reset(batch=batch)
    observation, rows = an_observation(agent.interface.observation_space, batch), () if batch is None else (batch,)
    reward, horizon, count = np.zeros(rows, np.float32), agent.interface.horizon, 0

    def act() -> None:
        nonlocal count
        count += 1
        done = np.full(rows, count % horizon == 0)
        agent.act(observation, reward, done, final_observation=observation)

    agent.act(observation)
    for _ in range(100):
        act()
    return milliseconds(act, steps)


def adapting(agent: mrl.Agent, episodes: int, repeats: int) -> float:
    """Median milliseconds of one step of adaptation on one task, from whole episodes."""
    agent.reset()
    observation, horizon = an_observation(agent.interface.observation_space, None), agent.interface.horizon
    for step in range(episodes * horizon):
        agent.act(observation)
        agent.observe(float(np.cos(step)), (step + 1) % horizon == 0, observation)
    played: Any = agent.episodes()

    def adapt() -> None:
        agent.adapt(played)
        agent.act(observation)  # waits for the adapted parameters
        agent.observe(0.0, False)

    adapt()
    return milliseconds(adapt, repeats)


def measure(name: str, kind: Kind, tasks: int, batch: int, steps: int) -> dict[str, Any]:
    experiment = mrl.experiments.get(kind.preset)
    settings = experiment.with_overrides(kind.settings)
    problem = experiment.build(settings)
    # A preset's schedules are kept; the run ends early.
    run = mrl.train(jax.random.key(0), problem.algorithm, iterations=kind.iterations)
    family: EnvFamily = problem.family
    agent = mrl.Agent(problem.algorithm, run.state, family)
    episodes = settings["episodes"] if agent.adapts_by_gradient else None
    one, many = (acting(agent, number, steps) for number in (None, batch))
    adapt = adapting(agent, episodes, max(3, steps // 100)) if episodes else None
    expected = mrl.evaluate(jax.random.key(1), problem.algorithm, run.state, family, num_tasks=tasks)
    here = play(agent, Tasks(family, 2, tasks), expected.score.shape[-1], episodes)
    in_loop, by_evaluate = mean_with_interval(here.sum(axis=-1)), expected.total()
    error = float(np.hypot(in_loop.standard_error, by_evaluate.standard_error))
    return {
        "experiment": kind.preset,
        "metric": "milliseconds a step",
        "learner": name,
        "iterations": kind.iterations,
        "settings": dict(kind.settings),
        "act_ms": one,
        "act_batch_ms": many,
        "batch": batch,
        "adapt_ms": adapt,
        "episodes_to_adapt": episodes,
        "steps": steps,
        **_estimate("score_in_loop", in_loop),
        **_estimate("score_by_evaluate", by_evaluate),
        "heldout_tasks": tasks,
        "agree": bool(abs(in_loop.mean - by_evaluate.mean) < 4 * error),
        **provenance(),
    }


def _estimate(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.mean, f"{name}_ci95": [estimate.low, estimate.high]}


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    def score(name: str) -> str:
        low, high = row[f"{name}_ci95"]
        return f"{row[name]:.2f} ({low:.2f} to {high:.2f})"

    adapt = "" if row["adapt_ms"] is None else f"{row['adapt_ms']:.1f}"
    times = f"{row['act_ms']:.2f}", f"{row['act_batch_ms']:.2f}", adapt
    agree = "yes" if row["agree"] else "no"
    return f"{row['learner']} ({row['experiment']})", *times, score("score_in_loop"), score("score_by_evaluate"), agree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--tasks", type=int, default=500, help="held-out tasks of the comparison of scores")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000, help="steps that are timed")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.kinds:
        row = measure(name, KINDS[name], arguments.tasks, arguments.batch, arguments.steps)
        write_row(NAME, row)
        rows.append(row)
        print(f"{name}: {row['act_ms']:.3f} ms, of a batch {row['act_batch_ms']:.3f} ms", flush=True)
    print(table(HEADER, map(cells, rows)))


if __name__ == "__main__":
    main()
