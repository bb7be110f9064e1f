"""Investors without meta-learning, as reference learners for ``environments.markets``.

Kelly's rule invests the share of the wealth that maximises the expected logarithm of the wealth after the next step
(Kelly 1956; Merton 1969 in continuous time). The log return of a step is taken as N(m, v). The rule subtracts the costs
of the trade from the expected log wealth, so it does not trade for a small gain. Without costs it is the optimal policy
for known m and v, because actions do not change later returns. The first terms of the optimum are ``m / v + 1 / 2``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.environments.markets import FLOOR, LARGEST_AUTOCORRELATION, Market, Portfolio, expected_growth, held
from metarl_jax.oracles.base import of_trials
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key, Oracle, Task, Transition

CHOICES = 61
"""The number of shares of the wealth among which Kelly's rule chooses; they are equally spaced."""
MARKETS = 4096
"""The number of training markets that are the prior."""


class Returns(NamedTuple):
    """The consecutive pairs of log returns of a trial, as sums; an episode has no pair with the episode before it."""

    number: Array
    """The number n of pairs (x, y)."""
    x: Array
    """The sum of x, the earlier returns."""
    y: Array
    """The sum of y, the later returns."""
    xx: Array
    """The sum of x squared."""
    xy: Array
    """The sum of the products."""
    yy: Array
    """The sum of y squared."""
    starts: Array
    """The number of first returns of episodes, which have no earlier return."""
    start: Array
    """The sum of these first returns."""
    start_square: Array
    """The sum of the squares of these first returns."""
    last: Array
    """The last return."""

    def add(self, log_return: Array, begins: Array) -> Returns:
        """Return the sums with one more return.

        Args:
            log_return: the return.
            begins: whether it is the first return of an episode.
        """
        x, y = self.last, log_return
        start = begins.astype(jnp.float32)
        pair = 1 - start
        return Returns(
            self.number + pair,
            self.x + pair * x,
            self.y + pair * y,
            self.xx + pair * x * x,
            self.xy + pair * x * y,
            self.yy + pair * y * y,
            self.starts + start,
            self.start + start * y,
            self.start_square + start * y * y,
            y,
        )


def no_returns() -> Returns:
    """Return the sums of no returns."""
    return Returns(*([jnp.float32(0)] * len(Returns._fields)))


def log_likelihood(returns: Returns, market: Market) -> Array:
    """Return the log-likelihood of returns in each of some markets ``[...]``, up to a constant.

    First returns of episodes have the stationary distribution.
    """
    slope, n = market.autocorrelation, returns.number
    level = market.drift * (1 - slope)
    # The sum of (y - level - slope x)^2 over pairs.
    squares = returns.yy + slope**2 * returns.xx + n * level**2
    squares = squares - 2 * slope * returns.xy - 2 * level * returns.y + 2 * level * slope * returns.x
    starts = returns.start_square - 2 * market.drift * returns.start + returns.starts * market.drift**2
    variance = market.volatility**2
    fit = -0.5 * (squares + starts * (1 - slope**2)) / variance
    return fit - 0.5 * (n + returns.starts) * jnp.log(variance) + 0.5 * returns.starts * jnp.log1p(-(slope**2))


def _environment(family: EnvFamily) -> Portfolio:
    if not isinstance(family.env, Portfolio):
        raise ValueError(f"family must be one of environments.markets, not one of {type(family.env).__name__}")
    return family.env


class _Memory(NamedTuple):
    """The memory of an investor within a trial."""

    returns: Returns
    """The returns of the trial."""
    weight: Array
    """The share of the wealth that was invested before the last trade."""
    target: Array
    """The share after the last trade."""


def revealed(env: Portfolio, weight: Array, target: Array, reward: Array) -> tuple[Array, Array]:
    """Return the log return of the asset that a reward reveals.

    Args:
        env: the environment, with the costs.
        weight: the invested share of the wealth before the trade of the step.
        target: the share after the trade.
        reward: the reward of the step.

    Returns:
        The log return; and whether the reward reveals it. A reward without an investment does not, and neither does one
        after which the broker closed the position.
    """
    gain = jnp.expm1(reward - env.traded(weight, target))
    # Rounding errors of the reward are divided by the share.
    known = (jnp.abs(target) > 1e-3) & (1 + gain > 1.001 * FLOOR)
    price = 1 + gain / jnp.where(known, target, 1.0)
    known = known & (price > 0)
    return jnp.log(jnp.where(known, price, 1.0)), known


def _choices(env: Portfolio) -> Array:
    return jnp.asarray(np.linspace(env.lowest_weight, env.highest_weight, CHOICES), jnp.float32)


def kelly(env: Portfolio, mean: Array, variance: Array, weight: Array) -> Array:
    """Return the share of the wealth that Kelly's rule invests.

    Args:
        env: the environment, with the range of shares and the costs.
        mean: the mean of the next log return.
        variance: its variance.
        weight: the share of the wealth that is invested now.
    """
    # Without a trade there are no costs, so the current share is one of the choices.
    now = jnp.clip(weight, env.lowest_weight, env.highest_weight)
    choices = jnp.concatenate([_choices(env), now[None]])
    value = expected_growth(choices, mean, jnp.sqrt(variance)) + env.traded(weight, choices)
    return choices[jnp.argmax(value)]


