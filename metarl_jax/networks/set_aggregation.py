"""A permutation-invariant memory: the running mean, or maximum, of embedded transitions, with a learned prior.

Where transitions are independent given the task, the posterior over tasks does not depend on their order, and neither
does this memory. The mean is ``(w p + sum of embeddings) / (w + number of embeddings)``, with a learned vector p and a
learned weight w, as the posterior mean of a Gaussian. A step costs the same at any length of the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

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
from metarl_jax.networks.scans import prefix
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Output, Policy, Space


class Memory(NamedTuple):
    """The memory that the policy carries from step to step."""

    aggregate: Array
    """The sum, or the maximum, of the embeddings so far, ``[H]``."""
    number: Array
    """The number of embeddings so far, ``float32``."""
    observation: Array
    """The last observation as a vector ``[O]``, with which the next transition begins."""


class SetActorCritic(nn.Module):
    """The network: transitions -> embedding -> mean or maximum over time -> readout -> actions and value."""

    observation_space: Space
    action_space: Space
    aggregate: Literal["mean", "max"]
    embedding_size: int
    hidden_size: int
    readout_size: int
    critic: bool

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.embedding_size)
        self.element = nn.Dense(self.hidden_size)
        self.prior = self.param("prior", nn.initializers.zeros, (self.hidden_size,), jnp.float32)
        if self.aggregate == "mean":
            # The softplus of this number is the weight of the prior, in embeddings. It is one at the start.
            one = nn.initializers.constant(jnp.log(jnp.expm1(1.0)))
            self.prior_weight = self.param("prior_weight", one, (), jnp.float32)
        self.readout = nn.Dense(self.readout_size)
        self.head = ActorCriticHead(self.action_space, self.critic)

    def _embed(self, seen: Array, inputs: Inputs, previous: Array) -> tuple[Array, Array]:
        """Return the embedded inputs, and the element that they add to the aggregate."""
        features = encode_inputs(seen, self.action_space, inputs)
        features = nn.relu(dense(self.embedding, jnp.concatenate([features, previous], axis=-1)))
        return features, jnp.tanh(dense(self.element, features))

    def _read(self, features: Array, aggregate: Array, number: Array) -> Output:
        if self.aggregate == "mean":
            weight = jax.nn.softplus(self.prior_weight)
            aggregate = (weight * self.prior + aggregate) / (weight + number[..., None])
        else:
            aggregate = jnp.maximum(self.prior, aggregate)
        return self.head(nn.relu(dense(self.readout, jnp.concatenate([features, aggregate], axis=-1))))

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        seen = self.see(inputs.obs)
        features, element = self._embed(seen, inputs, carry.observation)
        then = jnp.add if self.aggregate == "mean" else jnp.maximum
        memory = Memory(then(carry.aggregate, element), carry.number + 1, seen)
        return memory, self._read(features, memory.aggregate, memory.number)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        seen = self.see(inputs.obs)
        features, elements = self._embed(seen, inputs, jnp.concatenate([carry.observation[None], seen[:-1]]))
        aggregates = prefix(jnp.add if self.aggregate == "mean" else jnp.maximum, carry.aggregate, elements)
        numbers = carry.number + jnp.arange(1, len(seen) + 1, dtype=jnp.float32)[:, None]
        output = self._read(features, aggregates, numbers)
        return Memory(aggregates[-1], numbers[-1], seen[-1]), output


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the actor-critic with a permutation-invariant memory."""

    aggregate: Annotated[
        Literal["mean", "max"], Doc("The aggregate of the embedded transitions: their mean, or their maximum.")
    ] = "mean"
    embedding_size: Annotated[PositiveInt, Doc("Rectified units of the first layer of the embedding.")] = 64
    hidden_size: Annotated[PositiveInt, Doc("Tanh units H of the embedding, which are aggregated.")] = 128
    readout_size: Annotated[
        PositiveInt, Doc("Rectified units between the aggregate, together with the embedded inputs, and the heads.")
    ] = 64


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make an actor-critic with a permutation-invariant memory. Its carry is a ``Memory``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the aggregate, and the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    spaces = family.observation_space, family.action_space
    network = SetActorCritic(
        *spaces, settings.aggregate, settings.embedding_size, settings.hidden_size, settings.readout_size, critic
    )
    seen = observation_features(family.observation_space)

    def initial_carry() -> Memory:
        # No embedding is below -1.
        empty = jnp.zeros if settings.aggregate == "mean" else lambda *shape: -jnp.ones(*shape)
        return Memory(empty(settings.hidden_size, jnp.float32), jnp.float32(0), jnp.zeros(seen, jnp.float32))

    return remembering_policy(network, initial_carry, *spaces, critic)
