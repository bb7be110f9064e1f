"""A toy memory: a decaying average of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.networks.heads import ActorCriticHead, ObservationEncoder, encode_inputs, remembering_policy
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Output, Policy, Space


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the toy memory."""

    units: Annotated[PositiveInt, Doc("Numbers that are remembered.")] = 8


class _Network(nn.Module):
    observation_space: Space
    action_space: Space
    units: int
    critic: bool

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embed = nn.Dense(self.units)
        self.head = ActorCriticHead(self.action_space, self.critic)

    def __call__(self, carry: Array, inputs: Inputs) -> tuple[Array, Output]:
        features = encode_inputs(self.see(inputs.obs), self.action_space, inputs)
        carry = 0.9 * carry + 0.1 * jnp.tanh(self.embed(features))
        return carry, self.head(carry)

    def unroll(self, carry: Array, inputs: Inputs) -> tuple[Array, Output]:
        scan = nn.scan(
            lambda module, carry, inputs: module(carry, inputs),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        return scan(self, carry, inputs)


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make the toy memory as an actor-critic."""
    spaces = family.observation_space, family.action_space
    network = _Network(*spaces, settings.units, critic)
    return remembering_policy(network, lambda: jnp.zeros(settings.units, jnp.float32), *spaces, critic)
