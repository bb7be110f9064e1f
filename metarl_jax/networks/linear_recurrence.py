"""Linear recurrent memories, computed for all steps of a trial at once (Orvieto et al. 2023, arXiv 2303.06349: LRU).

The recurrence of a memory is linear, ``h_t = lambda h_(t-1) + gamma B x_t``, with complex numbers lambda inside the
unit circle. A whole trial is therefore one prefix sum over time, which is computed in parallel on accelerators. The
nonlinear parts stand between the memories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from annotated_types import Gt
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.networks.heads import (
    ActorCriticHead,
    ObservationEncoder,
    dense,
    encode_inputs,
    remembering_policy,
)
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Key, Output, Policy, Space

LOG_RATES = (-40.0, 10.0)
"""The least and the largest logarithm of a rate at which a memory fades. A memory with a smaller rate never fades, and
one with a larger rate fades at once. The scale of a memory is the square root of a function of its rate, whose gradient
would be NaN where the rate is rounded to zero or infinite."""


class Memory(NamedTuple):
    """The memory that the policy carries from step to step; it is zero at the start of a trial."""

    state: Array
    """The real and the imaginary part of the state of each layer, ``[layers, 2, H]``."""


Parts: TypeAlias = tuple[Array, Array]
"""The real and the imaginary part of complex numbers. They are separate because XLA's complex products are slow on a
CPU."""


def advance(decay: Parts, first: Array, state: Parts, driven: Parts) -> Parts:
    """Compute one step of ``h' = decay h + driven``, where h is zero at the start of a trial.

    Args:
        decay: the complex factor of each state, ``[H]``.
        first: whether the step is the first of a trial, ``[...]``.
        state: the state h before the step, ``[..., H]``.
        driven: the contribution of the inputs, ``[..., H]``.
    """
    fade, turn = decay
    real, imaginary = (jnp.where(first[..., None], 0.0, part) for part in state)
    return fade * real - turn * imaginary + driven[0], fade * imaginary + turn * real + driven[1]


def prefix(decay: Parts, first: Array, state: Parts, driven: Parts) -> Parts:
    """Apply ``advance`` at each of T steps of B trials.

    All steps are computed at once, except on a CPU. There they are computed sequentially, which keeps the cores equally
    busy with less work.

    Args:
        decay: the complex factor of each state, ``[H]``.
        first: whether each step is the first of a trial, ``[T, B]``.
        state: the state before the first step, ``[B, H]``.
        driven: the contribution of the inputs of each step, ``[T, B, H]``.

    Returns:
        The states after each step, ``[T, B, H]``.
    """
    return jax.lax.platform_dependent(decay, first, state, driven, cpu=sequential, default=at_once)


def sequential(decay: Parts, first: Array, state: Parts, driven: Parts) -> Parts:
    """Compute ``prefix`` one step after another."""

    def step(before: Parts, now: tuple[Array, Parts]) -> tuple[Parts, Parts]:
        after = advance(decay, now[0], before, now[1])
        return after, after

    return jax.lax.scan(step, state, (first, driven))[1]


def at_once(decay: Parts, first: Array, state: Parts, driven: Parts) -> Parts:
    """Compute ``prefix`` for all steps at once, by an associative scan."""

    def then(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] * later[0], later[0] * earlier[1] + later[1]

    decays = jnp.where(first[..., None], 0, jax.lax.complex(*decay))
    begun = jax.lax.complex(*driven).at[0].add(decays[0] * jax.lax.complex(*state))
    states = jax.lax.associative_scan(then, (decays, begun))[1]
    return states.real, states.imag


def _log_minus_log(low: float, high: float) -> nn.initializers.Initializer:
    """Return an initialiser of nu for which the modulus exp(-exp(nu)) is that of a uniform point of a ring.

    The ring lies in the complex plane between the moduli ``low`` and ``high`` (Orvieto et al. 2023).
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        # The square may be rounded to 1. The logarithm of 1 is 0, whose logarithm is infinite.
        largest = 1 - float(jnp.finfo(dtype).epsneg)
        square = jnp.minimum(jax.random.uniform(key, shape, dtype, low**2, high**2), largest)
        return jnp.log(-0.5 * jnp.log(square))

    return draw


