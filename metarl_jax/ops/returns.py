"""Returns and advantages of one trajectory."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from metarl_jax.types import Array


def discounted_returns(reward: Array, discount: Array, bootstrap: Array | float = 0.0) -> Array:
    """Return the discounted returns G_t = r_t + d_t G_{t+1}, with G_T = ``bootstrap``.

    Args:
        reward: ``[T]``.
        discount: ``[T]``; d_t multiplies the return after step t, and is 0 where the return ends.
        bootstrap: the value after the last step, a scalar.

    Returns:
        ``[T]``.
    """
    chex.assert_rank([reward, discount, bootstrap], [1, 1, 0])
    chex.assert_equal_shape([reward, discount])

    def backup(future: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        r, d = now
        value = r + d * future
        return value, value

    start = jnp.asarray(bootstrap, reward.dtype)
    return jax.lax.scan(backup, start, (reward, discount), reverse=True)[1]


def generalised_advantages(
    reward: Array, discount: Array, value: Array, next_value: Array, gae_lambda: float | Array
) -> Array:
    """Return generalised advantage estimates (Schulman et al. 2016, equation 16).

    A_t = delta_t + lambda d_t A_{t+1}, with delta_t = r_t + d_t v'_t - v_t. With lambda = 1 it is the discounted return
    minus the value; with lambda = 0 it is the temporal-difference error.

    Args:
        reward: ``[T]``.
        discount: ``[T]``; 0 where nothing follows.
        value: ``[T]``, v(s_t).
        next_value: ``[T]``, the value after step t (before any reset).
        gae_lambda: lambda in [0, 1].

    Returns:
        ``[T]``.
    """
    chex.assert_rank([reward, gae_lambda], [1, 0])
    chex.assert_equal_shape([reward, discount, value, next_value])
    delta = reward + discount * next_value - value
    return discounted_returns(delta, gae_lambda * discount)


def expected_advantages(
    policy: Array,
    reward: Array,
    probability: Array,
    next_value: Array,
    value: Array,
    discount: float | Array,
    critic_lambda: float | Array,
) -> tuple[Array, Array]:
    """Return the advantages of all actions, and the errors of a critic, given the outcome probabilities of all actions.

    Q_t(a) = r_t(a) + d sum_o p_t(o | a) v'_t(a, o), and A_t(a) = Q_t(a) - sum_a' pi_t(a') Q_t(a'). The errors are
    generalised advantages (Schulman et al. 2016, equation 16) whose temporal-difference errors are expectations over
    actions and outcomes: e_t = (sum_a pi_t(a) Q_t(a) - v_t) + lambda d e_{t+1}. The target of a critic is v_t + e_t.

    Args:
        policy: ``[T, A]``, the probability of each action.
        reward: ``[T, A]``, the expected reward of each action.
        probability: ``[T, A, O]``, the probability of each outcome.
        next_value: ``[T, A, O]``, the value after each outcome; 0 where nothing follows.
        value: ``[T]``.
        discount: d, in [0, 1].
        critic_lambda: lambda, in [0, 1].

    Returns:
        Advantages ``[T, A]`` and errors ``[T]``.
    """
    chex.assert_rank([next_value, discount, critic_lambda], [3, 0, 0])
    chex.assert_equal_shape([probability, next_value])
    chex.assert_shape([policy, reward], next_value.shape[:2])
    chex.assert_shape(value, next_value.shape[:1])
    action_value = reward + discount * jnp.sum(probability * next_value, axis=-1)
    mean = jnp.sum(policy * action_value, axis=-1)
    error = discounted_returns(mean - value, jnp.broadcast_to(critic_lambda * discount, value.shape))
    return action_value - mean[:, None], error


def remaining_horizon(steps: int, discount: float | Array) -> Array:
    """Return the discounted number of remaining steps: h_t = sum_{k=0}^{T-1-t} discount^k.

    h_t is the return from step t if every reward is one, so ``value / h_t`` is a mean reward per step. In this unit a
    critic's target is of order one for trials of any length.

    Args:
        steps: T.
        discount: in [0, 1].

    Returns:
        ``[T]``.
    """
    chex.assert_rank(discount, 0)
    return discounted_returns(jnp.ones(steps, jnp.float32), jnp.full(steps, discount, jnp.float32))
