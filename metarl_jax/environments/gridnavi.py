"""GridNavi (Zintgraf et al. 2020, section 5.1, as in their code): the search for a hidden goal on a grid.

The agent starts in the corner (0, 0). The goal is any cell except the four cells of this corner. Every step that ends
on the goal has a reward of 1, and every other step has a reward of -0.1. Episodes last 15 steps, and a trial in the
paper has 4 episodes. The actions are those of ``dark_room``: stay, up, right, down, left; an action that would leave
the grid has no effect. The observation is the index of the cell, whereas the authors' code shows its coordinates.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int, real, whole
from metarl_jax.environments.dark_room import DarkRoom, RoomParams, RoomState, optimal_action
from metarl_jax.types import Array, Discrete, EnvFamily, Key, Privileged, TaskDistribution

FOUND, NOT_FOUND = 1.0, -0.1
"""The reward of a step that ends on the goal, and of any other step."""


class GridNavi(DarkRoom):
    """A grid with one hidden goal.

    Args:
        size: the number of cells along each side.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, (0, 0), stays=True)

    def _show(self, position: Array) -> Array:
        return position[0] * self.size + position[1]

    def position(self, observation: Array) -> Array:
        return jnp.stack(jnp.divmod(observation, self.size)).astype(jnp.int32)

    def place(self, observation: np.ndarray) -> tuple[int, int]:
        """Return the cell (x, y) that an observation shows."""
        return divmod(int(observation), self.size)

    def observation_space(self, params: RoomParams | None = None) -> Discrete:
        del params
        return Discrete(self.size**2)

    def step_env(
        self, key: Key, state: RoomState, action: Array, params: RoomParams
    ) -> tuple[Array, RoomState, Array, Array, dict[Any, Any]]:
        cell, state, paid, terminated, info = super().step_env(key, state, action, params)
        return cell, state, jnp.where(paid > 0, FOUND, NOT_FOUND), terminated, info


class RareGoals(GridNavi):
    """GridNavi with unequally likely goals. Reference learners whose prior is uniform refuse it."""


def goals(size: int) -> list[tuple[int, int]]:
    """Return the cells (x, y) where a goal may be."""
    return [(x, y) for x in range(size) for y in range(size) if max(x, y) > 1]


def make(size: int = 5, horizon: int = 15) -> EnvFamily:
    """Make the GridNavi family. Goals are uniform; training, validation and held-out tasks have the same distribution.

    Args:
        size: The number of cells along each side, from 3 to 1000.
        horizon: The number of steps of an episode.

    Raises:
        ValueError: if ``size`` is not a whole number from 3 to 1000, or ``horizon`` is not a positive whole number.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.gridnavi.make(size=5)
        >>> task = family.tasks.sample(jax.random.key(0))
        >>> observation, state = family.env.reset(jax.random.key(1), task)
    """
    size, horizon = whole(above=0, at_most=1000)("size", size), positive_int("horizon", horizon)
    if size < 3:
        raise ValueError(f"size must be at least 3, not {size}, because the goal is outside the corner's four cells")
    env = GridNavi(size)
    cells = jnp.array(goals(size), jnp.int32)

    def sample(key: Key) -> RoomParams:
        return RoomParams(cells[jax.random.randint(key, (), 0, len(cells), jnp.int32)][None], horizon)

    def optimal_return(task: RoomParams) -> Array:
        """Compute the return of the shortest path; the step that arrives has the goal's reward, as have later steps."""
        paid = jnp.maximum(horizon + 1 - jnp.sum(task.goals[0]), 0)
        return FOUND * paid + NOT_FOUND * (horizon - paid)

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=optimal_return,
        privileged=Privileged(optimal_action=optimal_action(env)),
    )


def goal_probabilities(size: int, far_share: float) -> np.ndarray:
    """Return the probability of each cell of ``goals(size)`` in ``rare_far_goals``, ``[cells]``."""
    far = np.array([x + y >= size for x, y in goals(size)])
    return np.where(far, far_share / np.sum(far), (1 - far_share) / np.sum(~far))


def rare_far_goals(size: int = 5, horizon: int = 15, far_share: float = 0.05) -> EnvFamily:
    """Make GridNavi with rare hard tasks: goals that are far from the start have a small probability.

    A goal in the cell (x, y) is far if x + y is at least ``size``. With 5x5 cells these are 10 of 21 goals. The far
    goals are equally likely, and so are the others. Training, validation and held-out tasks have the same distribution.

    Args:
        size: The number of cells along each side, from 3 to 1000.
        horizon: The number of steps of an episode.
        far_share: The probability that the goal is far, from 0 to 1.

    Raises:
        ValueError: if ``size`` or ``horizon`` is not valid for ``make``, or the share is below 0 or above 1.
    """
    uniform = make(size, horizon)
    real(at_least=0, at_most=1)("far_share", far_share)
    cells = jnp.array(goals(size), jnp.int32)
    cumulative = jnp.asarray(np.cumsum(goal_probabilities(size, far_share)), jnp.float32)

    def sample(key: Key) -> RoomParams:
        threshold = jax.random.uniform(key, dtype=jnp.float32) * cumulative[-1]
        index = jnp.minimum(jnp.sum(threshold >= cumulative), len(cells) - 1)
        return RoomParams(cells[index][None], horizon)

    return uniform._replace(env=RareGoals(size), tasks=TaskDistribution(sample, sample))
