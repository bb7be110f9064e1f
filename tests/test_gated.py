"""The custom derivative of gated memories against that of a plain scan of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.networks import gated
from metarl_jax.types import Array

HIDDEN, STEPS, TRIALS = 3, 4, 2


def _arguments(cell: gated.Cell) -> tuple[Array, Array, gated.State, gated.Gates]:
    """Return weights, bias, a state, and inputs ``[T, B, H]`` of each gate, all away from zero."""
    gates = gated.GATES[cell]
    keys = jax.random.split(jax.random.key(0), 5)
    hidden, inner = (jax.random.normal(k, (HIDDEN,), jnp.float64) for k in keys[3:])
    return (
        jax.random.normal(keys[0], (gates, HIDDEN, HIDDEN), jnp.float64),
        jax.random.normal(keys[1], (gates, HIDDEN), jnp.float64),
        hidden if cell == "gru" else (hidden, inner),
        tuple(jax.random.normal(keys[2], (gates, STEPS, TRIALS, HIDDEN), jnp.float64)),
    )


def _plain(cell: gated.Cell, kernel: Array, bias: Array, state: gated.State, inputs: gated.Gates) -> Any:
    def step(state: gated.State, inputs: gated.Gates) -> tuple[gated.State, Array]:
        state = gated.advance(cell, kernel, bias, state, inputs)
        return state, gated.hidden_of(state)

    return jax.lax.scan(step, state, inputs)


def _loss(unroll: Callable[..., Any], cell: gated.Cell) -> Callable[[Any], Array]:
    """Return a loss of two trials that depends on every hidden state and on the whole last state."""

    def loss(arguments: Any) -> Array:
        last, hidden = jax.vmap(lambda inputs: unroll(cell, *arguments[:3], inputs), in_axes=1, out_axes=(0, 1))(
            arguments[3]
        )
        weight = jnp.linspace(-1, 2, hidden.size).reshape(hidden.shape)
        return jnp.sum(weight * hidden**2) + sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(last))

    return loss


def _close(got: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("cell", gated.GATES)
def test_derivatives_are_those_of_a_scan_of_steps(cell: gated.Cell) -> None:
    """Values, reverse mode, forward mode and Hessian-vector products (reverse over reverse) agree with a plain scan."""
    with jax.enable_x64(True):
        arguments = _arguments(cell)
        direction = jax.tree.map(jnp.cos, arguments)

        def derivatives(unroll: Callable[..., Any]) -> Any:
            loss = _loss(unroll, cell)
            value, gradient = jax.value_and_grad(loss)(arguments)
            along = jax.jvp(loss, (arguments,), (direction,))[1]

            def slope(arguments: Any) -> Array:
                products = jax.tree.map(lambda g, d: jnp.sum(g * d), jax.grad(loss)(arguments), direction)
                return sum(jax.tree.leaves(products), jnp.zeros(()))

            return value, gradient, along, jax.grad(slope)(arguments)

        got, expected = derivatives(gated.unroll), derivatives(_plain)
        _close(got, expected)
        assert all(bool(jnp.all(x != 0)) for x in jax.tree.leaves(got))


@pytest.mark.parametrize("cell", gated.GATES)
def test_the_weights_gradient_is_one_product_over_the_whole_trial(cell: gated.Cell) -> None:
    """No loop of the gradient's program carries a matrix of weights that it would update at every step."""

    def carried(unroll: Callable[..., Any]) -> bool:
        program = jax.make_jaxpr(jax.grad(_loss(unroll, cell)))(arguments)
        loops = [e for e in program.jaxpr.eqns if e.primitive.name == "scan"]
        assert len(loops) == 2
        carries = [e.invars[e.params["num_consts"] :][: e.params["num_carry"]] for e in loops]
        return any(v.aval.shape[-2:] == (HIDDEN, HIDDEN) for carry in carries for v in carry)

    with jax.enable_x64(True):
        arguments = _arguments(cell)
        assert carried(_plain)
        assert not carried(gated.unroll)
