"""The privileged critic's inputs, its advantages of all arms, and the policy's gradient step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.algorithms import rl2_asymmetric
from metarl_jax.environments import bandits, tabular_mdp
from metarl_jax.interfaces.asymmetric import ArmsCritic, AsymmetricNetworks
from metarl_jax.networks import arms, recurrent
from metarl_jax.ops.distributions import Categorical
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, Inputs, Key, Output, TaskDistribution, Transition

FAMILY = bandits.bernoulli(3)
ARM = bandits.bernoulli_arm()


def networks() -> AsymmetricNetworks:
    policy = recurrent.make(FAMILY, recurrent.Settings(hidden_size=4))
    return AsymmetricNetworks(policy, arms.critic(ARM, units=16))


# A critic whose values are always zero.
SILENT = ArmsCritic(
    init=lambda key: {"bias": jnp.zeros(())},
    value=lambda params, known, left: jnp.zeros(left.shape) + 0.0 * params["bias"],
    lookahead=lambda params, known, then, left: jnp.zeros(then.shape[:-1]) + 0.0 * params["bias"],
)


def test_beliefs_are_of_the_pulls_before() -> None:
    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, 3), ()

    def play(key: Key) -> Transition:
        return trial(key, act, (), FAMILY, FAMILY.tasks.sample(key), 20)[1]

    t = jax.vmap(play)(jax.random.split(jax.random.key(0), 16))
    believed = jax.vmap(lambda t: rl2_asymmetric.beliefs(ARM, 3, t))(t)
    pulled = np.eye(3)[np.asarray(t.action)]
    paid = pulled * np.asarray(t.reward)[..., None]
    np.testing.assert_array_equal(believed.pulls, np.cumsum(pulled, axis=1) - pulled)
    np.testing.assert_array_equal(believed.successes, np.cumsum(paid, axis=1) - paid)


@pytest.mark.slow
def test_the_policy_gradient_uses_the_values_of_all_arms() -> None:
    """A gradient step ascends the expected posterior mean of all arms, pulled or not.

    Without a later pull, the advantage of an arm is its posterior mean minus the policy's expectation over arms.
    """
    made = networks()
    config = rl2_asymmetric.Config(
        episodes=6, trials=4, minibatches=1, epochs=1, critic_epochs=1, entropy_coefficient=0.0,
        learning_rate=1e-3, max_grad_norm=1e9, exploration=0.0,
    )  # fmt: skip
    algorithm = rl2_asymmetric.make(FAMILY, AsymmetricNetworks(made.policy, SILENT), config)
    state = algorithm.init(jax.random.key(0))
    key = jax.random.key(5)
    after, metrics = algorithm.step(key, state)

    # The same trials are played again.
    def play(key: Key) -> Transition:
        key_task, key_trial = jax.random.split(key)

        def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
            carry, output = made.policy.step(state.params, carry, inputs)
            return carry, output.distribution.sample(key), ()

        carry = made.policy.initial_carry(state.params)
        return trial(key_trial, act, carry, FAMILY, FAMILY.tasks.sample(key_task), 6)[1]

    t = jax.vmap(play)(jax.random.split(jax.random.split(key, 3)[0], 4))
    assert float(metrics["trial_reward"]) == pytest.approx(float(jnp.mean(jnp.sum(t.reward, axis=1))))
    pulled = np.eye(3)[np.asarray(t.action)]
    paid = pulled * np.asarray(t.reward)[..., None]
    count, total = np.cumsum(pulled, axis=1) - pulled, np.cumsum(paid, axis=1) - paid
    mean = jnp.asarray((1 + total) / (2 + count), jnp.float32)

    def objective(params: Any) -> Array:
        def one(inputs: Inputs, mean: Array) -> Array:
            output = made.policy.unroll(params, made.policy.initial_carry(params), inputs)[1]
            return jnp.sum(jax.nn.softmax(output.distribution.logits) * mean, axis=-1)

        return jnp.mean(jax.vmap(one)(t.inputs, mean))

    gradient = jax.grad(objective)(state.params)
    norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-3)
    # Adam's first step is the sign of the gradient, except where the gradient is of the order of epsilon.
    for before, new, g in zip(*(jax.tree.leaves(x) for x in (state.params, after.params, gradient)), strict=True):
        expected = before + 1e-3 * g / (jnp.abs(g) + config.adam_epsilon)
        np.testing.assert_allclose(new, expected, atol=2e-5)


@pytest.mark.slow
def test_training_explores_and_adapting_does_not() -> None:
    """For a policy that always pulls one arm, the reward in training shows how often it explores."""
    # The first arm has reward 0, and the others have reward 1.
    task = bandits.BanditParams(jnp.array([0.0, 1.0, 1.0]))
    family = FAMILY._replace(tasks=TaskDistribution(lambda key: task, lambda key: task))
    made = networks()

    def step(params: Any, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        carry, output = made.policy.step(params, carry, inputs)
        return carry, output._replace(distribution=Categorical(jnp.array([20.0, 0.0, 0.0])))

    policy = made.policy._replace(step=step)
    for exploration, expected in ((0.0, 0.0), (0.3, 0.2)):
        config = rl2_asymmetric.Config(episodes=50, trials=100, minibatches=1, exploration=exploration)
        algorithm = rl2_asymmetric.make(family, AsymmetricNetworks(policy, made.critic), config)
        state = algorithm.init(jax.random.key(0))
        mean_reward = float(algorithm.step(jax.random.key(1), state)[1]["trial_reward"]) / 50
        # Six standard errors of 5000 pulls.
        assert mean_reward == pytest.approx(expected, abs=6 * (expected * (1 - expected) / 5000) ** 0.5)
        assert float(jnp.sum(algorithm.adapt(jax.random.key(2), state, task).score)) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"critic_lambda": 1.5}, "critic_lambda"),
        ({"critic_epochs": 0}, "critic_epochs"),
        ({"critic_learning_rate": 0.0}, "critic_learning_rate"),
        ({"minibatches": 3}, r"trials \(256\) must be a multiple of minibatches \(3\)"),
        ({"exploration": 1.5}, "exploration"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rl2_asymmetric.make(FAMILY, networks(), rl2_asymmetric.Config(**{"trials": 256, **settings}))


@pytest.mark.parametrize("family", [bandits.gaussian(3), tabular_mdp.make()])
def test_families_without_finitely_many_rewards_are_refused(family: Any) -> None:
    with pytest.raises(ValueError, match="for bandits whose arms pay finitely many rewards"):
        rl2_asymmetric.make(family, networks(), rl2_asymmetric.Config())
