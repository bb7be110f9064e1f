"""Bandits that change: courses of mean rewards, exact filters compared with enumeration, and learners that forget."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from metarl_jax.environments import bandits, changing
from metarl_jax.environments.drawing import SIZE, Frame
from metarl_jax.oracles import changing as oracles
from metarl_jax.types import EnvFamily, Oracle, Transition


def test_arms_switch_at_the_rate_of_the_task_to_any_of_the_values() -> None:
    family = changing.switching(4, 50)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 4000))
    means, rate = np.asarray(tasks.means), np.asarray(tasks.rate)
    assert np.unique(means).tolist() == np.array(changing.VALUES, np.float32).tolist()
    np.testing.assert_allclose([np.mean(means == np.float32(v)) for v in changing.VALUES], 0.2, atol=0.01)
    # One in five new values equals the former one.
    moved = np.mean(means[:, 1:] != means[:, :-1], axis=(1, 2))
    np.testing.assert_allclose(np.polyfit(rate, moved, 1), [0.8, 0.0], atol=0.03)
    assert rate.min() >= 0.01
    assert rate.max() <= 0.1
    np.testing.assert_allclose(np.mean(np.log10(rate)), -1.5, atol=0.03)


def test_drifting_arms_have_the_correlation_of_the_task_and_unit_variance() -> None:
    family = changing.drifting(3, 40)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 6000))
    means, rate = np.asarray(tasks.means), np.asarray(tasks.rate)
    np.testing.assert_allclose(means.var(axis=(0, 2)), 1.0, atol=0.06)
    following = np.mean(means[:, 1:] * means[:, :-1], axis=(1, 2))
    slow, fast = rate < 0.02, rate > 0.05
    for some in (slow, fast):
        np.testing.assert_allclose(following[some].mean(), 1 - rate[some].mean(), atol=0.05)
    correlation = np.corrcoef(means[:, 10].T)
    np.testing.assert_allclose(correlation, np.eye(3), atol=0.05)


def test_likings_of_items_have_a_low_rank_around_their_quality() -> None:
    family = changing.interests(12, 2, 20)
    drift = family.env.drift  # pyright: ignore[reportAttributeAccessIssue]
    means = np.asarray(jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 3000)).means)
    values = np.linalg.svd((means - drift.quality).reshape(-1, 12)[:5000], compute_uv=False)
    assert values[2] < 1e-4 * values[0]
    np.testing.assert_allclose(means.mean(axis=(0, 1)), drift.quality, atol=0.08)
    np.testing.assert_allclose(np.linalg.norm(drift.features, axis=1), 1.0)
    other = changing.interests(12, 2, 20, seed=1).env.drift  # pyright: ignore[reportAttributeAccessIssue]
    assert np.any(other.features != drift.features)


@pytest.mark.parametrize("family", [changing.switching(3, 4), changing.drifting(3, 4, noise=0.2)])
def test_a_pull_pays_by_the_mean_of_its_time(family: EnvFamily) -> None:
    means = jnp.array([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.3, 0.7, 0.5], [0.7, 0.3, 0.5]])
    task = changing.Course(means, jnp.float32(0.1), 4)

    def pay(key: jax.Array, time: jax.Array, arm: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, _, reward, _, truncated, _ = family.env.step(key, changing.CourseState(time), arm, task)
        return reward, truncated

    keys = jax.random.split(jax.random.key(0), 3000)
    for time, arm in ((0, 1), (1, 1), (3, 0)):
        paid, truncated = jax.vmap(pay, (0, None, None))(keys, jnp.int32(time), jnp.int32(arm))
        np.testing.assert_allclose(paid.mean(), means[time, arm], atol=5 * 0.5 / np.sqrt(3000))
        assert bool(jnp.all(truncated == (time == 3)))
        assert set(np.unique(paid)) == {0.0, 1.0} or abs(float(paid.std()) - 0.2) < 0.02
    assert family.optimal_return is not None
    np.testing.assert_allclose(family.optimal_return(task), 0.9 + 0.9 + 0.7 + 0.7, rtol=1e-6)
    assert family.privileged is not None
    assert family.privileged.training_reward is not None
    oracle = oracles.best_arm(family, 1)
    assert oracle.play is not None
    steps = oracle.play(jax.random.key(0), task)
    np.testing.assert_array_equal(steps.action, [1, 0, 1, 0])
    np.testing.assert_allclose(family.privileged.training_reward(task, steps, 0.9), 0.0, atol=1e-6)
    worse = steps._replace(action=jnp.array([0, 0, 2, 0], jnp.int32))
    np.testing.assert_allclose(family.privileged.training_reward(task, worse, 0.9), [-0.8, 0, -0.2, 0], atol=1e-6)


PULLS = ((0, 1.0), (1, 0.0), (0, 0.0), (0, 1.0), (1, 1.0))


def enumerated(grid: np.ndarray, arms: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the posterior of rates and of values of switching arms by a sum over all courses of an arm.

    Returns:
        The probabilities of the rates ``[H]``, and those of each value of each arm at the next pull, ``[K, V]``.
    """
    values, number = np.array(changing.VALUES), len(changing.VALUES)
    joint = np.zeros((len(grid), arms, number))
    for h, rate in enumerate(grid):
        for arm in range(arms):
            for course in itertools.product(range(number), repeat=len(PULLS) + 1):
                probability = 1 / number
                for before, after in itertools.pairwise(course):
                    probability *= rate / number + (1 - rate) * (before == after)
                for time, (pulled, reward) in enumerate(PULLS):
                    if pulled == arm:
                        probability *= values[course[time]] if reward else 1 - values[course[time]]
                joint[h, arm, course[-1]] += probability
    evidence = joint.sum(axis=2)
    weight = evidence.prod(axis=1)
    weight /= weight.sum()
    return weight, np.einsum("h,hkv->kv", weight, joint / evidence[..., None])


