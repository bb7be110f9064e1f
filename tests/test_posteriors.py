"""Posteriors far from the middle and after very many pulls, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_jax.environments import bandits as bandit_environments
from metarl_jax.environments import recommendation as recommendation_environments
from metarl_jax.environments import tabular_mdp as mdp_environments
from metarl_jax.oracles import bandits, recommendation, tabular_mdp
from metarl_jax.oracles.base import beta, gamma, no_sum
from metarl_jax.types import Array, EnvFamily, Inputs, Key, Oracle, Task, TaskDistribution, Transition

NOISE = 0.3
ULP = 2.0**-24
"""Half the distance between neighbouring float32 numbers just below 1: a number that is right is off by that."""


class Cut:
    """The normal distribution of an arm's mean, cut to [0, 1], by the trapezoidal rule in float64.

    All is about ``1 - x`` where the centre is above 0.5, else about ``x``: the distance from the nearest end.
    """

    def __init__(self, pulls: float, total: float, noise: float) -> None:
        centre, spread = total / pulls, noise / np.sqrt(pulls)
        self.from_one = centre >= 0.5
        outside = max(centre - 1, -centre)
        mode = max(-outside, 0.0)
        reach = 81 * spread / (max(outside, 0) / spread + np.sqrt((max(outside, 0) / spread) ** 2 + 81))
        self.y = np.linspace(max(0.0, mode - 9 * spread), min(1.0, mode + reach), 100_001)
        density = np.exp(-0.5 * ((self.y - mode) / spread) * ((self.y + mode + 2 * outside) / spread))
        density /= np.trapezoid(density, self.y)
        self.mean = np.trapezoid(density * self.y, self.y)
        self.spread = np.sqrt(np.trapezoid(density * (self.y - self.mean) ** 2, self.y))
        self.cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(self.y))])

    def distance(self, x: np.ndarray) -> np.ndarray:
        """From the nearest end, of float32 numbers."""
        return 1 - x.astype(np.float64) if self.from_one else x.astype(np.float64)


PULLS = [1, 10, 100, 10_000]
CENTRES = [-50.0, -1.0, -0.1, 0.0, 0.3, 0.5, 0.7, 0.999, 1.0, 1.2, 2.0, 5.0, 17.0, 1000.0]


def statistics() -> bandits.Statistics:
    """All pairs of the above."""
    pulls, centre = (x.ravel() for x in np.meshgrid(PULLS, CENTRES, indexing="ij"))
    return bandits.Statistics(jnp.asarray(pulls, jnp.int32), jnp.asarray(pulls * centre, jnp.float32))


def test_one_pull_far_outside() -> None:
    """The example that shows it: the mean of N(5, 0.3^2) cut to [0, 1]."""
    one = bandits.Statistics(jnp.array([1]), jnp.array([5.0]))
    assert float(bandits._posterior_mean(NOISE, one)[0]) == pytest.approx(0.9777, abs=5e-5)
    draws = jax.vmap(lambda key: bandits._posterior_sample(key, NOISE, one))(jax.random.split(jax.random.key(0), 2000))
    assert float(draws.std()) == pytest.approx(Cut(1, 5.0, NOISE).spread, rel=0.1)


@pytest.mark.parametrize("noise", [0.01, NOISE, 3.0, 1e3, 1e9])
def test_posterior_means_are_exact_in_the_tails(noise: float) -> None:
    given = statistics()
    means = np.asarray(jax.jit(lambda s: bandits._posterior_mean(noise, s))(given))
    for pulls, total, mean in zip(*map(np.asarray, given), means, strict=True):
        cut = Cut(float(pulls), float(total), noise)
        # Distances from 0 are small numbers, and floats; distances from 1 are off by the rounding of what they leave.
        slack = 2 * ULP if cut.from_one else 0.0
        assert cut.distance(mean) == pytest.approx(cut.mean, rel=2e-5, abs=slack + 2e-7 * cut.spread)


@settings(max_examples=100, deadline=None)
@given(
    pulls=st.integers(1, 10_000),
    centre=st.floats(-20, 20, width=32),
    noise=st.floats(0.0625, 64, width=32),
)
def test_posterior_means_and_draws_lie_on_the_right_side(pulls: int, centre: float, noise: float) -> None:
    """They are in [0, 1], the mirrored arm's are mirrored, and draws vary."""
    total = np.float32(pulls * centre)
    pair = bandits.Statistics(jnp.array([pulls, pulls]), jnp.array([total, np.float32(pulls) - total]))
    mean, mirrored = map(float, POSTERIOR_MEAN(pair, noise))
    assert 0 <= mean <= 1
    assert mean + mirrored == pytest.approx(1, abs=1e-4)
    draws = np.asarray(POSTERIOR_DRAWS(pair, noise))
    assert np.isfinite(draws).all()
    assert draws.min() >= 0
    assert draws.max() <= 1
    assert min(draws[:, 0].min(), 1 - draws[:, 0].max()) <= min(mean, 1 - mean) + 1e-6


