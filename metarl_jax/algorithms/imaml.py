"""iMAML (Rajeswaran et al. 2019, arXiv 1909.04630): MAML whose outer gradient needs only the adapted parameters.

The inner loss has a proximal term that pulls towards the meta-parameters. At its minimum, the implicit function theorem
gives the derivative of the adapted parameters without the path of adaptation. The use of memory therefore does not grow
with the number of inner steps.

The method needs two conditions. First, the inner loss with the proximal term must be convex where adaptation ends, so
``strength`` must exceed the most negative curvature of the loss. Second, adaptation must converge: ``inner_rate`` must
be below 2 / (largest curvature + ``strength``), and ``inner_steps`` a few times 1 / (``inner_rate * strength``). A new
network on one sinusoid has curvatures from -31 to 473. On sinusoids it did not learn with a strength of 2, 40 or 100,
so there is no such preset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import InnerLoopConfig, make_learner
from metarl_jax.ops.inner_loop import implicit_descend, proximal
from metarl_jax.outer_updates import AdamConfig, adam
from metarl_jax.settings import Doc, PositiveFloat, PositiveInt
from metarl_jax.types import Algorithm, Params

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(AdamConfig, InnerLoopConfig):
    """Settings of iMAML."""

    strength: Annotated[
        PositiveFloat,
        Doc(
            "Weight lambda of the proximal term that pulls towards the meta-parameters (2 in the few-shot "
            "experiments of Rajeswaran et al. 2019)."
        ),
    ] = 2.0
    solver_iterations: Annotated[
        PositiveInt,
        Doc(
            "Number of conjugate-gradient iterations of the outer gradient (5 in the experiments of Rajeswaran et "
            "al. 2019)."
        ),
    ] = 5


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make iMAML on a problem. ``adapt`` is that of MAML, with the proximal term.

    Raises:
        ValueError: if the problem is wrong (``family_checks``).
    """
    check_problem(problem)
    learner = make_learner(problem, config)._replace(
        loss=lambda meta: proximal(problem.inner_loss, meta, config.strength)
    )

    def adapted(meta: Params, supports: Any) -> Params:
        rates = learner.rates(meta, config.inner_steps)
        return implicit_descend(
            problem.inner_loss,
            meta,
            supports,
            rates,
            strength=config.strength,
            iterations=config.solver_iterations,
            max_norm=config.max_inner_norm,
        )

    return meta_gradient.make(problem, learner, adapted, config, adam(config, config.iterations))
