"""RL² learns, in seconds, to explore: thresholds lie between what needs no memory and the exact optimum."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from metarl_jax import training
from metarl_jax.algorithms import rl2
from metarl_jax.environments import bandits
from metarl_jax.evaluation import meta_test
from metarl_jax.networks import mlp, recurrent
from metarl_jax.ops.statistics import Estimate, mean_with_interval
from metarl_jax.types import EnvFamily, Policy

pytestmark = pytest.mark.usefixtures("full_optimisation")

PULLS = 10
# Two arms, ten pulls: random; win-stay, lose-shift, which needs only the last pull (simulated, +-0.004); the exact
# Bayes optimum (dynamic programming).
RANDOM, WIN_STAY, OPTIMUM = 5.0, 5.8035, 6.0218


def train_and_measure(family: EnvFamily, policy: Policy) -> Estimate:
    """Held-out reward of a trial of ten pulls, after a short training."""
    iterations = 250
    config = rl2.Config(
        episodes=PULLS, iterations=iterations, trials=256, epochs=3, minibatches=2, learning_rate=1e-2,
        entropy_coefficient=0.01,
    )  # fmt: skip
    algorithm = rl2.make(family, policy, config)

    @jax.jit
    def learn(key: jax.Array) -> training.Chunk:
        return training.run(algorithm, training.start(algorithm, key), iterations, capacity=iterations)

    chunk = learn(jax.random.key(0))
    assert not bool(chunk.diverged)
    states = jax.tree.map(lambda x: x[None], chunk.state.algorithm)
    score = meta_test(
        jax.random.key(99), algorithm.adapt, states, family.tasks, num_tasks=40_000, batch_size=10_000
    ).score
    return mean_with_interval(np.asarray(score[0]).sum(axis=-1))


def test_a_recurrent_policy_explores_and_exploits() -> None:
    family = bandits.bernoulli(2)
    policy = recurrent.make(family.observation_space, family.action_space, cell="gru", hidden_size=24)
    estimate = train_and_measure(family, policy)
    assert estimate.low > WIN_STAY + 0.05
    assert estimate.mean < OPTIMUM + 3 * estimate.standard_error, "better than optimal: something leaks"


def test_a_policy_without_memory_learns_less() -> None:
    family = bandits.bernoulli(2)
    policy = mlp.make(family.observation_space, family.action_space, hidden_sizes=(16,))
    estimate = train_and_measure(family, policy)
    assert estimate.low > RANDOM + 0.1
    assert estimate.high < WIN_STAY + 0.05, "it remembers more than the last pull"
