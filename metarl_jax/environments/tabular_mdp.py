"""Random tabular MDPs (Duan et al. 2016, section 3.2; the generator as SNAIL's paper states it).

Transition rows ~ Dirichlet(1, ..., 1); mean rewards ~ N(1, 1) for each state and action; reward noise N(0, 1);
every episode starts in state 0 and lasts ``horizon`` steps. The reward depends on the state acted in.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.checks import positive_int
from metarl_jax.environments.base import Environment
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, Privileged, TaskDistribution, Transition


@struct.dataclass
class TabularMDPParams:
    """A tabular MDP with S states and A actions."""

    transition: Array
    """``[S, A, S]`` float32: P(next state | state, action)."""
    reward_mean: Array
    """``[S, A]`` float32."""
    max_steps_in_episode: int = 10


@struct.dataclass
class TabularMDPState:
    position: Array
    """The state's index, ``int32``."""
    time: Array
    """Steps taken in this episode, ``int32``."""


class TabularMDP(Environment):
    """The observation is the state's index, one-hot ``[S]``."""

    def __init__(self, states: int, actions: int) -> None:
        self.states = states
        self.actions = actions

    def _observe(self, position: Array) -> Array:
        return jax.nn.one_hot(position, self.states, dtype=jnp.float32)

    def reset_env(self, key: Key, params: TabularMDPParams) -> tuple[Array, TabularMDPState]:
        del key, params
        state = TabularMDPState(position=jnp.int32(0), time=jnp.int32(0))
        return self._observe(state.position), state

    def step_env(
        self, key: Key, state: TabularMDPState, action: Array, params: TabularMDPParams
    ) -> tuple[Array, TabularMDPState, Array, Array, dict[Any, Any]]:
        key_next, key_reward = jax.random.split(key)
        reward = params.reward_mean[state.position, action] + jax.random.normal(key_reward, dtype=jnp.float32)
        # Inverse-CDF sampling: one random number instead of one per state.
        cumulative = jnp.cumsum(params.transition[state.position, action])
        threshold = jax.random.uniform(key_next, dtype=jnp.float32) * cumulative[-1]
        position = jnp.sum(threshold >= cumulative, dtype=jnp.int32)
        state = TabularMDPState(position=jnp.minimum(position, self.states - 1), time=state.time + 1)
        return self._observe(state.position), state, reward, jnp.bool_(False), {}

    def action_space(self, params: TabularMDPParams | None = None) -> Discrete:
        return Discrete(self.actions if params is None else params.reward_mean.shape[-1])

    def observation_space(self, params: TabularMDPParams | None = None) -> Box:
        return Box(0.0, 1.0, (self.states if params is None else params.reward_mean.shape[-2],))


def finite_horizon_action_values(transition: Array, reward: Array, horizon: int, discount: float = 1.0) -> Array:
    """Value iteration over a finite horizon.

    Args:
        transition: ``[S, A, S]``.
        reward: ``[S, A]`` expected rewards.
        horizon: the number of steps H.
        discount: of each step's reward against that of the step before.

    Returns:
        What each action is worth where optimal ones follow, ``[H, S, A]``, at each step of the episode, first step
        first.
    """

    def backup(value: Array, _: None) -> tuple[Array, Array]:
        action_value = reward + discount * (transition @ value)
        return jnp.max(action_value, axis=-1), action_value

    start = jnp.zeros(reward.shape[0], reward.dtype)
    _, table = jax.lax.scan(backup, start, None, length=horizon, reverse=True)
    return table


def finite_horizon_values(transition: Array, reward: Array, horizon: int) -> tuple[Array, Array]:
    """Undiscounted values and optimal actions, ``(values [H, S], actions [H, S])``; see the action values above."""
    table = finite_horizon_action_values(transition, reward, horizon)
    return jnp.max(table, axis=-1), jnp.argmax(table, axis=-1)


def make(states: int = 10, actions: int = 5, horizon: int = 10) -> EnvFamily:
    """The random MDPs of RL²: 10 states, 5 actions, episodes of 10 steps.

    Args:
        states: states of an MDP.
        actions: actions in each state.
        horizon: steps of an episode.

    Raises:
        ValueError: if a size is not a positive whole number.
    """
    states = positive_int("states", states)
    actions = positive_int("actions", actions)
    horizon = positive_int("horizon", horizon)
    env = TabularMDP(states, actions)

    def sample(key: Key) -> TabularMDPParams:
        key_transition, key_reward = jax.random.split(key)
        # Dirichlet(1, ..., 1) as normalised exponentials: same law, far cheaper than the general sampler.
        weights = jax.random.exponential(key_transition, (states, actions, states), jnp.float32)
        return TabularMDPParams(
            transition=weights / jnp.sum(weights, axis=-1, keepdims=True),
            reward_mean=1.0 + jax.random.normal(key_reward, (states, actions), jnp.float32),
            max_steps_in_episode=horizon,
        )

    def optimal_return(task: TabularMDPParams) -> Array:
        return finite_horizon_values(task.transition, task.reward_mean, horizon)[0][0, 0]

    def training_reward(task: TabularMDPParams, t: Transition, discount: float) -> Array:
        """Minus what each action is worse by than the best one, to who knows the MDP and discounts so.

        What a policy collects in an episode is, in expectation, the sum of this and of what the best policy would
        (Kakade & Langford 2002, lemma 6.1), which depends on the task alone: gradients are in expectation the same,
        without the luck of rewards, of most transitions and of tasks. That holds for discounted sums as well.
        """
        table = finite_horizon_action_values(task.transition, task.reward_mean, horizon, discount)
        time = jnp.arange(t.reward.shape[0]) % horizon
        state = jnp.argmax(t.inputs.obs, axis=-1)
        return table[time, state, t.action] - jnp.max(table, axis=-1)[time, state]

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=optimal_return,
        privileged=Privileged(training_reward=training_reward),
    )
