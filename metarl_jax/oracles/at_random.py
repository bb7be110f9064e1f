"""Who acts at random, whatever the family."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.types import Adaptation, Array, Carry, Discrete, EnvFamily, Inputs, Key, Oracle, State, Task


def uniform(family: EnvFamily, episodes: int) -> Oracle:
    """Every action with equal probability.

    Args:
        family: with discrete actions, or vectors between finite bounds.
        episodes: of a trial.

    Raises:
        ValueError: for unbounded actions, or no episodes.
    """
    episodes, space = positive_int("episodes", episodes), family.action_space
    if not isinstance(space, Discrete) and not np.all(np.isfinite(np.asarray([space.low, space.high]))):
        raise ValueError(f"there is no uniform distribution over actions without bounds: {space!r}")

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
