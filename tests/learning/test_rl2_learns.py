"""RL² learns, in seconds, to explore: thresholds lie between what needs no memory and the exact optimum."""

from __future__ import annotations

import jax
import numpy as np

from metarl_jax import training
from metarl_jax.algorithms import rl2
from metarl_jax.environments import bandits
from metarl_jax.evaluation import meta_test
from metarl_jax.networks import mlp, recurrent
from metarl_jax.ops.statistics import Estimate, mean_with_interval
from metarl_jax.types import EnvFamily, Policy

PULLS = 10
# Two arms, ten pulls: random 5.0, exact Bayes optimum 6.0218 (dynamic programming).
RANDOM, OPTIMUM = 5.0, 6.0218


def train_and_measure(family: EnvFamily, policy: Policy) -> Estimate:
    """Held-out reward of a trial of ten pulls, after a short training."""
    iterations = 80
    config = rl2.Config(episodes=PULLS, iterations=iterations, trials=256, epochs=2, minibatches=2, learning_rate=5e-3)
    algorithm = rl2.make(family, policy, config)

    @jax.jit
    def learn(key: jax.Array) -> training.Chunk:
        return training.run(algorithm, training.start(algorithm, key), iterations, capacity=iterations)

    chunk = learn(jax.random.key(0))
    assert not bool(chunk.diverged)
    states = jax.tree.map(lambda x: x[None], chunk.state.algorithm)
    score = meta_test(jax.random.key(99), algorithm.adapt, states, family.tasks, num_tasks=8000).score
    return mean_with_interval(np.asarray(score[0]).sum(axis=-1))


def test_a_recurrent_policy_explores_and_exploits() -> None:
    family = bandits.bernoulli(2)
    policy = recurrent.make(family.observation_space, family.action_space, cell="gru", hidden_size=24)
    estimate = train_and_measure(family, policy)
    assert estimate.low > 5.8  # more than three quarters of the way
    assert estimate.low < OPTIMUM + 1e-3, "better than optimal: something leaks"


def test_a_policy_without_memory_only_stays_with_a_win() -> None:
    """It sees the last pull alone. Win-stay, lose-shift is the best such policy: 5 + 9 / 12 at ten pulls at most."""
    family = bandits.bernoulli(2)
    policy = mlp.make(family.observation_space, family.action_space, hidden_sizes=(16,))
    estimate = train_and_measure(family, policy)
    assert RANDOM + 0.3 < estimate.mean < RANDOM + 0.9
