"""Learning a task from a random initialisation, with the number of steps and the data of a meta-learner."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax.checks import natural_int, positive_number
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.types import Adaptation, Key, Oracle, Params, State, Task


def gradient_descent(problem: InnerProblem, steps: int, rate: float) -> Oracle:
    """Make a learner that uses gradient descent on each task, from a new random initialisation.

    Args:
        problem: the problem of the tasks.
        steps: the number K of steps. The scores are ``[K + 1]``, before the first step and after each step.
        rate: the step size.

    Raises:
        ValueError: if ``steps`` is not a whole number of at least 0, or ``rate`` is not positive and finite.
    """
    return _make(problem, steps, optax.sgd(positive_number("rate", rate)), f"from scratch, gradient descent ({rate:g})")


def adam(problem: InnerProblem, steps: int, rate: float) -> Oracle:
    """Make a learner that uses Adam on each task, from a new random initialisation.

    The arguments and the errors are those of ``gradient_descent``.
    """
    return _make(problem, steps, optax.adam(positive_number("rate", rate)), f"from scratch, Adam ({rate:g})")


def _make(problem: InnerProblem, steps: int, optimizer: optax.GradientTransformation, name: str) -> Oracle:
    steps = natural_int("steps", steps)

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del state
        key_init, key_last, key_steps = jax.random.split(key, 3)
        params = problem.init(key_init)

        def step(loop: tuple[Params, optax.OptState], key: Key) -> tuple[tuple[Params, optax.OptState], Any]:
            params, moments = loop
            key_query, key_support = jax.random.split(key)
            gradient = jax.grad(problem.inner_loss)(params, problem.support(key_support, params, task))
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), problem.score_query(key_query, params, task)

        keys = jax.random.split(key_steps, steps)
        (params, _), before = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        score, success = jax.tree.map(jnp.append, before, problem.score_query(key_last, params, task))
        return Adaptation(score, params, success)

    return Oracle(name, adapt, "gradient step")
