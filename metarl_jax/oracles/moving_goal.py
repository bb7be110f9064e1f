"""Reference learners for ``environments.moving_goal``: posterior sampling with and without knowledge of the moves.

Every factory takes ``(family, episodes)``: a family of ``environments.moving_goal``, and the number of episodes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.environments.moving_goal import RATES, GoalCourse, MovingGoal, action_values
from metarl_jax.oracles.base import grid_ways, of_trials
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key, Oracle, Transition

GRID = 8
"""The number of rates of the grid on which the posterior is computed."""


def _environment(family: EnvFamily) -> MovingGoal:
    if not isinstance(family.env, MovingGoal):
        raise ValueError(f"family must be one of environments.moving_goal, not one of {type(family.env).__name__}")
    return family.env


class Belief(NamedTuple):
    """The joint distribution of the rate and of the goal's cell at the next step."""

    probability: Array
    """``[H, cells]``; the sum is 1."""

    @property
    def goal(self) -> Array:
        """The probability of each cell, ``[cells]``."""
        return jnp.sum(self.probability, axis=0)


def prior(rates: np.ndarray, cells: int) -> Belief:
    """Return the belief before the first step, which is uniform."""
    return Belief(jnp.full((len(rates), cells), 1 / (len(rates) * cells), jnp.float32))


def observe(belief: Belief, cell: Array, reward: Array, rates: np.ndarray) -> Belief:
    """Return the belief after a step to a cell, its reward, and the move of the goal that may follow.

    If the belief excludes the reward, as it may if the rates are zero, the result is uniform.
    """
    there = jnp.arange(belief.probability.shape[1]) == cell
    joint = jnp.where(there == (reward > 0.5), belief.probability, 0.0)
    total = jnp.sum(joint)
    joint = jnp.where(total > 0, joint / jnp.maximum(total, 1e-30), prior(rates, len(there)).probability)
    rate = jnp.asarray(rates, jnp.float32)[:, None]
    return Belief((1 - rate) * joint + rate * jnp.mean(joint, axis=1, keepdims=True))


class _Memory(NamedTuple):
    belief: Belief
    goal: Array
    """The cell to which the learner goes, ``int32``."""


def _sampling(name: str, family: EnvFamily, episodes: int, rates: np.ndarray) -> Oracle:
    size, episodes = _environment(family).size, positive_int("episodes", episodes)
    ways, start = jnp.asarray(grid_ways(size)), prior(rates, size**2)

    def act(key: Key, memory: _Memory, inputs: Inputs) -> tuple[_Memory, Array, tuple[()]]:
        key_goal, key_way = jax.random.split(key)
        cell = inputs.obs
        begins = jnp.logical_or(inputs.first, inputs.prev_done > 0)
        after = observe(memory.belief, cell, inputs.prev_reward, rates)
        belief = jax.tree.map(lambda new, old: jnp.where(begins, old, new), after, start)
        # The learner keeps its goal until it arrives there without a reward, and stays at a goal that is found.
        failed = jnp.logical_and(cell == memory.goal, inputs.prev_reward < 0.5)
        drawn = jax.random.categorical(key_goal, jnp.log(belief.goal)).astype(jnp.int32)
        goal = jnp.where(inputs.prev_reward > 0.5, cell, jnp.where(failed, drawn, memory.goal))
        goal = jnp.where(begins, drawn, goal)
        way = jax.random.bernoulli(key_way, jnp.float32(0.5)).astype(jnp.int32)
        return _Memory(belief, goal), ways[cell, goal, way], ()

    def run(key: Key, task: GoalCourse) -> tuple[Carry, Transition]:
        return trial(key, act, _Memory(start, jnp.int32(0)), family, task, episodes)

    return of_trials(name, episodes, run)


def rates(number: int = GRID) -> np.ndarray:
    """Return a grid of equally likely rates of training tasks, ``[number]``."""
    low, high = np.log(RATES)
    return np.exp(low + (high - low) * (np.arange(number) + 0.5) / number)


def posterior_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """Make posterior sampling with the exact posterior of the goal, up to a grid of rates.

    The learner goes to a cell drawn from the posterior by a random shortest path. It draws another cell when it arrives
    without a reward. It stays at a goal that it finds, until a reward is missing.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _sampling("exact filter, posterior sampling", family, episodes, rates())


def without_moves(family: EnvFamily, episodes: int) -> Oracle:
    """Make posterior sampling that believes that the goal never moves.

    Its belief is uniform over the cells that were not visited without a reward since the last reward. It starts again
    when it excludes all cells, or when the goal that it found has moved.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _sampling("posterior sampling without moves", family, episodes, np.zeros(1))


def known_course(family: EnvFamily, episodes: int) -> Oracle:
    """Make the optimal learner of a known course, by dynamic programming. It knows where the goal will move.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    size, episodes = _environment(family).size, positive_int("episodes", episodes)

    def run(key: Key, task: GoalCourse) -> tuple[Carry, Transition]:
        table = action_values(task.goals, size)

        def act(key: Key, time: Array, inputs: Inputs) -> tuple[Array, Array, tuple[()]]:
            time = jnp.where(jnp.logical_or(inputs.first, inputs.prev_done > 0), 0, time + 1)
            return time, jnp.argmax(table[time, inputs.obs]).astype(jnp.int32), ()

        return trial(key, act, jnp.int32(0), family, task, episodes)

    return of_trials("best path, course known", episodes, run)