POSTERIOR_MEAN = jax.jit(lambda s, noise: bandits._posterior_mean(noise, s))
POSTERIOR_DRAWS = jax.jit(
    lambda s, noise: jax.vmap(lambda key: bandits._posterior_sample(key, noise, s))(
        jax.random.split(jax.random.key(0), 50)
    )
)


@pytest.mark.parametrize("noise", [0.01, NOISE, 3.0, 1e3, 1e9])
def test_posterior_draws_are_those_of_the_cut_normal_distribution(noise: float) -> None:
    """Kolmogorov-Smirnov distances at the level 1e-5 each; 280 posteriors in all."""
    given, count = statistics(), 4000
    keys = jax.random.split(jax.random.key(5), count)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: bandits._posterior_sample(key, noise, given)))(keys))
    compared = 0
    for arm, (pulls, total) in enumerate(zip(*map(np.asarray, given), strict=True)):
        cut = Cut(float(pulls), float(total), noise)
        # Where a float32 cannot tell them apart all draws near 1 are alike.
        if cut.from_one and cut.spread < 1e3 * ULP:
            continue
        distances = np.sort(cut.distance(draws[:, arm]))
        cdf = np.interp(distances, cut.y, cut.cdf)
        assert np.max(np.abs(cdf - (np.arange(count) + 0.5) / count)) < 2.5 / np.sqrt(count)
        assert distances.mean() == pytest.approx(cut.mean, abs=4.5 * cut.spread / np.sqrt(count) + ULP)
        assert distances.std() == pytest.approx(cut.spread, rel=0.15)
        compared += 1
    # The 20 that are nearest to 0, and others.
    assert compared > 35


@pytest.mark.parametrize(("a", "b"), [(1e6, 1e6), (1e6, 30.0), (30.0, 1e6), (1e8, 1e8), (7e7, 3e7), (1e8, 1e4)])
def test_beta_draws_after_very_many_pulls(a: float, b: float) -> None:
    """Mean and standard deviation of draws, relative to the truth's standard deviation."""
    count = 40_000
    parameters = jnp.full(count, int(a), jnp.int32), jnp.full(count, int(b), jnp.int32)
    draws = np.asarray(beta(jax.random.key(3), *parameters), np.float64)
    mean, spread = a / (a + b), np.sqrt(a * b / (a + b) ** 2 / (a + b + 1))
    # The error of the mean is that of sampling, and of float32 numbers near the mean.
    assert draws.mean() == pytest.approx(mean, abs=4.5 * spread / np.sqrt(count) + ULP / 4)
    assert draws.std() == pytest.approx(spread, rel=4.5 / np.sqrt(2 * count) + 1e-3)


@pytest.mark.parametrize(("a", "b"), [(1e6, 3.0), (3.0, 1e6), (1e5, 1e5)])
def test_beta_draws_are_rounded_once(a: float, b: float) -> None:
    """A draw near 1 is 1 minus a small quotient: not a quotient of numbers that were rounded before."""
    parameters = jnp.broadcast_to(jnp.array([[a], [b]]), (2, 5000))
    x, y = np.asarray(gamma(jax.random.key(0), parameters), np.float64)
    draws = np.asarray(beta(jax.random.key(0), *parameters), np.float64)
    np.testing.assert_allclose(draws, x / (x + y), rtol=2e-7, atol=0)
    assert np.max(np.abs(draws - x / (x + y))[x > 100 * y], initial=0) < 1.05 * ULP / 2


