"""The part of gymnax's ``Environment`` that all families of this package share.

The class is written here and not inherited, because importing gymnax takes seconds. ``tests/contract`` compares this
class with gymnax's, call by call.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.checks import whole
from metarl_jax.types import Array, Key, Space, State, Task

MOST_SEEDS = 2**30
"""The largest number of seeds that are used for training; it is also the first seed of held-out tasks."""


def seeded_samplers(name: str, number: int) -> tuple[Callable[[Key], Key], Callable[[Key], Key]]:
    """Make the functions that draw a seed for training and a held-out seed, for environments that a seed generates.

    Args:
        name: The name of the setting ``number``, for the error.
        number: The number of training seeds, which are ``0 .. number - 1``; at most ``MOST_SEEDS``. Held-out seeds are
            ``MOST_SEEDS .. 2 * MOST_SEEDS - 2``.

    Returns:
        Two functions of a random key. Each draws one of its seeds, uniformly, and returns that seed as a random key.

    Raises:
        ValueError: if ``number`` is not a whole number from 1 to ``MOST_SEEDS``.
    """
    number = whole(above=0, at_most=MOST_SEEDS)(name, number)

    def among(first: int, count: int) -> Callable[[Key], Key]:
        def sample(key: Key) -> Key:
            return jax.random.key(jax.random.randint(key, (), first, first + count, jnp.int32))

        return sample

    return among(0, number), among(MOST_SEEDS, MOST_SEEDS - 1)


def random_signs(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw 1 or -1 with equal probability, as float32 of the given shape.

    ``jax.random.rademacher`` draws other signs from the same key when 64-bit types are on, whatever its ``dtype``.
    """
    return 2 * jax.random.bernoulli(key, jnp.float32(0.5), shape).astype(jnp.float32) - 1


class Environment(abc.ABC):
    """A gymnax-1.x environment; subclasses define ``reset_env``, ``step_env`` and the spaces.

    A subclass may also define ``is_truncated``; by default an episode is truncated after ``max_steps_in_episode``.
    """

    @abc.abstractmethod
    def reset_env(self, key: Key, params: Task) -> tuple[Array, State]:
        """Start an episode of the task ``params``; return ``(obs, state)``."""

    @abc.abstractmethod
    def step_env(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, dict[Any, Any]]:
        """Take one step without a reset; return ``(obs, state, reward, terminated, info)``."""

    @abc.abstractmethod
    def action_space(self, params: Task) -> Space:
        """Return the space of actions."""
        ...

    @abc.abstractmethod
    def observation_space(self, params: Task) -> Space:
        """Return the space of observations."""
        ...

    def is_truncated(self, state: State, params: Task) -> Array:
        """Return whether the episode has reached its time limit."""
        return state.time >= params.max_steps_in_episode

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def reset(self, key: Key, params: Task) -> tuple[Array, State]:
        """Start an episode; return ``(obs, state)``."""
        return self.reset_env(key, params)

    def step(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        """Take one step, with an automatic reset when the episode ends.

        Returns:
            ``(obs, state, reward, terminated, truncated, info)``. If an episode ends, ``obs`` and ``state`` are those
            of the new episode. ``info["final_observation"]`` is always the observation that the action led to.
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
