"""What Meta-World's environments ask for, a skill at a time: where tasks put things, what is paid (version 2), and what
counts as success, each to rounding what its own program (3.0) says.

Rewards are functions of the moment, of how the gripper is told to close, and of how the episode began; nothing else of
the past enters. One thing of the official program is kept that it may not have meant: where picking and sweeping
compare the object's distance from the gripper's pads with that from the pads as they were at the start, both are the
pads as they are now.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from metarl_jax.types import Array, Transition

Triple: TypeAlias = tuple[float, float, float]

FULL = 10.0
"""The most that a step can pay."""


class Scene(NamedTuple):
    """What is measured of a moment, in metres and radians."""

    hand: Array
    """``[3]``."""
    claws: Array
    """``[2, 3]``."""
    pads: Array
    """``[2, 3]``: left and right."""
    fingers: Array
    """``[2, 3]``: the tips."""
    object: Array
    """``[3]``: what there is to handle."""
    rotation: Array
    """``[3, 3]``: of the object. Where Meta-World shows MuJoCo's quaternion as it is, that and zeros."""
    joint: Array
    """What a door or the like hangs on; nothing of an object that is free."""

    @property
    def tip(self) -> Array:
        """``[3]``: between the tips of the fingers."""
        return (self.fingers[0] + self.fingers[1]) / 2

    @property
    def opening(self) -> Array:
        """Of the gripper: 1 if its claws are 0.1 apart or more."""
        return jnp.clip(jnp.linalg.norm(self.claws[0] - self.claws[1]) / 0.1, 0.0, 1.0)


class Start(NamedTuple):
    """What rewards compare with."""

    object: Array
    """``[3]``: where the object is at first, or stands."""
    goal: Array
    """``[3]``."""
    settled: Scene
    """When the hand has come to where it starts, before anything is put where the task has it."""


class Laid(NamedTuple):
    """Where a task has things, in metres."""

    object: np.ndarray
    """``[3]``: see ``Start``."""
    place: np.ndarray
    """``[3]``: of the body that tasks move; zeros without one."""
    goal: np.ndarray
    """``[3]``."""


class Skill(NamedTuple):
    """What is to be done."""

    name: str
    file: str
    """Of Meta-World's assets."""
    low: tuple[float, ...]
    """Of what is drawn for a task, ``[3]`` or ``[6]`` ..."""
    high: tuple[float, ...]
    lay: Callable[[np.ndarray, float], Laid]
    """``(what is drawn, the height that the object has settled at) ->`` the task."""
    reward: Callable[[Scene, Array, Start], Array]
    """``(scene, effort, start) -> scalar``, where ``effort`` tells the gripper to open (-1) or close (1)."""
    reached: Callable[[Array, Transition], Array]
    """``(goal, one step) ->`` whether the step is a success."""
    far: Callable[[np.ndarray], bool] = lambda drawn: True
    """... again until this holds."""
    seen: tuple[Literal["body", "geom", "site"], str] = ("body", "obj")
    """Where the object is ..."""
    beside: Triple = (0.0, 0.0, 0.0)
    """... and what is added."""
    turned: tuple[Literal["body", "geom", "site"], str] | None = ("geom", "objGeom")
    """Whose orientation is shown: of a body as MuJoCo has it, ``(w, x, y, z)``, else ``(x, y, z, w)``; None: zeros."""
    hand: Triple = (0.0, 0.6, 0.2)
    """Where the hand is pulled before an episode begins."""
    lowest: float = 0.05
    """How low it can be pulled."""
    moves: str | None = None
    """The body that tasks move."""
    free: bool = True
    """Whether the object is put where the task has it; otherwise it is part of what is moved ..."""
    joint: float | None = None
    """... and its joint is brought to this; None: left as it is."""
    begun_afresh: bool = True
    """Whether what is seen first is what is; otherwise, what was a physics step ago."""


# ---------------------------------------------------------------------------------------------------------------
# What rewards are made of.


def _long(x: Array) -> Array:
    return 1 / ((3 * x) ** 2 + 1)


def _bell(x: Array) -> Array:
    return 0.1**x**2


