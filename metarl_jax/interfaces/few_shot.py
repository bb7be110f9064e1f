"""Few-shot supervised tasks, and networks that learn them in context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Key, Params, Task, TaskDistribution


class FewShotTask(NamedTuple):
    """The examples of a few-shot task."""

    support: Any
    """The examples to adapt on: ``(x, y)`` with leading axes of examples."""
    query: Any
    """The examples that adaptation is scored on: ``(x, y)``, disjoint from the support."""
    further: Any = None
    """Further examples ``(x, y)``, disjoint from support and query, for reference learners that know more than a
    support. None: there are none."""


class FewShot(NamedTuple):
    """A family of few-shot supervised tasks."""

    tasks: TaskDistribution
    draw: Callable[[Key, Task], FewShotTask]
    """``(key, task) ->`` newly drawn examples of ONE task."""
    loss: Callable[[Array, Array], Array]
    """``(prediction [N, ...], y [N, ...]) -> scalar``: the loss to minimise."""
    score: Callable[[Array, Array], Array]
    """``(prediction, y) -> scalar``: the reported score, such as the accuracy or the mean squared error."""
    outputs: int
    """Numbers that a prediction has for each example: classes, or the dimension of ``y``."""


class Examples(NamedTuple):
    """Shapes and kinds of the examples of few-shot tasks."""

    shape: tuple[int, ...]
    """The shape of one input."""
    outputs: int
    """The number of outputs that a prediction has for each example."""
    classes: bool
    """Whether labels are classes; otherwise they are vectors."""
    supports: tuple[int, int]
    """The number of examples of a support: in training, and of a held-out task."""


class FewShotFamily(NamedTuple):
    """Few-shot tasks for training and for testing; the two may have different numbers of examples."""

    training: FewShot
    heldout: FewShot
    """The tasks for testing. Only their held-out tasks and validation tasks are drawn."""

    def examples(self) -> Examples:
        """Return shapes and kinds of the examples."""
        drawn = [_support(few_shot) for few_shot in self]
        x, y = drawn[0]
        return Examples(
            shape=x.shape[1:],
            outputs=self.training.outputs,
            classes=jnp.issubdtype(y.dtype, jnp.integer),
            supports=(x.shape[0], drawn[1][0].shape[0]),
        )


def _support(few_shot: FewShot) -> Any:
    """Return the shapes of a support."""

    def draw(key: Key) -> Any:
        key_task, key_draw = jax.random.split(key)
        return few_shot.draw(key_draw, few_shot.tasks.sample(key_task)).support

    return jax.eval_shape(draw, jax.random.key(0))


class InContextLearner(NamedTuple):
    """A network that predicts the labels of queries from labelled examples of the same task."""

    init: Callable[[Key], Params]
    predict: Callable[[Params, tuple[Array, Array], Array], Array]
    """``(params, support (x [N, ...], y [N, ...]), x [Q, ...]) -> prediction [Q, outputs]``, for ONE task. The
    prediction of a query does not depend on other queries."""
    outputs: int
    """Numbers that a prediction has for each example: classes, or the dimension of ``y``."""
    most_examples: int | None = None
    """The largest number of examples of a support that the network reads. None: there is no limit."""


class InContextProblem(NamedTuple):
    """A problem of in-context learning. A task is a ``FewShotTask``: it is drawn together with its examples."""

    tasks: TaskDistribution
    learner: InContextLearner
    loss: Callable[[Array, Array], Array]
    """``(prediction [Q, outputs], y [Q, ...]) -> scalar``: the loss to minimise."""
    score: Callable[[Array, Array], Array]
    """``(prediction [Q, outputs], y [Q, ...]) -> scalar``: the reported score."""
