"""Reference learners of few-shot classification without meta-training: nearest centroids and ridge regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.interfaces.few_shot import FewShotFamily
from metarl_jax.types import Adaptation, Array, Key, Oracle, State, Task

PENALTY = 1.0
"""The weight of the squared coefficients in ridge regression (the default of scikit-learn's ``RidgeClassifier``)."""

Fit: TypeAlias = Callable[[Array, Array, Array], Array]
"""``(x [N, F], one-hot labels [N, classes], queries [Q, F]) -> prediction [Q, classes]``."""


def nearest_centroid(family: FewShotFamily, stages: int) -> Oracle:
    """Make a learner that predicts the class whose mean of the support is nearest, by the Euclidean distance.

    Args:
        family: few-shot classification. Each x is flattened.
        stages: the number of scores, which are all equal.
    """

    def fit(x: Array, labels: Array, query: Array) -> Array:
        centroids = labels.T @ x / jnp.sum(labels, axis=0)[:, None]
        return 2 * query @ centroids.T - jnp.sum(centroids**2, axis=-1)

    return _make("nearest centroid", family, stages, fit, lambda task: task.support)


def ridge_regression(family: FewShotFamily, stages: int) -> Oracle:
    """Make a learner that fits a linear classifier to the support, by ridge regression of one-hot labels.

    The arguments are those of ``nearest_centroid``.
    """
    return _make("ridge regression", family, stages, ridge, lambda task: task.support)


def many_examples(family: FewShotFamily, stages: int) -> Oracle:
    """Make a learner that fits a linear classifier to the support and to all further examples of a task.

    These further examples (``FewShotTask.further``) are those that no other learner has, so that the task is nearly
    known. The arguments are those of ``nearest_centroid``.

    Raises:
        ValueError: by ``adapt``, if the task has no further examples.
    """

    def examples(task: Any) -> tuple[Array, Array]:
        if task.further is None:
            raise ValueError("many_examples needs tasks with further examples (FewShotTask.further): there are none")
        x, y = (jnp.concatenate(pair) for pair in zip(task.support, task.further, strict=True))
        return x, y

    return _make("many examples, ridge regression", family, stages, ridge, examples)


def ridge(x: Array, labels: Array, query: Array) -> Array:
    """Predict by ridge regression with an intercept, of which the squared coefficients have the weight ``PENALTY``.

    Args:
        x: the inputs of N examples, ``[N, F]``.
        labels: their targets, ``[N, outputs]``.
        query: the inputs to predict for, ``[Q, F]``.

    Returns:
        The predictions, ``[Q, outputs]``.
    """
    mean, level = jnp.mean(x, axis=0), jnp.mean(labels, axis=0)
    centred, deviation = x - mean, labels - level

    def normal(weights: Array) -> Array:
        return centred.T @ (centred @ weights) + PENALTY * weights

    # The penalty makes the equations well-conditioned, so that a few iterations are enough for any number of features.
    weights, _ = jax.scipy.sparse.linalg.cg(normal, centred.T @ deviation, maxiter=100)
    return (query - mean) @ weights + level


def _make(name: str, family: FewShotFamily, stages: int, fit: Fit, examples: Callable[[Any], Any]) -> Oracle:
    stages, heldout = positive_int("stages", stages), family.heldout

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del key, state
        x, y = examples(task)
        query, target = task.query
        flat, asked = (z.reshape(z.shape[0], -1) for z in (x, query))
        # The penalty of ridge regression is for inputs of about length 1.
        size = jnp.sqrt(jnp.mean(jnp.sum(flat**2, axis=-1)))
        # A support of texts without known words consists of zeros.
        size = jnp.where(size > 0, size, 1.0)
        flat, asked = flat / size, asked / size
        prediction = fit(flat, jax.nn.one_hot(y, heldout.outputs, dtype=jnp.float32), asked)
        return Adaptation(jnp.full(stages, heldout.score(prediction, target)))

    return Oracle(name, adapt)
