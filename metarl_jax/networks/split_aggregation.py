"""A memory with split aggregation (SplAgger, Beck et al. 2024): a GRU, a running maximum, and a skip connection.

The output of the GRU at each step is split. One half is replaced by its maximum over all steps so far, and the other
half is used unchanged. The maximum does not forget, and its gradient does not fade. It does not depend on the order of
the steps, and the other half can. A step costs the same at any length of the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax.numpy as jnp

from metarl_jax import settings
from metarl_jax.networks import recurrent
from metarl_jax.networks.heads import observation_features, remembering_policy
from metarl_jax.networks.recurrent import RecurrentActorCritic
from metarl_jax.networks.scans import prefix
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Output, Policy


class Memory(NamedTuple):
    """The memory that the policy carries from step to step; it is zero at the start of a trial."""

    recurrent: recurrent.Memory
    """The memory of the GRU."""
    largest: Array
    """The maximum over the steps so far, and zero, of each unit of the aggregated half, ``[H / 2]``."""


class SplitAggregationActorCritic(RecurrentActorCritic):
    """The network: inputs -> embedding -> GRU -> maximum over time and skip -> readout -> actions and value."""

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:  # pyright: ignore[reportIncompatibleMethodOverride]
        memory, (seen, features, hidden) = self._advance(carry.recurrent, inputs)
        skipped, aggregated = jnp.split(hidden, 2, axis=-1)
        largest = jnp.maximum(carry.largest, aggregated)
        output = self._read(seen, features, jnp.concatenate([skipped, largest], axis=-1))
        return Memory(memory, largest), output

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        memory, (seen, features, hidden) = self._advance_all(carry.recurrent, inputs)
        skipped, aggregated = jnp.split(hidden, 2, axis=-1)
        largest = prefix(jnp.maximum, carry.largest, aggregated)
        output = self._read(seen, features, jnp.concatenate([skipped, largest], axis=-1))
        return Memory(memory, largest[-1]), output


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the actor-critic with split aggregation."""

    hidden_size: Annotated[
        PositiveInt, Doc("Units H of the GRU, an even number; one half of them is aggregated, the other half is not.")
    ] = 256
    embedding_size: Annotated[
        PositiveInt | None, Doc("Rectified units between the inputs and the memory; None for no such layer.")
    ] = 64
    readout_size: Annotated[
        PositiveInt | None,
        Doc(
            "Rectified units between the memory, together with the embedded inputs, and the heads; None for no such "
            "layer."
        ),
    ] = 64
    previous_observation: Annotated[
        bool,
        Doc("Whether the previous observation is an input, too, so that an input contains a whole transition."),
    ] = True

    def check_relations(self) -> None:
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size must be an even number for split aggregation, not {self.hidden_size}")


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make an actor-critic with split aggregation (Beck et al. 2024). Its carry is a ``Memory``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    spaces = family.observation_space, family.action_space
    network = SplitAggregationActorCritic(
        *spaces,
        "gru",
        settings.hidden_size,
        settings.embedding_size,
        settings.readout_size,
        settings.previous_observation,
        critic,
    )
    seen = observation_features(family.observation_space) if settings.previous_observation else 0

    def initial_carry() -> Memory:
        state = jnp.zeros(settings.hidden_size, jnp.float32)
        memory = recurrent.Memory(state, jnp.zeros(seen, jnp.float32))
        return Memory(memory, jnp.zeros(settings.hidden_size // 2, jnp.float32))

    return remembering_policy(network, initial_carry, *spaces, critic)
