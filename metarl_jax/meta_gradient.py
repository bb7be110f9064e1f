"""What gradient-based meta-learners share: they collect data on tasks, adapt by descent, and descend through that.

Learning on a task has two parts: its data are collected, each inner step's by the learner as it then is; then the
adapted parameters are a pure function of the meta-parameters and those data, which is differentiated. An algorithm
says which part of its meta-parameters adapts, and how (``Learner``); everything else is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax.batching import map_tasks, task_mean, task_mean_gradient
from metarl_jax.checks import boolean, check_fields, choice, natural_int, positive_int, real
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.ops.inner_loop import Gradient, Loss, descend
from metarl_jax.ops.trust_region import metric_product, trust_region_step
from metarl_jax.types import Adaptation, Algorithm, Array, Key, Metrics, Params, Task, Tree


class Learner(NamedTuple):
    """What of the meta-parameters adapts to a task."""

    init: Callable[[Key], Params]
    """The meta-parameters."""
    start: Callable[[Params], Params]
    """Of the meta-parameters: what adapts, before its first step."""
    params: Callable[[Params, Params], Params]
    """``(meta-parameters, what adapts) ->`` the parameters of the problem's network."""
    loss: Callable[[Params], Loss]
    """Of the meta-parameters: the loss that adaptation descends on, of what adapts and a support batch."""
    rates: Callable[[Params, int], Tree]
    """``(meta-parameters, K) ->`` the step sizes, like what adapts, with leaves ``[K, ...]``."""
    max_norm: float = math.inf
    """Gradients are scaled down to it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that gradient-based meta-learners share; defaults are those of the sinusoid of Finn et al. (2017)."""

    iterations: int = 70000
    """Meta-iterations of a whole run."""
    tasks: int = 25
    """Tasks per meta-iteration."""
    inner_steps: int = 1
    """Gradient steps on a task in training."""
    inner_rate: float = 0.01
    """Step size of the inner steps."""
    max_inner_norm: float = 0.0
    """Inner gradients are scaled down to this norm; 0: they are not (as published)."""
    adaptation_steps: int = 10
    """Gradient steps on a held-out task."""
    later_rate_fraction: float = 1.0
    """Step size on a held-out task of each step beyond the first ``inner_steps``, as a fraction of that of the step
    before. (In the reinforcement learning of Finn et al. 2017 the second step had half the first's, and kept it.)"""
    first_order: bool = False
    """Whether inner gradients count as constants in the outer gradient (FOMAML)."""
    rematerialise: bool = False
    """Whether to compute inner steps again in the backward pass instead of keeping them: memory grows with the
    square root of the number of inner steps."""
    outer_update: Literal["adam", "trust_region"] = "adam"
    """How the meta-parameters change: Adam, or a step within a trust region (TRPO; for reinforcement learning)."""
    learning_rate: float = 1e-3
    """Adam's step size at the start."""
    final_learning_rate_fraction: float = 1.0
    """Adam's step size at the end of training, as a fraction of the start; linear between (constant as published)."""
    epochs: int = 1
    """Adam steps on the data of one meta-iteration."""
    max_divergence: float = 0.01
    """The trust region: the largest mean KL divergence in nats of the adapted policies from those that collected."""
    conjugate_gradients: int = 10
    """Iterations of the linear solver of the trust region (10 in published implementations)."""
    metric_share: float = 0.1
    """Share of the episodes on which the trust region's metric is estimated, from which alone the direction of a step
    depends on it (0.1 in Schulman et al. 2015); whether the step is within the region is tested on all."""
    damping: float = 1e-5
    """Added to the trust region's metric (1e-5 in published implementations)."""
    exploration_credit: float = 0.0
    """Weight of E-MAML's term (Stadie et al. 2018): what was collected before adaptation is credited with the score
    after it, beyond the mean of the other tasks. 0: MAML. The score is a return, the outer loss a mean over steps of
    scaled advantages: with the estimator "log_likelihood" and one inner step, the exact gradient of what is expected
    after adapting to what was collected has the weight 1 / (horizon * standard deviation of an advantage). For
    reinforcement learning, and two tasks or more."""

    @property
    def inner_norm(self) -> float:
        """``max_inner_norm``, infinite where it is 0."""
        norm = self.max_inner_norm
        return math.inf if isinstance(norm, int | float) and norm == 0 else norm

    def optimizer(self) -> optax.GradientTransformation:
        """Of the outer loop."""
        rate, fraction = self.learning_rate, self.final_learning_rate_fraction
        return optax.adam(optax.linear_schedule(rate, rate * fraction, self.iterations * self.epochs))

    @property
    def batches_per_task(self) -> int:
        """Batches collected on a task in training: one for each inner step, and the query."""
        return self.inner_steps + 1


