"""The core of gradient-based meta-learners: data collection, adaptation by gradient descent, and the outer loop.

Learning on a task has two parts. First its data are collected: those of each inner step are collected by the parameters
before that step. Then the adapted parameters are computed as a pure function of the meta-parameters and these data, and
this function is differentiated. An algorithm decides which part of its meta-parameters adapts (``Learner``), how a
derivative passes through adaptation (``Adapted``) and how the meta-parameters change (``OuterUpdate``; see
``outer_updates``), and combines the settings of these parts by inheritance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax.batching import map_tasks, task_mean, task_mean_gradient
from metarl_jax.interfaces.gradient import InnerProblem, PolicyFunctions
from metarl_jax.ops.inner_loop import Loss, descend, step_sizes
from metarl_jax.settings import Doc, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import (
    Acting,
    Adaptation,
    Algorithm,
    Array,
    Inputs,
    Key,
    Metrics,
    Params,
    Predicting,
    Task,
    Transition,
    Tree,
)

# ----------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class InnerLoopConfig(Settings):
    """Settings of adaptation. Defaults are those of the sinusoid of Finn et al. (2017)."""

    iterations: Annotated[PositiveInt, Doc("Number of meta-iterations of a whole run.")] = 70000
    tasks: Annotated[PositiveInt, Doc("Number of tasks per meta-iteration.")] = 25
    inner_steps: Annotated[PositiveInt, Doc("Number of gradient steps on a task in training.")] = 1
    inner_rate: Annotated[PositiveFloat, Doc("Step size of the inner steps.")] = 0.01
    max_inner_norm: Annotated[
        PositiveFloat | None,
        Doc(
            "Largest norm of inner gradients, to which longer ones are scaled down. None: they are not scaled "
            "(as published)."
        ),
    ] = None
    adaptation_steps: Annotated[NonNegativeInt, Doc("Number of gradient steps on a held-out task.")] = 10
    later_rate_fraction: Annotated[
        NonNegativeFloat,
        Doc(
            "On a held-out task, the step size of each step beyond the first ``inner_steps``, as a fraction of the "
            "step size of the step before. (In the reinforcement learning of Finn et al. 2017, the second and all "
            "later steps had half the step size of the first one.)"
        ),
    ] = 1.0

    @property
    def batches_per_task(self) -> int:
        """The number of batches that are collected on a task in training: one for each inner step, and the query."""
        return self.inner_steps + 1


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig(InnerLoopConfig):
    """Settings of adaptation for learners that do not adapt in training.

    ``inner_steps`` is the number of steps with the full step size.
    """

    @property
    def batches_per_task(self) -> int:
        """The number of batches that are collected on a task in training."""
        return 1


@dataclass(frozen=True, kw_only=True)
class DifferentiationConfig(Settings):
    """Settings of differentiation through every inner step."""

    first_order: Annotated[
        bool, Doc("Whether inner gradients are treated as constants in the outer gradient (FOMAML).")
    ] = False
    rematerialise: Annotated[
        bool,
        Doc(
            "Whether the backward pass computes inner steps again instead of storing them. The use of memory then "
            "grows with the square root of the number of inner steps."
        ),
    ] = False


# ------------------------------------------------------------------------------------------------------ what adapts


class Learner(NamedTuple):
    """The part of the meta-parameters that adapts to a task, and how it adapts."""

    init: Callable[[Key], Params]
    """The initial meta-parameters."""
    start: Callable[[Params], Params]
    """``meta-parameters ->`` the adapting parameters before the first inner step."""
    params: Callable[[Params, Params], Params]
    """``(meta-parameters, adapting parameters) ->`` the parameters of the problem's network."""
    loss: Callable[[Params], Loss]
    """``meta-parameters ->`` the loss that adaptation minimises, a function of the adapting parameters and a support
    batch."""
    rates: Callable[[Params, int], Tree]
    """``(meta-parameters, K) ->`` the step sizes: a tree like the adapting parameters, with leaves ``[K, ...]``."""
    max_norm: float | Array | None = None
    """The largest norm of inner gradients, to which longer ones are scaled down. None: they are not scaled."""