def after_pulls(inference: oracles.Filter, pulls: Any) -> Any:
    belief = inference.prior
    for arm, reward in pulls:
        belief = inference.observe(belief, jnp.int32(arm), jnp.float32(reward))
    return belief


def test_the_filter_of_switching_arms_is_the_sum_over_all_courses() -> None:
    grid = np.array([0.02, 0.3])
    inference = oracles.switching_filter(2, grid)
    belief = after_pulls(inference, PULLS)
    weight, probability = enumerated(grid, 2)
    np.testing.assert_allclose(np.exp(belief.log_weight), weight, rtol=1e-4)
    np.testing.assert_allclose(inference.means(belief), probability @ np.array(changing.VALUES), rtol=1e-4)
    np.testing.assert_allclose(inference.rate(belief), weight @ grid, rtol=1e-4)
    rewards, chances = inference.outcomes(belief, jnp.int32(1))
    np.testing.assert_allclose(rewards @ chances, inference.means(belief)[1], rtol=1e-5)
    draws = np.asarray(jax.vmap(inference.sample, (0, None))(jax.random.split(jax.random.key(0), 20_000), belief))
    shares = [[np.mean(draws[:, arm] == np.float32(value)) for value in changing.VALUES] for arm in range(2)]
    np.testing.assert_allclose(shares, probability, atol=0.02)


