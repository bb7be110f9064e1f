"""The interface of off-policy learners whose actor and critics each have a memory of the trial."""

from __future__ import annotations

from typing import NamedTuple

from metarl_jax.interfaces.context import Actor, TwinCritic
from metarl_jax.types import Policy


class OffPolicyNetworks(NamedTuple):
    """A memory, with an actor and critics that are conditioned on its features."""

    memory: Policy
    """The memory. Only ``Output.features`` of its outputs are used; they replace the latent variable of ``actor`` and
    ``critic``. The actor and the critics have separate parameters of it. Its own heads are not used."""
    actor: Actor
    critic: TwinCritic
