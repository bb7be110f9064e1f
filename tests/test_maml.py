"""MAML against closed forms: quadratic tasks, whose meta-gradients and fixed points are known (PAPERS, 13.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import problems
from metarl_jax.algorithms import maml
from metarl_jax.datasets import sinusoid
from metarl_jax.networks import mlp
from metarl_jax.types import Array, InnerProblem, Key, TaskDistribution

RATE = 0.3
CURVATURE, CENTRE = (1.0, 2.0), (-1.0, 1.0)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def quadratics() -> InnerProblem:
    """Two equally likely tasks, loss a (theta - c)^2 / 2 with (a, c) = (1, -1) and (2, 1)."""

    def loss(theta: Array, task: Array) -> Array:
        return 0.5 * task[0] * (theta - task[1]) ** 2

    def sample(key: Key) -> Array:
        return jnp.asarray([CURVATURE, CENTRE]).T[jax.random.randint(key, (), 0, 2)]

    def data(key: Key, theta: Array, task: Array) -> Array:
        del key, theta
        return task

    tasks = TaskDistribution(sample, sample)
    return InnerProblem(tasks, lambda key: jnp.zeros(()), data, data, loss, loss, loss)


def fixed_point(gradient: Any, steps: int) -> float:
    """Where stochastic descent settles with both tasks in equal numbers, by closing in on it."""
    config = maml.Config(
        tasks=4096, inner_steps=steps, inner_rate=RATE, learning_rate=0.05, gradient=gradient, adaptation_steps=1
    )
    algorithm = maml.make(quadratics(), config)

    @jax.jit
    def settle(key: Key) -> Array:
        def step(state: Any, key: Key) -> tuple[Any, Array]:
            state, _ = algorithm.step(key, state)
            return state, state.params

        _, path = jax.lax.scan(step, algorithm.init(key), jax.random.split(key, 600))
        return jnp.mean(path[200:])

    return float(settle(jax.random.key(0)))


@pytest.mark.parametrize(
    ("gradient", "steps", "expected"),
    [
        ("exact", 1, -0.209877),
        ("exact", 2, -0.648472),
        ("exact", 5, -0.985261),
        ("first_order", 1, 0.066667),
        ("first_order", 2, -0.209877),
        ("first_order", 5, -0.782763),
    ],
)
def test_fixed_points(gradient: str, steps: int, expected: float) -> None:
    assert fixed_point(gradient, steps) == pytest.approx(expected, abs=0.01)


def test_adaptation_is_scored_before_and_after_every_gradient_step() -> None:
    algorithm = maml.make(quadratics(), maml.Config(inner_rate=RATE, adaptation_steps=4))
    state = algorithm.init(jax.random.key(0))
    curvature, centre = 2.0, 1.0
    adaptation = algorithm.adapt(jax.random.key(1), state, jnp.asarray([curvature, centre]))
    distance = (1 - RATE * curvature) ** np.arange(5) * (0.0 - centre)
    np.testing.assert_allclose(adaptation.score, 0.5 * curvature * distance**2, rtol=1e-9)
    np.testing.assert_allclose(adaptation.learner, centre + distance[-1], rtol=1e-9)


def test_each_inner_step_adapts_on_what_its_own_learner_collects() -> None:
    """Data that depend on the learner: the second batch is collected by the parameters after the first step."""

    def data(key: Key, theta: Array, task: Array) -> Array:
        del key, task
        return theta + 1.0

    def loss(theta: Array, target: Array) -> Array:
        return 0.5 * (theta - target) ** 2

    problem = quadratics()._replace(support=data, query=data, inner_loss=loss, outer_loss=loss, score=loss)
    algorithm = maml.make(problem, maml.Config(inner_rate=RATE, inner_steps=3, tasks=2))
    _, metrics = algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0)))
    # Each step meets a target one ahead of where it stands, so it goes RATE forward; the query is one ahead again.
    np.testing.assert_allclose(metrics["score"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(metrics["score_before_adaptation"], 0.5 * (3 * RATE + 1) ** 2, rtol=1e-6)


def test_a_few_shot_episode_keeps_support_and_query_apart() -> None:
    problem = problems.few_shot(sinusoid.maml(shots=5, queries=7), mlp.predictor(1, 1))
    task = problem.tasks.sample_heldout(jax.random.key(0))
    params = problem.init(jax.random.key(1))
    (x, y), (query_x, query_y) = (f(jax.random.key(2), params, task) for f in (problem.support, problem.query))
    assert (x.shape, y.shape, query_x.shape, query_y.shape) == ((5, 1), (5, 1), (7, 1), (7, 1))
    assert not set(np.ravel(x).tolist()) & set(np.ravel(query_x).tolist())
    again = problem.support(jax.random.key(3), params, task)
    np.testing.assert_array_equal(x, again[0])


@pytest.mark.parametrize(("make", "phase"), [(sinusoid.maml, np.pi), (sinusoid.reptile, 2 * np.pi)])
def test_sinusoids_are_those_of_the_papers(make: Any, phase: float) -> None:
    family = make(10, 50)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 20000))
    for value, low, high in ((tasks.amplitude, 0.1, 5.0), (tasks.phase, 0.0, phase)):
        assert low <= float(value.min()) < low + 0.01 * high
        assert 0.99 * high < float(value.max()) <= high
        assert float(value.mean()) == pytest.approx((low + high) / 2, abs=4 * (high - low) / 12**0.5 / 20000**0.5)
    episodes = jax.vmap(family.draw)(jax.random.split(jax.random.key(1), 20000), tasks)
    x, y = episodes.support
    expected = tasks.amplitude[:, None] * jnp.sin(x[..., 0] - tasks.phase[:, None])
    np.testing.assert_allclose(y[..., 0], expected, rtol=1e-9)
    if make is sinusoid.maml:
        # PAPERS 3.1: the predictor that says zero has a mean squared error of 4.252.
        assert float(jnp.mean(episodes.query[1] ** 2)) == pytest.approx(4.252, abs=0.12)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="gradient must be one of exact, first_order, implicit, not 'second'"):
        maml.make(quadratics(), maml.Config(gradient="second"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"inner_rate must be a finite number above 0, not -0\.1"):
        maml.make(quadratics(), maml.Config(inner_rate=-0.1))
    with pytest.raises(ValueError, match="shots must be a positive whole number, not 0"):
        sinusoid.maml(0, 5)
