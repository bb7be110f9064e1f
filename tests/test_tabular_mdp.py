"""Random MDPs: the distribution of tasks, the dynamics, and exact values."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import tabular_mdp
from metarl_jax.environments.tabular_mdp import TabularMDPState, finite_horizon_values
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, Inputs, Key, Transition

DRAWS = 20_000


@pytest.fixture(scope="module")
def tasks() -> tabular_mdp.TabularMDPParams:
    return jax.jit(jax.vmap(tabular_mdp.make().tasks.sample))(jax.random.split(jax.random.key(0), 4000))


def test_transition_rows_are_dirichlet_of_ones(tasks: tabular_mdp.TabularMDPParams) -> None:
    rows = np.asarray(tasks.transition, np.float64).reshape(-1, 10)
    assert rows.min() >= 0
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
    # Each entry is Beta(1, S - 1), with mean 1 / S, variance (S - 1) / (S^2 (S + 1)), covariance -1 / (S^2 (S + 1)).
    covariance = np.cov(rows.T)
    variance, shared = 9 / (100 * 11), -1 / (100 * 11)
    np.testing.assert_allclose(rows.mean(0), 0.1, atol=5 * np.sqrt(variance / len(rows)))
    np.testing.assert_allclose(np.diag(covariance), variance, rtol=0.03)
    np.testing.assert_allclose(covariance[~np.eye(10, dtype=bool)], shared, atol=6 * variance / np.sqrt(len(rows)))
    # The third moment distinguishes Dirichlet(1) from other distributions: E[x^3] = 6 / (S (S + 1) (S + 2)).
    np.testing.assert_allclose(np.mean(rows**3), 6 / (10 * 11 * 12), rtol=0.02)


def test_reward_means_are_normal_around_one(tasks: tabular_mdp.TabularMDPParams) -> None:
    means = np.asarray(tasks.reward_mean, np.float64).ravel()
    np.testing.assert_allclose(means.mean(), 1, atol=5 / np.sqrt(len(means)))
    np.testing.assert_allclose(means.var(), 1, rtol=5 * np.sqrt(2 / len(means)))
    np.testing.assert_allclose(np.mean((means - 1) ** 4), 3, rtol=0.05)


def test_steps_follow_the_transition_row_and_the_reward_mean() -> None:
    family = tabular_mdp.make(states=4, actions=2, horizon=10)
    task = family.tasks.sample(jax.random.key(3))
    state = TabularMDPState(position=jnp.int32(2), time=jnp.int32(0))
    step = jax.jit(jax.vmap(lambda key: family.env.step(key, state, jnp.int32(1), task)))
    obs, after, reward, terminated, truncated, _ = step(jax.random.split(jax.random.key(1), DRAWS))
    expected = DRAWS * np.asarray(task.transition[2, 1], np.float64)
    counts = np.bincount(np.asarray(after.position), minlength=4)
    assert np.sum((counts - expected) ** 2 / expected) < 3 + 5 * np.sqrt(6) + 10
    np.testing.assert_array_equal(np.argmax(obs, axis=-1), after.position)
    np.testing.assert_allclose(np.mean(reward), task.reward_mean[2, 1], atol=5 / np.sqrt(DRAWS))
    np.testing.assert_allclose(np.var(reward), 1, rtol=5 * np.sqrt(2 / DRAWS))
    assert abs(np.corrcoef(np.asarray(reward), np.asarray(after.position))[0, 1]) < 5 / np.sqrt(DRAWS)
    assert not bool(jnp.any(terminated | truncated))


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_the_training_reward_is_minus_the_regret(discount: float) -> None:
    """The expected discounted return of random actions is the optimal return plus the privileged rewards."""
    horizon = 3
    family = tabular_mdp.make(states=4, actions=2, horizon=horizon)
    assert family.privileged is not None
    training_reward = family.privileged.training_reward
    assert training_reward is not None
    task = family.tasks.sample(jax.random.key(3))

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, 2), ()

    def play(key: Key) -> tuple[Transition, Array]:
        # The trial has two episodes, because the second must not begin in the last state of the first.
        t = trial(key, act, (), family, task, 2)[1]
        return t, training_reward(task, t, discount)

    t, learnt = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(5), 20000))
    transition, reward = np.asarray(task.transition, np.float64), np.asarray(task.reward_mean, np.float64)
    table = np.zeros((horizon + 1, 4, 2))
    for step in reversed(range(horizon)):
        table[step] = reward + discount * transition @ table[step + 1].max(axis=-1)
    state, action = np.asarray(t.inputs.obs).argmax(axis=-1), np.asarray(t.action)
    time = np.tile(np.arange(horizon), 2)
    expected = table[time, state, action] - table[time, state].max(axis=-1)
    np.testing.assert_allclose(learnt, expected, atol=1e-5)
    # State 0 is the first state of every episode.
    weight = np.tile(discount ** np.arange(horizon), 2)
    luck = (weight * (np.asarray(t.reward) - expected)).reshape(-1, 2, horizon).sum(axis=-1) - table[0, 0].max()
    assert np.all(np.abs(luck.mean(axis=0)) < 5 * luck.std(axis=0) / np.sqrt(len(luck)))


def test_the_optimal_policy_has_no_regret() -> None:
    family = tabular_mdp.make(states=4, actions=3, horizon=5)
    assert family.privileged is not None
    training_reward = family.privileged.training_reward
    assert training_reward is not None
    task = family.tasks.sample(jax.random.key(0))
    best = finite_horizon_values(task.transition, task.reward_mean, 5)[1]

    def act(key: Key, time: Array, inputs: Inputs) -> tuple[Array, Array, tuple[()]]:
        del key
        return time + 1, best[time % 5, jnp.argmax(inputs.obs)], ()

    t = trial(jax.random.key(1), act, jnp.int32(0), family, task, 3)[1]
    np.testing.assert_array_equal(training_reward(task, t, 1.0), 0.0)


def test_a_state_that_cannot_be_reached_is_not() -> None:
    family = tabular_mdp.make(states=3, actions=1, horizon=10)
    task = family.tasks.sample(jax.random.key(0)).replace(transition=jnp.array([[[0.0, 1.0, 0.0]]] * 3))
    _, state = family.env.reset(jax.random.key(0), task)
    step = jax.jit(jax.vmap(lambda key: family.env.step(key, state, jnp.int32(0), task)[1].position))
    np.testing.assert_array_equal(step(jax.random.split(jax.random.key(1), 5000)), 1)


def test_values_equal_the_best_of_all_policies() -> None:
    """The values equal the best of all time-dependent policies of a tiny MDP, each of which is evaluated."""
    states, actions, horizon = 2, 2, 3
    generator = np.random.default_rng(0)
    transition = generator.dirichlet(np.ones(states), (states, actions))
    reward = generator.normal(1, 1, (states, actions))

    def value_of(policy: np.ndarray) -> np.ndarray:
        value = np.zeros(states)
        for step in reversed(range(horizon)):
            chosen = policy[step]
            value = np.array([reward[s, chosen[s]] + transition[s, chosen[s]] @ value for s in range(states)])
        return value

    policies = [np.reshape(p, (horizon, states)) for p in itertools.product(range(actions), repeat=horizon * states)]
    best = np.max([value_of(policy) for policy in policies], axis=0)
    values, chosen = finite_horizon_values(jnp.array(transition), jnp.array(reward), horizon)
    assert values.shape == chosen.shape == (horizon, states)
    np.testing.assert_allclose(values[0], best, rtol=1e-5)
    np.testing.assert_allclose(value_of(np.asarray(chosen)), best, rtol=1e-5)
    np.testing.assert_allclose(values[-1], reward.max(1), rtol=1e-6)


def test_the_optimal_policy_gets_the_optimal_return() -> None:
    family = tabular_mdp.make(states=4, actions=3, horizon=6)
    task = family.tasks.sample(jax.random.key(1))
    _, chosen = finite_horizon_values(task.transition, task.reward_mean, 6)

    def play(key: jax.Array) -> jax.Array:
        def one(loop: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
            obs, state, t = loop
            obs, state, reward, *_ = family.env.step(key, state, chosen[t, jnp.argmax(obs)], task)
            return (obs, state, t + 1), reward

        obs, state = family.env.reset(key, task)
        return jnp.sum(jax.lax.scan(one, (obs, state, 0), jax.random.split(key, 6))[1])

    returns = np.asarray(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(2), DRAWS)))
    assert family.optimal_return is not None
    np.testing.assert_allclose(returns.mean(), family.optimal_return(task), atol=5 * returns.std() / np.sqrt(DRAWS))


def test_average_optimum_of_the_papers_family() -> None:
    family = tabular_mdp.make()
    assert family.optimal_return is not None
    tasks = jax.vmap(family.tasks.sample_heldout)(jax.random.split(jax.random.key(9), 4000))
    best = np.asarray(jax.vmap(family.optimal_return)(tasks))
    assert best.mean() == pytest.approx(21.83, abs=0.02 * 3 + 4 * best.std() / np.sqrt(4000))


@pytest.mark.parametrize("size", ["states", "actions", "horizon"])
@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_bad_sizes_are_named(size: str, value: object) -> None:
    with pytest.raises(ValueError, match=size):
        tabular_mdp.make(**{size: value})  # pyright: ignore[reportArgumentType]
