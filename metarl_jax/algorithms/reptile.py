"""Reptile (Nichol et al. 2018, arXiv 1803.02999): move the meta-parameters towards those adapted to tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from annotated_types import Interval

from metarl_jax.batching import map_tasks
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import FewShotFunctions, InnerProblem
from metarl_jax.settings import Doc, NonNegativeInt, PositiveFloat, PositiveInt, Settings
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
)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of Reptile. Defaults are those of 5-way Omniglot in Nichol et al. (2018)."""

    iterations: Annotated[
        PositiveInt, Doc("Number of meta-iterations of a whole run, over which the outer step size falls to zero.")
    ] = 100000
    tasks: Annotated[
        PositiveInt, Doc("Number of tasks per meta-iteration, whose directions are averaged. 1: the serial version.")
    ] = 5
    inner_steps: Annotated[PositiveInt, Doc("Number of inner steps on a task in training.")] = 5
    adaptation_steps: Annotated[NonNegativeInt, Doc("Number of inner steps on a held-out task.")] = 50
    inner_optimizer: Annotated[
        Literal["adam", "sgd"],
        Doc(
            'The optimiser of the inner steps. "adam": Adam without momentum (beta1 = 0), as published; its second '
            'moments are kept between iterations and are used on held-out tasks. "sgd": gradient descent.'
        ),
    ] = "adam"
    inner_rate: Annotated[PositiveFloat, Doc("Step size of the inner steps.")] = 1e-3
    second_moment_decay: Annotated[
        Annotated[float, Interval(ge=0, lt=1)], Doc("Decay of the second moments of the inner Adam (beta2).")
    ] = 0.999
    outer_rate: Annotated[
        PositiveFloat,
        Doc(
            "Fraction of the way to the adapted parameters that the meta-parameters move, at the start of "
            "training; it falls linearly to zero."
        ),
    ] = 1.0

    @property
    def batches_per_task(self) -> int:
        """The number of batches of a task in training: one for each inner step, and two for metrics only."""
        return self.inner_steps + 2


class State(NamedTuple):
    """The state of the outer loop."""

    params: Params
    inner: optax.OptState
    """The state of the inner optimiser."""
    iteration: Array
    """The number of completed meta-iterations, ``int32``."""


