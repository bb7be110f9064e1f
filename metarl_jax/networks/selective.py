"""A selective state space memory, as in Mamba (Gu & Dao 2023, arXiv 2312.00752), without the short convolution.

Each of H channels u has a memory h of N numbers, which is the discretisation of a linear differential equation:

    h_t = exp(D_t A) h_(t-1) + D_t B_t u_t,  y_t = C_t h_t + s u_t.

The step size D_t and the vectors B_t and C_t depend on the inputs, so that the memory can select which inputs it keeps.
The recurrence is linear in the memory, and a whole trial is one prefix sum over time (``scans.linear``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.networks.heads import dense, remembering_policy
from metarl_jax.networks.linear_recurrence import LOG_RATES
from metarl_jax.networks.scans import Driven, StackedActorCritic
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Key, Policy

STEP_SIZES = (1e-3, 1e-1)
"""The least and the largest step size D at the start of training (Gu & Dao 2023)."""


def _step_size_bias(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Draw biases whose softplus is log-uniform between the ``STEP_SIZES``."""
    size = jnp.exp(jax.random.uniform(key, shape, dtype, *map(jnp.log, STEP_SIZES)))
    return jnp.log(jnp.expm1(size))


def _log_rates(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Return the logarithms of the rates -A, which are 1 to N in every channel."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype)), shape)


class _Layer(nn.Module):
    """One layer: normalisation, the selective memory, and a gate, whose product is added to the layer's input."""

    size: int
    hidden_size: int
    state_size: int

    def setup(self) -> None:
        self.normalise = nn.LayerNorm(use_fast_variance=False)
        self.inputs = nn.Dense(2 * self.hidden_size, use_bias=False)
        self.step_size = nn.Dense(self.hidden_size, bias_init=_step_size_bias)
        self.select = nn.Dense(2 * self.state_size, use_bias=False)
        self.log_rate = self.param("log_rate", _log_rates, (self.hidden_size, self.state_size))
        self.skip = self.param("skip", nn.initializers.ones, (self.hidden_size,), jnp.float32)
        self.outputs = nn.Dense(self.size, use_bias=False)

    def drive(self, x: Array) -> Driven:
        """Compute the decay and the contribution of the inputs of each step, ``[..., H, N]``."""
        channels, gate = jnp.split(dense(self.inputs, self.normalise(x)), 2, axis=-1)
        channels = nn.silu(channels)
        step = jax.nn.softplus(dense(self.step_size, channels))
        write, read = jnp.split(dense(self.select, channels), 2, axis=-1)
        decay = jnp.exp(-step[..., None] * jnp.exp(jnp.clip(self.log_rate, *LOG_RATES)))
        driven = (step * channels)[..., None] * write[..., None, :]
        return Driven(decay, driven, (x, channels, gate, read))

    def finish(self, rest: tuple[Array, Array, Array, Array], state: Array) -> Array:
        """Compute the layer's output from the memory after the step."""
        x, channels, gate, read = rest
        shown = jnp.sum(state * read[..., None, :], axis=-1) + self.skip * channels
        return x + dense(self.outputs, shown * nn.silu(gate))


class SelectiveActorCritic(StackedActorCritic):
    """The network: inputs -> embedding -> layers with selective memories -> actions and value."""

    hidden_size: int
    state_size: int

    def _layer(self) -> _Layer:
        return _Layer(self.model_size, self.hidden_size, self.state_size)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the actor-critic with selective state space memories."""

    layers: Annotated[PositiveInt, Doc("Layers, each of which is a selective memory and a gate.")] = 2
    model_size: Annotated[PositiveInt, Doc("Features that pass from layer to layer.")] = 64
    hidden_size: Annotated[PositiveInt, Doc("Channels H of each layer (twice ``model_size`` in Gu & Dao 2023).")] = 128
    state_size: Annotated[PositiveInt, Doc("Numbers N in the memory of each channel (16 in Gu & Dao 2023).")] = 8


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make an actor-critic with selective state space memories. Its carry is ``[layers, hidden_size, state_size]``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    spaces = family.observation_space, family.action_space
    network = SelectiveActorCritic(
        *spaces, settings.layers, settings.model_size, critic, settings.hidden_size, settings.state_size
    )

    def initial_carry() -> Array:
        return jnp.zeros((settings.layers, settings.hidden_size, settings.state_size), jnp.float32)

    return remembering_policy(network, initial_carry, *spaces, critic)