def _near(x: Array, low: float, high: float, margin: Array | float, tail: Callable[[Array], Array] = _long) -> Array:
    """1 from ``low`` to ``high``; outside, 0.1 at a distance of ``margin``."""
    beyond = jnp.where(x < low, low - x, x - high)
    inside = jnp.logical_and(low <= x, x <= high)
    outside = jnp.where(margin == 0, 0.0, tail(beyond / jnp.where(margin == 0, 1.0, margin)))
    return jnp.where(inside, 1.0, outside)


def _both(a: Array, b: Array) -> Array:
    """Hamacher's product of two numbers from 0 to 1."""
    union = a + b - a * b
    return jnp.where(union > 0, a * b / jnp.where(union > 0, union, 1.0), 0.0)


def _distance(a: Array, b: Array) -> Array:
    return jnp.linalg.norm(a - b)


def _around(scene: Scene, start: Start, radius: float, reach: float) -> Array:
    """``[2]``: how well the object is between the pads, each at most ``reach`` from its middle."""
    pads = scene.pads[:, 1]
    margins = jnp.abs(jnp.abs(pads - start.object[1]) - reach)
    return _near(jnp.abs(pads - scene.object[1]), radius, reach, margins)


def _beside(scene: Scene, radius: float, reach: float) -> Array:
    """``[2]``: the same, but a pad on the wrong side is farther away; margins are of how far the pads are now."""
    distances = (scene.pads[:, 1] - scene.object[1]) * jnp.array([1, -1])
    return _near(distances, radius, reach, jnp.abs(jnp.abs(distances) - 0.05))


def _caged(sides: Array, scene: Scene, start: Start, reach: float) -> Array:
    """How well the object is between the pads, ``sides [2]``, and, across, at most ``reach`` from the tip."""
    across = jnp.array([0, 2])
    margin = _distance(start.object[across], start.settled.tip[across]) - reach
    return _both(_both(*sides), _near(_distance(scene.tip[across], scene.object[across]), 0.0, reach, margin))


def _held(caged: Array, effort: Array) -> Array:
    return _both(caged, jnp.where(caged > 0.97, jnp.maximum(effort, 0), 0.0))


def _grasp(sides: Array, scene: Scene, effort: Array, start: Start) -> Array:
    """How well the object is held."""
    caged = _caged(sides, scene, start, 0.005)
    return (_held(caged, effort) + caged) / 2


def _at_hand(scene: Scene, reach: float) -> Array:
    return jnp.logical_and(_distance(scene.object, scene.tip) < reach, scene.opening > 0)


def _carried(scene: Scene, start: Start, reach: float) -> Array:
    return jnp.logical_and(_at_hand(scene, reach), scene.object[2] - 0.01 > start.object[2])


# ---------------------------------------------------------------------------------------------------------------
# Rewards.


def _reach_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    margin = _distance(jnp.asarray(REACH.hand), start.goal)
    return FULL * _near(_distance(scene.tip, start.goal), 0.0, 0.05, margin)


def _push_reward(scene: Scene, effort: Array, start: Start) -> Array:
    left = _distance(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.05, _distance(start.object, start.goal))
    reward = 2 * _grasp(_around(scene, start, 0.015, 0.05), scene, effort, start)
    reward = jnp.where(_at_hand(scene, 0.02), 2 * reward + 1 + 5 * in_place, reward)
    return jnp.where(left < 0.05, FULL, reward)


def _pick_place_reward(scene: Scene, effort: Array, start: Start) -> Array:
    left = _distance(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.05, _distance(start.object, start.goal))
    reward = _both(_grasp(_beside(scene, 0.015, 0.05), scene, effort, start), in_place)
    reward = jnp.where(_carried(scene, start, 0.02), reward + 1 + 5 * in_place, reward)
    return jnp.where(left < 0.05, FULL, reward)


