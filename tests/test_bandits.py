"""Bandits: the distributions of tasks and rewards, and the privileged rewards of training tasks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from metarl_jax.environments import bandits
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key, Transition

DRAWS = 20_000


def keys(seed: int, n: int = DRAWS) -> jax.Array:
    return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize("make", [bandits.bernoulli, bandits.gaussian])
def test_means_are_uniform_and_independent(make: type) -> None:
    family: EnvFamily = make(arms=3)
    means = np.asarray(jax.vmap(family.tasks.sample)(keys(0)).means)
    assert means.shape == (DRAWS, 3)
    np.testing.assert_allclose(means.mean(0), 0.5, atol=5 / np.sqrt(12 * DRAWS))
    np.testing.assert_allclose(means.var(0), 1 / 12, rtol=0.05)
    assert np.abs(np.corrcoef(means.T) - np.eye(3)).max() < 5 / np.sqrt(DRAWS)
    best = np.asarray(jax.vmap(family.optimal_return)(jax.vmap(family.tasks.sample)(keys(0))))  # pyright: ignore
    np.testing.assert_allclose(best, means.max(1))
    assert best.mean() == pytest.approx(3 / 4, abs=0.01)  # the mean of the largest of K uniforms is K / (K + 1)


@pytest.mark.parametrize("make", [bandits.bernoulli, bandits.gaussian])
def test_rewards_have_the_arms_mean_and_variance(make: type) -> None:
    family: EnvFamily = make(arms=2)
    task = family.tasks.sample(jax.random.key(1)).replace(means=jnp.array([0.2, 0.7]))
    _, state = family.env.reset(jax.random.key(0), task)
    for arm, mean in ((0, 0.2), (1, 0.7)):
        pull = jax.vmap(lambda key, arm=arm: family.env.step(key, state, jnp.int32(arm), task)[2])
        reward = np.asarray(pull(keys(2 + arm)))
        variance = mean * (1 - mean) if make is bandits.bernoulli else 0.3**2
        np.testing.assert_allclose(reward.mean(), mean, atol=5 * np.sqrt(variance / DRAWS))
        np.testing.assert_allclose(reward.var(), variance, rtol=0.06)
        if make is bandits.bernoulli:
            assert set(np.unique(reward)) == {0.0, 1.0}


@pytest.mark.parametrize("make", [bandits.bernoulli, bandits.gaussian])
def test_the_training_reward_is_minus_the_expected_regret(make: type) -> None:
    """The expected return of a trial is the best arm's minus the regrets, here for random pulls."""
    family: EnvFamily = make(arms=3)
    assert family.privileged is not None
    training_reward = family.privileged.training_reward
    assert training_reward is not None
    pulls = 4

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, 3), ()

    def play(key: Key) -> tuple[Any, Transition, Array]:
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        t = trial(key_trial, act, (), family, task, pulls)[1]
        return task, t, training_reward(task, t, 0.9)

    task, t, reward = jax.jit(jax.vmap(play))(keys(9))
    means, arms, paid = np.asarray(task.means), np.asarray(t.action), np.asarray(t.reward)
    np.testing.assert_allclose(reward, np.take_along_axis(means, arms, axis=1) - means.max(1, keepdims=True), rtol=1e-5)
    luck = paid.sum(1) - (np.asarray(reward).sum(1) + pulls * means.max(1))
    assert abs(luck.mean()) < 5 * luck.std() / np.sqrt(DRAWS)
    assert np.asarray(reward).max() == 0


