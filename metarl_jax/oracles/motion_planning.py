"""Planners without meta-learning, as reference learners for ``environments.motion_planning``.

Planners use square grids (``environments.motion_planning.distances``). A robot moves by up to ``REACH`` along each
axis. A diagonal move between cells therefore takes no longer than a straight one, and no correction for other angles is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.motion_planning import (
    DIRECTIONS,
    NEIGHBOURS,
    REACH,
    HiddenMap,
    Map,
    cell_of,
    centres,
    distances,
    free_cells,
)
from metarl_jax.oracles.base import of_trials
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.types import Adaptation, Array, Carry, EnvFamily, Inputs, Key, Oracle, State, Task, Transition

FINE = 48
"""The number of cells along each side of the grid for planning on known maps; a step moves by up to four cells."""
COARSE = 24
"""The number of cells along each side of the grid of a planner that explores; a step moves by up to two cells."""
DETOUR = 6
"""The number of steps of a random detour."""


def descend(free: Array, distance: Array, place: Array, moves: int) -> Array:
    """Return the centre of the cell that is some moves of steepest descent away.

    Args:
        free: the cells that are free, ``[G, G]`` bool.
        distance: the number of moves from each cell to the goal, ``[G, G]``.
        place: the position (x, y) where the descent begins.
        moves: the number of moves.
    """
    size = free.shape[0]
    # Moves along an axis come first, so that of two equal neighbours the nearer one is chosen.
    order = sorted(range(len(NEIGHBOURS)), key=lambda i: sum(map(abs, NEIGHBOURS[i])))
    steps = jnp.array([NEIGHBOURS[i] for i in order], jnp.int32)
    cell = cell_of(place, size)
    for _ in range(moves):
        x, y = cell[0], cell[1]
        to, beside_x, beside_y = (
            jnp.clip(cell + steps * jnp.array(mask, jnp.int32), 0, size - 1) for mask in ((1, 1), (1, 0), (0, 1))
        )
        possible = (
            free[to[:, 0], to[:, 1]] & free[beside_x[:, 0], beside_x[:, 1]] & free[beside_y[:, 0], beside_y[:, 1]]
        )
        near = jnp.where(possible, distance[to[:, 0], to[:, 1]], jnp.inf)
        best = jnp.argmin(near)
        cell = jnp.where(near[best] < distance[x, y], to[best], cell)
    return (cell.astype(jnp.float32) + 0.5) / size


def _environment(family: EnvFamily) -> HiddenMap:
    if not isinstance(family.env, HiddenMap):
        raise ValueError(f"family must be one of environments.motion_planning, not one of {type(family.env).__name__}")
    return family.env


class _Seen(NamedTuple):
    """The observation of a robot, in units of the square."""

    position: Array
    distance: Array
    free: Array
    stuck: Array
    """Whether the robot moved by less than a quarter of the last action of this episode."""
    first: Array
    """Whether an episode begins."""


class _Memory(NamedTuple):
    before: Array
    """The position before the last step."""
    intended: Array
    """The move that was intended at the last step, in units of distance."""
    own: Any
    """The memory of the planner."""


def _make(
    name: str,
    family: EnvFamily,
    episodes: int,
    start: Callable[[Task], Any],
    aim: Callable[[Key, Any, _Seen], tuple[Any, Array]],
) -> Oracle:
    """Make an oracle that moves towards a place.

    Args:
        name: the name of the oracle.
        family: the family of tasks.
        episodes: the number of episodes of a trial.
        start: ``task ->`` the memory of the planner at the start of a trial.
        aim: ``(key, memory, what the robot sees) -> (memory, place)``.
    """
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def act(key: Key, memory: _Memory, inputs: Inputs) -> tuple[_Memory, Array, tuple[()]]:
        position = env.position(inputs.obs)
        first = jnp.logical_or(inputs.first, inputs.prev_done > 0)
        short = jnp.max(jnp.abs(position - memory.before)) < 0.25 * jnp.max(jnp.abs(memory.intended))
        stuck = jnp.logical_and(short, jnp.logical_not(first))
        seen = _Seen(position, env.distance(inputs.obs), env.free(inputs.obs), stuck, first)
        own, place = aim(key, memory.own, seen)
        action = jnp.clip((place - position) / REACH, -1.0, 1.0)
        return _Memory(position, REACH * action, own), action, ()

    def run(key: Key, task: Task) -> tuple[Carry, Transition]:
        memory = _Memory(jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.float32), start(task))
        return trial(key, act, memory, family, task, episodes)

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del state
        steps = run(key, task)[1]
        return Adaptation(episode_returns(steps, episodes), (), episode_successes(steps, family, task, episodes))

    return of_trials(name, episodes, run)._replace(adapt=adapt)


def shortest_path(family: EnvFamily, episodes: int) -> Oracle:
    """Make a robot that knows the map and the goal, and takes a shortest path on a grid of ``FINE`` x ``FINE`` cells.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    moves = round(REACH * FINE)

    def start(task: Map) -> tuple[Array, Array]:
        free = free_cells(task.boxes, FINE)
        goal = cell_of(task.goal, FINE)
        goals = jnp.zeros((FINE, FINE), bool).at[goal[0], goal[1]].set(True)
        # The goal is not inside a box, but the centre of its cell may be.
        free = jnp.logical_or(free, goals)
        return free, distances(free, goals)

    def aim(key: Key, own: tuple[Array, Array], seen: _Seen) -> tuple[Any, Array]:
        del key
        return own, descend(*own, seen.position, moves)

    return _make("shortest path, map known", family, episodes, start, aim)


