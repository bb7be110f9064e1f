"""E-MAML (Stadie et al. 2018, arXiv 1803.01118): MAML-TRPO with a further term that credits exploration.

The credit of a task's episodes before adaptation is the score after adaptation minus the mean score of the other tasks.
Without this term, the meta-gradient does not include the effect of the policy before adaptation on the data that
adaptation uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from annotated_types import Ge

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import (
    CreditTerm,
    DifferentiationConfig,
    InnerLoopConfig,
    make_learner,
    require_policy,
    unrolled,
)
from metarl_jax.outer_updates import TrustRegionConfig, trust_region
from metarl_jax.settings import Doc, PositiveFloat
from metarl_jax.types import Algorithm, Array, Params

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(TrustRegionConfig, DifferentiationConfig, InnerLoopConfig):
    """Settings of E-MAML."""

    tasks: Annotated[
        int,
        Ge(2),
        Doc("Number of tasks per meta-iteration; the score of each is compared with the mean of the others."),
    ] = 25
    exploration_credit: Annotated[
        PositiveFloat,
        Doc(
            "Weight of the exploration term. The score is a return, and the outer loss is a mean over steps of "
            'scaled advantages. With the estimator "log_likelihood" and one inner step, the exact gradient of the '
            "expected return after adaptation has the weight 1 / (horizon * standard deviation of an advantage)."
        ),
    ] = 0.01


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make E-MAML on a problem of reinforcement learning. ``adapt`` is that of MAML.

    Raises:
        ValueError: if the problem is wrong (``family_checks``), or has no policy, or trains a critic.
    """
    check_problem(problem)
    policy = require_policy(problem, "E-MAML")
    learner = make_learner(problem, config)

    def credits(scores: Array) -> Array:
        """Return the score of each task minus the mean of the others, a baseline independent of the task's data."""
        return (scores - jnp.mean(scores)) * (config.tasks / (config.tasks - 1))

    def loss(before: Params, first: Any, credit: Array) -> Array:
        return -(config.exploration_credit * credit * policy.log_likelihood(before, first))

    return meta_gradient.make(
        problem,
        learner,
        unrolled(learner, config),
        config,
        trust_region(config, problem),
        credit=CreditTerm(credits, loss),
    )
