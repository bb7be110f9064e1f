"""A reference learner that takes random actions, for all families."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.types import Adaptation, Array, Carry, Discrete, EnvFamily, Inputs, Key, Oracle, State, Task


def uniform(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that takes every action with equal probability.

    Args:
        family: a family whose actions are discrete, or arrays between finite bounds.
        episodes: the number of episodes of a trial.

    Raises:
        ValueError: if actions are not bounded, or ``episodes`` is not a positive whole number.
    """
    episodes, space = positive_int("episodes", episodes), family.action_space
    if not isinstance(space, Discrete) and not np.all(np.isfinite(np.asarray([space.low, space.high]))):
        raise ValueError(f"random actions need an action space with finite bounds, not {space!r}")

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        if isinstance(space, Discrete):
            return carry, jax.random.randint(key, (), 0, space.n, jnp.int32), ()
        return carry, jax.random.uniform(key, space.shape, jnp.float32, space.low, space.high), ()

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del state
        played = trial(key, act, (), family, task, episodes)[1]
        return Adaptation(episode_returns(played, episodes), (), episode_successes(played, family, task, episodes))

    return Oracle("random", adapt)
