"""Reference learners for the bandits of ``environments.changing``, whose arms change within a trial.

Three learners have the exact posterior of the mean rewards, up to a grid of rates of change: one filter for each rate,
weighted by the likelihood of the rewards. The filter of switching arms is that of a hidden Markov model; that of
drifting arms is a Kalman filter. Four more learners forget old rewards instead. Their settings are chosen on training
tasks: discounted and sliding-window UCB (Garivier and Moulines 2011), discounted Thompson sampling (Raj and Kalyani
2017), and, for drifting arms with known features, discounted LinUCB (Russac et al. 2019).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.environments.changing import RATES, VALUES, ChangingBandit, Course, Drift
from metarl_jax.oracles.base import at_first_use, beta, of_trials
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key, Oracle, Transition

GRID = 8
"""The number of rates of change of the grid."""
TASKS = 512
"""The number of training tasks on which settings are chosen."""


def _environment(family: EnvFamily) -> ChangingBandit:
    if not isinstance(family.env, ChangingBandit):
        raise ValueError(f"family must be one of environments.changing, not one of {type(family.env).__name__}")
    return family.env


def rates(number: int = GRID) -> np.ndarray:
    """Return a grid of equally likely rates of change of training tasks, ``[number]``."""
    low, high = np.log(RATES)
    return np.exp(low + (high - low) * (np.arange(number) + 0.5) / number)


class Filter(NamedTuple):
    """Bayesian inference about K arms that change. A belief, a tree of arrays, is about the arms at the next pull."""

    prior: Any
    """The belief before the first pull."""
    observe: Callable[[Any, Array, Array], Any]
    """``(belief, arm, reward) -> belief``: the posterior after a pull and the change that follows it."""
    means: Callable[[Any], Array]
    """``belief -> [K]``: the expected reward of each arm."""
    sample: Callable[[Key, Any], Array]
    """``(key, belief) -> [K]``: a draw of the mean reward of each arm."""
    outcomes: Callable[[Any, Array], tuple[Array, Array]]
    """``(belief, arm) -> (rewards [O], probabilities [O])``: the predictive distribution of the reward of a pull."""
    rate: Callable[[Any], Array]
    """``belief -> ()``: the expected rate of change."""


class _Switching(NamedTuple):
    log_weight: Array
    """The log-probability of each rate, ``[H]``."""
    probability: Array
    """The probability of each success probability of each arm, given the rate, ``[H, K, V]``."""


def switching_filter(arms: int, grid: np.ndarray) -> Filter:
    """Make the filter of switching arms for a grid of rates ``[H]``."""
    values, rate = jnp.asarray(VALUES, jnp.float32), jnp.asarray(grid, jnp.float32)
    uniform = jnp.full((len(grid), arms, len(VALUES)), 1 / len(VALUES), jnp.float32)

    def observe(belief: _Switching, arm: Array, reward: Array) -> _Switching:
        joint = belief.probability[:, arm] * jnp.where(reward > 0.5, values, 1 - values)
        evidence = jnp.sum(joint, axis=-1)
        probability = belief.probability.at[:, arm].set(joint / evidence[:, None])
        switch = rate[:, None, None]
        log_weight = jax.nn.log_softmax(belief.log_weight + jnp.log(evidence))
        return _Switching(log_weight, (1 - switch) * probability + switch * uniform)

    def means(belief: _Switching) -> Array:
        return jnp.einsum("h,hkv,v->k", jnp.exp(belief.log_weight), belief.probability, values)

    def sample(key: Key, belief: _Switching) -> Array:
        key_rate, key_value = jax.random.split(key)
        probability = belief.probability[jax.random.categorical(key_rate, belief.log_weight)]
        return values[jax.random.categorical(key_value, jnp.log(probability))]

    def outcomes(belief: _Switching, arm: Array) -> tuple[Array, Array]:
        mean = means(belief)[arm]
        return jnp.array([0.0, 1.0], jnp.float32), jnp.stack([1 - mean, mean])

    prior = _Switching(jnp.full(len(grid), -np.log(len(grid)), jnp.float32), uniform)
    return Filter(prior, observe, means, sample, outcomes, lambda belief: jnp.sum(jnp.exp(belief.log_weight) * rate))


class _Drifting(NamedTuple):
    log_weight: Array
    """The log-probability of each rate, ``[H]``."""
    mean: Array
    """The mean of the vector u, given the rate, ``[H, D]``."""
    covariance: Array
    """Its covariance, ``[H, D, D]``."""


_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)


def drifting_filter(drift: Drift, grid: np.ndarray) -> Filter:
    """Make the filter of drifting arms for a grid of rates ``[H]``.

    ``outcomes`` has five nodes of a normal distribution, which has the mean and the variance of the prediction.
    """
    features, quality = jnp.asarray(drift.features, jnp.float32), jnp.asarray(drift.quality, jnp.float32)
    rate = jnp.asarray(grid, jnp.float32)
    size = features.shape[1]
    identity = jnp.eye(size, dtype=jnp.float32)

    def predicted(belief: _Drifting, arm: Array) -> tuple[Array, Array]:
        """Return the mean and the variance of the reward of a pull given each rate, ``[H]``."""
        direction = features[arm]
        variance = jnp.einsum("d,hde,e->h", direction, belief.covariance, direction) + drift.noise**2
        return quality[arm] + belief.mean @ direction, variance

    def observe(belief: _Drifting, arm: Array, reward: Array) -> _Drifting:
        mean, variance = predicted(belief, arm)
        covered = belief.covariance @ features[arm]
        surprise = reward - mean
        likelihood = -0.5 * (surprise**2 / variance + jnp.log(variance))
        posterior = belief.mean + covered * (surprise / variance)[:, None]
        covariance = belief.covariance - covered[:, :, None] * covered[:, None] / variance[:, None, None]
        keep = 1 - rate
        return _Drifting(
            jax.nn.log_softmax(belief.log_weight + likelihood),
            keep[:, None] * posterior,
            (keep**2)[:, None, None] * covariance + (1 - keep**2)[:, None, None] * identity,
        )

    def means(belief: _Drifting) -> Array:
        return quality + features @ (jnp.exp(belief.log_weight) @ belief.mean)

    def sample(key: Key, belief: _Drifting) -> Array:
        key_rate, key_vector = jax.random.split(key)
        chosen = jax.random.categorical(key_rate, belief.log_weight)
        root = jnp.linalg.cholesky(belief.covariance[chosen])
        vector = belief.mean[chosen] + root @ jax.random.normal(key_vector, (size,), jnp.float32)
        return quality + features @ vector

    def outcomes(belief: _Drifting, arm: Array) -> tuple[Array, Array]:
        weight = jnp.exp(belief.log_weight)
        mean, variance = predicted(belief, arm)
        centre = jnp.sum(weight * mean)
        spread = jnp.sqrt(jnp.sum(weight * (variance + (mean - centre) ** 2)))
        nodes, probability = jnp.asarray(_NODES, jnp.float32), jnp.asarray(_NODE_WEIGHTS, jnp.float32)
        return centre + spread * nodes, probability / jnp.sum(probability)

    prior = _Drifting(
        jnp.full(len(grid), -np.log(len(grid)), jnp.float32),
        jnp.zeros((len(grid), size), jnp.float32),
        jnp.tile(identity, (len(grid), 1, 1)),
    )
    return Filter(prior, observe, means, sample, outcomes, lambda belief: jnp.sum(jnp.exp(belief.log_weight) * rate))


def exact_filter(family: EnvFamily) -> Filter:
    """Make the filter of a family, with the distribution of training tasks as its prior."""
    env = _environment(family)
    return switching_filter(env.arms, rates()) if env.drift is None else drifting_filter(env.drift, rates())


def _with_filter(
    name: str, family: EnvFamily, episodes: int, choose: Callable[[Key, Filter, Any, Array], Array]
) -> Oracle:
    """Make an oracle that pulls the arm ``choose(key, filter, belief, number of remaining pulls)``."""
    _environment(family)
    episodes, filter_of_family = positive_int("episodes", episodes), at_first_use(lambda: exact_filter(family))

    def run(key: Key, task: Course) -> tuple[Carry, Transition]:
        inference = filter_of_family()

        def act(key: Key, memory: tuple[Any, Array], inputs: Inputs) -> tuple[Any, Array, tuple[()]]:
            belief, time = memory
            after = inference.observe(belief, inputs.prev_action, inputs.prev_reward)
            first = jnp.logical_or(inputs.first, inputs.prev_done > 0.5)
            time = jnp.where(first, 0, time + 1)
            belief = jax.tree.map(lambda new, prior: jnp.where(first, prior, new), after, inference.prior)
            arm = choose(key, inference, belief, family.horizon - time)
            return (belief, time), arm.astype(jnp.int32), ()

        return trial(key, act, (inference.prior, jnp.int32(0)), family, task, episodes)

    return of_trials(name, episodes, run)


def thompson(family: EnvFamily, episodes: int) -> Oracle:
    """Make Thompson sampling with the exact posterior.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _with_filter(
        "exact filter, Thompson sampling",
        family,
        episodes,
        lambda key, inference, belief, remaining: jnp.argmax(inference.sample(key, belief)),
    )


