"""Trials of an environment whose episodes end at random: inputs of the learner, and limits of episodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments.base import Environment
from metarl_jax.rollout import episode, episode_returns, episode_successes, no_action, trial
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Inputs, Key, TaskDistribution, Transition

HORIZON = 5
EPISODES = 4


class Visit(NamedTuple):
    name: Array
    """A number that is drawn at each reset, so that episodes can be distinguished."""
    time: Array


class RandomEnds:
    """An environment that ends with probability ``params`` at each step, and at the horizon.

    The reward encodes the time and the action.
    """

    def reset(self, key: Key, params: Array) -> tuple[Array, Visit]:
        del params
        state = Visit(jax.random.uniform(key), jnp.int32(0))
        return jnp.stack([state.name, state.time.astype(jnp.float32)]), state

    def step(self, key: Key, state: Visit, action: Array, params: Array) -> tuple[Any, ...]:
        key_end, key_reset = jax.random.split(key)
        reward = state.time + 10 * action
        after = Visit(state.name, state.time + 1)
        final = jnp.stack([after.name, after.time.astype(jnp.float32)])
        terminated, truncated = jax.random.bernoulli(key_end, params), after.time >= HORIZON
        obs, fresh = self.reset(key_reset, params)
        done = terminated | truncated
        state = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, after)
        return jnp.where(done, obs, final), state, reward, terminated, truncated, {"final_observation": final}

    def action_space(self, params: Any = None) -> Discrete:
        del params
        return Discrete(3)

    def observation_space(self, params: Any = None) -> Box:
        del params
        return Box(0.0, float(HORIZON), (2,))


def family() -> EnvFamily:
    env = RandomEnds()
    return EnvFamily(
        env, TaskDistribution(jax.random.uniform, jax.random.uniform), HORIZON, env.observation_space(), Discrete(3)
    )


def act(key: Key, carry: Array, inputs: Inputs) -> tuple[Array, Array, Array]:
    """Act at random, and count the steps."""
    del inputs
    return carry + 1, jax.random.randint(key, (), 0, 3), carry


@pytest.fixture(scope="module")
def trials() -> tuple[Array, Transition]:
    """Play 30 trials; return them as NumPy arrays ``[30, T, ...]``, with the carry at the end."""
    play = jax.jit(jax.vmap(lambda key: trial(key, act, jnp.int32(0), family(), jnp.float32(0.3), EPISODES)))
    return jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(0), 30)))


def test_the_scan_is_as_long_as_the_longest_trial(trials: tuple[Array, Transition]) -> None:
    carry, t = trials
    assert t.reward.shape == (30, EPISODES * HORIZON)
    np.testing.assert_array_equal(carry, EPISODES * HORIZON)
    np.testing.assert_array_equal(t.output, np.broadcast_to(np.arange(EPISODES * HORIZON), t.reward.shape))


def test_episodes_are_numbered_and_steps_after_the_last_are_invalid(trials: tuple[Array, Transition]) -> None:
    _, t = trials
    done = t.terminated | t.truncated
    ended_before = np.cumsum(done, axis=1) - done
    np.testing.assert_array_equal(t.episode, ended_before)
    np.testing.assert_array_equal(t.valid, ended_before < EPISODES)
    assert not t.valid.all(), "some trial ends before its scan"
    assert (np.sum(done & t.valid, axis=1) == EPISODES).all(), "every trial plays all its episodes"


def test_inputs_are_those_of_the_previous_step(trials: tuple[Array, Transition]) -> None:
    _, t = trials
    done = (t.terminated | t.truncated).astype(np.float32)
    for seen, happened in (
        (t.inputs.prev_action, t.action),
        (t.inputs.prev_reward, t.reward),
        (t.inputs.prev_done, done),
    ):
        np.testing.assert_array_equal(seen[:, 1:], happened[:, :-1])
        np.testing.assert_array_equal(seen[:, 0], 0)
    np.testing.assert_array_equal(t.inputs.first, np.broadcast_to(np.arange(t.reward.shape[1]) == 0, t.reward.shape))


def test_observations_belong_to_their_episode(trials: tuple[Array, Transition]) -> None:
    _, t = trials
    name, time = t.inputs.obs[..., 0], t.inputs.obs[..., 1]
    np.testing.assert_array_equal(t.final_obs[..., 0], name)  # this includes the last observation of an episode
    np.testing.assert_array_equal(t.final_obs[..., 1], time + 1)
    done = (t.terminated | t.truncated)[:, :-1]
    np.testing.assert_array_equal(name[:, 1:] != name[:, :-1], done)
    np.testing.assert_array_equal(time[:, 1:], np.where(done, 0, time[:, :-1] + 1))
    np.testing.assert_array_equal(t.truncated, time == HORIZON - 1)


def test_episode_returns_add_up_each_episode(trials: tuple[Array, Transition]) -> None:
    _, t = trials
    got = jax.vmap(lambda x: episode_returns(x, EPISODES))(t)
    expected = np.zeros((30, EPISODES))
    for i in range(30):
        for reward, index in zip(t.reward[i], t.episode[i], strict=True):
            if index < EPISODES:
                expected[i, index] += reward
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_episode_is_a_success_if_any_of_its_steps_is(trials: tuple[Array, Transition]) -> None:
    _, t = trials
    knowing = family()._replace(success=lambda task, step: step.reward > task)
    task = jnp.float32(22.5)
    got = jax.vmap(lambda x: episode_successes(x, knowing, task, EPISODES))(t)
    expected = np.zeros((30, EPISODES))
    for i in range(30):
        for reward, index in zip(t.reward[i], t.episode[i], strict=True):
            if index < EPISODES and reward > task:
                expected[i, index] = 1
    np.testing.assert_array_equal(got, expected)
    assert 0.1 < expected.mean() < 0.9
    assert np.any((t.reward > task) & ~t.valid), "what follows the last episode does not count"
    assert episode_successes(jax.tree.map(lambda x: x[0], t), family(), task, EPISODES) is None


def test_an_episode_is_a_trial_of_one() -> None:
    arguments = (jax.random.key(1), act, jnp.int32(0), family(), jnp.float32(0.3))
    for a, b in zip(jax.tree.leaves(episode(*arguments)), jax.tree.leaves(trial(*arguments, 1)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_action_is_in_the_space() -> None:
    assert no_action(Discrete(3)).dtype == jnp.int32
    assert no_action(Box(-1.0, 1.0, (2, 3))).shape == (2, 3)


class Walk(Environment):
    """A walk from a random start that ends beyond 2 or at the horizon. It would overflow if it continued."""

    def __init__(self) -> None:
        self.resets = 0
        """The number of calls in the programs that were traced so far."""

    def reset_env(self, key: Key, params: Array) -> tuple[Array, Visit]:
        del params
        self.resets += 1
        state = Visit(jax.random.uniform(key), jnp.int32(0))
        return state.name, state

    def step_env(self, key: Key, state: Visit, action: Array, params: Array) -> tuple[Any, ...]:
        del key, params
        after = Visit(jnp.where(state.name > 2, jnp.inf, state.name + 0.5 * action), state.time + 1)
        return after.name, after, after.name, after.name > 2, {}

    def is_truncated(self, state: Visit, params: Array) -> Array:
        del params
        return state.time >= HORIZON

    def action_space(self, params: Any = None) -> Discrete:
        del params
        return Discrete(3)

    def observation_space(self, params: Any = None) -> Box:
        del params
        return Box(0.0, float(HORIZON), ())


class Generous(Walk):
    """A class whose ``step``, and only this method, gives ten times the reward."""

    step_env: Any = None

    def step(self, key: Key, state: Visit, action: Array, params: Array) -> tuple[Any, ...]:
        obs, state, reward, *rest = Walk().step(key, state, action, params)
        return obs, state, 10 * reward, *rest


class Forwarding:
    """A wrapper that gives ten times the reward, and forwards other attributes, as gymnax's wrappers do."""

    def __init__(self, env: Walk) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, key: Key, state: Visit, action: Array, params: Array) -> tuple[Any, ...]:
        obs, state, reward, *rest = self._env.step(key, state, action, params)
        return obs, state, 10 * reward, *rest


