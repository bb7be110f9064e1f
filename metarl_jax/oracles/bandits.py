"""Reference learners for bandits: classical index policies, posterior sampling, and exact Bayes-optimal values.

Every factory takes ``(family, episodes)``: a family of ``environments.bandits`` with K arms, and the number N of
pulls in a trial (a pull is an episode). Posteriors are exact. The prior is that of the families: means are uniform on
[0, 1]. The posterior of an arm is Beta(1 + successes, 1 + failures) for Bernoulli rewards. For Gaussian rewards of
known standard deviation sigma, it is Normal(sample mean, sigma^2 / pulls), truncated to [0, 1]. Ties are broken at
random. This rule has an effect on greedy learners, because an untried arm often ties with an arm that has as many
successes as failures.

The baselines of RL² (Duan et al. 2016, table 1) are among these learners. The paper tuned the settings of ε-greedy,
UCB1 and optimistic Thompson sampling, but does not state them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from metarl_jax.checks import positive_int, real
from metarl_jax.environments.bandits import Bandit, BanditParams
from metarl_jax.oracles.base import Sum, beta, no_sum, of_trials
from metarl_jax.rollout import trial
from metarl_jax.types import Array, EnvFamily, Inputs, Key, Oracle, Transition


class Statistics(NamedTuple):
    """The sufficient statistics of a trial, which are the memory of a bandit learner."""

    pulls: Array
    """The number of pulls of each arm, ``[K]`` int32."""
    total: Array
    """The sum of the rewards of each arm, ``[K]``; int32 for Bernoulli rewards (the successes), else float32."""


Choose: TypeAlias = Callable[[Key, Statistics, BanditParams], Array]
"""The choice of an arm, ``(key, statistics, task) -> action``; only ``best_arm`` uses the task."""


def _bandit(family: EnvFamily) -> Bandit:
    if not isinstance(family.env, Bandit):
        raise ValueError(f"family must be one of environments.bandits, not one of {type(family.env).__name__}")
    return family.env


def _make(name: str, family: EnvFamily, episodes: int, choose: Choose) -> Oracle:
    env = _bandit(family)
    episodes = positive_int("episodes", episodes)

    def run(key: Key, task: BanditParams) -> tuple[Any, Transition]:
        def act(key: Key, memory: tuple[Array, Array | Sum], inputs: Inputs) -> tuple[Any, Array, Any]:
            pulls, total = memory
            pulled = jnp.logical_and(jnp.arange(env.arms) == inputs.prev_action, jnp.logical_not(inputs.first))
            reward = jnp.where(pulled, inputs.prev_reward, 0.0)
            pulls = pulls + pulled.astype(jnp.int32)
            # Counts are int32, because adding 1 has no effect on a float32 beyond 2^24.
            total = total.add(reward) if isinstance(total, Sum) else total + reward.astype(jnp.int32)
            statistics = Statistics(pulls, total.total if isinstance(total, Sum) else total)
            return (pulls, total), choose(key, statistics, task).astype(jnp.int32), ()

        nothing = jnp.zeros(env.arms, jnp.int32)
        start = nothing, nothing if env.noise is None else no_sum((env.arms,))
        return trial(key, act, start, family, task, episodes)

    return of_trials(name, episodes, run)


def _best(key: Key, value: Array) -> Array:
    """Return the index of the highest value; ties are broken at random."""
    return jnp.argmax(jnp.where(value == jnp.max(value), jax.random.uniform(key, value.shape, jnp.float32), -1.0))


def _empirical_mean(statistics: Statistics) -> Array:
    """Compute the mean reward of each arm ``[K]``; 0.5, the prior's mean, for an arm that was never pulled."""
    pulls = jnp.maximum(statistics.pulls, 1).astype(jnp.float32)
    return jnp.where(statistics.pulls > 0, statistics.total / pulls, 0.5)


