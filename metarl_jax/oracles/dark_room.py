"""Reference learners for dark rooms with one goal: posterior sampling with the exact belief.

Every factory takes ``(family, episodes)``: a dark room of ``environments.dark_room``, and the number E of episodes in a
trial. The prior is uniform over all cells, whether they are goals of training or held out: a reference learner does not
know the split. The posterior is exact: the goal is in one of the cells that were not visited without a reward.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.dark_room import MOVES, DarkRoom, RoomParams
from metarl_jax.oracles.base import grid_index, grid_places, grid_ways, of_trials
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Discrete, EnvFamily, Inputs, Key, Oracle, Transition


class Search(NamedTuple):
    """The memory of a learner that searches for the goal."""

    possible: Array
    """The cells where the goal may still be, ``[cells]`` bool."""
    cell: Array
    """The cell before the last step, ``int32``."""
    goal: Array
    """The cell to which the learner goes, ``int32``."""


class Belief:
    """The exact posterior over the cell of the only goal of a grid, where only steps to the goal have positive rewards.

    Args:
        size: the number of cells along each side.
        prior: the cells where the goal may be before the first step, ``[cells]`` bool; they are equally likely.
    """

    def __init__(self, size: int, prior: Array) -> None:
        self.prior = prior
        self._after = jnp.asarray(grid_index(size, grid_places(size)[:, None] + MOVES))

    def update(self, possible: Array, cell: Array, inputs: Inputs) -> Array:
        """Update the posterior by the reward of a step.

        Args:
            possible: the cells where the goal may be before the step, ``[cells]`` bool.
            cell: the cell before the step. It is needed because the inputs do not show the cell after the last step of
                an episode.
            inputs: the inputs of the next step.

        Returns:
            The cells where the goal may be after the step, ``[cells]`` bool.
        """
        there = jnp.arange(len(self.prior)) == self._after[cell, inputs.prev_action]
        told = jnp.where(inputs.prev_reward > 0, there, jnp.logical_not(there))
        return jnp.where(inputs.first, possible, jnp.logical_and(possible, told))

    def draw(self, key: Key, possible: Array) -> Array:
        """Draw one of the cells where the goal may be, ``int32``."""
        rank = jnp.cumsum(possible)
        return jnp.sum(rank <= jax.random.uniform(key, dtype=jnp.float32) * rank[-1]).astype(jnp.int32)


def posterior_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """Make posterior sampling: it goes to a cell drawn from the posterior, by a random shortest path.

    If steps along both axes belong to a shortest path, both are equally likely. The learner draws another cell at the
    start of an episode, and whenever the cell that it goes to turns out not to be the goal. After the goal is found, it
    goes to the goal in each episode and stays there.

    Raises:
        ValueError: if the family is not a dark room with one goal, or ``episodes`` is not a positive whole number.
    """
    env = family.env
    if not isinstance(env, DarkRoom) or not env.stays or isinstance(family.observation_space, Discrete):
        raise ValueError("family must be a room of environments.dark_room with one goal")
    episodes, size = positive_int("episodes", episodes), env.size
    belief, ways = Belief(size, jnp.ones(size**2, bool)), jnp.asarray(grid_ways(size))

    def act(key: Key, memory: Search, inputs: Inputs) -> tuple[Search, Array, tuple[()]]:
        key_goal, key_way = jax.random.split(key)
        cell = (env.position(inputs.obs) @ jnp.array([size, 1])).astype(jnp.int32)
        possible = belief.update(memory.possible, memory.cell, inputs)
        begins = jnp.logical_or(inputs.first, inputs.prev_done > 0)
        anew = jnp.logical_or(begins, jnp.logical_not(possible[memory.goal]))
        goal = jnp.where(anew, belief.draw(key_goal, possible), memory.goal)
        way = jax.random.bernoulli(key_way, jnp.float32(0.5)).astype(jnp.int32)
        return Search(possible, cell, goal), ways[cell, goal, way], ()

    def run(key: Key, task: RoomParams) -> tuple[Search, Transition]:
        start = Search(belief.prior, jnp.int32(0), jnp.int32(0))
        return trial(key, act, start, family, task, episodes)

    return of_trials("posterior sampling", episodes, run)
