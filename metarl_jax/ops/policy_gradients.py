"""Policy-gradient objectives, elementwise: the caller averages over the steps that count."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl_jax.types import Array


def clipped_surrogate(log_ratio: Array, advantage: Array, clip: float | Array) -> Array:
    """PPO's clipped objective, to be maximised (Schulman et al. 2017, equation 7).

    Args:
        log_ratio: log pi(a) - log pi_old(a), ``[...]``.
        advantage: ``[...]``.
        clip: epsilon.

    Returns:
        ``[...]``.
    """
    ratio = jnp.exp(log_ratio)
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
    up_to = jnp.cumsum(log_prob)
    before = up_to - log_prob

    def box(x: Array) -> Array:
        return jnp.exp(x - jax.lax.stop_gradient(x))

    return (box(up_to) - box(before)) * advantage


def masked_mean(x: Array, mask: Array) -> Array:
    """The mean of ``x`` where ``mask`` is true (0 if it nowhere is)."""
    weight = mask.astype(x.dtype)
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1)


def approximate_kl(log_ratio: Array) -> Array:
    """An estimator of KL(pi_old || pi) from actions of pi_old that is never negative: (r - 1) - log r."""
    return jnp.expm1(log_ratio) - log_ratio
