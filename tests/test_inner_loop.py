"""Inner-loop descent and its gradients agree with closed forms on quadratics, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.ops.inner_loop import descend, implicit_descend, proximal, step_sizes


def close(got: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def quadratic(theta: Any, batch: Any) -> Any:
    """Return (theta - c)' A (theta - c) / 2."""
    matrix, centre = batch
    return 0.5 * (theta - centre) @ matrix @ (theta - centre)


def _task(seed: int, size: int = 3) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(size, size))
    return jnp.asarray(root @ root.T / size + np.eye(size)), jnp.asarray(generator.normal(size=size))


def _repeat(batch: Any, steps: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape)), batch)


THETA = np.array([0.3, -1.2, 0.7])
RATE = 0.1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_quadratics_adapt_and_differentiate_as_their_closed_form(steps: int) -> None:
    """PAPERS 13.4: theta_k - c = (I - rate A)^k (theta - c); outer gradients of MAML and FOMAML in matrix form."""
    matrix, centre = batch = _task(0)
    theta = jnp.asarray(THETA)
    shrink = jnp.linalg.matrix_power(jnp.eye(3) - RATE * matrix, steps)
    rates = step_sizes(RATE, theta, steps)

    def outer(theta: Any, **how: Any) -> Any:
        return quadratic(descend(quadratic, theta, _repeat(batch, steps), rates, **how), batch)

    adapted = descend(quadratic, theta, _repeat(batch, steps), rates)
    close(adapted, centre + shrink @ (theta - centre))
    exact = shrink @ matrix @ shrink @ (theta - centre)
    close(jax.grad(outer)(theta), exact)
    close(jax.grad(lambda t: outer(t, rematerialise=True))(theta), exact)
    first_order = matrix @ shrink @ (theta - centre)
    close(jax.grad(lambda t: outer(t, gradient="first_order"))(theta), first_order)


def test_each_step_has_its_own_batch_and_rate() -> None:
    tasks = [_task(seed) for seed in range(4)]
    batches = jax.tree.map(lambda *x: jnp.stack(x), *tasks)
    rates = jnp.asarray([[0.1, 0.2, 0.0], [0.3, 0.0, 0.1], [0.05, 0.1, 0.2], [0.2, 0.2, 0.2]])
    expected = jnp.asarray(THETA)
    for (matrix, centre), rate in zip(tasks, rates, strict=True):
        expected = expected - rate * (matrix @ (expected - centre))
    close(descend(quadratic, jnp.asarray(THETA), batches, rates), expected)


def test_gradients_are_scaled_down_to_the_largest_norm() -> None:
    matrix, centre = batch = _task(0)
    theta = jnp.asarray(THETA)
    full = matrix @ (theta - centre)
    norm = float(jnp.linalg.norm(full))
    for largest, factor in ((norm / 4, 0.25), (norm * 4, 1.0)):
        adapted = descend(quadratic, theta, _repeat(batch, 1), step_sizes(RATE, theta, 1), max_norm=largest)
        close(adapted, theta - RATE * factor * full)
        # The scaling is differentiated, too; the reference is central differences.
        slope = jax.grad(
            lambda t, m=largest: jnp.sum(
                descend(quadratic, t, _repeat(batch, 1), step_sizes(RATE, t, 1), max_norm=m) ** 3
            )
        )

        def value(t: Any, m: float = largest) -> Any:
            return jnp.sum(descend(quadratic, t, _repeat(batch, 1), step_sizes(RATE, t, 1), max_norm=m) ** 3)

        h = 1e-6
        differences = [(value(theta + h * e) - value(theta - h * e)) / (2 * h) for e in jnp.eye(3)]
        close(slope(theta), jnp.asarray(differences), rtol=1e-6)


def _nonlinear(params: Any, batch: Any) -> Any:
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


def _nonlinear_problem(steps: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(1)
    params = {"w": jnp.asarray(generator.normal(size=(2, 4))), "v": jnp.asarray(generator.normal(size=4))}
    return params, (jnp.asarray(generator.normal(size=(steps, 6, 2))), jnp.asarray(generator.normal(size=(steps, 6))))


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 11])
def test_rematerialisation_changes_only_memory(steps: int) -> None:
    params, batches = _nonlinear_problem(steps)
    query = jax.tree.map(lambda x: x[0] + 0.1, batches)
    rates = step_sizes(0.2, params, steps)

    def outer(params: Any, rematerialise: bool) -> Any:
        return _nonlinear(descend(_nonlinear, params, batches, rates, rematerialise=rematerialise), query)

    for a, b in zip(*(jax.tree.leaves(jax.value_and_grad(outer)(params, r)) for r in (False, True)), strict=True):
        close(a, b)


