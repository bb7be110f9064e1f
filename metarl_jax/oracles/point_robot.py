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
    """The memory of a learner that samples goals."""

    possible: Array
    """The goals that are still possible, ``[goals]`` bool."""
    drawn: Array
    """The index of the drawn goal, to which the point moves, ``int32``."""
    position: Array
    """The position after the last step, ``[2]``, even if this step was the last of an episode."""


def posterior_sampling(family: EnvFamily, episodes: int, goals: int = 400) -> Oracle:
    """Make exact posterior sampling: each episode draws a goal from the posterior and goes there directly.

    The learner keeps the drawn goal for the whole episode, as PEARL keeps its latent variable, even if the episode
    shows that the goal is elsewhere. The prior is uniform on a number of goals along the half-circle. A goal is
    possible as long as all rewards equal those of this goal, or of a point that is at most as far from it as its
    neighbour. The posterior is exact up to this distance.

    Args:
        family: a family of ``environments.point_robot`` with the reward "near".
        episodes: the number of episodes of a trial.
        goals: the number of goals of the prior.

    Raises:
        ValueError: if the family is another one, or a number is not a positive whole number.
    """
    name = "posterior sampling, exact, one draw per episode"
    return _sampling(name, family, episodes, goals, infers=True, redraws=False)


def posterior_sampling_within_episodes(family: EnvFamily, episodes: int, goals: int = 400) -> Oracle:
    """Make ``posterior_sampling`` that draws another goal within an episode when the drawn goal becomes impossible.

    A learner that keeps its sample for an episode, such as PEARL, cannot do this. Arguments and errors are those of
    ``posterior_sampling``.
    """
    name = "posterior sampling, exact, new draws within an episode"
    return _sampling(name, family, episodes, goals, infers=True, redraws=True)


def prior_sampling(family: EnvFamily, episodes: int, goals: int = 400) -> Oracle:
    """Make a learner that learns nothing: each episode draws a goal from the prior and goes there directly.

    It is the reference for exploration with latent variables from the prior. Arguments and errors are those of
    ``posterior_sampling``.
    """
    return _sampling("draws from the prior", family, episodes, goals, infers=False, redraws=False)


def _sampling(name: str, family: EnvFamily, episodes: int, goals: int, *, infers: bool, redraws: bool) -> Oracle:
    """Make a learner that moves to sampled goals.

    Args:
        name: the name of the learner.
        family: a family with the reward "near".
        episodes: the number of episodes of a trial.
        goals: the number of goals of the prior.
        infers: whether goals are drawn from the posterior instead of the prior.
        redraws: whether another goal is drawn within an episode when the drawn goal is impossible.
    """
    env = family.env
    if not isinstance(env, PointRobot) or env.rules.reward != "near":
        raise ValueError('sampling of goals needs a point robot whose reward is "near"')
    rules, episodes, goals = env.rules, positive_int("episodes", episodes), positive_int("goals", goals)
    angles = jnp.linspace(0.0, math.pi, goals, dtype=jnp.float32)
    places = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    slack = math.pi / max(goals - 1, 1) + _ROUNDING

    def adapt(key: Key, state: State, task: PointParams) -> Adaptation:
        del state

        def act(key: Key, search: _Search, inputs: Inputs) -> tuple[_Search, Array, tuple[()]]:
            possible = search.possible
            if infers:
                distance = jnp.linalg.norm(search.position - places, axis=-1)
                fits = jnp.where(
                    inputs.prev_reward > 0,
                    jnp.abs(1 - inputs.prev_reward - distance) <= slack,
                    distance > rules.radius - slack,
                )
                left = jnp.logical_and(possible, jnp.logical_or(fits, inputs.first))
                possible = jnp.where(jnp.any(left), left, possible)
            renewed = jnp.logical_or(inputs.first, inputs.prev_done > 0)
            if redraws:
                renewed = jnp.logical_or(renewed, jnp.logical_not(possible[search.drawn]))
            rank = jnp.cumsum(possible, dtype=jnp.int32)
            place = jnp.searchsorted(rank, jax.random.randint(key, (), 0, rank[-1], jnp.int32), side="right")
            drawn = jnp.where(renewed, place, search.drawn).astype(jnp.int32)
            action = jnp.clip((places[drawn] - inputs.obs) / rules.reach, -1.0, 1.0)
            return _Search(possible, drawn, inputs.obs + rules.reach * action), action, ()

        start = _Search(jnp.ones(goals, bool), jnp.int32(0), jnp.zeros(2, jnp.float32))
        return Adaptation(episode_returns(trial(key, act, start, family, task, episodes)[1], episodes))

    return Oracle(name, adapt)
