"""Intervals: known values, and coverage measured in simulations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from metarl_jax.ops.statistics import (
    Estimate,
    interquartile_mean,
    mean_with_interval,
    probability_of_improvement,
    stratified_bootstrap,
)

# Student's t, 97.5 % point, by degrees of freedom (printed tables).
STUDENT_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 19: 2.093, 99: 1.984, 10_000: 1.960}


@pytest.mark.parametrize(("freedom", "quantile"), STUDENT_975.items())
def test_mean_with_interval_is_students(freedom: int, quantile: float) -> None:
    scores = np.random.default_rng(freedom).normal(3, 2, freedom + 1)
    got = mean_with_interval(scores)
    error = scores.std(ddof=1) / math.sqrt(freedom + 1)
    assert got.mean == pytest.approx(scores.mean())
    assert got.standard_error == pytest.approx(error)
    assert (got.high - got.mean) / error == pytest.approx(quantile, rel=2e-3)
    assert got.mean - got.low == pytest.approx(got.high - got.mean)


def covered(intervals: list[Estimate], truth: float, confidence: float) -> None:
    """Assert that the share of intervals that contain the truth is within 4 standard deviations of the binomial."""
    share = np.mean([e.low <= truth <= e.high for e in intervals])
    assert abs(share - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / len(intervals))


@pytest.mark.parametrize(("tasks", "confidence"), [(2, 0.95), (3, 0.95), (10, 0.8), (100, 0.95)])
def test_mean_with_interval_covers_the_mean(tasks: int, confidence: float) -> None:
    draws = np.random.default_rng(0).normal(1.5, 0.7, (2000, tasks))
    covered([mean_with_interval(x, confidence) for x in draws], 1.5, confidence)


def test_interquartile_mean_known_values() -> None:
    assert interquartile_mean([[4.0, 1.0], [3.0, 100.0]]) == pytest.approx(3.5)  # drops 1 and 100
    assert interquartile_mean(np.arange(12)) == pytest.approx(5.5)
    assert interquartile_mean([7.0]) == 7.0
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0  # too few to drop any
    assert interquartile_mean([0.0, 1.0, 2.0, 3.0, 1e9]) == 2.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.randoms())
def test_interquartile_mean_is_the_trimmed_mean(scores: list[float], random: object) -> None:
    cut = len(scores) // 4
    kept = sorted(scores)[cut : len(scores) - cut]
    assert interquartile_mean(scores) == pytest.approx(np.mean(kept), rel=1e-9, abs=1e-6)


def test_bootstrap_covers_where_cells_are_independent() -> None:
    # Each entry is a run of its own. The statistic is the mean over seeds and unequal tasks.
    generator = np.random.default_rng(1)
    task_means = np.linspace(-1, 1, 6)
    intervals = [
        stratified_bootstrap(generator.normal(task_means, 1.0, (20, 6)), np.mean, seed=i, repetitions=200)
        for i in range(400)
    ]
    # Percentile intervals of S seeds are narrower than they should be by sqrt(1 - 1 / S).
    share = np.mean([e.low <= 0 <= e.high for e in intervals])
    assert 0.89 < share < 0.98
    assert np.mean([e.standard_error for e in intervals]) == pytest.approx(1 / math.sqrt(120), rel=0.06)


def test_bootstrap_of_whole_rows_keeps_the_dependence_between_tasks() -> None:
    generator = np.random.default_rng(2)
    luck = generator.normal(0, 1, (30, 1))
    scores = luck + generator.normal(0, 0.1, (30, 200))
    rows = stratified_bootstrap(scores, np.mean, whole_rows=True, repetitions=500)
    cells = stratified_bootstrap(scores, np.mean, repetitions=500)
    assert rows.standard_error == pytest.approx(luck.std() / math.sqrt(30), rel=0.15)
    assert cells.standard_error < rows.standard_error / 5


def test_bootstrap_is_a_function_of_its_seed() -> None:
    scores = np.random.default_rng(3).normal(size=(5, 7))
    assert stratified_bootstrap(scores, seed=4) == stratified_bootstrap(scores, seed=4)
    assert stratified_bootstrap(scores, seed=4) != stratified_bootstrap(scores, seed=5)


def test_bootstrap_stays_within_the_columns() -> None:
    scores = np.tile(np.arange(8.0), (4, 1))  # all seeds are equal, so resampling has no effect
    got = stratified_bootstrap(scores, repetitions=50)
    assert got == Estimate(3.5, 3.5, 3.5, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_with_interval([1.0]), "at least two"),
        (lambda: mean_with_interval([[1.0, 2.0]]), "1 axis"),
        (lambda: mean_with_interval([1.0, 2.0], confidence=95), "confidence"),
        (lambda: interquartile_mean([]), "no scores"),
        (lambda: stratified_bootstrap([1.0, 2.0]), "2 axes"),
        (lambda: stratified_bootstrap(np.ones((0, 3))), "no scores"),
        (lambda: stratified_bootstrap([[1.0]], repetitions=0), "repetitions"),
        (lambda: stratified_bootstrap([[1.0]], confidence=0.0), "confidence"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_infinite_score_has_no_interval_and_no_warning() -> None:
    estimate = mean_with_interval([1.0, float("inf"), 2.0])
    assert estimate.mean == float("inf")
    assert np.isnan([estimate.low, estimate.high, estimate.standard_error]).all()


def test_probability_of_improvement_is_mann_whitneys() -> None:
    generator = np.random.default_rng(5)
    ours, other = generator.integers(0, 6, (7, 4)), generator.integers(0, 6, (5, 4))
    expected = mannwhitneyu(ours, other, axis=0).statistic.mean() / (7 * 5)
    assert probability_of_improvement(ours, other).mean == pytest.approx(expected)
    assert probability_of_improvement(other, ours).mean == pytest.approx(1 - expected)
    assert probability_of_improvement([[2.0], [3.0]], [[1.0]])[:3] == (1, 1, 1)
    assert probability_of_improvement([[1.0], [2.0]], [[1.0], [2.0]]).mean == 0.5


def test_probability_of_improvement_resamples_the_runs_of_both() -> None:
    """The bootstrap resamples the scores themselves, with the seeds of each task independently."""
    generator = np.random.default_rng(6)
    ours, other = generator.normal(0.5, 1, (6, 3)), generator.normal(0, 1, (8, 3))
    got = probability_of_improvement(ours, other, repetitions=4000)
    again = []
    for _ in range(1000):
        won = []
        for task in range(3):
            x, y = (generator.choice(scores[:, task], len(scores)) for scores in (ours, other))
            won.append(np.mean([np.sign(a - b) / 2 + 0.5 for a in x for b in y]))
        again.append(np.mean(won))
    spread = np.asarray(again)
    assert got.standard_error == pytest.approx(spread.std(), rel=0.15)
    assert got.low == pytest.approx(np.quantile(spread, 0.025), abs=0.05)
    assert got.high == pytest.approx(np.quantile(spread, 0.975), abs=0.05)


@pytest.mark.parametrize(
    ("ours", "other", "expected"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "the same tasks, not 3 and 2"),
        (np.zeros((0, 3)), np.zeros((2, 3)), "there are no scores"),
        (np.zeros(3), np.zeros((2, 3)), "2 axes"),
    ],
)
def test_probability_of_improvement_refuses_invalid_scores(ours: np.ndarray, other: np.ndarray, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        probability_of_improvement(ours, other)