def _door_open_reward(scene: Scene, effort: Array, start: Start) -> Array:
    # Away from the handle, the hand is to stay above a funnel around it.
    beside = scene.object - jnp.array([0.05, 0.0, 0.0])
    outside = jnp.linalg.norm(scene.hand[:2] - beside[:2]) - 0.12
    floor = jnp.where(outside > 0, 0.04 * jnp.log(jnp.where(outside > 0, outside, 1.0)) + 0.4, 0.0)
    below = floor - scene.hand[2]
    above = jnp.where(below <= 0, 1.0, _near(below, 0.0, 0.01, floor / 2))
    between = jnp.linalg.norm(scene.hand - beside - jnp.array([0.05, 0.03, -0.01]))
    ready = _both(above, _near(between, 0.0, 0.06, 0.5))
    opened = _near(math.pi * 2 / 3 + scene.joint, 0.0, 0.5, math.pi / 3)
    moved = jnp.where(scene.joint < -math.pi / 90, 0.2, 0.0)
    reward = 2 * _both(ready, (effort + 1) / 2) + 8 * (moved + 0.8 * opened)
    return jnp.where(jnp.abs(scene.object[0] - start.goal[0]) <= 0.08, FULL, reward)


def _drawer_close_reward(scene: Scene, effort: Array, start: Start) -> Array:
    left = _distance(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.05, jnp.abs(_distance(start.object, start.goal) - 0.05))
    margin = jnp.abs(_distance(start.object, start.settled.tip) - 0.005)
    near = _near(_distance(scene.object, scene.tip), 0.0, 0.005, margin, _bell)
    reward = _both(_both(near, jnp.maximum(effort, 0)), in_place)
    return FULL * jnp.where(left <= CLOSED, 1.0, reward)


def _button_press_topdown_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    away = _distance(scene.object, scene.tip)
    near = _near(away, 0.0, 0.01, _distance(scene.object, start.settled.tip))
    pressed = _near(jnp.abs(start.goal[2] - scene.object[2]), 0.0, 0.005, (0.1935 - 0.1) * math.sin(TURN))
    reward = 5 * _both(1 - scene.opening, near)
    return jnp.where(away <= 0.03, reward + 5 * pressed, reward)


def _head(scene: Scene) -> Array:
    """``[3]``: of the peg, of which the place to hold it by is seen."""
    return scene.object + scene.rotation @ jnp.array([-0.13, 0.0, -0.01])


def _within(place: Array, zero: Array, one: Array) -> Array:
    """In the box between two corners, the product of how far along each side a place is; 1 outside."""
    shares = (place - zero) / (one - zero)
    inside = jnp.all(jnp.logical_and(shares >= 0, shares <= 1))
    return jnp.where(inside, jnp.prod(shares), 1.0)


def _peg_insert_side_reward(scene: Scene, effort: Array, start: Start) -> Array:
    head, stretch = _head(scene), jnp.array([1.0, 2.0, 2.0])
    left = jnp.linalg.norm((head - start.goal) * stretch)
    in_place = _near(left, 0.0, 0.07, jnp.linalg.norm((_head(start.settled) - start.goal) * stretch))
    below, above = (_within(head, *(start.goal + jnp.asarray(corners))) for corners in BESIDE_THE_HOLE)
    in_place = _both(in_place, _both(above, below))
    carried = _carried(scene, start, 0.08)
    grasp = jnp.where(carried, 1.0, _grasp(_around(scene, start, 0.0075, 0.03), scene, effort, start))
    reward = _both(grasp, in_place)
    reward = jnp.where(carried, reward + 1 + 5 * in_place, reward)
    return jnp.where(left <= 0.07, FULL, reward)


def _window_open_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    left = jnp.abs(scene.object[0] - start.goal[0])
    in_place = _near(left, 0.0, 0.05, jnp.abs(jnp.abs(start.object[0] - start.goal[0]) - 0.05))
    handle = start.object + jnp.array([-0.04, -0.095, 0.0])
    margin = jnp.abs(_distance(handle, start.settled.tip) - 0.02)
    return FULL * _both(_near(_distance(scene.object, scene.tip), 0.0, 0.02, margin), in_place)