def test_the_filter_of_drifting_arms_is_the_conditional_normal_distribution() -> None:
    random = np.random.default_rng(0)
    drift = changing.Drift(random.normal(size=(4, 2)), random.normal(size=4), 0.4)
    grid = np.array([0.05, 0.4])
    inference = oracles.drifting_filter(drift, grid)
    arms, rewards = random.integers(0, 4, 6), random.normal(size=6)
    belief = after_pulls(inference, zip(arms, rewards, strict=True))
    # The vectors of all times are jointly normal, and so are the rewards.
    evidence, means, covariances = [], [], []
    for rate in grid:
        lag = np.abs(np.subtract.outer(np.arange(7), np.arange(7)))
        vectors = np.kron((1 - rate) ** lag, np.eye(2))
        observed = np.zeros((6, 14))
        for time, arm in enumerate(arms):
            observed[time, 2 * time : 2 * time + 2] = drift.features[arm]
        covariance = observed @ vectors @ observed.T + drift.noise**2 * np.eye(6)
        surprise = rewards - drift.quality[arms]
        evidence.append(multivariate_normal(np.zeros(6), covariance).pdf(surprise))
        gain = np.linalg.solve(covariance, observed @ vectors).T
        means.append((gain @ surprise)[-2:])
        covariances.append((vectors - gain @ observed @ vectors)[-2:, -2:])
    weight = np.array(evidence) / np.sum(evidence)
    np.testing.assert_allclose(np.exp(belief.log_weight), weight, rtol=1e-3)
    np.testing.assert_allclose(belief.mean, means, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(belief.covariance, covariances, rtol=1e-3, atol=1e-5)
    expected = drift.quality + drift.features @ (weight @ np.array(means))
    np.testing.assert_allclose(inference.means(belief), expected, rtol=1e-3, atol=1e-4)
    values, chances = inference.outcomes(belief, jnp.int32(2))
    np.testing.assert_allclose(chances.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(values @ chances, expected[2], rtol=1e-3, atol=1e-4)
    second = [
        drift.features[2] @ (c + np.outer(m, m)) @ drift.features[2] for m, c in zip(means, covariances, strict=True)
    ]
    centred = np.array([drift.features[2] @ m for m in means])
    variance = weight @ np.array(second) - (weight @ centred) ** 2 + drift.noise**2
    np.testing.assert_allclose((values - expected[2]) ** 2 @ chances, variance, rtol=1e-3)
    draws = np.asarray(jax.vmap(inference.sample, (0, None))(jax.random.split(jax.random.key(0), 20_000), belief))
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=0.05)
    np.testing.assert_allclose(draws[:, 2].var(), variance - drift.noise**2, rtol=0.05)


def played(oracle: Oracle, family: EnvFamily, seed: int) -> Transition:
    assert oracle.play is not None
    return jax.jit(oracle.play)(jax.random.key(seed), family.tasks.sample(jax.random.key(100 + seed)))


def agreeing(
    oracle: Oracle,
    family: EnvFamily,
    explorations: tuple[float, ...],
    bounds: Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray],
    *,
    discounted: bool,
) -> list[tuple[float, float]]:
    """Return the settings, (length, exploration), with which all pulls of an oracle have the highest bound.

    The arguments of ``bounds`` are the arms, the rewards and the weights of the earlier pulls, and the exploration.
    """
    assert oracle.play is not None
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 20))
    games = jax.jit(jax.vmap(oracle.play))(jax.random.split(jax.random.key(1), 20), tasks)

    def follows(length: float, exploration: float) -> bool:
        for arms, rewards in zip(np.asarray(games.action), np.asarray(games.reward, float), strict=True):
            for time in range(family.horizon):
                age = time - 1 - np.arange(time)
                weights = (1 - 1 / length) ** age if discounted else (age < length).astype(float)
                bound = bounds(arms[:time], rewards[:time], weights, exploration)
                if bound[arms[time]] < bound.max() - 1e-4:
                    return False
        return True

    return [both for both in itertools.product(oracles.LENGTHS, explorations) if follows(*both)]


@pytest.mark.parametrize("make", [oracles.discounted_ucb, oracles.sliding_window_ucb])
def test_upper_confidence_bounds_are_those_of_a_loop_with_one_of_the_candidates(make: Any) -> None:
    # Ties are frequent if rewards are 0 or 1, so that several candidates would agree.
    family = changing.drifting(3, 25)

    def bounds(arms: np.ndarray, rewards: np.ndarray, weights: np.ndarray, exploration: float) -> np.ndarray:
        pulls, total = np.ones(3), np.zeros(3)
        np.add.at(pulls, arms, weights)
        np.add.at(total, arms, weights * rewards)
        return total / pulls + exploration * np.sqrt(np.log(pulls.sum()) / pulls)

    discounted = make is oracles.discounted_ucb
    assert len(agreeing(make(family, 1), family, oracles.EXPLORATION, bounds, discounted=discounted)) == 1


def test_bounds_of_linear_ucb_are_those_of_a_loop_with_one_of_the_candidates() -> None:
    family = changing.interests(6, 2, 25, noise=0.4)
    drift = family.env.drift  # pyright: ignore[reportAttributeAccessIssue]

    def bounds(arms: np.ndarray, rewards: np.ndarray, weights: np.ndarray, exploration: float) -> np.ndarray:
        gram, moment = 0.16 * np.eye(2), np.zeros(2)
        for arm, reward, weight in zip(arms, rewards, weights, strict=True):
            feature = drift.features[arm]
            gram += weight * np.outer(feature, feature)
            moment += weight * (reward - drift.quality[arm]) * feature
        inverse = np.linalg.inv(gram)
        width = [np.sqrt(feature @ inverse @ feature) for feature in drift.features]
        return drift.quality + drift.features @ inverse @ moment + exploration * np.array(width)

    oracle = oracles.discounted_linear_ucb(family, 1)
    assert len(agreeing(oracle, family, oracles.LINEAR_EXPLORATION, bounds, discounted=True)) == 1


