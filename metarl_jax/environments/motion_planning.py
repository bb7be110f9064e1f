"""Motion planning on hidden maps: a point robot reaches a goal among walls and boxes that it does not know.

A task is a map of the unit square, and a goal. Walls from the lower to the upper edge divide the square into rooms.
Each wall has one door at a random height, and each room has one box, which leaves a way around it. The goal is in the
last room, and episodes start at the middle of the left edge, in the first room. The goal can be reached on every map.

An action consists of two numbers in [-1, 1] and moves the robot by this multiple of ``REACH`` along x and y. A robot
that touches an obstacle slides along it with the rest of the move. The observation has no map: it consists of the
position, the distance to the goal, the free distances in eight directions up to the range of the sensors, and the time,
all scaled to about [-1, 1]. The map is the same in all episodes of a trial.

The reward of a step is the decrease of the straight distance to the goal, minus 1 / horizon, plus 1 if the robot
arrives within ``ARRIVAL`` of the goal, which ends the episode.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import boolean, positive_int, real, whole
from metarl_jax.environments.base import Environment, random_signs
from metarl_jax.environments.drawing import SIZE, Frame, blank, of_episode
from metarl_jax.types import Array, Box, EnvFamily, Key, Privileged, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image

REACH = 1 / 12
"""The largest move of a step along an axis."""
ARRIVAL = 0.08
"""The distance from the goal at which the robot has arrived."""
START = (0.03, 0.5)
"""The position at which episodes start."""
THICKNESS = 0.05
"""The thickness of a wall."""
CLEARANCE = 0.07
"""The smallest distance between a box and any wall or edge of the square."""
DIRECTIONS = tuple((float(np.cos(angle)), float(np.sin(angle))) for angle in np.arange(8) * np.pi / 4)
"""The directions of the sensors."""
_EDGES = ((-1.0, -1.0, 0.0, 2.0), (1.0, -1.0, 2.0, 2.0), (-1.0, -1.0, 2.0, 0.0), (-1.0, 1.0, 2.0, 2.0))
"""The outside of the square, as boxes."""
_GAP = 1e-3
"""The share of a move that the robot keeps from an obstacle, so that rounding never puts it inside."""
_CANDIDATES = 8
CELLS = 24
"""The number of cells along each side of the grid from which training rewards are computed."""
NEIGHBOURS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0))
"""The differences between the indices of a cell and those of its eight neighbours."""


@struct.dataclass
class Map:
    """A task: obstacles and a goal."""

    boxes: Array
    """The obstacles: the lowest and the highest corner (x0, y0, x1, y1) of each box, ``[B, 4]``. The first four are the
    outside of the square."""
    goal: Array
    """The position (x, y) of the goal, ``[2]``."""
    max_steps_in_episode: int
    """The number of steps of an episode."""


@struct.dataclass
class RobotState:
    """The state of an episode."""

    position: Array
    """The position (x, y) of the robot, ``[2]``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


