"""Gated memories (GRU and LSTM), for one step and for a whole trial.

Two decisions make them fast. First, every gate has arrays of its own. Splitting one wide product into gates keeps XLA
on a CPU from vectorising the operations that follow, and costs more than the product. Second, the derivative over a
trial is a custom rule. The derivative of the plain scan would keep every intermediate of every gate, and would update
the gradient of the recurrent weights, the largest array, at every step. With the custom rule, the forward pass keeps
the five coefficients of a step's tangent (six for an LSTM), and the effect of the weights' tangents on the memory is
one product over the whole trial. Because it is a rule for tangents, it serves forward mode and reverse mode.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.types import Array

Cell: TypeAlias = Literal["gru", "lstm"]
GATES: dict[Cell, int] = {"gru": 3, "lstm": 4}
"""The number of gates of each cell. A GRU has reset, update and candidate; an LSTM has input, forget, candidate and
output."""

State: TypeAlias = Array | tuple[Array, Array]
"""The state of a memory: ``[H]`` for a GRU; (hidden, cell), each ``[H]``, for an LSTM."""
Gates: TypeAlias = tuple[Array, ...]
"""One array for each gate."""


def hidden_of(state: State) -> Array:
    """Return the hidden part of a state, which is the memory's output, ``[H]``."""
    return state[0] if isinstance(state, tuple) else state


def project(x: Array, kernel: Array, bias: Array) -> Gates:
    """Compute the contribution of ``x`` ``[..., I]`` to each of G gates, ``[..., H]``.

    The weights are ``[G, I, H]``, and the bias is ``[G, H]``.
    """
    rows = x if x.ndim <= 2 else x.reshape(-1, x.shape[-1])
    gates = (rows @ kernel[gate] + bias[gate] for gate in range(kernel.shape[0]))
    return tuple(gate.reshape(*x.shape[:-1], -1) for gate in gates)


def _gru(inputs: Gates, recurrent: Gates, hidden: Array) -> tuple[Array, Gates]:
    """Compute one GRU step (Cho et al. 2014, in the form whose reset gate acts after the matrix product).

    Returns:
        The next hidden state, and the coefficients of the step's tangent.
    """
    reset = nn.sigmoid(inputs[0] + recurrent[0])
    update = nn.sigmoid(inputs[1] + recurrent[1])
    candidate = jnp.tanh(inputs[2] + reset * recurrent[2])
    after = update * hidden + (1 - update) * candidate
    by_candidate = (1 - update) * (1 - candidate * candidate)
    by_reset = by_candidate * recurrent[2] * reset * (1 - reset)
    by_update = (hidden - candidate) * update * (1 - update)
    return after, (by_reset, by_update, by_candidate, reset, update)


def _gru_outside(inputs: Gates, recurrent: Gates) -> Gates:
    """Compute the part of the gates' tangents that does not depend on the memory's tangent, for ``_gru_tangent``."""
    return inputs[0] + recurrent[0], inputs[1] + recurrent[1], inputs[2], recurrent[2]


def _gru_tangent(coefficients: Gates, outside: Gates, recurrent: Gates, hidden: Array) -> Array:
    by_reset, by_update, by_candidate, reset, update = coefficients
    gates = by_reset * (outside[0] + recurrent[0]) + by_update * (outside[1] + recurrent[1])
    return gates + by_candidate * (outside[2] + reset * (outside[3] + recurrent[2])) + update * hidden


def _lstm(inputs: Gates, recurrent: Gates, state: tuple[Array, Array]) -> tuple[State, Gates]:
    """Compute one LSTM step (Hochreiter & Schmidhuber 1997, with a forget gate).

    Returns:
        The next (hidden, cell), and the coefficients of the step's tangent.
    """
    write, forget, candidate, read = (x + h for x, h in zip(inputs, recurrent, strict=True))
    write, forget, read = nn.sigmoid(write), nn.sigmoid(forget), nn.sigmoid(read)
    candidate = jnp.tanh(candidate)
    cell = forget * state[1] + write * candidate
    shown = jnp.tanh(cell)
    by_write = candidate * write * (1 - write)
    by_forget = state[1] * forget * (1 - forget)
    by_candidate = write * (1 - candidate * candidate)
    by_read = shown * read * (1 - read)
    by_cell = read * (1 - shown * shown)
    return (read * shown, cell), (by_write, by_forget, by_candidate, by_read, forget, by_cell)