class _Cut(NamedTuple):
    """A normal distribution truncated to [0, 1].

    It is mirrored if its centre is below 0.5, so that the nearest end of the interval is 1. In the tails ``1 - x`` is
    small, and therefore must not be computed as a difference of large numbers.
    """

    centre: Array
    """The centre of the distribution after mirroring, at least 0.5, ``[K]``."""
    spread: Array
    """The standard deviation before truncation, ``[K]``."""
    mirrored: Array
    """Whether the distribution is mirrored, ``[K]`` bool."""
    outside: Array
    """The distance of the centre above 1 in standard deviations, ``[K]``; it is negative if the centre is below 1."""

    def back(self, x: Array, below: Array) -> Array:
        """Undo the mirroring of ``x``; ``below`` is ``1 - x``, with a higher precision than this difference has."""
        return jnp.clip(jnp.where(self.mirrored, below, x), 0, 1)


_FARTHEST = 1e18
"""The largest distance in standard deviations; larger ones are clipped, so that squares are finite in float32."""


def _cut(statistics: Statistics, noise: float) -> _Cut:
    pulls = jnp.maximum(statistics.pulls, 1).astype(jnp.float32)
    centre, spread = statistics.total / pulls, noise / jnp.sqrt(pulls)
    mirrored = centre < 0.5
    centre = jnp.where(mirrored, 1 - centre, centre)
    return _Cut(centre, spread, mirrored, jnp.minimum((centre - 1) / spread, _FARTHEST))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_DECAY = 20.0
"""The logarithm of the relative range of densities: densities below e^-20 of the largest one are neglected."""


def _below_one(cut: _Cut) -> Array:
    """Compute the mean of ``1 - x`` under a truncated normal distribution, ``[K]``, by Gauss-Legendre quadrature.

    All terms are positive multiples of densities relative to the largest one, also in the tails.
    """
    # The unit of t is the standard deviation, and t is 0 at the mode. The log density is -t (t + 2 outside) / 2 if the
    # centre is outside of the interval, else -t^2 / 2.
    outside, mode = jnp.maximum(cut.outside, 0), jnp.maximum(1 - cut.centre, 0)
    first = -jnp.minimum(mode / cut.spread, math.sqrt(2 * _DECAY))
    last = jnp.minimum(2 * _DECAY / (outside + jnp.sqrt(outside**2 + 2 * _DECAY)), (1 - mode) / cut.spread)
    nodes, weights = (jnp.asarray(x[:, None], jnp.float32) for x in ((_NODES + 1) / 2, _WEIGHTS))
    t = first + (last - first) * nodes
    density = weights * jnp.exp(-0.5 * t * (t + 2 * outside))
    return mode + cut.spread * jnp.sum(density * t, axis=0) / jnp.sum(density, axis=0)


def _posterior_mean(noise: float | None, statistics: Statistics) -> Array:
    """Compute the posterior mean of each arm, ``[K]``."""
    if noise is None:
        return (statistics.total + 1).astype(jnp.float32) / (statistics.pulls + 2).astype(jnp.float32)
    cut = _cut(statistics, noise)
    below = _below_one(cut)
    return jnp.where(statistics.pulls > 0, cut.back(1 - below, below), 0.5)


_TAIL = 5.0
"""The distance from the centre, in standard deviations, beyond which quantiles are computed from the survival function
of the tail."""
_BROAD = 100.0
"""The standard deviation from which a normal density on [0, 1] counts as exponential. The relative error is at most
1.25e-5."""


def _mills_ratio(t: Array) -> Array:
    """Compute (1 - Phi(t)) / phi(t) of the normal distribution for ``t >= _TAIL``, by its continued fraction."""
    value = t
    for k in range(12, 0, -1):
        value = t + k / value
    return 1 / value


