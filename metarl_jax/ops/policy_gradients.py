"""Policy-gradient objectives, elementwise: the caller averages over the steps that count."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from metarl_jax.types import Array

LARGEST_LOG_RATIO = 40.0
"""Log-ratios count as this at most: e^40 = 2.4e17, whose square, which optimisers take, is finite in float32."""


@jax.custom_jvp
def _bounded(log_ratio: Array) -> Array:
    """``min(log_ratio, LARGEST_LOG_RATIO)`` with a derivative of one everywhere."""
    return jnp.minimum(log_ratio, LARGEST_LOG_RATIO)


_bounded.defjvps(lambda tangent, value, log_ratio: tangent)


def likelihood_ratio(log_ratio: Array) -> Array:
    """pi(a) / pi_old(a), at most e^40; its derivative is the ratio, so that of a larger ratio is finite and not zero.

    Args:
        log_ratio: log pi(a) - log pi_old(a), ``[...]``.

    Returns:
        ``[...]``.
    """
    return jnp.exp(_bounded(log_ratio))


def clipped_surrogate(log_ratio: Array, advantage: Array, clip: float | Array) -> Array:
    """PPO's clipped objective, to be maximised (Schulman et al. 2017, equation 7).

    Ratios count as e^40 at most (``likelihood_ratio``), so that value and gradient are finite. Beyond the clipping
    radius that matters for negative advantages only, for which the objective has no lower bound.

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
    """DiCE's objective of one episode, whose every derivative is unbiased (Foerster et al. 2018; with a baseline as in
    Farquhar et al. 2019).

    With L_t the sum of the log-probabilities up to step t and box(x) = exp(x - stop_gradient(x)), step t contributes
    (box(L_t) - box(L_{t-1})) A_t: its value is zero, its first derivative that of log pi(a_t) A_t, and its
    higher ones count that earlier actions made later ones likelier.

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
    """The mean of ``x`` where ``mask`` is true (0 if it nowhere is).

    Entries of ``x`` where it is not true may be anything, infinite or NaN: neither value nor gradient depends on them.
    """
    weight = mask.astype(x.dtype)
    return weighted_sum(x, weight) / jnp.maximum(jnp.sum(weight), 1)


def weighted_sum(x: Array, weight: Array) -> Array:
    """The sum of ``weight * x``, both ``[...]``; entries of ``x`` whose weight is 0 may be infinite or NaN."""
    chex.assert_equal_shape([x, weight])
    # Zero times infinity is NaN: those entries are replaced before they are multiplied.
    return jnp.sum(weight * jnp.where(weight != 0, x, 0.0))


def approximate_kl(log_ratio: Array) -> Array:
    """An estimator of KL(pi_old || pi) from actions of pi_old that is never negative: (r - 1) - log r.

    Ratios r count as e^40 at most, so that value and gradient are finite.
    """
    return jnp.expm1(_bounded(log_ratio)) - log_ratio
