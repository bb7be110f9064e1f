"""Shifted tasks: each function takes a family and returns a function that draws a task outside of its distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.environments.dark_room import DarkRoom
from metarl_jax.environments.gridnavi import goals
from metarl_jax.types import EnvFamily, Key, Task


def _changed(family: EnvFamily, change: Callable[[Key, Any], Task]) -> Callable[[Key], Task]:
    """Return a function that draws a training task and changes it."""

    def sample(key: Key) -> Task:
        key_task, key_change = jax.random.split(key)
        return change(key_change, family.tasks.sample(key_task))

    return sample


def rare_rewards(family: EnvFamily) -> Callable[[Key], Task]:
    """Draw bandits whose success probabilities are cubes of uniform numbers."""
    return _changed(family, lambda key, task: task.replace(means=task.means**3))


def higher_rewards(family: EnvFamily) -> Callable[[Key], Task]:
    """Draw bandits whose mean rewards are uniform on [1, 2]."""
    return _changed(family, lambda key, task: task.replace(means=task.means + 1))


def sharp_transitions(family: EnvFamily) -> Callable[[Key], Task]:
    """Draw MDPs in which one next state is much more likely than all others, for each state and action."""

    def change(key: Key, task: Any) -> Task:
        del key
        weights = task.transition**8
        return task.replace(transition=weights / jnp.sum(weights, axis=-1, keepdims=True))

    return _changed(family, change)


def far_goals(family: EnvFamily) -> Callable[[Key], Task]:
    """Draw goals of GridNavi in cells (x, y) where x + y is at least the size of the grid."""
    size = cast(DarkRoom, family.env).size
    cells = np.array([cell for cell in goals(size) if sum(cell) >= size], np.int32)

    def change(key: Key, task: Any) -> Task:
        return task.replace(goals=jnp.asarray(cells)[jax.random.randint(key, (1,), 0, len(cells), jnp.int32)])

    return _changed(family, change)


def corners(family: EnvFamily) -> Callable[[Key], Task]:
    """Draw goals of a dark room in different corners of the grid."""
    last = cast(DarkRoom, family.env).size - 1
    cells = np.array([(0, 0), (0, last), (last, 0), (last, last)], np.int32)

    def change(key: Key, task: Any) -> Task:
        return task.replace(goals=jnp.asarray(cells)[jax.random.permutation(key, 4)[: task.goals.shape[0]]])

    return _changed(family, change)


def distant_goals(family: EnvFamily) -> Callable[[Key], Task]:
    """Draw goals in the square from -1 to 1 and outside of the square from -0.5 to 0.5."""

    def change(key: Key, task: Any) -> Task:
        key_long, key_other, key_axis, key_sign = jax.random.split(key, 4)
        # The larger coordinate is between 0.5 and 1, and its square is uniform, so that goals are uniform on the ring.
        long = jnp.sqrt(jax.random.uniform(key_long, (), jnp.float32, 0.25, 1.0))
        long = jnp.where(jax.random.bernoulli(key_sign, jnp.float32(0.5)), long, -long)
        other = jnp.abs(long) * jax.random.uniform(key_other, (), jnp.float32, -1.0, 1.0)
        first = jax.random.bernoulli(key_axis, jnp.float32(0.5))
        return task.replace(goal=jnp.where(first, jnp.stack([long, other]), jnp.stack([other, long])))

    return _changed(family, change)


def other_half(family: EnvFamily) -> Callable[[Key], Task]:
    """Draw goals on the half-circle on which no training goal is."""

    def change(key: Key, task: Any) -> Task:
        angle = jax.random.uniform(key, (), jnp.float32, math.pi, 2 * math.pi)
        return task.replace(goal=jnp.stack([jnp.cos(angle), jnp.sin(angle)]))

    return _changed(family, change)