def _tail_quantile(uniform: Array, outside: Array, width: Array) -> Array:
    """Compute the distance of a draw from the near end of an interval in a normal tail.

    All lengths are in standard deviations.

    Args:
        uniform: uniform random numbers in [0, 1), ``[K]``.
        outside: the distance of the interval's near end from the centre, at least ``_TAIL``, ``[K]``.
        width: the width of the interval, ``[K]``.

    Returns:
        The distance, from 0 to ``width``, ``[K]``; it decreases as ``uniform`` increases.
    """
    at_end = _mills_ratio(outside)
    beyond = jnp.exp(-width * (outside + 0.5 * width)) * _mills_ratio(outside + width) / at_end
    # ``depth`` is minus the logarithm of the survival function relative to that of the near end. Newton's method solves
    # for the distance from above. It converges fast, because the function is convex and nearly linear.
    depth = -jnp.log(jnp.maximum(beyond + uniform * (1 - beyond), 2.0**-25))
    distance = 2 * depth / (outside + jnp.sqrt(outside**2 + 2 * depth))
    for _ in range(3):
        ratio = _mills_ratio(outside + distance)
        reached = distance * (outside + 0.5 * distance) - jnp.log(ratio / at_end)
        distance = distance - (reached - depth) * ratio
    return jnp.clip(distance, 0, width)


def _posterior_sample(key: Key, noise: float | None, statistics: Statistics) -> Array:
    """Draw once from the posterior of each arm's mean, ``[K]``; for Gaussian rewards by the inverse CDF."""
    if noise is None:
        return beta(key, statistics.total + 1, statistics.pulls - statistics.total + 1)
    cut = _cut(statistics, noise)
    uniform = jax.random.uniform(key, statistics.pulls.shape, jnp.float32)
    low, high = ndtr(-cut.centre / cut.spread), ndtr((1 - cut.centre) / cut.spread)
    x = cut.centre + cut.spread * ndtri(jnp.clip(low + uniform * (high - low), 1e-37, 1 - 1e-7))
    # In the tail, both ``low`` and ``high`` are almost zero.
    below = cut.spread * _tail_quantile(uniform, jnp.maximum(cut.outside, _TAIL), 1 / cut.spread)
    # In a broad distribution, ``low`` and ``high`` are almost equal.
    slope = jnp.maximum((cut.centre - 0.5) / cut.spread**2, 1e-30)
    below = jnp.where(cut.spread < _BROAD, below, -jnp.log1p((1 - uniform) * jnp.expm1(-slope)) / slope)
    usual = jnp.logical_and(cut.outside < _TAIL, cut.spread < _BROAD)
    sample = cut.back(jnp.where(usual, x, 1 - below), jnp.where(usual, 1 - x, below))
    return jnp.where(statistics.pulls > 0, sample, uniform)