def test_rematerialised_memory_grows_by_less_than_the_steps() -> None:
    def memory(steps: int, rematerialise: bool) -> int:
        params = {"w": jnp.zeros((2, 64)), "v": jnp.zeros(64)}
        batches = (jnp.zeros((steps, 100, 2)), jnp.zeros((steps, 100)))

        def outer(params: Any) -> Any:
            rates = step_sizes(0.2, params, steps)
            adapted = descend(_nonlinear, params, batches, rates, rematerialise=rematerialise)
            return _nonlinear(adapted, jax.tree.map(lambda x: x[0], batches))

        analysis = jax.jit(jax.grad(outer)).lower(params).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert memory(64, True) < memory(64, False) / 3
    assert memory(64, True) < 4 * memory(4, True)


def test_exact_gradient_against_finite_differences() -> None:
    params, batches = _nonlinear_problem(3)
    query = jax.tree.map(lambda x: x[0] + 0.1, batches)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def outer(flat: Any) -> Any:
        params = unravel(flat)
        return _nonlinear(descend(_nonlinear, params, batches, step_sizes(0.2, params, 3)), query)

    gradient = jax.grad(outer)(flat)
    for i in range(flat.size):
        step = 1e-5 * jnp.eye(flat.size)[i]
        difference = (outer(flat + step) - outer(flat - step)) / 2e-5
        close(gradient[i], difference, rtol=1e-6, atol=1e-8)


def test_step_sizes_may_be_trees() -> None:
    params = {"body": jnp.ones((2, 3)), "head": jnp.ones(2)}
    rates = step_sizes({"body": 0.0, "head": jnp.asarray([0.1, 0.2])}, params, 4)
    assert rates["body"].shape == (4, 2, 3)
    np.testing.assert_array_equal(rates["head"], np.tile([0.1, 0.2], (4, 1)))
    assert not rates["body"].any()


STRENGTH = 1.5


def test_implicit_gradient_is_that_of_the_regularised_minimum() -> None:
    """phi* = (A + s I)^-1 (A c + s theta), hence d phi*/d theta = s (A + s I)^-1, for any number of steps."""
    matrix, centre = batch = _task(2)
    query = _task(3)
    theta, steps = jnp.asarray(THETA), 400
    rates = step_sizes(0.2, theta, steps)

    def adapted(theta: Any) -> Any:
        return implicit_descend(quadratic, theta, _repeat(batch, steps), rates, strength=STRENGTH, iterations=10)

    inverse = jnp.linalg.inv(matrix + STRENGTH * jnp.eye(3))
    minimum = inverse @ (matrix @ centre + STRENGTH * theta)
    close(adapted(theta), minimum, rtol=1e-8)
    gradient = jax.grad(lambda t: quadratic(adapted(t), query))(theta)
    expected = STRENGTH * inverse @ (query[0] @ (minimum - query[1]))
    close(gradient, expected, rtol=1e-8)
    # The gradient does not depend on the path. After many steps it equals the exact one through all of them.
    loss = proximal(quadratic, theta, STRENGTH)
    assert float(jnp.linalg.norm(jax.grad(loss)(adapted(theta), batch))) < 1e-8
    unrolled = jax.grad(
        lambda t: quadratic(descend(proximal(quadratic, t, STRENGTH), t, _repeat(batch, steps), rates), query)
    )(theta)
    close(gradient, unrolled, rtol=1e-7)


def test_implicit_memory_does_not_grow_with_the_steps() -> None:
    def memory(steps: int) -> int:
        params = {"w": jnp.zeros((2, 64)), "v": jnp.zeros(64)}
        batch = (jnp.zeros((100, 2)), jnp.zeros(100))

        def outer(params: Any) -> Any:
            rates = step_sizes(0.2, params, 1)
            rates = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (steps, *x.shape[1:])), rates)
            adapted = implicit_descend(
                _nonlinear, params, _repeat(batch, steps), rates, strength=STRENGTH, iterations=3
            )
            return _nonlinear(adapted, batch)

        analysis = jax.jit(jax.grad(outer)).lower(params).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    # Only the data may grow, which have a batch for each step.
    data = 8 * 60 * (3 * 100 + 2 * (2 * 64 + 64))
    assert memory(64) <= memory(4) + data


@pytest.mark.parametrize("function", [descend, partial(implicit_descend, strength=1.0, iterations=3)])
def test_more_inner_steps_than_data_are_refused(function: Any) -> None:
    batches = _repeat(_task(0), 3)
    with pytest.raises(ValueError, match=r"5 inner steps need a batch .*there are 3"):
        function(quadratic, jnp.asarray(THETA), batches, step_sizes(RATE, jnp.asarray(THETA), 5))
