"""Returns and advantages against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.ops.returns import discounted_returns, generalised_advantages, remaining_horizon


@pytest.fixture
def trajectory() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(3), 3)
    reward, value = jax.random.normal(keys[0], (12,)), jax.random.normal(keys[1], (12,))
    return {"reward": reward, "value": value, "next_value": jnp.append(value[1:], 0.7)}


def test_discounted_returns_are_the_sum_of_what_follows() -> None:
    reward = np.array([1.0, 2.0, 4.0])
    expected = [1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 8, 2 + 0.5 * 4 + 0.25 * 8, 4 + 0.5 * 8]
    got = discounted_returns(jnp.array(reward), jnp.full(3, 0.5), bootstrap=8.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_zero_discount_cuts_the_return() -> None:
    got = discounted_returns(jnp.ones(4), jnp.array([1.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(got, [2, 1, 2, 1])


def test_lambda_one_is_the_return_minus_the_value(trajectory: dict[str, jax.Array]) -> None:
    discount = jnp.full(12, 0.9)
    returns = discounted_returns(trajectory["reward"], discount, bootstrap=trajectory["next_value"][-1])
    got = generalised_advantages(**trajectory, discount=discount, gae_lambda=1.0)
    np.testing.assert_allclose(got, returns - trajectory["value"], rtol=1e-4, atol=1e-5)


def test_lambda_zero_is_the_temporal_difference_error(trajectory: dict[str, jax.Array]) -> None:
    got = generalised_advantages(**trajectory, discount=jnp.full(12, 0.9), gae_lambda=0.0)
    expected = trajectory["reward"] + 0.9 * trajectory["next_value"] - trajectory["value"]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_advantage_is_the_weighted_sum_of_errors(trajectory: dict[str, jax.Array]) -> None:
    discount, gae_lambda = 0.9, 0.6
    delta = np.asarray(trajectory["reward"] + discount * trajectory["next_value"] - trajectory["value"])
    expected = [sum((discount * gae_lambda) ** k * delta[t + k] for k in range(12 - t)) for t in range(12)]
    got = generalised_advantages(**trajectory, discount=jnp.full(12, discount), gae_lambda=gae_lambda)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("discount", "expected"), [(1.0, [4, 3, 2, 1]), (0.5, [1.875, 1.75, 1.5, 1]), (0, [1] * 4)])
def test_remaining_horizon(discount: float, expected: list[float]) -> None:
    np.testing.assert_allclose(remaining_horizon(4, discount), expected, rtol=1e-6)
