"""gymnax's classic control with physics as the task: masses, lengths, forces, gravity, goals.

Each physical constant is its usual value times a factor, log-uniform within 2 either way. Motors whose direction the
equations leave free are wired the wrong way round in half of the tasks, so that one fixed way of pushing fails in half
of them. (Not every policy without memory does: CartPole's position can stand in for a memory, and multi-task training
finds out how. See ``benchmarks/results/maml_classic_control.json``.) Held-out tasks are drawn alike ("in_range"), or
with every factor from 2 to 3 either way ("out_of_range"); validation tasks are always drawn like training tasks. A
mountain car's goal cannot lie behind the wall: half of those out of range lie before it, as do nearly as many in range.
Not every such task need be solvable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.checks import choice
from metarl_jax.environments import from_gymnax
from metarl_jax.environments.base import random_signs
from metarl_jax.types import Array, EnvFamily, Key, Task

Heldout: TypeAlias = Literal["in_range", "out_of_range"]
SPREAD = 2.0
"""Training factors lie between 1 / SPREAD and SPREAD."""
FAR = 3.0
"""Factors out of range lie between SPREAD and FAR, or their inverses."""


def _in_range(key: Key, number: int) -> Array:
    """Factors ``[number]``."""
    bound = math.log(SPREAD)
    return jnp.exp(jax.random.uniform(key, (number,), jnp.float32, -bound, bound))


def _out_of_range(key: Key, number: int) -> Array:
    """Factors ``[number]``."""
    key_size, key_sign = jax.random.split(key)
    size = jax.random.uniform(key_size, (number,), jnp.float32, math.log(SPREAD), math.log(FAR))
    return jnp.exp(size * random_signs(key_sign, (number,)))


def _make(
    name: str,
    horizon: int,
    heldout: Heldout,
    factors: int,
    params: Callable[[Any, Array, Array], Task],
) -> EnvFamily:
    """A family of tasks ``params(defaults, factors, direction)``, the direction being 1 or -1."""
    choice("in_range", "out_of_range")("heldout", heldout)
    import gymnax

    env, defaults = gymnax.make(name)

    def sampler(draw: Callable[[Key, int], Array]) -> Callable[[Key], Task]:
        def sample(key: Key) -> Task:
            key_factors, key_direction = jax.random.split(key)
            return params(defaults, draw(key_factors, factors), random_signs(key_direction, ()))

        return sample

    test = sampler(_in_range if heldout == "in_range" else _out_of_range)
    return from_gymnax.make(env, sampler(_in_range), test, horizon=horizon)


def cartpole(heldout: Heldout = "in_range", horizon: int = 200) -> EnvFamily:
    """CartPole with other gravity, cart mass, pole mass, pole length, and force, which may push the other way.

    Args:
        heldout: whether the physics of held-out tasks are drawn as in training ("in_range"), or farther from the usual
            ones than any there ("out_of_range").
        horizon: steps of an episode.

    Raises:
        ValueError: for an unknown kind of held-out tasks, or a horizon that is not a positive whole number.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        masscart, masspole = defaults.masscart * factor[1], defaults.masspole * factor[2]
        length = defaults.length * factor[3]
        return defaults.replace(
            gravity=defaults.gravity * factor[0],
            masscart=masscart,
            masspole=masspole,
            length=length,
            total_mass=masscart + masspole,
            polemass_length=masspole * length,
            force_mag=defaults.force_mag * factor[4] * direction,
        )

    return _make("CartPole-v1", horizon, heldout, 5, params)


def pendulum(heldout: Heldout = "in_range", horizon: int = 200) -> EnvFamily:
    """Pendulum with other gravity, mass and length.

    Args:
        heldout: whether the physics of held-out tasks are drawn as in training ("in_range"), or farther from the usual
            ones than any there ("out_of_range").
        horizon: steps of an episode.

    Raises:
        ValueError: as ``cartpole``.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        del direction
        return defaults.replace(g=defaults.g * factor[0], m=defaults.m * factor[1], l=defaults.l * factor[2])

    return _make("Pendulum-v1", horizon, heldout, 3, params)


def acrobot(heldout: Heldout = "in_range", horizon: int = 500) -> EnvFamily:
    """Acrobot with other link masses and lengths, and torques, which may turn the other way.

    Args:
        heldout: whether the physics of held-out tasks are drawn as in training ("in_range"), or farther from the usual
            ones than any there ("out_of_range").
        horizon: steps of an episode.

    Raises:
        ValueError: as ``cartpole``.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        return defaults.replace(
            link_mass_1=defaults.link_mass_1 * factor[0],
            link_mass_2=defaults.link_mass_2 * factor[1],
            link_length_1=defaults.link_length_1 * factor[2],
            link_length_2=defaults.link_length_2 * factor[3],
            link_com_pos_1=defaults.link_com_pos_1 * factor[2],
            link_com_pos_2=defaults.link_com_pos_2 * factor[3],
            available_torque=defaults.available_torque * factor[4] * direction,
        )

    return _make("Acrobot-v1", horizon, heldout, 5, params)


def mountain_car(heldout: Heldout = "in_range", horizon: int = 200) -> EnvFamily:
    """MountainCar with another force, which may push the other way, gravity and goal position.

    Args:
        heldout: whether the physics of held-out tasks are drawn as in training ("in_range"), or farther from the usual
            ones than any there ("out_of_range").
        horizon: steps of an episode.

    Raises:
        ValueError: as ``cartpole``.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        return defaults.replace(
            force=defaults.force * factor[0] * direction,
            gravity=defaults.gravity * factor[1],
            goal_position=_goal(defaults, factor[2]),
        )

    return _make("MountainCar-v0", horizon, heldout, 3, params)


def mountain_car_continuous(heldout: Heldout = "in_range", horizon: int = 999) -> EnvFamily:
    """MountainCarContinuous, with the same tasks as ``mountain_car``.

    Args:
        heldout: whether the physics of held-out tasks are drawn as in training ("in_range"), or farther from the usual
            ones than any there ("out_of_range").
        horizon: steps of an episode.

    Raises:
        ValueError: as ``cartpole``.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        return defaults.replace(
            power=defaults.power * factor[0] * direction,
            gravity=defaults.gravity * factor[1],
            goal_position=_goal(defaults, factor[2]),
        )

    return _make("MountainCarContinuous-v0", horizon, heldout, 3, params)


def _goal(defaults: Any, factor: Array) -> Array:
    # The valley's floor is at -pi / 6; the wall, which no goal may lie behind, at max_position.
    floor = -math.pi / 6
    return jnp.minimum(floor + (defaults.goal_position - floor) * factor, defaults.max_position - 0.01)
