"""Action distributions of one step, as trees of arrays, so that they can be scanned, vmapped and stored."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Key


class Categorical(NamedTuple):
    """A categorical distribution over K actions."""

    logits: Array
    """``[..., K]``: unnormalised log-probabilities."""

    def sample(self, key: Key) -> Array:
        """Draw ``[...]`` int32 actions by inverse CDF, with one random number per draw.

        An action of probability zero, such as one with a logit of -inf, is never drawn.
        """
        probability = jax.nn.softmax(self.logits)
        cumulative = jnp.cumsum(probability, axis=-1)
        # The threshold is scaled by the last entry, which may differ from one by rounding.
        threshold = jax.random.uniform(key, self.logits.shape[:-1], jnp.float32) * cumulative[..., -1]
        return _first_above(threshold, cumulative, probability > 0)

    def sample_with_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draw ``[...]`` int32 actions; return them with their log-probabilities ``[...]``."""
        action = self.sample(key)
        return action, self.log_prob(action)

    def mode(self) -> Array:
        """Return the most likely action ``[...]``, int32."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Return the log-probability of an action, ``[...]``; -inf for an action with a logit of -inf."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        # A masked sum has a faster gradient than a gather, whose gradient is a scatter.
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=bool)
        return jnp.sum(jnp.where(chosen, log_probabilities, 0.0), axis=-1)

    def entropy(self) -> Array:
        """Return the entropy in nats, ``[...]``.

        Actions with a logit of -inf contribute 0, and get a gradient of 0.
        """
        log_probabilities = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probabilities) * _finite_or_zero(log_probabilities), axis=-1)

    def kl(self, other: Categorical) -> Array:
        """Return KL(self || other) in nats, ``[...]``.

        Actions with a logit of -inf in ``self`` contribute 0, and get a gradient of 0. The result is +inf, with a
        gradient of 0, if an action has a logit of -inf in ``other`` only.
        """
        p = jax.nn.log_softmax(self.logits)
        q = jax.nn.log_softmax(other.logits)
        # Both are made finite before the subtraction, because a NaN that ``where`` drops afterwards has a NaN gradient.
        divergence = jnp.sum(jnp.exp(p) * (_finite_or_zero(p) - _finite_or_zero(q)), axis=-1)
        infinite = jnp.any(jnp.logical_and(q == -jnp.inf, p > -jnp.inf), axis=-1)
        return jnp.where(infinite, jnp.inf, divergence)


def _finite_or_zero(log_probabilities: Array) -> Array:
    """Replace -inf by zero, in value and in gradient."""
    return jnp.where(log_probabilities == -jnp.inf, 0.0, log_probabilities)


def _first_above(threshold: Array, cumulative: Array, possible: Array) -> Array:
    """Invert a cumulative distribution function.

    Args:
        threshold: ``[...]``, at least 0 and at most ``cumulative[..., -1]``.
        cumulative: ``[..., K]``, cumulative sums of probabilities. They need not be monotone if they were summed in
            parallel: an entry whose probability is zero can differ from the entry before it by a rounding error.
        possible: ``[..., K]`` bool; true at least once in each row.

    Returns:
        ``[...]`` int32: the first possible entry at or after the first one above the threshold, or the last possible
        entry if there is none.
    """
    index = jnp.arange(cumulative.shape[-1], dtype=jnp.int32)
    reached = jnp.sum(threshold[..., None] >= cumulative, axis=-1, dtype=jnp.int32)[..., None]
    after = jnp.min(jnp.where(jnp.logical_and(possible, index >= reached), index, index.size), axis=-1)
    last = jnp.max(jnp.where(possible, index, 0), axis=-1)
    return jnp.minimum(after, last)


@jax.custom_jvp
def _scale_divergence(difference: Array) -> Array:
    """Return KL(N(0, e^d) || N(0, 1)) = (e^2d - 1 - 2d) / 2 for each difference d of log standard deviations.

    The value is inf where it exceeds the largest float. Its derivative, e^2d - 1, is clipped to the largest float.
    """
    # Near zero the direct form subtracts nearly equal numbers. There the power series is exact up to rounding.
    x = 2 * difference
    small = jnp.abs(x) < 1
    near = jnp.where(small, x, 0.0)
    series = near**2 * functools.reduce(lambda total, coefficient: total * near + coefficient, _SCALE_SERIES)
    # The factor 1/2 is applied before squaring, so that the value is finite wherever it can be represented.
    std = jnp.exp(difference)
    return jnp.where(small, series, std * (0.5 * std) - 0.5 - difference)


_SCALE_SERIES = tuple(0.5 / math.factorial(k) for k in range(20, 1, -1))
"""Coefficients of ``(e^x - 1 - x) / (2 x^2)``, highest power first: exact to rounding for ``|x| < 1``."""


@_scale_divergence.defjvp
def _scale_divergence_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Slightly below the logarithm of the largest float, so that rounding does not exceed it.
    x, largest = 2 * primals[0], math.log(0.999 * float(jnp.finfo(primals[0].dtype).max))
    slope = jnp.expm1(jnp.where(x < largest, x, largest))
    return _scale_divergence(primals[0]), slope * tangents[0]


def _standardised(difference: Array, log_std: Array) -> Array:
    """Return ``difference * exp(-log_std)``; 0 where the difference is 0, even if ``exp(-log_std)`` alone overflows."""
    # The exponential is split into two finite factors. The second one is 1 unless the standard deviation is below
    # e^-80.
    first = jnp.where(log_std > -80, log_std, -80.0)
    second = jnp.where(log_std > -80, 0.0, jnp.where(log_std > -160, log_std + 80, -80.0))
    return difference * jnp.exp(-first) * jnp.exp(-second)


class DiagonalGaussian(NamedTuple):
    """Independent Gaussians over the D entries of an action vector."""

    mean: Array
    """``[..., D]``."""
    log_std: Array
    """``[..., D]``."""

    def sample(self, key: Key) -> Array:
        """Draw ``[..., D]``."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, jnp.float32)

    def mode(self) -> Array:
        """Return the mean ``[..., D]``."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """Log density, ``[...]``."""
        standard = _standardised(action - self.mean, self.log_std)
        return jnp.sum(-0.5 * standard**2 - self.log_std - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Array:
        """Return the differential entropy in nats, ``[...]``."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: DiagonalGaussian) -> Array:
        """Return KL(self || other) in nats, ``[...]``.

        It is exact up to rounding wherever it can be represented, and inf where it exceeds the largest float (in
        float32 if a standard deviation is e^44.7 times that of ``other``). Its gradient is never NaN.
        """
        scale = _scale_divergence(self.log_std - other.log_std)
        shift = _standardised(self.mean - other.mean, other.log_std)
        return jnp.sum(scale + 0.5 * shift**2, axis=-1)


