"""Reference learners for the treatment of sepsis: policies that do not adapt, and the best policy for each population.

Every factory takes ``(family, episodes)``: a family of ``environments.icu_sepsis``, and the number of patients of a
trial. The score of every patient is the policy's exact expected return in the population, so that it has no noise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.icu_sepsis import LEVELS, Population, Sepsis
from metarl_jax.types import Adaptation, Array, EnvFamily, Key, Oracle, State


def _environment(family: EnvFamily) -> Sepsis:
    if not isinstance(family.env, Sepsis):
        raise ValueError(f"family must be one of environments.icu_sepsis, not one of {type(family.env).__name__}")
    return family.env


def _make(name: str, family: EnvFamily, episodes: int, policy: Array) -> Oracle:
    """Make a learner with the given probabilities of actions, ``[H, S, 25]``."""
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def adapt(key: Key, state: State, task: Population) -> Adaptation:
        del key, state
        return Adaptation(jnp.full(episodes, env.value(env.tilted(task.response), policy), jnp.float32))

    return Oracle(name, adapt)


def random(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that takes every action with equal probability.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env = _environment(family)
    policy = jnp.full((env.horizon, env.states, LEVELS**2), 1 / LEVELS**2, jnp.float32)
    return _make("random", family, episodes, policy)


def clinicians(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that follows the clinicians' policy, which was estimated from records of patients.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env = _environment(family)
    policy = jnp.broadcast_to(env.clinicians, (env.horizon, *env.clinicians.shape))
    return _make("clinicians", family, episodes, policy)


def mean_model(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner with the best policy for the mean transition probabilities of training populations.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    plan = _environment(family).mean_plan
    assert plan is not None
    policy = jax.nn.one_hot(plan.action, LEVELS**2, dtype=jnp.float32)
    return _make("best policy for the mean model", family, episodes, policy)


def population_known(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner with the best policy for each population.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def adapt(key: Key, state: State, task: Population) -> Adaptation:
        del key, state
        value = env.first_value(env.plan(env.tilted(task.response)).value[0])
        return Adaptation(jnp.full(episodes, value, jnp.float32))

    return Oracle("best policy, population known", adapt)
