"""Few-shot regression of sinusoids y = amplitude * sin(x - phase) from a few points.

The tasks of two papers have the same name but are not comparable: their phases differ, and so do their query points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.interfaces.few_shot import FewShot, FewShotFamily, FewShotTask
from metarl_jax.settings import PositiveInt
from metarl_jax.types import Array, Key, TaskDistribution

BOUND = 5.0
"""Inputs are from -BOUND to BOUND."""


class Wave(NamedTuple):
    """One task: a sinusoid."""

    amplitude: Array
    phase: Array


def mean_squared_error(prediction: Array, y: Array) -> Array:
    """Return the mean over all elements of (prediction - y)^2."""
    return jnp.mean((prediction - y) ** 2)


def _tasks(largest_phase: float) -> TaskDistribution:
    def sample(key: Key) -> Wave:
        low, high = jnp.array([0.1, 0.0], jnp.float32), jnp.array([5.0, largest_phase], jnp.float32)
        return Wave(*jax.random.uniform(key, (2,), jnp.float32, low, high))

    # Tasks are drawn from a continuum, so other keys give sinusoids that are not training tasks.
    return TaskDistribution(sample, sample)


def _examples(wave: Wave, x: Array) -> tuple[Array, Array]:
    return x[:, None], wave.amplitude * jnp.sin(x - wave.phase)[:, None]


def maml(shots: int, queries: int) -> FewShot:
    """Make the sinusoids of Finn et al. (2017), section 5.1: amplitude U[0.1, 5], phase U[0, pi], x U[-5, 5].

    Args:
        shots: the number of points of the support; x and y are ``[shots, 1]``.
        queries: the number of points of the query, drawn like those of the support.

    Raises:
        ValueError: if a number is not positive and whole.
    """
    shots, queries = positive_int("shots", shots), positive_int("queries", queries)

    def draw(key: Key, task: Wave) -> FewShotTask:
        x = jax.random.uniform(key, (shots + queries,), jnp.float32, minval=-BOUND, maxval=BOUND)
        return FewShotTask(_examples(task, x[:shots]), _examples(task, x[shots:]))

    return FewShot(_tasks(math.pi), draw, mean_squared_error, mean_squared_error, outputs=1)


def reptile(shots: int = 10, queries: int = 50) -> FewShot:
    """Make the sinusoids of Nichol et al. (2018): phase U[0, 2 pi], and equally spaced query points.

    Args:
        shots: the number of points of the support, x U[-5, 5].
        queries: the number of equally spaced points of the query, from -5 to 5.

    Raises:
        ValueError: if a number is not positive and whole.
    """
    shots, queries = positive_int("shots", shots), positive_int("queries", queries)

    def draw(key: Key, task: Wave) -> FewShotTask:
        x = jax.random.uniform(key, (shots,), jnp.float32, minval=-BOUND, maxval=BOUND)
        return FewShotTask(_examples(task, x), _examples(task, jnp.linspace(-BOUND, BOUND, queries, dtype=jnp.float32)))

    return FewShot(_tasks(2 * math.pi), draw, mean_squared_error, mean_squared_error, outputs=1)


def maml_family(
    shots: PositiveInt = 10,
    queries: PositiveInt = 10,
    heldout_shots: PositiveInt = 5,
    heldout_queries: PositiveInt = 100,
) -> FewShotFamily:
    """Make the sinusoids of Finn et al. (2017), with different numbers of examples for training and for held-out tasks.

    Args:
        shots: Number of examples in the support of a task, in training.
        queries: Number of examples in the query of a task, in training (10 in the code of Finn et al. 2017).
        heldout_shots: Number of examples in the support of a held-out or validation task.
        heldout_queries: Number of examples in the query of a held-out or validation task.

    Raises:
        ValueError: if a number is not positive and whole.
    """
    return FewShotFamily(maml(shots, queries), maml(heldout_shots, heldout_queries))


def reptile_family(
    shots: PositiveInt = 10,
    queries: PositiveInt = 10,
    heldout_shots: PositiveInt = 10,
    heldout_queries: PositiveInt = 50,
) -> FewShotFamily:
    """Make the sinusoids of Nichol et al. (2018), with different numbers of examples for training and for held-out
    tasks.

    Args:
        shots: Number of examples in the support of a task, in training.
        queries: Number of examples in the query of a task, in training.
        heldout_shots: Number of examples in the support of a held-out or validation task.
        heldout_queries: Number of examples in the query of a held-out or validation task.

    Raises:
        ValueError: if a number is not positive and whole.
    """
    return FewShotFamily(reptile(shots, queries), reptile(heldout_shots, heldout_queries))