def validate(config: Config) -> None:
    """Raise ValueError naming the first field that is out of range."""
    check_fields(
        config,
        iterations=positive_int,
        tasks=positive_int,
        inner_steps=positive_int,
        inner_rate=real(above=0),
        max_inner_norm=real(at_least=0),
        adaptation_steps=natural_int,
        later_rate_fraction=real(at_least=0),
        first_order=boolean,
        rematerialise=boolean,
        outer_update=choice("adam", "trust_region"),
        learning_rate=real(above=0),
        final_learning_rate_fraction=real(at_least=0, at_most=1),
        epochs=positive_int,
        max_divergence=real(above=0),
        conjugate_gradients=positive_int,
        metric_share=real(above=0, at_most=1),
        damping=real(at_least=0),
        exploration_credit=real(at_least=0),
    )


def validate_with(config: Config, problem: InnerProblem) -> None:
    """Raise ValueError if the settings are out of range, the problem is wrong, or it lacks what the settings need."""
    validate(config)
    check_problem(problem)
    if config.outer_update == "trust_region":
        for name in ("distribution", "divergence", "part"):
            if getattr(problem, name) is None:
                raise ValueError(f"outer_update 'trust_region' is for problems with a policy: this one has no {name}")
    if config.outer_update == "trust_region" and problem.critic:
        raise ValueError("outer_update 'trust_region' bounds no critic: use baseline 'linear' or 'none', or 'adam'")
    if _asks_credit(config) and problem.log_likelihood is None:
        raise ValueError("exploration_credit is for problems with a policy: this one has no log_likelihood")
    if _asks_credit(config) and config.tasks == 1:
        raise ValueError("exploration_credit compares tasks with each other: tasks must be at least 2, not 1")


def _asks_credit(config: Config) -> bool:
    # A traced weight is not known to be zero.
    return not (isinstance(config.exploration_credit, int | float) and config.exploration_credit == 0)


class State(NamedTuple):
    """The slow learner."""

    params: Params
    """The meta-parameters."""
    optimizer: optax.OptState


class Data(NamedTuple):
    """What was collected on one task, or with a leading axis on each of several."""

    supports: Any
    """``[K, ...]``: a batch for each inner step."""
    query: Any
    adapting: Params
    """What adapted, after the K steps: who collected the query."""

    def examples(self) -> tuple[Any, Any]:
        """Supports and query: the data that a network processes."""
        return self.supports, self.query


Adapted = Callable[[Params, Any], Params]
"""``(meta-parameters, supports [K, ...]) ->`` what adapts, after K steps; to be differentiated."""


def explicit(learner: Learner, gradient: Gradient, rematerialise: bool) -> Adapted:
    """Adaptation differentiated step by step."""

    def adapted(meta: Params, supports: Any) -> Params:
        steps = jax.tree.leaves(supports)[0].shape[0]
        rates = learner.rates(meta, steps)
        return descend(
            learner.loss(meta),
            learner.start(meta),
            supports,
            rates,
            gradient=gradient,
            rematerialise=rematerialise,
            max_norm=learner.max_norm,
        )

    return adapted


def inner_step(learner: Learner, meta: Params, adapting: Params, support: Any, rate: Tree) -> Params:
    """One step of adaptation, not to be differentiated."""
    one = jax.tree.map(lambda x: x[None], (support, rate))
    return descend(learner.loss(meta), adapting, *one, max_norm=learner.max_norm)


