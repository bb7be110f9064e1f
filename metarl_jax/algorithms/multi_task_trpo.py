"""Multi-task training for reinforcement learning, with a trust region (the baseline of Finn et al. 2017, section 5.3).

Steps within a trust region train the policy on all tasks jointly, without adaptation. On a held-out task it is
fine-tuned by the same gradient descent as MAML's adaptation.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import FineTuningConfig, make_learner
from metarl_jax.outer_updates import TrustRegionConfig, trust_region
from metarl_jax.types import Algorithm

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(TrustRegionConfig, FineTuningConfig):
    """Settings of multi-task training with a trust region. The settings of the inner loop are those of fine-tuning."""


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make multi-task training on a problem of reinforcement learning. ``adapt`` is that of MAML.

    Raises:
        ValueError: if the problem is wrong (``family_checks``), or has no policy, or trains a critic.
    """
    check_problem(problem)
    learner = make_learner(problem, config)
    return meta_gradient.make(problem, learner, None, config, trust_region(config, problem))
