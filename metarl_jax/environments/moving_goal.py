"""A Markov decision process that changes within a trial: a grid whose hidden goal moves from time to time.

Every step that ends on the goal has a reward of 1, and all other steps have a reward of 0. After each step, the goal
moves to a random cell with a probability of ``rate``. The agent begins in the middle of the grid. Its observation is
the index of its cell, so that it notices the move of the goal only by the missing rewards. The actions are those of
``dark_room``: stay, up, right, down, left; an action that would leave the grid has no effect.

A task is one course of the goal over time. A trial is one episode of ``horizon`` steps, because another episode of the
same task would repeat the course. The rate of a task is log-uniform between 0.01 and 0.05, and between 0.06 and 0.15
for shifted held-out tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import positive_int, whole
from metarl_jax.environments.base import Environment
from metarl_jax.environments.dark_room import MOVES
from metarl_jax.environments.drawing import SIZE, Frame, blank
from metarl_jax.types import Array, Discrete, EnvFamily, Key, TaskDistribution

if TYPE_CHECKING:
    from PIL.Image import Image

RATES = (0.01, 0.05)
"""The range of the probability that the goal moves, for training tasks."""
SHIFTED_RATES = (0.06, 0.15)
"""The range of the probability that the goal moves, for shifted held-out tasks."""


@struct.dataclass
class GoalCourse:
    """A task: the course of the goal over T steps."""

    goals: Array
    """The index of the goal's cell at each step, ``[T]`` int32."""
    rate: Array
    """The probability that the goal moves after a step, ``float32``."""
    max_steps_in_episode: int
    """The number T of steps of an episode."""


@struct.dataclass
class MovingGoalState:
    """The state of an episode."""

    cell: Array
    """The index of the agent's cell, ``int32``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


def moves(size: int) -> np.ndarray:
    """Return the cell that each action leads to from each cell, ``[cells, 5]``; cell ``x * size + y`` is at (x, y)."""
    places = np.stack(np.divmod(np.arange(size**2), size), axis=-1)
    return np.clip(places[:, None] + np.array(MOVES), 0, size - 1) @ np.array([size, 1])


class MovingGoal(Environment):
    """A grid with a hidden goal that moves.

    Args:
        size: the number of cells along each side.
    """

    caption = "From above. Green: the goal; dark: the agent, with its last cells in light blue."

    def __init__(self, size: int) -> None:
        self.size = size
        self.start = size // 2 * (size + 1)
        self._moves = jnp.asarray(moves(size), jnp.int32)

    def reset_env(self, key: Key, params: GoalCourse) -> tuple[Array, MovingGoalState]:
        del key, params
        cell = jnp.int32(self.start)
        return cell, MovingGoalState(cell, jnp.int32(0))

    def step_env(
        self, key: Key, state: MovingGoalState, action: Array, params: GoalCourse
    ) -> tuple[Array, MovingGoalState, Array, Array, dict[Any, Any]]:
        del key
        cell = self._moves[state.cell, action]
        reward = (cell == params.goals[state.time]).astype(jnp.float32)
        return cell, MovingGoalState(cell, state.time + 1), reward, jnp.bool_(False), {}

    def action_space(self, params: GoalCourse | None = None) -> Discrete:
        del params
        return Discrete(len(MOVES))

    def observation_space(self, params: GoalCourse | None = None) -> Discrete:
        del params
        return Discrete(self.size**2)

    def draw(self, frames: Sequence[Frame], task: GoalCourse) -> Image:
        """Draw the grid from above (``drawing.Drawable``): the goal, the last cells of the agent, and the agent."""
        size = self.size
        side = SIZE // size
        picture, canvas = blank(side * size, side * size)

        def fill(cell: int, colour: str, margin: int) -> None:
            left, top = cell // size * side + margin, (size - 1 - cell % size) * side + margin
            right, bottom = left + side - 1 - 2 * margin, top + side - 1 - 2 * margin
            canvas.rectangle((left, top, right, bottom), fill=colour, outline="lightgrey")

        cells = [int(frame.observation) for frame in frames[-8:]]
        for cell in range(size**2):
            fill(cell, "lightsteelblue" if cell in cells else "white", 0)
        goals = np.asarray(task.goals)
        # The picture shows the goal that the last action was rewarded for.
        fill(int(goals[min(max(frames[-1].step - 1, 0), len(goals) - 1)]), "green", side // 5)
        fill(cells[-1], "navy", side // 3)
        return picture


def action_values(goals: Array, size: int) -> Array:
    """Compute the optimal action values of a known course by dynamic programming.

    Args:
        goals: the index of the goal's cell at each step, ``[T]``.
        size: the number of cells along each side.

    Returns:
        The largest return from each step on after each action in each cell, ``[T, cells, 5]``.
    """
    after = jnp.asarray(moves(size), jnp.int32)

    def backup(value: Array, goal: Array) -> tuple[Array, Array]:
        table = (after == goal).astype(jnp.float32) + value[after]
        return jnp.max(table, axis=1), table

    return jax.lax.scan(backup, jnp.zeros(size**2, jnp.float32), goals, reverse=True)[1]


def make(size: int = 5, horizon: int = 80, *, shifted: bool = False) -> EnvFamily:
    """Make grids whose hidden goal moves within a trial.

    Args:
        size: The number of cells along each side, from 2 to 100.
        horizon: The number of steps of a trial, which is one episode.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks: the goal moves more
            often.

    Raises:
        ValueError: if ``size`` is not a whole number from 2 to 100, or ``horizon`` is not a positive whole number.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.moving_goal.make(size=4, horizon=50)
        >>> family.tasks.sample(jax.random.key(0)).goals.shape
        (50,)
    """
    size, horizon = whole(above=1, at_most=100)("size", size), positive_int("horizon", horizon)
    env = MovingGoal(size)

    def sampler(low: float, high: float) -> Callable[[Key], GoalCourse]:
        def sample(key: Key) -> GoalCourse:
            key_rate, key_cell, key_move = jax.random.split(key, 3)
            rate = jnp.exp(jax.random.uniform(key_rate, (), jnp.float32, np.log(low), np.log(high)))
            fresh = jax.random.randint(key_cell, (horizon,), 0, size**2, jnp.int32)
            moved = jax.random.uniform(key_move, (horizon,), jnp.float32) < rate
            # The goal of a step is the one that was drawn at the last move.
            last = jax.lax.cummax(jnp.where(moved, jnp.arange(horizon), 0))
            return GoalCourse(fresh[last], rate, horizon)

        return sample

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sampler(*RATES), sampler(*(SHIFTED_RATES if shifted else RATES))),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda task: jnp.max(action_values(task.goals, size)[0, env.start]),
    )
