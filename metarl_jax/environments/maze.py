"""Mazes seen from within: what must be remembered of the first episode is where the target stands.

Visual navigation of Duan et al. (2016, arXiv 1611.02779, section 3.3), in the form of Mishra et al. (2018, arXiv
1707.03141): frames of 40x30 pixels in colour; steps forward, turns to the left and to the right; 1 for reaching the
target, which ends the episode, -0.01 for every step, -0.001 for one into a wall; 250 steps, in large mazes 1000; 1000
mazes to learn in, and others to be tested in. A task is a maze with a target and a start; episodes of a trial differ in
nothing but what is done in them.

Published of the geometry is only how long it takes to act at random: 188.6 steps in small mazes (+-3.5), 420.2 in
large ones, where episodes that do not arrive presumably count as their limit. Chosen here are therefore: 5 by 5 square
cells with walls between them; a random spanning tree of openings, and three in ten of the other walls taken away; turns
of 30 degrees; and steps of 0.6 of a cell, with which acting at random takes 189.8 steps (+-1.2). Large mazes have 9 by
9 such cells, where it takes 746 (+-11). No mazes larger than the small ones bring it down to 420: in the small ones it
takes 455 where 1000 are allowed. Steps in small mazes can be compared with published ones, with care; those in large
ones cannot. Tiny mazes of 3 by 3 cells are no paper's: they are small enough for a CPU to learn in.

Frames are rendered by casting a ray for each column of pixels: all lines between cells that a ray crosses are looked up
at once, and the nearest wall is what is seen. Walls become redder eastwards and greener northwards, those that run
north are bluer, and the joints between them are dark. The target is a white pillar. Frames are ``uint8``: most of what
a learner stores of a trial is frames, and these take a quarter of the memory of ``float32``.
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
"""As published."""
FORWARD, LEFT, RIGHT = range(3)
ACTIONS = 3
HEIGHT, WIDTH = 30, 40
"""Pixels of a frame."""

TINY, SMALL, LARGE = 3, 5, 9
"""Cells along each side."""
LOOPS = 0.3
"""Share of the walls that a spanning tree leaves standing which are taken away after all."""
HEADINGS = 12
"""Directions, of which a turn leads to the next."""
STRIDE = 0.6
"""Of a step forward, in cells."""
CLEARANCE = 0.2
"""How near to a wall one comes, in cells."""
REACH = 0.5
"""How near one must come to the target, in cells."""
PILLAR = 0.15
"""Radius of the target that is seen, in cells."""

_COMPASS = np.array([(math.cos(a), math.sin(a)) for a in 2 * math.pi * np.arange(HEADINGS) / HEADINGS], np.float32)
# Where each column meets a screen at distance 1, 90 degrees wide, from left to right; pixels are square.
_SCREEN = np.linspace(1, -1, 2 * WIDTH + 1, dtype=np.float32)[1::2]
_FOCAL = WIDTH / 2
# Distance of each row from the horizon in pixels.
_ROWS = np.arange(HEIGHT, dtype=np.float32) + 0.5 - HEIGHT / 2
_SKY, _GROUND, _TARGET = (60, 70, 110), (90, 80, 70), (255, 255, 255)
_BACKGROUND = np.where(_ROWS[:, None, None] < 0, _SKY, _GROUND).astype(np.uint8)


@struct.dataclass
class MazeParams:
    """A task."""

    walls: Array
    """``[2, n + 1]`` int32, of n x n cells: bit j of ``walls[0, i]`` is set where a wall runs along x = i, between
    y = j and j + 1; of ``walls[1, i]``, where one runs along y = i, between x = j and j + 1."""
    start: Array
    """``[2]`` float32: where episodes begin."""
    heading: Array
    """In what direction, int32: that many turns to the left from east."""
    target: Array
    """``[2]`` float32."""
    first_view: Array
    """``[30, 40, 3]`` uint8: the frame at the start. Kept because ``step`` needs it whenever an episode might end."""
    max_steps_in_episode: int


@struct.dataclass
class MazeState:
    position: Array
    """``[2]`` float32, in cells."""
    heading: Array
    """As ``MazeParams.heading``."""
    time: Array
    """Steps in this episode, ``int32``."""


def distances(walls: Array, position: Array, directions: Array) -> Array:
    """How far away the nearest walls are, in each of their two kinds.

    Args:
        walls: ``[2, n + 1]``, as in ``MazeParams``.
        position: ``[2]``, inside the maze.
        directions: ``[R, 2]``, of any length.

    Returns:
        ``[R, 2]``: in lengths of the direction, to the nearest wall along a line of constant x, and of constant y;
        infinite where there is none.
    """
    lines = jnp.arange(walls.shape[1], dtype=jnp.float32)
    # Of each ray, kind and line: how far it is, and where on the line it is met.
    far = (lines - position[:, None]) / directions[:, :, None]
    along = position[::-1, None] + far * directions[:, ::-1, None]
    # Compared as numbers that may be infinite, or not a number: a ray may run along a line.
    inside = (far > 0) & (along >= 0) & (along < walls.shape[1] - 1)
    wall = (walls >> jnp.where(inside, along, 0).astype(jnp.int32)) & 1
    return jnp.min(jnp.where(inside & (wall == 1), far, jnp.inf), axis=-1)


@jax.jit
def render(walls: Array, target: Array, position: Array, heading: Array) -> Array:
    """What is seen.

    Args:
        walls: ``[2, n + 1]``, as in ``MazeParams``.
        target: ``[2]``.
        position: ``[2]``.
        heading: int32.

    Returns:
        ``[30, 40, 3]`` uint8.
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
    # The pillar is where a ray passes its axis, if it does so near enough and before the wall.
    offset = target - position
    passing = (rays @ offset) / jnp.sum(rays**2, axis=-1)
    aside = jnp.sum((offset - passing[:, None] * rays) ** 2, axis=-1)
    pillar = (passing > 0) & (aside < PILLAR**2) & (passing < depth)
    depth = jnp.where(pillar, passing, depth)
    colour = jnp.where(pillar[:, None], jnp.array(_TARGET, jnp.uint8), colour)
    # Eyes are at half the height of walls, which are as high as cells are wide.
    solid = jnp.abs(jnp.asarray(_ROWS))[:, None] < 0.5 * _FOCAL / jnp.maximum(depth, 1e-3)
    return jnp.where(solid[..., None], colour, jnp.asarray(_BACKGROUND))