def make_learner(
    problem: InnerProblem,
    config: InnerLoopConfig,
    *,
    init: Callable[[Key], Params] | None = None,
    start: Callable[[Params], Params] = lambda meta: meta,
    params: Callable[[Params, Params], Params] = lambda meta, adapting: adapting,
) -> Learner:
    """Make a learner that descends on the problem's inner loss with one step size. By default all parameters adapt.

    Args:
        problem: the tasks and losses.
        config: the step size and the largest norm.
        init: see ``Learner.init``; None: the function of the problem.
        start: see ``Learner.start``; by default the meta-parameters themselves.
        params: see ``Learner.params``; by default the adapting parameters themselves.
    """
    return Learner(
        init=problem.init if init is None else init,
        start=start,
        params=params,
        loss=lambda meta: lambda adapting, batch: problem.inner_loss(params(meta, adapting), batch),
        rates=lambda meta, steps: step_sizes(config.inner_rate, start(meta), steps),
        max_norm=config.max_inner_norm,
    )


def require_policy(problem: InnerProblem, needed_by: str) -> PolicyFunctions:
    """Return the functions of the problem's policy.

    Raises:
        ValueError: if the problem has no policy.
    """
    if problem.policy is None:
        raise ValueError(
            f"{needed_by} needs a problem with a policy (problems.policy_gradient makes one): this one has none"
        )
    return problem.policy


# ---------------------------------------------------------------------------------------------------- data, adaptation


class Data(NamedTuple):
    """The data that were collected on one task; or on several tasks, with a leading axis of tasks."""

    supports: Any
    """``[K, ...]``: a support batch for each inner step."""
    query: Any
    """The query batch, which was collected after the K steps."""
    adapting: Params
    """The adapting parameters after the K steps, with which the query was collected."""
    credit: Array | None = None
    """The task's ``CreditTerm.credits``; None: the algorithm has no such term."""

    def examples(self) -> tuple[Any, Any]:
        """Return supports and query, which are the data that a network processes."""
        return self.supports, self.query


def _examples(meta: Params, data: Data) -> Any:
    del meta
    return data.examples()


Adapted = Callable[[Params, Any], Params]
"""``(meta-parameters, supports [K, ...]) ->`` the adapting parameters after K steps, as a differentiable function."""


def unrolled(learner: Learner, config: DifferentiationConfig) -> Adapted:
    """Make adaptation that is differentiated through every inner step."""

    def adapted(meta: Params, supports: Any) -> Params:
        steps = jax.tree.leaves(supports)[0].shape[0]
        rates = learner.rates(meta, steps)
        return descend(
            learner.loss(meta),
            learner.start(meta),
            supports,
            rates,
            gradient="first_order" if config.first_order else "exact",
            rematerialise=config.rematerialise,
            max_norm=learner.max_norm,
        )

    return adapted


def inner_step(learner: Learner, meta: Params, adapting: Params, support: Any, rate: Tree) -> Params:
    """Do one step of adaptation, which is not differentiated."""
    one = jax.tree.map(lambda x: x[None], (support, rate))
    return descend(learner.loss(meta), adapting, *one, max_norm=learner.max_norm)


def collect(key: Key, problem: InnerProblem, learner: Learner, meta: Params, task: Task, steps: int) -> Data:
    """Adapt to a task as after deployment, and return the collected data.

    Args:
        key: random key.
        problem: the problem that the task belongs to.
        learner: the part that adapts.
        meta: the meta-parameters.
        task: one of ``problem.tasks``.
        steps: the number K of inner steps.

    Returns:
        The support of each step, collected by the parameters before that step, and a query collected by the adapted
        parameters.
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
    """Draw training tasks and collect data on each of them. Leaves get a leading axis of tasks."""
    key_tasks, key_collect = jax.random.split(key)
    batch = map_tasks(problem.tasks.sample)(jax.random.split(key_tasks, tasks))
    return map_tasks(collect, in_axes=(0, None, 0))(jax.random.split(key_collect, tasks), meta, batch)


def adapt(key: Key, problem: InnerProblem, learner: Learner, meta: Params, task: Task, rates: Tree) -> Adaptation:
    """Adapt to a held-out task and score every step.

    Args:
        key: random key.
        problem: the problem that the task belongs to.
        learner: the part that adapts.
        meta: the meta-parameters.
        task: one of ``problem.tasks``.
        rates: the step sizes, with leaves ``[K, ...]``.

    Returns:
        Scores ``[K + 1]``, before the first step and after each step. The learner is the network's parameters at the
        same times, ``[K + 1, ...]``.
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


