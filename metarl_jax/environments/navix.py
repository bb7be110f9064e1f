"""Navix (Pignatelli et al. 2024, arXiv 2407.19396): MiniGrid in JAX, where a task is one layout of an environment.

    from metarl_jax.environments import navix

    family = navix.make("Navix-DoorKey-Random-6x6-v0")

Navix draws a new layout at every reset: the walls, the places of objects and of the goal, and the place and direction
of the agent. Here a task is one layout, and every episode of a trial begins in it. The agent knows where it is and sees
a small part of the grid, so that it has to find the goal in the first episode and can go straight to it in later ones.
This module needs the extra ``metarl-jax[navix]``; functions import navix when they need it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Interval
from flax import struct

from metarl_jax.checks import did_you_mean, install_command, positive_int, real, whole
from metarl_jax.environments.base import MOST_SEEDS, Environment, seeded_samplers
from metarl_jax.precision import without_64_bits
from metarl_jax.settings import Fraction, PositiveInt
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, TaskDistribution

CLASSES = (11, 6, 3)
"""The numbers of kinds of objects, of colours and of states of an object (such as open, closed and locked)."""
_DIRECTIONS = 4


@struct.dataclass
class NavixParams:
    """A task: a layout."""

    layout: Any
    """The ``navix.states.State`` in which every episode begins, without a random key and without sprites."""
    max_steps_in_episode: int
    """The largest number of steps of an episode."""


@struct.dataclass
class NavixState:
    """The state of an episode."""

    grid: Any
    """A ``navix.states.State``, without a random key and without sprites."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class Navix(Environment):
    """A Navix environment whose transitions, rewards and terminations are navix's own.

    The observation is one-hot, uint8: the kind, the colour and the state of the object in every cell in view, then the
    direction, the row and the column of the agent. In its view, the agent is in the middle of the last row and looks
    towards the first row.

    Args:
        env: An ``Environment`` of navix.
        view: The number of rows and of columns in view, an odd number from 3 to 7.
        time_penalty: The part of a reward of 1 that is lost if the last step of an episode terminates it.
    """

    def __init__(self, env: Any, view: int, time_penalty: float) -> None:
        symbolic_first_person = _navix().observations.symbolic_first_person
        self.env = env
        self.view = view
        self.time_penalty = time_penalty

        def see(grid: Any) -> Array:
            cells = symbolic_first_person(grid)
            rows, columns = cells.shape[:2]
            left = (columns - view) // 2
            cells = cells[rows - view :, left : left + view]
            layers = [
                jax.nn.one_hot(cells[..., layer], classes, dtype=jnp.uint8).reshape(-1)
                for layer, classes in enumerate(CLASSES)
            ]
            player = grid.get_player()
            own = zip((player.direction, *player.position), (_DIRECTIONS, env.height, env.width), strict=True)
            return jnp.concatenate([*layers, *(jax.nn.one_hot(value, n, dtype=jnp.uint8) for value, n in own)])

        def after(key: Key, grid: Any, events: Any, action: Array) -> tuple[Array, Any, Array, Array]:
            # Events are those of one step.
            before = grid.replace(key=key, events=events)
            new = env.transitions_fn(before, action, env.action_set)
            reward, terminated = (function(before, action, new) for function in (env.reward_fn, env.termination_fn))
            return see(new), new.replace(key=None), reward, terminated

        # Without ``jit``, a call from Python would compile hundreds of small programs.
        self._see, self._after = without_64_bits(jax.jit(see)), without_64_bits(jax.jit(after))

    def reset_env(self, key: Key, params: NavixParams) -> tuple[Array, NavixState]:
        del key
        return self._see(params.layout), NavixState(params.layout, jnp.int32(0))

    def step_env(
        self, key: Key, state: NavixState, action: Array, params: NavixParams
    ) -> tuple[Array, NavixState, Array, Array, dict[Any, Any]]:
        seen, grid, reward, terminated = self._after(key, state.grid, params.layout.events, action)
        time = state.time + 1
        lost = jnp.float32(self.time_penalty) * time / params.max_steps_in_episode
        reward = jnp.asarray(reward, jnp.float32) - jnp.where(terminated, lost, 0.0)
        return seen, NavixState(grid, time), reward, terminated, {}

    def action_space(self, params: NavixParams | None = None) -> Discrete:
        del params
        return Discrete(len(self.env.action_set))

    def observation_space(self, params: NavixParams | None = None) -> Box:
        del params
        own = _DIRECTIONS + self.env.height + self.env.width
        return Box(0.0, 1.0, (self.view**2 * sum(CLASSES) + own,))


def make(
    environment: str = "Navix-Empty-Random-8x8-v0",
    view: Annotated[int, Interval(ge=3, le=7)] = 3,
    horizon: PositiveInt | None = 32,
    time_penalty: Fraction = 0.9,
    training_layouts: Annotated[int, Interval(ge=1, le=MOST_SEEDS)] = MOST_SEEDS,
) -> EnvFamily:
    """Make a family whose tasks are layouts of a Navix environment.

    Reaching the goal after t of at most T steps has a reward of 1 - 0.9 t / T, as in MiniGrid.

    A seed generates a layout. Seeds of training, which are also those of validation, and held-out seeds are disjoint. A
    small grid has few layouts, and different seeds then often generate the same one.

    Args:
        environment: The name of an environment of ``navix.make``.
        view: The number of rows and of columns that the agent sees, an odd number. MiniGrid's agents see 7.
        horizon: The largest number of steps of an episode; None for navix's number.
        time_penalty: The part of a reward of 1 that is lost if the last possible step terminates the episode. Navix
            calls it ``penalty_coeff`` and has 0.
        training_layouts: The number of seeds of training.

    Raises:
        ModuleNotFoundError: if navix is not installed.
        ValueError: if the name is unknown (the message suggests similar names), ``view`` is not 3, 5 or 7, ``horizon``
            is not a positive whole number, ``time_penalty`` is not from 0 to 1, or ``training_layouts`` is not from 1
            to 2^30.
    """
    navix = _navix()
    if environment not in navix.registry():
        raise ValueError(f"navix has no environment {environment!r}{did_you_mean(environment, navix.registry())}")
    if whole(above=2, at_most=7)("view", view) % 2 == 0:
        raise ValueError(f"view must be 3, 5 or 7, not {view}, because the agent is in the middle of a row")
    env = navix.make(environment)
    steps = env.max_steps if horizon is None else positive_int("horizon", horizon)
    reset = without_64_bits(jax.jit(lambda key: env.reset(key).state.replace(key=None, cache=None)))

    def layout(seed: Callable[[Key], Key]) -> Callable[[Key], NavixParams]:
        return lambda key: NavixParams(reset(seed(key)), steps)

    ours = Navix(env, view, real(at_least=0, at_most=1)("time_penalty", time_penalty))
    return EnvFamily(
        env=ours,
        tasks=TaskDistribution(*map(layout, seeded_samplers("training_layouts", training_layouts))),
        horizon=steps,
        observation_space=ours.observation_space(),
        action_space=ours.action_space(),
    )


def _navix() -> Any:
    """Import navix.

    Raises:
        ModuleNotFoundError: if navix is not installed. The message says what to install.
    """
    try:
        with warnings.catch_warnings():
            # Libraries that navix imports use deprecated parts of JAX.
            warnings.simplefilter("ignore")
            return importlib.import_module("navix")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"navix is not installed: {install_command('navix')}") from error
