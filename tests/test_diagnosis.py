"""Diagnosis: patients of a clinic, the best plan, the posterior over clinics, and reference learners."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import diagnosis
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import diagnosis as oracles
from metarl_jax.rollout import episode
from metarl_jax.types import Inputs, Oracle

Strategy: TypeAlias = int | tuple[int, "Strategy", "Strategy"]
"""A diagnosis; or a test, what follows a negative result, and what follows a positive one."""


def strategies(left: tuple[int, ...], conditions: int) -> Iterator[Strategy]:
    """Enumerate all strategies that order each of the tests ``left`` at most once."""
    yield from range(conditions)
    for test in left:
        later = list(strategies(tuple(other for other in left if other != test), conditions))
        for negative, positive in itertools.product(later, later):
            yield test, negative, positive


def value(strategy: Strategy, condition: int, positive: np.ndarray, harms: np.ndarray, cost: float) -> float:
    """Return the expected reward of a patient with a known condition."""
    if isinstance(strategy, int):
        return 1.0 if strategy == condition else -harms[condition]
    test, after_negative, after_positive = strategy
    p = positive[test, condition]
    later = [value(after, condition, positive, harms, cost) for after in (after_negative, after_positive)]
    return -cost + (1 - p) * later[0] + p * later[1]


@pytest.mark.parametrize(("tests", "conditions", "cost"), [(1, 3, 0.0), (2, 2, 0.1), (2, 3, 0.05), (2, 3, 0.02)])
def test_the_plan_is_the_best_of_all_strategies(tests: int, conditions: int, cost: float) -> None:
    family = diagnosis.make(tests, conditions, cost=cost)
    harms = np.arange(1, conditions + 1) / conditions
    every = list(strategies(tuple(range(tests)), conditions))
    assert family.optimal_return is not None
    for seed in range(6):
        task = family.tasks.sample(jax.random.key(seed))
        prevalence, positive = np.asarray(task.prevalence, np.float64), np.asarray(task.positive, np.float64)
        values = [sum(p * value(one, c, positive, harms, cost) for c, p in enumerate(prevalence)) for one in every]
        np.testing.assert_allclose(family.optimal_return(task), max(values), atol=1e-5)


def always(actions: tuple[int, ...]) -> Any:
    """Return a policy of an episode that takes the given actions."""

    def act(key: jax.Array, time: jax.Array, inputs: Inputs) -> tuple[jax.Array, jax.Array, tuple[()]]:
        del key, inputs
        return time + 1, jnp.asarray(actions, jnp.int32)[time], ()

    return act


def test_conditions_and_results_of_patients_follow_bayes_rule() -> None:
    family = diagnosis.make(tests=2, conditions=3)
    task = family.tasks.sample(jax.random.key(3))
    run = jax.jit(jax.vmap(lambda key: episode(key, always((0, 1, 2)), jnp.int32(0), family, task)[1]))
    steps = run(jax.random.split(jax.random.key(0), 40_000))
    results = np.asarray(steps.final_obs[:, 2, :2], np.int64)
    # The diagnosis is condition 0, so that the reward reveals each condition.
    reward = np.asarray(steps.reward[:, 2])
    condition = np.argmin(np.abs(reward[:, None] - np.array([1.0, -2 / 3, -1.0])), axis=1)
    np.testing.assert_allclose(np.asarray(steps.reward[:, :2]), -0.05, atol=1e-6)
    prevalence, positive = np.asarray(task.prevalence, np.float64), np.asarray(task.positive, np.float64)
    for first, second in itertools.product((-1, 1), (-1, 1)):
        chance = [
            np.where(result > 0, positive[test], 1 - positive[test]) for test, result in ((0, first), (1, second))
        ]
        joint = prevalence * chance[0] * chance[1]
        seen = condition[(results[:, 0] == first) & (results[:, 1] == second)]
        np.testing.assert_allclose(len(seen) / 40_000, joint.sum(), atol=0.015)
        shares = np.bincount(seen, minlength=3) / len(seen)
        np.testing.assert_allclose(shares, joint / joint.sum(), atol=5 * 0.5 / np.sqrt(len(seen)))


def test_a_repeated_test_costs_again_and_a_patient_without_diagnosis_is_harmed() -> None:
    family = diagnosis.make(tests=2, conditions=2, cost=0.25)
    for seed in range(8):
        task = family.tasks.sample(jax.random.key(seed))
        steps = episode(jax.random.key(seed), always((1, 1, 1)), jnp.int32(0), family, task)[1]
        observed = np.asarray(steps.final_obs)
        np.testing.assert_allclose(observed[:, 2], [1 / 3, 2 / 3, 1])
        np.testing.assert_array_equal(observed[:, 0], 0)
        assert np.all(observed[:, 1] == observed[0, 1])
        assert observed[0, 1] in (-1, 1)
        np.testing.assert_array_equal(steps.terminated, [False, False, True])
        assert float(steps.reward[0]) == float(steps.reward[1]) == -0.25
        assert float(steps.reward[2]) in (-0.75, -1.25)
        assert family.success is not None
        assert not bool(jnp.any(family.success(task, steps)))


def test_an_observation_has_a_place_in_the_plan() -> None:
    every = np.array(list(itertools.product((0, -1, 1), repeat=3)))
    observations = np.concatenate([every, np.full((27, 1), 2 / 4)], axis=1)
    step, index = diagnosis.place(jnp.asarray(observations, jnp.float32))
    digits = np.where(every > 0, 2, -every)
    np.testing.assert_array_equal(index, digits @ np.array([1, 3, 9]))
    np.testing.assert_array_equal(step, 2)


def test_training_rewards_and_rewards_have_the_same_mean_up_to_the_value_of_the_best_policy() -> None:
    family, patients = diagnosis.make(tests=2, conditions=2), 40_000
    task = family.tasks.sample(jax.random.key(4))

    def act(key: jax.Array, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], jax.Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, 4, jnp.int32), ()

    assert family.privileged is not None
    training_reward = family.privileged.training_reward
    assert training_reward is not None
    assert family.optimal_return is not None

    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        steps = episode(key, act, (), family, task)[1]
        own = jnp.where(steps.valid, training_reward(task, steps, 0.9), 0.0)
        return jnp.sum(jnp.where(steps.valid, steps.reward, 0.0)), jnp.sum(own)

    paid, own = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), patients))
    assert float(jnp.max(own)) <= 1e-6
    difference = np.asarray(paid) - np.asarray(own) - float(family.optimal_return(task))
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(patients)
    assert np.std(own) < 0.9 * np.std(paid)


def test_the_posterior_over_clinics_is_that_of_bayes_rule() -> None:
    """The posterior means equal those of many clinics of the prior, weighted by the likelihood of three patients."""
    family = diagnosis.make(tests=2, conditions=2, quality=0.7, certainty=4.0)
    env, harms = family.env, jnp.array([0.5, 1.0])
    assert isinstance(env, diagnosis.Diagnosis)
    task = family.tasks.sample(jax.random.key(5))
    posterior, seen = env.prior, []
    # The diagnoses are right for some patients and wrong for other ones.
    for seed, actions in enumerate(((0, 1, 2), (1, 2, 2), (0, 3, 2), (0, 1, 1))):
        steps = episode(jax.random.key(seed), always(actions), jnp.int32(0), family, task)[1]
        posterior = oracles.updated(posterior, steps, harms, 0.05)
        last = int(np.argmax(np.asarray(steps.terminated)))
        pays = float(steps.reward[last]) + (0.05 if actions[last] < 2 else 0.0)
        condition = actions[last] - 2 if pays > 0 else int(np.argmin(np.abs(np.array([0.5, 1.0]) + pays)))
        seen.append((condition, np.asarray(steps.final_obs)[last, :2]))
    assert {condition for condition, _ in seen} == {0, 1}
    random, number = np.random.default_rng(0), 400_000
    prevalence = random.dirichlet([1.0, 1.0], number)
    means = np.array([[0.7, 0.3], [0.3, 0.7]])
    positive = random.beta(4 * means, 4 * (1 - means), (number, 2, 2))
    weight = np.ones(number)
    for condition, results in seen:
        weight *= prevalence[:, condition]
        for test, result in enumerate(results):
            chance = positive[:, test, condition]
            weight *= {1: chance, -1: 1 - chance, 0: 1.0}[int(result)]
    weight /= weight.sum()
    mean_prevalence, mean_positive = posterior.mean
    np.testing.assert_allclose(mean_prevalence, weight @ prevalence, atol=0.005)
    np.testing.assert_allclose(mean_positive, np.einsum("n,ntc->tc", weight, positive), atol=0.005)


def test_a_patient_without_diagnosis_has_the_condition_of_the_harm_after_the_cost_of_the_test() -> None:
    # The reward -0.3 - 0.5 of condition 0 is nearer to the harm of condition 1.
    family = diagnosis.make(tests=1, conditions=2, cost=0.3)
    env, harms = family.env, jnp.array([0.5, 1.0])
    assert isinstance(env, diagnosis.Diagnosis)
    for condition in (0, 1):
        task = diagnosis.Clinic(jax.nn.one_hot(condition, 2), jnp.full((1, 2), 0.5), 2)
        steps = episode(jax.random.key(0), always((0, 0)), jnp.int32(0), family, task)[1]
        found = oracles.updated(env.prior, steps, harms, env.cost)
        np.testing.assert_array_equal(found.conditions - env.prior.conditions, np.arange(2) == condition)


def test_counts_have_a_flat_prior_and_the_patients_of_the_posterior() -> None:
    family = diagnosis.make(tests=2, conditions=2)
    env = family.env
    assert isinstance(env, diagnosis.Diagnosis)
    steps = episode(jax.random.key(1), always((0, 2, 2)), jnp.int32(0), family, family.tasks.sample(jax.random.key(5)))[
        1
    ]
    counts = oracles.counted(env.prior, oracles.updated(env.prior, steps, jnp.array([0.5, 1.0]), env.cost))
    assert sorted(counts.conditions.tolist()) == [1, 2]
    condition, positive = int(np.argmax(counts.conditions)), int(steps.final_obs[0, 0] > 0)
    expected = np.ones((2, 2, 2))
    expected[0, condition, positive] = 2
    np.testing.assert_allclose(counts.results, expected, atol=1e-5)


@pytest.mark.slow
def test_clinics_have_the_prior_s_means_and_unusual_clinics_are_less_even() -> None:
    for shifted in (False, True):
        family = diagnosis.make(shifted=shifted)
        draw = jax.jit(jax.vmap(family.tasks.sample_heldout))
        clinics = draw(jax.random.split(jax.random.key(0), 5000))
        own = np.eye(3) > 0
        mean = np.asarray(clinics.positive).mean(axis=0)
        np.testing.assert_allclose(mean[own], 0.675 if shifted else 0.85, atol=0.02)
        np.testing.assert_allclose(mean[~own], 0.325 if shifted else 0.15, atol=0.02)
        largest = np.asarray(clinics.prevalence).max(axis=1).mean()
        # The largest of three shares is 11 / 18 on average if they are uniform on the simplex.
        assert largest > 0.8 if shifted else abs(largest - 11 / 18) < 0.01
        assert isinstance(family.env, diagnosis.Diagnosis)
        np.testing.assert_allclose(np.asarray(family.env.prior.mean[1])[own], 0.85, atol=1e-6)


@pytest.mark.slow
def test_reference_learners_are_ordered_by_what_they_know() -> None:
    family, tasks, patients = diagnosis.make(), 1500, 12

    def scores(oracle: Oracle) -> np.ndarray:
        found = meta_test(jax.random.key(0), oracle.adapt, ((),), family.tasks, num_tasks=tasks)
        return np.asarray(found.score)[0]

    makers = (oracles.mean_clinic, oracles.counted_conditions, oracles.posterior_mean, oracles.clinic_known)
    mean, counting, learning, known = (scores(make(family, patients)) for make in makers)
    # The first patient is planned for the mean clinic, and the last one for the counts of all others.
    assert abs(counting[:, 0].mean() - mean[:, 0].mean()) < 4 * 0.9 / np.sqrt(tasks)
    assert learning.mean() > counting.mean() > mean.mean()
    error = 4 * 0.9 / np.sqrt(tasks)
    assert abs(learning[:, 0].mean() - mean[:, 0].mean()) < error
    assert learning[:, -1].mean() > mean.mean() + 0.05
    assert known.mean() > learning[:, -1].mean() + 0.01
    # The mean of the best expected return is the score of the learner that plays it.
    drawn = jax.vmap(family.tasks.sample_heldout)(jax.random.split(jax.random.key(1), 5000))
    assert family.optimal_return is not None
    assert abs(known.mean() - float(jnp.mean(jax.vmap(family.optimal_return)(drawn)))) < 0.03


def test_the_optimal_action_of_a_trial_is_that_of_the_learner_who_knows_the_clinic() -> None:
    family = diagnosis.make()
    task = family.tasks.sample(jax.random.key(2))
    play = oracles.clinic_known(family, 5).play
    assert play is not None
    steps = play(jax.random.key(0), task)
    assert family.privileged is not None
    assert family.privileged.optimal_action is not None
    best = family.privileged.optimal_action(task, steps)
    valid = np.asarray(steps.valid)
    np.testing.assert_array_equal(np.asarray(best)[valid], np.asarray(steps.action)[valid])


def test_bad_settings_are_refused() -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"tests": 0}, "tests must be a positive whole number"),
        ({"conditions": 1}, "conditions must be a whole number of at least 2"),
        ({"cost": -1.0}, "cost must be a finite number at least 0"),
        ({"quality": 1.0}, "quality must be a finite number above 0 and below 1"),
        ({"certainty": 0.0}, "certainty must be a finite number above 0"),
        ({"shifted": 1}, "shifted must be True or False"),
    )
    for settings, message in refused:
        with pytest.raises(ValueError, match=message):
            diagnosis.make(**settings)