def _within(walls: Array, position: Array, axis: int) -> tuple[Array, Array]:
    """How far one may go along an axis, at both ends of the cell; beyond the cell where there is no wall."""
    cell = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, walls.shape[1] - 2)
    ends = jax.lax.dynamic_slice(walls[axis], (cell[axis],), (2,))
    closed = (ends >> cell[1 - axis]) & 1 == 1
    at = cell[axis].astype(jnp.float32)
    return jnp.where(closed[0], at + CLEARANCE, at - 1), jnp.where(closed[1], at + 1 - CLEARANCE, at + 2)


@jax.jit
def move(walls: Array, position: Array, by: Array) -> tuple[Array, Array]:
    """Go, first along x and then along y, and slide along walls.

    Args:
        walls: ``[2, n + 1]``, as in ``MazeParams``.
        position: ``[2]``.
        by: ``[2]``, less than a cell along each axis.

    Returns:
        The new position, and whether a wall was in the way.
    """
    wanted = position + by
    x = jnp.clip(wanted[0], *_within(walls, position, 0))
    position = jnp.stack([x, position[1]])
    y = jnp.clip(wanted[1], *_within(walls, position, 1))
    position = jnp.stack([x, y])
    # Behind the end of a wall the way may be narrower than it was before: one is pushed clear, which is no collision.
    # A ten-thousandth of a cell is rounding.
    hit = jnp.any((wanted - position) * jnp.sign(by) > 1e-4)
    return jnp.stack([jnp.clip(x, *_within(walls, position, 0)), y]), hit


class Maze(Environment):
    """The mazes of one size.

    Args:
        size: cells along each side, at most 31.
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
    """A maze: a random spanning tree of openings (Prim's, with random weights), and ``LOOPS`` more.

    Args:
        key: random key.
        size: cells n along each side, at most 31.

    Returns:
        ``walls [2, n + 1]``, as in ``MazeParams``.
    """
    key_weights, key_loops = jax.random.split(key)
    # Of the walls between cell [i, j] and the next along each axis; the last is the outer wall.
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
    # Lines of constant x, then of constant y; along each, bits.
    closed = jnp.stack([~opened[0], ~opened[1].T])
    lines = jnp.sum(closed << jnp.arange(size), axis=-1, dtype=jnp.int32)
    return jnp.concatenate([jnp.full((2, 1), 2**size - 1, jnp.int32), lines], axis=1)


def task(walls: Array, start: Array, heading: Array, target: Array, horizon: int) -> MazeParams:
    """A task of the parts that ``MazeParams`` describes."""
    return MazeParams(walls, start, heading, target, render(walls, target, start, heading), horizon)


def _family(size: int, horizon: int) -> EnvFamily:
    env, horizon = Maze(size), positive_int("horizon", horizon)

    def in_maze(key_maze: Key, key: Key) -> MazeParams:
        """With start and target in the middle of two different cells."""
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
        # Another maze than the held-out one of the same key.
        return sample_heldout(jax.random.fold_in(key, 1))

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample_heldout, sample_validation),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
    )


def tiny(horizon: int = 50) -> EnvFamily:
    """3 by 3 cells. Training tasks are of 1000 mazes, held-out and validation tasks of mazes drawn anew.

    Start and target are drawn for each task. There are only 431 mazes of this size, and the 1000 are 351 of them: nine
    held-out tasks in ten are of a maze that is also trained in, with another start or target.

    Args:
        horizon: steps of an episode.

    Raises:
        ValueError: for a horizon that is not a positive whole number.
    """
    return _family(TINY, horizon)


def small(horizon: int = 250) -> EnvFamily:
    """5 by 5 cells. Training tasks are of 1000 mazes, held-out and validation tasks of any others.

    Start and target are drawn for each task.

    Args:
        horizon: steps of an episode, 250 as published.

    Raises:
        ValueError: for a horizon that is not a positive whole number.
    """
    return _family(SMALL, horizon)


def large(horizon: int = 1000) -> EnvFamily:
    """9 by 9 cells. Training tasks are of 1000 mazes, held-out and validation tasks of any others.

    Start and target are drawn for each task.

    Args:
        horizon: steps of an episode, 1000 as published.

    Raises:
        ValueError: for a horizon that is not a positive whole number.
    """
    return _family(LARGE, horizon)