def collect(key: Key, problem: InnerProblem, learner: Learner, meta: Params, task: Task, steps: int) -> Data:
    """Adapt to a task as deployed, and keep what was seen.

    Args:
        key: random key.
        problem: what the task is of.
        learner: who adapts.
        meta: its meta-parameters.
        task: one of ``problem.tasks``.
        steps: K.

    Returns:
        The support of each step, collected by the learner before that step, and a query of the adapted learner.
    """

    def step(adapting: Params, now: tuple[Key, Tree]) -> tuple[Params, Any]:
        key, rate = now
        support = problem.support(key, learner.params(meta, adapting), task)
        return inner_step(learner, meta, adapting, support, rate), support

    key_query, key_steps = jax.random.split(key)
    keys = jax.random.split(key_steps, steps)
    adapting, supports = jax.lax.scan(step, learner.start(meta), (keys, learner.rates(meta, steps)))
    return Data(supports, problem.query(key_query, learner.params(meta, adapting), task), adapting)


def collect_tasks(
    key: Key, problem: InnerProblem, collect: Callable[[Key, Params, Task], Data], meta: Params, tasks: int
) -> Data:
    """Draw training tasks and collect on each; leaves get a leading axis of tasks."""
    key_tasks, key_collect = jax.random.split(key)
    batch = map_tasks(problem.tasks.sample)(jax.random.split(key_tasks, tasks))
    return map_tasks(collect, in_axes=(0, None, 0))(jax.random.split(key_collect, tasks), meta, batch)


def adapt(key: Key, problem: InnerProblem, learner: Learner, meta: Params, task: Task, rates: Tree) -> Adaptation:
    """Adapt to a held-out task and score every step.

    Args:
        key: random key.
        problem: what the task is of.
        learner: who adapts.
        meta: its meta-parameters.
        task: one of ``problem.tasks``.
        rates: step sizes, with leaves ``[K, ...]``.

    Returns:
        Scores ``[K + 1]``, before the first step and after each; the learner is the network's parameters then,
        ``[K + 1, ...]``.
    """

    def step(adapting: Params, now: tuple[Key, Tree]) -> tuple[Params, tuple[Any, Params]]:
        key, rate = now
        key_query, key_support = jax.random.split(key)
        params = learner.params(meta, adapting)
        support = problem.support(key_support, params, task)
        return inner_step(learner, meta, adapting, support, rate), (
            problem.score_query(key_query, params, task),
            params,
        )

    steps = jax.tree.leaves(rates)[0].shape[0]
    key_last, key_steps = jax.random.split(key)
    adapting, before = jax.lax.scan(step, learner.start(meta), (jax.random.split(key_steps, steps), rates))
    params = learner.params(meta, adapting)
    last = problem.score_query(key_last, params, task), params
    (score, success), params = jax.tree.map(lambda some, one: jnp.concatenate([some, one[None]]), before, last)
    return Adaptation(score, params, success)


def adaptation_rates(learner: Learner, meta: Params, config: Config) -> Tree:
    """The step sizes on a held-out task, with leaves ``[adaptation_steps, ...]``."""
    beyond = jnp.maximum(jnp.arange(config.adaptation_steps) + 1 - config.inner_steps, 0)

    def reduced(rate: Array) -> Array:
        fraction = jnp.asarray(config.later_rate_fraction, rate.dtype) ** beyond
        return rate * fraction.reshape(-1, *[1] * (rate.ndim - 1))

    return jax.tree.map(reduced, learner.rates(meta, config.adaptation_steps))