def adaptation_rates(learner: Learner, meta: Params, config: InnerLoopConfig) -> Tree:
    """Return the step sizes on a held-out task, with leaves ``[adaptation_steps, ...]``."""
    beyond = jnp.maximum(jnp.arange(config.adaptation_steps) + 1 - config.inner_steps, 0)

    def reduced(rate: Array) -> Array:
        fraction = jnp.asarray(config.later_rate_fraction, rate.dtype) ** beyond
        return rate * fraction.reshape(-1, *[1] * (rate.ndim - 1))

    return jax.tree.map(reduced, learner.rates(meta, config.adaptation_steps))


class Adapting(NamedTuple):
    """The memory of an acting learner."""

    adapting: Params
    """The adapting parameters at present."""
    steps: Array
    """The number of gradient steps that were taken, ``int32``."""


def acting(problem: InnerProblem, learner: Learner, config: InnerLoopConfig) -> Acting | None:
    """Make the functions of acting with a policy that adapts by gradient descent on whole episodes, as ``adapt`` does.

    A step beyond the first ``adaptation_steps`` has the size of the last of these.

    Returns:
        None if the problem has no policy.
    """
    if problem.policy is None:
        return None
    policy = problem.policy

    def act(key: Key, meta: Params, memory: Adapting, inputs: Inputs, final_obs: Array) -> tuple[Adapting, Array, Any]:
        del final_obs
        return memory, *policy.act(key, learner.params(meta, memory.adapting), inputs)

    def learn(meta: Params, memory: Adapting, episodes: Transition) -> Adapting:
        rates = adaptation_rates(learner, meta, config)
        rate = jax.tree.map(lambda x: x[jnp.minimum(memory.steps, x.shape[0] - 1)], rates)
        adapting = inner_step(learner, meta, memory.adapting, policy.batch(episodes), rate)
        return Adapting(adapting, memory.steps + 1)

    return Acting(
        params=lambda state: state.params,
        start=lambda key, meta: Adapting(learner.start(meta), jnp.int32(0)),
        act=act,
        learn=learn if config.adaptation_steps else None,
    )


def predicting(problem: InnerProblem, learner: Learner, config: InnerLoopConfig) -> Predicting | None:
    """Make the functions of predicting on few-shot tasks after adaptation by gradient descent, as ``adapt`` does.

    Returns:
        None if the problem does not provide the functions of few-shot tasks.
    """
    if problem.few_shot is None:
        return None
    few_shot = problem.few_shot

    def adapt_to(key: Key, meta: Params, support: Any) -> tuple[Params, Any]:
        task, steps = few_shot.task(support), config.adaptation_steps

        def step(adapting: Params, now: tuple[Key, Tree]) -> tuple[Params, None]:
            key, rate = now
            batch = problem.support(key, learner.params(meta, adapting), task)
            return inner_step(learner, meta, adapting, batch, rate), None

        rates = adaptation_rates(learner, meta, config)
        adapting, _ = jax.lax.scan(step, learner.start(meta), (jax.random.split(key, steps), rates))
        return learner.params(meta, adapting), support

    def predict(meta: Params, memory: tuple[Params, Any], x: Array) -> Array:
        del meta
        params, support = memory
        return few_shot.predict(params, support, x)

    return Predicting(params=lambda state: state.params, adapt=adapt_to, predict=predict)


# -------------------------------------------------------------------------------------------------------- outer loop


class State(NamedTuple):
    """The state of a gradient-based meta-learner."""

    params: Params
    """The meta-parameters."""
    optimizer: optax.OptState
    """The state of the outer update."""


class Objective(NamedTuple):
    """The objective of one meta-iteration: the mean over tasks of a loss after adaptation.

    The data were collected before, and are constants.
    """

    data: Data
    """The data of all tasks, with a leading axis of tasks."""
    loss: Callable[[Params, Data], tuple[Array, Metrics]]
    """``(meta-parameters, data of one task) ->`` the loss of this task after adaptation, and metrics."""
    learner: Learner
    adapted: Adapted

    def params(self, meta: Params, data: Data) -> Params:
        """Return the network's parameters after adaptation to one task."""
        return self.learner.params(meta, self.adapted(meta, data.supports))

    def value_and_gradient(self, meta: Params) -> tuple[tuple[Array, Metrics], Params]:
        """Return ``((objective, mean metrics), gradient)`` at the meta-parameters ``meta``."""
        return task_mean_gradient(self.loss, data_of=_examples)(meta, self.data)

    def mean(self, function: Callable[[Params, Data], Tree], meta: Params) -> Tree:
        """Return the mean over tasks of ``function(meta-parameters, data of one task)``."""
        return task_mean(function, data_of=_examples)(meta, self.data)


