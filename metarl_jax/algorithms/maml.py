"""MAML (Finn et al. 2017, arXiv 1703.03400): meta-parameters from which a few gradient steps solve a new task.

The outer gradient is exact (through the inner gradients), first-order, or implicit (iMAML: Rajeswaran et al. 2019,
arXiv 1909.04630). Learning on a task has two parts: its data are collected, each inner step's by the learner as it
then is; then the adapted parameters are a pure function of the meta-parameters and those data, which is
differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax.checks import check_fields, choice, positive_int, real
from metarl_jax.ops.inner_loop import descend, implicit_descend, proximal, step_sizes
from metarl_jax.training import task_batch
from metarl_jax.types import Adaptation, Algorithm, Array, InnerProblem, Key, Metrics, Params, Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of MAML; defaults are those of the sinusoid of Finn et al. (2017)."""

    iterations: int = 70000
    """Meta-iterations of a whole run."""
    tasks: int = 25
    """Tasks per meta-iteration."""
    inner_steps: int = 1
    """Gradient steps on a task in training."""
    inner_rate: float = 0.01
    """Step size of the inner steps."""
    adaptation_steps: int = 10
    """Gradient steps on a held-out task."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    gradient: Literal["exact", "first_order", "implicit"] = "exact"
    """How the outer gradient passes through the inner steps."""
    rematerialise: bool = False
    """Whether to compute inner steps again in the backward pass instead of keeping them (with "exact" and
    "first_order"): memory grows with the square root of the number of inner steps."""
    implicit_strength: float = 2.0
    """lambda of the pull towards the meta-parameters, with "implicit"; without a source."""
    implicit_iterations: int = 5
    """Conjugate-gradient iterations, with "implicit"; without a source."""


def validate(config: Config) -> None:
    """Raise ValueError naming the first field that is out of range."""
    check_fields(
        config,
        iterations=positive_int,
        tasks=positive_int,
        inner_steps=positive_int,
        inner_rate=real(above=0),
        adaptation_steps=positive_int,
        learning_rate=real(above=0),
        gradient=choice("exact", "first_order", "implicit"),
        implicit_strength=real(above=0),
        implicit_iterations=positive_int,
    )


class State(NamedTuple):
    """The slow learner."""

    params: Params
    optimizer: optax.OptState


class _Data(NamedTuple):
    """What was collected on one task."""

    supports: Any
    """``[K, ...]``: a batch for each inner step."""
    query: Any


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """MAML on a problem.

    ``adapt`` scores a held-out task before any gradient step and after each: ``[adaptation_steps + 1]``; the learner
    is the adapted parameters.

    Raises:
        ValueError: if the configuration is out of range.
    """
    validate(config)
    optimizer = optax.adam(config.learning_rate)

    def adapted(params: Params, supports: Any) -> Params:
        """The adapted parameters, as a function to be differentiated."""
        rates = step_sizes(config.inner_rate, params, config.inner_steps)
        if config.gradient == "implicit":
            strength, iterations = config.implicit_strength, config.implicit_iterations
            return implicit_descend(
                problem.inner_loss, params, supports, rates, strength=strength, iterations=iterations
            )
        return descend(
            problem.inner_loss, params, supports, rates, gradient=config.gradient, rematerialise=config.rematerialise
        )

    def inner_step(centre: Params, params: Params, support: Any) -> Params:
        """One gradient step, from ``params``, of adaptation that began at ``centre``."""
        loss = problem.inner_loss
        if config.gradient == "implicit":
            loss = proximal(loss, centre, config.implicit_strength)
        one = jax.tree.map(lambda x: x[None], support)
        return descend(loss, params, one, step_sizes(config.inner_rate, params, 1))

    def collect(key: Key, centre: Params, task: Task) -> _Data:
        def step(params: Params, key: Key) -> tuple[Params, Any]:
            support = problem.support(key, params, task)
            return inner_step(centre, params, support), support

        key_query, *keys = jax.random.split(key, 1 + config.inner_steps)
        params, supports = jax.lax.scan(step, centre, jnp.stack(keys))
        return _Data(supports, problem.query(key_query, params, task))

    def init(key: Key) -> State:
        params = problem.init(key)
        return State(params, optimizer.init(params))

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        key_tasks, key_collect = jax.random.split(key)
        tasks = task_batch(problem.tasks.sample)(jax.random.split(key_tasks, config.tasks))
        keys = jax.random.split(key_collect, config.tasks)
        data = task_batch(collect, in_axes=(0, None, 0))(keys, state.params, tasks)

        def objective(params: Params, data: _Data) -> tuple[Array, Metrics]:
            after = adapted(params, data.supports)
            loss = problem.outer_loss(after, data.query)
            metrics = {
                "score": problem.score(after, data.query),
                "score_before_adaptation": problem.score(params, data.query),
            }
            return loss, {"loss": loss, **metrics}

        def mean_objective(params: Params) -> tuple[Array, Metrics]:
            losses, metrics = task_batch(objective, in_axes=(None, 0))(params, data)
            return jnp.mean(losses), jax.tree.map(jnp.mean, metrics)

        gradient, metrics = jax.grad(mean_objective, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return State(optax.apply_updates(state.params, updates), optimizer_state), metrics

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        def step(params: Params, key: Key) -> tuple[Params, Array]:
            key_query, key_support = jax.random.split(key)
            score = problem.score(params, problem.query(key_query, params, task))
            return inner_step(state.params, params, problem.support(key_support, params, task)), score

        key_last, *keys = jax.random.split(key, 1 + config.adaptation_steps)
        params, scores = jax.lax.scan(step, state.params, jnp.stack(keys))
        last = problem.score(params, problem.query(key_last, params, task))
        return Adaptation(jnp.append(scores, last), params)

    return Algorithm(init, step, adapt)
