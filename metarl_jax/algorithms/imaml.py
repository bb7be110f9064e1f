"""iMAML (Rajeswaran et al. 2019, arXiv 1909.04630): MAML whose outer gradient needs only where adaptation ended.

Adaptation is pulled towards the meta-parameters; at its minimum the derivative of the adapted parameters follows from
the implicit function theorem, whatever the path: memory does not grow with the number of inner steps.

Two things are asked of the loss that no setting can give: with the pull it must curve upwards where adaptation ends
(``strength`` above its most negative curvature), and adaptation must have got there (``inner_rate`` below 2 over the
largest curvature plus ``strength``, and ``inner_steps`` of a few times 1 / (``inner_rate * strength``)). A network
that regresses sinusoids has curvatures from -31 to 473 when it is new (one task's): there it learnt nothing
with a strength of 2, 40 or 100, which is why there is no such preset.
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
            "lambda, of the pull towards the meta-parameters (2 in the few-shot experiments of Rajeswaran et al. 2019)."
        ),
    ] = 2.0
    solver_iterations: Annotated[PositiveInt, Doc("Conjugate-gradient iterations of the outer gradient (5 there).")] = 5


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make iMAML on a problem; ``adapt`` is that of MAML, with the pull.

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
