"""The skills of Meta-World: initial places of objects, rewards (version 2), and successes.

All results equal those of Meta-World 3.0 up to rounding. A reward is a function of the current scene, of the control of
the gripper, and of the start of the episode. It does not depend on other steps. One property of the official program is
kept that may be unintended. The rewards for picking and sweeping compare the distance of the object from the gripper's
pads with the distance from the pads at the start of the episode. In the official program, both are the current pads.
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
"""The largest reward of a step."""


class Scene(NamedTuple):
    """The measurements of one moment, in metres and radians."""

    hand: Array
    """The position of the hand, ``[3]``."""
    claws: Array
    """The positions of the claws, right and left, ``[2, 3]``."""
    pads: Array
    """The positions of the pads, left and right, ``[2, 3]``."""
    fingers: Array
    """The positions of the tips of the fingers, right and left, ``[2, 3]``."""
    object: Array
    """The position of the object that the skill handles, ``[3]``."""
    rotation: Array
    """The rotation of the object, ``[3, 3]``. If Meta-World observes MuJoCo's quaternion unchanged, the field holds the
    quaternion and zeros."""
    joint: Array
    """The position of the joint of a door or a similar object. It has no meaning for a free object."""

    @property
    def tip(self) -> Array:
        """The point between the tips of the fingers, ``[3]``."""
        return (self.fingers[0] + self.fingers[1]) / 2

    @property
    def opening(self) -> Array:
        """The opening of the gripper, in [0, 1]; it is 1 if the claws are 0.1 metres apart or more."""
        return jnp.clip(jnp.linalg.norm(self.claws[0] - self.claws[1]) / 0.1, 0.0, 1.0)


class Start(NamedTuple):
    """The start of an episode, with which rewards compare the current scene."""

    object: Array
    """The initial position of the object, ``[3]``."""
    goal: Array
    """The position of the goal, ``[3]``."""
    settled: Scene
    """The scene when the hand has reached its initial position, before objects are put at the places of the task."""


class Laid(NamedTuple):
    """The places of a task, in metres."""

    object: np.ndarray
    """The initial position of the object, ``[3]``."""
    place: np.ndarray
    """The position of the body that tasks move, ``[3]``; zeros if there is no such body."""
    goal: np.ndarray
    """The position of the goal, ``[3]``."""


class Skill(NamedTuple):
    """A skill: its scene, the distribution of its tasks, its reward and its success."""

    name: str
    """The name of the skill."""
    file: str
    """The scene's file among Meta-World's assets."""
    low: tuple[float, ...]
    """The lower bounds of the random numbers of a task, ``[3]`` or ``[6]``."""
    high: tuple[float, ...]
    """The upper bounds of the random numbers of a task, ``[3]`` or ``[6]``."""
    lay: Callable[[np.ndarray, float], Laid]
    """A function of the random numbers of a task and of the height of the settled object, which returns the places of
    the task."""
    reward: Callable[[Scene, Array, Start], Array]
    """The reward, ``(scene, effort, start) -> scalar``, where ``effort`` opens (-1) or closes (1) the gripper."""
    reached: Callable[[Array, Transition], Array]
    """The success, ``(goal, one step) -> bool``."""
    far: Callable[[np.ndarray], bool] = lambda drawn: True
    """A condition on the random numbers of a task, which are drawn again until it holds."""
    seen: tuple[Literal["body", "geom", "site"], str] = ("body", "obj")
    """The part of the model whose position is that of the object."""
    beside: Triple = (0.0, 0.0, 0.0)
    """An offset that is added to the position of the part ``seen``."""
    turned: tuple[Literal["body", "geom", "site"], str] | None = ("geom", "objGeom")
    """The part of the model whose orientation is observed. The quaternion of a body is MuJoCo's, ``(w, x, y, z)``; that
    of other parts is ``(x, y, z, w)``. With None, zeros are observed."""
    hand: Triple = (0.0, 0.6, 0.2)
    """The position to which the hand is pulled before an episode begins."""
    lowest: float = 0.05
    """The lowest height to which the hand can be pulled."""
    moves: str | None = None
    """The name of the body that tasks move, or None."""
    free: bool = True
    """Whether the object is put at the place of the task. Otherwise the object belongs to the body that tasks move."""
    joint: float | None = None
    """The initial position of the joint of an object that is not free; None leaves the joint unchanged."""
    begun_afresh: bool = True
    """Whether the first observation shows the current places. Otherwise it shows those of one physics step before."""


# ---------------------------------------------------------------------------------------------------------------
# Parts of rewards.


def _long(x: Array) -> Array:
    return 1 / ((3 * x) ** 2 + 1)


def _bell(x: Array) -> Array:
    return 0.1**x**2


def _near(x: Array, low: float, high: float, margin: Array | float, tail: Callable[[Array], Array] = _long) -> Array:
    """Compute 1 from ``low`` to ``high``, and less outside; it is 0.1 at a distance of ``margin``."""
    beyond = jnp.where(x < low, low - x, x - high)
    inside = jnp.logical_and(low <= x, x <= high)
    outside = jnp.where(margin == 0, 0.0, tail(beyond / jnp.where(margin == 0, 1.0, margin)))
    return jnp.where(inside, 1.0, outside)


def _both(a: Array, b: Array) -> Array:
    """Compute Hamacher's product of two numbers from 0 to 1."""
    union = a + b - a * b
    return jnp.where(union > 0, a * b / jnp.where(union > 0, union, 1.0), 0.0)


