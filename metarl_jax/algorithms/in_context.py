"""In-context learning: a network reads the examples of a task as one sequence and predicts labels of the same task.

Mishra et al. (2018, arXiv 1707.03141, section 3.1) and Munkhdalai & Yu (2017, arXiv 1703.00837) learn few-shot tasks in
this way. No parameter changes on a task. The loss of the query, given the support, trains the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import optax

from metarl_jax.batching import map_tasks, task_mean_gradient
from metarl_jax.family_checks import check_in_context_problem
from metarl_jax.interfaces.few_shot import FewShotTask, InContextProblem
from metarl_jax.settings import Doc, Fraction, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import Adaptation, Algorithm, Array, Key, Metrics, Params, Predicting


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of in-context learning."""

    iterations: Annotated[PositiveInt, Doc("Number of meta-iterations of a whole run.")] = 20000
    tasks: Annotated[PositiveInt, Doc("Number of tasks per meta-iteration.")] = 32
    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size at the start of training.")] = 1e-3
    final_learning_rate_fraction: Annotated[
        Fraction, Doc("Step size at the end of training, as a fraction of that at the start; it changes linearly.")
    ] = 0.0
    max_gradient_norm: Annotated[
        PositiveFloat,
        Doc(
            "Largest norm of a gradient; longer gradients are scaled down to it (10 in the code of Munkhdalai & "
            "Yu 2017)."
        ),
    ] = 10.0


class State(NamedTuple):
    """The state of the algorithm: the parameters of the network, and the state of the optimiser."""

    params: Params
    optimizer: optax.OptState


def make(problem: InContextProblem, config: Config) -> Algorithm:
    """Make in-context learning on a problem.

    ``adapt`` scores the predictions of the query of a held-out task, given its support: ``[1]``. The learner is the
    parameters, which do not change.

    Raises:
        ValueError: if the problem is wrong (``family_checks``).
    """
    check_in_context_problem(problem)
    rate, fraction = config.learning_rate, config.final_learning_rate_fraction
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm),
        optax.adam(optax.linear_schedule(rate, rate * fraction, config.iterations)),
    )

    def init(key: Key) -> State:
        params = problem.learner.init(key)
        return State(params, optimizer.init(params))

    def loss(params: Params, task: FewShotTask) -> tuple[Array, Metrics]:
        x, y = task.query
        prediction = problem.learner.predict(params, task.support, x)
        value = problem.loss(prediction, y)
        return value, {"loss": value, "score": problem.score(prediction, y)}

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        tasks = map_tasks(problem.tasks.sample)(jax.random.split(key, config.tasks))
        (_, metrics), gradient = task_mean_gradient(loss)(state.params, tasks)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer_state), metrics

    def adapt(key: Key, state: State, task: FewShotTask) -> Adaptation:
        del key
        return Adaptation(loss(state.params, task)[1]["score"][None], state.params)

    predicting = Predicting(
        params=lambda state: state.params,
        adapt=lambda key, params, support: support,
        predict=problem.learner.predict,
        most_examples=problem.learner.most_examples,
    )
    return Algorithm(init, step, adapt, config.iterations, "reading", predicting=predicting)
