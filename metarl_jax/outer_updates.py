"""The outer updates of gradient-based meta-learners: Adam, and a step within a trust region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from annotated_types import Interval

from metarl_jax.batching import map_tasks
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import Data, Objective, OuterUpdate, require_policy
from metarl_jax.ops.trust_region import metric_product, trust_region_step
from metarl_jax.settings import Doc, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import Array, Metrics, Params


@dataclass(frozen=True, kw_only=True)
class AdamConfig(Settings):
    """Settings of Adam as the outer update."""

    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size at the start of training.")] = 1e-3
    final_learning_rate_fraction: Annotated[
        Fraction,
        Doc(
            "Adam's step size at the end of training, as a fraction of that at the start; it changes linearly (1 as "
            "published: constant)."
        ),
    ] = 1.0
    epochs: Annotated[PositiveInt, Doc("Number of Adam steps on the data of one meta-iteration.")] = 1

    def optimizer(self, iterations: int) -> optax.GradientTransformation:
        """Return Adam with its schedule for a run of ``iterations`` meta-iterations."""
        rate, fraction = self.learning_rate, self.final_learning_rate_fraction
        return optax.adam(optax.linear_schedule(rate, rate * fraction, iterations * self.epochs))


def adam(config: AdamConfig, iterations: int) -> OuterUpdate:
    """Make an outer update of ``config.epochs`` steps of Adam on the data of each meta-iteration.

    Args:
        config: settings.
        iterations: the number of meta-iterations of a whole run, over which the step size changes.
    """
    optimizer = config.optimizer(iterations)

    def step(gradient: Params, params: Params, state: optax.OptState) -> tuple[Params, optax.OptState]:
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def update(
        objective: Objective, value: Array, gradient: Params, params: Params, state: optax.OptState
    ) -> tuple[Params, optax.OptState, Metrics]:
        del value

        def epoch(now: tuple[Params, optax.OptState], _: None) -> tuple[tuple[Params, optax.OptState], None]:
            return step(objective.value_and_gradient(now[0])[1], *now), None

        params, state = step(gradient, params, state)
        if config.epochs > 1:
            (params, state), _ = jax.lax.scan(epoch, (params, state), None, length=config.epochs - 1)
        return params, state, {}

    return OuterUpdate(optimizer.init, update)


@dataclass(frozen=True, kw_only=True)
class TrustRegionConfig(Settings):
    """Settings of a trust-region step as the outer update."""

    max_divergence: Annotated[
        PositiveFloat,
        Doc(
            "The trust region: the largest mean KL divergence in nats of the adapted policies from those that "
            "collected the data."
        ),
    ] = 0.01
    conjugate_gradients: Annotated[
        PositiveInt,
        Doc("Iterations of the conjugate-gradient solver of the trust region (10 in published implementations)."),
    ] = 10
    metric_share: Annotated[
        Annotated[float, Interval(gt=0, le=1)],
        Doc(
            "Share of the episodes from which the trust region's metric is estimated (0.1 in Schulman et al. 2015). "
            "The metric decides the direction of a step; whether the step is within the region is tested on all "
            "episodes."
        ),
    ] = 0.1
    damping: Annotated[
        NonNegativeFloat, Doc("Added to the trust region's metric (1e-5 in published implementations).")
    ] = 1e-5


def trust_region(config: TrustRegionConfig, problem: InnerProblem) -> OuterUpdate:
    """Make an outer update that is a step within a trust region (TRPO, Schulman et al. 2015) of the adapted policies.

    The metrics are those of ``ops.trust_region.trust_region_step``.

    Args:
        config: settings.
        problem: a problem with a policy.

    Raises:
        ValueError: if the problem has no policy, or if its losses also train a critic.
    """
    policy = require_policy(problem, "a trust region")
    if policy.has_critic:
        raise ValueError("a trust region does not bound a critic: use baseline 'linear' or 'none', or Adam")

    def subsample(data: Data) -> Data:
        supports = jax.vmap(lambda batch: policy.subsample(batch, config.metric_share))(data.supports)
        return data._replace(supports=supports, query=policy.subsample(data.query, config.metric_share))

    def update(
        objective: Objective, value: Array, gradient: Params, params: Params, state: optax.OptState
    ) -> tuple[Params, optax.OptState, Metrics]:
        def outputs(meta: Params, data: Data) -> Any:
            # Adaptation to a part of the data ends at other parameters. The derivative is that of the part, evaluated
            # where adaptation to all data ended.
            place = jax.tree.map(
                lambda whole, some: some + jax.lax.stop_gradient(whole - some),
                data.adapting,
                objective.adapted(meta, data.supports),
            )
            return policy.distribution(objective.learner.params(meta, place), data.query)

        def evaluate(meta: Params, data: Data) -> tuple[Array, Array]:
            moved = policy.divergence(policy.distribution(objective.params(meta, data), data.query), data.query)
            return objective.loss(meta, data)[0], moved

        some = map_tasks(subsample)(objective.data)
        product = metric_product(
            lambda meta: map_tasks(outputs, (None, 0))(meta, some),
            lambda outputs: jnp.mean(map_tasks(policy.divergence)(outputs, some.query)),
            params,
        )
        params, metrics = trust_region_step(
            lambda meta: objective.mean(evaluate, meta),
            value,
            gradient,
            product,
            params,
            max_divergence=config.max_divergence,
            iterations=config.conjugate_gradients,
            damping=config.damping,
        )
        return params, state, metrics

    return OuterUpdate(lambda params: optax.EmptyState(), update)