def _distance(a: Array, b: Array) -> Array:
    return jnp.linalg.norm(a - b)


def _around(scene: Scene, start: Start, radius: float, reach: float) -> Array:
    """Compute how near each pad is to the object, ``[2]``; it is 1 at distances from ``radius`` to ``reach``."""
    pads = scene.pads[:, 1]
    margins = jnp.abs(jnp.abs(pads - start.object[1]) - reach)
    return _near(jnp.abs(pads - scene.object[1]), radius, reach, margins)


def _beside(scene: Scene, radius: float, reach: float) -> Array:
    """Compute how near each pad is to its own side of the object, ``[2]``.

    Unlike in ``_around``, a distance on the wrong side is negative, and the margins depend on the current distances.
    """
    distances = (scene.pads[:, 1] - scene.object[1]) * jnp.array([1, -1])
    return _near(distances, radius, reach, jnp.abs(jnp.abs(distances) - 0.05))


def _caged(sides: Array, scene: Scene, start: Start, reach: float) -> Array:
    """Compute how well the object is caged: between the pads (``sides [2]``), and within ``reach`` across the tip."""
    across = jnp.array([0, 2])
    margin = _distance(start.object[across], start.settled.tip[across]) - reach
    return _both(_both(*sides), _near(_distance(scene.tip[across], scene.object[across]), 0.0, reach, margin))


def _held(caged: Array, effort: Array) -> Array:
    return _both(caged, jnp.where(caged > 0.97, jnp.maximum(effort, 0), 0.0))


def _grasp(sides: Array, scene: Scene, effort: Array, start: Start) -> Array:
    """Compute how well the gripper holds the object."""
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
    # Away from the handle, the hand must stay above a funnel around the handle.
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
    """Compute the position of the peg's head, ``[3]``; the scene has the position of the peg's handle."""
    return scene.object + scene.rotation @ jnp.array([-0.13, 0.0, -0.01])


def _within(place: Array, zero: Array, one: Array) -> Array:
    """Compute the product of a place's relative coordinates in a box between two corners; 1 outside of the box."""
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
    # The depth to which the object has fallen has no effect.
    return _swept(scene, start, start.goal.at[2].set(scene.object[2]), 0.01, 0.025)


def _short_of_the_hoop(object: Array, goal: Array) -> Array:
    """Compute the distance of the ball from a point above the hoop, in which height counts twice."""
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
    # Below the board, the object must come from the front and rise. Behind the goal, the reward for its place is 0.
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
# Successes.


def _object(step: Transition) -> Array:
    return step.final_obs[4:7]


def _paid_in_full(goal: Array, step: Transition) -> Array:
    # The reward is full within the radius of success only. Tips of fingers and heads of pegs are not observed.
    del goal
    return step.reward >= FULL


def _object_within(radius: float) -> Callable[[Array, Transition], Array]:
    return lambda goal, step: _distance(_object(step), goal) <= radius


def _object_along(axes: slice, radius: float) -> Callable[[Array, Transition], Array]:
    return lambda goal, step: jnp.linalg.norm((_object(step) - goal)[axes]) <= radius


def _in_the_hoop(goal: Array, step: Transition) -> Array:
    return _short_of_the_hoop(_object(step), goal) <= 0.08


def _upright(goal: Array, step: Transition) -> Array:
    # The goal is the position of the lever's end when the lever is upright.
    _, y, z = _object(step) - goal
    return jnp.abs(jnp.arctan2(z + LEVER, -y) - math.pi / 2) <= math.pi / 24


# ---------------------------------------------------------------------------------------------------------------
# The skills. Lengths are metres, angles radians.

TURN = 1.57
"""The angle of a quarter turn, as the scenes' files round it."""
CLOSED = 0.05 + 0.015
"""The distance from its goal within which a drawer counts as closed."""
LEVER = 0.2
"""The length of the lever."""


def _beside_the_hole() -> np.ndarray:
    """Return two boxes below and above the hole in the block, as opposite corners relative to the goal: [2, 2, 3]."""
    corners = np.array([[[0.1, -0.11, 0.01], [-0.1, -0.15, 0.096]], [[0.1, -0.11, 0.16], [-0.1, -0.17, 0.19]]])
    cosine, sine = math.cos(TURN), math.sin(TURN)
    turned = corners @ np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return turned - np.array(HOLE)


HOLE: Triple = (0.03, 0.0, 0.13)
"""The position of the hole relative to the middle of the block's base."""
BESIDE_THE_HOLE = _beside_the_hole()


def _single(x: float, y: float, z: float) -> Triple:
    """Round a place to single precision, as Meta-World does for some places."""
    return float(np.float32(x)), float(np.float32(y)), float(np.float32(z))


def _apart(least: float) -> Callable[[np.ndarray], bool]:
    """Return the condition that object and goal are drawn at least this far apart on the table."""
    return lambda drawn: bool(np.linalg.norm(drawn[:2] - drawn[3:5]) >= least)


def _on_table(drawn: np.ndarray, height: float) -> Laid:
    at = np.array([0.0, 0.0, height])
    return Laid(drawn[:3] * (1, 1, 0) + at, np.zeros(3), drawn[3:] * (1, 1, 0) + at)


def _in_the_air(drawn: np.ndarray, height: float) -> Laid:
    del height
    return Laid(drawn[:3], np.zeros(3), drawn[3:])


def _moved(*goal: float) -> Callable[[np.ndarray, float], Laid]:
    """Return a ``lay`` that moves a body to the random place, and puts the goal at this offset from it."""
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