class _Layer(nn.Module):
    """One layer: normalisation, the linear memory, and gated units that are added to the layer's input."""

    size: int
    hidden_size: int
    least_memory: float
    longest_memory: float

    def setup(self) -> None:
        self.normalise = nn.LayerNorm(use_fast_variance=False)
        # A memory of n steps has a decay of modulus 1 - 1 / n.
        ends = (1 - 1 / self.least_memory, 1 - 1 / self.longest_memory)
        self.log_rate = self.param("log_rate", _log_minus_log(*ends), (self.hidden_size,))
        self.angle = self.param("angle", nn.initializers.uniform(math.pi / 10), (self.hidden_size,), jnp.float32)
        self.write = nn.Dense(2 * self.hidden_size, use_bias=False)
        self.read = nn.Dense(self.size)
        self.gate = nn.Dense(2 * self.size)

    def drive(self, x: Array) -> tuple[Parts, Parts]:
        """Compute the decay, ``[H]``, and the contribution of the inputs at each step, ``[..., H]``."""
        rate = jnp.exp(jnp.clip(self.log_rate, *LOG_RATES))
        decay = jnp.exp(-rate) * jnp.cos(self.angle), jnp.exp(-rate) * jnp.sin(self.angle)
        # sqrt(1 - |lambda|^2) keeps the memory as large as its input at every rate.
        scale = jnp.sqrt(-jnp.expm1(-2 * rate))
        real, imaginary = jnp.split(dense(self.write, self.normalise(x)), 2, axis=-1)
        return decay, (scale * real, scale * imaginary)

    def finish(self, x: Array, state: Parts) -> Array:
        """Compute the layer's output from its input and from the memory after the step."""
        read = nn.gelu(dense(self.read, jnp.concatenate([*state, x], axis=-1)))
        candidate, gate = jnp.split(dense(self.gate, read), 2, axis=-1)
        return x + candidate * jax.nn.sigmoid(gate)


class LinearRecurrentActorCritic(nn.Module):
    """The network: inputs -> embedding -> layers -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    layers: int
    size: int
    hidden_size: int
    least_memory: float
    longest_memory: float
    critic: bool = True

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.size)
        spans = self.least_memory, self.longest_memory
        self.stack = [_Layer(self.size, self.hidden_size, *spans) for _ in range(self.layers)]
        self.head = ActorCriticHead(self.action_space, self.critic)

    def _embed(self, inputs: Inputs) -> Array:
        return nn.relu(dense(self.embedding, encode_inputs(self.see(inputs.obs), self.action_space, inputs)))

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        x, after = self._embed(inputs), []
        for layer, before in zip(self.stack, carry.state, strict=True):
            decay, driven = layer.drive(x)
            state = advance(decay, inputs.first, (before[0], before[1]), driven)
            x = layer.finish(x, state)
            after.append(jnp.stack(state))
        return Memory(jnp.stack(after)), self.head(x)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        x, after = self._embed(inputs), []
        for i, layer in enumerate(self.stack):
            decay, driven = layer.drive(x)
            states = prefix(decay, inputs.first, (carry.state[:, i, 0], carry.state[:, i, 1]), driven)
            x = layer.finish(x, states)
            after.append(jnp.stack([part[-1] for part in states], axis=1))
        return Memory(jnp.stack(after, axis=1)), self.head(x)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the actor-critic with linear recurrent memories."""

    layers: Annotated[PositiveInt, Doc("Layers, each of which is a linear memory and gated units.")] = 2
    model_size: Annotated[PositiveInt, Doc("Features that pass from layer to layer.")] = 64
    hidden_size: Annotated[PositiveInt, Doc("Complex numbers H in the memory of each layer.")] = 64
    least_memory: Annotated[
        Annotated[float, Gt(1)], Doc("How many steps the shortest memory lasts at the start of training.")
    ] = 2.0
    longest_memory: Annotated[
        Annotated[float, Gt(1)], Doc("How many steps the longest memory lasts at the start of training.")
    ] = 1000.0

    def check_relations(self) -> None:
        if not self.longest_memory > self.least_memory:
            raise ValueError(f"longest_memory ({self.longest_memory}) must be above least_memory ({self.least_memory})")


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make an actor-critic with linear recurrent memories. Its carry is a ``Memory``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    network = LinearRecurrentActorCritic(
        family.observation_space,
        family.action_space,
        settings.layers,
        settings.model_size,
        settings.hidden_size,
        settings.least_memory,
        settings.longest_memory,
    )

    def initial_carry() -> Memory:
        return Memory(jnp.zeros((settings.layers, 2, settings.hidden_size), jnp.float32))

    return remembering_policy(network, initial_carry, family.observation_space, family.action_space, critic)
