"""Reference learners for GridNavi: the exact Bayes-optimal learner, and posterior sampling.

Every factory takes ``(family, episodes)``: a family of ``environments.gridnavi``, and the number E of episodes in a
trial. The posterior is exact: the goal is uniform over the cells where a goal may be and that were not visited without
its reward.

Before the goal is found, all trials look the same to a learner. A learner is therefore a fixed walk until then. After
the goal is found, the best actions are known. The Bayes-optimal walk is found by search (``best_walk``).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.environments.dark_room import MOVES, RoomParams
from metarl_jax.environments.gridnavi import FOUND, NOT_FOUND, GridNavi, RareGoals, goals
from metarl_jax.oracles import dark_room
from metarl_jax.oracles.base import grid_index, grid_places, grid_ways, of_trials
from metarl_jax.rollout import trial
from metarl_jax.types import Array, EnvFamily, Inputs, Key, Oracle, Transition


class Walk(NamedTuple):
    """The actions of a trial as long as the goal is not found."""

    value: float
    """The expected return of a trial in which the learner takes this walk until it finds the goal, then goes to the
    goal by a shortest path in each episode, and stays there."""
    actions: np.ndarray
    """The action of each step of the trial, ``[episodes * horizon]`` int32."""


class _Layer(NamedTuple):
    """The walks of one length: the best one for each last cell and each set of visited goal cells."""

    cell: np.ndarray
    """The last cell of each walk."""
    seen: np.ndarray
    """The visited goal cells of each walk, as one bit for each cell of ``goals``, int64."""
    value: np.ndarray
    """The returns of the trial for the visited goals, summed over goals."""
    parent: np.ndarray
    """The index of the walk in the previous layer that each walk extends."""
    action: np.ndarray
    """The last action of each walk."""

    def take(self, which: np.ndarray) -> _Layer:
        """Return the walks with the given indices."""
        return _Layer(*(x[which] for x in self))

    def best_of_each(self, bits: int) -> _Layer:
        """Return the walk of the highest value for each cell and set; every set is smaller than 2 ** bits."""
        name = (self.cell.astype(np.int64) << bits) | self.seen
        order = np.lexsort((-self.value, name))
        return self.take(order[np.unique(name[order], return_index=True)[1]])


BEAM = 300
"""The number of walks of each length that the first, approximate search keeps."""


@functools.lru_cache(maxsize=16)
def best_walk(size: int, horizon: int, episodes: int) -> Walk:
    """Find the Bayes-optimal walk by exhaustive search with bounds.

    For each last cell and each set of visited cells, the search only keeps the best walk of each length. A first search
    keeps a few walks of each length and finds a good complete walk. The exact search drops a walk if its upper bound is
    below the value of this complete walk. The bound assumes that every goal that was not visited is found at the
    earliest step that is possible for it alone. For 5x5 cells, 15 steps and 4 episodes, some 65,000 walks remain.
    The search never stays in place, because a walk without this step is at least as good.

    Args:
        size: the number of cells along each side.
        horizon: the number of steps of an episode.
        episodes: the number E of episodes of a trial.

    Returns:
        The walk and its exact value.
    """
    places, hidden = grid_places(size), np.array(goals(size))
    count, steps, moves = len(hidden), horizon * episodes, len(MOVES) - 1
    index = np.full(len(places), -1)
    index[grid_index(size, hidden)] = np.arange(count)
    after = grid_index(size, places[:, None] + MOVES[1:])
    distance = np.abs(places[:, None] - hidden).sum(axis=-1)
    # ``known`` is the return of an episode in which the goal is known from the start.
    paid = np.maximum(horizon + 1 - distance[0], 0)
    known = FOUND * paid + NOT_FOUND * (horizon - paid)
    # ``pays`` is the return of a trial in which the goal is found at step t = 1 ... E H, or never: [E H + 2, G].
    time = np.arange(1, steps + 1)[:, None]
    before, left = (time - 1) // horizon, horizon - (time - 1) % horizon
    found = NOT_FOUND * (time - 1) + FOUND * left + (episodes - 1 - before) * known
    pays = np.concatenate([np.zeros((1, count)), found, np.full((1, count), NOT_FOUND * steps)])
    never = steps + 1

    def bound(layer: _Layer, time: int) -> np.ndarray:
        """Compute upper bounds of the values of the complete walks that begin with these walks."""
        end = -(-time // horizon) * horizon if time % horizon else time
        now = time + distance[layer.cell]
        later = np.where((end < steps) & (distance[0] <= horizon), end + distance[0], never)
        # After the last step of an episode, the walk is at the start. The steps of the next episode count as "later".
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
    """The memory of a learner that searches for the goal."""

    possible: Array
    """The cells where the goal may still be, ``[cells]`` bool."""
    cell: Array
    """The cell before the last step, ``int32``."""
    goal: Array
    """The cell to which posterior sampling goes, ``int32``."""
    time: Array
    """The number of steps of the trial so far, ``int32``."""


def _environment(family: EnvFamily) -> GridNavi:
    if isinstance(family.env, RareGoals):
        raise ValueError("the goals of this family are not equally likely: use environments.gridnavi.make")
    if not isinstance(family.env, GridNavi):
        raise ValueError(f"family must be one of environments.gridnavi, not one of {type(family.env).__name__}")
    return family.env


class Belief(dark_room.Belief):
    """The exact posterior over the cell of the goal.

    Args:
        family: a family of GridNavi.

    Raises:
        ValueError: if the family is not GridNavi.
    """

    def __init__(self, family: EnvFamily) -> None:
        size = _environment(family).size
        super().__init__(size, jnp.asarray(grid_places(size).max(axis=1) > 1))


def bayes_optimal(family: EnvFamily, episodes: int) -> Oracle:
    """Make the exact Bayes-optimal learner: it takes ``best_walk``, and goes to the goal when the goal is known."""
    env, belief = _environment(family), Belief(family)
    walk = best_walk(env.size, family.horizon, positive_int("episodes", episodes))
    actions, ways = jnp.asarray(walk.actions), jnp.asarray(grid_ways(env.size))

    def run(key: Key, task: RoomParams) -> tuple[Search, Transition]:
        def act(key: Key, memory: Search, inputs: Inputs) -> tuple[Search, Array, tuple[()]]:
            del key
            possible = belief.update(memory.possible, memory.cell, inputs)
            goal = jnp.argmax(possible).astype(jnp.int32)
            action = jnp.where(jnp.sum(possible) == 1, ways[inputs.obs, goal, 0], actions[memory.time])
            return Search(possible, inputs.obs, goal, memory.time + 1), action, ()

        start = Search(belief.prior, jnp.int32(0), jnp.int32(0), jnp.int32(0))
        return trial(key, act, start, family, task, episodes)

    return of_trials("Bayes-optimal", episodes, run)


def posterior_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """Make posterior sampling: in each episode it goes to a cell drawn from the posterior, by a random shortest path.

    If steps along both axes belong to a shortest path, both are equally likely. After the goal is found, the learner
    goes to the goal.
    """
    env, belief = _environment(family), Belief(family)
    episodes, ways = positive_int("episodes", episodes), jnp.asarray(grid_ways(env.size))

    def run(key: Key, task: RoomParams) -> tuple[Search, Transition]:
        def act(key: Key, memory: Search, inputs: Inputs) -> tuple[Search, Array, tuple[()]]:
            key_goal, key_way = jax.random.split(key)
            possible = belief.update(memory.possible, memory.cell, inputs)
            anew = jnp.logical_or(inputs.first, inputs.prev_done > 0)
            anew = jnp.logical_or(anew, jnp.sum(possible) == 1)
            goal = jnp.where(anew, belief.draw(key_goal, possible), memory.goal)
            memory = Search(possible, inputs.obs, goal, memory.time + 1)
            return memory, ways[inputs.obs, goal, jax.random.bernoulli(key_way, jnp.float32(0.5)).astype(jnp.int32)], ()

        start = Search(belief.prior, jnp.int32(0), jnp.int32(0), jnp.int32(0))
        return trial(key, act, start, family, task, episodes)

    return of_trials("posterior sampling", episodes, run)
