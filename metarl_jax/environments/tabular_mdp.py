"""Random tabular MDPs (Duan et al. 2016, section 3.2; their distribution is described in the paper of SNAIL).

Transition probabilities are Dirichlet(1, ..., 1) for each state and action, mean rewards are N(1, 1) for each state and
action, and the noise of rewards is N(0, 1). Every episode starts in state 0 and lasts ``horizon`` steps. The reward
depends on the state in which the action is taken, and on the action.
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
    """P(next state | state, action), ``[S, A, S]`` float32."""
    reward_mean: Array
    """The mean reward of each action in each state, ``[S, A]`` float32."""
    max_steps_in_episode: int = 10
    """The number of steps of an episode."""


@struct.dataclass
class TabularMDPState:
    """The state of an episode."""

    position: Array
    """The index of the MDP's state, ``int32``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class TabularMDP(Environment):
    """A tabular MDP, whose observation is the index of the state, one-hot ``[S]``.

    Args:
        states: the number S of states.
        actions: the number A of actions.
    """

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
    """Compute the optimal action values of a finite horizon by value iteration.

    Args:
        transition: P(next state | state, action), ``[S, A, S]``.
        reward: the expected rewards, ``[S, A]``.
        horizon: the number of steps H.
        discount: the discount factor of one step.

    Returns:
        The optimal action values at each step of the episode, in the order of steps, ``[H, S, A]``.
    """

    def backup(value: Array, _: None) -> tuple[Array, Array]:
        action_value = reward + discount * (transition @ value)
        return jnp.max(action_value, axis=-1), action_value

    start = jnp.zeros(reward.shape[0], reward.dtype)
    _, table = jax.lax.scan(backup, start, None, length=horizon, reverse=True)
    return table


def finite_horizon_values(transition: Array, reward: Array, horizon: int) -> tuple[Array, Array]:
    """Compute undiscounted optimal values and actions, ``(values [H, S], actions [H, S])``.

    The arguments are those of ``finite_horizon_action_values``.
    """
    table = finite_horizon_action_values(transition, reward, horizon)
    return jnp.max(table, axis=-1), jnp.argmax(table, axis=-1)


def make(states: int = 10, actions: int = 5, horizon: int = 10) -> EnvFamily:
    """Make the random MDPs of RL²: 10 states, 5 actions, and episodes of 10 steps by default.

    Args:
        states: The number of states of an MDP.
        actions: The number of actions in each state.
        horizon: The number of steps of an episode.

    Raises:
        ValueError: if a size is not a positive whole number.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.tabular_mdp.make(states=4, actions=2)
        >>> family.tasks.sample(jax.random.key(0)).transition.shape  # states, actions, next states
        (4, 2, 4)
    """
    states = positive_int("states", states)
    actions = positive_int("actions", actions)
    horizon = positive_int("horizon", horizon)
    env = TabularMDP(states, actions)

    def sample(key: Key) -> TabularMDPParams:
        key_transition, key_reward = jax.random.split(key)
        # Normalised exponentials are Dirichlet(1, ..., 1), and cost much less than the general sampler.
        weights = jax.random.exponential(key_transition, (states, actions, states), jnp.float32)
        return TabularMDPParams(
            transition=weights / jnp.sum(weights, axis=-1, keepdims=True),
            reward_mean=1.0 + jax.random.normal(key_reward, (states, actions), jnp.float32),
            max_steps_in_episode=horizon,
        )

    def optimal_return(task: TabularMDPParams) -> Array:
        return finite_horizon_values(task.transition, task.reward_mean, horizon)[0][0, 0]

    def training_reward(task: TabularMDPParams, t: Transition, discount: float) -> Array:
        """Compute the optimal advantage of each action: its optimal action value minus that of the best action.

        In expectation, a policy's return in an episode is the sum of these numbers plus the return of the optimal
        policy (Kakade & Langford 2002, lemma 6.1). The latter depends on the task alone. Policy gradients therefore
        have the same expectation, but not the variance that is due to the noise of rewards, to most transitions and to
        the differences between tasks. The same holds for discounted returns.
        """
        table = finite_horizon_action_values(task.transition, task.reward_mean, horizon, discount)
        time = jnp.arange(t.reward.shape[0]) % horizon
        state = jnp.argmax(t.inputs.obs, axis=-1)
        return table[time, state, t.action] - jnp.max(table, axis=-1)[time, state]

    def optimal_action(task: TabularMDPParams, t: Transition) -> Array:
        actions = finite_horizon_values(task.transition, task.reward_mean, horizon)[1]
        time = jnp.arange(t.reward.shape[0]) % horizon
        return actions[time, jnp.argmax(t.inputs.obs, axis=-1)].astype(jnp.int32)

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=optimal_return,
        privileged=Privileged(training_reward=training_reward, optimal_action=optimal_action),
    )
