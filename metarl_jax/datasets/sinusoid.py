"""Few-shot regression of sine waves: y = amplitude * sin(x - phase), from a few points.

Two papers' tasks share the name and are not comparable: their phases differ, and so do the points they are judged on.
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
    """One task."""

    amplitude: Array
    phase: Array


def mean_squared_error(prediction: Array, y: Array) -> Array:
    """Mean over all elements of (prediction - y)^2."""
    return jnp.mean((prediction - y) ** 2)


def _tasks(largest_phase: float) -> TaskDistribution:
    def sample(key: Key) -> Wave:
        key_amplitude, key_phase = jax.random.split(key)
        amplitude = jax.random.uniform(key_amplitude, (), jnp.float32, minval=0.1, maxval=5.0)
        return Wave(amplitude, jax.random.uniform(key_phase, (), jnp.float32, maxval=largest_phase))

    # Tasks are drawn from a continuum: other keys give waves that training has not met.
    return TaskDistribution(sample, sample)


def _examples(wave: Wave, x: Array) -> tuple[Array, Array]:
    return x[:, None], wave.amplitude * jnp.sin(x - wave.phase)[:, None]


def maml(shots: int, queries: int) -> FewShot:
    """The sinusoids of Finn et al. (2017), section 5.1: amplitude U[0.1, 5], phase U[0, pi], x U[-5, 5].

    Args:
        shots: points of the support; x and y are ``[shots, 1]``.
        queries: points of the query, drawn as the support's.

    Raises:
        ValueError: for a number that is not positive and whole.
    """
    shots, queries = positive_int("shots", shots), positive_int("queries", queries)

    def draw(key: Key, task: Wave) -> FewShotTask:
        x = jax.random.uniform(key, (shots + queries,), jnp.float32, minval=-BOUND, maxval=BOUND)
        return FewShotTask(_examples(task, x[:shots]), _examples(task, x[shots:]))

    return FewShot(_tasks(math.pi), draw, mean_squared_error, mean_squared_error, outputs=1)


def reptile(shots: int = 10, queries: int = 50) -> FewShot:
    """The sinusoids of Nichol et al. (2018): phase U[0, 2 pi]; judged on equally spaced points.

    Args:
        shots: points of the support, x U[-5, 5].
        queries: equally spaced points of the query, from -5 to 5.

    Raises:
        ValueError: for a number that is not positive and whole.
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
    """The sinusoids of Finn et al. (2017), with other numbers of examples of held-out tasks than in training.

    Args:
        shots: Examples of a task to adapt on, in training.
        queries: Examples of a task that adaptation is judged on, in training (10 in the code of Finn et al. 2017).
        heldout_shots: Examples to adapt on, of a held-out or validation task.
        heldout_queries: Examples that adaptation is judged on, of a held-out or validation task.

    Raises:
        ValueError: for a number that is not positive and whole.
    """
    return FewShotFamily(maml(shots, queries), maml(heldout_shots, heldout_queries))


def reptile_family(
    shots: PositiveInt = 10,
    queries: PositiveInt = 10,
    heldout_shots: PositiveInt = 10,
    heldout_queries: PositiveInt = 50,
) -> FewShotFamily:
    """The sinusoids of Nichol et al. (2018), with other numbers of examples of held-out tasks than in training.

    Args:
        shots: Examples of a task to adapt on, in training.
        queries: Examples of a task that adaptation is judged on, in training.
        heldout_shots: Examples to adapt on, of a held-out or validation task.
        heldout_queries: Examples that adaptation is judged on, of a held-out or validation task.

    Raises:
        ValueError: for a number that is not positive and whole.
    """
    return FewShotFamily(reptile(shots, queries), reptile(heldout_shots, heldout_queries))