def _swept(scene: Scene, start: Start, goal: Array, reach: float, closed: float) -> Array:
    left = _distance(scene.object, goal)
    in_place = _near(left, 0.0, 0.05, _distance(start.object, goal))
    caged = _caged(_beside(scene, 0.02, 0.05), scene, start, reach)
    gripped = jnp.where(caged > 0.95, _both(*_beside(scene, 0.02, closed)), 0.0)
    grasp = (caged + gripped) / 2
    return jnp.where(left < 0.05, FULL, 2 * grasp + 6 * _both(grasp, in_place))


def _sweep_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    return _swept(scene, start, start.goal, 0.005, 0.03)


def _sweep_into_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    # How deep it has fallen does not matter.
    return _swept(scene, start, start.goal.at[2].set(scene.object[2]), 0.01, 0.025)


def _short_of_the_hoop(object: Array, goal: Array) -> Array:
    """Height counts twice, from above the hoop."""
    return jnp.linalg.norm((object - goal.at[2].set(0.3)) * jnp.array([1.0, 1.0, 2.0]))


def _basketball_reward(scene: Scene, effort: Array, start: Start) -> Array:
    left = _short_of_the_hoop(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.08, _short_of_the_hoop(start.object, start.goal))
    carried = _carried(scene, start, 0.035)
    grasp = jnp.where(carried, 1.0, _grasp(_around(scene, start, 0.025, 0.06), scene, effort, start))
    reward = _both(grasp, in_place)
    reward = jnp.where(carried, reward + 1 + 5 * in_place, reward)
    return jnp.where(left < 0.08, FULL, reward)


def _drawer_open_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    opened = _near(_distance(scene.object, start.goal), 0.0, 0.02, 0.2)
    stretch, closed = jnp.array([3.0, 3.0, 1.0]), start.goal + jnp.array([0.0, 0.2, 0.0])
    margin = jnp.linalg.norm((closed - start.settled.tip) * stretch)
    caged = _near(jnp.linalg.norm((scene.object - scene.hand) * stretch), 0.0, 0.01, margin)
    return 5 * (caged + opened)


def _door_close_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    left = _distance(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.05, _distance(start.object, start.goal), _bell)
    margin = _distance(jnp.asarray(DOOR_CLOSE.hand), scene.object) + 0.1
    hand_in_place = _near(_distance(scene.tip, start.goal), 0.0, 0.0125, margin, _bell)
    return jnp.where(left < 0.05, FULL, 3 * hand_in_place + 6 * in_place)


def _shelf_place_reward(scene: Scene, effort: Array, start: Start) -> Array:
    left = _distance(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.05, _distance(start.object, start.goal))
    held = _held(_caged(_around(scene, start, 0.02, 0.05), scene, start, 0.01), effort)
    reward = _both(held, in_place)
    # Below the board it has to come from the front, and up while it does; behind the goal, nothing is in place.
    x, y, z = scene.object - start.goal.at[2].set(0.0)
    below = jnp.logical_and(jnp.logical_and(z > 0, z < 0.24), jnp.abs(x) < 0.15)
    before = jnp.logical_and(below, jnp.logical_and(y > -0.15, y < 0))
    lost = _both(jnp.where(before, (y + 0.15) / 0.15, 0.0), jnp.where(before, (0.24 - z) / 0.24, 0.0))
    in_place = jnp.where(before, jnp.clip(in_place - lost, 0.0, 1.0), in_place)
    in_place = jnp.where(jnp.logical_and(below, y > 0), 0.0, in_place)
    reward = jnp.where(_carried(scene, start, 0.025), reward + 1 + 5 * in_place, reward)
    return jnp.where(left < 0.05, FULL, reward)


def _lever_pull_reward(scene: Scene, effort: Array, start: Start) -> Array:
    del effort
    stretch, shoulder = jnp.array([4.0, 1.0, 4.0]), jnp.array([0.0, 0.055, 0.07])
    at_first = start.goal - jnp.array([0.0, LEVER, LEVER])
    margin = jnp.linalg.norm((start.settled.tip + shoulder - at_first) * stretch)
    ready = _near(jnp.linalg.norm((scene.hand + shoulder - scene.object) * stretch), 0.0, 0.02, margin)
    left = _distance(scene.object, start.goal)
    return FULL * _both(ready, _near(left, 0.0, 0.04, _distance(at_first, start.goal)))


