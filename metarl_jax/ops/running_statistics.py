"""Running mean and variance of data, and normalisation by them."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from metarl_jax.types import Array


class RunningStatistics(NamedTuple):
    """The running statistics of arrays of one shape, separately for each entry."""

    mean: Array
    variance: Array
    number: Array
    """The number of arrays so far, a ``float32`` scalar. It is rounded beyond 2^24, where one more array hardly changes
    the statistics."""


def initial_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Return the statistics of no data: mean 0, variance 1."""
    return RunningStatistics(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), jnp.float32(0))


def observe(statistics: RunningStatistics, x: Array, weight: Array) -> RunningStatistics:
    """Return the statistics that include further data (Chan, Golub and LeVeque 1979).

    Statistics of parts combine exactly to those of all data.

    Args:
        statistics: the statistics of arrays ``[*shape]``.
        x: further arrays, ``[..., *shape]``.
        weight: ``[...]``, 1, or 0 for an array that does not count, which may be infinite or NaN.
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
    """Scale ``x [..., *shape]`` to mean 0 and variance 1, and clip it to ``farthest`` standard deviations."""
    chex.assert_shape(x, (..., *statistics.mean.shape))
    centred = (x.astype(jnp.float32) - statistics.mean) * jax.lax.rsqrt(statistics.variance + 1e-8)
    return jnp.clip(centred, -farthest, farthest)
