"""Networks of off-policy learners with a memory: an actor and twin critics on the features of any memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax

from metarl_jax import settings
from metarl_jax.interfaces.off_policy import OffPolicyNetworks
from metarl_jax.networks import context
from metarl_jax.networks.heads import example_inputs
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import HasSpaces, Key, Output, Policy


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of an actor and critics that read a memory."""

    head_units: Annotated[
        PositiveInt, Doc("Rectified units of each layer of the actor and of each critic (128 in Ni et al. 2022).")
    ] = 128
    head_layers: Annotated[
        PositiveInt, Doc("Rectified layers of the actor and of each critic; a linear layer follows them.")
    ] = 2


def make(family: HasSpaces, memory: Policy, settings: Settings) -> OffPolicyNetworks:
    """Combine a memory with an actor and twin critics. They get the observation and the features of the memory.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        memory: a policy with a memory, whose outputs have features.
        settings: the sizes of the actor and the critics.

    Raises:
        ValueError: if the outputs of the memory have no features, or if actions are neither discrete nor vectors
            between finite bounds.
    """
    spaces = family.observation_space, family.action_space

    def features(key: Key) -> Output:
        params = memory.init(key)
        return memory.step(params, memory.initial_carry(params), example_inputs(*spaces))[1]

    found = jax.eval_shape(features, jax.random.key(0)).features
    if found is None:
        raise ValueError("an off-policy learner needs a memory whose outputs have features (Output.features)")
    sizes = (settings.head_units,) * settings.head_layers
    actor, critic = context.actor_and_critic(*spaces, latent_size=found.shape[-1], hidden_sizes=sizes)
    return OffPolicyNetworks(memory, actor, critic)
