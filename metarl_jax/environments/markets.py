"""Portfolio choice in one market: a share of the wealth is invested in a risky asset, and the rest is cash.

These markets are a model for the study of learning. They are not advice, and promise no profit in any real market.

A task is a market. The log returns r of its asset are a stationary first-order autoregression: ``r' = drift +
autocorrelation * (r - drift) + volatility * e`` with e ~ N(0, 1). With a negative autocorrelation a return above the
drift tends to be followed by one below it (mean reversion), and with a positive one by another one above it. All three
numbers are unknown to the learner.

An action is the share w of the wealth that is invested for the next step. It may be negative (a short position) or
above 1 (borrowed cash); cash and loans have no interest. A trade of the share d of the wealth costs ``cost * |d|``. The
investment multiplies the wealth by ``1 + w (exp(r) - 1)``. If this factor is at most ``FLOOR``, it is replaced by
``FLOOR``, and the broker closes the position without costs, so that only cash is left. The reward is the change of the
log wealth, so the return of an episode is the logarithm of its growth. Returns of the asset do not depend on actions.
An episode begins with cash only.

The observation is the last log return in units of ``scale``, the current invested share of the wealth, and the time
from -1 at the start to 1 at the end of an episode.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import boolean, positive_int, positive_number, real
from metarl_jax.environments.base import Environment, random_signs
from metarl_jax.environments.drawing import SIZE, Frame, blank, of_episode
from metarl_jax.types import Array, Box, EnvFamily, Key, Privileged, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image

FLOOR = 0.05
"""The smallest factor by which one step multiplies the wealth, before costs."""
LARGEST_AUTOCORRELATION = 0.95
"""The largest absolute value of an autocorrelation."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@struct.dataclass
class Market:
    """A task: a market with one risky asset."""

    drift: Array
    """The mean log return of a step."""
    volatility: Array
    """The standard deviation of a log return, given the return before it."""
    autocorrelation: Array
    """The correlation of consecutive log returns, between -1 and 1."""
    max_steps_in_episode: int
    """The number of steps of an episode."""

    def expected(self, log_return: Array) -> Array:
        """Return the expectation of the next log return ``[...]``, given the last log return ``[...]``."""
        return self.drift + self.autocorrelation * (log_return - self.drift)

    @property
    def spread(self) -> Array:
        """The standard deviation of a log return if the return before it is not known."""
        return self.volatility * jax.lax.rsqrt(1 - self.autocorrelation**2)


@struct.dataclass
class MarketState:
    """The state of an episode."""

    log_return: Array
    """The last log return of the asset."""
    weight: Array
    """The share of the wealth that is invested."""
    time: Array
    """The number of steps in this episode, ``int32``."""


def growth(weight: Array, log_return: Array) -> Array:
    """Return the change of the log wealth, without costs.

    Args:
        weight: the invested share of the wealth, ``[...]``.
        log_return: the log return of the asset, ``[...]``.
    """
    return jnp.log(jnp.maximum(1 + weight * jnp.expm1(log_return), FLOOR))


def expected_growth(weight: Array, mean: Array, deviation: Array) -> Array:
    """Return the expected change of the log wealth, without costs, by Gauss-Hermite quadrature of 15 nodes.

    Args:
        weight: the invested share of the wealth, ``[...]``.
        mean: the mean of the log return, ``[...]``, which is normally distributed.
        deviation: its standard deviation, ``[...]``.
    """
    nodes, weights = jnp.asarray(_NODES, jnp.float32), jnp.asarray(_WEIGHTS, jnp.float32)
    weight, mean, deviation = (jnp.asarray(x)[..., None] for x in (weight, mean, deviation))
    return jnp.sum(weights * growth(weight, mean + deviation * nodes), axis=-1)


def held(weight: Array, log_return: Array) -> Array:
    """Return the invested share of the wealth after a log return, if nothing is traded.

    The share is 0 if the factor of the wealth is at most ``FLOOR``, because the broker has closed the position.

    Args:
        weight: the share before the return, ``[...]``.
        log_return: the log return, ``[...]``.
    """
    factor = 1 + weight * jnp.expm1(log_return)
    return jnp.where(factor > FLOOR, weight * jnp.exp(log_return) / jnp.maximum(factor, FLOOR), 0.0)


