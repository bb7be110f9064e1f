"""The critic of a bandit's arms: its values after each outcome of a pull, and its symmetry under the order of arms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import bandits
from metarl_jax.interfaces.asymmetric import ArmsCritic
from metarl_jax.networks import arms
from metarl_jax.types import Params

ARMS, FEATURES, OUTCOMES = 4, 3, 2
ARM = bandits.bernoulli_arm()


@pytest.fixture(scope="module")
def critic() -> tuple[ArmsCritic, Params]:
    made = arms.critic(ARM._replace(features=lambda belief: jnp.zeros(FEATURES)), units=6)
    return made, made.init(jax.random.key(0))


def known(*lead: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (*lead, ARMS, FEATURES))


def test_the_lookahead_equals_the_value_after_the_pull(critic: tuple[ArmsCritic, Params]) -> None:
    made, params = critic
    now, left = known(5, 2), jnp.arange(10.0).reshape(5, 2)
    then = jax.random.normal(jax.random.key(2), (5, 2, ARMS, OUTCOMES, FEATURES))
    after_pull = made.lookahead(params, now, then, left)
    assert after_pull.shape == (5, 2, ARMS, OUTCOMES)
    for arm in range(ARMS):
        for outcome in range(OUTCOMES):
            after = now.at[:, :, arm].set(then[:, :, arm, outcome])
            np.testing.assert_allclose(after_pull[:, :, arm, outcome], made.value(params, after, left), atol=1e-6)


def test_it_does_not_matter_which_arm_is_which(critic: tuple[ArmsCritic, Params]) -> None:
    made, params = critic
    now = known(7)
    order = jnp.array([2, 0, 3, 1])
    value = made.value(params, now, jnp.full(7, 3.0))
    np.testing.assert_allclose(made.value(params, now[:, order], jnp.full(7, 3.0)), value, atol=1e-6)
    assert float(jnp.std(value)) > 1e-4


def test_the_value_depends_on_the_pulls_that_are_left(critic: tuple[ArmsCritic, Params]) -> None:
    made, params = critic
    value = made.value(params, jnp.broadcast_to(known(), (3, ARMS, FEATURES)), jnp.array([1.0, 10.0, 100.0]))
    assert len(np.unique(np.round(value, 5))) == 3


@pytest.mark.parametrize("units", [0, 2.5])
def test_bad_sizes_are_named(units: Any) -> None:
    with pytest.raises(ValueError, match="units"):
        arms.critic(ARM, units=units)


def test_a_bernoulli_arm_is_a_beta_distribution() -> None:
    """The posterior mean obeys Laplace's rule of succession, and a pull does not change it in expectation."""
    arm, belief = ARM, ARM.prior
    for pulls, (reward, mean) in enumerate([(1.0, 1 / 2), (0.0, 2 / 3), (0.0, 2 / 4), (1.0, 2 / 5)]):
        outcomes = arm.outcomes(belief)
        np.testing.assert_allclose(outcomes.reward, [0, 1])
        np.testing.assert_allclose(outcomes.probability, [1 - mean, mean], rtol=1e-6)
        then = [arm.outcomes(arm.observe(belief, r)).probability[1] for r in outcomes.reward]
        np.testing.assert_allclose(jnp.dot(outcomes.probability, jnp.stack(then)), mean, rtol=1e-6)
        told = arm.features(belief)
        # The features are those of the mean, the standard deviation, and the number of pulls.
        deviation = np.sqrt(mean * (1 - mean) / (3 + pulls))
        expected = [mean - 0.5, 2 * deviation, (2 + pulls) ** -0.5, np.log1p(pulls) / 5]
        np.testing.assert_allclose(told, expected, rtol=1e-5)
        belief = arm.observe(belief, jnp.float32(reward))


def test_the_lookahead_needs_finitely_many_rewards() -> None:
    privileged = bandits.gaussian(2).privileged
    assert privileged is not None
    assert privileged.arm is None
