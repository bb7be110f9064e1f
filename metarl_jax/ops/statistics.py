"""Confidence intervals over tasks and over seeds, in NumPy on the host.

The statistics of Agarwal et al. (2021) are implemented here because ``rliable`` 1.2.0, the last version, cannot be
imported together with pandas 3 (its dependency ``arch`` 7.2 fails), and installs half a gigabyte of packages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit


class Estimate(NamedTuple):
    """An estimate with its confidence interval."""

    mean: float
    """The estimate: a mean or another statistic."""
    low: float
    """Lower end of the confidence interval."""
    high: float
    """Upper end of the confidence interval."""
    standard_error: float


def mean_with_interval(scores: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the mean of independent scores, with Student's confidence interval.

    Args:
        scores: ``[N]``, one for each task (or for each seed); at least two.
        confidence: the interval's coverage, in (0, 1).

    Raises:
        ValueError: if there are fewer than two scores, or more than one axis, or the confidence is out of range.
    """
    x = _scores(scores, axes=1)
    if x.size < 2:
        raise ValueError(f"an interval needs at least two scores, not {x.size}")
    _check_confidence(confidence)
    with np.errstate(invalid="ignore"):
        # If a score is not finite, the results are not finite either, and no warning is needed.
        mean = float(x.mean())
        standard_error = float(x.std(ddof=1)) / math.sqrt(x.size)
    margin = float(stdtrit(x.size - 1, 0.5 + confidence / 2)) * standard_error
    return Estimate(mean, mean - margin, mean + margin, standard_error)


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of the middle half of all scores (Agarwal et al. 2021, arXiv 2108.13264, section 4.3).

    A quarter of the scores, rounded down, is dropped at each end. The interquartile mean is less noisy than the median,
    and less sensitive to a few extreme scores than the mean.

    Args:
        scores: any shape; at least one.
    """
    x = np.asarray(scores, np.float64).ravel()
    if x.size == 0:
        raise ValueError("there are no scores")
    cut = x.size // 4
    if cut == 0:
        return float(x.mean())
    return float(np.partition(x, (cut, x.size - cut - 1))[cut : x.size - cut].mean())


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float] = interquartile_mean,
    *,
    seed: int = 0,
    repetitions: int = 2000,
    confidence: float = 0.95,
    whole_rows: bool = False,
) -> Estimate:
    """Return a percentile interval of a statistic of scores, by resampling seeds (Agarwal et al. 2021, section 4.2).

    Args:
        scores: ``[S, N]``: S seeds, N tasks (or adaptation episodes).
        statistic: a function of an array ``[S, N]``.
        seed: the seed of the resampling.
        repetitions: the number of resamples.
        confidence: the interval's coverage, in (0, 1).
        whole_rows: False resamples the seeds in each column independently, as in the paper, where every entry is a
            training run of its own. True resamples whole rows, which is correct if one learner was tested on all N
            tasks, as in ``meta_test``. The scores in a row then depend on the same training run, and independent
            resampling of columns would give too narrow an interval.

    Returns:
        The statistic of the given scores, its interval, and the standard deviation over resamples.

    Raises:
        ValueError: if the scores do not have two axes, if there are none, or if a setting is out of range.
    """
    x = _scores(scores, axes=2)
    if x.size == 0:
        raise ValueError("there are no scores")
    _check_confidence(confidence)
    if repetitions < 1:
        raise ValueError(f"repetitions must be positive, not {repetitions}")
    generator = np.random.default_rng(seed)
    seeds, tasks = x.shape
    resampled = np.empty(repetitions)
    for i in range(repetitions):
        rows = generator.integers(seeds, size=(seeds, 1 if whole_rows else tasks))
        resampled[i] = statistic(np.take_along_axis(x, np.broadcast_to(rows, x.shape), axis=0))
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(statistic(x)), float(low), float(high), float(resampled.std()))


def probability_of_improvement(
    ours: ArrayLike, other: ArrayLike, *, seed: int = 0, repetitions: int = 2000, confidence: float = 0.95
) -> Estimate:
    """Return the probability that a run of ``ours`` scores higher than one of ``other`` (Agarwal et al. 2021, section
    4.3).

    On each task it is the share of pairs of runs in which ``ours`` scores higher, where ties count half (the U
    statistic of Mann and Whitney divided by its maximum); the result is the mean over tasks. The interval is that of a
    stratified bootstrap: the seeds of both are resampled within each task.

    Args:
        ours: ``[S, N]``: S seeds, N tasks.
        other: ``[R, N]``: R seeds, the same N tasks.
        seed: the seed of the resampling.
        repetitions: the number of resamples.
        confidence: the interval's coverage, in (0, 1).

    Raises:
        ValueError: if the scores do not have two axes, if there are none, if the numbers of tasks differ, or if a
            setting is out of range.
    """
    x, y = _scores(ours, axes=2), _scores(other, axes=2)
    if x.size == 0 or y.size == 0:
        raise ValueError("there are no scores")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both must have the same tasks, not {x.shape[1]} and {y.shape[1]}")
    _check_confidence(confidence)
    if repetitions < 1:
        raise ValueError(f"repetitions must be positive, not {repetitions}")
    # The outcome of a pair of runs is the same in all resamples; only the pairs in a resample differ.
    won = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    generator = np.random.default_rng(seed)
    tasks = np.arange(x.shape[1])
    resampled = np.empty(repetitions)
    for i in range(repetitions):
        first = generator.integers(len(x), size=x.shape)
        second = generator.integers(len(y), size=y.shape)
        resampled[i] = won[first[:, None], second[None], tasks].mean()
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(won.mean()), float(low), float(high), float(resampled.std()))


def _scores(scores: ArrayLike, axes: int) -> NDArray[np.float64]:
    x = np.asarray(scores, np.float64)
    if x.ndim != axes:
        raise ValueError(f"scores must have {axes} {'axis' if axes == 1 else 'axes'}, not the shape {x.shape}")
    return x


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