def _make(name: str, family: EnvFamily, episodes: int, choose: Callable[[Returns, Array, Market], Array]) -> Oracle:
    """Make an oracle that invests ``choose(returns of the trial, share that is invested now, task)``.

    The observations of a trial lack the last return of each episode, which the reward reveals (``revealed``).
    """
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def run(key: Key, task: Task) -> tuple[Carry, Transition]:
        def act(key: Key, memory: _Memory, inputs: Inputs) -> tuple[_Memory, Array, tuple[()]]:
            del key
            after_end = jnp.logical_and(jnp.logical_not(inputs.first), inputs.prev_done > 0)
            end, known = revealed(env, memory.weight, memory.target, inputs.prev_reward)
            before, known = memory.returns, jnp.logical_and(after_end, known)
            with_end = before.add(end, jnp.bool_(False))
            returns = jax.tree.map(lambda new, old: jnp.where(known, new, old), with_end, before)
            returns = returns.add(env.log_return(inputs.obs), jnp.logical_or(inputs.first, after_end))
            weight = inputs.obs[1]
            target = choose(returns, weight, task)
            return _Memory(returns, weight, target), target[None], ()

        start = _Memory(no_returns(), jnp.float32(0), jnp.float32(0))
        return trial(key, act, start, family, task, episodes)

    return of_trials(name, episodes, run)


def buy_and_hold(family: EnvFamily, episodes: int) -> Oracle:
    """Make an investor who buys the asset with the whole wealth at the start of each episode, and trades no more.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env = _environment(family)
    most = min(1.0, env.highest_weight)
    return _make("buy and hold", family, episodes, lambda returns, weight, task: jnp.full_like(weight, most))


def best_fraction(family: EnvFamily) -> Array:
    """Compute the share of the wealth that, if it is kept all the time, has the highest expected growth on training
    markets.

    The expectation is over ``MARKETS`` training markets. Costs are those of trading back to the share at each step.

    Raises:
        ValueError: if the family is another one.
    """
    env = _environment(family)
    markets = _training_markets(family)
    nodes, probabilities = np.polynomial.hermite_e.hermegauss(15)
    nodes, probabilities = (
        jnp.asarray(nodes, jnp.float32),
        jnp.asarray(probabilities / probabilities.sum(), jnp.float32),
    )

    def value(weight: Array) -> Array:
        returns = markets.drift[:, None] + markets.spread[:, None] * nodes
        costs = jnp.sum(probabilities * env.traded(held(weight, returns), weight), axis=-1)
        return jnp.mean(expected_growth(weight, markets.drift, markets.spread) + costs)

    choices = _choices(env)
    return choices[jnp.argmax(jax.jit(lambda choices: jax.lax.map(value, choices))(choices))]


def fixed_fraction(family: EnvFamily, episodes: int) -> Oracle:
    """Make an investor who always keeps the same share of the wealth invested, the best one for training markets.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    best = best_fraction(family)
    return _make("best fixed fraction", family, episodes, lambda returns, weight, task: best)


def estimated(family: EnvFamily, episodes: int) -> Oracle:
    """Make Kelly's rule with moments that are estimated from the returns of the trial, by least squares.

    The estimate uses no knowledge of training markets, except that the investor keeps the best fixed share until there
    are five pairs of consecutive returns.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env, best = _environment(family), best_fraction(family)

    def choose(returns: Returns, weight: Array, task: Market) -> Array:
        del task
        n = jnp.maximum(returns.number, 1)
        x, y = returns.x / n, returns.y / n
        square = jnp.maximum(returns.xx / n - x * x, 1e-9)
        slope = (returns.xy / n - x * y) / square
        slope = jnp.clip(slope, -LARGEST_AUTOCORRELATION, LARGEST_AUTOCORRELATION)
        residual = returns.yy / n - y * y - 2 * slope * (returns.xy / n - x * y) + slope**2 * square
        # Two coefficients are estimated.
        variance = jnp.maximum(residual, 1e-9) * n / jnp.maximum(n - 2, 1)
        mean = y + slope * (returns.last - x)
        return jnp.where(returns.number < 5, best, kelly(env, mean, variance, weight))

    return _make("Kelly, estimated by least squares", family, episodes, choose)


def _training_markets(family: EnvFamily) -> Market:
    return jax.jit(lambda key: family.tasks.sample_distinct(key, MARKETS))(jax.random.key(1))


def posterior(family: EnvFamily, episodes: int) -> Oracle:
    """Make Kelly's rule with the moments of the posterior predictive distribution of the next return.

    The prior is uniform on ``MARKETS`` training markets. Its posterior is given all returns that observations and
    rewards reveal; it does not use that a return was large if the broker closed the position at the end of an episode.
    The predictive distribution, a mixture of normal distributions, is replaced by the normal distribution with its mean
    and its variance. The rule is not Bayes-optimal, because it also ignores later steps: their costs depend on the
    position, and an investment at the end of an episode reveals the last return.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env, markets = _environment(family), _training_markets(family)

    def choose(returns: Returns, weight: Array, task: Market) -> Array:
        del task
        mean, variance = predictive(returns, markets)
        return kelly(env, mean, variance, weight)

    return _make("Kelly, posterior of the market", family, episodes, choose)


def predictive(returns: Returns, markets: Market) -> tuple[Array, Array]:
    """Return the mean and the variance of the next log return, given the returns of a trial.

    Args:
        returns: the returns of the trial.
        markets: the markets that are equally likely before the trial, ``[N]``.
    """
    probability = jax.nn.softmax(log_likelihood(returns, markets))
    expected = markets.expected(returns.last)
    mean = jnp.sum(probability * expected)
    return mean, jnp.sum(probability * (markets.volatility**2 + (expected - mean) ** 2))


def known(family: EnvFamily, episodes: int) -> Oracle:
    """Make Kelly's rule with the known drift, volatility and autocorrelation of the market.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    env = _environment(family)

    def choose(returns: Returns, weight: Array, task: Market) -> Array:
        return kelly(env, task.expected(returns.last), task.volatility**2, weight)

    return _make("Kelly, market known", family, episodes, choose)
