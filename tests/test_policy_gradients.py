"""Policy-gradient objectives agree with exact gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.ops.distributions import Categorical
from metarl_jax.ops.policy_gradients import approximate_kl, clipped_surrogate, masked_mean


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "value", "slope"),
    [
        (0.0, 2.0, 2.0, 2.0),
        (0.1, 2.0, 2 * np.exp(0.1), 2 * np.exp(0.1)),
        (0.5, 2.0, 2 * 1.2, 0.0),  # above 1 + clip, a positive advantage has no gradient
        (0.5, -2.0, -2 * np.exp(0.5), -2 * np.exp(0.5)),  # above 1 + clip, a negative advantage has one
        (-0.5, -2.0, -2 * 0.8, 0.0),
        (-0.5, 2.0, 2 * np.exp(-0.5), 2 * np.exp(-0.5)),
        (0.5, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_and_its_slope(log_ratio: float, advantage: float, value: float, slope: float) -> None:
    got, got_slope = jax.value_and_grad(lambda x: clipped_surrogate(x, jnp.float32(advantage), 0.2))(log_ratio)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    np.testing.assert_allclose(got_slope, slope, rtol=1e-6)


def test_surrogates_gradient_at_the_old_policy_is_the_policy_gradient() -> None:
    # A softmax bandit with all actions enumerated: dJ/dlogit_i = pi_i (r_i - J).
    logits, reward = jnp.array([0.3, -0.5, 1.1, 0.0]), jnp.array([1.0, 0.2, 0.4, 0.9])
    pi = jax.nn.softmax(logits)
    exact = pi * (reward - pi @ reward)
    actions = jnp.arange(4)
    old = jax.vmap(Categorical(logits).log_prob)(actions)

    def ppo(x: jax.Array, baseline: jax.Array) -> jax.Array:
        log_ratio = jax.vmap(Categorical(x).log_prob)(actions) - old
        return pi @ clipped_surrogate(log_ratio, reward - baseline, 0.2)

    def reinforce(x: jax.Array, baseline: jax.Array) -> jax.Array:
        return pi @ (jax.vmap(Categorical(x).log_prob)(actions) * (reward - baseline))

    def value(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x) @ reward

    np.testing.assert_allclose(jax.grad(value)(logits), exact, atol=1e-6)
    for baseline in (0.0, 0.5, pi @ reward):
        np.testing.assert_allclose(jax.grad(ppo)(logits, baseline), exact, atol=1e-6)
        np.testing.assert_allclose(jax.grad(reinforce)(logits, baseline), exact, atol=1e-6)


def test_two_armed_bandit_derivatives_by_sampling() -> None:
    # Two arms, reward 1 and 0, logit difference d: J = sigma(d), J' = sigma'(d).
    d, draws = 0.7, 200_000
    logits = jnp.array([d, 0.0])
    actions = jax.vmap(Categorical(logits).sample)(jax.random.split(jax.random.key(0), draws))
    reward = (actions == 0).astype(jnp.float32)
    old = jax.vmap(Categorical(logits).log_prob)(actions)

    def surrogate(x: jax.Array) -> jax.Array:
        log_ratio = jax.vmap(Categorical(jnp.array([x, 0.0])).log_prob)(actions) - old
        return jnp.mean(clipped_surrogate(log_ratio, reward - 0.5, 0.2))

    sigma = 1 / (1 + np.exp(-d))
    np.testing.assert_allclose(jax.grad(surrogate)(d), sigma * (1 - sigma), atol=5 * 0.5 / np.sqrt(draws))


def test_masked_mean() -> None:
    x, mask = jnp.array([1.0, 5.0, 100.0]), jnp.array([True, True, False])
    np.testing.assert_allclose(masked_mean(x, mask), 3.0)
    np.testing.assert_allclose(jax.grad(lambda x: masked_mean(x, mask))(x), [0.5, 0.5, 0.0])
    assert float(masked_mean(x, jnp.zeros(3, bool))) == 0.0


def test_approximate_kl_is_never_negative_and_exact_on_average() -> None:
    old, new = jnp.array([0.3, -0.5, 1.1]), jnp.array([0.1, 0.2, 0.9])
    log_ratio = jax.nn.log_softmax(new) - jax.nn.log_softmax(old)
    estimate = approximate_kl(log_ratio)
    assert jnp.all(estimate >= 0)
    np.testing.assert_allclose(jax.nn.softmax(old) @ estimate, Categorical(old).kl(Categorical(new)), rtol=1e-4)
