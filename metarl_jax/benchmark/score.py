"""The score of the benchmark, in NumPy on the host. ``metarl_jax.benchmark`` defines it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl_jax.benchmark import families
from metarl_jax.checks import choice
from metarl_jax.ops.statistics import Estimate, interquartile_mean, stratified_bootstrap

Kind: TypeAlias = Literal["exact", "simulated", "trained", "bound"]
Role: TypeAlias = Literal["random", "fixed", "posterior", "optimum"]
ROLES: tuple[Role, ...] = ("random", "fixed", "posterior", "optimum")


class Reference(NamedTuple):
    """The return of an episode of a reference, as a mean over the episodes of a trial and over tasks.

    ``metarl_jax.benchmark`` says for which references these are the tasks of the split, or all possible tasks.
    """

    value: float
    standard_error: float
    """The standard error over repeated trials on the same tasks; 0 for an exact value."""
    kind: Kind
    """"exact": computed without simulation. "simulated": the mean of simulated trials. "trained": the mean of a learner
    that was trained, so that a better one may exist. "bound": a bound, or a value of other tasks, as ``what`` says."""
    what: str
    """The reference in words."""


@functools.cache
def _content() -> Mapping[str, Mapping[str, Mapping[str, Mapping[str, float | str] | None]]]:
    file = resources.files("metarl_jax.benchmark").joinpath("references.json")
    return json.loads(file.read_text(encoding="utf-8"))["families"]


def reference(name: str, split: families.Split, role: Role) -> Reference | None:
    """Return a stored reference value.

    Args:
        name: the name of a family of the benchmark.
        split: "heldout" or "shifted".
        role: "random": uniformly random actions. "fixed": the best policy that does not adapt. "posterior": posterior
            sampling. "optimum": the Bayes-optimal learner (*gridnavi*) or a near-optimal one (*bandit*) on held-out
            tasks, otherwise the optimal policy of the known task.

    Returns:
        The reference; None if there is none of this role, which is possible for "posterior" only.

    Raises:
        ValueError: if there is no such family, split or role, or the family has no shifted tasks.
    """
    choice(*families.SPLITS)("split", split)
    choice(*ROLES)("role", role)
    if split not in families.get(name).splits:
        raise ValueError(f"{name} has no {split} tasks")
    found = _content()[name][split][role]
    if found is None:
        return None
    return Reference(
        float(found["value"]), float(found["standard_error"]), _kind(str(found["kind"])), str(found["what"])
    )


def _kind(text: str) -> Kind:
    for kind in ("exact", "simulated", "trained", "bound"):
        if text == kind:
            return kind
    raise ValueError(f"{text!r} is not a kind of reference")


def scale(name: str, split: families.Split = "heldout") -> tuple[Reference, Reference]:
    """Return the references whose scores are 0 and 1: the best fixed policy, and the optimum."""
    fixed, optimum = reference(name, split, "fixed"), reference(name, split, "optimum")
    assert fixed is not None and optimum is not None
    return fixed, optimum


def normalised(returns: ArrayLike, fixed: float, optimum: float) -> NDArray[np.float64]:
    """Return the scores of returns: 0 for the best fixed policy, and 1 for the optimum.

    Args:
        returns: returns of an episode, of any shape.
        fixed: the return of the best fixed policy.
        optimum: the return of the optimum, as a mean over the episodes of a trial.

    Raises:
        ValueError: if the optimum is not larger than the return of the best fixed policy.
    """
    if not optimum > fixed:
        raise ValueError(f"the optimum ({optimum}) must be larger than the return of the best fixed policy ({fixed})")
    return (np.asarray(returns, np.float64) - fixed) / (optimum - fixed)


class FamilyScore(NamedTuple):
    """The score of a learner on a family and a split."""

    mean: float
    """The mean over seeds, tasks and episodes."""
    interval: tuple[float, float]
    """The 95 % interval, over tasks and seeds, which includes the standard errors of the references."""
    by_seed: list[float]
    """The mean of each seed."""
    by_episode: list[float]
    """The mean of each adaptation episode."""
    success: list[float] | None
    """The share of successful episodes, by adaptation episode. Every task counts once, so that a goal counts as often
    as it was drawn. None: the tasks do not define success."""


def of_family(returns: ArrayLike, success: ArrayLike | None, fixed: Reference, optimum: Reference) -> FamilyScore:
    """Compute the score of a learner on a family.

    The variance of the mean is the sum of that of the tasks (with the mean over seeds on each task), that of the seeds
    if there are several, and those of the two references by the delta method.

    Args:
        returns: ``[S, N, E]`` of S seeds, N >= 2 tasks and E episodes.
        success: whether each episode is a success, ``[S, N, E]``; None: the tasks do not define success.
        fixed: the best fixed policy.
        optimum: the optimum.
    """
    scores = normalised(returns, fixed.value, optimum.value)
    mean, span = float(scores.mean()), optimum.value - fixed.value
    by_task, by_seed = scores.mean(axis=(0, 2)), scores.mean(axis=(1, 2))
    variance = float(by_task.var(ddof=1)) / by_task.size
    if by_seed.size > 1:
        variance += float(by_seed.var(ddof=1)) / by_seed.size
    variance += ((mean - 1) * fixed.standard_error / span) ** 2 + (mean * optimum.standard_error / span) ** 2
    margin = 1.96 * math.sqrt(variance)
    return FamilyScore(
        mean,
        (mean - margin, mean + margin),
        by_seed.tolist(),
        scores.mean(axis=(0, 1)).tolist(),
        None if success is None else np.asarray(success, np.float64).mean(axis=(0, 1)).tolist(),
    )


def aggregate(by_seed: ArrayLike) -> Estimate:
    """Return the interquartile mean over seeds and families, with a stratified bootstrap interval.

    Args:
        by_seed: the scores of S seeds on F families, ``[S, F]``. The seeds of each family are resampled independently,
            because each family has its own training runs. With one seed, the interval has no width.
    """
    return stratified_bootstrap(by_seed, interquartile_mean)
