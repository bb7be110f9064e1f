"""Recurrent actor-critics: GRU and LSTM.

The matrix products with the inputs do not depend on the memory. ``unroll`` computes them for the whole trial at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.networks import gated
from metarl_jax.networks.heads import (
    ActorCriticHead,
    ObservationEncoder,
    dense,
    encode_inputs,
    observation_features,
    remembering_policy,
)
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Key, Output, Policy, Space


def _orthogonal(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Draw an orthogonal matrix for each gate, ``[G, H, H]``."""
    one = nn.initializers.orthogonal()
    return jnp.stack([one(k, shape[1:], dtype) for k in jax.random.split(key, shape[0])])


def _xavier(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Draw the gates' weights ``[G, I, H]`` by Xavier's initialisation of one concatenated matrix ``[I, G H]``."""
    gates, rows, columns = shape
    wide = nn.initializers.xavier_uniform()(key, (rows, gates * columns), dtype)
    return jnp.moveaxis(wide.reshape(rows, gates, columns), 1, 0)


class _InputProjection(nn.Module):
    """The contribution of the embedded inputs to each gate."""

    gates: int
    hidden_size: int

    @nn.compact
    def __call__(self, features: Array) -> gated.Gates:
        shape = (self.gates, self.hidden_size)
        kernel = self.param("kernel", _xavier, (self.gates, features.shape[-1], self.hidden_size))
        return gated.project(features, kernel, self.param("bias", nn.initializers.zeros, shape, jnp.float32))


class Memory(NamedTuple):
    """The memory that a recurrent policy carries from step to step; it is zero at the start of a trial."""

    state: gated.State
    """The state of the cell: ``[H]`` for a GRU; (hidden, cell), each ``[H]``, for an LSTM."""
    observation: Array
    """The last observation as a vector ``[O]``; ``[0]`` for a network that does not use it."""


class RecurrentActorCritic(nn.Module):
    """The network: inputs -> embedding -> memory -> readout -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    cell: gated.Cell
    hidden_size: int
    embedding_size: int | None
    readout_size: int | None
    previous_observation: bool
    critic: bool

    def setup(self) -> None:
        self.see = self._encoder()
        if self.embedding_size:
            self.embedding = nn.Dense(self.embedding_size)
        gates = gated.GATES[self.cell]
        self.input_projection = _InputProjection(gates, self.hidden_size)
        shape = (gates, self.hidden_size, self.hidden_size)
        self.recurrent_kernel = self.param("recurrent_kernel", _orthogonal, shape)
        # This bias is separate from the inputs' bias, because a GRU's reset gate multiplies this one only.
        self.recurrent_bias = self.param("recurrent_bias", nn.initializers.zeros, shape[:2], jnp.float32)
        if self.readout_size:
            self.readout = nn.Dense(self.readout_size)
        self.head = self._head()

    def _encoder(self) -> nn.Module:
        """Return the module that encodes an observation."""
        return ObservationEncoder(self.observation_space)

    def _head(self) -> nn.Module:
        """Return the module that computes the network's output from the memory."""
        return ActorCriticHead(self.action_space, self.critic)

    def _kept(self, seen: Array) -> Array:
        """Return the part of this step's observation that is stored for the next step."""
        return seen if self.previous_observation else seen[..., :0]

    def _embed(self, seen: Array, inputs: Inputs, previous: Array) -> Array:
        features = encode_inputs(seen, self.action_space, inputs)
        features = jnp.concatenate([features, previous], axis=-1)
        return nn.relu(dense(self.embedding, features)) if self.embedding_size else features

    def _read(self, seen: Array, features: Array, hidden: Array) -> Output:
        del seen  # Networks that are derived from this one use it.
        if self.readout_size:
            hidden = nn.relu(dense(self.readout, jnp.concatenate([features, hidden], axis=-1)))
        return self.head(hidden)  # pyright: ignore[reportCallIssue]

    def _advance(self, carry: Memory, inputs: Inputs) -> tuple[Memory, tuple[Array, Array, Array]]:
        """Return the memory after a step, and what ``_read`` needs: observation, embedded inputs, and hidden state."""
        seen = self.see(inputs.obs)
        features = self._embed(seen, inputs, carry.observation)
        gates = self.input_projection(features)
        state = gated.advance(self.cell, self.recurrent_kernel, self.recurrent_bias, carry.state, gates)
        return Memory(state, self._kept(seen)), (seen, features, gated.hidden_of(state))

    def _advance_all(self, carry: Memory, inputs: Inputs) -> tuple[Memory, tuple[Array, Array, Array]]:
        """Apply ``_advance`` to T steps of B trials, ``[T, B, ...]``."""
        seen = self.see(inputs.obs)
        kept = jnp.concatenate([carry.observation[None], self._kept(seen)])
        features = self._embed(seen, inputs, kept[:-1])
        gates = self.input_projection(features)
        state, hidden = gated.unroll(self.cell, self.recurrent_kernel, self.recurrent_bias, carry.state, gates)
        return Memory(state, kept[-1]), (seen, features, hidden)

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        carry, read = self._advance(carry, inputs)
        return carry, self._read(*read)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        carry, read = self._advance_all(carry, inputs)
        return carry, self._read(*read)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the recurrent actor-critic."""

    cell: Annotated[Literal["gru", "lstm"], Doc("The kind of recurrent cell.")] = "gru"
    hidden_size: Annotated[PositiveInt, Doc("Units H of the memory (256 in Duan et al. 2016).")] = 256
    embedding_size: Annotated[
        PositiveInt | None,
        Doc(
            "Rectified units between the inputs and the memory (the embedding of Duan et al. 2016); None for "
            "no such layer."
        ),
    ] = 64
    readout_size: Annotated[
        PositiveInt | None,
        Doc(
            "Rectified units between the memory, together with the embedded inputs, and the heads. With this layer, "
            "the information that is read from the memory can depend on the current observation. None for no such "
            "layer."
        ),
    ] = None
    previous_observation: Annotated[
        bool,
        Doc(
            "Whether the previous observation, in which the previous action was taken, is an input, too "
            "(zeros at the start of a trial)."
        ),
    ] = False


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make a recurrent actor-critic (256 GRU units in Duan et al. 2016). Its carry is a ``Memory``.

    The memory must count which reward followed each action in each state. These counts are sums of products of inputs.
    One layer of rectified units between the inputs and the memory can compute such products; without it, learning takes
    several times as many trials. If a task has states, the products need the state in which the action was taken, which
    is the previous observation. They also need at least one rectified unit for each pair of state and action.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the kind of cell, and the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.gridnavi.make()
        >>> policy = mrl.networks.recurrent.make(family, mrl.networks.recurrent.Settings(hidden_size=64))
    """
    network = RecurrentActorCritic(
        family.observation_space,
        family.action_space,
        settings.cell,
        settings.hidden_size,
        settings.embedding_size,
        settings.readout_size,
        settings.previous_observation,
        critic,
    )
    seen = observation_features(family.observation_space) if settings.previous_observation else 0

    def initial_carry() -> Memory:
        zeros = jnp.zeros(settings.hidden_size, jnp.float32)
        return Memory(zeros if settings.cell == "gru" else (zeros, zeros), jnp.zeros(seen, jnp.float32))

    return remembering_policy(network, initial_carry, family.observation_space, family.action_space, critic)
