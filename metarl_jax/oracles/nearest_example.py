"""A reference learner without training: the label of a query is that of the nearest example of the support."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl_jax.interfaces.few_shot import FewShotTask, InContextProblem
from metarl_jax.types import Adaptation, Array, Key, Oracle, State


def make(problem: InContextProblem) -> Oracle:
    """Make a learner that predicts the label of the nearest example of the support, by the Euclidean distance of x."""

    def adapt(key: Key, state: State, task: FewShotTask) -> Adaptation:
        del key, state
        (x_support, y_support), (x, y) = task.support, task.query

        def nearest(x: Array) -> Array:
            distance = jnp.sum((x_support - x) ** 2, axis=tuple(range(1, x_support.ndim)))
            return y_support[jnp.argmin(distance)]

        prediction = jax.vmap(nearest)(x)
        if jnp.issubdtype(prediction.dtype, jnp.integer):
            prediction = jax.nn.one_hot(prediction, problem.learner.outputs, dtype=jnp.float32)
        return Adaptation(problem.score(prediction, y)[None])

    return Oracle("nearest example", adapt, "reading")
