"""An actor-critic whose memory is a matrix of fast weights: what is written under a key is read with a query.

Every step writes an outer product, ``memory += key value'``, and reads ``query' memory``: attention over all that
was met, without the softmax (Schmidhuber 1992; Katharopoulos et al. 2020, arXiv 2006.16236). A trial is counted up, per
state and action, by sums; a GRU has to learn to keep them apart, here they are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.checks import positive_int
from metarl_jax.networks.heads import (
    ActorCriticHead,
    ObservationEncoder,
    dense,
    encode_inputs,
    observation_features,
    remembering_policy,
)
from metarl_jax.types import Array, Inputs, Output, Policy, Space

CHUNK = 100
"""Steps that ``unroll`` attends over at once; the matrix carries what came before."""


class Memory(NamedTuple):
    """What the policy carries from step to step; zeros where a trial begins."""

    weights: Array
    """``[key_size, value_size]``."""
    observation: Array
    """The last observation as a vector ``[O]``."""


class FastWeightActorCritic(nn.Module):
    """Inputs -> embedding -> key, value, query -> memory -> readout -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    embedding_size: int
    key_size: int
    value_size: int
    readout_size: int

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.embedding_size)
        self.projection = nn.Dense(2 * self.key_size + self.value_size)
        self.scale = self.param("scale", nn.initializers.constant(0.1), (self.value_size,), jnp.float32)
        self.readout = nn.Dense(self.readout_size)
        self.head = ActorCriticHead(self.action_space)

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
        """Of trials side by side, ``[T, B, ...]``."""
        seen = self.see(inputs.obs)
        previous = jnp.concatenate([carry.observation[None], seen[:-1]])
        features, key, query, value = self._project(seen, inputs, previous)
        attend = jax.vmap(_attend, in_axes=(0, 1, 1, 1), out_axes=(0, 1))
        weights, read = attend(carry.weights, key, query, value)
        return Memory(weights, seen[-1]), self._read(features, read)


def _attend(weights: Array, key: Array, query: Array, value: Array) -> tuple[Array, Array]:
    """A trial's writes and reads, step by step in effect: the weights after it, and what it read ``[T, V]``."""
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


def make(
    observation_space: Space,
    action_space: Space,
    *,
    embedding_size: int = 192,
    key_size: int = 32,
    value_size: int = 64,
    readout_size: int = 64,
) -> Policy:
    """An actor-critic with a memory of fast weights. Its carry is a ``Memory``.

    Args:
        observation_space: what the environment shows.
        action_space: what it takes.
        embedding_size: rectified units between the inputs (with the previous observation) and the memory.
        key_size: rows of the memory.
        value_size: columns of the memory.
        readout_size: rectified units between what is read, beside the embedded inputs, and the heads.

    Raises:
        ValueError: for a size that is not a positive whole number.
    """
    network = FastWeightActorCritic(
        observation_space,
        action_space,
        positive_int("embedding_size", embedding_size),
        positive_int("key_size", key_size),
        positive_int("value_size", value_size),
        positive_int("readout_size", readout_size),
    )
    seen = observation_features(observation_space)

    def initial_carry() -> Memory:
        return Memory(jnp.zeros((key_size, value_size), jnp.float32), jnp.zeros(seen, jnp.float32))

    return remembering_policy(network, initial_carry, observation_space, action_space)
