"""Meta-SGD (Li et al. 2017, arXiv 1707.09835): MAML that also learns a step size for every parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import DifferentiationConfig, InnerLoopConfig, make_learner, unrolled
from metarl_jax.ops.inner_loop import step_sizes
from metarl_jax.outer_updates import AdamConfig, adam
from metarl_jax.types import Algorithm, Key, Params

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(AdamConfig, DifferentiationConfig, InnerLoopConfig):
    """Settings of Meta-SGD: those of MAML.

    ``inner_rate`` is the initial value of every step size. Step sizes may become negative, as in the paper.
    """


class MetaParams(NamedTuple):
    """The meta-parameters of Meta-SGD."""

    params: Params
    rates: Params
    """A step size for each number in ``params``."""


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make Meta-SGD on a problem. ``adapt`` is that of MAML, with the learned step sizes.

    Raises:
        ValueError: if the problem is wrong (``family_checks``).
    """
    check_problem(problem)

    def init(key: Key) -> MetaParams:
        params = problem.init(key)
        return MetaParams(params, jax.tree.map(lambda p: jnp.full_like(p, config.inner_rate), params))

    learner = make_learner(problem, config, init=init, start=lambda meta: meta.params)._replace(
        rates=lambda meta, steps: step_sizes(meta.rates, meta.params, steps)
    )
    return meta_gradient.make(problem, learner, unrolled(learner, config), config, adam(config, config.iterations))
