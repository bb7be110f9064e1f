"""Environments with known solutions for tests, and a function that lists the equations of a program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp

from metarl_jax.types import Box, EnvFamily, Key, TaskDistribution


class ProbeParams(NamedTuple):
    """A task of the probe environment."""

    target: jax.Array
    """``[2]``: the optimal action."""


class ProbeState(NamedTuple):
    time: jax.Array


class Probe:
    """An environment with continuous actions and random ends.

    The reward is minus the squared distance of the action to a hidden target.
    """

    horizon = 5

    def reset(self, key: Key, params: ProbeParams) -> tuple[jax.Array, ProbeState]:
        del params
        return jax.random.normal(key, (3,)), ProbeState(jnp.int32(0))

    def step(self, key: Key, state: ProbeState, action: jax.Array, params: ProbeParams) -> tuple[Any, ...]:
        key_end, key_obs, key_reset = jax.random.split(key, 3)
        time = state.time + 1
        terminated = jax.random.bernoulli(key_end, 0.3)
        truncated = time >= self.horizon
        done = terminated | truncated
        final = jax.random.normal(key_obs, (3,))
        obs, fresh = self.reset(key_reset, params)
        state = ProbeState(jnp.where(done, fresh.time, time))
        reward = -jnp.mean((action - params.target) ** 2)
        return jnp.where(done, obs, final), state, reward, terminated, truncated, {"final_observation": final}

    def action_space(self, params: ProbeParams | None = None) -> Box:
        del params
        return Box(-1.0, 1.0, (2,))

    def observation_space(self, params: ProbeParams | None = None) -> Box:
        del params
        return Box(-jnp.inf, jnp.inf, (3,))


def probe_family() -> EnvFamily:
    """Make the family of the probe environment."""
    env = Probe()

    def sample(key: Key) -> ProbeParams:
        return ProbeParams(jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0))

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample),
        horizon=env.horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        success=lambda task, step: jnp.all((step.action > 0) == (task.target > 0)),
    )


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a program and of its inner programs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
