"""Gated memories, one step at a time and over a whole trial.

Two things make them fast. Every gate has arrays of its own: cutting one wide product into gates keeps XLA on a CPU from
vectorising what follows, and costs more than the product. And the derivative over a trial is written down here. Taken
from the scan as it stands, it would keep every intermediate of every gate, and add to the gradient of the recurrent
weights, the largest array about, once a step. Instead the forward pass keeps the five coefficients of a step's tangent
(six for an LSTM), and what the weights' change does to the memory is one product over the whole trial. Being a rule for
tangents, it serves forward and reverse mode alike.
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
"""A GRU's are reset, update and candidate; an LSTM's input, forget, candidate and output."""

State: TypeAlias = Array | tuple[Array, Array]
"""``[H]`` of a GRU; (hidden, cell), each ``[H]``, of an LSTM."""
Gates: TypeAlias = tuple[Array, ...]
"""An array for each gate."""


def hidden_of(state: State) -> Array:
    """The part of the state that others see, ``[H]``."""
    return state[0] if isinstance(state, tuple) else state


def project(x: Array, kernel: Array, bias: Array) -> Gates:
    """What ``x`` ``[..., I]`` gives each gate, ``[..., H]``; weights ``[G, I, H]``, bias ``[G, H]``."""
    rows = x if x.ndim <= 2 else x.reshape(-1, x.shape[-1])
    gates = (rows @ kernel[gate] + bias[gate] for gate in range(kernel.shape[0]))
    return tuple(gate.reshape(*x.shape[:-1], -1) for gate in gates)


def _gru(inputs: Gates, recurrent: Gates, hidden: Array) -> tuple[Array, Gates]:
    """One GRU step (Cho et al. 2014, in the form whose reset gate acts after the matrix product)."""
    reset = nn.sigmoid(inputs[0] + recurrent[0])
    update = nn.sigmoid(inputs[1] + recurrent[1])
    candidate = jnp.tanh(inputs[2] + reset * recurrent[2])
    after = update * hidden + (1 - update) * candidate
    by_candidate = (1 - update) * (1 - candidate * candidate)
    by_reset = by_candidate * recurrent[2] * reset * (1 - reset)
    by_update = (hidden - candidate) * update * (1 - update)
    return after, (by_reset, by_update, by_candidate, reset, update)


def _gru_outside(inputs: Gates, recurrent: Gates) -> Gates:
    """What of the gates' tangents does not come through the memory, for ``_gru_tangent``."""
    return inputs[0] + recurrent[0], inputs[1] + recurrent[1], inputs[2], recurrent[2]


def _gru_tangent(coefficients: Gates, outside: Gates, recurrent: Gates, hidden: Array) -> Array:
    by_reset, by_update, by_candidate, reset, update = coefficients
    gates = by_reset * (outside[0] + recurrent[0]) + by_update * (outside[1] + recurrent[1])
    return gates + by_candidate * (outside[2] + reset * (outside[3] + recurrent[2])) + update * hidden


def _lstm(inputs: Gates, recurrent: Gates, state: tuple[Array, Array]) -> tuple[State, Gates]:
    """One LSTM step (Hochreiter & Schmidhuber 1997, with a forget gate)."""
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
    """One step.

    Args:
        cell: which.
        kernel: recurrent weights ``[G, H, H]``.
        bias: ``[G, H]``, apart from the inputs': a GRU's candidate is gated between the two.
        state: before the step.
        inputs: what the inputs give each gate, ``[H]``.
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
    """A scan of ``advance`` over ``inputs``, ``[T, H]`` each: the last state, and the hidden part of every ``[T, H]``.

    Trials may stand side by side: inputs ``[T, B, H]`` and a state ``[B, H]``.
    """
    return _scan(cell, kernel, bias, state, inputs)[:2]


@unroll.defjvp
def _unroll_tangent(cell: Cell, primals: Any, tangents: Any) -> Any:
    kernel, bias, state, inputs = primals
    kernel_tangent, bias_tangent, state_tangent, inputs_tangent = tangents
    last, hidden, coefficients = _scan(cell, kernel, bias, state, inputs)
    outside, tangent_step = _TANGENTS[cell]
    before = jnp.concatenate([hidden_of(state)[None], hidden[:-1]])
    # The gradient of the weights is a product with the transpose of this, which is laid out once for all the gates.
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
