"""Recommenders without meta-learning, as reference learners for ``environments.recommendation``.

Their prior knowledge of users comes from a large sample of training users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.environments.recommendation import Recommendation, User
from metarl_jax.oracles.base import Sum, no_sum
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.types import Adaptation, Array, EnvFamily, Inputs, Key, Oracle, State

USERS = 20_000
"""The number of training users from which the statistics of groups are computed."""


class _Heard(NamedTuple):
    """The statistics of a user's rewards in the current trial."""

    times: Array
    """The number of recommendations of each item, ``[items]`` int32."""
    total: Array
    """The sum of the rewards of each item, ``[items]``."""

    @property
    def mean(self) -> Array:
        """The mean reward of each item, ``[items]``; 0 for an item that was never recommended."""
        return self.total / jnp.maximum(self.times, 1).astype(jnp.float32)


class _Population(NamedTuple):
    """The statistics of mean rewards among training users, by group."""

    mean: Array
    """The means, ``[groups, items]``."""
    variance: Array
    """The variances, ``[groups, items]``."""


def _environment(family: EnvFamily) -> Recommendation:
    if not isinstance(family.env, Recommendation):
        raise ValueError(f"family must be one of environments.recommendation, not one of {type(family.env).__name__}")
    return family.env


def _population(family: EnvFamily) -> _Population:
    """Compute statistics of training users, the same users in every call, on the host in double precision."""
    groups = _environment(family).groups
    users: User = jax.jit(jax.vmap(family.tasks.sample))(jax.random.split(jax.random.key(0), USERS))
    group, likes = np.asarray(users.group), np.asarray(users.likes, np.float64)
    belongs = np.eye(groups)[group]
    share = belongs / np.maximum(belongs.sum(axis=0), 1)
    mean = share.T @ likes
    # The mean of squares minus the squared mean would be a rounding error where tastes hardly differ.
    variance = share.T @ (likes - mean[group]) ** 2
    return _Population(jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32))


def _make(name: str, family: EnvFamily, episodes: int, choose: Callable[[Key, _Heard, Array], Array]) -> Oracle:
    """Make an oracle that recommends ``choose(key, statistics of the trial, group)``."""
    items, episodes = _environment(family).items, positive_int("episodes", episodes)

    def adapt(key: Key, state: State, task: User) -> Adaptation:
        del state

        def act(key: Key, memory: tuple[Array, Sum], inputs: Inputs) -> tuple[tuple[Array, Sum], Array, tuple[()]]:
            was = jnp.logical_and(jnp.arange(items) == inputs.prev_action, jnp.logical_not(inputs.first))
            times = memory[0] + was.astype(jnp.int32)
            total = memory[1].add(jnp.where(was, inputs.prev_reward, 0.0))
            item = choose(key, _Heard(times, total.total), inputs.obs)
            return (times, total), item.astype(jnp.int32), ()

        start = jnp.zeros(items, jnp.int32), no_sum((items,))
        return Adaptation(episode_returns(trial(key, act, start, family, task, episodes)[1], episodes))

    return Oracle(name, adapt)


def popularity(family: EnvFamily, episodes: int) -> Oracle:
    """Make a recommender of the item that training users of the same group like best on average.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    best = jnp.argmax(_population(family).mean, axis=-1)
    return _make("popularity in the group", family, episodes, lambda key, heard, group: best[group])


def thompson(family: EnvFamily, episodes: int) -> Oracle:
    """Make Thompson sampling with independent items, whose posterior depends on the current user's rewards only.

    The prior of an item is N(mean, variance) of the training users of the group. The posterior uses the true standard
    deviation of the noise. It is exact, except that it ignores dependencies between items.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    population, noise = _population(family), _environment(family).noise

    def choose(key: Key, heard: _Heard, group: Array) -> Array:
        prior = 1 / jnp.maximum(population.variance[group], 1e-6)
        precision = prior + heard.times / noise**2
        mean = (prior * population.mean[group] + heard.total / noise**2) / precision
        return jnp.argmax(mean + jax.random.normal(key, mean.shape, jnp.float32) * jax.lax.rsqrt(precision))

    return _make("Thompson sampling, each user alone", family, episodes, choose)


def similar_users(family: EnvFamily, episodes: int, users: int = 2000) -> Oracle:
    """Make Thompson sampling over training users, of which one is drawn by the likelihood of the current rewards.

    The prior is uniform on a number of training users, and its posterior is exact. The result is close to the best that
    posterior sampling can achieve.

    Args:
        family: a family of ``environments.recommendation``.
        episodes: the number of interactions of a trial.
        users: the number of training users.

    Raises:
        ValueError: if the family is another one, or a number is not a positive whole number.
    """
    environment, users = _environment(family), positive_int("users", users)
    known: User = jax.jit(jax.vmap(family.tasks.sample))(jax.random.split(jax.random.key(1), users))

    def choose(key: Key, heard: _Heard, group: Array) -> Array:
        # ``fit`` is the log-likelihood of the rewards, up to a constant. It uses squared differences from the mean
        # reward, because a difference of sums would be a rounding error after many rewards.
        squares = heard.times.astype(jnp.float32) * (known.likes - heard.mean) ** 2
        fit = -0.5 * jnp.sum(squares, axis=-1) / environment.noise**2
        fit = jnp.where(known.group == group, fit, -jnp.inf)
        return jnp.argmax(known.likes[jax.random.categorical(key, fit)])

    return _make("Thompson sampling among similar users", family, episodes, choose)