def play_one(env: Any) -> Transition:
    """Play thirty episodes ``[30, HORIZON]``."""
    nothing = TaskDistribution(jax.random.uniform, jax.random.uniform)
    walk = EnvFamily(env, nothing, HORIZON, env.observation_space(), Discrete(3))
    play = jax.jit(jax.vmap(lambda key: episode(key, act, jnp.int32(0), walk, jnp.float32(0))[1]))
    return jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(0), 30)))


def test_an_episode_is_reset_once_and_stays_where_it_ended() -> None:
    env = Walk()
    t = play_one(env)
    assert env.resets == 1
    start = t.inputs.obs[:, :1]
    path = start + 0.5 * np.cumsum(t.action, axis=1)
    np.testing.assert_allclose(np.where(t.valid, t.final_obs, 0), np.where(t.valid, path, 0), rtol=1e-6)
    over = np.cumsum(t.terminated | t.truncated, axis=1) - (t.terminated | t.truncated) > 0
    np.testing.assert_array_equal(t.valid, ~over)
    assert over.any()
    np.testing.assert_array_equal(
        t.truncated[t.valid], np.broadcast_to(np.arange(HORIZON) == HORIZON - 1, over.shape)[t.valid]
    )


@pytest.mark.parametrize("env", [Generous(), Forwarding(Walk())])
def test_an_environment_without_step_env_in_its_class_is_stepped_with_step(env: Any) -> None:
    plain, generous = play_one(Walk()), play_one(env)
    np.testing.assert_allclose(generous.reward[generous.valid], 10 * generous.final_obs[generous.valid], rtol=1e-6)
    np.testing.assert_allclose(plain.reward[plain.valid], plain.final_obs[plain.valid], rtol=1e-6)