def make(
    problem: InnerProblem, learner: Learner, adapted: Adapted, config: Config, *, adapts_in_training: bool = True
) -> Algorithm:
    """A gradient-based meta-learner.

    Args:
        problem: its tasks and losses.
        learner: what adapts.
        adapted: how a derivative passes through adaptation.
        config: valid settings.
        adapts_in_training: False: the query is collected before any step of adaptation, as ``adapted`` must agree.
    """
    optimizer = config.optimizer()

    def init(key: Key) -> State:
        meta = learner.init(key)
        return State(meta, optimizer.init(meta) if config.outer_update == "adam" else optax.EmptyState())

    def collect_unadapted(key: Key, meta: Params, task: Task) -> Data:
        query = problem.query(key, learner.params(meta, learner.start(meta)), task)
        return Data(jax.tree.map(lambda x: x[None], query), query, learner.start(meta))

    def collect_adapted(key: Key, meta: Params, task: Task) -> Data:
        return collect(key, problem, learner, meta, task, config.inner_steps)

    def after(meta: Params, data: Data) -> Params:
        return learner.params(meta, adapted(meta, data.supports))

    def task_loss(meta: Params, data: Data, credit: Array) -> tuple[Array, Metrics]:
        params, before = after(meta, data), learner.params(meta, learner.start(meta))
        # What the meta-parameters themselves collected, or met first.
        first = jax.tree.map(lambda x: x[0], data.supports)
        loss = problem.outer_loss(params, data.query)
        metrics = {
            "loss": loss,
            "score": problem.score(params, data.query),
            "score_before_adaptation": problem.score(before, first),
        }
        if _asks_credit(config):
            assert problem.log_likelihood is not None
            loss -= config.exploration_credit * credit * problem.log_likelihood(before, first)
        return loss, metrics

    def credits(meta: Params, data: Data) -> Array:
        """What each task scored beyond the others: a baseline that does not depend on the task's own data."""
        if not _asks_credit(config):
            return jnp.zeros(config.tasks, jnp.float32)
        score = map_tasks(lambda meta, data: problem.score(after(meta, data), data.query), (None, 0))(meta, data)
        return (score - jnp.mean(score)) * (config.tasks / max(1, config.tasks - 1))

    def one_loss(meta: Params, task: tuple[Data, Array]) -> tuple[Array, Metrics]:
        return task_loss(meta, *task)

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        one = collect_adapted if adapts_in_training else collect_unadapted
        data = collect_tasks(key, problem, one, state.params, config.tasks)
        met = data, credits(state.params, data)
        gradient_of = task_mean_gradient(one_loss, data_of=lambda meta, task: task[0].examples())
        (value, metrics), gradient = gradient_of(state.params, met)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        if config.outer_update == "trust_region":
            params, more = _trust_region(value, gradient, state.params, met)
            return State(params, state.optimizer), {**metrics, **more}

        def descend_once(state: State, gradient: Params) -> State:
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
            return State(optax.apply_updates(state.params, updates), optimizer_state)

        def epoch(state: State, _: None) -> tuple[State, None]:
            return descend_once(state, gradient_of(state.params, met)[1]), None

        state = descend_once(state, gradient)
        if config.epochs > 1:
            state, _ = jax.lax.scan(epoch, state, None, length=config.epochs - 1)
        return state, metrics

    def _trust_region(value: Array, gradient: Params, meta: Params, met: tuple[Data, Array]) -> tuple[Params, Metrics]:
        assert problem.distribution is not None
        assert problem.divergence is not None
        assert problem.part is not None
        distribution, divergence, part = problem.distribution, problem.divergence, problem.part

        def thin(data: Data) -> Data:
            supports = jax.vmap(lambda batch: part(batch, config.metric_share))(data.supports)
            return data._replace(supports=supports, query=part(data.query, config.metric_share))

        def outputs(meta: Params, data: Data) -> Any:
            # Few data adapt to elsewhere: the derivative is theirs, the place that of all.
            place = jax.tree.map(
                lambda whole, some: some + jax.lax.stop_gradient(whole - some),
                data.adapting,
                adapted(meta, data.supports),
            )
            return distribution(learner.params(meta, place), data.query)

        def evaluate(meta: Params, task: tuple[Data, Array]) -> tuple[Array, Array]:
            data, credit = task
            moved = divergence(distribution(after(meta, data), data.query), data.query)
            return task_loss(meta, data, credit)[0], moved

        thinned = map_tasks(thin)(met[0])
        product = metric_product(
            lambda meta: map_tasks(outputs, (None, 0))(meta, thinned),
            lambda outputs: jnp.mean(map_tasks(divergence)(outputs, thinned.query)),
            meta,
        )
        return trust_region_step(
            lambda meta: task_mean(evaluate, data_of=lambda meta, task: task[0].examples())(meta, met),
            value,
            gradient,
            product,
            meta,
            max_divergence=config.max_divergence,
            iterations=config.conjugate_gradients,
            damping=config.damping,
        )

    def adapt_to(key: Key, state: State, task: Task) -> Adaptation:
        return adapt(key, problem, learner, state.params, task, adaptation_rates(learner, state.params, config))

    return Algorithm(init, step, adapt_to)
