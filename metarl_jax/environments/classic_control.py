"""gymnax's classic control, where the physics is the task: masses, lengths, forces, gravity and goals.

Each physical constant is its usual value times a factor, which is log-uniform between 1/2 and 2. Where the equations
leave the direction of a motor free, the motor is inverted in half of the tasks. A policy with a fixed direction of
pushing then fails in half of the tasks. (Some policies without a memory succeed: CartPole's position can serve as a
memory, and multi-task training finds such a policy. See ``benchmarks/results/maml_classic_control.json``.)

Held-out tasks have the distribution of training tasks ("in_range"), or factors all of which are between 2 and 3 or
between 1/3 and 1/2 ("out_of_range"). Validation tasks always have the distribution of training tasks. A mountain car's
goal that would be behind the wall is placed just before it, in half of the tasks out of range and almost half of those
in range. Some tasks may not be solvable.
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
"""Factors out of range, or their inverses, lie between SPREAD and FAR."""


def _in_range(key: Key, number: int) -> Array:
    """Draw factors ``[number]`` from the range of training tasks."""
    bound = math.log(SPREAD)
    return jnp.exp(jax.random.uniform(key, (number,), jnp.float32, -bound, bound))


def _out_of_range(key: Key, number: int) -> Array:
    """Draw factors ``[number]`` out of the range of training tasks."""
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
    """Make a family of tasks ``params(defaults, factors, direction)``, where the direction is 1 or -1."""
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
    """Make a family of CartPole tasks that differ in gravity, masses, pole length, and size and sign of the force.

    The masses are those of the cart and of the pole.

    Args:
        heldout: Whether the factors of held-out tasks are drawn as in training ("in_range"), or outside of the range of
            training ("out_of_range").
        horizon: The number of steps of an episode.

    Raises:
        ValueError: if ``heldout`` is unknown, or ``horizon`` is not a positive whole number.
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
    """Make a family of Pendulum tasks that differ in gravity, mass and length.

    Args:
        heldout: Whether the factors of held-out tasks are drawn as in training ("in_range"), or outside of the range of
            training ("out_of_range").
        horizon: The number of steps of an episode.

    Raises:
        ValueError: if ``heldout`` is unknown, or ``horizon`` is not a positive whole number.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        del direction
        return defaults.replace(g=defaults.g * factor[0], m=defaults.m * factor[1], l=defaults.l * factor[2])

    return _make("Pendulum-v1", horizon, heldout, 3, params)


def acrobot(heldout: Heldout = "in_range", horizon: int = 500) -> EnvFamily:
    """Make a family of Acrobot tasks that differ in masses and lengths of links, and size and sign of the torques.

    Args:
        heldout: Whether the factors of held-out tasks are drawn as in training ("in_range"), or outside of the range of
            training ("out_of_range").
        horizon: The number of steps of an episode.

    Raises:
        ValueError: if ``heldout`` is unknown, or ``horizon`` is not a positive whole number.
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
    """Make a family of MountainCar tasks that differ in gravity, the goal's position, and size and sign of the force.

    Args:
        heldout: Whether the factors of held-out tasks are drawn as in training ("in_range"), or outside of the range of
            training ("out_of_range").
        horizon: The number of steps of an episode.

    Raises:
        ValueError: if ``heldout`` is unknown, or ``horizon`` is not a positive whole number.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        return defaults.replace(
            force=defaults.force * factor[0] * direction,
            gravity=defaults.gravity * factor[1],
            goal_position=_goal(defaults, factor[2]),
        )

    return _make("MountainCar-v0", horizon, heldout, 3, params)


def mountain_car_continuous(heldout: Heldout = "in_range", horizon: int = 999) -> EnvFamily:
    """Make a family of MountainCarContinuous tasks, which differ as those of ``mountain_car`` do.

    Args:
        heldout: Whether the factors of held-out tasks are drawn as in training ("in_range"), or outside of the range of
            training ("out_of_range").
        horizon: The number of steps of an episode.

    Raises:
        ValueError: if ``heldout`` is unknown, or ``horizon`` is not a positive whole number.
    """

    def params(defaults: Any, factor: Array, direction: Array) -> Task:
        return defaults.replace(
            power=defaults.power * factor[0] * direction,
            gravity=defaults.gravity * factor[1],
            goal_position=_goal(defaults, factor[2]),
        )

    return _make("MountainCarContinuous-v0", horizon, heldout, 3, params)


def _goal(defaults: Any, factor: Array) -> Array:
    # The floor of the valley is at -pi / 6, and the wall is at max_position.
    floor = -math.pi / 6
    return jnp.minimum(floor + (defaults.goal_position - floor) * factor, defaults.max_position - 0.01)