# ---------------------------------------------------------------------------------------------------------------
# What counts as success.


def _object(step: Transition) -> Array:
    return step.final_obs[4:7]


def _paid_in_full(goal: Array, step: Transition) -> Array:
    # Which is what is paid within the radius of success, and nowhere else; tips of fingers and pegs are not seen.
    del goal
    return step.reward >= FULL


def _object_within(radius: float) -> Callable[[Array, Transition], Array]:
    return lambda goal, step: _distance(_object(step), goal) <= radius


def _object_along(axes: slice, radius: float) -> Callable[[Array, Transition], Array]:
    return lambda goal, step: jnp.linalg.norm((_object(step) - goal)[axes]) <= radius


def _in_the_hoop(goal: Array, step: Transition) -> Array:
    return _short_of_the_hoop(_object(step), goal) <= 0.08


def _upright(goal: Array, step: Transition) -> Array:
    # The goal is where the lever's end is when it is.
    _, y, z = _object(step) - goal
    return jnp.abs(jnp.arctan2(z + LEVER, -y) - math.pi / 2) <= math.pi / 24


# ---------------------------------------------------------------------------------------------------------------
# The skills. Lengths are metres, angles radians.

TURN = 1.57
"""What scenes say where they mean a quarter of a turn."""
CLOSED = 0.05 + 0.015
"""How far from its goal a drawer counts as closed."""
LEVER = 0.2
"""Its length."""


def _beside_the_hole() -> np.ndarray:
    """``[2, 2, 3]``: two boxes below and above the hole in the block, from a corner to the other, from the goal."""
    corners = np.array([[[0.1, -0.11, 0.01], [-0.1, -0.15, 0.096]], [[0.1, -0.11, 0.16], [-0.1, -0.17, 0.19]]])
    cosine, sine = math.cos(TURN), math.sin(TURN)
    turned = corners @ np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return turned - np.array(HOLE)


HOLE: Triple = (0.03, 0.0, 0.13)
"""From the middle of the block's base."""
BESIDE_THE_HOLE = _beside_the_hole()


def _single(x: float, y: float, z: float) -> Triple:
    """As Meta-World writes some places: in single precision."""
    return float(np.float32(x)), float(np.float32(y)), float(np.float32(z))


def _apart(least: float) -> Callable[[np.ndarray], bool]:
    """On the table, of what is drawn for the object and for the goal."""
    return lambda drawn: bool(np.linalg.norm(drawn[:2] - drawn[3:5]) >= least)


def _on_table(drawn: np.ndarray, height: float) -> Laid:
    at = np.array([0.0, 0.0, height])
    return Laid(drawn[:3] * (1, 1, 0) + at, np.zeros(3), drawn[3:] * (1, 1, 0) + at)


def _in_the_air(drawn: np.ndarray, height: float) -> Laid:
    del height
    return Laid(drawn[:3], np.zeros(3), drawn[3:])


def _moved(*goal: float) -> Callable[[np.ndarray, float], Laid]:
    """What is drawn is where a body is moved, and the goal is beside that."""
    return lambda drawn, height: Laid(drawn, drawn, drawn + np.array(goal))


def _pulled_out(drawn: np.ndarray, height: float) -> Laid:
    del height
    goal = drawn + np.array([0.0, -0.16, 0.09])
    return Laid(goal + np.array([0.0, -0.16, 0.05]), drawn, goal)


def _peg_and_block(drawn: np.ndarray, height: float) -> Laid:
    del height
    return Laid(drawn[:3], drawn[3:], drawn[3:] + np.array(HOLE))


def _across_the_table(drawn: np.ndarray, height: float) -> Laid:
    del height
    return Laid(np.array([*drawn[:2], 0.02]), np.zeros(3), np.array([0.5, drawn[1], 0.01]))


def _ball_and_hoop(drawn: np.ndarray, height: float) -> Laid:
    del height
    ball = np.array([*drawn[:2], np.float32(0.03)])
    return Laid(ball, drawn[3:], drawn[3:] + np.array([0.0, -0.083, 0.25]))


