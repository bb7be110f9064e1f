"""Reference learners for recommendation across domains: popularity, and choices by exact normal posteriors.

Every factory takes ``(family, episodes)``: a family of ``environments.cross_domain``, and the number of sessions of a
trial. Their prior is the distribution of likings over training users.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.cross_domain import DOMAINS, CrossDomain, Likings, User
from metarl_jax.oracles.base import of_trials
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key, Oracle, Transition

Memory: TypeAlias = tuple[Likings, Array]
"""The posterior, and the domain of the step before."""
JITTER = 1e-4
"""The number that is added to the variances of likings before draws."""


def _environment(family: EnvFamily) -> CrossDomain:
    if not isinstance(family.env, CrossDomain):
        raise ValueError(f"family must be one of environments.cross_domain, not one of {type(family.env).__name__}")
    return family.env


def _make(name: str, family: EnvFamily, episodes: int, prior: Likings, learns: bool, samples: bool = False) -> Oracle:
    """Make a learner that recommends the best item by the posterior's mean, or by a draw from the posterior."""
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def act(key: Key, memory: Memory, inputs: Inputs) -> tuple[Memory, Array, tuple[()]]:
        likings, before = memory
        if learns:
            item = before * env.items + inputs.prev_action
            after = likings.observe(item, inputs.prev_reward, env.noise)
            likings = jax.tree.map(lambda old, new: jnp.where(inputs.first, old, new), likings, after)
        domain = jnp.argmax(inputs.obs[:DOMAINS]).astype(jnp.int32)
        values = likings.mean
        if samples:
            # Covariances of low rank are singular, which a small diagonal corrects.
            root = jnp.linalg.cholesky(likings.covariance + JITTER * jnp.eye(len(values), dtype=jnp.float32))
            values = values + root @ jax.random.normal(key, values.shape, jnp.float32)
        item = jnp.argmax(values.reshape(DOMAINS, env.items)[domain])
        return (likings, domain), item.astype(jnp.int32), ()

    def run(key: Key, task: User) -> tuple[Carry, Transition]:
        return trial(key, act, (prior, jnp.int32(0)), family, task, episodes)

    return of_trials(name, episodes, run)


def popularity(family: EnvFamily, episodes: int) -> Oracle:
    """Make a recommender of the item of the domain that training users like best on average.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _make("popularity", family, episodes, _environment(family).likings, learns=False)


def each_domain(family: EnvFamily, episodes: int) -> Oracle:
    """Make a greedy recommender with the exact posterior of each domain, given the rewards in this domain only.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    prior = _environment(family).likings.separate()
    return _make("greedy by the posterior of each domain alone", family, episodes, prior, learns=True)


def both_domains(family: EnvFamily, episodes: int) -> Oracle:
    """Make a greedy recommender with the exact joint posterior of both domains.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    prior = _environment(family).likings
    return _make("greedy by the joint posterior of both domains", family, episodes, prior, learns=True)


def each_domain_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """Make posterior sampling (Thompson 1933) with the exact posterior of each domain.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    prior = _environment(family).likings.separate()
    return _make("posterior sampling in each domain alone", family, episodes, prior, learns=True, samples=True)


def both_domains_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """Make posterior sampling (Thompson 1933) with the exact joint posterior of both domains.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    prior = _environment(family).likings
    return _make("posterior sampling in both domains", family, episodes, prior, learns=True, samples=True)
