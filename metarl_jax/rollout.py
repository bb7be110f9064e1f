"""Episodes and trials: the only callers of an environment's ``step``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Box, Carry, Discrete, EnvFamily, Inputs, Key, Space, Task, Transition

Act: TypeAlias = Callable[[Key, Carry, Inputs], tuple[Carry, Array, Any]]
"""``(key, carry, inputs) -> (carry, action, record)``: acting for one step, with whatever should be recorded."""


def no_action(space: Space) -> Array:
    """The stand-in for "previous action" at the first step of a trial."""
    match space:
        case Discrete():
            return jnp.int32(0)
        case Box(shape=shape):
            return jnp.zeros(shape, jnp.float32)


def trial(key: Key, act: Act, carry: Carry, family: EnvFamily, task: Task, episodes: int) -> tuple[Carry, Transition]:
    """Play a trial: ``episodes`` episodes of one task, with a memory that lasts over all of them.

    The scan has ``episodes * horizon`` steps. Where episodes end early the next one begins at once, and what comes
    after the last episode is marked ``valid = False``.

    Args:
        key: random key.
        act: acts for one step.
        carry: its memory at the start of the trial.
        family: the environment.
        task: the task, one of ``family.tasks``.
        episodes: episodes in the trial.

    Returns:
        The memory at the end, and the transitions ``[episodes * horizon, ...]``.
    """
    env = family.env
    key, key_reset = jax.random.split(key)
    obs, state = env.reset(key_reset, task)
    inputs = Inputs(
        obs=obs,
        prev_action=no_action(family.action_space),
        prev_reward=jnp.float32(0),
        prev_done=jnp.float32(0),
        first=jnp.bool_(True),
    )

    def one_step(loop: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], Transition]:
        key, carry, inputs, state, episode = loop
        key, key_act, key_step = jax.random.split(key, 3)
        carry, action, output = act(key_act, carry, inputs)
        obs, state, reward, terminated, truncated, info = env.step(key_step, state, action, task)
        reward = jnp.asarray(reward, jnp.float32)
        done = jnp.logical_or(terminated, truncated)
        transition = Transition(
            inputs=inputs,
            action=action,
            reward=reward,
            terminated=jnp.asarray(terminated, bool),
            truncated=jnp.asarray(truncated, bool),
            final_obs=info["final_observation"],
            episode=episode,
            valid=episode < episodes,
            output=output,
        )
        inputs = Inputs(obs, action, reward, done.astype(jnp.float32), jnp.bool_(False))
        return (key, carry, inputs, state, episode + done.astype(jnp.int32)), transition

    (_, carry, *_), transitions = jax.lax.scan(
        one_step, (key, carry, inputs, state, jnp.int32(0)), None, length=episodes * family.horizon
    )
    return carry, transitions


def episode(key: Key, act: Act, carry: Carry, family: EnvFamily, task: Task) -> tuple[Carry, Transition]:
    """Play one episode: a trial of one. Returns as ``trial`` does, with ``[horizon, ...]`` transitions."""
    return trial(key, act, carry, family, task, episodes=1)


def episode_returns(transitions: Transition, episodes: int) -> Array:
    """The undiscounted return of each episode of a trial.

    Args:
        transitions: ``[T, ...]``, of one trial.
        episodes: E.

    Returns:
        ``[E]`` float32.
    """
    rewards = jnp.where(transitions.valid, transitions.reward, 0.0)
    return jax.ops.segment_sum(rewards, transitions.episode, num_segments=episodes)
