"""Best play where a point knows its goal, and posterior sampling where one on a half-circle shows only when it is near.

Both coordinates close in at full speed: at no time is another way nearer.
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
"""Rewards that differ by less are taken for the same."""


def goal_known(family: EnvFamily, episodes: int) -> Oracle:
    """Go to the goal.

    Raises:
        ValueError: for a family that is not of ``environments.point_robot``, or is paid for progress instead of
            nearness, or a number of episodes that is not a positive whole number.
    """
    env, episodes = family.env, positive_int("episodes", episodes)
    if not isinstance(env, PointRobot) or env.rules.reward == "corner":
        raise ValueError("the best play is known of point robots that are paid by their distance, or near the goal")

    def adapt(key: Key, state: State, task: PointParams) -> Adaptation:
        def act(key: Key, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], Array, tuple[()]]:
            return carry, (task.goal - inputs.obs) / env.rules.reach, ()

        del state
        return Adaptation(episode_returns(trial(key, act, (), family, task, episodes)[1], episodes))

    return Oracle("best play, goal known", adapt)


class _Search(NamedTuple):
    """What is known."""

    possible: Array
    """``[goals]`` bool."""
    priority: Array
    """``[goals]``, drawn for each episode: the possible goal with the highest one is where it goes."""
    position: Array
    """``[2]``: where the last step led, also where that was an episode's last."""


def posterior_sampling(family: EnvFamily, episodes: int, goals: int = 400) -> Oracle:
    """Draw a goal from the exact posterior at the start of each episode and go there, the shortest way.

    While the goal drawn is still possible the learner keeps to it; as soon as it is not, another is drawn. The prior is
    uniform on so many goals along the half-circle, and a goal stays possible while the rewards are those that it would
    have paid, or that one no farther from it than its neighbour would have.

    Args:
        family: of ``environments.point_robot``, with the reward "near".
        episodes: of a trial.
        goals: told apart.

    Raises:
        ValueError: for another family, or a number that is not a positive whole number.
    """
    env = family.env
    if not isinstance(env, PointRobot) or env.rules.reward != "near":
        raise ValueError("posterior sampling needs a point robot that is paid near the goal alone")
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