def random(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that pulls every arm with equal probability."""
    arms = _bandit(family).arms
    return _make("random", family, episodes, lambda key, *_: jax.random.randint(key, (), 0, arms, jnp.int32))


def greedy(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that pulls the arm with the highest mean reward so far.

    For an arm that was never pulled, the mean reward is 0.5, the prior's mean.
    """
    return _make("greedy", family, episodes, lambda key, statistics, task: _best(key, _empirical_mean(statistics)))


def greedy_posterior_mean(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that pulls the arm with the highest posterior mean, which is Bayes-optimal for the last pull."""
    noise = _bandit(family).noise

    def choose(key: Key, statistics: Statistics, task: BanditParams) -> Array:
        return _best(key, _posterior_mean(noise, statistics))

    return _make("greedy on posterior means", family, episodes, choose)


def epsilon_greedy(family: EnvFamily, episodes: int, epsilon: float = 0.01) -> Oracle:
    """Make a learner that pulls a random arm with probability ``epsilon``, else that of the highest posterior mean.

    Args:
        family: a family of bandits.
        episodes: the number N of pulls.
        epsilon: the probability of a random arm. The default is the smallest of the values that were tried on training
            tasks of 5 arms and 10 or 100 pulls (0.01 to 0.1). Smaller values were better, and 0 is even better.
    """
    env = _bandit(family)
    epsilon = real(at_least=0, at_most=1)("epsilon", epsilon)

    def choose(key: Key, statistics: Statistics, task: BanditParams) -> Array:
        key_explore, key_arm, key_tie = jax.random.split(key, 3)
        explore = jax.random.uniform(key_explore, dtype=jnp.float32) < epsilon
        arm = jax.random.randint(key_arm, (), 0, env.arms, jnp.int32)
        return jnp.where(explore, arm, _best(key_tie, _posterior_mean(env.noise, statistics)))

    return _make("ε-greedy", family, episodes, choose)


def ucb1(family: EnvFamily, episodes: int, exploration: float = 0.3, prior_pulls: float = 2.0) -> Oracle:
    """Make UCB1 (Auer et al. 2002), which pulls the arm of the highest upper confidence bound.

    The bound is ``mean + exploration * sqrt(log(t) / pulls)`` at pull number t.

    Args:
        family: a family of bandits. For Gaussian rewards, the unit of the width is also that of rewards.
        episodes: the number N of pulls.
        exploration: the factor of the width, sqrt(2) in the original. The default was tuned on training tasks of 5 arms
            and 100 pulls (from 0.1 to 0.6).
        prior_pulls: the number of additional imaginary pulls of every arm, with a mean reward of 0.5. With 2, they are
            the uniform prior of the families (Beta(1, 1)). With 0, the algorithm is the original, which first pulls
            every arm once in random order; it is therefore random if there are more arms than pulls.
    """
    _bandit(family)
    exploration = real(at_least=0)("exploration", exploration)
    prior_pulls = real(at_least=0)("prior_pulls", prior_pulls)

    def choose(key: Key, statistics: Statistics, task: BanditParams) -> Array:
        pulls = statistics.pulls.astype(jnp.float32) + prior_pulls
        safe_pulls = jnp.maximum(pulls, 1e-6)
        mean = (statistics.total.astype(jnp.float32) + 0.5 * prior_pulls) / safe_pulls
        time = 1 + jnp.sum(statistics.pulls.astype(jnp.float32))
        bound = mean + exploration * jnp.sqrt(jnp.log(time) / safe_pulls)
        return _best(key, jnp.where(pulls > 0, bound, jnp.inf))

    return _make("UCB1", family, episodes, choose)


def thompson_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """Make Thompson sampling (Thompson 1933), which pulls the best arm of one draw from the posterior."""
    noise = _bandit(family).noise

    def choose(key: Key, statistics: Statistics, task: BanditParams) -> Array:
        return jnp.argmax(_posterior_sample(key, noise, statistics))

    return _make("Thompson sampling", family, episodes, choose)


def optimistic_thompson_sampling(family: EnvFamily, episodes: int) -> Oracle:
    """Make optimistic Thompson sampling (May et al. 2012), where a draw is at least the posterior mean."""
    noise = _bandit(family).noise

    def choose(key: Key, statistics: Statistics, task: BanditParams) -> Array:
        key_sample, key_tie = jax.random.split(key)
        sample = _posterior_sample(key_sample, noise, statistics)
        return _best(key_tie, jnp.maximum(sample, _posterior_mean(noise, statistics)))

    return _make("optimistic Thompson sampling", family, episodes, choose)


def best_arm(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that knows the task and always pulls the best arm.

    Its expected total reward is N K / (K + 1) in the families of ``environments.bandits``.
    """
    _bandit(family)
    return _make("best arm, task known", family, episodes, lambda key, statistics, task: jnp.argmax(task.means))


class GittinsTable(NamedTuple):
    """Finite-horizon Gittins indices of Bernoulli arms with a uniform prior, for trials of up to N pulls."""

    level: np.ndarray
    """The indices in units of ``1 / grid``, uint16, packed. The index of an arm with ``n`` pulls and ``s`` successes,
    when ``m`` pulls remain (n + m <= N), is at ``offset[n] + (m - 1) (n + 1) + s``."""
    offset: np.ndarray
    """The position of the first index for each number of pulls, ``[N]`` int32."""
    grid: int
    """The number of grid points of the index between 0 and 1."""

    def arm_index(self, successes: int, failures: int, remaining: int) -> float:
        """Return the index of one arm; ``remaining`` pulls are left in the trial, the next one included."""
        pulls = successes + failures
        if successes < 0 or failures < 0 or remaining < 1 or pulls + remaining > len(self.offset):
            raise ValueError(
                f"successes ({successes}) and failures ({failures}) must be at least 0, remaining ({remaining}) at "
                f"least 1, and their sum at most the {len(self.offset)} pulls of the table"
            )
        return float(self.level[self.offset[pulls] + (remaining - 1) * (pulls + 1) + successes]) / self.grid


@functools.lru_cache(maxsize=4)
def gittins_table(episodes: int, grid: int) -> GittinsTable:
    """Compute finite-horizon Gittins indices by optimal stopping.

    The index of an arm with m pulls left is the certain reward per pull of another arm, such that a permanent change to
    the other arm is worth as much as continuing. For each certain reward x of a grid, W is the gain from continuing
    instead of an immediate change. It obeys this recursion:

        W(s, n, m) = max(0, p - x + p W(s + 1, n + 1, m - 1) + (1 - p) W(s, n + 1, m - 1)),  p = (s + 1) / (n + 2)

    The index is the number of grid points at which continuing has a gain. The recursion runs over n, from N - 1 pulls
    down to none. All m and s of one n are a rectangle that fits into a processor's cache. The computation takes
    ``grid * N^3 / 6`` backups: on one core about a second for N = 100 and a grid of 1000, and half a minute for N = 500
    and a grid of 500.

    Args:
        episodes: the number N of pulls.
        grid: the number of certain rewards, ``(j + 1/2) / grid``. The error of an index is at most half of
            ``1 / grid``.

    Returns:
        The table, of about ``N^3 / 6`` entries of two bytes (42 MB for N = 500).
    """
    sizes = [(episodes - n) * (n + 1) for n in range(episodes)]
    offset = np.concatenate([[0], np.cumsum(sizes)])
    level = np.zeros(offset[-1], np.uint16)
    probability = [((np.arange(n + 1) + 1) / (n + 2)).astype(np.float32) for n in range(episodes)]
    for sure in (np.arange(grid, dtype=np.float32) + 0.5) / grid:
        # ``gain`` is W for all (m, s) with m = 0 .. N - n. Continuing is worth nothing if no pull is left.
        gain = np.zeros((1, episodes + 1), np.float32)
        for n in range(episodes - 1, -1, -1):
            p = probability[n]
            going_on = gain[:, 1:] * p
            going_on += gain[:, :-1] * (1 - p)
            going_on += p - sure
            count = level[offset[n] : offset[n + 1]].reshape(episodes - n, n + 1)
            count += going_on > 0
            gain = np.zeros((episodes - n + 1, n + 1), np.float32)
            np.maximum(going_on, 0, out=gain[1:])
    return GittinsTable(level, offset[:-1].astype(np.int32), grid)


def gittins(family: EnvFamily, episodes: int, grid: int | None = None) -> Oracle:
    """Make a learner that pulls the arm of the highest finite-horizon Gittins index, given the remaining pulls.

    For two or more arms, the index of a finite horizon is not exactly optimal. Its value is within simulation error of
    the Bayes-optimal value wherever the latter is known (``bayes_optimal_value``). The indices are exact up to their
    grid.

    Args:
        family: a family of Bernoulli bandits.
        episodes: the number N of pulls.
        grid: the number of grid points of ``gittins_table``; None for 1000 up to N = 100, and 500 for larger N.

    Raises:
        ValueError: if the rewards are not Bernoulli, or the table would be too large (N above 1000).
    """
    if _bandit(family).noise is not None:
        raise ValueError("gittins needs Bernoulli rewards, but the rewards of the family are Gaussian")
    episodes = positive_int("episodes", episodes)
    if episodes > 1000:
        raise ValueError(f"episodes must be at most 1000 for gittins (its table grows with their cube), not {episodes}")
    if grid is None:
        grid = 1000 if episodes <= 100 else 500
    if positive_int("grid", grid) > np.iinfo(np.uint16).max:
        raise ValueError(f"grid must be at most {np.iinfo(np.uint16).max}, not {grid}")
    table = gittins_table(episodes, grid)

    def choose(key: Key, statistics: Statistics, task: BanditParams) -> Array:
        pulls = statistics.pulls
        remaining_after = episodes - 1 - jnp.sum(pulls)
        position = jnp.asarray(table.offset)[pulls] + remaining_after * (pulls + 1) + statistics.total
        return _best(key, jnp.asarray(table.level)[position].astype(jnp.int32))

    return _make("Gittins index", family, episodes, choose)


def bayes_optimal_value(arms: int, pulls: int, max_transitions: int = 20_000_000) -> float:
    """Compute the Bayes-optimal expected total reward of a Bernoulli bandit with uniform priors, undiscounted.

    The value is exact. It is computed by dynamic programming over the posteriors after each pull. Arms are
    exchangeable, so a state is the multiset of the arms' (successes, failures). If there are more arms than pulls, only
    as many arms as pulls have an effect.

    Args:
        arms: the number K of arms.
        pulls: the number N of pulls.
        max_transitions: the largest number of transitions between states that are stored. Each takes four bytes. During
            their enumeration, the transitions of one pull take another ``4 K`` bytes each, about.

    Raises:
        ValueError: if a size is not a positive whole number, or the problem is too large.
    """
    arms = positive_int("arms", arms)
    pulls = positive_int("pulls", pulls)
    arms = min(arms, pulls)
    # The number of an arm's state (n pulls, s successes) is n (n + 1) / 2 + s.
    n_of = np.concatenate([np.full(n + 1, n) for n in range(pulls + 1)])
    s_of = np.concatenate([np.arange(n + 1) for n in range(pulls + 1)])
    mean_of = (s_of + 1) / (n_of + 2)
    after = [np.arange(len(n_of)) + n_of + 1 + outcome for outcome in (0, 1)]
    bits = len(n_of).bit_length()

    def unique(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct rows of sorted states, and the index of each row among them."""
        if bits * arms <= 63:
            keys = np.zeros(len(states), np.int64)
            for column in range(arms):
                keys = (keys << bits) | states[:, column]
        else:
            keys = np.ascontiguousarray(states).view([("", states.dtype)] * arms).reshape(-1)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return states[first], inverse.reshape(-1)

    # The forward pass enumerates the states after 0, 1, ..., N - 1 pulls, and their successors [outcome, arm, state].
    states = np.zeros((1, arms), np.int32)
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    stored = 0
    for _ in range(pulls - 1):
        stored += 2 * arms * len(states)
        if stored > max_transitions:
            raise ValueError(
                f"arms ({arms}) and pulls ({pulls}) need more than max_transitions ({max_transitions}) transitions"
            )
        successors = np.empty((2, arms, *states.shape), np.int32)
        for outcome in (0, 1):
            for arm in range(arms):
                successors[outcome, arm] = states
                successors[outcome, arm, :, arm] = after[outcome][states[:, arm]]
        successors.sort(axis=-1)
        following, inverse = unique(successors.reshape(-1, arms))
        layers.append((mean_of[states], inverse.reshape(2, arms, len(states)).astype(np.int32)))
        states = following
    # The backward pass computes the values.
    value = np.max(mean_of[states], axis=1)
    for mean, successor in reversed(layers):
        failure, success = value[successor[0]].T, value[successor[1]].T
        value = np.max(mean * (1 + success) + (1 - mean) * failure, axis=1)
    return float(value[0])