def _on_a_shelf(drawn: np.ndarray, height: float) -> Laid:
    shelf = drawn[3:] - np.array([0.0, 0.0, 0.3])
    return Laid(np.array([*drawn[:2], height]), shelf, shelf + np.array([0.0, 0.0, 0.3]))


PIT = (0.0, 0.84, 0.02)


def _into_the_pit(drawn: np.ndarray, height: float) -> Laid:
    return Laid(np.array([*drawn[:2], height]), np.zeros(3), np.array(PIT))


AWAY = _single(0.0, 0.4, 0.2)
USUAL = _single(0.0, 0.6, 0.2)

REACH = Skill(
    name="reach",
    file="sawyer_xyz/sawyer_reach_v3.xml",
    low=(-0.1, 0.6, 0.02, -0.1, 0.8, 0.05),
    high=(0.1, 0.7, 0.02, 0.1, 0.9, 0.3),
    far=_apart(0.15),
    lay=_in_the_air,
    reward=_reach_reward,
    reached=_paid_in_full,
)
PUSH = Skill(
    name="push",
    file="sawyer_xyz/sawyer_push_v3.xml",
    low=(-0.1, 0.6, 0.02, -0.1, 0.8, 0.01),
    high=(0.1, 0.7, 0.02, 0.1, 0.9, 0.02),
    far=_apart(0.15),
    lay=_on_table,
    reward=_push_reward,
    reached=_object_within(0.05),
)
PICK_PLACE = REACH._replace(
    name="pick-place",
    file="sawyer_xyz/sawyer_pick_place_v3.xml",
    reward=_pick_place_reward,
    reached=_object_within(0.07),
)
DOOR_OPEN = Skill(
    name="door-open",
    file="sawyer_xyz/sawyer_door_pull.xml",
    low=(0.0, 0.85, 0.15),
    high=(0.1, 0.95, 0.15),
    lay=_moved(-0.3, -0.45, 0.0),
    reward=_door_open_reward,
    reached=_object_along(slice(0, 1), 0.08),
    seen=("geom", "handle"),
    turned=("geom", "handle"),
    moves="door",
    free=False,
    joint=0.0,
)
DRAWER_CLOSE = Skill(
    name="drawer-close",
    file="sawyer_xyz/sawyer_drawer.xml",
    low=(-0.1, 0.9, 0.0),
    high=(0.1, 0.9, 0.0),
    lay=_pulled_out,
    reward=_drawer_close_reward,
    reached=_object_within(CLOSED),
    seen=("body", "drawer_link"),
    beside=(0.0, -0.16, 0.05),
    turned=None,
    hand=USUAL,
    moves="drawer",
    free=False,
    joint=-0.15,
)
BUTTON_PRESS_TOPDOWN = Skill(
    name="button-press-topdown",
    file="sawyer_xyz/sawyer_button_press_topdown.xml",
    low=(-0.1, 0.8, 0.115),
    high=(0.1, 0.9, 0.115),
    lay=_moved(0.0, -0.1 * math.cos(TURN), 0.1 * math.sin(TURN)),
    reward=_button_press_topdown_reward,
    reached=_object_along(slice(2, 3), 0.024),
    seen=("body", "button"),
    beside=(0.0, 0.0, 0.193),
    turned=("body", "button"),
    hand=AWAY,
    moves="box",
    free=False,
)
PEG_INSERT_SIDE = Skill(
    name="peg-insert-side",
    file="sawyer_xyz/sawyer_peg_insertion_side.xml",
    low=(0.0, 0.5, 0.02, -0.35, 0.4, -0.001),
    high=(0.2, 0.7, 0.02, -0.25, 0.7, 0.001),
    far=_apart(0.1),
    lay=_peg_and_block,
    reward=_peg_insert_side_reward,
    reached=_paid_in_full,
    seen=("site", "pegGrasp"),
    turned=("site", "pegGrasp"),
    moves="box",
)
WINDOW_OPEN = Skill(
    name="window-open",
    file="sawyer_xyz/sawyer_window_horizontal.xml",
    low=(-0.1, 0.7, 0.16),
    high=(0.1, 0.9, 0.16),
    lay=_moved(0.2, 0.0, 0.0),
    reward=_window_open_reward,
    reached=_object_along(slice(0, 1), 0.05),
    seen=("site", "handleOpenStart"),
    turned=None,
    hand=AWAY,
    moves="window",
    free=False,
    joint=0.0,
    begun_afresh=False,
)
SWEEP = Skill(
    name="sweep",
    file="sawyer_xyz/sawyer_sweep_v3.xml",
    low=(-0.1, 0.6, 0.02),
    high=(0.1, 0.7, 0.02),
    lay=_across_the_table,
    reward=_sweep_reward,
    reached=_object_within(0.05),
    turned=("body", "obj"),
)
BASKETBALL = Skill(
    name="basketball",
    file="sawyer_xyz/sawyer_basketball.xml",
    low=(-0.1, 0.6, 0.0299, -0.1, 0.85, 0.0),
    high=(0.1, 0.7, 0.0301, 0.1, 0.9 + 1e-7, 0.0),
    far=_apart(0.15),
    lay=_ball_and_hoop,
    reward=_basketball_reward,
    reached=_in_the_hoop,
    seen=("body", "bsktball"),
    turned=("body", "bsktball"),
    hand=USUAL,
    moves="basket_goal",
)
DRAWER_OPEN = DRAWER_CLOSE._replace(
    name="drawer-open",
    lay=_moved(0.0, -0.36, 0.09),
    reward=_drawer_open_reward,
    reached=_object_within(0.03),
    beside=(0.0, -0.16, 0.0),
    turned=("body", "drawer_link"),
    joint=None,
    begun_afresh=False,
)
DOOR_CLOSE = DOOR_OPEN._replace(
    name="door-close",
    lay=_moved(0.2, -0.2, 0.0),
    reward=_door_close_reward,
    reached=_object_within(0.08),
    hand=_single(-0.5, 0.6, 0.2),
    joint=-1.5708,
)
SHELF_PLACE = Skill(
    name="shelf-place",
    file="sawyer_xyz/sawyer_shelf_placing.xml",
    low=(-0.1, 0.5, 0.019, -0.1, 0.8, 0.299),
    high=(0.1, 0.6, 0.021, 0.1, 0.9, 0.301),
    far=_apart(0.1),
    lay=_on_a_shelf,
    reward=_shelf_place_reward,
    reached=_object_within(0.07),
    hand=USUAL,
    moves="shelf",
)
SWEEP_INTO = Skill(
    name="sweep-into",
    file="sawyer_xyz/sawyer_table_with_hole.xml",
    low=(-0.1, 0.6, 0.02, -0.001, 0.8399, 0.0199),
    high=(0.1, 0.7, 0.02, 0.001, 0.8401, 0.0201),
    far=lambda drawn: bool(np.linalg.norm(drawn[:2] - PIT[:2]) >= 0.15),
    lay=_into_the_pit,
    reward=_sweep_into_reward,
    reached=_object_along(slice(0, 2), 0.05),
)
LEVER_PULL = Skill(
    name="lever-pull",
    file="sawyer_xyz/sawyer_lever_pull.xml",
    low=(-0.1, 0.7, 0.0),
    high=(0.1, 0.8, 0.0),
    lay=_moved(0.12, 0.0, 0.25 + LEVER),
    reward=_lever_pull_reward,
    reached=_upright,
    seen=("site", "leverStart"),
    hand=AWAY,
    lowest=-0.15,
    moves="lever",
    free=False,
    begun_afresh=False,
)
ML10_TRAIN = (
    REACH,
    PUSH,
    PICK_PLACE,
    DOOR_OPEN,
    DRAWER_CLOSE,
    BUTTON_PRESS_TOPDOWN,
    PEG_INSERT_SIDE,
    WINDOW_OPEN,
    SWEEP,
    BASKETBALL,
)
ML10_TEST = (DRAWER_OPEN, DOOR_CLOSE, SHELF_PLACE, SWEEP_INTO, LEVER_PULL)
SKILLS = {skill.name: skill for skill in (*ML10_TRAIN, *ML10_TEST)}