class Portfolio(Environment):
    """A portfolio of one risky asset and cash.

    Args:
        lowest_weight: the smallest share of the wealth that may be invested.
        highest_weight: the largest share.
        cost: the costs of a trade as a share of the traded amount.
        scale: the unit of observed log returns.
    """

    caption = "Blue: log price of the asset; green: log wealth; grey bars: invested share of the wealth."

    def __init__(self, lowest_weight: float, highest_weight: float, cost: float, scale: float) -> None:
        self.lowest_weight = lowest_weight
        self.highest_weight = highest_weight
        self.cost = cost
        self.scale = scale

    def _observe(self, state: MarketState, params: Market) -> Array:
        progress = 2 * state.time.astype(jnp.float32) / params.max_steps_in_episode - 1
        # A share after a fall of the price can be large.
        weight = jnp.clip(state.weight, 2 * self.lowest_weight - 1, 2 * self.highest_weight + 1)
        return jnp.stack([state.log_return / self.scale, weight, progress]).astype(jnp.float32)

    def log_return(self, observation: Array) -> Array:
        """Return the last log return that an observation ``[..., 3]`` shows."""
        return observation[..., 0] * self.scale

    def traded(self, weight: Array, target: Array) -> Array:
        """Return the change of the log wealth by the costs of a trade.

        Args:
            weight: the invested share of the wealth before the trade, ``[...]``.
            target: the share after it.
        """
        return jnp.log(jnp.maximum(1 - self.cost * jnp.abs(target - weight), FLOOR))

    def reset_env(self, key: Key, params: Market) -> tuple[Array, MarketState]:
        first = params.drift + params.spread * jax.random.normal(key, dtype=jnp.float32)
        state = MarketState(first, jnp.float32(0), jnp.int32(0))
        return self._observe(state, params), state

    def step_env(
        self, key: Key, state: MarketState, action: Array, params: Market
    ) -> tuple[Array, MarketState, Array, Array, dict[Any, Any]]:
        weight = jnp.clip(action[0], self.lowest_weight, self.highest_weight)
        noise = params.volatility * jax.random.normal(key, dtype=jnp.float32)
        log_return = params.expected(state.log_return) + noise
        reward = self.traded(state.weight, weight) + growth(weight, log_return)
        after = MarketState(log_return, held(weight, log_return), state.time + 1)
        return self._observe(after, params), after, reward, jnp.bool_(False), {}

    def action_space(self, params: Market | None = None) -> Box:
        del params
        return Box(self.lowest_weight, self.highest_weight, (1,))

    def observation_space(self, params: Market | None = None) -> Box:
        del params
        return Box(-jnp.inf, jnp.inf, (3,))

    def draw(self, frames: Sequence[Frame], task: Market) -> Image:
        """Draw prices, wealth and invested shares of the episode so far (``drawing.Drawable``)."""
        steps = int(task.max_steps_in_episode)
        picture, canvas = blank()
        shown = of_episode(frames)
        price = np.cumsum([0.0, *(float(frame.observation[0]) * self.scale for frame in shown[1:])])
        wealth = np.array([frame.total for frame in shown])
        reach = 1.1 * max(0.5, float(np.abs(price).max()), float(np.abs(wealth).max()))
        bars, zero = 0.75 * SIZE, 0.9 * SIZE

        def points(values: np.ndarray) -> list[tuple[float, float]]:
            return [(i * SIZE / steps, bars / 2 * (1 - value / reach)) for i, value in enumerate(values)]

        canvas.line([(0, bars / 2), (SIZE, bars / 2)], fill="lightgrey")
        for i, frame in enumerate(shown[1:]):
            assert frame.action is not None
            weight = float(np.clip(frame.action[0], self.lowest_weight, self.highest_weight))
            top = zero - 0.07 * SIZE * weight
            canvas.rectangle((i * SIZE / steps, min(zero, top), (i + 0.8) * SIZE / steps, max(zero, top)), fill="grey")
        for values, colour in ((price, "royalblue"), (wealth, "green")):
            if len(values) > 1:
                canvas.line(points(values), fill=colour, width=3)
        return picture


def _family(env: Portfolio, tasks: TaskDistribution, horizon: int) -> EnvFamily:
    def expected_rewards(task: Market, t: Transition, discount: float) -> Array:
        """Compute the expected reward of each action, given the last return and the market."""
        del discount
        weight = jnp.clip(t.action[:, 0], env.lowest_weight, env.highest_weight)
        mean = task.expected(env.log_return(t.inputs.obs))
        return env.traded(t.inputs.obs[:, 1], weight) + expected_growth(weight, mean, task.volatility)

    return EnvFamily(
        env=env,
        tasks=tasks,
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        privileged=Privileged(training_reward=expected_rewards),
    )


