"""A minimal GRU (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201).

The gate and the candidate of a minimal GRU do not depend on the memory:

    z_t = sigmoid(W_z x_t + b_z),  c_t = W_c x_t + b_c,  h_t = (1 - z_t) h_(t-1) + z_t c_t.

The recurrence is therefore linear, and a whole trial is one prefix sum over time (``scans.linear``). Nonlinear parts
stand between the memories of several layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Gt
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.networks.heads import dense, remembering_policy
from metarl_jax.networks.scans import Driven, StackedActorCritic
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Key, Policy


def _closed(longest: float) -> nn.initializers.Initializer:
    """Return an initialiser of gate biases whose gates are 1 / n for memories of n steps.

    The numbers n are log-uniform between 2 and ``longest`` (as in Tallec & Ollivier 2018, arXiv 1804.11188).
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        steps = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(2.0), jnp.log(longest)))
        return -jnp.log(steps - 1)

    return draw


class _Layer(nn.Module):
    """One layer: normalisation, a minimal GRU, and gated units that are added to the layer's input."""

    size: int
    hidden_size: int
    longest_memory: float

    def setup(self) -> None:
        self.normalise = nn.LayerNorm(use_fast_variance=False)
        self.update = nn.Dense(self.hidden_size, bias_init=_closed(self.longest_memory))
        self.candidate = nn.Dense(self.hidden_size)
        self.read = nn.Dense(self.size)
        self.gate = nn.Dense(2 * self.size)

    def drive(self, x: Array) -> Driven:
        """Compute the gate and the candidate of each step."""
        normalised = self.normalise(x)
        logits = dense(self.update, normalised)
        driven = jax.nn.sigmoid(logits) * dense(self.candidate, normalised)
        return Driven(jax.nn.sigmoid(-logits), driven, x)

    def finish(self, x: Array, state: Array) -> Array:
        """Compute the layer's output from its input and from the memory after the step."""
        read = nn.gelu(dense(self.read, jnp.concatenate([state, x], axis=-1)))
        candidate, gate = jnp.split(dense(self.gate, read), 2, axis=-1)
        return x + candidate * jax.nn.sigmoid(gate)


class MinGRUActorCritic(StackedActorCritic):
    """The network: inputs -> embedding -> layers with minimal GRUs -> actions and value."""

    hidden_size: int
    longest_memory: float

    def _layer(self) -> _Layer:
        return _Layer(self.model_size, self.hidden_size, self.longest_memory)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the actor-critic with minimal GRUs."""

    layers: Annotated[PositiveInt, Doc("Layers, each of which is a minimal GRU and gated units.")] = 2
    model_size: Annotated[PositiveInt, Doc("Features that pass from layer to layer.")] = 64
    hidden_size: Annotated[PositiveInt, Doc("Units H in the memory of each layer.")] = 64
    longest_memory: Annotated[
        Annotated[float, Gt(2)],
        Doc("How many steps the longest memory lasts at the start of training; the shortest one lasts two steps."),
    ] = 1000.0


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make an actor-critic with minimal GRUs. Its carry is ``[layers, hidden_size]``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    spaces = family.observation_space, family.action_space
    network = MinGRUActorCritic(
        *spaces, settings.layers, settings.model_size, critic, settings.hidden_size, settings.longest_memory
    )

    def initial_carry() -> Array:
        return jnp.zeros((settings.layers, settings.hidden_size), jnp.float32)

    return remembering_policy(network, initial_carry, *spaces, critic)