@pytest.mark.parametrize("noise", [None, 0.3])
def test_the_expected_regret_is_the_posterior_expectation(noise: float | None) -> None:
    """The belief's reward equals integrals over the exact posterior, for trials of random tasks."""
    arms, pulls, trials = 3, 60, 32
    family = bandits.bernoulli(arms) if noise is None else bandits.gaussian(arms, noise)
    assert family.privileged is not None
    belief_reward = family.privileged.belief_reward
    assert belief_reward is not None

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, arms), ()

    def play(key: Key) -> tuple[Transition, Array]:
        key_task, key_trial = jax.random.split(key)
        t = trial(key_trial, act, (), family, family.tasks.sample(key_task), pulls)[1]
        return t, belief_reward(t, 0.9)

    t, reward = jax.jit(jax.vmap(play))(keys(3, trials))
    pulled = np.eye(arms)[np.asarray(t.action)]
    paid = pulled * np.asarray(t.reward, np.float64)[..., None]
    # The number of pulls and the sum of the rewards of each arm before each pull.
    count, total = np.cumsum(pulled, axis=1) - pulled, np.cumsum(paid, axis=1) - paid
    x = (np.arange(4000) + 0.5) / 4000
    expected = np.empty((trials, pulls))
    for i, j in np.ndindex(trials, pulls):
        n, s = count[i, j, :, None], total[i, j, :, None]
        if noise is None:
            density = scipy.stats.beta.pdf(x, 1 + s, 1 + n - s)
        else:
            density = np.exp((s * x - n * x**2 / 2) / noise**2 - np.max((s * x - n * x**2 / 2) / noise**2))
        density /= density.sum(axis=1, keepdims=True)
        best = np.sum(1 - np.prod(np.cumsum(density, axis=1), axis=0)) / len(x)
        expected[i, j] = (density @ x)[t.action[i, j]] - best
    np.testing.assert_allclose(reward, expected, atol=4e-4)
    np.testing.assert_allclose(reward[:, 0], 0.5 - arms / (arms + 1), atol=1e-4)


def test_the_expected_regret_equals_the_mean_regret_with_less_variance() -> None:
    """Both rewards have the same expectation at every pull of an adaptive policy; the belief's varies less."""
    family = bandits.bernoulli(4)
    assert family.privileged is not None
    training_reward, belief_reward = family.privileged.training_reward, family.privileged.belief_reward
    assert training_reward is not None
    assert belief_reward is not None

    def act(key: Key, lost: Array, inputs: Inputs) -> tuple[Array, Array, tuple[()]]:
        # The policy goes to the next arm after each reward of 0.
        lost = lost + jnp.where(inputs.first, 0, inputs.prev_reward < 0.5).astype(jnp.int32)
        return lost, lost % 4, ()

    def play(key: Key) -> tuple[Array, Array]:
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        t = trial(key_trial, act, jnp.int32(0), family, task, 10)[1]
        return training_reward(task, t, 1.0), belief_reward(t, 1.0)

    of_task, of_belief = (np.asarray(x, np.float64) for x in jax.jit(jax.vmap(play))(keys(4)))
    difference = of_task - of_belief
    assert np.all(np.abs(difference.mean(axis=0)) < 5 * difference.std(axis=0) / np.sqrt(DRAWS) + 1e-4)
    assert np.all(of_belief.var(axis=0)[1:] < 0.8 * of_task.var(axis=0)[1:])


def test_every_pull_is_an_episode() -> None:
    family = bandits.bernoulli(5)
    task = family.tasks.sample(jax.random.key(0))
    obs, state = family.env.reset(jax.random.key(0), task)
    assert obs.shape == (0,)
    *_, terminated, truncated, _ = family.env.step(jax.random.key(1), state, jnp.int32(0), task)
    assert bool(terminated)
    assert bool(truncated)
    assert family.horizon == 1


@pytest.mark.parametrize("arms", [0, -1, 2.5, True, "5"])
def test_bad_numbers_of_arms_are_named(arms: object) -> None:
    with pytest.raises(ValueError, match="arms"):
        bandits.bernoulli(arms)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("noise", [0, -0.1, float("nan"), float("inf")])
def test_bad_noise_is_named(noise: float) -> None:
    with pytest.raises(ValueError, match="noise"):
        bandits.gaussian(5, noise)