def _environment(lowest_weight: float, highest_weight: float, cost: float, scale: float) -> Portfolio:
    lowest_weight = real(at_most=0)("lowest_weight", lowest_weight)
    highest_weight = positive_number("highest_weight", highest_weight)
    return Portfolio(lowest_weight, highest_weight, real(at_least=0, below=0.1)("cost", cost), scale)


def autoregressive(
    horizon: int = 20,
    *,
    drift: float = 0.01,
    drift_range: float = 0.04,
    lowest_volatility: float = 0.08,
    highest_volatility: float = 0.2,
    autocorrelation_range: float = 0.4,
    lowest_weight: float = -1.0,
    highest_weight: float = 2.0,
    cost: float = 0.001,
    shifted: bool = False,
) -> EnvFamily:
    """Make a family of markets with random drift, volatility and autocorrelation of log returns.

    The three numbers of a task are independent and uniform in their ranges. With the defaults, the volatility of a step
    is about that of a single share in a quarter of a year. If ``shifted`` is true, all three numbers of a held-out
    market are outside of the training ranges. The distance of the drift from its centre, the volatility, and the
    absolute value of the autocorrelation are 1 to 1.5 times the largest ones of training. An autocorrelation is at most
    ``LARGEST_AUTOCORRELATION``.

    Training can use expected instead of observed rewards (``EnvFamily.privileged``), which have less noise.

    Args:
        horizon: The number of steps of an episode.
        drift: The centre of the range of drifts.
        drift_range: The largest distance of a drift from the centre.
        lowest_volatility: The lowest volatility of training markets.
        highest_volatility: The highest volatility of training markets.
        autocorrelation_range: The largest absolute value of an autocorrelation.
        lowest_weight: The smallest share of the wealth that may be invested; negative for short positions.
        highest_weight: The largest share of the wealth that may be invested.
        cost: The costs of a trade as a share of the traded amount.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.markets.autoregressive()
        >>> family.horizon, family.observation_space.shape
        (20, (3,))
    """
    horizon, shifted = positive_int("horizon", horizon), boolean("shifted", shifted)
    drift, drift_range = real()("drift", drift), positive_number("drift_range", drift_range)
    lowest_volatility = positive_number("lowest_volatility", lowest_volatility)
    highest_volatility = real(at_least=lowest_volatility)("highest_volatility", highest_volatility)
    bound = real(above=0, at_most=LARGEST_AUTOCORRELATION)("autocorrelation_range", autocorrelation_range)
    env = _environment(lowest_weight, highest_weight, cost, highest_volatility)

    def sample(key: Key) -> Market:
        keys = jax.random.split(key, 3)
        return Market(
            drift + drift_range * jax.random.uniform(keys[0], (), jnp.float32, -1, 1),
            jax.random.uniform(keys[1], (), jnp.float32, lowest_volatility, highest_volatility),
            jax.random.uniform(keys[2], (), jnp.float32, -bound, bound),
            horizon,
        )

    def outside(key: Key) -> Market:
        key_size, key_sign = jax.random.split(key)
        factor = jax.random.uniform(key_size, (3,), jnp.float32, 1, 1.5)
        sign = random_signs(key_sign, (2,))
        return Market(
            drift + drift_range * sign[0] * factor[0],
            highest_volatility * factor[1],
            jnp.clip(bound * sign[1] * factor[2], -LARGEST_AUTOCORRELATION, LARGEST_AUTOCORRELATION),
            horizon,
        )

    return _family(env, TaskDistribution(sample, outside if shifted else sample), horizon)