class Adapting(NamedTuple):
    """The part of the state that adapts to a task."""

    params: Params
    inner: optax.OptState


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make Reptile on a problem.

    ``adapt`` scores a held-out task before any gradient step and after each step: ``[adaptation_steps + 1]``. The
    learner is the network's parameters after the last step.

    Raises:
        ValueError: if the problem is wrong (``family_checks``).

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.datasets.sinusoid.reptile_family()
        >>> predictor = mrl.networks.mlp.make_predictor(family, mrl.networks.mlp.PredictorSettings())
        >>> problem = mrl.problems.few_shot(family.training, predictor, heldout=family.heldout)
        >>> algorithm = mrl.algorithms.reptile.make(problem, mrl.algorithms.reptile.Config(tasks=4, iterations=3))
        >>> run = mrl.train(jax.random.key(0), algorithm)
    """
    check_problem(problem)
    if config.inner_optimizer == "adam":
        inner = optax.adam(config.inner_rate, b1=0.0, b2=config.second_moment_decay)
    else:
        inner = optax.sgd(config.inner_rate)
    outer_rate = optax.linear_schedule(config.outer_rate, 0.0, config.iterations)

    def inner_step(params: Params, moments: optax.OptState, batch: Any) -> tuple[Params, optax.OptState]:
        gradient = jax.grad(problem.inner_loss)(params, batch)
        updates, moments = inner.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    def init(key: Key) -> State:
        params = problem.init(key)
        return State(params, inner.init(params), jnp.int32(0))

    def support(key: Key, state: State) -> Any:
        return problem.support(key, state.params, problem.tasks.sample(key))

    def learn(key: Key, state: State) -> tuple[Params, optax.OptState, Metrics]:
        """Adapt to one training task; return the adapted parameters, the state of the inner optimiser, and metrics."""
        key_task, key_query, key_first, key_steps = jax.random.split(key, 4)
        task = problem.tasks.sample(key_task)

        def one(loop: tuple[Params, optax.OptState], key: Key) -> tuple[tuple[Params, optax.OptState], None]:
            params, moments = loop
            return inner_step(params, moments, problem.support(key, params, task)), None

        (params, moments), _ = jax.lax.scan(
            one, (state.params, state.inner), jax.random.split(key_steps, config.inner_steps)
        )
        query = problem.query(key_query, params, task)
        before = problem.query(key_first, state.params, task)
        metrics = {
            "score": problem.score(params, query),
            "score_before_adaptation": problem.score(state.params, before),
        }
        return params, moments, metrics

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        keys = jax.random.split(key, config.tasks)
        adapted, moments, metrics = map_tasks(learn, in_axes=(0, None), data_of=support)(keys, state)
        rate = outer_rate(state.iteration)
        direction = optax.tree.sub(jax.tree.map(lambda x: jnp.mean(x, axis=0), adapted), state.params)
        params = optax.apply_updates(state.params, optax.tree.scale(rate, direction))
        metrics = jax.tree.map(jnp.mean, metrics) | {"outer_rate": rate, "direction_norm": optax.tree.norm(direction)}
        # All tasks continue from the same moments. The step count, a whole number, is the same for all; as a mean of
        # floats it would be rounded.
        inner = jax.tree.map(lambda x: x[0] if jnp.issubdtype(x.dtype, jnp.integer) else jnp.mean(x, axis=0), moments)
        return State(params, inner, state.iteration + 1), metrics

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        def one(loop: tuple[Params, optax.OptState], key: Key) -> tuple[tuple[Params, optax.OptState], Any]:
            params, moments = loop
            key_query, key_support = jax.random.split(key)
            tested = problem.score_query(key_query, params, task)
            return inner_step(params, moments, problem.support(key_support, params, task)), tested

        key_last, key_steps = jax.random.split(key)
        keys = jax.random.split(key_steps, config.adaptation_steps)
        (params, _), before = jax.lax.scan(one, (state.params, state.inner), keys)
        score, success = jax.tree.map(jnp.append, before, problem.score_query(key_last, params, task))
        return Adaptation(score, params, success)

    def deployed(state: State) -> Adapting:
        return Adapting(state.params, state.inner)

    def predicting(few_shot: FewShotFunctions) -> Predicting:
        def adapt_to(key: Key, params: Adapting, support: Any) -> tuple[Params, Any]:
            task = few_shot.task(support)

            def one(loop: Adapting, key: Key) -> tuple[Adapting, None]:
                return Adapting(*inner_step(*loop, problem.support(key, loop.params, task))), None

            adapted, _ = jax.lax.scan(one, params, jax.random.split(key, config.adaptation_steps))
            return adapted.params, support

        def predict(params: Adapting, memory: tuple[Params, Any], x: Array) -> Array:
            del params
            adapted, support = memory
            return few_shot.predict(adapted, support, x)

        return Predicting(deployed, adapt_to, predict)

    policy, few_shot = problem.policy, problem.few_shot
    if policy is None:
        supervised = None if few_shot is None else predicting(few_shot)
        return Algorithm(init, step, adapt, config.iterations, "gradient step", predicting=supervised)

    def act(
        key: Key, params: Adapting, memory: Adapting, inputs: Inputs, final_obs: Array
    ) -> tuple[Adapting, Array, Any]:
        del params, final_obs
        return memory, *policy.act(key, memory.params, inputs)

    def learn_from(params: Adapting, memory: Adapting, episodes: Transition) -> Adapting:
        del params
        return Adapting(*inner_step(memory.params, memory.inner, policy.batch(episodes)))

    acting = Acting(
        params=deployed,
        start=lambda key, params: params,
        act=act,
        learn=learn_from,
    )
    return Algorithm(init, step, adapt, config.iterations, "gradient step", acting=acting)
