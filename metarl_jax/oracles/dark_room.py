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
    places = grid_places(size)
    after, ways = jnp.asarray(grid_index(size, places[:, None] + MOVES)), jnp.asarray(grid_ways(size))

    def act(key: Key, memory: Search, inputs: Inputs) -> tuple[Search, Array, tuple[()]]:
        key_goal, key_way = jax.random.split(key)
        cell = (env.position(inputs.obs) @ jnp.array([size, 1])).astype(jnp.int32)
        # The inputs do not show the cell after the last step of an episode.
        there = jnp.arange(size**2) == after[memory.cell, inputs.prev_action]
        told = jnp.where(inputs.prev_reward > 0, there, jnp.logical_not(there))
        possible = jnp.where(inputs.first, memory.possible, jnp.logical_and(memory.possible, told))
        rank = jnp.cumsum(possible)
        drawn = jnp.sum(rank <= jax.random.uniform(key_goal, dtype=jnp.float32) * rank[-1])
        begins = jnp.logical_or(inputs.first, inputs.prev_done > 0)
        goal = jnp.where(jnp.logical_or(begins, jnp.logical_not(possible[memory.goal])), drawn, memory.goal)
        goal = goal.astype(jnp.int32)
        way = jax.random.bernoulli(key_way, jnp.float32(0.5)).astype(jnp.int32)
        return Search(possible, cell, goal), ways[cell, goal, way], ()

    def run(key: Key, task: RoomParams) -> tuple[Search, Transition]:
        start = Search(jnp.ones(size**2, bool), jnp.int32(0), jnp.int32(0))
        return trial(key, act, start, family, task, episodes)

    return of_trials("posterior sampling", episodes, run)
