"""Dark rooms: a walker on a grid sees where it is, and nothing of where the reward is.

Several papers use rooms of this name. Here are those of the Decision-Pretrained Transformer (Lee et al. 2023, arXiv
2306.14892) and of Algorithm Distillation (Laskin et al. 2022, arXiv 2210.14215), each under its own name. In all of
them the observation is the column and the row, one-hot each, there are five actions (stay, up, right, down, left; walls
stop), and episodes last as long as they may. (One-hot cells would hide from a learner what a new goal has in common
with those that it was trained on.)

Which goals are held out is drawn once and for all: a fifth of them, or none ("heldout_share"). That matters: who was
trained online on some of the goals has learnt that nothing is to be found in the other cells, and the better it learns
this the less it looks there.

Validation tasks are the training tasks: other goals would have to be taken from training or from the held-out ones, and
either would change a published split. A validation score measures how well a learner finds the goals of training, not
how well it finds new ones.
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
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, Space, Task, TaskDistribution

if TYPE_CHECKING:
    from PIL.Image import Image

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
"""Of each action, along x and y."""
HELDOUT_SHARE = 0.2
"""Of the goals."""


@struct.dataclass
class RoomParams:
    """A task: what must be reached, one after the other."""

    goals: Array
    """``[G, 2]`` int32: cells (x, y)."""
    max_steps_in_episode: int


@struct.dataclass
class RoomState:
    position: Array
    """``[2]`` int32."""
    reached: Array
    """How many goals were reached, in their order, ``int32``."""
    time: Array
    """Steps in this episode, ``int32``."""


class DarkRoom(Environment):
    """The room.

    Args:
        size: cells along each side.
        start: the cell where episodes begin.
        stays: whether the last goal pays at every step spent on it; otherwise each pays once.
    """

    caption = "From above. Green: where it pays; dark: the agent; blue: the cells visited in this episode."

    def __init__(self, size: int, start: tuple[int, int], stays: bool) -> None:
        self.size = size
        self.start = start
        self.stays = stays

    def _show(self, position: Array) -> Array:
        return jax.nn.one_hot(position, self.size, dtype=jnp.float32).reshape(-1)

    def place(self, observation: np.ndarray) -> tuple[int, int]:
        """The cell (x, y) that an observation shows."""
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
        """The grid from above (``drawing.Drawable``): the goals, the cells visited in this episode, and the walker."""
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


def _family(
    env: DarkRoom, horizon: int, goals: np.ndarray, optimal_return: Callable[[Task], Array], heldout_share: float
) -> EnvFamily:
    """A family with each of ``goals [N, G, 2]`` as a task. With none held out, held-out tasks are all of them."""
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
    )


def _cells(size: int) -> np.ndarray:
    """``[size * size, 2]``."""
    return np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1).reshape(-1, 2)


def _room(size: int, start: tuple[int, int], horizon: int, heldout_share: float) -> EnvFamily:
    def optimal_return(task: RoomParams) -> Array:
        """The shortest way there; the step that arrives pays, and so does every later one."""
        steps = jnp.sum(jnp.abs(task.goals[0] - jnp.array(start)))
        return jnp.maximum(horizon + 1 - jnp.maximum(steps, 1), 0).astype(jnp.float32)

    return _family(DarkRoom(size, start, stays=True), horizon, _cells(size)[:, None], optimal_return, heldout_share)


def decision_pretrained(heldout_share: float = HELDOUT_SHARE) -> EnvFamily:
    """Lee et al. (2023), as in their code: 10x10 cells, start in a corner, 100 steps, each on the goal pays 1.

    Args:
        heldout_share: of the goals; 0: tests are on all goals, as training is.

    Raises:
        ValueError: for a share below 0 or above 0.9.
    """
    return _room(10, (0, 0), 100, heldout_share)


def algorithm_distillation(heldout_share: float = HELDOUT_SHARE) -> EnvFamily:
    """Laskin et al. (2022): 9x9 cells, start in the middle, 20 steps, each on the goal pays 1 (arriving included).

    Args:
        heldout_share: of the goals; 0: tests are on all goals, as training is.

    Raises:
        ValueError: for a share below 0 or above 0.9.
    """
    return _room(9, (4, 4), 20, heldout_share)


def key_to_door(size: int = 9, horizon: int = 50, heldout_share: float = HELDOUT_SHARE) -> EnvFamily:
    """Laskin et al. (2022): a hidden key pays 1 when found, and then a hidden door, in another cell, pays 1; 50 steps.

    Here episodes start in the middle, and go on after the door is found.

    Args:
        size: cells along each side, from 2 to 30: there are almost ``size ** 4`` pairs.
        horizon: steps of an episode.
        heldout_share: of the pairs of key and door; 0: tests are on all pairs, as training is.

    Raises:
        ValueError: for a size or horizon that is not a positive whole number, a room without a cell for the door or
            with too many pairs, or a share below 0 or above 0.9.
    """
    size, horizon = whole(above=0, at_most=30)("size", size), positive_int("horizon", horizon)
    if size < 2:
        raise ValueError(f"size must be at least 2, not {size}: key and door lie in different cells")
    cells = _cells(size)
    pairs = np.array([(key, door) for key in cells for door in cells if np.any(key != door)])
    start = (size // 2, size // 2)

    def optimal_return(task: RoomParams) -> Array:
        """As many of the two as the shortest way reaches in time."""
        to_key = jnp.maximum(jnp.sum(jnp.abs(task.goals[0] - jnp.array(start))), 1)
        to_door = to_key + jnp.sum(jnp.abs(task.goals[1] - task.goals[0]))
        return (to_key <= horizon).astype(jnp.float32) + (to_door <= horizon)

    return _family(DarkRoom(size, start, stays=False), horizon, pairs, optimal_return, heldout_share)
