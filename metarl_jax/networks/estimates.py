"""A memory of estimates: counts and mean rewards of the trial, read by a feed-forward network.

At each step the policy observes the action values of a model that is estimated by counting, as in RL³
(``networks.estimated_values``), and it has no other memory. On bandits the estimates are sufficient statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metarl_jax.networks import estimated_values, mlp
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import EnvFamily, Policy


@dataclass(frozen=True, kw_only=True)
class Settings(estimated_values.Settings):
    """Settings of the policy: those of the estimated model, and the sizes of the network."""

    standardised: Annotated[
        bool,
        Doc(
            "Whether the policy also observes the lead of each action over the best other one, in units of the "
            "standard error of the difference for rewards with unit noise. Without it, small networks cannot "
            "distinguish values that are nearly equal and well known."
        ),
    ] = True
    units: Annotated[PositiveInt, Doc("Units of each layer.")] = 64
    layers: Annotated[PositiveInt, Doc("Number of layers.")] = 2


_DEFAULT = Settings()


def make(family: EnvFamily, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make an actor-critic that reads estimated action values.

    Args:
        family: tasks with discrete actions, and with observations that are discrete or one-hot.
        settings: the prior of the estimated model, and the sizes.
        critic: whether the network has a critic; without one, its value is always zero.

    Raises:
        ValueError: if actions are not discrete, or if observations are neither discrete nor one-hot.
    """
    sizes = mlp.Settings(units=settings.units, layers=settings.layers)
    return estimated_values.make(family, lambda spaces: mlp.make(spaces, sizes, critic=critic), settings)
