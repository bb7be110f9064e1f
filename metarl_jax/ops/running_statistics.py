"""Mean and variance of all that was seen so far, and numbers scaled by them."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from metarl_jax.types import Array


class RunningStatistics(NamedTuple):
    """Of vectors, or arrays of any one shape: each number's own."""

    mean: Array
    variance: Array
    number: Array
    """How many there were, a ``float32`` scalar; rounded beyond 2^24, where one more hardly changes a weight."""


def initial_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Nothing so far: mean 0, variance 1."""
    return RunningStatistics(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), jnp.float32(0))


def observe(statistics: RunningStatistics, x: Array, weight: Array) -> RunningStatistics:
    """The statistics once these have been seen too (Chan, Golub and LeVeque 1979): parts add up to the whole.

    Args:
        statistics: of arrays ``[*shape]``.
        x: more of them, ``[..., *shape]``.
        weight: ``[...]``, 1, or 0 for what does not count, which may be infinite or NaN.
    """
    chex.assert_shape(x, (*weight.shape, *statistics.mean.shape))
    axes = tuple(range(weight.ndim))
    number = jnp.sum(weight)
    share = number / jnp.maximum(statistics.number + number, 1)
    weight = (weight / jnp.maximum(number, 1)).reshape(*weight.shape, *(1,) * (x.ndim - weight.ndim))
    x = jnp.where(weight != 0, x.astype(jnp.float32), 0.0)
    mean = jnp.sum(weight * x, axis=axes)
    variance = jnp.sum(weight * (x - mean) ** 2, axis=axes)
    apart = mean - statistics.mean
    return RunningStatistics(
        statistics.mean + share * apart,
        (1 - share) * statistics.variance + share * variance + share * (1 - share) * apart**2,
        statistics.number + number,
    )


def normalise(statistics: RunningStatistics, x: Array, farthest: float) -> Array:
    """``[..., *shape]`` scaled to mean 0 and variance 1, and cut off ``farthest`` standard deviations from the mean."""
    chex.assert_shape(x, (..., *statistics.mean.shape))
    centred = (x.astype(jnp.float32) - statistics.mean) * jax.lax.rsqrt(statistics.variance + 1e-8)
    return jnp.clip(centred, -farthest, farthest)
