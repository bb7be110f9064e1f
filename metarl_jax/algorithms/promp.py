"""ProMP (Rothfuss et al. 2019, arXiv 1810.06784): proximal meta-policy search.

The outer update is several steps of Adam on the data of one iteration. Clipping keeps the adapted policy near the
policy that collected the query. A penalty on the divergence keeps the policy before adaptation, on which the estimates
of the inner gradients depend, near the policy that collected the support.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import meta_gradient
from metarl_jax.batching import task_mean, task_mean_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import (
    Data,
    DifferentiationConfig,
    InnerLoopConfig,
    collect_tasks,
    make_learner,
    require_policy,
    unrolled,
)
from metarl_jax.ops.inner_loop import descend
from metarl_jax.outer_updates import AdamConfig
from metarl_jax.settings import Doc, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from metarl_jax.types import Adaptation, Algorithm, Array, Key, Metrics, Params, Task, Tree


@dataclass(frozen=True, kw_only=True)
class Config(AdamConfig, DifferentiationConfig, InnerLoopConfig):
    """Settings of ProMP. Defaults are those of its authors' code for the half-cheetah's direction.

    The problem's ``estimator`` should be "likelihood_ratio" and its ``clip`` 0.3.
    """

    iterations: Annotated[PositiveInt, Doc("Number of meta-iterations of a whole run.")] = 1001
    tasks: Annotated[PositiveInt, Doc("Number of tasks per meta-iteration.")] = 40
    inner_rate: Annotated[PositiveFloat, Doc("Step size of the inner steps.")] = 0.1
    adaptation_steps: Annotated[NonNegativeInt, Doc("Number of gradient steps on a held-out task.")] = 1
    epochs: Annotated[PositiveInt, Doc("Number of Adam steps on the data of one meta-iteration.")] = 5
    divergence_weight: Annotated[
        NonNegativeFloat,
        Doc(
            "Weight of the mean KL divergence (in nats) of the policies before each inner step from those that "
            "collected the data."
        ),
    ] = 5e-4
    adaptive_weight: Annotated[
        bool,
        Doc(
            "Whether ``divergence_weight`` is halved if the divergence after an iteration is below "
            "``target_divergence`` / 1.5, and doubled if it is above ``target_divergence`` * 1.5."
        ),
    ] = False
    target_divergence: Annotated[
        PositiveFloat, Doc("Target of the divergence, in nats, if ``adaptive_weight`` is True.")
    ] = 0.01


class State(NamedTuple):
    """The state of the outer loop."""

    params: Params
    optimizer: optax.OptState
    divergence_weight: Array


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make ProMP on a problem of reinforcement learning. ``adapt`` is that of MAML.

    Raises:
        ValueError: if the problem is wrong (``family_checks``), or has no policy.
    """
    check_problem(problem)
    policy = require_policy(problem, "ProMP")
    distribution, divergence = policy.distribution, policy.divergence
    learner = make_learner(problem, config)
    adapted = unrolled(learner, config)
    optimizer = config.optimizer(config.iterations)

    def init(key: Key) -> State:
        params = problem.init(key)
        return State(params, optimizer.init(params), jnp.float32(config.divergence_weight))

    def collect(key: Key, meta: Params, task: Task) -> Data:
        return meta_gradient.collect(key, problem, learner, meta, task, config.inner_steps)

    def inner_divergence(meta: Params, data: Data) -> Array:
        """Return the divergence of the policies before inner steps from those that collected, as a mean over steps."""

        def step(adapting: Params, now: tuple[Any, Tree]) -> tuple[Params, Array]:
            support, rate = now
            moved = divergence(distribution(adapting, support), support)
            one = jax.tree.map(lambda x: x[None], (support, rate))
            return descend(problem.inner_loss, adapting, *one, max_norm=config.max_inner_norm), moved

        first = jax.tree.map(lambda x: x[0], data.supports)
        if config.inner_steps == 1:
            return divergence(distribution(meta, first), first)
        rates = learner.rates(meta, config.inner_steps)
        return jnp.mean(jax.lax.scan(step, meta, (data.supports, rates))[1])

    def task_loss(meta: Params, data: Data, weight: Array) -> tuple[Array, Metrics]:
        params, moved = adapted(meta, data.supports), inner_divergence(meta, data)
        loss = problem.outer_loss(params, data.query) + weight * moved
        first = jax.tree.map(lambda x: x[0], data.supports)
        return loss, {
            "loss": loss,
            "inner_divergence": moved,
            "outer_divergence": divergence(distribution(params, data.query), data.query),
            "score": problem.score(params, data.query),
            "score_before_adaptation": problem.score(meta, first),
        }

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        data = collect_tasks(key, problem, collect, state.params, config.tasks)

        def loss(meta: Params, data: Data) -> tuple[Array, Metrics]:
            return task_loss(meta, data, state.divergence_weight)

        gradient_of = task_mean_gradient(loss, data_of=lambda meta, data: data.examples())

        def epoch(now: tuple[Params, optax.OptState], _: None) -> tuple[tuple[Params, optax.OptState], Metrics]:
            params, moments = now
            measured, gradient = gradient_of(params, data)
            metrics = measured[1]
            updates, moments = optimizer.update(gradient, moments, params)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            return (optax.apply_updates(params, updates), moments), metrics

        (params, moments), rows = jax.lax.scan(epoch, (state.params, state.optimizer), None, length=config.epochs)
        metrics = jax.tree.map(lambda x: x[0], rows)
        _, after = task_mean(loss, data_of=lambda meta, data: data.examples())(params, data)
        for name in ("inner_divergence", "outer_divergence"):
            metrics[name] = after[name]
        weight = state.divergence_weight
        if config.adaptive_weight:
            moved, target = after["inner_divergence"], config.target_divergence
            weight = jnp.where(moved < target / 1.5, weight / 2, jnp.where(moved > target * 1.5, weight * 2, weight))
        return State(params, moments, weight), {**metrics, "divergence_weight": weight}

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        rates = meta_gradient.adaptation_rates(learner, state.params, config)
        return meta_gradient.adapt(key, problem, learner, state.params, task, rates)

    acting = meta_gradient.acting(problem, learner, config)
    return Algorithm(init, step, adapt, config.iterations, "gradient step", acting=acting)
