"""Draw the animation of README.md: a trained RL² agent that searches for a hidden goal in GridNavi.

    python benchmarks/picture.py                      # train for about two minutes on one core, then draw
    python benchmarks/picture.py --iterations 200     # a shorter training

The left panel shows the grid, the agent and the exact belief about the goal. The agent is not given this belief: it
only sees its cell and its previous action and reward. The right panel shows the reward of each episode of this trial,
and the mean over held-out tasks of this agent and of exact Bayes-optimal play.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import metarl_jax as mrl
from metarl_jax.environments.gridnavi import FOUND, goals

EXPERIMENT = "rl2-gridnavi"
PICTURE = Path(__file__).with_name("adaptation.gif")
EPISODES = 4
TASKS = 2000
"""Held-out tasks of the means in the right panel."""
TASK = 9
"""The seed of the task that is drawn: the agent finds this goal in its second episode."""
COLOURS = 96
MILLISECONDS = 140
LAST_MILLISECONDS = 900
"""The time that the last frame of an episode is shown."""


class Moment(NamedTuple):
    """One frame of a trial."""

    episode: int
    step: int
    cell: tuple[int, int]
    path: list[tuple[int, int]]
    """The cells of this episode so far."""
    possible: set[tuple[int, int]]
    """The cells where the goal may be, given all rewards of the trial so far."""
    returns: list[float]
    """The reward of each episode so far."""


def play(agent: mrl.Agent, family: Any, task: Any, seed: int) -> list[Moment]:
    """Let an agent play one trial."""
    env = family.env
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    key = jax.random.key(seed)
    agent.reset(seed=seed)
    possible, moments, returns = set(goals(env.size)), [], []
    for episode in range(EPISODES):
        observation, state = reset(key, task)
        path = [env.place(np.asarray(observation))]
        returns.append(0.0)
        moments.append(Moment(episode, 0, path[-1], list(path), set(possible), list(returns)))
        for number in range(1, family.horizon + 1):
            action = agent.act(observation)
            # The environment is deterministic, and its step resets it where the episode ends.
            observation, state, reward, _, _, info = step(key, state, action, task)
            agent.observe(float(reward), number == family.horizon)
            path.append(env.place(np.asarray(info["final_observation"])))
            possible = {path[-1]} if float(reward) == FOUND else possible - {path[-1]}
            returns[-1] += float(reward)
            moments.append(Moment(episode, number, path[-1], list(path), set(possible), list(returns)))
    return moments


def draw(moment: Moment, size: int, goal: tuple[int, int], means: np.ndarray, optimum: np.ndarray) -> Figure:
    """One frame.

    Args:
        moment: what to draw.
        size: cells along each side of the grid.
        goal: its cell.
        means: ``[EPISODES]``, the mean reward of the agent's episodes over held-out tasks.
        optimum: ``[EPISODES]``, that of Bayes-optimal play.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.2, 3.5), dpi=100, width_ratios=(1, 1.25), layout="constrained"
    )
    belief = np.zeros((size, size))
    for x, y in moment.possible:
        belief[y, x] = 1 / len(moment.possible)
    # The square root keeps a belief over many cells visible.
    left.imshow(np.sqrt(belief), origin="lower", cmap="Greens", vmin=0, vmax=1.2)
    left.set_xticks(np.arange(-0.5, size), [])
    left.set_yticks(np.arange(-0.5, size), [])
    left.grid(color="white", linewidth=2)
    left.tick_params(length=0)
    left.plot(*zip(*moment.path, strict=True), color="tab:blue", linewidth=2.5, alpha=0.6)
    left.plot(*goal, marker="*", color="tab:orange", markersize=26, markeredgecolor="black")
    left.plot(*moment.cell, marker="o", color="tab:blue", markersize=11, markeredgecolor="white")
    left.set_title(f"episode {moment.episode + 1}, step {moment.step}", fontsize=11)
    left.set_xlabel("green: where the goal may still be\nstar: the goal, which the agent does not see", fontsize=9)

    numbers = np.arange(1, EPISODES + 1)
    shown = moment.returns + [0.0] * (EPISODES - len(moment.returns))
    right.bar(numbers, shown, width=0.55, color="tab:blue", alpha=0.6, label="this trial")
    right.plot(numbers, means, "o", color="black", markersize=6, label=f"RL², mean of {TASKS} held-out tasks")
    for number, best in zip(numbers, optimum, strict=True):
        label = "Bayes-optimal, mean" if number == 1 else None
        right.plot((number - 0.4, number + 0.4), (best, best), color="tab:red", linewidth=1.5, label=label)
    right.axhline(0, color="grey", linewidth=0.8)
    right.set(xticks=numbers, ylim=(-2, 17), xlabel="episode")
    right.set_title("reward of the episode", fontsize=11)
    right.legend(loc="upper left", fontsize=8, ncols=1, frameon=False)
    for side in ("top", "right"):
        right.spines[side].set_visible(False)
    return figure


def rendered(figure: Figure) -> Image.Image:
    """A figure in pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def animate(agent: mrl.Agent, family: Any, seed: int, means: np.ndarray, optimum: np.ndarray, output: Path) -> None:
    """Write the animation of one trial; the arguments are those of ``play`` and ``draw``."""
    task = family.tasks.sample_heldout(jax.random.key(seed))
    x, y = (int(coordinate) for coordinate in task.goals[0])
    moments = play(agent, family, task, seed)
    pictures = [rendered(draw(moment, family.env.size, (x, y), means, optimum)) for moment in moments]
    # One palette for all frames, so that the file stores only the parts of a frame that change.
    samples = [np.asarray(picture) for picture in pictures[:: family.horizon // 2]]
    palette = Image.fromarray(np.concatenate(samples)).quantize(COLOURS)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    durations = [LAST_MILLISECONDS if moment.step == family.horizon else MILLISECONDS for moment in moments]
    durations[-1] *= 3
    first.save(output, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
    print(f"{output}: {len(pictures)} frames, {output.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--task", type=int, default=TASK, help="the seed of the held-out task that is drawn")
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    experiment = mrl.experiments.get(EXPERIMENT)
    problem = experiment.build(experiment.with_overrides({"iterations": arguments.iterations}))
    family, algorithm = problem.family, problem.algorithm
    run = mrl.train(jax.random.key(0), algorithm, progress=True)
    means, optimum = (
        np.asarray(mrl.evaluate(jax.random.key(1), learner, state, family, num_tasks=TASKS).score).mean(axis=0)
        for learner, state in ((algorithm, run.state), (mrl.oracles.gridnavi.bayes_optimal(family, EPISODES), ()))
    )
    print(f"means of {TASKS} held-out tasks: {means.round(2)}, sum {means.sum():.2f}")
    print(f"Bayes-optimal: {optimum.round(2)}, sum {optimum.sum():.2f}")
    animate(mrl.Agent(algorithm, run.state, family), family, arguments.task, means, optimum, arguments.output)


if __name__ == "__main__":
    main()
