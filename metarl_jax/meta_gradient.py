"""What gradient-based meta-learners share: they collect data on tasks, adapt by descent, and descend through that.

Learning on a task has two parts: its data are collected, each inner step's by the learner as it then is; then the
adapted parameters are a pure function of the meta-parameters and those data, which is differentiated. An algorithm
says which part of its meta-parameters adapts, and how (``Learner``); everything else is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from annotated_types import Interval

from metarl_jax.batching import first_task, prefers_sequential, task_batch, task_mean, task_mean_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.ops.inner_loop import Gradient, Loss, descend
from metarl_jax.ops.trust_region import metric_product, trust_region_step
from metarl_jax.settings import Doc, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings
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
class Config(Settings):
    """Settings that gradient-based meta-learners share; defaults are those of the sinusoid of Finn et al. (2017)."""

    iterations: Annotated[PositiveInt, Doc("Meta-iterations of a whole run.")] = 70000
    tasks: Annotated[PositiveInt, Doc("Tasks per meta-iteration.")] = 25
    inner_steps: Annotated[PositiveInt, Doc("Gradient steps on a task in training.")] = 1
    inner_rate: Annotated[PositiveFloat, Doc("Step size of the inner steps.")] = 0.01
    max_inner_norm: Annotated[
        PositiveFloat | None, Doc("Inner gradients are scaled down to this norm; None: they are not (as published).")
    ] = None
    adaptation_steps: Annotated[NonNegativeInt, Doc("Gradient steps on a held-out task.")] = 10
    later_rate_fraction: Annotated[
        NonNegativeFloat,
        Doc(
            "Step size on a held-out task of each step beyond the first ``inner_steps``, as a fraction of "
            "that of the step before. (In the reinforcement learning of Finn et al. 2017 the second step had "
            "half the first's, and kept it.)"
        ),
    ] = 1.0
    first_order: Annotated[bool, Doc("Whether inner gradients count as constants in the outer gradient (FOMAML).")] = (
        False
    )
    rematerialise: Annotated[
        bool,
        Doc(
            "Whether to compute inner steps again in the backward pass instead of keeping them: memory grows "
            "with the square root of the number of inner steps."
        ),
    ] = False
    outer_update: Annotated[
        Literal["adam", "trust_region"],
        Doc(
            "How the meta-parameters change: Adam, or a step within a trust region (TRPO; for reinforcement learning)."
        ),
    ] = "adam"
    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size at the start.")] = 1e-3
    final_learning_rate_fraction: Annotated[
        Fraction,
        Doc(
            "Adam's step size at the end of training, as a fraction of the start; linear between (constant as "
            "published)."
        ),
    ] = 1.0
    epochs: Annotated[PositiveInt, Doc("Adam steps on the data of one meta-iteration.")] = 1
    max_divergence: Annotated[
        PositiveFloat,
        Doc(
            "The trust region: the largest mean KL divergence in nats of the adapted policies from those that "
            "collected."
        ),
    ] = 0.01
    conjugate_gradients: Annotated[
        PositiveInt, Doc("Iterations of the linear solver of the trust region (10 in published implementations).")
    ] = 10
    metric_share: Annotated[
        Annotated[float, Interval(gt=0, le=1)],
        Doc(
            "Share of the episodes on which the trust region's metric is estimated, from which alone the "
            "direction of a step depends on it (0.1 in Schulman et al. 2015); whether the step is within the "
            "region is tested on all."
        ),
    ] = 0.1
    damping: Annotated[
        NonNegativeFloat, Doc("Added to the trust region's metric (1e-5 in published implementations).")
    ] = 1e-5
    exploration_credit: Annotated[
        NonNegativeFloat,
        Doc(
            "Weight of E-MAML's term (Stadie et al. 2018): what was collected before adaptation is credited "
            "with the score after it, beyond the mean of the other tasks. 0: MAML. The score is a return, the "
            'outer loss a mean over steps of scaled advantages: with the estimator "log_likelihood" and one '
            "inner step, the exact gradient of what is expected after adapting to what was collected has the "
            "weight 1 / (horizon * standard deviation of an advantage). For reinforcement learning, and two "
            "tasks or more."
        ),
    ] = 0.0

    @property
    def inner_norm(self) -> float:
        """``max_inner_norm``, infinite where it is None."""
        return math.inf if self.max_inner_norm is None else self.max_inner_norm

    def optimizer(self) -> optax.GradientTransformation:
        """Of the outer loop."""
        rate, fraction = self.learning_rate, self.final_learning_rate_fraction
        return optax.adam(optax.linear_schedule(rate, rate * fraction, self.iterations * self.epochs))

    @property
    def batches_per_task(self) -> int:
        """Batches collected on a task in training: one for each inner step, and the query."""
        return self.inner_steps + 1


def validate_with(config: Config, problem: InnerProblem) -> None:
    """Raise ValueError if the problem is wrong, or lacks what the settings need."""
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

    def prefers_sequential(self) -> bool:
        """``batching.prefers_sequential`` of several tasks."""
        return prefers_sequential(first_task((self.supports, self.query)))


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
    batch = task_batch(problem.tasks.sample)(jax.random.split(key_tasks, tasks))
    return task_batch(collect, in_axes=(0, None, 0))(jax.random.split(key_collect, tasks), meta, batch)


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
        score = task_batch(lambda meta, data: problem.score(after(meta, data), data.query), (None, 0))(meta, data)
        return (score - jnp.mean(score)) * (config.tasks / max(1, config.tasks - 1))

    def one_loss(meta: Params, task: tuple[Data, Array]) -> tuple[Array, Metrics]:
        return task_loss(meta, *task)

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        one = collect_adapted if adapts_in_training else collect_unadapted
        data = collect_tasks(key, problem, one, state.params, config.tasks)
        met = data, credits(state.params, data)
        gradient_of = task_mean_gradient(one_loss, sequential=data.prefers_sequential())
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

        thinned = task_batch(thin)(met[0])
        product = metric_product(
            lambda meta: task_batch(outputs, (None, 0))(meta, thinned),
            lambda outputs: jnp.mean(task_batch(divergence)(outputs, thinned.query)),
            meta,
        )
        return trust_region_step(
            lambda meta: task_mean(evaluate, sequential=met[0].prefers_sequential())(meta, met),
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
