"""Multi-task training: the baseline of gradient-based meta-learners (Finn et al. 2017, section 5).

Adam trains the parameters on all tasks jointly, without adaptation. On a held-out task they are fine-tuned by the same
gradient descent as MAML's adaptation.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import FineTuningConfig, make_learner
from metarl_jax.outer_updates import AdamConfig, adam
from metarl_jax.types import Algorithm

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(AdamConfig, FineTuningConfig):
    """Settings of multi-task training with Adam. The settings of the inner loop are those of fine-tuning."""


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make multi-task training on a problem. ``adapt`` is that of MAML.

    Raises:
        ValueError: if the problem is wrong (``family_checks``).
    """
    check_problem(problem)
    learner = make_learner(problem, config)
    return meta_gradient.make(problem, learner, None, config, adam(config, config.iterations))
