"""Dark rooms: an agent on a grid observes its own position, but not the position of the goal.

Several papers use environments of this name. This module has those of the Decision-Pretrained Transformer (Lee et al.
2023, arXiv 2306.14892) and of Algorithm Distillation (Laskin et al. 2022, arXiv 2210.14215), each under its paper's
name. In all of them the observation is the column and the row, each one-hot. (With one-hot cells, a learner could not
see what a new goal has in common with the goals of training.) There are five actions: stay, up, right, down, left. An
action that would leave the grid has no effect. Episodes never terminate before their horizon.

A fifth of the goals is held out by default ("heldout_share"). A fixed seed decides which ones. A learner that is
trained online on the other goals learns that the cells of held-out goals never have a reward. The better it learns
this, the less it searches there.

Validation tasks are the training tasks. Other goals would have to be taken from the training goals or from the held-out
goals, and either would change a published split. A validation score therefore measures how well a learner finds the
goals of training, and not how well it finds new ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import positive_int, real, whole
from metarl_jax.environments.base import Environment
from metarl_jax.environments.drawing import SIZE, Frame, blank, of_episode
from metarl_jax.types import (
    Array,
    Box,
    Discrete,
    EnvFamily,
    Key,
    Privileged,
    Space,
    Task,
    TaskDistribution,
    Transition,
)

if TYPE_CHECKING:
    from PIL.Image import Image

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
"""The move (x, y) of each action, in cells."""
HELDOUT_SHARE = 0.2
"""The default share of the goals that is held out."""


@struct.dataclass
class RoomParams:
    """A task: the goals, which must be reached one after another."""

    goals: Array
    """The cells (x, y) of the goals, ``[G, 2]`` int32."""
    max_steps_in_episode: int
    """The number of steps of an episode."""


@struct.dataclass
class RoomState:
    """The state of an episode."""

    position: Array
    """The cell (x, y) of the agent, ``[2]`` int32."""
    reached: Array
    """The number of goals that were reached so far, in their order, ``int32``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class DarkRoom(Environment):
    """A grid with hidden goals.

    Args:
        size: the number of cells along each side.
        start: the cell where episodes begin.
        stays: whether every step that ends on the last goal has a reward; otherwise each goal has a reward once.
    """

    caption = "From above. Green: the goal; dark: the agent; light blue: the cells visited in this episode."

    def __init__(self, size: int, start: tuple[int, int], stays: bool) -> None:
        self.size = size
        self.start = start
        self.stays = stays

    def _show(self, position: Array) -> Array:
        return jax.nn.one_hot(position, self.size, dtype=jnp.float32).reshape(-1)

    def position(self, observation: Array) -> Array:
        """Return the cell (x, y) that an observation shows, ``[2]`` int32."""
        return jnp.argmax(observation.reshape(2, self.size), axis=1).astype(jnp.int32)

    def place(self, observation: np.ndarray) -> tuple[int, int]:
        """Return the cell (x, y) that an observation shows."""
        x, y = observation.reshape(2, self.size).argmax(axis=1)
        return int(x), int(y)

    def reset_env(self, key: Key, params: RoomParams) -> tuple[Array, RoomState]:
        del key, params
        position = jnp.array(self.start, jnp.int32)
        return self._show(position), RoomState(position, jnp.int32(0), jnp.int32(0))

    def step_env(
        self, key: Key, state: RoomState, action: Array, params: RoomParams
    ) -> tuple[Array, RoomState, Array, Array, dict[Any, Any]]:
        del key
        position = jnp.clip(state.position + jnp.array(MOVES, jnp.int32)[action], 0, self.size - 1)
        last = params.goals.shape[0] - 1
        sought = params.goals[jnp.minimum(state.reached, last)]
        there = jnp.all(position == sought)
        paid = there if self.stays else jnp.logical_and(there, state.reached <= last)
        reached = jnp.where(there, jnp.minimum(state.reached + 1, last + (not self.stays)), state.reached)
        after = RoomState(position, reached, state.time + 1)
        return self._show(position), after, paid.astype(jnp.float32), jnp.bool_(False), {}

    def action_space(self, params: RoomParams | None = None) -> Discrete:
        del params
        return Discrete(len(MOVES))

    def observation_space(self, params: RoomParams | None = None) -> Space:
        del params
        return Box(0.0, 1.0, (2 * self.size,))

    def draw(self, frames: Sequence[Frame], task: RoomParams) -> Image:
        """Draw the grid from above (``drawing.Drawable``): the goals, the cells visited in this episode, the agent."""
        size = self.size
        side = SIZE // size
        picture, canvas = blank(side * size, side * size)

        def fill(cell: tuple[int, int], colour: str, margin: int) -> None:
            left, top = cell[0] * side + margin, (size - 1 - cell[1]) * side + margin
            right, bottom = left + side - 1 - 2 * margin, top + side - 1 - 2 * margin
            canvas.rectangle((left, top, right, bottom), fill=colour, outline="lightgrey")

        cells = [self.place(frame.observation) for frame in of_episode(frames)]
        for x, y in itertools.product(range(size), repeat=2):
            fill((x, y), "lightsteelblue" if (x, y) in cells else "white", 0)
        for place in np.asarray(task.goals):
            fill((int(place[0]), int(place[1])), "green", side // 5)
        fill(cells[-1], "navy", side // 3)
        return picture


def shortest_path_action(position: Array, goal: Array) -> Array:
    """Return the action of a shortest path that removes the larger of the two distances first.

    Among the shortest paths, this one stays nearest to the straight line.

    Args:
        position: a cell (x, y), ``[2]`` int32.
        goal: the cell to go to, ``[2]`` int32.
    """
    x, y = goal - position
    along_x, along_y = jnp.where(x > 0, 2, 4), jnp.where(y > 0, 1, 3)
    action = jnp.where(jnp.abs(x) > jnp.abs(y), along_x, along_y)
    return jnp.where(jnp.logical_and(x == 0, y == 0), 0, action).astype(jnp.int32)


def optimal_action(env: DarkRoom) -> Callable[[RoomParams, Transition], Array]:
    """Return a function that computes the action of a shortest path to the next goal at each step of a trial."""

    def of_trial(task: RoomParams, t: Transition) -> Array:
        def one_step(reached: Array, step: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
            observation, reward, prev_done, first = step
            reached = jnp.where(jnp.logical_or(prev_done > 0, first), 0, reached)
            goal = task.goals[jnp.minimum(reached, len(task.goals) - 1)]
            # Each goal but the last has one positive reward in an episode.
            return reached + (reward > 0), shortest_path_action(env.position(observation), goal)

        steps = t.inputs.obs, t.reward, t.inputs.prev_done, t.inputs.first
        return jax.lax.scan(one_step, jnp.int32(0), steps)[1]

    return of_trial


def _family(
    env: DarkRoom, horizon: int, goals: np.ndarray, optimal_return: Callable[[Task], Array], heldout_share: float
) -> EnvFamily:
    """Make a family of N tasks with ``goals [N, G, 2]``. If no task is held out, all tasks are also held-out tasks."""
    real(at_least=0, at_most=0.9)("heldout_share", heldout_share)
    order = np.random.default_rng(0).permutation(len(goals))
    cut = len(goals) - round(heldout_share * len(goals))

    def among(indices: np.ndarray) -> Callable[[Key], RoomParams]:
        some = jnp.asarray(goals[indices], jnp.int32)
        return lambda key: RoomParams(some[jax.random.randint(key, (), 0, len(indices), jnp.int32)], horizon)

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(among(order[:cut]), among(order[cut:] if cut < len(goals) else order)),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=optimal_return,
        privileged=Privileged(optimal_action=optimal_action(env)),
    )


def _cells(size: int) -> np.ndarray:
    """Return all cells (x, y) of a grid, ``[size * size, 2]``."""
    return np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1).reshape(-1, 2)


def _room(size: int, start: tuple[int, int], horizon: int, heldout_share: float) -> EnvFamily:
    def optimal_return(task: RoomParams) -> Array:
        """Compute the return of the shortest path; the step that arrives has a reward, as has every later step."""
        steps = jnp.sum(jnp.abs(task.goals[0] - jnp.array(start)))
        return jnp.maximum(horizon + 1 - jnp.maximum(steps, 1), 0).astype(jnp.float32)

    return _family(DarkRoom(size, start, stays=True), horizon, _cells(size)[:, None], optimal_return, heldout_share)


def decision_pretrained(heldout_share: float = HELDOUT_SHARE) -> EnvFamily:
    """Make the dark room of Lee et al. (2023), as in their code: 10x10 cells, a start in a corner, 100 steps.

    Every step that ends on the goal has a reward of 1.

    Args:
        heldout_share: The share of the goals that is held out; with 0, held-out tasks have all goals, as training
            tasks.

    Raises:
        ValueError: if the share is below 0 or above 0.9.
    """
    return _room(10, (0, 0), 100, heldout_share)


def algorithm_distillation(heldout_share: float = HELDOUT_SHARE) -> EnvFamily:
    """Make the dark room of Laskin et al. (2022): 9x9 cells, a start in the middle, 20 steps.

    Every step that ends on the goal has a reward of 1, the step of arrival included.

    Args:
        heldout_share: The share of the goals that is held out; with 0, held-out tasks have all goals, as training
            tasks.

    Raises:
        ValueError: if the share is below 0 or above 0.9.
    """
    return _room(9, (4, 4), 20, heldout_share)


def key_to_door(size: int = 9, horizon: int = 50, heldout_share: float = HELDOUT_SHARE) -> EnvFamily:
    """Make the key-to-door environment of Laskin et al. (2022): a hidden key, then a hidden door, and 50 steps.

    Finding the key has a reward of 1. Afterwards, finding the door, which is in another cell, has a reward of 1. In
    this implementation episodes start in the middle, and continue after the door is found.

    Args:
        size: The number of cells along each side, from 2 to 30; there are almost ``size ** 4`` pairs of key and door.
        horizon: The number of steps of an episode.
        heldout_share: The share of the pairs of key and door that is held out; with 0, held-out tasks have all pairs,
            as training tasks.

    Raises:
        ValueError: if ``size`` is not a whole number from 2 to 30, ``horizon`` is not a positive whole number, or the
            share is below 0 or above 0.9.
    """
    size, horizon = whole(above=0, at_most=30)("size", size), positive_int("horizon", horizon)
    if size < 2:
        raise ValueError(f"size must be at least 2, not {size}, because key and door are in different cells")
    cells = _cells(size)
    pairs = np.array([(key, door) for key in cells for door in cells if np.any(key != door)])
    start = (size // 2, size // 2)

    def optimal_return(task: RoomParams) -> Array:
        """Count which of key and door the shortest path reaches within the horizon."""
        to_key = jnp.maximum(jnp.sum(jnp.abs(task.goals[0] - jnp.array(start))), 1)
        to_door = to_key + jnp.sum(jnp.abs(task.goals[1] - task.goals[0]))
        return (to_key <= horizon).astype(jnp.float32) + (to_door <= horizon)

    return _family(DarkRoom(size, start, stays=False), horizon, pairs, optimal_return, heldout_share)
