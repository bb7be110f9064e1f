"""How recommenders without meta-learning fare with a new user (``environments.recommendation``).

What they know of users in general they have from a large sample of training users.
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
"""Training users that are asked what they like."""


class _Heard(NamedTuple):
    """What a user has answered."""

    times: Array
    """``[items]`` int32: how often each item was recommended."""
    total: Array
    """``[items]``: the sum of what it paid."""

    @property
    def mean(self) -> Array:
        """``[items]``: what each item paid on average; 0 for one that was never recommended."""
        return self.total / jnp.maximum(self.times, 1).astype(jnp.float32)


class _Population(NamedTuple):
    """What training users like, by group."""

    mean: Array
    """``[groups, items]``."""
    variance: Array
    """``[groups, items]``."""


def _environment(family: EnvFamily) -> Recommendation:
    if not isinstance(family.env, Recommendation):
        raise ValueError(f"family must be one of environments.recommendation, not one of {type(family.env).__name__}")
    return family.env


def _population(family: EnvFamily) -> _Population:
    """Statistics of training users, the same ones for every call; computed on the host in double precision."""
    groups = _environment(family).groups
    users: User = jax.jit(jax.vmap(family.tasks.sample))(jax.random.split(jax.random.key(0), USERS))
    group, likes = np.asarray(users.group), np.asarray(users.likes, np.float64)
    belongs = np.eye(groups)[group]
    share = belongs / np.maximum(belongs.sum(axis=0), 1)
    mean = share.T @ likes
    # Not the mean of squares minus the squared mean, whose difference is rounding where tastes hardly differ.
    variance = share.T @ (likes - mean[group]) ** 2
    return _Population(jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32))


def _make(name: str, family: EnvFamily, episodes: int, choose: Callable[[Key, _Heard, Array], Array]) -> Oracle:
    """An oracle that chooses by ``(key, what it heard, group) -> item``."""
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
    """Always the item that training users of the same group like best on average.

    Raises:
        ValueError: for another family, or a number of episodes that is not a positive whole number.
    """
    best = jnp.argmax(_population(family).mean, axis=-1)
    return _make("popularity in the group", family, episodes, lambda key, heard, group: best[group])


def thompson(family: EnvFamily, episodes: int) -> Oracle:
    """Thompson sampling for each user alone: items are independent, N(mean, variance) of the group's training users.

    With that prior and the noise's standard deviation its posterior is exact, but for what items have in common.

    Raises:
        ValueError: for another family, or a number of episodes that is not a positive whole number.
    """
    population, noise = _population(family), _environment(family).noise

    def choose(key: Key, heard: _Heard, group: Array) -> Array:
        prior = 1 / jnp.maximum(population.variance[group], 1e-6)
        precision = prior + heard.times / noise**2
        mean = (prior * population.mean[group] + heard.total / noise**2) / precision
        return jnp.argmax(mean + jax.random.normal(key, mean.shape, jnp.float32) * jax.lax.rsqrt(precision))

    return _make("Thompson sampling, each user alone", family, episodes, choose)


def similar_users(family: EnvFamily, episodes: int, users: int = 2000) -> Oracle:
    """Thompson sampling among training users: one is drawn by how well it would have answered as this user did.

    The exact posterior of a prior that is uniform on so many training users: near the best that posterior sampling can
    do.

    Args:
        family: of ``environments.recommendation``.
        episodes: interactions of a trial.
        users: training users.

    Raises:
        ValueError: for another family, or a number that is not a positive whole number.
    """
    environment, users = _environment(family), positive_int("users", users)
    known: User = jax.jit(jax.vmap(family.tasks.sample))(jax.random.split(jax.random.key(1), users))

    def choose(key: Key, heard: _Heard, group: Array) -> Array:
        # Log-likelihood of the answers, up to what does not depend on the user. Differences from the mean answer are
        # squared: a difference of sums would be rounding after many answers.
        squares = heard.times.astype(jnp.float32) * (known.likes - heard.mean) ** 2
        fit = -0.5 * jnp.sum(squares, axis=-1) / environment.noise**2
        fit = jnp.where(known.group == group, fit, -jnp.inf)
        return jnp.argmax(known.likes[jax.random.categorical(key, fit)])

    return _make("Thompson sampling among similar users", family, episodes, choose)
