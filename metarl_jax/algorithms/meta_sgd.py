"""Meta-SGD (Li et al. 2017, arXiv 1707.09835): MAML that also learns a step size for every parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import meta_gradient
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import Learner, explicit
from metarl_jax.ops.inner_loop import step_sizes
from metarl_jax.types import Algorithm, Key, Params

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(meta_gradient.Config):
    """Settings of Meta-SGD: those that all gradient-based meta-learners share.

    ``inner_rate`` is where every step size starts; they may become negative, as in the paper.
    """


class MetaParams(NamedTuple):
    """What Meta-SGD learns."""

    params: Params
    rates: Params
    """A step size for each of ``params``."""


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Meta-SGD on a problem; ``adapt`` is that of MAML, with the learned step sizes.

    Raises:
        ValueError: if the configuration is out of range, or asks of the problem what it has not got.
    """
    meta_gradient.validate_with(config, problem)

    def init(key: Key) -> MetaParams:
        params = problem.init(key)
        return MetaParams(params, jax.tree.map(lambda p: jnp.full_like(p, config.inner_rate), params))

    learner = Learner(
        init=init,
        start=lambda meta: meta.params,
        params=lambda meta, adapting: adapting,
        loss=lambda meta: problem.inner_loss,
        rates=lambda meta, steps: step_sizes(meta.rates, meta.params, steps),
        max_norm=config.inner_norm,
    )
    gradient = "first_order" if config.first_order else "exact"
    return meta_gradient.make(problem, learner, explicit(learner, gradient, config.rematerialise), config)
