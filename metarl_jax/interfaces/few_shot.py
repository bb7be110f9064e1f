"""Few-shot supervised tasks, and networks that learn them in context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl_jax.types import Array, Key, Params, Task, TaskDistribution


class FewShotTask(NamedTuple):
    """A few-shot task as a learner meets it."""

    support: Any
    """What may be adapted on: ``(x, y)`` with leading axes of examples."""
    query: Any
    """What adaptation is judged on; disjoint from the support."""


class FewShot(NamedTuple):
    """A family of few-shot supervised tasks."""

    tasks: TaskDistribution
    draw: Callable[[Key, Task], FewShotTask]
    """The examples of ONE task, drawn afresh."""
    loss: Callable[[Array, Array], Array]
    """``(prediction [N, ...], y [N, ...]) -> scalar``: what is descended on."""
    score: Callable[[Array, Array], Array]
    """``(prediction, y) -> scalar``: what is reported (mean squared error, accuracy)."""
    outputs: int
    """Numbers that a prediction has for each example: classes, or the dimension of ``y``."""


class InContextLearner(NamedTuple):
    """A network that is shown labelled examples and predicts others of the same task from them."""

    init: Callable[[Key], Params]
    predict: Callable[[Params, tuple[Array, Array], Array], Array]
    """``(params, support (x [N, ...], y [N, ...]), x [Q, ...]) -> prediction [Q, outputs]``: ONE task; queries do not
    see each other."""
    outputs: int
    """Numbers that a prediction has for each example: classes, or the dimension of ``y``."""


class InContextProblem(NamedTuple):
    """What learning to read examples sees: a task is an ``FewShotTask``, drawn whole."""

    tasks: TaskDistribution
    learner: InContextLearner
    loss: Callable[[Array, Array], Array]
    """``(prediction [Q, outputs], y [Q, ...]) -> scalar``: what is descended on."""
    score: Callable[[Array, Array], Array]
    """Of the same: what is reported."""
