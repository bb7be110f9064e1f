"""Recurrent actor-critics: GRU and LSTM, with fused gates.

Gates of a step are one matrix product on the memory; the products on the inputs do not depend on the memory, so
``unroll`` does them for the whole trial at once.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.checks import natural_int, positive_int
from metarl_jax.networks.heads import ActorCriticHead, encode_inputs, example_inputs
from metarl_jax.types import Array, Carry, Inputs, Key, Output, Params, Policy, Space

Cell: TypeAlias = Literal["gru", "lstm"]
CELLS: tuple[Cell, ...] = ("gru", "lstm")


def _gated_orthogonal(gates: int) -> nn.initializers.Initializer:
    """An orthogonal matrix for each gate, side by side: ``[H, gates * H]``."""
    orthogonal = nn.initializers.orthogonal()

    def init(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        rows, columns = shape
        blocks = [orthogonal(k, (rows, columns // gates), dtype) for k in jax.random.split(key, gates)]
        return jnp.concatenate(blocks, axis=-1)

    return init


def _gru(projected: Array, recurrent: Array, hidden: Array) -> tuple[Array, Array]:
    """One GRU step (Cho et al. 2014, in the form whose reset gate acts after the matrix product)."""
    reset_x, update_x, candidate_x = jnp.split(projected, 3, axis=-1)
    reset_h, update_h, candidate_h = jnp.split(recurrent, 3, axis=-1)
    reset = nn.sigmoid(reset_x + reset_h)
    update = nn.sigmoid(update_x + update_h)
    candidate = jnp.tanh(candidate_x + reset * candidate_h)
    hidden = update * hidden + (1 - update) * candidate
    return hidden, hidden


def _lstm(projected: Array, recurrent: Array, carry: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
    """One LSTM step (Hochreiter & Schmidhuber 1997, with a forget gate)."""
    _, cell = carry
    in_gate, forget_gate, candidate, out_gate = jnp.split(projected + recurrent, 4, axis=-1)
    cell = nn.sigmoid(forget_gate) * cell + nn.sigmoid(in_gate) * jnp.tanh(candidate)
    hidden = nn.sigmoid(out_gate) * jnp.tanh(cell)
    return (hidden, cell), hidden


class RecurrentActorCritic(nn.Module):
    """Inputs -> embedding -> memory -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    cell: Cell
    hidden_size: int
    embedding_size: int

    def setup(self) -> None:
        if self.embedding_size:
            self.embedding = nn.Dense(self.embedding_size)
        gates = 3 if self.cell == "gru" else 4
        width = gates * self.hidden_size
        self.input_projection = nn.Dense(width, kernel_init=nn.initializers.xavier_uniform())
        # Separate from the input's bias: the GRU's candidate is gated between the two.
        self.recurrent_kernel = self.param("recurrent_kernel", _gated_orthogonal(gates), (self.hidden_size, width))
        self.recurrent_bias = self.param("recurrent_bias", nn.initializers.zeros, (width,))
        self.head = ActorCriticHead(self.action_space)

    def _project(self, inputs: Inputs) -> Array:
        """What the inputs add to the gates: all that does not depend on the memory."""
        features = encode_inputs(self.observation_space, self.action_space, inputs)
        if self.embedding_size:
            features = nn.relu(self.embedding(features))
        return self.input_projection(features)

    def _advance(self, carry: Carry, projected: Array) -> tuple[Carry, Array]:
        hidden = carry if self.cell == "gru" else carry[0]
        recurrent = hidden @ self.recurrent_kernel + self.recurrent_bias
        return _gru(projected, recurrent, carry) if self.cell == "gru" else _lstm(projected, recurrent, carry)

    def __call__(self, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        carry, hidden = self._advance(carry, self._project(inputs))
        return carry, self.head(hidden)

    def unroll(self, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        carry, hidden = jax.lax.scan(self._advance, carry, self._project(inputs))
        return carry, self.head(hidden)


def make(
    observation_space: Space,
    action_space: Space,
    *,
    cell: Cell = "gru",
    hidden_size: int = 256,
    embedding_size: int = 64,
) -> Policy:
    """A recurrent actor-critic; 256 GRU units in Duan et al. (2016).

    What the memory must count is which action was followed by which reward: products of inputs, which one layer of
    rectified units in front of the memory gives it, and without which learning takes several times as many trials.

    Args:
        observation_space: what the environment shows.
        action_space: what it takes.
        cell: "gru" or "lstm".
        hidden_size: units H of the memory. The carry is ``[H]`` (GRU) or two of them (LSTM).
        embedding_size: rectified units between the inputs and the memory (the embedding of Duan et al. 2016,
            section 2.2); 0 for none.

    Raises:
        ValueError: for an unknown cell, or a size that is not a positive whole number (of the embedding: or 0).
    """
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, not {cell!r}")
    hidden_size = positive_int("hidden_size", hidden_size)
    embedding_size = natural_int("embedding_size", embedding_size)
    network = RecurrentActorCritic(observation_space, action_space, cell, hidden_size, embedding_size)

    def initial_carry(params: Params) -> Carry:
        del params
        zeros = jnp.zeros(hidden_size)
        return zeros if cell == "gru" else (zeros, zeros)

    def init(key: Key) -> Params:
        return network.init(key, initial_carry(None), example_inputs(observation_space, action_space))

    def step(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return network.apply(params, carry, inputs)  # pyright: ignore[reportReturnType]

    def unroll(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return network.apply(params, carry, inputs, method="unroll")  # pyright: ignore[reportReturnType]

    return Policy(init, initial_carry, step, unroll)
