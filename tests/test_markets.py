"""Markets: the model of returns and wealth, files of prices, and investors without meta-learning."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, stats

from metarl_jax.environments import bandits, markets
from metarl_jax.environments.drawing import Frame
from metarl_jax.environments.markets import Market
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import markets as oracles
from metarl_jax.rollout import trial
from metarl_jax.types import EnvFamily, Inputs, Oracle, Transition


def market(drift: float = 0.02, volatility: float = 0.1, autocorrelation: float = -0.4, steps: int = 20) -> Market:
    return Market(jnp.float32(drift), jnp.float32(volatility), jnp.float32(autocorrelation), steps)


def random_trial(family: EnvFamily, task: Market, episodes: int, seed: int = 0) -> Transition:
    def act(key: jax.Array, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], jax.Array, tuple[()]]:
        del inputs
        return carry, jax.random.uniform(key, (1,), minval=-1.5, maxval=2.5), ()

    return trial(jax.random.key(seed), act, (), family, task, episodes)[1]


def test_wealth_is_that_of_an_account_of_cash_and_shares() -> None:
    family = markets.autoregressive(cost=0.01)
    assert isinstance(family.env, markets.Portfolio)
    steps = random_trial(family, market(), 2)
    returns = np.asarray(steps.final_obs[:, 0], np.float64) * family.env.scale
    price, cash, shares, begun = 1.0, 1.0, 0.0, 1.0
    for t in range(40):
        if t == 20:
            # Another episode begins with cash only.
            price, cash, shares, begun = 1.0, 1.0, 0.0, 1.0
        wealth = cash + shares * price
        # The costs are paid in proportion, from both parts of the account.
        wanted = float(np.clip(steps.action[t, 0], -1, 2))
        paid = 0.01 * abs(wanted * wealth - shares * price)
        shares, cash = wanted * (wealth - paid) / price, (1 - wanted) * (wealth - paid)
        price *= np.exp(returns[t])
        now = cash + shares * price
        assert float(steps.reward[t]) == pytest.approx(np.log(now / begun), abs=2e-6)
        assert float(steps.final_obs[t, 1]) == pytest.approx(shares * price / now, rel=1e-4)
        begun = now
    np.testing.assert_array_equal(np.flatnonzero(steps.truncated), [19, 39])


def test_returns_have_the_moments_of_a_stationary_autoregression() -> None:
    family, task = markets.autoregressive(), market()
    assert isinstance(family.env, markets.Portfolio)
    played = jax.vmap(lambda seed: random_trial(family, task, 1, seed))(jnp.arange(5000))
    first = np.asarray(played.inputs.obs[:, :1, 0])
    r = np.concatenate([first, np.asarray(played.final_obs[..., 0])], axis=1) * family.env.scale
    deviation = 0.1 / np.sqrt(1 - 0.4**2)
    # The first return has the same moments as all later ones. Tolerances are five standard errors.
    np.testing.assert_allclose(r.mean(axis=0), 0.02, atol=5 * deviation / np.sqrt(5000))
    np.testing.assert_allclose(r.std(axis=0), deviation, rtol=5 / np.sqrt(2 * 5000))
    for lag in (1, 2, 3):
        correlation = np.corrcoef(r[:, :-lag].ravel(), r[:, lag:].ravel())[0, 1]
        assert correlation == pytest.approx((-0.4) ** lag, abs=5 / np.sqrt(5000 * 15))


def test_a_lost_position_is_closed_by_the_broker() -> None:
    loss = markets.growth(jnp.array([2.0, -1.0, 1.0]), jnp.array([-1.0, 1.0, -1.0]))
    np.testing.assert_allclose(loss, np.log([markets.FLOOR, markets.FLOOR, np.exp(-1)]), rtol=1e-5)
    # The last position is not lost.
    held = markets.held(jnp.array([2.0, -1.0, -1.0, 2.0]), jnp.array([-5.0, 0.7, 0.6, -0.5]))
    np.testing.assert_allclose(
        held, [0, 0, -np.exp(0.6) / (2 - np.exp(0.6)), 2 * np.exp(-0.5) / (2 * np.exp(-0.5) - 1)], rtol=1e-5
    )


def test_a_reward_reveals_the_return_unless_nothing_was_invested_or_the_position_was_closed() -> None:
    env = markets.autoregressive(cost=0.01).env
    assert isinstance(env, markets.Portfolio)
    weight, target, returns = (
        jnp.array(x) for x in ([0.0, 1.2, -0.5, 0.3, 0.3], [1.5, 0.05, -1.0, 0.0, -1.0], [0.1, -0.2, 0.3, 0.1, 0.9])
    )
    reward = env.traded(weight, target) + markets.growth(target, returns)
    found, known = oracles.revealed(env, weight, target, reward)
    np.testing.assert_array_equal(known, [True, True, True, False, False])
    np.testing.assert_allclose(found[:3], returns[:3], atol=1e-5)


def expected_log(weight: float, mean: float, deviation: float) -> float:
    """Integrate the expected log growth numerically."""

    def value(r: float) -> float:
        return float(np.log(max(1 + weight * np.expm1(r), markets.FLOOR)) * stats.norm.pdf(r, mean, deviation))

    return integrate.quad(value, mean - 8 * deviation, mean + 8 * deviation, limit=200)[0]


@pytest.mark.parametrize(("mean", "deviation"), [(0.01, 0.1), (-0.01, 0.15), (0.04, 0.2), (-0.004, 0.08), (0.1, 0.1)])
def test_kelly_maximises_the_expected_logarithm_of_wealth(mean: float, deviation: float) -> None:
    env = markets.autoregressive(cost=0.0).env
    assert isinstance(env, markets.Portfolio)
    chosen = float(oracles.kelly(env, jnp.float32(mean), jnp.float32(deviation**2), jnp.float32(0)))
    found = optimize.minimize_scalar(
        lambda w: -expected_log(w, mean, deviation), bounds=(-1, 2), method="bounded", options={"xatol": 1e-4}
    )
    # Shares are multiples of 0.05.
    best: Any = found
    assert chosen == pytest.approx(float(best.x), abs=0.03)
    if abs(chosen) < 0.99:
        assert chosen == pytest.approx(mean / deviation**2 + 0.5, abs=0.1)
    for weight in (-0.7, 0.4, 1.6):
        value = float(markets.expected_growth(jnp.float32(weight), jnp.float32(mean), jnp.float32(deviation)))
        assert value == pytest.approx(expected_log(weight, mean, deviation), abs=1e-5)


def test_kelly_does_not_trade_for_less_than_the_costs() -> None:
    cheap, dear = (markets.autoregressive(cost=cost).env for cost in (0.0, 0.05))
    assert isinstance(cheap, markets.Portfolio)
    assert isinstance(dear, markets.Portfolio)
    moments = jnp.float32(0.01), jnp.float32(0.01)
    assert float(oracles.kelly(cheap, *moments, jnp.float32(1.23))) == pytest.approx(1.5, abs=0.06)
    assert float(oracles.kelly(dear, *moments, jnp.float32(1.23))) == pytest.approx(1.23)
    # The derivative of the growth, m + v / 2 - w v, is as large as the costs at w = 1.
    some = markets.autoregressive(cost=0.005).env
    assert isinstance(some, markets.Portfolio)
    assert float(oracles.kelly(some, *moments, jnp.float32(0.0))) == pytest.approx(1.0, abs=0.06)


def test_the_posterior_is_that_of_direct_gaussian_conditioning() -> None:
    random = np.random.default_rng(0)
    drift, volatility, slope = (
        random.uniform(-0.1, 0.1, 50),
        random.uniform(0.05, 0.2, 50),
        random.uniform(-0.8, 0.8, 50),
    )
    numbers = jnp.asarray([drift, volatility, slope], jnp.float32)
    among = Market(numbers[0], numbers[1], numbers[2], 20)
    episodes = [random.normal(0.02, 0.1, number) for number in (6, 4)]
    returns = oracles.no_returns()
    for episode in episodes:
        for i, r in enumerate(episode):
            returns = returns.add(jnp.float32(r), jnp.bool_(i == 0))

    def joint(number: int, i: int) -> Any:
        lags = np.abs(np.arange(number)[:, None] - np.arange(number))
        covariance = volatility[i] ** 2 / (1 - slope[i] ** 2) * slope[i] ** lags
        return np.full(number, drift[i]), covariance

    fits = [sum(stats.multivariate_normal.logpdf(e, *joint(len(e), i)) for e in episodes) for i in range(50)]
    probability = np.exp(np.array(fits) - max(fits))
    probability /= probability.sum()
    found = jax.nn.softmax(oracles.log_likelihood(returns, among))
    np.testing.assert_allclose(found, probability, rtol=2e-3, atol=1e-5)

    # The next return given the last episode, by conditioning the joint normal distribution of five returns.
    means, variances = [], []
    for i in range(50):
        level, covariance = joint(5, i)
        gain = np.linalg.solve(covariance[:4, :4], covariance[:4, 4])
        means.append(level[4] + gain @ (episodes[1] - level[:4]))
        variances.append(covariance[4, 4] - gain @ covariance[:4, 4])
    mean = probability @ means
    variance = probability @ variances + probability @ (np.array(means) - mean) ** 2
    np.testing.assert_allclose(oracles.predictive(returns, among), [mean, variance], rtol=1e-3)


def test_estimates_are_those_of_least_squares() -> None:
    family, task = markets.autoregressive(), market()
    env = family.env
    assert isinstance(env, markets.Portfolio)
    oracle = oracles.estimated(family, 2)
    assert oracle.play is not None
    steps = oracle.play(jax.random.key(3), task)
    r = np.asarray(steps.inputs.obs[:, 0], np.float64) * env.scale
    # The reward reveals the last return of the first episode, in which something was invested.
    assert abs(float(steps.action[19, 0])) > 1e-3
    end = r[19], float(steps.final_obs[19, 0]) * env.scale
    best = float(oracles.best_fraction(family))
    for t in (4, 5, 19, 20, 25, 39):
        # Pairs of consecutive returns within the same episode, up to the last return.
        pairs = [(r[i - 1], r[i]) if i != 20 else end for i in range(1, t + 1)]
        x, y = np.array(pairs).T
        if len(pairs) < 5:
            assert float(steps.action[t, 0]) == pytest.approx(best)
            continue
        design = np.stack([np.ones_like(x), x], axis=1)
        coefficients, squares, _, _ = np.linalg.lstsq(design, y, rcond=None)
        assert abs(coefficients[1]) < 0.95
        mean, variance = coefficients @ [1, r[t]], squares[0] / (len(x) - 2)
        wanted = oracles.kelly(env, jnp.float32(mean), jnp.float32(variance), steps.inputs.obs[t, 1])
        assert float(steps.action[t, 0]) == pytest.approx(float(wanted), abs=0.051)


def test_the_fixed_fraction_is_the_best_one_in_a_simulation() -> None:
    family = markets.autoregressive(cost=0.002)
    random = np.random.default_rng(0)
    drift, volatility = random.uniform(-0.03, 0.05, 200_000), random.uniform(0.08, 0.2, 200_000)
    spread = volatility / np.sqrt(1 - random.uniform(-0.4, 0.4, 200_000) ** 2)
    r = drift + spread * random.normal(size=200_000)

    def value(w: float) -> float:
        factor = np.maximum(1 + w * np.expm1(r), markets.FLOOR)
        return float(np.mean(np.log(factor) + np.log1p(-0.002 * np.abs(w * np.exp(r) / factor - w))))

    best = max(np.linspace(-1, 2, 61), key=value)
    # The growth is flat near its maximum.
    assert value(float(oracles.best_fraction(family))) == pytest.approx(value(best), abs=1e-4)
    assert 0.3 < best < 1.5


def test_the_training_reward_is_the_expectation_of_the_reward() -> None:
    family, task = markets.autoregressive(), market()
    assert family.privileged is not None
    assert family.privileged.training_reward is not None
    number = 20_000
    state = markets.MarketState(jnp.float32(0.15), jnp.float32(0.3), jnp.int32(0))
    obs = family.env._observe(state, task)  # type: ignore[attr-defined]  # pyright: ignore
    action = jnp.array([1.4], jnp.float32)
    keys = jax.random.split(jax.random.key(0), number)
    step = jax.vmap(lambda key: family.env.step_env(key, state, action, task)[2])  # pyright: ignore
    paid = np.asarray(step(keys), np.float64)
    played = random_trial(family, task, 1)
    inputs = played.inputs._replace(obs=played.inputs.obs.at[0].set(obs))
    played = played._replace(inputs=inputs, action=played.action.at[0].set(action))
    expected = family.privileged.training_reward(task, played, 1.0)
    assert expected.shape == played.reward.shape
    assert float(expected[0]) == pytest.approx(paid.mean(), abs=5 * paid.std() / np.sqrt(number))


def test_held_out_markets_are_in_the_training_range_or_outside_of_it() -> None:
    keys = jax.random.split(jax.random.key(0), 1000)
    same = jax.vmap(markets.autoregressive().tasks.sample_heldout)(keys)
    assert np.abs(np.asarray(same.drift) - 0.01).max() <= 0.04 + 1e-6
    assert np.abs(same.autocorrelation).max() <= 0.4
    shifted = markets.autoregressive(shifted=True)
    assert np.abs(jax.vmap(shifted.tasks.sample)(keys).autocorrelation).max() <= 0.4
    other = jax.vmap(shifted.tasks.sample_heldout)(keys)
    assert np.abs(np.asarray(other.drift) - 0.01).min() >= 0.04 - 1e-6
    assert np.asarray(other.volatility).min() >= 0.2 - 1e-6
    assert np.abs(other.autocorrelation).min() >= 0.4 - 1e-6
    assert {-1.0, 1.0} == set(np.sign(other.autocorrelation).tolist())


def written(path: Path, prices: np.ndarray, header: str = "Date,Open,Close") -> Path:
    day = datetime.date(2020, 1, 1)
    rows = [f"{day + datetime.timedelta(days=i)},0,{price:.10g}" for i, price in enumerate(prices)]
    path.write_text("\n".join([header, *rows, ""]))
    return path


def prices(number: int = 200) -> np.ndarray:
    random = np.random.default_rng(0)
    r = np.zeros(number)
    for i in range(1, number):
        r[i] = 0.002 + 0.5 * (r[i - 1] - 0.002) + 0.02 * random.normal()
    return 100 * np.exp(np.cumsum(r))


def test_windows_of_a_file_of_prices_are_markets(tmp_path: Path) -> None:
    made = prices()
    path = written(tmp_path / "prices.csv", made)
    np.testing.assert_allclose(markets.read_prices(path), made, rtol=1e-8)
    family = markets.from_prices(path, window=40, heldout=0.25, horizon=7)
    tasks = family.tasks.training
    assert tasks is not None
    r = np.diff(np.log(made))
    assert tasks.drift.shape == (round(0.75 * 199) - 40 + 1,)
    for i in (0, 50):
        x, y = r[i : i + 39], r[i + 1 : i + 40]
        centre = r[i : i + 40].mean()
        slope = float(np.linalg.lstsq((x - centre)[:, None], y - centre, rcond=None)[0][0])
        deviation = np.sqrt(np.mean((y - centre - slope * (x - centre)) ** 2))
        found = [tasks.drift[i], tasks.volatility[i], tasks.autocorrelation[i]]
        np.testing.assert_allclose(found, [centre, deviation, slope], rtol=1e-4)
    test = jax.vmap(family.tasks.sample_heldout)(jax.random.split(jax.random.key(0), 500))
    assert not set(np.asarray(test.drift).tolist()) & set(np.asarray(tasks.drift).tolist())
    assert random_trial(family, jax.tree.map(lambda x: x[0], tasks), 2).reward.shape == (14,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,value\n2020-01-01,1\n", "has no column price or adj close or close; it has 'date', 'value'"),
        ("", "has no column date; it has none"),
        ("date,price\n", "prices.csv has no prices"),
        ("date,price\n2020-01-01,1\n2020-01-02,\n", "line 3: '' is not a price"),
        ("date,price\n2020-01-01\n", "line 2: None is not a price"),
        ("date,price\n2020-01-01,nan\n", "line 2: a price must be a number above 0, not 'nan'"),
        ("date,price\n2020-01-01,inf\n", "line 2: a price must be a number above 0"),
        ("date,price\n2020-01-01,-3\n", "line 2: a price must be a number above 0, not '-3'"),
        ("date,price\n2020-01-01,0\n", "line 2: a price must be a number above 0"),
        ("date,price\n01/02/2020,3\n", "line 2: '3' is not a price on a date such as 2024-03-28"),
        ("date,price\n2020-01-02,3\n2020-01-01,3\n", "line 3: 2020-01-01 is not after the date before it, 2020-01-02"),
    ],
)
def test_unusable_files_of_prices_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        markets.from_prices(path)
    assert "\n" not in str(error.value)


def test_other_encodings_missing_files_and_constant_prices_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes("date,price\n2020-01-01,3 €\n".encode("cp1252"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        markets.from_prices(path)
    with pytest.raises(FileNotFoundError, match="there is no file of prices"):
        markets.from_prices(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="without any variation"):
        markets.from_prices(written(path, np.full(300, 5.0)))
    with pytest.raises(ValueError, match=r"has 100 prices: .* at least 202 are needed"):
        markets.from_prices(written(path, prices(100)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("horizon", 0),
        ("drift", float("nan")),
        ("drift_range", 0.0),
        ("lowest_volatility", 0.0),
        ("highest_volatility", 0.01),
        ("autocorrelation_range", 1.0),
        ("lowest_weight", 0.5),
        ("highest_weight", 0.0),
        ("cost", -0.1),
        ("shifted", 1),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        markets.autoregressive(**{field: value})


def test_a_window_of_few_returns_and_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="window must be at least 10"):
        markets.from_prices(tmp_path / "none.csv", window=5)
    makers = oracles.buy_and_hold, oracles.fixed_fraction, oracles.estimated, oracles.posterior, oracles.known
    for make in makers:
        with pytest.raises(ValueError, match=r"environments\.markets, not one of Bandit"):
            make(bandits.bernoulli(3), 4)
        with pytest.raises(ValueError, match="episodes"):
            make(markets.autoregressive(), 0)


def test_an_episode_is_drawn() -> None:
    family = markets.autoregressive()
    steps = random_trial(family, market(), 1)
    first = Frame(np.asarray(steps.inputs.obs[0]), (), None, 0, 0, 0.0, False)
    rewards = np.cumsum(steps.reward)
    after = [
        Frame(np.asarray(steps.final_obs[t]), (), np.asarray(steps.action[t]), 0, t + 1, float(rewards[t]), t == 19)
        for t in range(20)
    ]
    pictures = [family.env.draw([first, *after[:n]], market()) for n in (0, 20)]  # type: ignore[attr-defined]  # pyright: ignore
    assert pictures[0].size == pictures[1].size
    assert pictures[0].tobytes() != pictures[1].tobytes()


@pytest.mark.slow
def test_investors_are_ordered_by_their_information() -> None:
    family = markets.autoregressive()

    def score(oracle: Oracle) -> np.ndarray:
        tested = jax.jit(lambda key: meta_test(key, oracle.adapt, jnp.zeros(1), family.tasks, num_tasks=1000))
        return np.asarray(tested(jax.random.key(5)).score[0]).mean(axis=0)

    makers = oracles.buy_and_hold, oracles.fixed_fraction, oracles.estimated, oracles.posterior, oracles.known
    hold, fixed, estimated, posterior, known = (score(make(family, 3)) for make in makers)
    assert fixed.sum() > hold.sum() - 0.05
    assert estimated.sum() > fixed.sum()
    assert posterior.sum() > estimated.sum()
    assert known.sum() > posterior.sum()
    # The exact posterior is most useful at the start, and gets close to the known market.
    assert posterior[0] - estimated[0] > posterior[2] - estimated[2]
    assert known[2] - posterior[2] < known[0] - posterior[0]