class OuterUpdate(NamedTuple):
    """A rule by which the meta-parameters change."""

    init: Callable[[Params], optax.OptState]
    """``meta-parameters ->`` the state of the rule."""
    update: Callable[[Objective, Array, Params, Params, optax.OptState], tuple[Params, optax.OptState, Metrics]]
    """``(objective, its value, its gradient, meta-parameters, state) -> (new meta-parameters, new state, metrics)``;
    value and gradient are evaluated at the given meta-parameters."""


class CreditTerm(NamedTuple):
    """A term of each task's loss that depends on the scores of all tasks after adaptation."""

    credits: Callable[[Array], Array]
    """Scores after adaptation ``[tasks] ->`` the credit of each task ``[tasks]``, which is not differentiated."""
    loss: Callable[[Params, Any, Array], Array]
    """``(the network's parameters before adaptation, the first support batch, the task's credit) ->`` the term, a
    scalar."""


def make(
    problem: InnerProblem,
    learner: Learner,
    adapted: Adapted | None,
    config: InnerLoopConfig,
    outer_update: OuterUpdate,
    *,
    credit: CreditTerm | None = None,
) -> Algorithm:
    """Make a gradient-based meta-learner.

    Args:
        problem: the tasks and losses, checked by ``family_checks.check_problem``.
        learner: the part that adapts.
        adapted: how a derivative passes through adaptation. None: training does not adapt, and the meta-parameters
            themselves collect the query.
        config: settings of adaptation.
        outer_update: how the meta-parameters change.
        credit: a further term of each task's loss.
    """
    trained: Adapted = (lambda meta, supports: learner.start(meta)) if adapted is None else adapted

    def init(key: Key) -> State:
        meta = learner.init(key)
        return State(meta, outer_update.init(meta))

    def collect_one(key: Key, meta: Params, task: Task) -> Data:
        if adapted is not None:
            return collect(key, problem, learner, meta, task, config.inner_steps)
        query = problem.query(key, learner.params(meta, learner.start(meta)), task)
        return Data(jax.tree.map(lambda x: x[None], query), query, learner.start(meta))

    def adapted_params(meta: Params, data: Data) -> Params:
        return learner.params(meta, trained(meta, data.supports))

    def task_loss(meta: Params, data: Data) -> tuple[Array, Metrics]:
        params, before = adapted_params(meta, data), learner.params(meta, learner.start(meta))
        # The meta-parameters themselves collected this batch.
        first = jax.tree.map(lambda x: x[0], data.supports)
        loss = problem.outer_loss(params, data.query)
        metrics = {
            "loss": loss,
            "score": problem.score(params, data.query),
            "score_before_adaptation": problem.score(before, first),
        }
        if credit is not None:
            assert data.credit is not None
            loss += credit.loss(before, first, data.credit)
        return loss, metrics

    def score(meta: Params, data: Data) -> Array:
        return problem.score(adapted_params(meta, data), data.query)

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        data = collect_tasks(key, problem, collect_one, state.params, config.tasks)
        if credit is not None:
            scores = map_tasks(score, (None, 0))(state.params, data)
            data = data._replace(credit=credit.credits(scores))
        objective = Objective(data, task_loss, learner, trained)
        (value, metrics), gradient = objective.value_and_gradient(state.params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        params, optimizer, more = outer_update.update(objective, value, gradient, state.params, state.optimizer)
        return State(params, optimizer), {**metrics, **more}

    def adapt_to(key: Key, state: State, task: Task) -> Adaptation:
        return adapt(key, problem, learner, state.params, task, adaptation_rates(learner, state.params, config))

    return Algorithm(
        init,
        step,
        adapt_to,
        config.iterations,
        "gradient step",
        acting=acting(problem, learner, config),
        predicting=predicting(problem, learner, config),
    )
