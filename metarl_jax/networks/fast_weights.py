"""An actor-critic whose memory is a matrix of fast weights: linear attention over all steps of a trial.

Every step writes an outer product, ``memory += key value'``, and reads ``query' memory``. The reading is attention over
all previous steps, without the softmax (Schmidhuber 1992; Katharopoulos et al. 2020, arXiv 2006.16236). The memory can
sum up rewards for each pair of state and action, because different keys keep the sums apart; a GRU has to learn to keep
them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.networks.heads import (
    ActorCriticHead,
    ObservationEncoder,
    dense,
    encode_inputs,
    observation_features,
    remembering_policy,
)
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Output, Policy, Space

CHUNK = 100
"""The number of steps that ``unroll`` attends over at once; the matrix holds all steps before them."""


class Memory(NamedTuple):
    """The memory that the policy carries from step to step; it is zero at the start of a trial."""

    weights: Array
    """The fast weights, ``[key_size, value_size]``."""
    observation: Array
    """The last observation as a vector ``[O]``."""


class FastWeightActorCritic(nn.Module):
    """The network: inputs -> embedding -> key, value, query -> memory -> readout -> actions and value."""

    observation_space: Space
    action_space: Space
    embedding_size: int
    key_size: int
    value_size: int
    readout_size: int
    critic: bool = True

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.embedding_size)
        self.projection = nn.Dense(2 * self.key_size + self.value_size)
        self.scale = self.param("scale", nn.initializers.constant(0.1), (self.value_size,), jnp.float32)
        self.readout = nn.Dense(self.readout_size)
        self.head = ActorCriticHead(self.action_space, self.critic)

    def _project(self, seen: Array, inputs: Inputs, previous: Array) -> tuple[Array, Array, Array, Array]:
        features = encode_inputs(seen, self.action_space, inputs)
        features = nn.relu(dense(self.embedding, jnp.concatenate([features, previous], axis=-1)))
        size = self.key_size
        key, query, value = jnp.split(dense(self.projection, features), [size, 2 * size], axis=-1)
        return features, key * size**-0.5, query, value

    def _read(self, features: Array, read: Array) -> Output:
        return self.head(nn.relu(dense(self.readout, jnp.concatenate([features, self.scale * read], axis=-1))))

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        seen = self.see(inputs.obs)
        features, key, query, value = self._project(seen, inputs, carry.observation)
        weights = carry.weights + jnp.outer(key, value)
        return Memory(weights, seen), self._read(features, query @ weights)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        seen = self.see(inputs.obs)
        previous = jnp.concatenate([carry.observation[None], seen[:-1]])
        features, key, query, value = self._project(seen, inputs, previous)
        attend = jax.vmap(_attend, in_axes=(0, 1, 1, 1), out_axes=(0, 1))
        weights, read = attend(carry.weights, key, query, value)
        return Memory(weights, seen[-1]), self._read(features, read)


def _attend(weights: Array, key: Array, query: Array, value: Array) -> tuple[Array, Array]:
    """Write and read at each step of a trial, and return the weights after it and the values read, ``[T, V]``.

    The steps of a chunk are computed at once. The result is the same as that of one step after another.
    """
    steps = key.shape[0]
    size = min(CHUNK, steps)
    chunks = -(-steps // size)

    def cut(x: Array) -> Array:
        # Keys and values of zero at the end change nothing.
        return jnp.pad(x, ((0, chunks * size - steps), (0, 0))).reshape(chunks, size, -1)

    def chunk(weights: Array, rows: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        key, query, value = rows
        read = query @ weights + jnp.tril(query @ key.T) @ value
        return weights + key.T @ value, read

    weights, read = jax.lax.scan(chunk, weights, (cut(key), cut(query), cut(value)))
    return weights, read.reshape(chunks * size, -1)[:steps]


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the actor-critic whose memory is a matrix of fast weights."""

    embedding_size: Annotated[
        PositiveInt, Doc("Rectified units between the inputs (with the previous observation) and the memory.")
    ] = 192
    key_size: Annotated[PositiveInt, Doc("Rows of the memory.")] = 32
    value_size: Annotated[PositiveInt, Doc("Columns of the memory.")] = 64
    readout_size: Annotated[
        PositiveInt,
        Doc("Rectified units between the memory's output, together with the embedded inputs, and the heads."),
    ] = 64


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make an actor-critic with a memory of fast weights. Its carry is a ``Memory``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    network = FastWeightActorCritic(
        family.observation_space,
        family.action_space,
        settings.embedding_size,
        settings.key_size,
        settings.value_size,
        settings.readout_size,
        critic,
    )
    seen = observation_features(family.observation_space)

    def initial_carry() -> Memory:
        return Memory(jnp.zeros((settings.key_size, settings.value_size), jnp.float32), jnp.zeros(seen, jnp.float32))

    return remembering_policy(network, initial_carry, family.observation_space, family.action_space, critic)