def test_the_first_proposal_of_a_gamma_variable_of_large_shape_is_accepted() -> None:
    """The bound that decides is minus x^4 / (108 d) there: the difference of numbers of size d would be rounding."""
    shape, count = 1e8, 10_000
    normal = np.asarray(jax.random.normal(jax.random.split(jax.random.key(0))[0], (4, count)), np.float64)[0]
    draws = np.asarray(gamma(jax.random.key(0), jnp.full(count, shape)), np.float64)
    first = (shape - 1 / 3) * (1 + normal / np.sqrt(9 * (shape - 1 / 3))) ** 3
    assert np.mean(np.abs(draws - first) < 1e-6 * shape) > 0.9999


# ------------------------------------------------------------------------------------------------------------ counts

MANY = 2**24
"""The first whole number to which a float32 cannot add 1."""
STEPS = 200_000


class Captured(Exception):
    """Raised instead of playing a trial."""


def capture(monkeypatch: pytest.MonkeyPatch, module: Any, oracle: Oracle, task: Task) -> tuple[Any, Any]:
    """How an oracle acts, and the memory with which it begins."""
    captured = []

    def trial(key: Key, act: Any, carry: Any, *rest: Any) -> None:
        del key, rest
        captured.append((act, carry))
        raise Captured

    monkeypatch.setattr(module, "trial", trial)
    with pytest.raises(Captured):
        oracle.adapt(jax.random.key(0), (), task)
    return captured[0]


def after(action: int, reward: float, obs: Any = 0) -> Inputs:
    """What is seen after a step that was not the first."""
    return Inputs(jnp.asarray(obs), jnp.int32(action), jnp.float32(reward), jnp.float32(1), jnp.bool_(False))


def many(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.full_like(x, MANY), tree)


def test_pulls_and_successes_are_counted_beyond_2_to_the_24(monkeypatch: pytest.MonkeyPatch) -> None:
    family = bandit_environments.bernoulli(3)

    def last_digits(key: Key, s: bandits.Statistics, task: Task) -> Array:
        return 100 * (s.pulls[1] - MANY) + 10 * (s.total[1] - MANY) + (s.pulls[0] - MANY)

    oracle = bandits._make("probe", family, 3, last_digits)
    act, memory = capture(monkeypatch, bandits, oracle, family.tasks.sample(jax.random.key(0)))
    assert int(act(jax.random.key(0), many(memory), after(1, 1.0))[1]) == 110
    assert int(act(jax.random.key(0), many(memory), after(1, 0.0))[1]) == 100


def test_recommendations_and_visits_are_counted_beyond_2_to_the_24(monkeypatch: pytest.MonkeyPatch) -> None:
    family = recommendation_environments.made_up(items=3)
    oracle = recommendation._make("probe", family, 3, lambda key, heard, group: heard.times[1] - MANY)
    act, (times, total) = capture(monkeypatch, recommendation, oracle, family.tasks.sample(jax.random.key(0)))
    assert int(act(jax.random.key(0), (many(times), total), after(1, 0.5))[1]) == 1

    mdp = mdp_environments.make(states=2, actions=2, horizon=1)
    task = mdp.tasks.sample(jax.random.key(0))
    act, memory = capture(monkeypatch, tabular_mdp, tabular_mdp.state_gittins(mdp, 3), task)
    seen = memory._replace(visits=many(memory.visits), last=jnp.array([0.0, 1.0]))
    visits = act(jax.random.key(0), seen, after(0, 0.5, [1.0, 0.0]))[0].visits
    np.testing.assert_array_equal(np.asarray(visits, np.int64) - MANY, [[0, 0], [1, 0]])


def test_transitions_are_counted_beyond_2_to_the_24() -> None:
    """An episode of two valid steps and one that is padding, with a reward that is no number."""
    mdp = mdp_environments.make(states=2, actions=2, horizon=3)
    played = tabular_mdp.greedy(mdp, 4).adapt(jax.random.key(0), (), mdp.tasks.sample(jax.random.key(0))).learner
    assert int(played.transitions.sum()) == 4 * 3
    no = jnp.zeros(3, bool)
    inputs = Inputs(jnp.eye(2)[jnp.array([0, 1, 0])], jnp.zeros(3, jnp.int32), jnp.zeros(3), jnp.zeros(3), no)
    steps = Transition(
        inputs, jnp.array([1, 0, 1]), jnp.array([0.5, 2.0, jnp.nan]), no, no, jnp.eye(2)[jnp.array([1, 1, 0])],
        jnp.zeros(3, jnp.int32), jnp.array([True, True, False]), (),
    )  # fmt: skip
    counted = tabular_mdp._update(played._replace(transitions=many(played.transitions)), steps)
    more = np.asarray(counted.transitions, np.int64) - MANY
    assert more.sum() == 2
    assert more[0, 1, 1] == 1
    assert more[1, 0, 1] == 1
    np.testing.assert_allclose(counted.reward.total - played.reward.total, [[0, 0.5], [2, 0]], atol=1e-6)