def _lstm_outside(inputs: Gates, recurrent: Gates) -> Gates:
    return tuple(x + h for x, h in zip(inputs, recurrent, strict=True))


def _lstm_tangent(coefficients: Gates, outside: Gates, recurrent: Gates, state: tuple[Array, Array]) -> State:
    by_write, by_forget, by_candidate, by_read, forget, by_cell = coefficients
    write, forget_gate, candidate, read = (x + h for x, h in zip(outside, recurrent, strict=True))
    cell = by_write * write + by_forget * forget_gate + by_candidate * candidate + forget * state[1]
    return by_cell * cell + by_read * read, cell


_STEPS: dict[Cell, Any] = {"gru": _gru, "lstm": _lstm}
_TANGENTS: dict[Cell, tuple[Any, Any]] = {
    "gru": (_gru_outside, _gru_tangent),
    "lstm": (_lstm_outside, _lstm_tangent),
}


def advance(cell: Cell, kernel: Array, bias: Array, state: State, inputs: Gates) -> State:
    """Compute the state of a memory after one step.

    Args:
        cell: the kind of cell.
        kernel: the recurrent weights, ``[G, H, H]``.
        bias: the recurrent bias, ``[G, H]``. It is separate from the bias of the inputs, because a GRU's reset gate
            multiplies the recurrent part of the candidate only.
        state: the state before the step.
        inputs: the contribution of the inputs to each gate, ``[H]``.
    """
    return _STEPS[cell](inputs, project(hidden_of(state), kernel, bias), state)[0]


def _scan(cell: Cell, kernel: Array, bias: Array, state: State, inputs: Gates) -> tuple[State, Array, Gates]:
    def step(state: State, inputs: Gates) -> tuple[State, tuple[Array, Gates]]:
        state, coefficients = _STEPS[cell](inputs, project(hidden_of(state), kernel, bias), state)
        return state, (hidden_of(state), coefficients)

    state, (hidden, coefficients) = jax.lax.scan(step, state, inputs)
    return state, hidden, coefficients


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def unroll(cell: Cell, kernel: Array, bias: Array, state: State, inputs: Gates) -> tuple[State, Array]:
    """Scan ``advance`` over ``inputs``, which are ``[T, H]`` for each gate.

    Trials may be batched: inputs ``[T, B, H]`` and a state ``[B, H]``.

    Returns:
        The last state, and the hidden part of the state after every step, ``[T, H]``.
    """
    return _scan(cell, kernel, bias, state, inputs)[:2]


@unroll.defjvp
def _unroll_tangent(cell: Cell, primals: Any, tangents: Any) -> Any:
    kernel, bias, state, inputs = primals
    kernel_tangent, bias_tangent, state_tangent, inputs_tangent = tangents
    last, hidden, coefficients = _scan(cell, kernel, bias, state, inputs)
    outside, tangent_step = _TANGENTS[cell]
    before = jnp.concatenate([hidden_of(state)[None], hidden[:-1]])
    # The gradient of the weights is a product with the transpose of ``rows``, which is laid out once for all gates.
    rows = jax.lax.optimization_barrier(before.reshape(-1, before.shape[-1]).T).T
    recurrent = project(rows, kernel_tangent, bias_tangent)
    outer = outside(inputs_tangent, tuple(gate.reshape(hidden.shape) for gate in recurrent))

    def step(tangent: State, row: tuple[Gates, Gates]) -> tuple[State, Array]:
        coefficients, outer = row
        recurrent = tuple(hidden_of(tangent) @ kernel[gate] for gate in range(GATES[cell]))
        tangent = tangent_step(coefficients, outer, recurrent, tangent)
        return tangent, hidden_of(tangent)

    tangents = jax.lax.scan(step, state_tangent, (coefficients, outer))
    return (last, hidden), tangents
