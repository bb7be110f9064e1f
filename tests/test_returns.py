"""Returns and advantages agree with closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.ops.returns import (
    discounted_returns,
    expected_advantages,
    generalised_advantages,
    remaining_horizon,
)


@pytest.fixture
def trajectory() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(3), 3)
    reward, value = jax.random.normal(keys[0], (12,)), jax.random.normal(keys[1], (12,))
    return {"reward": reward, "value": value, "next_value": jnp.append(value[1:], 0.7)}


def test_discounted_returns_are_the_sum_of_later_rewards() -> None:
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


@pytest.fixture
def outcomes() -> dict[str, jax.Array]:
    """Make five steps of three actions with two outcomes each. The value after the last step is 0."""
    keys = jax.random.split(jax.random.key(4), 5)
    return {
        "policy": jax.nn.softmax(jax.random.normal(keys[0], (5, 3))),
        "reward": jax.random.normal(keys[1], (5, 3)),
        "probability": jax.nn.softmax(jax.random.normal(keys[2], (5, 3, 2))),
        "next_value": jax.random.normal(keys[3], (5, 3, 2)).at[-1].set(0.0),
        "value": jax.random.normal(keys[4], (5,)),
    }


def test_expected_advantages_are_of_all_actions(outcomes: dict[str, jax.Array]) -> None:
    advantages, _ = expected_advantages(**outcomes, discount=0.9, critic_lambda=0.5)
    np.testing.assert_allclose(jnp.sum(outcomes["policy"] * advantages, axis=-1), 0.0, atol=1e-6)
    led_to = jnp.sum(outcomes["probability"] * outcomes["next_value"], axis=-1)
    worth = outcomes["reward"] + 0.9 * led_to
    np.testing.assert_allclose(advantages[:, 1] - advantages[:, 0], worth[:, 1] - worth[:, 0], rtol=1e-4)


@pytest.mark.parametrize("critic_lambda", [0.0, 0.7, 1.0])
def test_errors_are_the_mean_of_generalised_advantages(outcomes: dict[str, jax.Array], critic_lambda: float) -> None:
    """The errors are expectations over the action and the outcome of both steps."""
    f, discount = {name: np.asarray(x[-2:], np.float64) for name, x in outcomes.items()}, 0.9
    _, errors = expected_advantages(
        **{name: x[-2:] for name, x in outcomes.items()}, discount=discount, critic_lambda=critic_lambda
    )
    # The mean error of the second step does not depend on the first draw, because the value before it is given.
    last = sum(f["policy"][1, a] * (f["reward"][1, a] - f["value"][1]) for a in range(3))
    first = sum(
        f["policy"][0, a] * f["probability"][0, a, o] * (f["reward"][0, a] + discount * f["next_value"][0, a, o])
        for a in range(3)
        for o in range(2)
    )
    error = first - f["value"][0] + critic_lambda * discount * last
    np.testing.assert_allclose(errors, [error, last], rtol=1e-4)


def test_a_critic_that_is_right_has_no_errors() -> None:
    """On a bandit with two arms of known mean rewards 0.3 and 0.6, a random arm is pulled three times."""
    left = jnp.array([3.0, 2.0, 1.0])
    value, mean = 0.45 * left, jnp.array([0.3, 0.6])
    advantages, errors = expected_advantages(
        policy=jnp.full((3, 2), 0.5),
        reward=jnp.tile(mean, (3, 1)),
        probability=jnp.tile(jnp.stack([1 - mean, mean], axis=-1), (3, 1, 1)),
        next_value=jnp.broadcast_to((0.45 * (left - 1))[:, None, None], (3, 2, 2)),
        value=value,
        discount=1.0,
        critic_lambda=0.8,
    )
    np.testing.assert_allclose(errors, 0.0, atol=1e-6)
    np.testing.assert_allclose(advantages, np.tile([-0.15, 0.15], (3, 1)), rtol=1e-5)
