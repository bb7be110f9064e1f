"""Visual navigation in mazes: an agent must remember from the first episode of a trial where the target is.

The tasks are those of Duan et al. (2016, arXiv 1611.02779, section 3.3), in the form of Mishra et al. (2018, arXiv
1707.03141). Observations are frames of 40x30 pixels in colour. The actions are a step forward and turns to the left and
to the right. The reward is 1 for reaching the target, which ends the episode, -0.01 for every step, and an additional
-0.001 for a step into a wall. Episodes have at most 250 steps, and at most 1000 in large mazes. There are 1000 mazes
for training, and other mazes for evaluation. A task is a maze with a target and a start. All episodes of a trial have
the same maze, target and start.

The papers do not describe the geometry of the mazes. They only state how many steps random actions take to reach the
target: 188.6 in small mazes (+-3.5), and 420.2 in large mazes, where episodes that do not reach the target presumably
count as their limit. The geometry here was chosen to match the first number: 5 by 5 square cells with walls between
them; a random spanning tree of openings, and three in ten of the other walls removed; turns of 30 degrees; and steps of
0.6 of a cell. Random actions then take 189.8 steps (+-1.2). Large mazes have 9 by 9 such cells, where random actions
take 746 steps (+-11). No maze larger than the small ones matches 420: even in small mazes, random actions take 455
steps if 1000 are allowed. Numbers of steps in small mazes can be compared with published ones, with care; those in
large mazes cannot. Tiny mazes of 3 by 3 cells are not from a paper: they are small enough for training on a CPU.

Frames are rendered by ray casting, with one ray for each column of pixels. All lines between cells that a ray crosses
are looked up at once, and the ray shows the nearest wall. Walls are redder in the east and greener in the north, walls
along the north-south direction are bluer, and the joints between walls are dark. The target is a white pillar. Most of
the data of a trial are frames. They are ``uint8``, which takes a quarter of the memory of ``float32``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import positive_int
from metarl_jax.environments.base import Environment
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, TaskDistribution

TRAINING_MAZES = 1000
"""The number of mazes of training tasks, as published."""
FORWARD, LEFT, RIGHT = range(3)
ACTIONS = 3
HEIGHT, WIDTH = 30, 40
"""The size of a frame, in pixels."""

TINY, SMALL, LARGE = 3, 5, 9
"""The number of cells along each side of a maze."""
LOOPS = 0.3
"""The probability with which a wall that is not opened by the spanning tree is removed."""
HEADINGS = 12
"""The number of directions; a turn leads from one to the next."""
STRIDE = 0.6
"""The length of a step forward, in cells."""
CLEARANCE = 0.2
"""The smallest distance of the agent from a wall, in cells."""
REACH = 0.5
"""The distance from the target within which the agent has reached it, in cells."""
PILLAR = 0.15
"""The radius of the pillar that shows the target, in cells."""

_COMPASS = np.array([(math.cos(a), math.sin(a)) for a in 2 * math.pi * np.arange(HEADINGS) / HEADINGS], np.float32)
# The place of each column on a screen at distance 1, 90 degrees wide, from left to right. Pixels are square.
_SCREEN = np.linspace(1, -1, 2 * WIDTH + 1, dtype=np.float32)[1::2]
_FOCAL = WIDTH / 2
# The distance of each row from the horizon in pixels.
_ROWS = np.arange(HEIGHT, dtype=np.float32) + 0.5 - HEIGHT / 2
_SKY, _GROUND, _TARGET = (60, 70, 110), (90, 80, 70), (255, 255, 255)
_BACKGROUND = np.where(_ROWS[:, None, None] < 0, _SKY, _GROUND).astype(np.uint8)


@struct.dataclass
class MazeParams:
    """A task: a maze of n x n cells with a start and a target."""

    walls: Array
    """The walls, ``[2, n + 1]`` int32. Bit j of ``walls[0, i]`` is set if there is a wall along x = i between y = j
    and j + 1. Bit j of ``walls[1, i]`` is set if there is a wall along y = i between x = j and j + 1."""
    start: Array
    """The position (x, y) where episodes begin, in cells, ``[2]`` float32."""
    heading: Array
    """The direction at the start of an episode, int32: the number of turns to the left from east."""
    target: Array
    """The position (x, y) of the target, in cells, ``[2]`` float32."""
    first_view: Array
    """The frame at the start, ``[30, 40, 3]`` uint8. It is stored because every ``step`` needs it for a possible
    reset."""
    max_steps_in_episode: int
    """The largest number of steps of an episode."""


@struct.dataclass
class MazeState:
    """The state of an episode."""

    position: Array
    """The position (x, y) of the agent, in cells, ``[2]`` float32."""
    heading: Array
    """The direction of the agent, int32: the number of turns to the left from east."""
    time: Array
    """The number of steps in this episode, ``int32``."""


def distances(walls: Array, position: Array, directions: Array) -> Array:
    """Compute the distances to the nearest walls along rays, for each of the two orientations of walls.

    Args:
        walls: the walls as in ``MazeParams``, ``[2, n + 1]``.
        position: the origin (x, y) of the rays, inside the maze, ``[2]``.
        directions: the direction of each ray, a vector of any length, ``[R, 2]``.

    Returns:
        The distances ``[R, 2]`` to the nearest wall along a line of constant x, and of constant y. Their unit is the
        length of the direction. They are infinite where there is no wall.
    """
    lines = jnp.arange(walls.shape[1], dtype=jnp.float32)
    # The distance to each line of each kind along each ray, and the place where the ray meets the line.
    far = (lines - position[:, None]) / directions[:, :, None]
    along = position[::-1, None] + far * directions[:, ::-1, None]
    # These numbers may be infinite or NaN, because a ray may run along a line. Then the comparisons are false.
    inside = (far > 0) & (along >= 0) & (along < walls.shape[1] - 1)
    wall = (walls >> jnp.where(inside, along, 0).astype(jnp.int32)) & 1
    return jnp.min(jnp.where(inside & (wall == 1), far, jnp.inf), axis=-1)


@jax.jit
def render(walls: Array, target: Array, position: Array, heading: Array) -> Array:
    """Render the frame that the agent observes.

    Args:
        walls: the walls as in ``MazeParams``, ``[2, n + 1]``.
        target: the position of the target, ``[2]``.
        position: the position of the agent, ``[2]``.
        heading: the direction of the agent, int32: the number of turns to the left from east.

    Returns:
        The frame, ``[30, 40, 3]`` uint8.
    """
    cells = walls.shape[1] - 1
    ahead = jnp.asarray(_COMPASS)[heading]
    left = jnp.stack([-ahead[1], ahead[0]])
    rays = ahead + jnp.asarray(_SCREEN)[:, None] * left
    to_wall = distances(walls, position, rays)
    depth = jnp.min(to_wall, axis=-1)
    northward = to_wall[:, 0] < to_wall[:, 1]
    met = position + depth[:, None] * rays
    along = jnp.where(northward, met[:, 1], met[:, 0])
    joint = jnp.abs(along - jnp.round(along)) < 0.08
    light = jnp.where(joint, 0.4, 1.0) / (1 + 0.15 * depth)
    colour = jnp.stack([*(40 + 200 * met.T / cells), jnp.where(northward, 220.0, 60.0)], axis=-1)
    colour = jnp.clip(light[:, None] * colour, 0, 255).astype(jnp.uint8)
    # A ray shows the pillar if it passes near enough to the pillar's axis, and before the wall.
    offset = target - position
    passing = (rays @ offset) / jnp.sum(rays**2, axis=-1)
    aside = jnp.sum((offset - passing[:, None] * rays) ** 2, axis=-1)
    pillar = (passing > 0) & (aside < PILLAR**2) & (passing < depth)
    depth = jnp.where(pillar, passing, depth)
    colour = jnp.where(pillar[:, None], jnp.array(_TARGET, jnp.uint8), colour)
    # Walls are as high as cells are wide, and the camera is at half their height.
    solid = jnp.abs(jnp.asarray(_ROWS))[:, None] < 0.5 * _FOCAL / jnp.maximum(depth, 1e-3)
    return jnp.where(solid[..., None], colour, jnp.asarray(_BACKGROUND))


def _within(walls: Array, position: Array, axis: int) -> tuple[Array, Array]:
    """Compute the interval of positions along an axis; it extends beyond the cell where there is no wall."""
    cell = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, walls.shape[1] - 2)
    ends = jax.lax.dynamic_slice(walls[axis], (cell[axis],), (2,))
    closed = (ends >> cell[1 - axis]) & 1 == 1
    at = cell[axis].astype(jnp.float32)
    return jnp.where(closed[0], at + CLEARANCE, at - 1), jnp.where(closed[1], at + 1 - CLEARANCE, at + 2)


@jax.jit
def move(walls: Array, position: Array, by: Array) -> tuple[Array, Array]:
    """Move first along x and then along y, and slide along walls.

    Args:
        walls: the walls as in ``MazeParams``, ``[2, n + 1]``.
        position: the position before the move, ``[2]``.
        by: the intended displacement, ``[2]``; it is less than a cell along each axis.

    Returns:
        The new position ``[2]``, and whether a wall stopped the move.
    """
    wanted = position + by
    x = jnp.clip(wanted[0], *_within(walls, position, 0))
    position = jnp.stack([x, position[1]])
    y = jnp.clip(wanted[1], *_within(walls, position, 1))
    position = jnp.stack([x, y])
    # Behind the end of a wall the interval along x may be smaller than before. The last clip moves the agent into it,
    # which does not count as a collision. A ten-thousandth of a cell is rounding.
    hit = jnp.any((wanted - position) * jnp.sign(by) > 1e-4)
    return jnp.stack([jnp.clip(x, *_within(walls, position, 0)), y]), hit


class Maze(Environment):
    """Mazes of one size.

    Args:
        size: the number of cells along each side, at most 31.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def reset_env(self, key: Key, params: MazeParams) -> tuple[Array, MazeState]:
        del key
        return params.first_view, MazeState(params.start, params.heading, jnp.int32(0))

    def step_env(
        self, key: Key, state: MazeState, action: Array, params: MazeParams
    ) -> tuple[Array, MazeState, Array, Array, dict[Any, Any]]:
        del key
        turn = jnp.array([0, 1, -1], jnp.int32)[action]
        heading = (state.heading + turn) % HEADINGS
        ahead = jnp.where(action == FORWARD, STRIDE, 0.0) * jnp.asarray(_COMPASS)[heading]
        position, hit = move(params.walls, state.position, ahead)
        arrived = jnp.sum((position - params.target) ** 2) < REACH**2
        reward = arrived.astype(jnp.float32) - 0.01 - 0.001 * hit
        view = render(params.walls, params.target, position, heading)
        return view, MazeState(position, heading, state.time + 1), reward, arrived, {}

    def action_space(self, params: MazeParams | None = None) -> Discrete:
        del params
        return Discrete(ACTIONS)

    def observation_space(self, params: MazeParams | None = None) -> Box:
        del params
        return Box(0.0, 255.0, (HEIGHT, WIDTH, 3))


