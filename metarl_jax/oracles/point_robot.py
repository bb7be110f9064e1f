"""Reference learners for point robots: the best path to a known goal, and posterior sampling of goals on a half-circle.

Posterior sampling is for rewards near the goal only. All learners move at full speed along both axes; no other path is
nearer to the goal at any time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.point_robot import PointParams, PointRobot
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.types import Adaptation, Array, EnvFamily, Inputs, Key, Oracle, State

_ROUNDING = 1e-4
"""The difference below which two rewards count as equal."""


def goal_known(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that knows the goal and goes to it.

    Raises:
        ValueError: if the family is not of ``environments.point_robot``, its reward is "corner", or ``episodes`` is not
            a positive whole number.
    """
    env, episodes = family.env, positive_int("episodes", episodes)
    if not isinstance(env, PointRobot) or env.rules.reward == "corner":
        raise ValueError('goal_known needs a point robot whose reward is "distance" or "near"')

    def adapt(key: Key, state: State, task: PointParams) -> Adaptation:
        def act(key: Key, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], Array, tuple[()]]:
            return carry, (task.goal - inputs.obs) / env.rules.reach, ()

        del state
        return Adaptation(episode_returns(trial(key, act, (), family, task, episodes)[1], episodes))

    return Oracle("best play, goal known", adapt)


class _Search(NamedTuple):
    """The memory of posterior sampling."""

    possible: Array
    """The goals that are still possible, ``[goals]`` bool."""
    priority: Array
    """Random priorities, drawn for each episode, ``[goals]``. The point goes to the possible goal of the highest."""
    position: Array
    """The position after the last step, ``[2]``, even if this step was the last of an episode."""


def posterior_sampling(family: EnvFamily, episodes: int, goals: int = 400) -> Oracle:
    """Make posterior sampling: in each episode it draws a goal from the posterior, and goes there directly.

    The learner keeps the drawn goal as long as it is possible. When it is not, the learner draws another one. The prior
    is uniform on a number of goals along the half-circle. A goal is possible as long as all rewards equal those of this
    goal, or of a point that is at most as far from it as its neighbour. The posterior is exact up to this distance.

    Args:
        family: a family of ``environments.point_robot`` with the reward "near".
        episodes: the number of episodes of a trial.
        goals: the number of goals of the prior.

    Raises:
        ValueError: if the family is another one, or a number is not a positive whole number.
    """
    env = family.env
    if not isinstance(env, PointRobot) or env.rules.reward != "near":
        raise ValueError('posterior_sampling needs a point robot whose reward is "near"')
    rules, episodes, goals = env.rules, positive_int("episodes", episodes), positive_int("goals", goals)
    angles = jnp.linspace(0.0, math.pi, goals, dtype=jnp.float32)
    places = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    slack = math.pi / max(goals - 1, 1) + _ROUNDING

    def adapt(key: Key, state: State, task: PointParams) -> Adaptation:
        del state

        def act(key: Key, search: _Search, inputs: Inputs) -> tuple[_Search, Array, tuple[()]]:
            distance = jnp.linalg.norm(search.position - places, axis=-1)
            fits = jnp.where(
                inputs.prev_reward > 0,
                jnp.abs(1 - inputs.prev_reward - distance) <= slack,
                distance > rules.radius - slack,
            )
            left = jnp.logical_and(search.possible, jnp.logical_or(fits, inputs.first))
            possible = jnp.where(jnp.any(left), left, search.possible)
            new_episode = jnp.logical_or(inputs.first, inputs.prev_done > 0)
            priority = jnp.where(new_episode, jax.random.uniform(key, (goals,), jnp.float32), search.priority)
            towards = places[jnp.argmax(jnp.where(possible, priority, -1.0))] - inputs.obs
            action = jnp.clip(towards / rules.reach, -1.0, 1.0)
            return _Search(possible, priority, inputs.obs + rules.reach * action), action, ()

        start = _Search(jnp.ones(goals, bool), jnp.zeros(goals, jnp.float32), jnp.zeros(2, jnp.float32))
        return Adaptation(episode_returns(trial(key, act, start, family, task, episodes)[1], episodes))

    return Oracle("posterior sampling, exact", adapt)
