"""MAML (Finn et al. 2017, arXiv 1703.03400): meta-parameters from which a few gradient steps solve a new task.

The outer gradient is exact, through the inner gradients, or first-order. On problems of reinforcement learning with
``outer_update="trust_region"`` this is MAML-TRPO; with an ``exploration_credit`` E-MAML (Stadie et al. 2018, arXiv
1803.01118). How the inner gradient is estimated, and with it the meta-gradient, is the problem's
(``problems.policy_gradient``).
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import meta_gradient
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import Learner, explicit
from metarl_jax.ops.inner_loop import step_sizes
from metarl_jax.types import Algorithm

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(meta_gradient.Config):
    """Settings of MAML: those that all gradient-based meta-learners share."""


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """MAML on a problem.

    ``adapt`` scores a held-out task before any gradient step and after each: ``[adaptation_steps + 1]``; the learner
    is the network's parameters then.

    Raises:
        ValueError: if the configuration is out of range, or asks of the problem what it has not got.
    """
    meta_gradient.validate_with(config, problem)
    learner = Learner(
        init=problem.init,
        start=lambda meta: meta,
        params=lambda meta, adapting: adapting,
        loss=lambda meta: problem.inner_loss,
        rates=lambda meta, steps: step_sizes(config.inner_rate, meta, steps),
        max_norm=config.inner_norm,
    )
    gradient = "first_order" if config.first_order else "exact"
    return meta_gradient.make(problem, learner, explicit(learner, gradient, config.rematerialise), config)
