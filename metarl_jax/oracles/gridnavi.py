"""Learners for GridNavi: exact Bayes-optimal play, and posterior sampling.

Every factory takes ``(family, episodes)``: a family of ``environments.gridnavi``, and the number E of episodes in a
trial. The posterior is exact: the goal is uniform over the cells where it may be and that were not seen to pay less.

Before the goal is found nothing but time and the cells seen can differ between trials, so a learner is a walk, up
to there; once it is found, the best is known. The Bayes-optimal walk is found by search (``best_walk``).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.environments.dark_room import MOVES, RoomParams
from metarl_jax.environments.gridnavi import FOUND, NOT_FOUND, GridNavi, goals
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.types import Adaptation, Array, EnvFamily, Inputs, Key, Oracle, State


class Walk(NamedTuple):
    """What to do as long as the goal is not found."""

    value: float
    """The expected reward of a trial of who walks so, goes straight to the goal once it is found, and stays there."""
    actions: np.ndarray
    """``[episodes * horizon]`` int32."""


class _Layer(NamedTuple):
    """Walks of some length, the best one for each cell they lead to and set of goal cells they saw."""

    cell: np.ndarray
    seen: np.ndarray
    """A bit for each cell of ``goals``, int64."""
    value: np.ndarray
    """What the goals seen will have paid by the end of the trial, summed over goals."""
    parent: np.ndarray
    """Which walk of the layer before it prolongs."""
    action: np.ndarray
    """How."""

    def take(self, which: np.ndarray) -> _Layer:
        return _Layer(*(x[which] for x in self))

    def best_of_each(self, bits: int) -> _Layer:
        """The most valuable walk for each cell and set; 2 ** bits exceeds every set."""
        name = (self.cell.astype(np.int64) << bits) | self.seen
        order = np.lexsort((-self.value, name))
        return self.take(order[np.unique(name[order], return_index=True)[1]])


BEAM = 300
"""Walks kept of each length by the search that precedes the exact one."""


@functools.lru_cache(maxsize=16)
def best_walk(size: int, horizon: int, episodes: int) -> Walk:
    """The Bayes-optimal walk, by exhaustive search with bounds.

    Of walks of a length, only the best for each last cell and set of cells seen can matter. Nor can one matter that
    comes to less than a walk that is known (from a first search that keeps a few of each length) even if every goal
    not yet seen were found at the earliest step possible for it alone. For 5x5 cells, 15 steps and 4 episodes that
    leaves some 65,000 walks. Staying in place is never tried: who left it out would be ahead.

    Args:
        size: cells along each side.
        horizon: steps of an episode.
        episodes: E.

    Returns:
        The walk and its exact value.
    """
    places, hidden = _places(size), np.array(goals(size))
    count, steps, moves = len(hidden), horizon * episodes, len(MOVES) - 1
    index = np.full(len(places), -1)
    index[_index(size, hidden)] = np.arange(count)
    after = _index(size, places[:, None] + MOVES[1:])
    distance = np.abs(places[:, None] - hidden).sum(axis=-1)
    # Of an episode in which the goal is known from the start.
    paid = np.maximum(horizon + 1 - distance[0], 0)
    known = FOUND * paid + NOT_FOUND * (horizon - paid)
    # Of a trial in which the goal is found at step t = 1 ... E H, or never: ``[E H + 2, G]``.
    time = np.arange(1, steps + 1)[:, None]
    before, left = (time - 1) // horizon, horizon - (time - 1) % horizon
    found = NOT_FOUND * (time - 1) + FOUND * left + (episodes - 1 - before) * known
    pays = np.concatenate([np.zeros((1, count)), found, np.full((1, count), NOT_FOUND * steps)])
    never = steps + 1

    def bound(layer: _Layer, time: int) -> np.ndarray:
        """The most that walks may come to that are this long."""
        end = -(-time // horizon) * horizon if time % horizon else time
        now = time + distance[layer.cell]
        later = np.where((end < steps) & (distance[0] <= horizon), end + distance[0], never)
        # At an episode's end the walk is at the start, and the next episode's steps are "later".
        earliest = np.where(now <= end, now, later)
        unseen = (layer.seen[:, None] >> np.arange(count)) & 1 == 0
        return layer.value + np.sum(np.where(unseen, pays[earliest, np.arange(count)], 0.0), axis=1)

    def search(least: float, beam: int | None) -> tuple[float, np.ndarray]:
        zero = np.zeros(1, np.int64)
        layer = _Layer(zero, zero, np.zeros(1), zero, zero)
        layers: list[_Layer] = []
        for step in range(1, steps + 1):
            cell = after[layer.cell].ravel()
            parent, action = np.divmod(np.arange(cell.size), moves)
            seen, goal = layer.seen[parent], index[cell]
            bit = np.where(goal >= 0, 1 << np.maximum(goal, 0), 0)
            value = layer.value[parent] + np.where(bit & ~seen, pays[step, goal], 0.0)
            if step % horizon == 0:
                cell = np.zeros_like(cell)
            layer = _Layer(cell, seen | bit, value, parent, action + 1).best_of_each(count)
            most = bound(layer, step)
            layer = layer.take(most >= least if beam is None else np.argsort(-most)[:beam])
            layers.append(layer)
        total = bound(layer, steps)
        walk = int(np.argmax(total))
        value, actions = float(total[walk]) / count, []
        for layer in reversed(layers):
            actions.append(layer.action[walk])
            walk = layer.parent[walk]
        return value, np.array(actions[::-1], np.int32)

    first, _ = search(-np.inf, BEAM)
    return Walk(*search(first * count - 1e-6, None))


class Search(NamedTuple):
    """What a searcher remembers."""

    possible: Array
    """``[cells]`` bool: where the goal may still be."""
    cell: Array
    """Where it was, ``int32``."""
    goal: Array
    """The cell that it believes in, ``int32``; for posterior sampling."""
    time: Array
    """Steps of the trial, ``int32``."""


def _environment(family: EnvFamily) -> GridNavi:
    if not isinstance(family.env, GridNavi):
        raise ValueError(f"family must be one of environments.gridnavi, not one of {type(family.env).__name__}")
    return family.env


class Belief:
    """The exact posterior over where the goal is.

    Args:
        family: of GridNavi.

    Raises:
        ValueError: if it is another family.
    """

    def __init__(self, family: EnvFamily) -> None:
        size = _environment(family).size
        places = _places(size)
        self.prior = jnp.asarray(places.max(axis=1) > 1)
        """``[cells]`` bool: where the goal may be before anything was seen."""
        self._after = jnp.asarray(_index(size, places[:, None] + MOVES))

    def update(self, possible: Array, cell: Array, inputs: Inputs) -> Array:
        """What a step told.

        Args:
            possible: ``[cells]`` bool, before the step.
            cell: where the step began. Where it ended is no input if it was an episode's last.
            inputs: those of the next step.

        Returns:
            ``[cells]`` bool.
        """
        there = jnp.arange(len(self.prior)) == self._after[cell, inputs.prev_action]
        told = jnp.where(inputs.prev_reward > (FOUND + NOT_FOUND) / 2, there, jnp.logical_not(there))
        return jnp.where(inputs.first, possible, jnp.logical_and(possible, told))


def _places(size: int) -> np.ndarray:
    """``[cells, 2]``: coordinates of the cells, in their order."""
    return np.stack(np.divmod(np.arange(size**2), size), axis=-1)


def _index(size: int, places: np.ndarray) -> np.ndarray:
    """``[..., 2] -> [...]`` int32: the cells, those beyond a wall as before it."""
    return (np.clip(places, 0, size - 1) @ np.array([size, 1])).astype(np.int32)


def _ways(size: int) -> np.ndarray:
    """``[cells, cells, 2]`` int32: from one to the other, an action along x and one along y where both lead there."""
    dx, dy = np.moveaxis(_places(size)[None] - _places(size)[:, None], -1, 0)
    along_x, along_y = np.select([dx > 0, dx < 0], [2, 4], 0), np.select([dy > 0, dy < 0], [1, 3], 0)
    ways = np.stack([np.where(dx != 0, along_x, along_y), np.where(dy != 0, along_y, along_x)], axis=-1)
    return ways.astype(np.int32)


def bayes_optimal(family: EnvFamily, episodes: int) -> Oracle:
    """Exact Bayes-optimal play: ``best_walk``, and straight to the goal once it is known where it is."""
    env, belief = _environment(family), Belief(family)
    walk = best_walk(env.size, family.horizon, positive_int("episodes", episodes))
    actions, ways = jnp.asarray(walk.actions), jnp.asarray(_ways(env.size))

    def adapt(key: Key, state: State, task: RoomParams) -> Adaptation:
        del state

        def act(key: Key, memory: Search, inputs: Inputs) -> tuple[Search, Array, tuple[()]]:
            del key
            possible = belief.update(memory.possible, memory.cell, inputs)
            goal = jnp.argmax(possible).astype(jnp.int32)
            action = jnp.where(jnp.sum(possible) == 1, ways[inputs.obs, goal, 0], actions[memory.time])
            return Search(possible, inputs.obs, goal, memory.time + 1), action, ()

        start = Search(belief.prior, jnp.int32(0), jnp.int32(0), jnp.int32(0))
        memory, steps = trial(key, act, start, family, task, episodes)
        return Adaptation(episode_returns(steps, episodes), memory)

    return Oracle("Bayes-optimal", adapt)


def posterior_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """In each episode to a cell drawn from the posterior, by a random shortest way, and to the goal once it is found.

    Where a step along either axis leads there, both are equally likely.
    """
    env, belief = _environment(family), Belief(family)
    episodes, ways = positive_int("episodes", episodes), jnp.asarray(_ways(env.size))

    def adapt(key: Key, state: State, task: RoomParams) -> Adaptation:
        del state

        def act(key: Key, memory: Search, inputs: Inputs) -> tuple[Search, Array, tuple[()]]:
            key_goal, key_way = jax.random.split(key)
            possible = belief.update(memory.possible, memory.cell, inputs)
            rank = jnp.cumsum(possible)
            drawn = jnp.sum(rank <= jax.random.uniform(key_goal, dtype=jnp.float32) * rank[-1])
            anew = jnp.logical_or(inputs.first, inputs.prev_done > 0)
            anew = jnp.logical_or(anew, jnp.sum(possible) == 1)
            goal = jnp.where(anew, drawn, memory.goal).astype(jnp.int32)
            memory = Search(possible, inputs.obs, goal, memory.time + 1)
            return memory, ways[inputs.obs, goal, jax.random.bernoulli(key_way, jnp.float32(0.5)).astype(jnp.int32)], ()

        start = Search(belief.prior, jnp.int32(0), jnp.int32(0), jnp.int32(0))
        memory, steps = trial(key, act, start, family, task, episodes)
        return Adaptation(episode_returns(steps, episodes), memory)

    return Oracle("posterior sampling", adapt)
