"""MAML and related methods agree with closed forms on quadratics, whose meta-gradients and fixed points are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import problems
from metarl_jax.algorithms import (
    anil,
    cavia,
    e_maml,
    imaml,
    maml,
    maml_trpo,
    meta_sgd,
    multi_task,
    multi_task_trpo,
    promp,
    reptile,
)
from metarl_jax.datasets import sinusoid
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.networks import mlp
from metarl_jax.oracles import from_scratch
from metarl_jax.settings import fields
from metarl_jax.types import Algorithm, Array, Key, Metrics, TaskDistribution

RATE = 0.3
CURVATURE, CENTRE = (1.0, 2.0), (-1.0, 1.0)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def quadratics() -> InnerProblem:
    """Make a problem of two equally likely tasks, with losses a (theta - c)^2 / 2, (a, c) = (1, -1) and (2, 1)."""

    def loss(theta: Array, task: Array) -> Array:
        return 0.5 * task[0] * (theta - task[1]) ** 2

    def sample(key: Key) -> Array:
        return jnp.asarray([CURVATURE, CENTRE]).T[jax.random.randint(key, (), 0, 2)]

    def data(key: Key, theta: Array, task: Array) -> Array:
        del key, theta
        return task

    tasks = TaskDistribution(sample, sample)
    return InnerProblem(tasks, lambda key: jnp.zeros(()), data, data, loss, loss, loss)


def fixed_point(first_order: bool, steps: int) -> float:
    """Return the fixed point of descent with both tasks in equal numbers."""
    config = maml.Config(
        tasks=4096, inner_steps=steps, inner_rate=RATE, learning_rate=0.05, first_order=first_order, adaptation_steps=1
    )
    return settle(maml.make(quadratics(), config), 600)


def settle(algorithm: Algorithm, iterations: int) -> float:
    """Train; return the mean of the parameters after the first third of the iterations."""

    @jax.jit
    def run(key: Key) -> Array:
        def step(state: Any, key: Key) -> tuple[Any, Array]:
            state, _ = algorithm.step(key, state)
            return state, state.params

        _, path = jax.lax.scan(step, algorithm.init(key), jax.random.split(key, iterations))
        return jnp.mean(path[iterations // 3 :])

    return float(run(jax.random.key(0)))


@pytest.mark.parametrize(
    ("first_order", "steps", "expected"),
    [
        (False, 1, -0.209877),
        (False, 2, -0.648472),
        (False, 5, -0.985261),
        (True, 1, 0.066667),
        (True, 2, -0.209877),
        (True, 5, -0.782763),
    ],
)
def test_fixed_points(first_order: bool, steps: int, expected: float) -> None:
    assert fixed_point(first_order, steps) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.333333), (2, 0.244444), (5, 0.086639)])
def test_reptile_settles_where_its_closed_form_says(steps: int, expected: float) -> None:
    config = reptile.Config(
        tasks=4096, inner_steps=steps, inner_optimizer="sgd", inner_rate=RATE, outer_rate=0.1, iterations=10**9
    )
    assert settle(reptile.make(quadratics(), config), 600) == pytest.approx(expected, abs=0.01)


def test_multi_task_training_settles_at_the_minimum_of_the_mean_loss() -> None:
    """Multi-task training settles at the mean of the centres weighted by curvature, for all steps on held-out tasks."""
    config = multi_task.Config(tasks=4096, inner_rate=RATE, learning_rate=0.05, adaptation_steps=1)
    algorithm = multi_task.make(quadratics(), config)
    assert settle(algorithm, 600) == pytest.approx(np.dot(CURVATURE, CENTRE) / np.sum(CURVATURE), abs=0.01)
    # Fine-tuning is MAML's adaptation: the factor (1 - rate a) of the distance is left.
    state = algorithm.init(jax.random.key(0))
    task = jnp.asarray([2.0, 1.0])
    adaptation = algorithm.adapt(jax.random.key(0), state, task)
    np.testing.assert_allclose(adaptation.score, [1.0, (1 - RATE * 2.0) ** 2], rtol=1e-12)


def test_from_scratch_is_plain_descent_from_a_fresh_initialisation() -> None:
    curvature, centre, rate, steps = 2.0, 1.0, 0.1, 4
    task = jnp.asarray([curvature, centre])
    starts = quadratics()._replace(init=lambda key: jax.random.normal(key, (), jnp.float64))
    oracle = from_scratch.gradient_descent(starts, steps, rate)
    firsts = []
    for seed in range(3):
        adaptation = oracle.adapt(jax.random.key(seed), (), task)
        left = (adaptation.learner - centre) / (1 - rate * curvature) ** steps
        distances = left * (1 - rate * curvature) ** np.arange(steps + 1)
        np.testing.assert_allclose(adaptation.score, 0.5 * curvature * distances**2, rtol=1e-9)
        firsts.append(float(adaptation.score[0]))
    assert len(set(firsts)) == 3
    # Adam's first step has the size of its rate for every gradient.
    learnt = from_scratch.adam(quadratics(), 1, rate).adapt(jax.random.key(0), (), task).learner
    assert float(learnt) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_reptile_iteration_is_its_closed_form(steps: int) -> None:
    """Reptile moves by outer_rate (1 - (1 - rate a)^k) (c - phi), which is linear in the drawn tasks."""
    only = quadratics()
    curvature, centre = 2.0, 1.0
    tasks = TaskDistribution(*[lambda key: jnp.asarray([curvature, centre])] * 2)
    config = reptile.Config(tasks=3, inner_steps=steps, inner_optimizer="sgd", inner_rate=RATE, outer_rate=0.5)
    algorithm = reptile.make(only._replace(tasks=tasks), config)
    state, _ = algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0)))
    np.testing.assert_allclose(state.params, 0.5 * (1 - (1 - RATE * curvature) ** steps) * centre, rtol=1e-9)


def test_reptile_s_outer_rate_falls_linearly() -> None:
    """In the second of two iterations the outer step size is half."""
    tasks = TaskDistribution(*[lambda key: jnp.asarray([2.0, 1.0])] * 2)
    config = reptile.Config(
        tasks=1, inner_steps=1, inner_optimizer="sgd", inner_rate=RATE, outer_rate=0.8, iterations=2
    )
    algorithm = reptile.make(quadratics()._replace(tasks=tasks), config)
    state = algorithm.init(jax.random.key(0))
    for share in (0.8, 0.4):
        before = state.params
        state, _ = algorithm.step(jax.random.key(0), state)
        np.testing.assert_allclose(state.params - before, share * RATE * 2.0 * (1.0 - before), rtol=1e-7)


def test_reptile_s_adam_has_no_momentum_and_keeps_its_second_moments() -> None:
    """After one iteration of k steps on one quadratic, parameters and moments equal those of Adam in NumPy."""
    curvature, centre, steps, rate, decay = 2.0, 1.0, 3, 0.05, 0.9
    tasks = TaskDistribution(*[lambda key: jnp.asarray([curvature, centre])] * 2)
    config = reptile.Config(
        tasks=2, inner_steps=steps, inner_rate=rate, second_moment_decay=decay, outer_rate=1.0, iterations=10**9
    )
    algorithm = reptile.make(quadratics()._replace(tasks=tasks), config)
    state = algorithm.init(jax.random.key(0))
    theta, moment, count = 0.0, 0.0, 0
    for iteration in range(2):
        state, _ = algorithm.step(jax.random.key(iteration), state)
        for _ in range(steps):
            gradient, count = curvature * (theta - centre), count + 1
            moment = decay * moment + (1 - decay) * gradient**2
            theta -= rate * gradient / (np.sqrt(moment / (1 - decay**count)) + 1e-8)
        np.testing.assert_allclose(state.params, theta, rtol=1e-6)


def test_meta_sgd_learns_the_step_size_that_solves_a_quadratic_in_one() -> None:
    """With one curvature, the best step size is its inverse for every centre."""

    def sample(key: Key) -> Array:
        return jnp.stack([jnp.asarray(2.0), jax.random.normal(key)])

    problem = quadratics()._replace(tasks=TaskDistribution(sample, sample))
    config = meta_sgd.Config(tasks=64, inner_rate=0.1, learning_rate=0.02)
    algorithm = meta_sgd.make(problem, config)

    def step(state: Any, key: Key) -> tuple[Any, None]:
        return algorithm.step(key, state)[0], None

    keys = jax.random.split(jax.random.key(0), 400)
    state = jax.jit(lambda: jax.lax.scan(step, algorithm.init(jax.random.key(1)), keys)[0])()
    assert float(state.params.rates) == pytest.approx(0.5, abs=0.01)


def _meta_gradients(algorithm_module: Any, problem: InnerProblem, **settings: Any) -> None:
    """The meta-gradient, read from a step of gradient descent, agrees with central differences of the outer loss."""
    algorithm = algorithm_module.make(problem, algorithm_module.Config(tasks=1, inner_steps=2, **settings))
    state = algorithm.init(jax.random.key(0))
    flat, unravel = jax.flatten_util.ravel_pytree(state.params)
    key = jax.random.key(1)

    @jax.jit
    def step(vector: Array) -> tuple[Any, Metrics]:
        return algorithm.step(key, state._replace(params=unravel(vector)))

    after, metrics = step(flat)
    h = 1e-6
    losses = [[step(flat + sign * h * e)[1]["loss"] for sign in (1, -1)] for e in jnp.eye(len(flat))]
    differences = jnp.asarray([(up - down) / (2 * h) for up, down in losses])
    np.testing.assert_allclose(metrics["gradient_norm"], jnp.linalg.norm(differences), rtol=1e-6)
    # Adam's first step has the sign of each entry of the gradient.
    moved = jax.flatten_util.ravel_pytree(after.params)[0] - flat
    clear = jnp.abs(differences) > 1e-5
    assert int(clear.sum()) > len(flat) / 3
    np.testing.assert_array_equal(jnp.sign(moved)[clear], -jnp.sign(differences)[clear])


def _regression(context_size: int | None = None) -> InnerProblem:
    network = mlp.predictor(1, 1, hidden_sizes=(4,), context_size=context_size)
    return problems.few_shot(sinusoid.maml(shots=5, queries=6), network)


@pytest.mark.parametrize(
    ("module", "context", "settings"),
    [
        (maml, None, {}),
        (maml, None, {"rematerialise": True}),
        (anil, None, {}),
        (meta_sgd, None, {}),
        (cavia, 2, {"inner_rate": 0.1}),
    ],
)
def test_meta_gradients_are_the_outer_loss_s_finite_differences(
    module: Any, context: int, settings: dict[str, Any]
) -> None:
    _meta_gradients(module, _regression(context), **settings)


def test_imaml_s_meta_gradient_is_that_of_the_minimum_it_adapts_to() -> None:
    """A proximal quadratic has its minimum at (a c + s theta) / (a + s). With enough steps the gradient is exact."""
    curvature, centre, strength = 2.0, 1.0, 0.5
    tasks = TaskDistribution(*[lambda key: jnp.asarray([curvature, centre])] * 2)
    config = imaml.Config(tasks=1, inner_steps=200, inner_rate=0.2, strength=strength, learning_rate=1e-3)
    algorithm = imaml.make(quadratics()._replace(tasks=tasks), config)
    _, metrics = algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0)))
    minimum = curvature * centre / (curvature + strength)
    exact = curvature * (minimum - centre) * strength / (curvature + strength)
    np.testing.assert_allclose(metrics["gradient_norm"], abs(exact), rtol=1e-9)


@pytest.mark.parametrize(("module", "part"), [(anil, "head"), (cavia, "context")])
def test_only_the_named_part_adapts(module: Any, part: str) -> None:
    problem = _regression(2 if module is cavia else None)
    algorithm = module.make(problem, module.Config(adaptation_steps=2))
    state = algorithm.init(jax.random.key(0))
    task = problem.tasks.sample_heldout(jax.random.key(1))
    adapted = jax.tree.map(lambda x: x[-1], algorithm.adapt(jax.random.key(2), state, task).learner)
    before = {"context": jnp.zeros(2), "network": state.params} if module is cavia else state.params
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, adapted)
    for path, moved in jax.tree.leaves_with_path(changed):
        assert moved == (part in jax.tree_util.keystr(path)), jax.tree_util.keystr(path)


def test_steps_beyond_those_trained_on_have_their_own_size() -> None:
    config = maml.Config(inner_rate=RATE, adaptation_steps=3, inner_steps=1, later_rate_fraction=0.5)
    algorithm = maml.make(quadratics(), config)
    state = algorithm.init(jax.random.key(0))
    adaptation = algorithm.adapt(jax.random.key(1), state, jnp.asarray([2.0, 1.0]))
    distance = -np.cumprod([1.0, 1 - RATE * 2, 1 - RATE, 1 - RATE / 2])
    np.testing.assert_allclose(adaptation.score, distance**2, rtol=1e-9)


def test_adaptation_is_scored_before_and_after_every_gradient_step() -> None:
    algorithm = maml.make(quadratics(), maml.Config(inner_rate=RATE, adaptation_steps=4))
    state = algorithm.init(jax.random.key(0))
    curvature, centre = 2.0, 1.0
    adaptation = algorithm.adapt(jax.random.key(1), state, jnp.asarray([curvature, centre]))
    distance = (1 - RATE * curvature) ** np.arange(5) * (0.0 - centre)
    np.testing.assert_allclose(adaptation.score, 0.5 * curvature * distance**2, rtol=1e-9)
    np.testing.assert_allclose(adaptation.learner, centre + distance, rtol=1e-9)


def test_each_inner_step_adapts_on_data_that_its_own_learner_collects() -> None:
    """If data depend on the learner, the parameters after the first step collect the second batch."""

    def data(key: Key, theta: Array, task: Array) -> Array:
        del key, task
        return theta + 1.0

    def loss(theta: Array, target: Array) -> Array:
        return 0.5 * (theta - target) ** 2

    def where(theta: Array, target: Array) -> Array:
        del target
        return theta

    problem = quadratics()._replace(support=data, query=data, inner_loss=loss, outer_loss=loss, score=where)
    algorithm = maml.make(problem, maml.Config(inner_rate=RATE, inner_steps=3, tasks=2))
    _, metrics = algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0)))
    # The target is one ahead of the parameters at each step, so a step moves by RATE. The query is again one ahead.
    np.testing.assert_allclose(metrics["score"], 3 * RATE, rtol=1e-6)
    np.testing.assert_allclose(metrics["score_before_adaptation"], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 0.5, rtol=1e-6)


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
        # The prediction zero has a mean squared error of 4.252.
        assert float(jnp.mean(episodes.query[1] ** 2)) == pytest.approx(4.252, abs=0.12)


def test_bad_settings_are_named() -> None:
    for module, name in (
        (maml_trpo, "a trust region"),
        (multi_task_trpo, "a trust region"),
        (e_maml, "E-MAML"),
        (promp, "ProMP"),
    ):
        with pytest.raises(ValueError, match=f"{name} needs a problem with a policy"):
            module.make(quadratics(), module.Config())
    with pytest.raises(
        ValueError, match="ANIL adapts the parameters below 'head': this network has no such parameters"
    ):
        anil.make(quadratics(), anil.Config())
    with pytest.raises(ValueError, match="CAVIA needs a network with a context"):
        cavia.make(quadratics(), cavia.Config())
    with pytest.raises(ValueError, match=r"inner_rate must be a finite number above 0, not -0\.1"):
        maml.make(quadratics(), maml.Config(inner_rate=-0.1))
    with pytest.raises(ValueError, match="shots must be a positive whole number, not 0"):
        sinusoid.maml(0, 5)


INNER = {
    "iterations",
    "tasks",
    "inner_steps",
    "inner_rate",
    "max_inner_norm",
    "adaptation_steps",
    "later_rate_fraction",
}
THROUGH = {"first_order", "rematerialise"}
ADAM = {"learning_rate", "final_learning_rate_fraction", "epochs"}
TRUST_REGION = {"max_divergence", "conjugate_gradients", "metric_share", "damping"}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (maml, INNER | THROUGH | ADAM),
        (maml_trpo, INNER | THROUGH | TRUST_REGION),
        (e_maml, INNER | THROUGH | TRUST_REGION | {"exploration_credit"}),
        (multi_task, INNER | ADAM),
        (multi_task_trpo, INNER | TRUST_REGION),
        (anil, INNER | THROUGH | ADAM),
        (cavia, INNER | THROUGH | ADAM),
        (meta_sgd, INNER | THROUGH | ADAM),
        (imaml, INNER | ADAM | {"strength", "solver_iterations"}),
        (promp, INNER | THROUGH | ADAM | {"divergence_weight", "adaptive_weight", "target_divergence"}),
    ],
)
def test_an_algorithm_has_the_settings_that_it_uses(module: Any, names: set[str]) -> None:
    assert set(fields(module.Config)) == names


def test_adam_s_step_size_falls_linearly() -> None:
    config = maml.Config(iterations=10, learning_rate=0.5, final_learning_rate_fraction=0.2, epochs=2)
    optimizer = config.optimizer(config.iterations)
    params = jnp.zeros(1)
    state, sizes = optimizer.init(params), []
    for _ in range(25):
        # For a constant gradient Adam's step has the size of its step size.
        updates, state = optimizer.update(jnp.ones(1), state, params)
        sizes.append(-np.asarray(updates).item())
    np.testing.assert_allclose(sizes, np.interp(np.arange(25), [0, 20], [0.5, 0.1]), rtol=1e-4)