def test_sums_of_many_rewards_lose_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200,000 rewards of 0.3 to one arm, of a bandit and of a catalogue."""
    expected = STEPS * float(np.float32(0.3))
    bandit = bandit_environments.gaussian(2, 0.3)
    catalogue = recommendation_environments.made_up(items=2)
    oracles = [
        (bandits, bandits._make("probe", bandit, 3, lambda key, s, task: 100 * s.total[1]), bandit),
        (
            recommendation,
            recommendation._make("p", catalogue, 3, lambda key, heard, g: 100 * heard.total[1]),
            catalogue,
        ),
    ]
    for module, oracle, family in oracles:
        act, memory = capture(monkeypatch, module, oracle, family.tasks.sample(jax.random.key(0)))

        def step(memory: Any, _: None, act: Any = act) -> tuple[Any, Array]:
            return act(jax.random.key(0), memory, after(1, 0.3))[:2]

        totals = jax.jit(lambda memory, step=step: jax.lax.scan(step, memory, None, length=STEPS)[1])(memory)
        assert int(totals[-1]) / 100 == pytest.approx(expected, abs=0.02)


def test_a_running_sum_compensates_for_rounding() -> None:
    one, step = no_sum(()).add(jnp.float32(MANY)), lambda total, x: (total.add(x), None)
    total = jax.lax.scan(step, one, jnp.full(1000, 0.3))[0].total
    assert abs(float(total) - (MANY + 1000 * float(np.float32(0.3)))) <= 1


# ---------------------------------------------------------------------------------------------------- recommendation


def with_users(sample: Callable[[Key], recommendation_environments.User], noise: float = 0.1) -> EnvFamily:
    family = recommendation_environments.made_up(items=2, groups=1, noise=noise)
    return family._replace(tasks=TaskDistribution(sample, sample))


def test_tastes_that_hardly_differ_have_the_variance_that_they_have() -> None:
    """A mean of squares minus a squared mean would be rounding: 1e-8 is less than a float32 tells apart near 0.25."""
    spread = jnp.array([1e-4, 1e-2])

    def sample(key: Key) -> recommendation_environments.User:
        return recommendation_environments.User(0.5 + spread * jax.random.normal(key, (2,)), jnp.int32(0))

    population = recommendation._population(with_users(sample))
    # 20,000 users: the variance has a standard error of 1 %.
    np.testing.assert_allclose(population.variance[0], spread**2, rtol=0.05)
    np.testing.assert_allclose(population.mean[0], 0.5, atol=5e-4)


def test_similar_users_are_told_apart_by_very_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two kinds of users that like item 0 nearly alike, one is e times as likely after a million answers.

    As differences of sums their log-likelihoods are about 10^7, which a float32 rounds to whole numbers.
    """
    answers, noise, users, draws = 1_000_000, 0.1, 1000, 4000
    apart = noise * np.sqrt(2 / answers)
    tastes = jnp.array([[0.6, 0.5], [0.6 + apart, 0.7]])

    def sample(key: Key) -> recommendation_environments.User:
        return recommendation_environments.User(tastes[jax.random.randint(key, (), 0, 2)], jnp.int32(0))

    monkeypatch.setattr(recommendation, "_make", lambda name, family, episodes, choose: choose)
    choose: Any = recommendation.similar_users(with_users(sample, noise), 3, users=users)
    second = int(jnp.sum(jax.vmap(sample)(jax.random.split(jax.random.key(1), users)).likes[:, 1] > 0.6))
    heard = recommendation._Heard(jnp.array([answers, 0]), jnp.array([0.6 * answers, 0.0]))
    items = jax.jit(jax.vmap(lambda key: choose(key, heard, jnp.int32(0))))(jax.random.split(jax.random.key(0), draws))
    likely = second * np.exp(-1) / (users - second + second * np.exp(-1))
    assert float(jnp.mean(items)) == pytest.approx(likely, abs=5 * np.sqrt(likely * (1 - likely) / draws))
