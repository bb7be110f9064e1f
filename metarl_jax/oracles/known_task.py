"""The optimal return of the known task, as a reference."""

from __future__ import annotations

import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.types import Adaptation, EnvFamily, Key, Oracle, State, Task


def optimal(family: EnvFamily, stages: int) -> Oracle:
    """Make an oracle whose score is the best expected return of the known task, at every stage of adaptation.

    Args:
        family: a family with ``optimal_return``.
        stages: the number of scores.

    Raises:
        ValueError: if the optimal return of the family is not known, or ``stages`` is not a positive whole number.
    """
    stages = positive_int("stages", stages)
    optimal_return = family.optimal_return
    if optimal_return is None:
        raise ValueError("the optimal return of this family is not known (EnvFamily.optimal_return is None)")

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del key, state
        return Adaptation(jnp.full(stages, optimal_return(task), jnp.float32))

    return Oracle("best play, goal known", adapt)
