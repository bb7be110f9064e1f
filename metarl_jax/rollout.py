"""Rollouts of episodes and trials.

Only this module calls an environment's ``step`` and ``step_env`` to collect data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import chex
import jax
import jax.numpy as jnp

from metarl_jax.precision import as_action, keep_dtypes, narrow
from metarl_jax.types import (
    Array,
    AutoResetEnvironment,
    Box,
    Carry,
    Discrete,
    EnvFamily,
    Environment,
    HostEnvironment,
    Inputs,
    Key,
    Space,
    State,
    Task,
    Transition,
)

Act: TypeAlias = Callable[[Key, Carry, Inputs], tuple[Carry, Array, Any]]
"""``(key, carry, inputs) -> (carry, action, record)``: act for one step. ``record`` is stored in
``Transition.output``."""


def no_action(space: Space) -> Array:
    """Return the value of ``Inputs.prev_action`` at the first step of a trial, where there is no previous action."""
    match space:
        case Discrete():
            return jnp.int32(0)
        case Box(shape=shape):
            return jnp.zeros(shape, jnp.float32)


def has_step_env(env: AutoResetEnvironment) -> TypeGuard[Environment]:
    """Return whether the class of an environment has ``step_env`` and ``is_truncated`` (see ``types.Environment``)."""
    return all(callable(getattr(type(env), name, None)) for name in ("step_env", "is_truncated"))


def trial(key: Key, act: Act, carry: Carry, family: EnvFamily, task: Task, episodes: int) -> tuple[Carry, Transition]:
    """Play a trial: ``episodes`` consecutive episodes of one task, with a memory that is not reset between episodes.

    The scan has ``episodes * horizon`` steps. If an episode ends early, the next one begins at once. Steps after the
    last episode have ``valid = False``. A trial of one episode costs one reset instead of one for each step if the
    environment has ``step_env`` (``types.Environment``).

    Args:
        key: random key.
        act: acts for one step.
        carry: its memory at the start of the trial.
        family: the family, with its environment.
        task: the task, one of ``family.tasks``.
        episodes: the number of episodes of the trial.

    Returns:
        The memory at the end, and the transitions ``[episodes * horizon, ...]``.
    """
    env = family.env
    without_reset = env if episodes == 1 and has_step_env(env) else None
    on_host = env if isinstance(env, HostEnvironment) else None
    key_steps, key_reset = jax.random.split(key)
    obs, state = env.reset(key_reset, task)
    inputs = Inputs(
        obs=narrow(obs),
        prev_action=no_action(family.action_space),
        prev_reward=jnp.float32(0),
        prev_done=jnp.float32(0),
        first=jnp.bool_(True),
    )

    def one_step(loop: tuple[Any, ...], keys: Key) -> tuple[tuple[Any, ...], Transition]:
        memory, inputs, state, episode = loop
        carry, action, output = act(keys[0], memory, inputs)
        action = as_action(family.action_space, action)
        if without_reset is None:
            obs, after, reward, terminated, truncated, info = env.step(keys[1], state, action, task)
            final_obs = info["final_observation"]
        else:
            obs, after, reward, terminated, _ = without_reset.step_env(keys[1], state, action, task)
            truncated = without_reset.is_truncated(after, task)
            # The state stays fixed after the end of the episode: physics that go on might overflow.
            after = jax.tree.map(lambda new, old: jnp.where(episode == 0, new, old), after, state)
            final_obs = obs
        obs, final_obs, reward = narrow(obs), narrow(final_obs), jnp.asarray(reward, jnp.float32)
        carry, state = keep_dtypes(memory, carry), keep_dtypes(state, after)
        done = jnp.logical_or(terminated, truncated)
        transition = Transition(
            inputs=inputs,
            action=action,
            reward=reward,
            terminated=jnp.asarray(terminated, bool),
            truncated=jnp.asarray(truncated, bool),
            final_obs=final_obs,
            episode=episode,
            valid=episode < episodes,
            output=output,
        )
        inputs = Inputs(obs, action, reward, done.astype(jnp.float32), jnp.bool_(False))
        episode = episode + done.astype(jnp.int32)
        if on_host is not None:
            state = on_host.mark_over(state, episode >= episodes)
        return (carry, inputs, state, episode), transition

    # All keys are split at once, because a split at each step would cost more than a small network.
    keys = jax.random.split(key_steps, (episodes * family.horizon, 2))
    (carry, _, state, _), transitions = jax.lax.scan(one_step, (carry, inputs, state, jnp.int32(0)), keys)
    if on_host is not None:
        on_host.release(state)
    return carry, transitions


def episode(key: Key, act: Act, carry: Carry, family: EnvFamily, task: Task) -> tuple[Carry, Transition]:
    """Play one episode, which is a trial of one episode only.

    It returns the same as ``trial``, with transitions ``[horizon, ...]``.
    """
    return trial(key, act, carry, family, task, episodes=1)


class Stepped(NamedTuple):
    """The outcome of one step of ``advance``."""

    obs: Array
    """The observation for the next action; the first one of the next episode if an episode ended."""
    state: State
    reward: Array
    done: Array
    """Whether the step ended an episode, ``bool``."""
    final_obs: Array
    """The observation after the action, before any reset."""
    success: Array
    """Whether the step is a success; False if the family does not define success."""


def begin(key: Key, family: EnvFamily, task: Task) -> tuple[Array, State]:
    """Start a trial that ``advance`` plays step by step; return ``(obs, state)``."""
    obs, state = family.env.reset(key, task)
    return narrow(obs), state


def advance(key: Key, family: EnvFamily, task: Task, obs: Array, state: State, action: Array) -> Stepped:
    """Take one step of a trial whose actions a program on the host chooses, as ``trial`` does.

    Args:
        key: random key.
        family: the family, with its environment.
        task: the task.
        obs: the observation before the action.
        state: the state of the environment.
        action: the action.
    """
    action = as_action(family.action_space, action)
    after_obs, after, reward, terminated, truncated, info = family.env.step(key, state, action, task)
    final_obs, reward = narrow(info["final_observation"]), jnp.asarray(reward, jnp.float32)
    terminated, truncated = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
    success = jnp.bool_(False)
    if family.success is not None:
        inputs = Inputs(obs, no_action(family.action_space), jnp.float32(0), jnp.float32(0), jnp.bool_(False))
        step = Transition(
            inputs, action, reward, terminated, truncated, final_obs, jnp.int32(0), jnp.bool_(True), output=()
        )
        success = jnp.asarray(family.success(task, step), bool)
    done = jnp.logical_or(terminated, truncated)
    return Stepped(narrow(after_obs), keep_dtypes(state, after), reward, done, final_obs, success)


def joined(episodes: Transition) -> Transition:
    """Join separately played episodes into one trial, whose inputs show the step before also across episodes.

    Args:
        episodes: episodes of the same task, ``[E, H, ...]``.

    Returns:
        The trial, ``[E * H, ...]``. The valid steps come first, as in ``trial``.
    """
    number, horizon = episodes.reward.shape
    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32)[:, None], (number, horizon))
    index = jnp.where(episodes.valid, index, number)
    flat = jax.tree.map(lambda x: x.reshape(number * horizon, *x.shape[2:]), episodes._replace(episode=index))
    order = jnp.argsort(jnp.logical_not(flat.valid), stable=True)
    whole = jax.tree.map(lambda x: x[order], flat)
    done = jnp.logical_or(whole.terminated, whole.truncated).astype(jnp.float32)

    def before(x: Array) -> Array:
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    first = jnp.arange(number * horizon) == 0
    return whole._replace(
        inputs=Inputs(whole.inputs.obs, before(whole.action), before(whole.reward), before(done), first)
    )


def episode_returns(transitions: Transition, episodes: int) -> Array:
    """Return the undiscounted return of each episode of a trial.

    Args:
        transitions: ``[T, ...]``, of one trial.
        episodes: E.

    Returns:
        ``[E]`` float32.
    """
    _check_trial(transitions)
    rewards = jnp.where(transitions.valid, transitions.reward, 0.0)
    return jax.ops.segment_sum(rewards, transitions.episode, num_segments=episodes)


def episode_successes(transitions: Transition, family: EnvFamily, task: Task, episodes: int) -> Array | None:
    """Return whether each episode of a trial is a success, that is, has a step that is a success.

    Args:
        transitions: ``[T, ...]``, of one trial.
        family: the family that the task belongs to.
        task: the task.
        episodes: E.

    Returns:
        ``[E]`` float32, 0 or 1; None if the family does not define success.
    """
    if family.success is None:
        return None
    _check_trial(transitions)
    reached = jax.vmap(family.success, (None, 0))(task, transitions)
    reached = jnp.logical_and(reached, transitions.valid).astype(jnp.float32)
    return jnp.zeros(episodes, jnp.float32).at[transitions.episode].max(reached, mode="drop")


def _check_trial(transitions: Transition) -> None:
    """Check that transitions are those of one trial, ``[T, ...]``.

    With several trials, returns would be summed over trials.
    """
    chex.assert_rank(transitions.reward, 1)
    chex.assert_equal_shape([transitions.reward, transitions.valid, transitions.episode])
