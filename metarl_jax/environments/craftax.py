"""Craftax-Classic (Matthews et al. 2024, arXiv 2402.16801): Crafter in JAX, where a task is one world.

    from metarl_jax.environments import craftax

    family = craftax.classic(map_size=32, horizon=100)

Craftax generates a new world at every reset. Here a task is one world, and every episode of a trial begins in it: the
agent can remember where it found trees, water and stones. Animals and monsters come and go at random, as in craftax.
This module needs the extra ``metarl-jax[craftax]``; functions import craftax when they need it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Interval
from flax import struct

from metarl_jax.checks import install_command, positive_int, whole
from metarl_jax.environments.base import MOST_SEEDS, Environment, seeded_samplers
from metarl_jax.precision import without_64_bits
from metarl_jax.settings import PositiveInt
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, TaskDistribution

_NEVER = 2**31 - 1
_BLOCKS = 16


@struct.dataclass
class CraftaxParams:
    """A task: a world, and craftax's parameters."""

    world: Any
    """Craftax's ``EnvState`` in which every episode begins, without a random key."""
    parameters: Any
    """Craftax's ``EnvParams``, such as the length of a day and the probabilities that monsters appear."""
    max_steps_in_episode: int
    """The largest number of steps of an episode."""


class CraftaxClassic(Environment):
    """Craftax-Classic with symbolic observations; steps, rewards and observations are craftax's own.

    The state of an episode is craftax's ``EnvState`` without a random key. An episode terminates when the agent dies.

    Args:
        env: Craftax's ``CraftaxClassicSymbolicEnvNoAutoReset``.
    """

    def __init__(self, env: Any) -> None:
        self.env = env

        def after(key: Key, world: Any, action: Array, parameters: Any) -> tuple[Array, Any, Array, Array]:
            seen, world, reward, terminated, _ = env.step_env(key, world, action, parameters)
            return seen, world.replace(state_rng=None), reward, terminated

        # Without ``jit``, a call from Python would compile hundreds of small programs.
        self._see, self._after = without_64_bits(jax.jit(env.get_obs)), without_64_bits(jax.jit(after))

    def reset_env(self, key: Key, params: CraftaxParams) -> tuple[Array, Any]:
        del key
        return self._see(params.world), params.world

    def step_env(
        self, key: Key, state: Any, action: Array, params: CraftaxParams
    ) -> tuple[Array, Any, Array, Array, dict[Any, Any]]:
        seen, world, reward, terminated = self._after(key, state, action, params.parameters)
        return seen, world, jnp.asarray(reward, jnp.float32), terminated, {}

    def is_truncated(self, state: Any, params: CraftaxParams) -> Array:
        return state.timestep >= params.max_steps_in_episode

    def action_space(self, params: CraftaxParams | None = None) -> Discrete:
        del params
        return Discrete(self.env.num_actions)

    def observation_space(self, params: CraftaxParams | None = None) -> Box:
        del params
        space = self.env.observation_space(self.env.default_params)
        return Box(space.low, space.high, tuple(space.shape))


def make(
    physics: Callable[[Key], Any] | None = None,
    *,
    map_size: int = 64,
    horizon: int = 10_000,
    training_worlds: int = MOST_SEEDS,
) -> EnvFamily:
    """Make a family whose tasks are worlds of Craftax-Classic, and may also differ in craftax's parameters.

    A seed generates a world. Seeds of training, which are also those of validation, and held-out seeds are disjoint.
    The defaults are those of craftax.

    Args:
        physics: A function that draws craftax's ``EnvParams`` of one task from a key; None for craftax's defaults in
            every task. Its ``max_timesteps`` has no effect.
        map_size: The number of cells along each side of a world, a multiple of 16. A step takes time in proportion to
            the number of cells.
        horizon: The largest number of steps of an episode.
        training_worlds: The number of seeds of training.

    Raises:
        ModuleNotFoundError: if craftax is not installed.
        ValueError: if ``map_size`` is not a multiple of 16 from 16 to 256, ``horizon`` is not a positive whole number,
            or ``training_worlds`` is not from 1 to 2^30.
        TypeError: if ``physics`` does not return craftax's ``EnvParams``.

    Example:
        >>> import jax
        >>> from craftax.craftax_classic.envs.craftax_state import EnvParams
        >>> import metarl_jax as mrl
        >>> def days(key):
        ...     return EnvParams(day_length=jax.random.randint(key, (), 100, 400))
        >>> family = mrl.environments.craftax.make(days, map_size=32, horizon=100)
        >>> family.observation_space.shape
        (1345,)
    """
    if whole(above=0, at_most=256)("map_size", map_size) % _BLOCKS:
        raise ValueError(f"map_size must be a multiple of {_BLOCKS}, not {map_size}")
    steps = positive_int("horizon", horizon)
    seeds = seeded_samplers("training_worlds", training_worlds)
    symbolic, states = _craftax()
    env = symbolic.CraftaxClassicSymbolicEnvNoAutoReset(states.StaticEnvParams(map_size=(map_size, map_size)))
    draw: Callable[[Key], Any] = physics or (lambda key: env.default_params)
    drawn = jax.eval_shape(draw, jax.random.key(0))
    if not isinstance(drawn, states.EnvParams):
        raise TypeError(f"physics must return craftax's EnvParams, not {type(drawn).__qualname__}")
    generate = without_64_bits(
        jax.jit(lambda key, parameters: env.reset_env(key, parameters)[1].replace(state_rng=None))
    )

    def world(seed: Callable[[Key], Key]) -> Callable[[Key], CraftaxParams]:
        def sample(key: Key) -> CraftaxParams:
            key_seed, key_physics = jax.random.split(key)
            # Only death terminates an episode; the package truncates it at the horizon.
            parameters = draw(key_physics).replace(max_timesteps=_NEVER)
            return CraftaxParams(generate(seed(key_seed), parameters), parameters, steps)

        return sample

    ours = CraftaxClassic(env)
    return EnvFamily(
        env=ours,
        tasks=TaskDistribution(*map(world, seeds)),
        horizon=steps,
        observation_space=ours.observation_space(),
        action_space=ours.action_space(),
    )


def classic(
    map_size: Annotated[int, Interval(ge=16, le=256)] = 32,
    horizon: PositiveInt = 100,
    training_worlds: Annotated[int, Interval(ge=1, le=MOST_SEEDS)] = MOST_SEEDS,
) -> EnvFamily:
    """Make a family of worlds of Craftax-Classic that a CPU can train: small worlds and short episodes.

    Args:
        map_size: The number of cells along each side of a world, a multiple of 16; craftax has 64.
        horizon: The largest number of steps of an episode; craftax has 10,000.
        training_worlds: The number of seeds of training.

    Raises:
        ModuleNotFoundError: if craftax is not installed.
        ValueError: if ``map_size`` is not a multiple of 16, or another setting is out of range.
    """
    return make(map_size=map_size, horizon=horizon, training_worlds=training_worlds)


def _craftax() -> tuple[Any, Any]:
    """Import the modules of craftax that have the environment and its parameters.

    Raises:
        ModuleNotFoundError: if craftax is not installed. The message says what to install.
    """
    try:
        # Craftax prints that it loads pictures.
        with contextlib.redirect_stdout(io.StringIO()):
            return (
                importlib.import_module("craftax.craftax_classic.envs.craftax_symbolic_env"),
                importlib.import_module("craftax.craftax_classic.envs.craftax_state"),
            )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"craftax is not installed: {install_command('craftax')}") from error