class _Detour(NamedTuple):
    """The memory of a robot that takes random detours."""

    possible: Array
    """The cells where the goal may be, ``[COARSE, COARSE]`` bool."""
    direction: Array
    """The direction of the current detour, ``[2]``."""
    left: Array
    """The number of steps that are left of it, ``int32``."""


def _where_the_goal_may_be(possible: Array, seen: _Seen) -> Array:
    """Return the cells whose distance from the robot is that of the goal, among those that were possible before."""
    between = jnp.linalg.norm(centres(COARSE) - seen.position, axis=-1)
    # The goal is at most half a diagonal away from the centre of its cell.
    fits = jnp.logical_and(possible, jnp.abs(between - seen.distance) <= 0.72 / COARSE)
    return jnp.where(jnp.any(fits), fits, possible)


def greedy(family: EnvFamily, episodes: int) -> Oracle:
    """Make a robot that goes straight to the goal and, where it is blocked, takes a detour in a random direction.

    It has no map. It finds the goal from the distances that it observed in the trial.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """

    def start(task: Map) -> _Detour:
        del task
        return _Detour(jnp.ones((COARSE, COARSE), bool), jnp.zeros(2, jnp.float32), jnp.int32(0))

    def aim(key: Key, own: _Detour, seen: _Seen) -> tuple[_Detour, Array]:
        possible = _where_the_goal_may_be(own.possible, seen)
        share = possible / jnp.sum(possible, dtype=jnp.float32)
        goal = jnp.sum(share[..., None] * centres(COARSE), axis=(0, 1))
        direction = jnp.where(seen.stuck, jax.random.uniform(key, (2,), jnp.float32, -1, 1), own.direction)
        left = jnp.where(seen.first, 0, jnp.where(seen.stuck, DETOUR, jnp.maximum(own.left - 1, 0)))
        place = jnp.where(left > 0, seen.position + 2 * REACH * direction, goal)
        return _Detour(possible, direction, left.astype(jnp.int32)), place

    return _make("straight to the goal, random detours", family, episodes, start, aim)


class _Explored(NamedTuple):
    """The memory of a robot that makes a map."""

    blocked: Array
    """The cells that are known to be blocked, ``[COARSE, COARSE]`` bool."""
    possible: Array
    """The cells where the goal may be, ``[COARSE, COARSE]`` bool."""


def optimistic(family: EnvFamily, episodes: int) -> Oracle:
    """Make a robot that maps what its sensors see, and takes a shortest path to the goal as if unknown cells were free.

    The robot keeps its map for the whole trial, on a grid of ``COARSE`` x ``COARSE`` cells, and plans at each step. It
    finds the goal from the distances that it observed. Its optimism is that of D* Lite (Koenig and Likhachev 2002).

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env = _environment(family)
    rays = env.sensor_range * jnp.array(DIRECTIONS, jnp.float32)

    def start(task: Map) -> _Explored:
        del task
        return _Explored(jnp.zeros((COARSE, COARSE), bool), jnp.ones((COARSE, COARSE), bool))

    def aim(key: Key, own: _Explored, seen: _Seen) -> tuple[_Explored, Array]:
        # The end of a ray that is shorter than the range is on the side of an obstacle.
        unit = jnp.array(DIRECTIONS, jnp.float32)
        ends = seen.position + rays * seen.free[:, None] + unit * 0.3 / COARSE
        inside = jnp.all((ends > 0) & (ends < 1), axis=-1)
        cells = jnp.where(((seen.free < 0.999) & inside)[:, None], cell_of(ends, COARSE), COARSE)
        here = cell_of(seen.position, COARSE)
        blocked = own.blocked.at[cells[:, 0], cells[:, 1]].set(True, mode="drop").at[here[0], here[1]].set(False)
        possible = _where_the_goal_may_be(own.possible, seen)
        free = jnp.logical_or(jnp.logical_not(blocked), possible)
        distance = distances(free, possible)
        place = descend(free, distance, seen.position, round(REACH * COARSE))
        # A robot that is stuck, or has no path, moves at random.
        lost = jnp.logical_or(seen.stuck, jnp.isinf(distance[here[0], here[1]]))
        at_random = seen.position + REACH * jax.random.uniform(key, (2,), jnp.float32, -1, 1)
        return _Explored(blocked, possible), jnp.where(lost, at_random, place)

    return _make("optimistic planning, map learned", family, episodes, start, aim)
