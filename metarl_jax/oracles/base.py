"""Parts that several oracles share: exact samplers, sums of floats without loss, and places on grids."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.rollout import episode_returns
from metarl_jax.types import Adaptation, Array, Carry, Key, Oracle, State, Task, Transition

Value = TypeVar("Value")


def of_trials(name: str, episodes: int, run: Callable[[Key, Task], tuple[Carry, Transition]]) -> Oracle:
    """Make an oracle that adapts to a task while it plays a trial. Its scores are the returns of the episodes.

    Args:
        name: the name of the oracle.
        episodes: the number E of episodes of a trial.
        run: ``(key, task) -> (memory, steps [T, ...])``, which plays a trial.
    """

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del state
        memory, steps = run(key, task)
        return Adaptation(episode_returns(steps, episodes), memory)

    return Oracle(name, adapt, play=lambda key, task: run(key, task)[1])


def at_first_use(make: Callable[[], Value]) -> Callable[[], Value]:
    """Return a function that computes a value when it is called for the first time, also while JAX traces.

    Oracles use it for settings that are chosen by simulation, so that it takes no time to make an oracle.
    """

    @functools.cache
    def value() -> Value:
        with jax.ensure_compile_time_eval():
            return make()

    return value


def grid_places(size: int) -> np.ndarray:
    """Return the coordinates (x, y) of all cells of a square grid in the order of their indices, ``[cells, 2]``."""
    return np.stack(np.divmod(np.arange(size**2), size), axis=-1)


def grid_index(size: int, places: np.ndarray) -> np.ndarray:
    """Return the indices of cells ``[..., 2]``, as int32 ``[...]``; places outside the grid are clipped to it."""
    return (np.clip(places, 0, size - 1) @ np.array([size, 1])).astype(np.int32)


def grid_ways(size: int) -> np.ndarray:
    """Return two actions of shortest paths from each cell to each other cell, ``[cells, cells, 2]`` int32.

    They are an action along x and an action along y if both belong to a shortest path, else twice the same action. The
    actions are those of ``environments.dark_room.MOVES``.
    """
    dx, dy = np.moveaxis(grid_places(size)[None] - grid_places(size)[:, None], -1, 0)
    along_x, along_y = np.select([dx > 0, dx < 0], [2, 4], 0), np.select([dy > 0, dy < 0], [1, 3], 0)
    ways = np.stack([np.where(dx != 0, along_x, along_y), np.where(dy != 0, along_y, along_x)], axis=-1)
    return ways.astype(np.int32)


_ROUNDS = 4
_REMAINDER = tuple((-1) ** k / k for k in range(12, 3, -1))
"""Coefficients, highest power first, of the series of ``(w - w^2 / 2 + w^3 / 3 - log(1 + w)) / w^4``."""


def gamma(key: Key, shape: Array) -> Array:
    """Draw from Gamma(shape, 1) for shapes of at least 1, at a low cost in a batch.

    The method is that of Marsaglia and Tsang (2000), but with four proposals for each element instead of a loop until
    one is accepted. A proposal is accepted with probability 0.951 or more. The probability that all four proposals are
    rejected, in which case the fourth is used, is therefore below 6e-6, and so is the distance in total variation from
    the exact distribution.

    Args:
        key: a random key.
        shape: the shape parameters, ``[...]`` float32. They must be at least 1, which is not checked; posterior counts
            are.

    Returns:
        Positive random numbers, ``[...]`` float32.
    """
    key_normal, key_uniform = jax.random.split(key)
    normal = jax.random.normal(key_normal, (_ROUNDS, *shape.shape), jnp.float32)
    exponential = jax.random.exponential(key_uniform, (_ROUNDS, *shape.shape), jnp.float32)
    d = shape - 1 / 3
    w = normal / jnp.sqrt(9 * d)
    v = (1 + w) ** 3
    # A proposal is accepted if log U < x^2 / 2 + d (1 - v + log v), where -log U is exponential, and v > 0.
    positive = jnp.maximum(v, 1e-12)
    bound = 0.5 * normal**2 + d * (1 - v + jnp.log(positive))
    # For large shapes, the terms of the bound cancel up to the fourth order of w = x / sqrt(9 d). A series computes the
    # remainder.
    small = jnp.abs(w) < 0.1
    near = jnp.where(small, w, 0.0)
    series = functools.reduce(lambda total, coefficient: total * near + coefficient, _REMAINDER)
    bound = jnp.where(small, -3 * d * near**4 * series, bound)
    accepted = jnp.logical_and(v > 0, -exponential < bound)
    sample = positive[-1]
    for proposal in reversed(range(_ROUNDS - 1)):
        sample = jnp.where(accepted[proposal], positive[proposal], sample)
    return d * sample


def beta(key: Key, a: Array, b: Array) -> Array:
    """Draw from Beta(a, b) for parameters of at least 1.

    The result is a ratio of ``gamma`` variables. The distance in total variation from the exact distribution is below
    1.2e-5.

    Args:
        key: a random key.
        a: the first parameters, ``[...]``, floats or whole numbers.
        b: the second parameters, of the same shape.

    Returns:
        Random numbers in [0, 1], ``[...]`` float32.
    """
    x, y = gamma(key, jnp.stack([a, b]).astype(jnp.float32))
    # The smaller share is a quotient, which is exact up to rounding. The larger share is 1 minus the smaller one.
    return jnp.where(x > y, 1 - y / (x + y), x / (x + y))


class Sum(NamedTuple):
    """A running sum of floats that does not lose small summands once it is large (Kahan 1965)."""

    total: Array
    """The sum, ``[...]``, rounded once."""
    excess: Array
    """The difference between ``total`` and the exact sum, ``[...]``."""

    def add(self, x: Array) -> Sum:
        """Return the sum with one more summand ``[...]``."""
        summand = x - self.excess
        total = self.total + summand
        return Sum(total, (total - self.total) - summand)


def no_sum(shape: tuple[int, ...]) -> Sum:
    """Return an empty sum, which is zero."""
    return Sum(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))
