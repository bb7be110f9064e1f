"""The part of gymnax's ``Environment`` that every family here shares.

Written out rather than inherited because importing gymnax takes seconds; ``tests/contract`` holds this class
against the real one, call by call.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Key, Space, State, Task


def random_signs(key: Key, shape: tuple[int, ...]) -> Array:
    """1 or -1 with equal probability, float32 of the given shape.

    ``jax.random.rademacher`` draws other signs from the same key when 64-bit types are on, whatever its ``dtype``.
    """
    return 2 * jax.random.bernoulli(key, jnp.float32(0.5), shape).astype(jnp.float32) - 1


class Environment(abc.ABC):
    """A gymnax-1.x environment: subclasses give ``reset_env``, ``step_env``, ``is_truncated`` and the spaces."""

    @abc.abstractmethod
    def reset_env(self, key: Key, params: Task) -> tuple[Array, State]:
        """Start an episode of the task ``params``; return ``(obs, state)``."""

    @abc.abstractmethod
    def step_env(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, dict[Any, Any]]:
        """One step without reset; return ``(obs, state, reward, terminated, info)``."""

    @abc.abstractmethod
    def action_space(self, params: Task) -> Space: ...

    @abc.abstractmethod
    def observation_space(self, params: Task) -> Space: ...

    def is_truncated(self, state: State, params: Task) -> Array:
        """Whether the episode has reached its time limit."""
        return state.time >= params.max_steps_in_episode

    @property
    def name(self) -> str:
        return type(self).__name__

    def reset(self, key: Key, params: Task) -> tuple[Array, State]:
        """Start an episode; return ``(obs, state)``."""
        return self.reset_env(key, params)

    def step(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        """One step, with an automatic reset when the episode ends.

        Returns:
            ``(obs, state, reward, terminated, truncated, info)``; ``obs`` and ``state`` are those of the new episode
            if one began, and ``info["final_observation"]`` is always the observation that the action led to.
        """
        key_step, key_reset = jax.random.split(key)
        obs_step, state_step, reward, terminated, info = self.step_env(key_step, state, action, params)
        truncated = self.is_truncated(state_step, params)
        obs_reset, state_reset = self.reset_env(key_reset, params)
        done = jnp.logical_or(terminated, truncated)
        obs, state = jax.tree.map(
            lambda reset, step: jnp.where(done, reset, step), (obs_reset, state_reset), (obs_step, state_step)
        )
        info = {**info, "terminated": terminated, "truncated": truncated, "final_observation": obs_step}
        return obs, state, reward, terminated, truncated, info
