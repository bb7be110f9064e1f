"""MAML-TRPO (Finn et al. 2017, arXiv 1703.03400): MAML for reinforcement learning, with a trust region.

The outer update is a step within a trust region of the adapted policies (Schulman et al. 2015, arXiv 1502.05477). The
problem (``problems.policy_gradient``) defines how the inner gradient, and with it the meta-gradient, is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import DifferentiationConfig, InnerLoopConfig, make_learner, unrolled
from metarl_jax.outer_updates import TrustRegionConfig, trust_region
from metarl_jax.types import Algorithm

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(TrustRegionConfig, DifferentiationConfig, InnerLoopConfig):
    """Settings of MAML-TRPO."""


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make MAML-TRPO on a problem of reinforcement learning. ``adapt`` is that of MAML.

    Raises:
        ValueError: if the problem is wrong (``family_checks``), or has no policy, or trains a critic.
    """
    check_problem(problem)
    learner = make_learner(problem, config)
    return meta_gradient.make(problem, learner, unrolled(learner, config), config, trust_region(config, problem))