class SquashedGaussian(NamedTuple):
    """Independent Gaussians that a scaled hyperbolic tangent maps to bounded action vectors.

    The source is Haarnoja et al. (2018), appendix C. The entropy has no closed form.
    """

    mean: Array
    """``[..., D]``, before squashing."""
    log_std: Array
    """``[..., D]``, before squashing."""
    low: Array
    """``[D]``."""
    high: Array
    """``[D]``."""

    def _squash(self, x: Array) -> Array:
        return self.low + (self.high - self.low) * (jnp.tanh(x) + 1) / 2

    def _log_density(self, x: Array) -> Array:
        """Return the log density of the action that ``x`` is mapped to.

        log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)).
        """
        slope = 2 * (math.log(2) - x - jax.nn.softplus(-2 * x)) + jnp.log((self.high - self.low) / 2)
        return DiagonalGaussian(self.mean, self.log_std).log_prob(x) - jnp.sum(slope, axis=-1)

    def sample(self, key: Key) -> Array:
        """Draw ``[..., D]``."""
        return self._squash(DiagonalGaussian(self.mean, self.log_std).sample(key))

    def sample_with_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draw ``[..., D]``; return it with its log density ``[...]``.

        The log density is exact even where the hyperbolic tangent is flat.
        """
        x = DiagonalGaussian(self.mean, self.log_std).sample(key)
        return self._squash(x), self._log_density(x)

    def mode(self) -> Array:
        """Return the action that the Gaussian's mean is mapped to: the median of each entry, not its mode."""
        return self._squash(self.mean)

    def log_prob(self, action: Array) -> Array:
        """Return the log density, ``[...]``.

        For an action on a bound, it is that of an action one rounding error inside the bound.
        """
        unit = 2 * (action - self.low) / (self.high - self.low) - 1
        edge = 1 - jnp.finfo(action.dtype).eps
        return self._log_density(jnp.arctanh(jnp.clip(unit, -edge, edge)))


Distribution: TypeAlias = Categorical | DiagonalGaussian | SquashedGaussian