def first_contact(start: Array, move: Array, boxes: Array) -> tuple[Array, Array]:
    """Return where a straight move meets the first box.

    Args:
        start: where the move starts, outside of all boxes, ``[2]``.
        move: the move, ``[2]``.
        boxes: the boxes, ``[B, 4]``.

    Returns:
        The share of the move before the contact, 1 if there is none; and the axis (0 or 1) that the side of this box is
        perpendicular to.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    still = jnp.abs(move) < 1e-9
    rate = 1 / jnp.where(still, 1.0, move)
    one, other = (low - start) * rate, (high - start) * rate
    inside = jnp.logical_and(low < start, start < high)
    enter = jnp.where(still, jnp.where(inside, -jnp.inf, jnp.inf), jnp.minimum(one, other))
    leave = jnp.where(still, jnp.where(inside, jnp.inf, -jnp.inf), jnp.maximum(one, other))
    begin, end = jnp.max(enter, axis=1), jnp.min(leave, axis=1)
    meets = (begin < end) & (begin >= -_GAP) & (begin < 1)
    share = jnp.where(meets, jnp.maximum(begin, 0.0), 1.0)
    first = jnp.argmin(share)
    return share[first], jnp.argmax(enter[first])


def moved(start: Array, move: Array, boxes: Array) -> Array:
    """Return the position after a move that slides along the first obstacle, and ends at the second one.

    Args:
        start: where the move starts, outside of all boxes, ``[2]``.
        move: the move, ``[2]``.
        boxes: the boxes, ``[B, 4]``.
    """
    share, axis = first_contact(start, move, boxes)
    there = start + move * jnp.where(share < 1, jnp.maximum(share - _GAP, 0.0), 1.0)
    rest = jnp.where(jnp.arange(2) == axis, 0.0, (1 - share) * move)
    share, _ = first_contact(there, rest, boxes)
    return there + rest * jnp.where(share < 1, jnp.maximum(share - _GAP, 0.0), 1.0)


def centres(size: int) -> Array:
    """Return the centres (x, y) of the cells of a grid, ``[size, size, 2]``; the first index is that of x."""
    line = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    return jnp.stack(jnp.meshgrid(line, line, indexing="ij"), axis=-1)


def free_cells(boxes: Array, size: int) -> Array:
    """Return which cells of a grid have their centres outside of all boxes, ``[size, size]`` bool.

    Args:
        boxes: the boxes, ``[B, 4]``.
        size: the number of cells along each side.
    """
    places = centres(size)[:, :, None]
    return jnp.logical_not(jnp.any(jnp.all((places > boxes[:, :2]) & (places < boxes[:, 2:]), axis=-1), axis=-1))


def _shifted(x: Array, dx: int, dy: int, outside: Any) -> Array:
    """Return the values of the neighbours at (dx, dy) of all cells; ``outside`` beyond the grid."""
    size = x.shape[0]
    padded = jnp.pad(x, 1, constant_values=outside)
    return padded[1 + dx : 1 + dx + size, 1 + dy : 1 + dy + size]


def _passages(free: Array) -> list[Array]:
    """Return, for each neighbour, whether a move leads there from each cell, ``[G, G]`` bool."""
    found = []
    for dx, dy in NEIGHBOURS:
        possible = free & _shifted(free, dx, dy, False)
        if dx and dy:
            possible &= _shifted(free, dx, 0, False) & _shifted(free, 0, dy, False)
        found.append(possible)
    return found


def distances(free: Array, goals: Array) -> Array:
    """Return the number of moves from each cell to the nearest goal, by value iteration.

    A move leads to one of the eight neighbours. A diagonal move is possible if the two cells next to both of its cells
    are free.

    Args:
        free: the cells that are free, ``[G, G]`` bool.
        goals: the cells that are goals, ``[G, G]`` bool.

    Returns:
        The numbers of moves, ``[G, G]`` float32; infinity where no path leads to a goal.
    """
    start = jnp.where(goals & free, 0.0, jnp.inf).astype(jnp.float32)
    # The cost of a move does not change in the loop, which would compute it again in each round.
    costs = [jnp.where(possible, 1.0, jnp.inf) for possible in _passages(free)]

    def better(state: tuple[Array, Array]) -> tuple[Array, Array]:
        distance, _ = state
        after = distance
        for cost, (dx, dy) in zip(costs, NEIGHBOURS, strict=True):
            after = jnp.minimum(after, cost + _shifted(distance, dx, dy, jnp.inf))
        return after, jnp.any(after < distance)

    return jax.lax.while_loop(lambda state: state[1], better, (start, jnp.bool_(True)))[0]


def cell_of(place: Array, size: int) -> Array:
    """Return the cell of a grid that contains a place (x, y), ``[2]`` int32."""
    return jnp.clip(jnp.floor(place * size), 0, size - 1).astype(jnp.int32)


def _path_lengths(task: Map, places: Array) -> Array:
    """Return the lengths of shortest paths to the goal from places ``[T, 2]``, up to the width of a cell."""
    free = free_cells(task.boxes, CELLS)
    x, y = cell_of(task.goal, CELLS)
    goals = jnp.zeros((CELLS, CELLS), bool).at[x, y].set(True)
    moves = jnp.pad(distances(jnp.logical_or(free, goals), goals), 1, constant_values=jnp.inf)
    neighbours = jnp.array(NEIGHBOURS, jnp.int32)

    def left(place: Array) -> Array:
        cell = cell_of(place, CELLS)
        here = moves[cell[0] + 1, cell[1] + 1]
        # A robot next to an obstacle may be in a cell whose centre is not free: the best neighbour counts whose centre
        # it can see, since others may be on the other side of a wall.
        around = cell + neighbours
        to = (around + 0.5) / CELLS - place
        visible = jax.vmap(lambda move: first_contact(place, move, task.boxes)[0])(to) >= 1
        near = jnp.min(jnp.where(visible, moves[around[:, 0] + 1, around[:, 1] + 1], jnp.inf)) + 1
        return jnp.where(jnp.isinf(here), near, here)

    return jnp.nan_to_num(jax.vmap(left)(places), posinf=0.0) / CELLS


class HiddenMap(Environment):
    """A point robot on a map that it does not observe.

    Args:
        sensor_range: the largest distance that the sensors measure.
    """

    caption = "From above. Grey: obstacles; green: the goal; blue: the path in this episode; light blue: earlier paths."

    def __init__(self, sensor_range: float) -> None:
        self.sensor_range = sensor_range

    def _observe(self, state: RobotState, params: Map) -> Array:
        rays = self.sensor_range * jnp.array(DIRECTIONS, jnp.float32)
        free = jax.vmap(lambda ray: first_contact(state.position, ray, params.boxes)[0])(rays)
        distance = jnp.linalg.norm(state.position - params.goal)
        progress = 2 * state.time.astype(jnp.float32) / params.max_steps_in_episode - 1
        others = jnp.stack([2 * distance - 1, progress])
        return jnp.concatenate([2 * state.position - 1, others, 2 * free - 1]).astype(jnp.float32)

    def position(self, observation: Array) -> Array:
        """Return the position (x, y) that an observation ``[..., 12]`` shows."""
        return (observation[..., :2] + 1) / 2

    def distance(self, observation: Array) -> Array:
        """Return the distance to the goal that an observation ``[..., 12]`` shows."""
        return (observation[..., 2] + 1) / 2

    def free(self, observation: Array) -> Array:
        """Return the free shares of the sensors' range that an observation ``[..., 12]`` shows, ``[..., 8]``."""
        return (observation[..., 4:] + 1) / 2

    def reset_env(self, key: Key, params: Map) -> tuple[Array, RobotState]:
        del key
        state = RobotState(jnp.array(START, jnp.float32), jnp.int32(0))
        return self._observe(state, params), state

    def step_env(
        self, key: Key, state: RobotState, action: Array, params: Map
    ) -> tuple[Array, RobotState, Array, Array, dict[Any, Any]]:
        del key
        position = moved(state.position, REACH * jnp.clip(action, -1.0, 1.0), params.boxes)
        before, after = (jnp.linalg.norm(place - params.goal) for place in (state.position, position))
        arrived = after <= ARRIVAL
        reward = before - after - 1 / jnp.float32(params.max_steps_in_episode) + arrived
        state = RobotState(position, state.time + 1)
        return self._observe(state, params), state, reward, arrived, {}

    def action_space(self, params: Map | None = None) -> Box:
        del params
        return Box(-1.0, 1.0, (2,))

    def observation_space(self, params: Map | None = None) -> Box:
        del params
        return Box(-jnp.inf, jnp.inf, (4 + len(DIRECTIONS),))

    def draw(self, frames: Sequence[Frame], task: Map) -> Image:
        """Draw the map from above (``drawing.Drawable``) with the paths of the trial."""
        picture, canvas = blank()

        def pixel(place: np.ndarray) -> tuple[float, float]:
            return float(place[0]) * SIZE, (1 - float(place[1])) * SIZE

        for box in np.asarray(task.boxes)[len(_EDGES) :]:
            (left, bottom), (right, top) = pixel(box[:2]), pixel(box[2:])
            canvas.rectangle((left, top, right, bottom), fill="grey")
        x, y = pixel(np.asarray(task.goal))
        canvas.ellipse((x - ARRIVAL * SIZE, y - ARRIVAL * SIZE, x + ARRIVAL * SIZE, y + ARRIVAL * SIZE), fill="green")
        now = len(of_episode(frames))
        for shown, colour in ((frames[:-now], "lightblue"), (frames[-now:], "royalblue")):
            for a, b in itertools.pairwise(shown):
                if a.episode == b.episode:
                    line = [pixel((frame.observation[:2] + 1) / 2) for frame in (a, b)]
                    canvas.line(line, fill=colour, width=4)
        x, y = pixel((frames[-1].observation[:2] + 1) / 2)
        canvas.ellipse((x - 8, y - 8, x + 8, y + 8), fill="navy")
        return picture


