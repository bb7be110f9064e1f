"""Recurrent soft actor-critic: exact soft values, the replay of whole trials, and the memories."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import training
from metarl_jax.algorithms import recurrent_sac
from metarl_jax.environments import bandits
from metarl_jax.interfaces.off_policy import OffPolicyNetworks
from metarl_jax.networks import mlp, off_policy, recurrent
from metarl_jax.types import Algorithm, EnvFamily, Inputs, TaskDistribution


def small_networks(family: EnvFamily) -> OffPolicyNetworks:
    memory = recurrent.make(family, recurrent.Settings(hidden_size=16, embedding_size=8), critic=False)
    return off_policy.make(family, memory, off_policy.Settings(head_units=16, head_layers=1))


def make(family: EnvFamily, **settings: Any) -> tuple[OffPolicyNetworks, Algorithm]:
    networks = small_networks(family)
    sizes: dict[str, Any] = {"trials": 4, "initial_trials": 4, "replay_trials": 6, "batch_trials": 8, "iterations": 10}
    return networks, recurrent_sac.make(family, networks, recurrent_sac.Config(**(sizes | settings)))


def one_bandit(means: list[float]) -> EnvFamily:
    """Return the family of a single bandit with little noise."""
    family = bandits.gaussian(len(means), noise=0.01)
    task = bandits.BanditParams(means=jnp.array(means, jnp.float32))
    return family._replace(tasks=TaskDistribution(lambda key: task, lambda key: task))


@pytest.mark.slow
def test_values_and_policy_converge_to_the_exact_soft_ones() -> None:
    """On a known bandit the soft value of the last pull is tau log sum exp(r / tau), and the policy softmax(r / tau).

    The value of the first pull includes that of the second: the return crosses the end of an episode.
    """
    means, temperature, discount = np.array([0.2, 0.5, 0.9]), 0.3, 0.9
    family = one_bandit(means.tolist())
    networks, algorithm = make(
        family,
        episodes=2,
        iterations=40,
        trials=32,
        initial_trials=64,
        replay_trials=1344,
        gradient_steps=40,
        batch_trials=64,
        learning_rate=5e-3,
        target_rate=0.05,
        discount=discount,
        temperature=temperature,
        automatic_temperature=False,
    )
    learned = training.train(jax.random.key(0), algorithm).state.algorithm.learned
    policy = np.exp(means / temperature) / np.sum(np.exp(means / temperature))
    soft_value = temperature * np.log(np.sum(np.exp(means / temperature)))
    inputs = Inputs(
        jnp.zeros((2, 0)), jnp.array([0, 1]), jnp.array([0.0, 0.5]), jnp.array([0.0, 1.0]), jnp.array([True, False])
    )

    def features(params: Any) -> Any:
        memory = networks.memory
        return memory.unroll(params, memory.initial_carry(params), inputs)[1].features

    distribution = networks.actor.distribution(learned.actor.reader, inputs.obs, features(learned.actor.memory))
    np.testing.assert_allclose(jax.nn.softmax(distribution.logits), [policy, policy], atol=0.05)
    for arm in range(3):
        of_critics = networks.critic.values(
            learned.critic.reader, inputs.obs, features(learned.critic.memory), jnp.array([arm, arm])
        )
        wanted = [means[arm] + discount * soft_value, means[arm]]
        np.testing.assert_allclose(np.mean(of_critics, axis=0), wanted, atol=0.05)


def test_the_replay_keeps_the_newest_trials() -> None:
    _, algorithm = make(bandits.gaussian(3, noise=1.0), episodes=5, gradient_steps=1)
    state = algorithm.init(jax.random.key(0))
    assert state.replay.reward.shape == (6, 5)
    np.testing.assert_array_equal(np.any(state.replay.valid, axis=1), [True] * 4 + [False] * 2)
    step = jax.jit(algorithm.step)
    for iteration, changed in enumerate([{4, 5, 0, 1}, {2, 3, 4, 5}, {0, 1, 2, 3}]):
        after, metrics = step(jax.random.key(iteration), state)
        differs = np.any(after.replay.reward != state.replay.reward, axis=1)
        assert set(np.flatnonzero(differs)) == changed
        new = np.asarray(after.replay.reward)[sorted(changed)]
        np.testing.assert_allclose(metrics["trial_reward"], np.mean(np.sum(new, axis=1)), rtol=1e-5)
        # The stored inputs are those of the policy: the memories can read the trial from its beginning.
        np.testing.assert_array_equal(after.replay.inputs.prev_reward[:, 1:], after.replay.reward[:, :-1])
        state = after
    assert int(state.trials) == 16


def test_memories_have_a_step_size_of_their_own() -> None:
    _, algorithm = make(bandits.bernoulli(3), memory_rate_fraction=1e-30, gradient_steps=3)
    before = algorithm.init(jax.random.key(0))
    after = algorithm.step(jax.random.key(1), before)[0]
    changes = jax.tree.map(lambda old, new: float(jnp.max(jnp.abs(new - old))), before.learned, after.learned)
    for change in (changes.actor, changes.critic):
        assert max(jax.tree.leaves(change.memory)) < 1e-20
        assert max(jax.tree.leaves(change.reader)) > 1e-6


def test_what_does_not_fit_is_refused() -> None:
    family = bandits.bernoulli(3)
    with pytest.raises(ValueError, match=r"replay_trials \(3\) must be at least 4"):
        recurrent_sac.Config(trials=4, initial_trials=2, replay_trials=3)
    without = family._replace(privileged=None)
    with pytest.raises(ValueError, match='use "paid"'):
        make(without, training_reward="task")
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(7,))
    blind = policy._replace(step=lambda *a: (lambda c, o: (c, o._replace(features=None)))(*policy.step(*a)))
    with pytest.raises(ValueError, match="needs a memory whose outputs have features"):
        off_policy.make(family, blind, off_policy.Settings())
    networks = small_networks(family)
    with pytest.raises(ValueError, match="must have features"):
        recurrent_sac.make(family, networks._replace(memory=blind), recurrent_sac.Config())
    with pytest.raises(ValueError, match="networks must be a"):
        recurrent_sac.make(family, policy, recurrent_sac.Config())  # pyright: ignore[reportArgumentType]
