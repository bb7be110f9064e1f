"""CAVIA (Zintgraf et al. 2019, arXiv 1810.03642): MAML that adapts only context parameters, an input of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import DifferentiationConfig, InnerLoopConfig, make_learner, unrolled
from metarl_jax.outer_updates import AdamConfig, adam
from metarl_jax.settings import Doc, PositiveFloat, PositiveInt
from metarl_jax.types import Algorithm, Params

State = meta_gradient.State
CONTEXT, NETWORK = "context", "network"
"""The two parts of the parameters of a network with a context."""


@dataclass(frozen=True, kw_only=True)
class Config(AdamConfig, DifferentiationConfig, InnerLoopConfig):
    """Settings of CAVIA; defaults are those of its authors' code for the sinusoid."""

    iterations: Annotated[PositiveInt, Doc("Meta-iterations of a whole run.")] = 50000
    inner_rate: Annotated[PositiveFloat, Doc("Step size of the inner steps.")] = 1.0


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make CAVIA on a problem whose network has context parameters. They are zero at the start of adaptation.

    ``adapt`` is that of MAML, but changes the context parameters only.

    Raises:
        ValueError: if the problem is wrong (``family_checks``), or if the network's parameters are not the two parts
            "context" and "network".
    """
    check_problem(problem)
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    if not (isinstance(shapes, dict) and set(shapes) == {CONTEXT, NETWORK}):
        raise ValueError("CAVIA needs a network with a context (networks.mlp.predictor(..., context_size=5))")

    def start(meta: Params) -> Params:
        # The context parameters have the dtype of the network's parameters.
        dtype = jnp.result_type(*jax.tree.leaves(meta))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), shapes[CONTEXT])

    def params(meta: Params, context: Params) -> Params:
        return {CONTEXT: context, NETWORK: meta}

    learner = make_learner(problem, config, init=lambda key: problem.init(key)[NETWORK], start=start, params=params)
    return meta_gradient.make(problem, learner, unrolled(learner, config), config, adam(config, config.iterations))
