"""A toy family of tasks: walk along a line to the rewarded end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.settings import PositiveInt
from metarl_jax.types import Array, Discrete, EnvFamily, Key, TaskDistribution


class Task(NamedTuple):
    """The index of the rewarded end."""

    right: Array


class Line:
    """A line with positions 0 to ``length - 1``. The actions are a step to the left and a step to the right."""

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, key: Key, params: Task) -> tuple[Array, Array]:
        start = jnp.int32(self.length // 2)
        return start, jnp.stack([start, jnp.int32(0)])

    def step(self, key: Key, state: Array, action: Array, params: Task) -> tuple[Any, ...]:
        place = jnp.clip(state[0] + 2 * action - 1, 0, self.length - 1).astype(jnp.int32)
        time = state[1] + 1
        reward = (place == jnp.where(params.right, self.length - 1, 0)).astype(jnp.float32)
        truncated = time >= self.length
        start, fresh = self.reset(key, params)
        state = jnp.where(truncated, fresh, jnp.stack([place, time]))
        obs = jnp.where(truncated, start, place)
        return obs, state, reward, jnp.bool_(False), truncated, {"final_observation": place}

    def action_space(self, params: Task) -> Discrete:
        return Discrete(2)

    def observation_space(self, params: Task) -> Discrete:
        return Discrete(self.length)


def make(length: PositiveInt = 5) -> EnvFamily:
    """Make the family of lines.

    Args:
        length: Number of positions of the line, and of steps of an episode.
    """

    def sample(key: Key) -> Task:
        return Task(jax.random.bernoulli(key))

    return EnvFamily(Line(length), TaskDistribution(sample, sample), length, Discrete(length), Discrete(2))
