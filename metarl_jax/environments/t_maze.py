"""T-mazes: a cue at the start of a corridor says which way to turn at its end (Beck et al. 2020, AMRL).

The task is the cue, "left" or "right". The agent walks forward through a corridor, whatever its actions are. The last
step of an episode is at the junction, where the agent turns left or right. In noisy mazes every observation has random
features, which a memory must not confuse with the cue (T-LN, which Beck et al. 2024 use for SplAgger).

An observation is ``[start, cue, junction, noise...]``: ``start`` and ``junction`` are 1 at these places, and the cue is
1 or -1 at the start; otherwise they are 0. Each noise feature is 1 or -1 with equal probability at each step.

The authors' maze has 100 steps, one noise feature, and rewards of 4 and -3. Here the reward is 1 for the right way and
0 for the wrong one, so that a policy without memory has a return of 0.5 in the first episode.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.checks import whole
from metarl_jax.environments.base import Environment, random_signs
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, Space, TaskDistribution, Transition


@struct.dataclass
class MazeParams:
    """A task: the way to turn."""

    way: Array
    """0 for left and 1 for right, ``int32``."""
    max_steps_in_episode: int
    """The number of steps of an episode."""


@struct.dataclass
class MazeState:
    """The state of an episode."""

    time: Array
    """The number of steps in this episode, which is also the place in the corridor, ``int32``."""


class TMaze(Environment):
    """A corridor with a cue at its start and a junction at its end.

    Args:
        length: the number of steps of an episode, the turn included.
        noise_features: the number of random features of an observation.
    """

    def __init__(self, length: int, noise_features: int) -> None:
        self.length = length
        self.noise_features = noise_features

    def _show(self, key: Key, time: Array, params: MazeParams) -> Array:
        start = time == 0
        cue = jnp.where(start, 2.0 * params.way - 1, 0.0)
        shown = jnp.stack([start, cue, time == self.length - 1]).astype(jnp.float32)
        return jnp.concatenate([shown, random_signs(key, (self.noise_features,))])

    def reset_env(self, key: Key, params: MazeParams) -> tuple[Array, MazeState]:
        state = MazeState(jnp.int32(0))
        return self._show(key, state.time, params), state

    def step_env(
        self, key: Key, state: MazeState, action: Array, params: MazeParams
    ) -> tuple[Array, MazeState, Array, Array, dict[Any, Any]]:
        turned = state.time == self.length - 1
        reward = jnp.logical_and(turned, action == params.way).astype(jnp.float32)
        after = MazeState(state.time + 1)
        return self._show(key, after.time, params), after, reward, turned, {}

    def action_space(self, params: MazeParams | None = None) -> Discrete:
        del params
        return Discrete(2)

    def observation_space(self, params: MazeParams | None = None) -> Space:
        del params
        return Box(-1.0, 1.0, (3 + self.noise_features,))


def make(length: int = 50, noise_features: int = 0) -> EnvFamily:
    """Make T-mazes. Training tasks and held-out tasks are the same two tasks.

    Args:
        length: The number of steps of an episode, at least 2, the turn at the junction included.
        noise_features: The number of random features of an observation (1 in Beck et al. 2024).

    Raises:
        ValueError: if ``length`` is not a whole number of at least 2, or ``noise_features`` is negative.
    """
    length, noise_features = whole(above=1)("length", length), whole(at_least=0)("noise_features", noise_features)

    def sample(key: Key) -> MazeParams:
        return MazeParams(jax.random.randint(key, (), 0, 2, jnp.int32), length)

    def success(task: MazeParams, step: Transition) -> Array:
        del task
        return step.reward > 0

    env = TMaze(length, noise_features)
    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample),
        horizon=length,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda task: jnp.float32(1),
        success=success,
    )
