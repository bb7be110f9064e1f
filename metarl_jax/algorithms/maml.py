"""MAML (Finn et al. 2017, arXiv 1703.03400): meta-parameters from which a few gradient steps solve a new task.

The outer gradient passes through the inner gradients (exact), or treats them as constants (FOMAML). In reinforcement
learning, the problem (``problems.policy_gradient``) defines how the inner gradient, and with it the meta-gradient, is
estimated. The outer update is Adam; ``maml_trpo`` is MAML with a trust region.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import DifferentiationConfig, InnerLoopConfig, make_learner, unrolled
from metarl_jax.outer_updates import AdamConfig, adam
from metarl_jax.types import Algorithm

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(AdamConfig, DifferentiationConfig, InnerLoopConfig):
    """Settings of MAML with Adam."""


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make MAML on a problem.

    ``adapt`` scores a held-out task before any gradient step and after each step: ``[adaptation_steps + 1]``. The
    learner is the network's parameters at the same times.

    Raises:
        ValueError: if the problem is wrong (``family_checks``).

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.datasets.sinusoid.maml_family()
        >>> predictor = mrl.networks.mlp.make_predictor(family, mrl.networks.mlp.PredictorSettings())
        >>> problem = mrl.problems.few_shot(family.training, predictor, heldout=family.heldout)
        >>> config = mrl.algorithms.maml.Config(tasks=4, iterations=3, adaptation_steps=5)
        >>> algorithm = mrl.algorithms.maml.make(problem, config)
        >>> run = mrl.train(jax.random.key(0), algorithm)
        >>> mrl.evaluate(jax.random.key(1), algorithm, run.state, problem, num_tasks=10).score.shape  # tasks, steps
        (10, 6)
    """
    check_problem(problem)
    learner = make_learner(problem, config)
    return meta_gradient.make(problem, learner, unrolled(learner, config), config, adam(config, config.iterations))
