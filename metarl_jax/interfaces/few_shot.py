"""Few-shot supervised tasks, and networks that learn them in context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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


class Examples(NamedTuple):
    """What the examples of few-shot tasks are like."""

    shape: tuple[int, ...]
    """Of one input."""
    outputs: int
    """Numbers that a prediction has for each example."""
    classes: bool
    """Whether labels are classes; otherwise they are vectors."""
    supports: tuple[int, int]
    """Examples of a support in training, and of a held-out task."""


class FewShotFamily(NamedTuple):
    """Few-shot tasks to train on and to be tested on, which may have other numbers of examples."""

    training: FewShot
    heldout: FewShot
    """Its held-out tasks and validation tasks are used."""

    def examples(self) -> Examples:
        """What the examples are like."""
        drawn = [_support(few_shot) for few_shot in self]
        x, y = drawn[0]
        return Examples(
            shape=x.shape[1:],
            outputs=self.training.outputs,
            classes=jnp.issubdtype(y.dtype, jnp.integer),
            supports=(x.shape[0], drawn[1][0].shape[0]),
        )


def _support(few_shot: FewShot) -> Any:
    """The shapes of a support."""

    def draw(key: Key) -> Any:
        key_task, key_draw = jax.random.split(key)
        return few_shot.draw(key_draw, few_shot.tasks.sample(key_task)).support

    return jax.eval_shape(draw, jax.random.key(0))


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
