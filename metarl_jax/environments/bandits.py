"""Multi-armed bandits: every pull is an episode of one step, so a trial of N pulls is N episodes.

Bernoulli: the setting of RL² (Duan et al. 2016, section 3.1): K arms, success probabilities uniform on [0, 1].
Gaussian: arm means uniform on [0, 1], reward noise of a fixed standard deviation (0.3 in the code of the
Decision-Pretrained Transformer).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.checks import positive_int, positive_number
from metarl_jax.environments.base import Environment
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, TaskDistribution, Transition


@struct.dataclass
class BanditParams:
    """A bandit task."""

    means: Array
    """``[K]`` float32: the expected reward of each arm."""
    max_steps_in_episode: int = 1


@struct.dataclass
class BanditState:
    time: Array
    """Pulls in this episode, ``int32``."""


class Bandit(Environment):
    """K arms and no observation (the observation is a vector of width zero).

    Args:
        arms: K.
        noise: standard deviation of the Gaussian rewards, or None for Bernoulli rewards.
    """

    def __init__(self, arms: int, noise: float | None = None) -> None:
        self.arms = arms
        self.noise = noise

    def reset_env(self, key: Key, params: BanditParams) -> tuple[Array, BanditState]:
        del key, params
        return jnp.zeros((0,), jnp.float32), BanditState(time=jnp.int32(0))

    def step_env(
        self, key: Key, state: BanditState, action: Array, params: BanditParams
    ) -> tuple[Array, BanditState, Array, Array, dict[Any, Any]]:
        mean = params.means[action]
        if self.noise is None:
            reward = (jax.random.uniform(key) < mean).astype(jnp.float32)
        else:
            reward = mean + self.noise * jax.random.normal(key)
        state = BanditState(time=state.time + 1)
        return jnp.zeros((0,), jnp.float32), state, reward, jnp.bool_(True), {}

    def action_space(self, params: BanditParams | None = None) -> Discrete:
        return Discrete(self.arms)

    def observation_space(self, params: BanditParams | None = None) -> Box:
        return Box(0.0, 1.0, (0,))


def _minus_regret(task: BanditParams, pulls: Transition, discount: float) -> Array:
    """Minus what each arm pulled is worse by than the best one, in expectation; ``[T]``, at any discount.

    What a policy collects in a trial is, in expectation, the sum of this and of what the best arm would, which depends
    on the task alone: gradients are in expectation the same, without the luck of the pulls and of the tasks.
    """
    del discount
    return task.means[pulls.action] - jnp.max(task.means)


def _family(env: Bandit) -> EnvFamily:
    def sample(key: Key) -> BanditParams:
        return BanditParams(means=jax.random.uniform(key, (env.arms,)))

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample),
        horizon=1,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda task: jnp.max(task.means),
        training_reward=_minus_regret,
    )


def bernoulli(arms: int = 5) -> EnvFamily:
    """Bernoulli bandits, success probabilities ~ U[0, 1] (Duan et al. 2016, section 3.1).

    Raises:
        ValueError: if ``arms`` is not a positive whole number.
    """
    return _family(Bandit(positive_int("arms", arms)))


def gaussian(arms: int = 5, noise: float = 0.3) -> EnvFamily:
    """Gaussian bandits, means ~ U[0, 1], reward standard deviation ``noise``.

    Raises:
        ValueError: if ``arms`` is not a positive whole number or ``noise`` not a positive finite one.
    """
    return _family(Bandit(positive_int("arms", arms), positive_number("noise", noise)))