def read_prices(path: str | Path) -> np.ndarray:
    """Read a CSV file of the prices of one asset.

    The first line of the file names its columns. The columns ``date`` (such as 2024-03-28) and ``price`` (or ``adj
    close``, ``close``) are read. Dates must ascend.

    Args:
        path: the path of the file, which is UTF-8 text.

    Returns:
        The prices in the order of their dates, ``[N]`` float64.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not UTF-8 text, has no such column, has no rows, or has a row without a date after
            the one before it and a positive price.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of prices {path}")
    prices: list[float] = []
    before: datetime.date | None = None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            named = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
            columns = []
            for choices in (("date",), ("price", "adj close", "close")):
                column = next((named[choice] for choice in choices if choice in named), None)
                if column is None:
                    raise ValueError(
                        f"{path} has no column {' or '.join(choices)}; it has {', '.join(map(repr, named)) or 'none'}"
                    )
                columns.append(column)
            for row in rows:
                day, text = (row[column] for column in columns)
                try:
                    date, price = datetime.date.fromisoformat((day or "").strip()), float(text or "")
                except ValueError:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: {text!r} is not a price on a date such as 2024-03-28 ({day!r})"
                    ) from None
                if not (np.isfinite(price) and price > 0):
                    raise ValueError(f"{path}, line {rows.line_num}: a price must be a number above 0, not {text!r}")
                if before is not None and date <= before:
                    raise ValueError(f"{path}, line {rows.line_num}: {date} is not after the date before it, {before}")
                before = date
                prices.append(price)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from None
    if not prices:
        raise ValueError(f"{path} has no prices")
    return np.array(prices)


def fit(log_returns: np.ndarray) -> tuple[float, float, float]:
    """Fit a market to log returns by least squares.

    Args:
        log_returns: consecutive log returns, ``[N]``.

    Returns:
        The drift, which is the mean log return; the volatility; and the autocorrelation, which is at most
        ``LARGEST_AUTOCORRELATION`` in absolute value. The volatility is zero if all returns are equal.
    """
    drift = float(np.mean(log_returns))
    before, after = log_returns[:-1] - drift, log_returns[1:] - drift
    square = float(before @ before)
    slope = float(before @ after) / square if square > 0 else 0.0
    slope = float(np.clip(slope, -LARGEST_AUTOCORRELATION, LARGEST_AUTOCORRELATION))
    return drift, float(np.sqrt(np.mean((after - slope * before) ** 2))), slope


def from_prices(
    path: str | Path,
    *,
    horizon: int = 20,
    window: int = 60,
    heldout: float = 0.3,
    lowest_weight: float = -1.0,
    highest_weight: float = 2.0,
    cost: float = 0.001,
) -> EnvFamily:
    """Make a family whose tasks are markets that were fitted to windows of a file of prices.

    A task is the fit (``fit``) to consecutive returns of the file, and episodes are simulated from it. The windows of
    held-out tasks lie after those of training tasks, and do not overlap them. Validation tasks are training tasks,
    because a file has no other ones. Real returns have heavier tails, and their distribution changes over time.

    Args:
        path: The path of a CSV file (see ``read_prices``).
        horizon: The number of steps of an episode.
        window: The number of returns of a window, at least 10.
        heldout: The share of the returns that is held out; these are the last ones.
        lowest_weight: The smallest share of the wealth that may be invested; negative for short positions.
        highest_weight: The largest share of the wealth that may be invested.
        cost: The costs of a trade as a share of the traded amount.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a setting is out of range, or the file cannot be read, is too short, or has a window of constant
            growth.
    """
    horizon, window = positive_int("horizon", horizon), positive_int("window", window)
    if window < 10:
        raise ValueError(f"window must be at least 10, not {window}")
    heldout = real(above=0, below=1)("heldout", heldout)
    log_returns = np.diff(np.log(read_prices(path)))
    split = round((1 - heldout) * len(log_returns))
    if min(split, len(log_returns) - split) < window:
        raise ValueError(
            f"{path} has {len(log_returns) + 1} prices: for windows of {window} returns and a held-out share of "
            f"{heldout:g}, at least {int(np.ceil(window / min(heldout, 1 - heldout))) + 2} are needed"
        )
    env = _environment(lowest_weight, highest_weight, cost, float(np.std(log_returns)) or 1.0)

    def among(part: np.ndarray) -> tuple[Any, Market]:
        fits = np.array([fit(part[i : i + window]) for i in range(len(part) - window + 1)])
        if np.any(fits[:, 1] < 1e-8):
            raise ValueError(f"{path} has a window of {window} returns without any variation")
        drift, volatility, autocorrelation = jnp.asarray(fits.T, jnp.float32)
        steps: Any = jnp.full(len(fits), horizon, jnp.int32)
        markets = Market(drift, volatility, autocorrelation, steps)

        def draw(key: Key) -> Market:
            return jax.tree.map(lambda x: x[jax.random.randint(key, (), 0, len(fits), jnp.int32)], markets)

        return draw, markets

    train, test = among(log_returns[:split]), among(log_returns[split:])
    return _family(env, TaskDistribution(train[0], test[0], None, train[1]), horizon)