def rooms(
    horizon: int = 30,
    walls: int = 2,
    *,
    narrowest_door: float = 0.14,
    widest_door: float = 0.2,
    sensor_range: float = 0.25,
    shifted: bool = False,
) -> EnvFamily:
    """Make a family of maps of rooms that are connected by doors.

    The middle of a door of a training map is between 0.2 and 0.8. If ``shifted`` is true, doors of held-out maps are
    nearer to the ends of their walls, and half as wide.

    Training can use progress on the shortest path instead of progress on the straight line (``EnvFamily.privileged``).

    Args:
        horizon: The largest number of steps of an episode.
        walls: The number of walls, 1 or 2; there is one room more.
        narrowest_door: The smallest width of a door of training maps.
        widest_door: The largest width of a door of training maps.
        sensor_range: The largest distance that the sensors measure.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.motion_planning.rooms()
        >>> family.horizon, family.action_space.shape
        (30, (2,))
    """
    horizon, shifted = positive_int("horizon", horizon), boolean("shifted", shifted)
    # The rooms between three walls would be too narrow for boxes.
    walls = whole(at_least=1, at_most=2)("walls", walls)
    narrowest_door = real(at_least=0.05, at_most=0.3)("narrowest_door", narrowest_door)
    widest_door = real(at_least=narrowest_door, at_most=0.3)("widest_door", widest_door)
    env = HiddenMap(real(above=0, at_most=2)("sensor_range", sensor_range))

    def sampler(outside: bool) -> Any:
        def sample(key: Key) -> Map:
            keys = jax.random.split(key, 6)
            x = jnp.arange(1, walls + 1, dtype=jnp.float32) / (walls + 1) + jax.random.uniform(
                keys[0], (walls,), jnp.float32, -0.04, 0.04
            )
            width = jax.random.uniform(keys[1], (walls,), jnp.float32, narrowest_door, widest_door)
            if outside:
                width = width / 2
                from_middle = jax.random.uniform(keys[2], (walls,), jnp.float32, 0.3, 0.5 - widest_door / 4)
                door = 0.5 + random_signs(keys[5], (walls,)) * from_middle
            else:
                door = jax.random.uniform(keys[2], (walls,), jnp.float32, 0.2, 0.8)
            left, right = x - THICKNESS / 2, x + THICKNESS / 2
            below = jnp.stack([left, jnp.full_like(x, -0.5), right, door - width / 2], axis=1)
            above = jnp.stack([left, door + width / 2, right, jnp.full_like(x, 1.5)], axis=1)
            # The box of a room, in the rectangle that is ``CLEARANCE`` from its walls.
            low = jnp.concatenate([jnp.zeros(1, jnp.float32), right]) + CLEARANCE
            high = jnp.concatenate([left, jnp.ones(1, jnp.float32)]) - CLEARANCE
            share = jax.random.uniform(keys[3], (4, walls + 1), jnp.float32)
            wide, tall = (high - low) * (0.4 + 0.6 * share[0]), 0.1 + 0.3 * share[1]
            x0 = low + (high - low - wide) * share[2]
            y0 = CLEARANCE + (1 - 2 * CLEARANCE - tall) * share[3]
            boxes = jnp.stack([x0, y0, x0 + wide, y0 + tall], axis=1)
            # The goal is the first of some places in the last room that are not in its box; the last one never is.
            places = jax.random.uniform(keys[4], (_CANDIDATES, 2), jnp.float32)
            column = right[-1] + 0.02 + (0.96 - right[-1]) * places[:, 0]
            column = column.at[-1].set(0.98)
            places = jnp.stack([column, 0.02 + 0.96 * places[:, 1]], axis=1)
            box = boxes[-1]
            clear = jnp.any((places < box[:2] - 0.01) | (places > box[2:] + 0.01), axis=1)
            goal = places[jnp.argmax(clear)]
            edges = jnp.array(_EDGES, jnp.float32)
            return Map(jnp.concatenate([edges, below, above, boxes]).astype(jnp.float32), goal, horizon)

        return sample

    def progress_on_paths(task: Map, t: Transition, discount: float) -> Array:
        """Compute rewards from the lengths of shortest paths instead of straight distances."""
        del discount
        places = env.position(jnp.concatenate([t.inputs.obs, t.final_obs]))
        before, after = jnp.split(_path_lengths(task, places), 2)
        return before - after - 1 / horizon + t.terminated

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sampler(False), sampler(shifted)),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        privileged=Privileged(training_reward=progress_on_paths),
        success=_arrives,
    )


def _arrives(task: Map, step: Transition) -> Array:
    """Return whether a step ends at the goal. Only arrival terminates an episode."""
    del task
    return step.terminated
