"""SNAIL (Mishra et al. 2018, arXiv 1707.03141): temporal convolutions that gather, and attention that looks up.

Blocks of dilated causal convolutions, each of which adds features to those that it reads, mix the steps of a trial;
one causal attention over their features then picks single steps. Acting remembers, for every convolution, what it is to
add to the step as far ahead as it reaches back, and for the attention its keys and values: no step is computed twice.
"""

from __future__ import annotations

import math
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
    remembering_policy,
)
from metarl_jax.networks.windows import Window, attend, attend_each, delay, empty_window
from metarl_jax.types import Array, Inputs, Output, Policy, Space


class Memory(NamedTuple):
    """What the policy carries from step to step; zeros where a trial begins."""

    time: Array
    """Steps of the trial so far, ``int32``."""
    ahead: Array
    """Rings, one below the other, of what convolutions will add to later steps: ``[sum of dilations, 2 filters]``."""
    window: Window
    """What attention looks back at."""


class _Convolution(nn.Module):
    """The two products of a causal convolution with kernel 2: what a step gives itself, and what a later one."""

    filters: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        # A kernel of two steps has twice the inputs.
        small = nn.initializers.variance_scaling(0.5, "fan_in", "truncated_normal")
        products = dense(nn.Dense(4 * self.filters, use_bias=False, kernel_init=small, name="products"), x)
        bias = self.param("bias", nn.initializers.zeros, (2 * self.filters,))
        now, later = jnp.split(products, 2, axis=-1)
        return now + bias, later


def _gate(x: Array) -> Array:
    candidate, gate = jnp.split(x, 2, axis=-1)
    return jnp.tanh(candidate) * jax.nn.sigmoid(gate)


class SNAILActorCritic(nn.Module):
    """Inputs -> embedding -> temporal convolutions -> attention -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    dilations: tuple[int, ...]
    embedding_size: int
    filters: int
    key_size: int
    value_size: int

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.embedding_size)
        self.convolutions = [_Convolution(self.filters) for _ in self.dilations]
        self.projection = nn.Dense(2 * self.key_size + self.value_size)
        self.head = ActorCriticHead(self.action_space)

    def _embed(self, inputs: Inputs) -> Array:
        return nn.relu(dense(self.embedding, encode_inputs(self.see(inputs.obs), self.action_space, inputs)))

    def _project(self, features: Array) -> list[Array]:
        """Query, key and value of a single head."""
        size = self.key_size
        parts = jnp.split(dense(self.projection, features), [size, 2 * size], axis=-1)
        return [part[..., None, :] for part in parts]

    def _read(self, features: Array, read: Array) -> Output:
        return self.head(jnp.concatenate([features, read[..., 0, :]], axis=-1))

    def _rings(self) -> list[int]:
        """Where each convolution's ring begins."""
        return [sum(self.dilations[:i]) for i in range(len(self.dilations))]

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        features = self._embed(inputs)
        rows = jnp.array(self._rings()) + carry.time % jnp.array(self.dilations)
        arrived, sent = carry.ahead[rows], []
        for i, convolution in enumerate(self.convolutions):
            now, later = convolution(features)
            features = jnp.concatenate([features, _gate(now + arrived[i])], axis=-1)
            sent.append(later)
        window, read = attend(carry.window, carry.time, *self._project(features))
        ahead = carry.ahead.at[rows].set(jnp.stack(sent))
        return Memory(carry.time + 1, ahead, window), self._read(features, read)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Of trials side by side, ``[T, B, ...]``."""
        features, rings = self._embed(inputs), []
        for convolution, dilation, begin in zip(self.convolutions, self.dilations, self._rings(), strict=True):
            now, later = convolution(features)
            ring, arrived = delay(carry.ahead[:, begin : begin + dilation], carry.time, later)
            features = jnp.concatenate([features, _gate(now + arrived)], axis=-1)
            rings.append(ring)
        window, read = attend_each(carry.window, carry.time, *self._project(features))
        time = carry.time + inputs.prev_reward.shape[0]
        return Memory(time, jnp.concatenate(rings, axis=1), window), self._read(features, read)


def make(
    observation_space: Space,
    action_space: Space,
    *,
    window: int,
    blocks: int = 2,
    embedding_size: int = 32,
    filters: int = 32,
    key_size: int = 32,
    value_size: int = 32,
) -> Policy:
    """SNAIL as an actor-critic. Its carry is a ``Memory``.

    Args:
        observation_space: what the environment shows.
        action_space: what it takes.
        window: how many steps of a trial it looks back at: the convolutions of a block reach back 1, 2, 4, ... steps
            until together they cover them, and attention sees as many, the last among them.
        blocks: of temporal convolutions before the attention (two in the paper's bandits and MDPs).
        embedding_size: rectified units that see the inputs.
        filters: features that a convolution adds.
        key_size: of the attention.
        value_size: of the attention.

    Raises:
        ValueError: for a size that is not a positive whole number.
    """
    window = positive_int("window", window)
    # As the paper's pseudo-code has it, but from a dilation of 1 on.
    dilations = tuple(2**i for i in range(max(1, math.ceil(math.log2(window)))))
    dilations = dilations * positive_int("blocks", blocks)
    network = SNAILActorCritic(
        observation_space,
        action_space,
        dilations,
        positive_int("embedding_size", embedding_size),
        positive_int("filters", filters),
        positive_int("key_size", key_size),
        positive_int("value_size", value_size),
    )

    def initial_carry() -> Memory:
        ahead = jnp.zeros((sum(dilations), 2 * filters))
        return Memory(jnp.int32(0), ahead, empty_window(window, 1, key_size, value_size))

    return remembering_policy(network, initial_carry, observation_space, action_space)