@functools.partial(jax.jit, static_argnames="size")
def layout(key: Key, size: int) -> Array:
    """Draw the walls of a maze.

    The openings are a random spanning tree (Prim's algorithm with random weights), and each of the other walls with
    probability ``LOOPS``.

    Args:
        key: a random key.
        size: the number n of cells along each side, at most 31.

    Returns:
        The walls as in ``MazeParams``, ``[2, n + 1]``.
    """
    key_weights, key_loops = jax.random.split(key)
    # The weights of the walls between cell [i, j] and the next cell along each axis. The last ones are outer walls.
    weights = jax.random.uniform(key_weights, (2, size, size), jnp.float32)
    inner = np.ones((2, size, size), bool)
    inner[0, -1], inner[1, :, -1] = False, False

    def grow(_: int, tree: tuple[Array, Array]) -> tuple[Array, Array]:
        reached, opened = tree
        beyond = jnp.stack([jnp.roll(reached, -1, axis=0), jnp.roll(reached, -1, axis=1)])
        border = jnp.where(inner & (reached != beyond), weights, jnp.inf)
        cheapest = jnp.arange(border.size).reshape(border.shape) == jnp.argmin(border)
        reached = reached | cheapest[0] | cheapest[1]
        reached = reached | jnp.roll(cheapest[0], 1, axis=0) | jnp.roll(cheapest[1], 1, axis=1)
        return reached, opened | cheapest

    first = jnp.zeros((size, size), bool).at[0, 0].set(True)
    _, opened = jax.lax.fori_loop(0, size**2 - 1, grow, (first, jnp.zeros((2, size, size), bool)))
    opened = opened | (inner & jax.random.bernoulli(key_loops, jnp.float32(LOOPS), opened.shape))
    # The rows are lines of constant x and of constant y. The bits of each number are the cells along a line.
    closed = jnp.stack([~opened[0], ~opened[1].T])
    lines = jnp.sum(closed << jnp.arange(size), axis=-1, dtype=jnp.int32)
    return jnp.concatenate([jnp.full((2, 1), 2**size - 1, jnp.int32), lines], axis=1)


