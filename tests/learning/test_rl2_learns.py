"""RL² learns to explore within seconds.

Thresholds are between the reward of strategies without a memory and the exact optimum.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from metarl_jax import training
from metarl_jax.algorithms import rl2, rl2_asymmetric
from metarl_jax.environments import bandits
from metarl_jax.evaluation import meta_test
from metarl_jax.interfaces.asymmetric import AsymmetricNetworks
from metarl_jax.networks import arms, mlp, recurrent
from metarl_jax.ops.statistics import Estimate, mean_with_interval
from metarl_jax.types import Algorithm, Policy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("full_optimisation")]

PULLS = 10
# Rewards of ten pulls of two arms: random play; win-stay, lose-shift, which needs only the last pull (simulated,
# +-0.004); the exact Bayes optimum (dynamic programming).
RANDOM, WIN_STAY, OPTIMUM = 5.0, 5.8035, 6.0218
FAMILY = bandits.bernoulli(2)


def train_and_measure(algorithm: Algorithm, iterations: int) -> Estimate:
    """Return the held-out reward of a trial of ten pulls after a short training."""

    @jax.jit
    def learn(key: jax.Array) -> training.Chunk:
        return training.run(algorithm, training.start(algorithm, key), iterations, capacity=iterations)

    chunk = learn(jax.random.key(0))
    assert not bool(chunk.diverged)
    states = jax.tree.map(lambda x: x[None], chunk.state.algorithm)
    score = meta_test(
        jax.random.key(99), algorithm.adapt, states, FAMILY.tasks, num_tasks=40_000, batch_size=10_000
    ).score
    return mean_with_interval(np.asarray(score[0]).sum(axis=-1))


def by_ppo(policy: Policy, gae_lambda: float) -> Estimate:
    """Train on rewards; return the held-out reward of a trial."""
    config = rl2.Config(
        episodes=PULLS, iterations=250, trials=256, epochs=3, minibatches=2, learning_rate=1e-2,
        entropy_coefficient=0.01, gae_lambda=gae_lambda,
    )  # fmt: skip
    return train_and_measure(rl2.make(FAMILY, policy, config), config.iterations)


def test_a_recurrent_policy_explores_and_exploits() -> None:
    policy = recurrent.make(FAMILY, recurrent.Settings(cell="gru", hidden_size=24))
    estimate = by_ppo(policy, gae_lambda=0.6)
    assert estimate.low > WIN_STAY + 0.05
    assert estimate.mean < OPTIMUM + 3 * estimate.standard_error, "better than optimal: something leaks"


def test_a_policy_without_memory_learns_less() -> None:
    policy = mlp.policy(FAMILY.observation_space, FAMILY.action_space, hidden_sizes=(16,))
    # The critic has no memory either, so lambda is 1 and there is no bootstrap.
    estimate = by_ppo(policy, gae_lambda=1.0)
    assert estimate.low > RANDOM + 0.1
    assert estimate.high < WIN_STAY + 0.05, "it remembers more than the last pull"


def test_with_a_privileged_critic_it_is_within_one_percent_of_the_optimum() -> None:
    policy = recurrent.make(FAMILY, recurrent.Settings(cell="gru", hidden_size=24))
    networks = AsymmetricNetworks(policy, arms.critic(bandits.bernoulli_arm(), units=16))
    config = rl2_asymmetric.Config(episodes=PULLS, iterations=150, trials=128, minibatches=4, learning_rate=1e-2)
    estimate = train_and_measure(rl2_asymmetric.make(FAMILY, networks, config), config.iterations)
    assert estimate.low > 0.99 * OPTIMUM
    assert estimate.mean < OPTIMUM + 3 * estimate.standard_error, "better than optimal: something leaks"
