"""Returns and advantages of one trajectory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl_jax.types import Array


def discounted_returns(reward: Array, discount: Array, bootstrap: Array | float = 0.0) -> Array:
    """G_t = r_t + d_t G_{t+1}, with G_T = ``bootstrap``.

    Args:
        reward: ``[T]``.
        discount: ``[T]``; d_t multiplies what comes after step t (0 where the return ends).
        bootstrap: the value after the last step, a scalar.

    Returns:
        ``[T]``.
    """

    def backup(future: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        r, d = now
        value = r + d * future
        return value, value

    start = jnp.asarray(bootstrap, reward.dtype)
    return jax.lax.scan(backup, start, (reward, discount), reverse=True)[1]


def generalised_advantages(
    reward: Array, discount: Array, value: Array, next_value: Array, gae_lambda: float | Array
) -> Array:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16).

    A_t = delta_t + lambda d_t A_{t+1}, with delta_t = r_t + d_t v'_t - v_t. With lambda = 1 this is the discounted
    return minus the value; with lambda = 0 the temporal-difference error.

    Args:
        reward: ``[T]``.
        discount: ``[T]``; 0 where nothing follows.
        value: ``[T]``, v(s_t).
        next_value: ``[T]``, the value after step t (before any reset).
        gae_lambda: lambda in [0, 1].

    Returns:
        ``[T]``.
    """
    delta = reward + discount * next_value - value
    return discounted_returns(delta, gae_lambda * discount)


def remaining_horizon(steps: int, discount: float | Array) -> Array:
    """The discounted number of steps that remain: h_t = sum_{k=0}^{T-1-t} discount^k.

    The largest return from step t when every reward is one, so ``value / h_t`` is a mean reward per step: a unit in
    which the critic's target is of order one however long the trial is.

    Args:
        steps: T.
        discount: in [0, 1].

    Returns:
        ``[T]``.
    """
    return discounted_returns(jnp.ones(steps), jnp.full(steps, discount))