def task(walls: Array, start: Array, heading: Array, target: Array, horizon: int) -> MazeParams:
    """Make a task from the parts that ``MazeParams`` describes; ``horizon`` is its largest number of steps."""
    return MazeParams(walls, start, heading, target, render(walls, target, start, heading), horizon)


def _family(size: int, horizon: int) -> EnvFamily:
    env, horizon = Maze(size), positive_int("horizon", horizon)

    def in_maze(key_maze: Key, key: Key) -> MazeParams:
        """Draw a task whose start and target are the centres of two different cells."""
        key_start, key_target, key_heading = jax.random.split(key, 3)
        start = jax.random.randint(key_start, (), 0, size**2, jnp.int32)
        target = (start + jax.random.randint(key_target, (), 1, size**2, jnp.int32)) % size**2
        heading = jax.random.randint(key_heading, (), 0, HEADINGS, jnp.int32)
        start, target = (jnp.stack([cell // size, cell % size]).astype(jnp.float32) + 0.5 for cell in (start, target))
        return task(layout(key_maze, size), start, heading, target, horizon)

    def sample(key: Key) -> MazeParams:
        key_which, key = jax.random.split(key)
        which = jax.random.randint(key_which, (), 0, TRAINING_MAZES, jnp.int32)
        return in_maze(jax.random.fold_in(jax.random.key(size), which), key)

    def sample_heldout(key: Key) -> MazeParams:
        return in_maze(*jax.random.split(key))

    def sample_validation(key: Key) -> MazeParams:
        # The maze differs from the held-out one of the same key.
        return sample_heldout(jax.random.fold_in(key, 1))

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample_heldout, sample_validation),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
    )


def tiny(horizon: int = 50) -> EnvFamily:
    """Make a family of mazes of 3 by 3 cells.

    Training tasks have 1000 fixed mazes; held-out and validation tasks have newly drawn mazes. Start and target are
    drawn for each task. There are only 431 different mazes of this size, and the 1000 training mazes comprise 351 of
    them. Nine in ten held-out tasks therefore have a maze of training, with another start or target.

    Args:
        horizon: The largest number of steps of an episode.

    Raises:
        ValueError: if ``horizon`` is not a positive whole number.
    """
    return _family(TINY, horizon)


def small(horizon: int = 250) -> EnvFamily:
    """Make a family of mazes of 5 by 5 cells.

    Training tasks have 1000 fixed mazes; held-out and validation tasks have newly drawn mazes. Start and target are
    drawn for each task.

    Args:
        horizon: The largest number of steps of an episode, 250 as published.

    Raises:
        ValueError: if ``horizon`` is not a positive whole number.
    """
    return _family(SMALL, horizon)


def large(horizon: int = 1000) -> EnvFamily:
    """Make a family of mazes of 9 by 9 cells.

    Training tasks have 1000 fixed mazes; held-out and validation tasks have newly drawn mazes. Start and target are
    drawn for each task.

    Args:
        horizon: The largest number of steps of an episode, 1000 as published.

    Raises:
        ValueError: if ``horizon`` is not a positive whole number.
    """
    return _family(LARGE, horizon)