def _best(key: Key, value: Array) -> Array:
    """Return the index of the highest value; ties are broken at random."""
    return jnp.argmax(jnp.where(value == jnp.max(value), jax.random.uniform(key, value.shape, jnp.float32), -1.0))


def greedy(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that pulls the arm with the highest mean reward under the exact posterior.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _with_filter(
        "exact filter, greedy",
        family,
        episodes,
        lambda key, inference, belief, remaining: _best(key, inference.means(belief)),
    )


def knowledge_gradient(family: EnvFamily, episodes: int) -> Oracle:
    """Make the knowledge-gradient rule (Ryzhov et al. 2012) with the exact posterior.

    The value of an arm is its mean, plus the expected increase of the highest mean after one more pull of the arm times
    the number of remaining pulls. As the arms change, a pull that is n pulls ahead counts ``(1 - rate)^n``, with the
    expected rate.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    arms = _environment(family).arms

    def choose(key: Key, inference: Filter, belief: Any, remaining: Array) -> Array:
        def best_after(arm: Array) -> Array:
            rewards, probability = inference.outcomes(belief, arm)
            after = jax.vmap(inference.observe, (None, None, 0))(belief, arm, rewards)
            return jnp.sum(probability * jnp.max(jax.vmap(inference.means)(after), axis=1))

        best = jax.vmap(best_after)(jnp.arange(arms))
        rate = inference.rate(belief)
        pulls = (1 - (1 - rate) ** (remaining - 1)) / rate
        # The change that follows a pull lowers all means alike, so the least informative pull is the zero.
        return _best(key, inference.means(belief) + pulls * (best - jnp.min(best)))

    return _with_filter("exact filter, knowledge gradient", family, episodes, choose)


def best_arm(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that knows the course and always pulls the best arm.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    _environment(family)
    episodes = positive_int("episodes", episodes)

    def run(key: Key, task: Course) -> tuple[Carry, Transition]:
        def act(key: Key, time: Array, inputs: Inputs) -> tuple[Array, Array, tuple[()]]:
            time = jnp.where(jnp.logical_or(inputs.first, inputs.prev_done > 0.5), 0, time + 1)
            return time, jnp.argmax(task.means[time]).astype(jnp.int32), ()

        return trial(key, act, jnp.int32(0), family, task, episodes)

    return of_trials("best arm, course known", episodes, run)


class Statistics(NamedTuple):
    """The weighted statistics of the earlier pulls of an episode."""

    pulls: Array
    """The sum of the weights of each arm's pulls, ``[K]``."""
    total: Array
    """The weighted sum of each arm's rewards, ``[K]``."""


class History(NamedTuple):
    """The pulls of an episode so far."""

    arms: Array
    """``[T]`` int32."""
    rewards: Array
    """``[T]``."""
    time: Array
    """The number of pulls so far, ``int32``."""


def statistics(history: History, weights: Array, arms: int) -> Statistics:
    """Return the statistics of a history if the pull before the last n pulls has the weight ``weights[n]``, ``[T]``."""
    age = history.time - 1 - jnp.arange(len(history.arms))
    weight = jnp.where(age >= 0, weights[jnp.maximum(age, 0)], 0.0)
    of_arm = weight[:, None] * jax.nn.one_hot(history.arms, arms, dtype=jnp.float32)
    return Statistics(jnp.sum(of_arm, axis=0), history.rewards @ of_arm)


Choose: TypeAlias = Callable[[Key, Statistics, Array], Array]
"""The choice of an arm, ``(key, statistics, setting) -> arm``."""
LENGTHS = (2.0, 3.0, 5.0, 10.0, 20.0, 40.0)
"""The candidates for the length of a window, and for 1 / (1 - discount)."""


def _forgetting(
    name: str,
    family: EnvFamily,
    episodes: int,
    weights: Callable[[Array], Array],
    choose: Choose,
    candidates: tuple[float, ...],
) -> Oracle:
    """Make an oracle that chooses by weighted statistics, with the best settings on training tasks.

    Args:
        name: the name of the oracle.
        family: the family.
        episodes: the number of episodes.
        weights: the weights ``[T]`` of pulls by age, of a length from ``LENGTHS``.
        choose: chooses an arm. Its last argument is one of ``candidates``.
        candidates: the candidates for the setting of ``choose``.
    """
    arms, episodes = _environment(family).arms, positive_int("episodes", episodes)
    settings = np.array(list(itertools.product(LENGTHS, candidates)), np.float32)

    def play(key: Key, task: Course, setting: Array, episodes: int) -> tuple[Carry, Transition]:
        by_age = weights(setting[0])

        def act(key: Key, history: History, inputs: Inputs) -> tuple[History, Array, tuple[()]]:
            first = jnp.logical_or(inputs.first, inputs.prev_done > 0.5)
            time = jnp.where(first, 0, history.time + 1)
            last = jnp.maximum(time - 1, 0)
            history = History(
                history.arms.at[last].set(inputs.prev_action), history.rewards.at[last].set(inputs.prev_reward), time
            )
            return history, choose(key, statistics(history, by_age, arms), setting[1]).astype(jnp.int32), ()

        empty = History(jnp.zeros(family.horizon, jnp.int32), jnp.zeros(family.horizon, jnp.float32), jnp.int32(0))
        return trial(key, act, empty, family, task, episodes)

    def score(key: Key, setting: Array) -> Array:
        key_task, key_play = jax.random.split(key)
        task = family.tasks.sample(key_task)
        return episode_returns(play(key_play, task, setting, 1)[1], 1)[0]

    @at_first_use
    def chosen() -> Array:
        keys = jax.random.split(jax.random.key(0), TASKS)
        mean_score = jax.jit(lambda setting: jnp.mean(jax.vmap(score, (0, None))(keys, setting)))
        return jnp.asarray(settings[np.argmax([float(mean_score(setting)) for setting in settings])])

    return of_trials(name, episodes, lambda key, task: play(key, task, chosen(), episodes))


def _discounted(horizon: int) -> Callable[[Array], Array]:
    return lambda length: (1 - 1 / length) ** jnp.arange(horizon, dtype=jnp.float32)


def _window(horizon: int) -> Callable[[Array], Array]:
    return lambda length: (jnp.arange(horizon) < length).astype(jnp.float32)


EXPLORATION = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""The candidates for the factor of the width of confidence bounds. Zero is the greedy choice."""


def _upper_bound(prior_mean: Array) -> Choose:
    """Make the choice of the highest upper confidence bound.

    One imaginary pull of each arm with its average reward comes in addition. It stands for the first pull of every arm
    of the original, which takes long if there are many arms.
    """

    def choose(key: Key, seen: Statistics, exploration: Array) -> Array:
        pulls = seen.pulls + 1
        width = jnp.sqrt(jnp.log(jnp.sum(pulls)) / pulls)
        return _best(key, (seen.total + prior_mean) / pulls + exploration * width)

    return choose


def _prior_mean(family: EnvFamily) -> Array:
    env = _environment(family)
    quality = np.full(env.arms, np.mean(VALUES)) if env.drift is None else env.drift.quality
    return jnp.asarray(quality, jnp.float32)


def discounted_ucb(family: EnvFamily, episodes: int) -> Oracle:
    """Make discounted UCB (Garivier and Moulines 2011), whose discount and exploration are chosen on training tasks.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    choose = _upper_bound(_prior_mean(family))
    return _forgetting("discounted UCB", family, episodes, _discounted(family.horizon), choose, EXPLORATION)


def sliding_window_ucb(family: EnvFamily, episodes: int) -> Oracle:
    """Make sliding-window UCB (Garivier and Moulines 2011), whose window and exploration are chosen on training tasks.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    choose = _upper_bound(_prior_mean(family))
    return _forgetting("sliding-window UCB", family, episodes, _window(family.horizon), choose, EXPLORATION)


SPREADS = (0.0, 0.125, 0.25, 0.5, 1.0)
"""The candidates for the factor of the spread of the draws of Thompson sampling. Zero is the greedy choice."""


def discounted_thompson(family: EnvFamily, episodes: int) -> Oracle:
    """Make discounted Thompson sampling (Raj and Kalyani 2017), whose discount is chosen on training tasks.

    The prior of an arm is uniform for rewards of 0 and 1, and otherwise the normal distribution of its mean reward over
    tasks. The weights of earlier pulls in the posterior are discounted. A factor of the spread of the draws is chosen
    as well; it is 1 in the original.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    drift = _environment(family).drift

    def choose(key: Key, seen: Statistics, factor: Array) -> Array:
        if drift is None:
            wins, losses = 1 + seen.total, 1 + seen.pulls - seen.total
            mean = wins / (wins + losses)
            return jnp.argmax(mean + factor * (beta(key, wins, losses) - mean))
        variance = jnp.asarray(np.sum(drift.features**2, axis=1), jnp.float32)
        precision = 1 / variance + seen.pulls / drift.noise**2
        mean = (jnp.asarray(drift.quality, jnp.float32) / variance + seen.total / drift.noise**2) / precision
        return jnp.argmax(mean + factor * jax.random.normal(key, mean.shape, jnp.float32) * jax.lax.rsqrt(precision))

    weights = _discounted(family.horizon)
    return _forgetting("discounted Thompson sampling", family, episodes, weights, choose, SPREADS)


LINEAR_EXPLORATION = (0.0, 0.25, 0.5, 1.0, 2.0)
"""The candidates for the factor of the width of the confidence bounds of LinUCB. Zero is the greedy choice."""


def discounted_linear_ucb(family: EnvFamily, episodes: int) -> Oracle:
    """Make discounted LinUCB for drifting arms, whose discount and exploration are chosen on training tasks.

    The learner knows the features and the quality of each arm and the noise, but not how the vector u changes. It
    estimates u by ridge regression, in which the weights of earlier pulls are discounted (Russac et al. 2019), and
    pulls the arm with the highest upper confidence bound. The ridge penalty is the variance of the noise, because u has
    N(0, 1) entries. As in LinUCB (Li et al. 2010), the matrix of the ridge regression also gives the width of the
    bounds.

    Raises:
        ValueError: if the family is another one, its arms do not drift, or ``episodes`` is not a positive whole number.
    """
    drift = _environment(family).drift
    if drift is None:
        raise ValueError("family must have drifting arms (environments.changing.drifting or interests), not switching")
    features, quality = jnp.asarray(drift.features, jnp.float32), jnp.asarray(drift.quality, jnp.float32)
    penalty = drift.noise**2 * jnp.eye(features.shape[1], dtype=jnp.float32)

    def choose(key: Key, seen: Statistics, exploration: Array) -> Array:
        gram = penalty + features.T * seen.pulls @ features
        estimate = jnp.linalg.solve(gram, (seen.total - seen.pulls * quality) @ features)
        width = jnp.sqrt(jnp.sum(features.T * jnp.linalg.solve(gram, features.T), axis=0))
        return _best(key, quality + features @ estimate + exploration * width)

    weights = _discounted(family.horizon)
    return _forgetting("discounted LinUCB", family, episodes, weights, choose, LINEAR_EXPLORATION)
