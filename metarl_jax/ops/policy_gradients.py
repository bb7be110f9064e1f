"""Elementwise policy-gradient objectives, which the caller averages over valid steps."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from metarl_jax.types import Array

LARGEST_LOG_RATIO = 40.0
"""The bound on log-ratios. e^40 = 2.4e17, and its square, which optimisers compute, is finite in float32."""


@jax.custom_jvp
def _bounded(log_ratio: Array) -> Array:
    """Return ``min(log_ratio, LARGEST_LOG_RATIO)`` with a derivative of one everywhere."""
    return jnp.minimum(log_ratio, LARGEST_LOG_RATIO)


_bounded.defjvps(lambda tangent, value, log_ratio: tangent)


def likelihood_ratio(log_ratio: Array) -> Array:
    """Return the ratio pi(a) / pi_old(a), bounded by e^40.

    Its derivative is the bounded ratio, which is finite and not zero even where the true ratio is larger.

    Args:
        log_ratio: log pi(a) - log pi_old(a), ``[...]``.

    Returns:
        ``[...]``.
    """
    return jnp.exp(_bounded(log_ratio))


def clipped_surrogate(log_ratio: Array, advantage: Array, clip: float | Array) -> Array:
    """Return PPO's clipped objective, which is to be maximised (Schulman et al. 2017, equation 7).

    Ratios are bounded by e^40 (``likelihood_ratio``), so that value and gradient are finite. The bound matters for
    negative advantages only, for which the objective has no lower bound.

    Args:
        log_ratio: log pi(a) - log pi_old(a), ``[...]``.
        advantage: ``[...]``.
        clip: epsilon.

    Returns:
        ``[...]``.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    ratio = likelihood_ratio(log_ratio)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def dice(log_prob: Array, advantage: Array) -> Array:
    """Return DiCE's objective of one episode, all of whose derivatives are unbiased.

    The sources are Foerster et al. (2018), and Farquhar et al. (2019) for the baseline.

    Let L_t be the sum of the log-probabilities up to step t, and box(x) = exp(x - stop_gradient(x)). Step t contributes
    (box(L_t) - box(L_{t-1})) A_t. Its value is zero, its first derivative is that of log pi(a_t) A_t, and its higher
    derivatives include the dependence of later actions on earlier ones.

    Args:
        log_prob: ``[T]``.
        advantage: ``[T]``, data; 0 after the episode's end.

    Returns:
        ``[T]``.
    """
    chex.assert_rank(log_prob, 1)
    chex.assert_equal_shape([log_prob, advantage])
    up_to = jnp.cumsum(log_prob)
    before = up_to - log_prob

    def box(x: Array) -> Array:
        return jnp.exp(x - jax.lax.stop_gradient(x))

    return (box(up_to) - box(before)) * advantage


def masked_mean(x: Array, mask: Array) -> Array:
    """Return the mean of ``x`` over the entries where ``mask`` is true; 0 if there are none.

    Other entries of ``x`` may be infinite or NaN: they have no effect on the value and the gradient.
    """
    weight = mask.astype(x.dtype)
    return weighted_sum(x, weight) / jnp.maximum(jnp.sum(weight), 1)


def weighted_sum(x: Array, weight: Array) -> Array:
    """Return the sum of ``weight * x``, both ``[...]``. Entries of ``x`` whose weight is 0 may be infinite or NaN."""
    chex.assert_equal_shape([x, weight])
    # Zero times infinity is NaN, so these entries are replaced before the multiplication.
    return jnp.sum(weight * jnp.where(weight != 0, x, 0.0))


def approximate_kl(log_ratio: Array) -> Array:
    """Estimate KL(pi_old || pi) from actions of pi_old as (r - 1) - log r, which is never negative.

    In the first term, r is bounded by e^40, so that value and gradient are finite.
    """
    return jnp.expm1(_bounded(log_ratio)) - log_ratio
