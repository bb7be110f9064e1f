"""Reference learners for mazes: random actions, and a guide that knows the maze."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.maze import (
    ACTIONS,
    FORWARD,
    HEADINGS,
    LEFT,
    RIGHT,
    Maze,
    MazeParams,
    MazeState,
)
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.types import Adaptation, Array, EnvFamily, Inputs, Key, Oracle, State

Choose: TypeAlias = Callable[[Key, MazeState], Array]
"""The choice of an action, ``(key, state) -> action``."""


def _make(name: str, family: EnvFamily, episodes: int, plan: Callable[[MazeParams], Choose]) -> Oracle:
    env, episodes = family.env, positive_int("episodes", episodes)
    if not isinstance(env, Maze):
        raise ValueError(f"family must be one of environments.maze, not one of {type(env).__name__}")

    def adapt(key: Key, state: State, task: MazeParams) -> Adaptation:
        del state
        choose, begin = plan(task), env.reset_env(key, task)[1]

        def act(key: Key, state: MazeState, inputs: Inputs) -> tuple[MazeState, Array, tuple[()]]:
            """Choose an action. The memory simulates the state, which frames do not show but which is deterministic."""
            begins = inputs.prev_done > 0
            state = jax.tree.map(lambda start, now: jnp.where(begins, start, now), begin, state)
            action = choose(key, state).astype(jnp.int32)
            return env.step_env(key, state, action, task)[1], action, ()

        return Adaptation(episode_returns(trial(key, act, begin, family, task, episodes)[1], episodes))

    return Oracle(name, adapt)


def random(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that takes every action with equal probability.

    Raises:
        ValueError: if the family is not of mazes, or ``episodes`` is not a positive whole number.
    """

    def plan(task: MazeParams) -> Choose:
        del task
        return lambda key, state: jax.random.randint(key, (), 0, ACTIONS, jnp.int32)

    return _make("random", family, episodes, plan)


def cells_to_target(walls: Array, target: Array) -> Array:
    """Compute the number of steps between cells on the shortest path from each cell to the target.

    Args:
        walls: the walls as in ``MazeParams``, ``[2, n + 1]``.
        target: the position of the target, ``[2]``.

    Returns:
        The distances in cells, ``[n, n]`` int32; 0 in the target's cell.
    """
    size = walls.shape[1] - 1
    passages = _passages(walls)
    x, y = jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij")
    here = (x == target[0].astype(jnp.int32)) & (y == target[1].astype(jnp.int32))

    def relax(_: int, distance: Array) -> Array:
        return jnp.minimum(distance, 1 + jnp.min(jnp.where(passages, _neighbours(distance), size**2), axis=-1))

    return jax.lax.fori_loop(0, size**2, relax, jnp.where(here, 0, size**2).astype(jnp.int32))


_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""The directions east, west, north and south."""


def _passages(walls: Array) -> Array:
    """Return whether each cell is open in each direction, ``[n, n, 4]`` bool."""
    size = walls.shape[1] - 1
    closed = (walls[..., None] >> jnp.arange(size)) & 1 == 1
    x, y = closed[0], closed[1].T
    return ~jnp.stack([x[1:], x[:-1], y[:, 1:], y[:, :-1]], axis=-1)


def _neighbours(distance: Array) -> Array:
    """Return the values ``[n, n]`` of neighbouring cells, ``[n, n, 4]``; those beyond the outer walls are arbitrary."""
    return jnp.stack([jnp.roll(distance, (-x, -y), axis=(0, 1)) for x, y in _SIDES], axis=-1)


def guide(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that knows the maze: it turns to the centre of the next cell of a shortest path, and goes there.

    No learner is known to be much faster, but the guide is not optimal: corners can be cut, and another path of the
    same length may need fewer turns.

    Raises:
        ValueError: if the family is not of mazes, or ``episodes`` is not a positive whole number.
    """

    def plan(task: MazeParams) -> Choose:
        distance = cells_to_target(task.walls, task.target)
        far = jnp.where(_passages(task.walls), _neighbours(distance), distance.size)

        def choose(key: Key, state: MazeState) -> Array:
            del key
            cell = jnp.floor(state.position).astype(jnp.int32)
            side = jnp.array(_SIDES)[jnp.argmin(far[cell[0], cell[1]])]
            there = distance[cell[0], cell[1]] == 0
            way = jnp.where(there, task.target, cell + side + 0.5) - state.position
            turns = jnp.round(jnp.arctan2(way[1], way[0]) * HEADINGS / (2 * jnp.pi)).astype(jnp.int32)
            left = (turns - state.heading) % HEADINGS
            return jnp.where(left == 0, FORWARD, jnp.where(left <= HEADINGS // 2, LEFT, RIGHT))

        return choose

    return _make("guide, maze known", family, episodes, plan)
