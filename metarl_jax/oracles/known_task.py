"""What could be had by who knows the task."""

from __future__ import annotations

import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.types import Adaptation, EnvFamily, Key, Oracle, State, Task


def optimal(family: EnvFamily, stages: int) -> Oracle:
    """The best expected return of the known task, at every stage.

    Args:
        family: one with ``optimal_return``.
        stages: scores wanted.

    Raises:
        ValueError: if the family's optimum is not known, or there are no stages.
    """
    stages = positive_int("stages", stages)
    optimal_return = family.optimal_return
    if optimal_return is None:
        raise ValueError("this family's optimal return is not known")

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del key, state
        return Adaptation(jnp.full(stages, optimal_return(task), jnp.float32))

    return Oracle("best play, goal known", adapt)
