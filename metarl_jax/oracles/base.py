"""What every oracle is, and the exact sampler that several of them need."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Key

_ROUNDS = 4
_REMAINDER = tuple((-1) ** k / k for k in range(12, 3, -1))
"""Coefficients, highest power first, of the series of ``(w - w^2 / 2 + w^3 / 3 - log(1 + w)) / w^4``."""


def gamma(key: Key, shape: Array) -> Array:
    """Gamma(shape, 1) for shapes of at least 1, cheaply in a batch.

    Marsaglia and Tsang (2000) with a fixed four proposals an element, instead of looping until each is accepted.
    A proposal is accepted with probability 0.951 or more, so that an element ends with a rejected proposal, the
    fourth, with probability below 6e-6: the distance in total variation from the exact law is below that.

    Args:
        key: random key.
        shape: ``[...]`` float32, at least 1 (not checked: posterior counts are).

    Returns:
        ``[...]`` float32, positive.
    """
    key_normal, key_uniform = jax.random.split(key)
    normal = jax.random.normal(key_normal, (_ROUNDS, *shape.shape), jnp.float32)
    exponential = jax.random.exponential(key_uniform, (_ROUNDS, *shape.shape), jnp.float32)
    d = shape - 1 / 3
    w = normal / jnp.sqrt(9 * d)
    v = (1 + w) ** 3
    # log U < x^2 / 2 + d (1 - v + log v), with -log U an exponential variable; v <= 0 is never accepted.
    positive = jnp.maximum(v, 1e-12)
    bound = 0.5 * normal**2 + d * (1 - v + jnp.log(positive))
    # For large shapes the terms of that cancel up to the fourth order of w = x / sqrt(9 d); what is left is a series.
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
    """Beta(a, b) for parameters of at least 1, as a ratio of ``gamma`` variables (total variation below 1.2e-5).

    Args:
        key: random key.
        a: ``[...]``, floats or whole numbers.
        b: ``[...]``, of the same shape.

    Returns:
        ``[...]`` float32 in [0, 1].
    """
    x, y = gamma(key, jnp.stack([a, b]).astype(jnp.float32))
    # The smaller share is a quotient, exact to rounding; the larger one is what it leaves of 1.
    return jnp.where(x > y, 1 - y / (x + y), x / (x + y))


class Sum(NamedTuple):
    """A running sum of floats that does not lose small summands once it is large (Kahan 1965)."""

    total: Array
    """The sum, ``[...]``, rounded once."""
    excess: Array
    """By how much ``total`` exceeds the sum, ``[...]``."""

    def add(self, x: Array) -> Sum:
        """The sum with one more summand ``[...]``."""
        summand = x - self.excess
        total = self.total + summand
        return Sum(total, (total - self.total) - summand)


def no_sum(shape: tuple[int, ...]) -> Sum:
    """A sum of nothing."""
    return Sum(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))
