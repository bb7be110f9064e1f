"""A causal transformer whose layers are gated (Parisotto et al. 2020, arXiv 1910.06764: GTrXL).

Each layer attends to a window of the last steps of the trial, whose keys and values are stored. No step is therefore
computed twice. The output of a layer passes through a gate that starts nearly shut, so that a new network has almost no
memory. Unlike in GTrXL, trials are not cut into segments, and positions are rotary or learned.
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
    remembering_policy,
)
from metarl_jax.networks.windows import Window, attend, attend_each, empty_window
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Output, Policy, Space

GATE_BIAS = 2.0
"""Minus the bias of gates at initialisation (2 in Parisotto et al. 2020); larger values shut gates further."""


class Memory(NamedTuple):
    """The memory that the policy carries from step to step; it is zero at the start of a trial."""

    time: Array
    """The number of steps of the trial so far, ``int32``."""
    windows: tuple[Window, ...]
    """The window of keys and values of each layer."""


def rotate(x: Array, time: Array) -> Array:
    """Rotate queries or keys by their positions (Su et al. 2021, arXiv 2104.09864: rotary positions).

    The scalar product of a rotated query and a rotated key depends on time only through the distance of the two steps.

    Args:
        x: queries or keys of H heads, ``[..., H, K]``, with an even K.
        time: the position of each step, ``[...]``.

    Returns:
        An array of the shape of x.
    """
    half = x.shape[-1] // 2
    angle = time[..., None, None] * 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    real, imaginary = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)


class _Gate(nn.Module):
    """A gated recurrent unit across layers: ``x`` is the input of a layer, and ``y`` is its output."""

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        size = x.shape[-1]
        from_y = jnp.split(dense(nn.Dense(3 * size, use_bias=False, name="new"), y), 3, axis=-1)
        from_x = jnp.split(dense(nn.Dense(2 * size, use_bias=False, name="old"), x), 2, axis=-1)
        bias = self.param("bias", nn.initializers.constant(-GATE_BIAS), (size,), jnp.float32)
        reset = jax.nn.sigmoid(from_y[0] + from_x[0])
        update = jax.nn.sigmoid(from_y[1] + from_x[1] + bias)
        candidate = jnp.tanh(from_y[2] + dense(nn.Dense(size, use_bias=False, name="reset"), reset * x))
        return x + update * (candidate - x)


class _Layer(nn.Module):
    """One layer: an attention and a layer of rectified units, each with a gate."""

    size: int
    heads: int
    rotary: bool

    def setup(self) -> None:
        # The "fast" variance is a difference of squares, which is a rounding error where features hardly differ.
        self.normalise_attention, self.normalise_units = (nn.LayerNorm(use_fast_variance=False) for _ in range(2))
        self.projection = nn.Dense(3 * self.size, use_bias=False)
        self.mix = nn.Dense(self.size)
        self.widen, self.narrow = nn.Dense(4 * self.size), nn.Dense(self.size)
        self.gate_attention, self.gate_units = _Gate(), _Gate()

    def project(self, x: Array, time: Array) -> tuple[Array, Array, Array]:
        """Compute query, key and value, each ``[..., H, size / H]``."""
        projected = dense(self.projection, self.normalise_attention(x))
        query, key, value = (
            part.reshape(*part.shape[:-1], self.heads, -1) for part in jnp.split(projected, 3, axis=-1)
        )
        return (rotate(query, time), rotate(key, time), value) if self.rotary else (query, key, value)

    def finish(self, x: Array, read: Array) -> Array:
        """Compute the layer's output from its input and from the output of its attention."""
        mixed = dense(self.mix, read.reshape(*read.shape[:-2], self.size))
        x = self.gate_attention(x, nn.relu(mixed))
        units = dense(self.narrow, nn.relu(dense(self.widen, self.normalise_units(x))))
        return self.gate_units(x, nn.relu(units))


class TransformerActorCritic(nn.Module):
    """The network: inputs -> embedding -> layers -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    layers: int
    size: int
    heads: int
    window: int
    rotary: bool
    critic: bool = True

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.size)
        if not self.rotary:
            shape = self.window, self.size
            self.positions = self.param("positions", nn.initializers.normal(0.02), shape, jnp.float32)
        self.stack = [_Layer(self.size, self.heads, self.rotary) for _ in range(self.layers)]
        self.head = ActorCriticHead(self.action_space, self.critic)

    def _embed(self, inputs: Inputs, time: Array) -> Array:
        features = nn.relu(dense(self.embedding, encode_inputs(self.see(inputs.obs), self.action_space, inputs)))
        if self.rotary:
            return features
        return features + self.positions[jnp.minimum(time, self.window - 1)]

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        x, after = self._embed(inputs, carry.time), []
        for layer, window in zip(self.stack, carry.windows, strict=True):
            window, read = attend(window, carry.time, *layer.project(x, carry.time))
            x = layer.finish(x, read)
            after.append(window)
        return Memory(carry.time + 1, tuple(after)), self.head(x)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        steps = inputs.prev_reward.shape[0]
        time = carry.time + jnp.arange(steps, dtype=jnp.int32)[:, None]
        x, after = self._embed(inputs, time), []
        for layer, window in zip(self.stack, carry.windows, strict=True):
            window, read = attend_each(window, carry.time, *layer.project(x, time))
            x = layer.finish(x, read)
            after.append(window)
        return Memory(carry.time + steps, tuple(after)), self.head(x)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the gated causal transformer."""

    window: Annotated[
        PositiveInt, Doc("The number of last steps of a trial that a layer attends to, the current one included.")
    ] = 100
    layers: Annotated[PositiveInt, Doc("Layers, each of which is an attention and rectified units.")] = 2
    model_size: Annotated[PositiveInt, Doc("Features that pass from layer to layer.")] = 64
    heads: Annotated[PositiveInt, Doc("Heads of each attention, among which the features are divided.")] = 4
    positions: Annotated[
        Literal["rotary", "learned"],
        Doc(
            'The encoding of positions in time. "rotary" encodes the distance between two steps. "learned" has one '
            "vector for each of the first ``window`` steps of a trial; the last vector serves for all later steps."
        ),
    ] = "rotary"

    def check_relations(self) -> None:
        parts = 2 * self.heads if self.positions == "rotary" else self.heads
        if self.model_size % parts:
            raise ValueError(
                f"model_size ({self.model_size}) must be a multiple of {parts} for {self.heads} heads with "
                f"{self.positions} positions"
            )


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make a gated causal transformer as an actor-critic. Its carry is a ``Memory``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network, and the encoding of positions.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    window, heads, part = settings.window, settings.heads, settings.model_size // settings.heads
    rotary = settings.positions == "rotary"
    network = TransformerActorCritic(
        family.observation_space,
        family.action_space,
        settings.layers,
        settings.model_size,
        heads,
        window,
        rotary,
        critic,
    )

    def initial_carry() -> Memory:
        return Memory(jnp.int32(0), (empty_window(window, heads, part, part),) * settings.layers)

    return remembering_policy(network, initial_carry, family.observation_space, family.action_space, critic)
