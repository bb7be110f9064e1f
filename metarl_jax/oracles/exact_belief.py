"""A policy for GridNavi whose input is the exact belief about the goal, as a bound for learned beliefs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import settings
from metarl_jax.networks import mlp
from metarl_jax.oracles.gridnavi import Belief
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, Box, EnvFamily, Inputs, Output, Params, Policy


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of a policy whose input is the exact belief."""

    policy_units: Annotated[PositiveInt, Doc("Units of the policy's hidden layer.")] = 32


class _Known(NamedTuple):
    """The policy's carry."""

    possible: Array
    """The cells where the goal may still be, ``[cells]`` bool."""
    cell: Array
    """The last observation, ``int32``."""


_DEFAULT = Settings()


def make(family: EnvFamily, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make a feed-forward policy whose inputs are the cell and the probability of each cell to be the goal.

    Args:
        family: a family of GridNavi.
        settings: the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    belief = Belief(family)
    cells = len(belief.prior)
    space = Box(0.0, 1.0, (2 * cells,))
    sizes = (settings.policy_units,)
    network = mlp.policy(space, family.action_space, hidden_sizes=sizes, history=False, critic=critic)

    def update(memory: _Known, inputs: Inputs) -> tuple[_Known, Array]:
        possible = belief.update(memory.possible, memory.cell, inputs)
        return _Known(possible, inputs.obs), possible

    def with_belief(possible: Array, inputs: Inputs) -> Inputs:
        possible = possible.astype(jnp.float32)
        probability = possible / jnp.sum(possible, axis=-1, keepdims=True)
        cell = jax.nn.one_hot(inputs.obs, cells, dtype=jnp.float32)
        return inputs._replace(obs=jnp.concatenate([cell, probability], axis=-1))

    def initial_carry(params: Params) -> _Known:
        return _Known(belief.prior, jnp.int32(0))

    def step(params: Params, memory: _Known, inputs: Inputs) -> tuple[_Known, Output]:
        memory, possible = update(memory, inputs)
        return memory, network.step(params, (), with_belief(possible, inputs))[1]

    def unroll(params: Params, memory: _Known, inputs: Inputs) -> tuple[_Known, Output]:
        one = update if inputs.first.ndim == 1 else jax.vmap(update)
        memory, possible = jax.lax.scan(one, memory, inputs)
        return memory, network.unroll(params, (), with_belief(possible, inputs))[1]

    return Policy(network.init, initial_carry, step, unroll, critic)