def test_linear_ucb_refuses_switching_arms() -> None:
    with pytest.raises(ValueError, match=r"drifting arms .* not switching"):
        oracles.discounted_linear_ucb(changing.switching(), 1)


@pytest.mark.parametrize("family", [changing.switching(3, 20), changing.interests(5, 2, 20)])
def test_the_greedy_learner_pulls_the_arm_of_the_highest_posterior_mean(family: EnvFamily) -> None:
    steps, inference = played(oracles.greedy(family, 1), family, 0), oracles.exact_filter(family)
    belief = inference.prior
    for arm, reward in zip(steps.action, steps.reward, strict=True):
        means = inference.means(belief)
        assert float(means[arm]) >= float(jnp.max(means)) - 1e-4
        belief = inference.observe(belief, arm, reward)


def test_a_second_episode_starts_from_the_prior() -> None:
    family = changing.switching(3, 10)
    oracle = oracles.greedy(family, 2)
    steps, inference = played(oracle, family, 0), oracles.exact_filter(family)
    means = inference.means(after_pulls(inference, zip(steps.action[10:19], steps.reward[10:19], strict=True)))
    assert float(means[steps.action[19]]) >= float(jnp.max(means)) - 1e-4


@pytest.mark.slow
def test_learners_are_ordered_by_their_information() -> None:
    family = changing.interests()
    makers = (
        oracles.discounted_ucb,
        oracles.discounted_linear_ucb,
        oracles.greedy,
        oracles.knowledge_gradient,
        oracles.best_arm,
    )

    def mean(oracle: Oracle) -> float:
        keys = jax.random.split(jax.random.key(0), (1000, 2))
        score = jax.jit(jax.vmap(lambda key: oracle.adapt(key[0], (), family.tasks.sample(key[1])).score))(keys)
        return float(score.mean())

    forgetting, linear, greedy, knowledge_gradient, known = [mean(make(family, 1)) for make in makers]
    # The two rules with an exact filter differ by less than their errors. They are myopic: LinUCB explores more.
    assert forgetting < min(greedy, knowledge_gradient)
    assert max(greedy, knowledge_gradient) < linear < known


def test_shifted_tasks_change_faster() -> None:
    keys = jax.random.split(jax.random.key(0), 500)
    for make in (changing.switching, changing.drifting, changing.interests):
        family = make(horizon=4, shifted=True)
        assert float(jax.vmap(family.tasks.sample)(keys).rate.max()) <= 0.1
        heldout = np.asarray(jax.vmap(family.tasks.sample_heldout)(keys).rate)
        assert heldout.min() >= 0.15
        assert heldout.max() <= 0.4


def test_a_course_is_drawn() -> None:
    family = changing.drifting(3, 10)
    task = family.tasks.sample(jax.random.key(0))
    nothing = np.zeros(0, np.float32)
    frames = [Frame(nothing, (), None, 0, 0, 0.0, False), Frame(nothing, (), np.array(1), 0, 1, 1.0, False)]
    pictures = [family.env.draw(frames[:n], task) for n in (1, 2)]  # pyright: ignore[reportAttributeAccessIssue]
    assert {picture.size for picture in pictures} == {(SIZE, SIZE)}
    assert np.any(np.asarray(pictures[0]) != np.asarray(pictures[1]))


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (changing.switching, {"arms": 0}),
        (changing.switching, {"horizon": 0}),
        (changing.drifting, {"noise": 0.0}),
        (changing.drifting, {"arms": -2}),
        (changing.interests, {"items": 0}),
        (changing.interests, {"rank": 0}),
        (changing.interests, {"seed": -1}),
    ],
)
def test_settings_out_of_range_are_named(make: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        make(**settings)


@pytest.mark.parametrize(
    "make",
    [
        oracles.best_arm,
        oracles.thompson,
        oracles.discounted_ucb,
        oracles.discounted_thompson,
        oracles.discounted_linear_ucb,
    ],
)
def test_references_refuse_other_families_and_no_episodes(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must be one of environments\.changing, not one of Bandit"):
        make(bandits.bernoulli(), 1)
    with pytest.raises(ValueError, match="episodes"):
        make(changing.drifting(2, 3), 0)
