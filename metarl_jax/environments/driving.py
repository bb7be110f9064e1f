"""Driving on a ring road with several lanes, among drivers with unknown manners, on a road with unknown grip.

A task is the traffic of one road: the manners of its drivers, the density of cars, the number of open lanes, and
whether a car has broken down on a lane. The grip of the surface, which depends on the weather, is a part of it, too.
The learner drives one car, the ego car, and observes cars up to a gap of ``SEEN`` metres. A step takes ``STEP``
seconds.

Other cars follow the car ahead by the intelligent driver model, IDM (Treiber, Hennecke and Helbing 2000):

    acceleration = A (1 - (v / v0)^4 - (s* / s)^2),   s* = S0 + max(0, v T + v (v - v_ahead) / (2 sqrt(A B)))

with the speed v, the desired speed v0, the gap s to the car ahead and the time headway T. No driver brakes harder than
the task's ``braking``: a driver with a low one hardly yields to a car that cuts in. The grip g limits the accelerations
of all cars: A is at most ``TRACTION * g``, B at most ``ADHESION * g / 2``, and braking at most ``ADHESION * g``. No
driver is faster than the desired speed.

In each step one of the other drivers, in cyclic order, decides whether to change lanes, by MOBIL (Kesting, Treiber and
Helbing 2007). A driver changes if the new follower would not have to brake harder than ``SAFE``, and if

    gain of the driver + politeness * (gain of the new follower + gain of the old follower) > THRESHOLD

where gains are differences of IDM accelerations. Changes of lanes are instantaneous, as in MOBIL. Other cars do not
collide with each other: a driver who is about to do so brakes as hard as necessary. If a car has broken down, it stands
in the same lane for the whole episode, at a random place.

The ego car has six actions: keep the speed, faster, slower, brake hard, change to the left lane, change to the right
lane. The reward of a step is the distance in units of 100 m, minus a cost of acceleration and changes of lanes, minus
``collision_cost`` for a collision, which ends the episode.

The observation shows the nearest cars ahead and behind in the own, the left and the right lane: their gaps and their
relative speeds. It also has the existence of a left and a right lane, the own speed, the last change of this speed, and
the time. All numbers are scaled to about unit size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import boolean, positive_int, real, whole
from metarl_jax.environments.base import Environment
from metarl_jax.environments.drawing import SIZE, Frame, blank
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image

STEP = 1.0
"""The duration of a step in seconds."""
PARTS = 2
"""The number of parts of a step in the integration of positions and speeds."""
CAR = 5.0
"""The length of a car in metres."""
TOP = 30.0
"""The largest speed of the ego car in metres per second."""
ACCELERATION = 1.5
"""The largest acceleration A of other cars in IDM, in metres per second squared."""
COMFORTABLE = 2.0
"""The comfortable deceleration B of other drivers in IDM."""
STANDSTILL = 2.0
"""The gap S0 between standing cars in IDM, in metres."""
TRACTION = 4.0
"""The largest acceleration on a road whose grip is 1."""
ADHESION = 8.0
"""The largest deceleration on a road whose grip is 1."""
SAFE = 3.0
"""The hardest braking that other drivers impose on a new follower (MOBIL)."""
THRESHOLD = 0.2
"""The smallest gain for which other drivers change lanes (MOBIL)."""
SPREAD = 0.6
"""Desired speeds of drivers are between 1 - SPREAD and 1 + SPREAD times the task's speed."""
FAR = 1000.0
"""The gap to a car that does not exist, in metres."""
SEEN = 60.0
"""The largest gap that is observed, and the unit of observed gaps."""
PACE = 10.0
"""The unit of observed relative speeds."""
BROKEN = 0.1
"""The desired speed of the car that has broken down, in metres per second."""
KEEP, FASTER, SLOWER, BRAKE, LEFT, RIGHT = range(6)
ACCELERATIONS = (0.0, 2.0, -2.0, -8.0, 0.0, 0.0)
"""The acceleration of each action before the grip limits it, in metres per second squared."""
LANE_CHANGES = (0, 0, 0, 0, 1, -1)
"""The change of the lane of each action. The lane with the largest index is the leftmost one."""
EFFORT = 0.002
"""The cost of a change of the speed in a step, in units of its square in metres per second."""
CHANGE = 0.02
"""The cost of a change of lanes."""


@struct.dataclass
class Traffic:
    """A task: the traffic of one road."""

    speed: Array
    """The mean desired speed of drivers in metres per second."""
    headway: Array
    """The time headway T of drivers in seconds."""
    politeness: Array
    """The weight of the gains of followers in the decisions of drivers to change lanes."""
    braking: Array
    """The hardest braking of drivers in metres per second squared."""
    grip: Array
    """The grip of the road, from 0 to 1."""
    length: Array
    """The length of the ring in metres."""
    lanes: Array
    """The number of open lanes, ``int32``."""
    blocked: Array
    """Whether a car has broken down and blocks a lane, bool. It is the last one of the other cars."""
    max_steps_in_episode: int
    """The number of steps of an episode without a collision."""


@struct.dataclass
class TrafficState:
    """The state of an episode. The ego car has index 0."""

    place: Array
    """The positions of all cars as shares of the length of the ring, ``[N + 1]``, in [0, 1)."""
    speed: Array
    """The speeds of all cars, ``[N + 1]``."""
    lane: Array
    """The lanes of all cars, ``[N + 1]`` int32; 0 is the rightmost lane."""
    desired: Array
    """The desired speeds of all drivers, ``[N + 1]``; that of the ego car is ``TOP``."""
    change: Array
    """The change of the speed of the ego car in the last step."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class Driver(NamedTuple):
    """The parameters of IDM."""

    acceleration: Array
    """A, the largest acceleration."""
    comfortable: Array
    """B, the comfortable deceleration."""
    headway: Array
    """T, the time headway."""


def driver(headway: Array, grip: Array) -> Driver:
    """Return the parameters of drivers who know the grip of the road.

    Args:
        headway: their time headway.
        grip: the grip of the road.
    """
    return Driver(
        jnp.minimum(ACCELERATION, TRACTION * grip),
        jnp.minimum(COMFORTABLE, 0.5 * ADHESION * grip),
        jnp.asarray(headway),
    )


def idm(who: Driver, speed: Array, desired: Array, gap: Array, ahead: Array) -> Array:
    """Return the acceleration of the intelligent driver model, before any limit of braking.

    Args:
        who: the parameters of the drivers.
        speed: the speeds of the cars, ``[...]``.
        desired: the desired speeds of the drivers, ``[...]``.
        gap: the gaps to the cars ahead, from bumper to bumper, ``[...]``; gaps below 0.5 m count as 0.5 m.
        ahead: the speeds of the cars ahead, ``[...]``.
    """
    root = jnp.sqrt(who.acceleration * who.comfortable)
    wanted = STANDSTILL + jnp.maximum(0.0, speed * who.headway + 0.5 * speed * (speed - ahead) / root)
    free, near = speed / jnp.maximum(desired, BROKEN), wanted / jnp.maximum(gap, 0.5)
    return who.acceleration * (1 - jnp.square(jnp.square(free)) - near * near)


class Around(NamedTuple):
    """The nearest cars around one car, by lane: its own lane, the left lane and the right lane."""

    gap_ahead: Array
    """The gaps to the cars ahead, ``[3]``; ``FAR`` if there is none. The gap to a car next to this one is negative."""
    ahead: Array
    """The speeds of the cars ahead, ``[3]``; the own speed if there is none."""
    gap_behind: Array
    """The gaps to the cars behind, ``[3]``."""
    behind: Array
    """The speeds of the cars behind, ``[3]``."""
    desired_behind: Array
    """The desired speeds of the cars behind, ``[3]``."""
    is_open: Array
    """Whether there is a lane, ``[3]`` bool."""


def around(state: TrafficState, index: Array, task: Traffic) -> Around:
    """Return the nearest cars around the car with an index."""
    cars = state.place.shape[0]
    own = jnp.arange(cars, dtype=jnp.int32) == index

    def of_car(x: Array) -> Array:
        return jnp.sum(jnp.where(own, x, 0), dtype=x.dtype)

    speed = of_car(state.speed)
    lane = of_car(state.lane) + jnp.array([0, 1, -1], jnp.int32)
    others = (state.lane == lane[:, None]) & jnp.logical_not(own)
    distance = state.place - of_car(state.place)
    distance = distance - jnp.floor(distance)

    def nearest(distance: Array) -> tuple[Array, Array]:
        of_others = jnp.where(others, distance, 2.0)
        least = jnp.min(of_others, axis=1)
        return least, others & (of_others == least[:, None])

    def gap(least: Array) -> Array:
        return jnp.where(least < 2, least * task.length - CAR, FAR)

    def value(chosen: Array, x: Array) -> Array:
        found = jnp.max(jnp.where(chosen, x, -1.0), axis=1)
        return jnp.where(found < 0, speed, found)

    (ahead, first), (behind, last) = nearest(distance), nearest(1 - distance)
    return Around(
        gap(ahead),
        value(first, state.speed),
        gap(behind),
        value(last, state.speed),
        value(last, state.desired),
        (lane >= 0) & (lane < task.lanes),
    )


class Change(NamedTuple):
    """The consequences of a change to the left lane and to the right lane (MOBIL)."""

    gain: Array
    """The gains of the driver, ``[2]``."""
    gain_of_followers: Array
    """The sums of the gains of the new and the old followers, ``[2]``."""
    follower: Array
    """The accelerations of the new followers after the change, ``[2]``."""
    is_free: Array
    """Whether there is a lane with no car at this place, ``[2]`` bool."""


def changes(near: Around, who: Driver, others: Driver, speed: Array, desired: Array) -> Change:
    """Return the consequences of changes of lanes.

    Args:
        near: the cars around the driver.
        who: the parameters of the driver.
        others: the parameters of the drivers behind.
        speed: the speed of the driver.
        desired: the desired speed of the driver.
    """
    own = idm(who, speed, desired, near.gap_ahead, near.ahead)
    # The accelerations of the cars behind if the driver is ahead of them in their lane, and if not.
    after = idm(others, near.behind, near.desired_behind, near.gap_behind, speed)
    between = jnp.minimum(near.gap_behind + near.gap_ahead + CAR, FAR)
    without = idm(others, near.behind, near.desired_behind, between, near.ahead)
    exists = near.gap_behind < FAR
    loss = jnp.where(exists, after - without, 0.0)
    return Change(
        own[1:] - own[0],
        loss[1:] - loss[0],
        jnp.where(exists, after, 0.0)[1:],
        near.is_open[1:] & (near.gap_ahead[1:] > 0) & (near.gap_behind[1:] > 0),
    )


def mobil(change: Change, politeness: Array, safe: Array, threshold: float = THRESHOLD) -> Array:
    """Return the change of the lane by MOBIL: 1 to the left, -1 to the right, or 0, ``int32``.

    Args:
        change: the consequences of changes.
        politeness: the weight of the gains of followers.
        safe: the hardest braking that may be imposed on the new follower.
        threshold: the smallest gain for which the driver changes.
    """
    gain = change.gain + politeness * change.gain_of_followers
    allowed = change.is_free & (change.follower >= -safe)
    gain = jnp.where(allowed, gain, -jnp.inf)
    best = jnp.where(gain[0] >= gain[1], 1, -1).astype(jnp.int32)
    return jnp.where(jnp.max(gain) > threshold, best, 0)


class Leaders(NamedTuple):
    """The car ahead of each car in its lane."""

    gap: Array
    """The gap to it, ``[N + 1]``; ``FAR`` if there is none."""
    chosen: Array
    """``[N + 1, N + 1]`` bool: whether the car of the column is ahead of the car of the row."""


def leaders(place: Array, lane: Array, length: Array) -> Leaders:
    """Return the car ahead of each car.

    Args:
        place: the positions as shares of the ring, ``[N + 1]``.
        lane: the lanes, ``[N + 1]``.
        length: the length of the ring in metres.
    """
    same = (lane[:, None] == lane) & jnp.logical_not(np.eye(place.shape[0], dtype=bool))
    distance = place - place[:, None]
    distance = jnp.where(same, distance - jnp.floor(distance), 2.0)
    least = jnp.min(distance, axis=1)
    chosen = same & (distance == least[:, None])
    return Leaders(jnp.where(least < 2, least * length - CAR, FAR), chosen)


class Motorway(Environment):
    """A ring road with several lanes.

    Args:
        cars: the number of other cars.
        lanes: the largest number of open lanes.
        collision_cost: the cost of a collision.
    """

    caption = "From above, with the ego car (blue) in the middle; the left edge of the road is at the top."

    def __init__(self, cars: int, lanes: int, collision_cost: float) -> None:
        self.cars = cars
        self.lanes = lanes
        self.collision_cost = collision_cost

    def _observe(self, state: TrafficState, params: Traffic) -> Array:
        near = around(state, jnp.int32(0), params)
        speed = state.speed[0]
        gaps = jnp.clip(jnp.concatenate([near.gap_ahead, near.gap_behind]) / SEEN, -0.05, 1.0)
        speeds = jnp.clip((jnp.concatenate([near.ahead, near.behind]) - speed) / PACE, -3.0, 3.0)
        # A car that is out of sight is shown with the own speed.
        speeds = jnp.where(gaps < 1, speeds, 0.0)
        own = jnp.stack(
            [
                2 * speed / TOP - 1,
                state.change / 4,
                2 * state.time.astype(jnp.float32) / params.max_steps_in_episode - 1,
            ]
        )
        return jnp.concatenate([2 * gaps - 1, speeds, near.is_open[1:].astype(jnp.float32), own]).astype(jnp.float32)

    def seen(self, observation: Array) -> tuple[Around, Array, Array]:
        """Return what an observation ``[17]`` shows: the cars around the ego car, its speed, and its last change.

        Gaps of at least ``SEEN`` are shown as ``FAR``. Desired speeds are not observed: each driver behind is assumed
        to desire the speed of the car.
        """
        gaps = 0.5 * (observation[:6] + 1)
        gaps = jnp.where(gaps < 1, gaps * SEEN, FAR)
        speed = 0.5 * TOP * (observation[14] + 1)
        speeds = speed + PACE * observation[6:12]
        is_open = jnp.concatenate([jnp.ones(1, bool), observation[12:14] > 0.5])
        desired = jnp.maximum(speeds[3:], 1.0)
        return Around(gaps[:3], speeds[:3], gaps[3:], speeds[3:], desired, is_open), speed, 4 * observation[15]

    def reset_env(self, key: Key, params: Traffic) -> tuple[Array, TrafficState]:
        count = self.cars + 1
        drawn = jax.random.uniform(key, (2 * count + 1 + self.lanes,), jnp.float32)
        apart, manners, first, phase = jnp.split(drawn, [count, 2 * count, 2 * count + 1])
        # The cars of each lane are evenly spread, up to a quarter of their distance.
        index = jnp.arange(count, dtype=jnp.int32)
        row, column = index // params.lanes, index % params.lanes
        number = (count - column + params.lanes - 1) // params.lanes
        shift = jnp.sum(jnp.where(column[:, None] == jnp.arange(self.lanes, dtype=jnp.int32), phase, 0.0), axis=1)
        place = (row + 0.5 * apart) / number + shift
        place = place - jnp.floor(place)
        lane = (column + (first[0] * params.lanes).astype(jnp.int32)) % params.lanes
        desired = params.speed * (1 + SPREAD * (2 * manners - 1))
        desired = jnp.where(index == 0, TOP, jnp.where(params.blocked & (index == self.cars), BROKEN, desired))
        # The distance to the car ahead is at least the desired gap at this speed.
        gap = leaders(place, lane, params.length).gap
        speed = jnp.clip((gap - STANDSTILL) / params.headway, 0.0, jnp.where(index == 0, params.speed, desired))
        state = TrafficState(place, speed, lane, desired, jnp.float32(0), jnp.int32(0))
        return self._observe(state, params), state

    def step_env(
        self, key: Key, state: TrafficState, action: Array, params: Traffic
    ) -> tuple[Array, TrafficState, Array, Array, dict[Any, Any]]:
        del key
        count = state.place.shape[0]
        index = jnp.arange(count, dtype=jnp.int32)
        is_ego = index == 0
        who = driver(params.headway, params.grip)

        # The ego car changes lanes first, and then one of the other cars.
        target = state.lane[0] + jnp.array(LANE_CHANGES, jnp.int32)[action]
        target = jnp.where((target >= 0) & (target < params.lanes), target, state.lane[0])
        changed = (target != state.lane[0]).astype(jnp.float32)
        moved = dataclasses.replace(state, lane=jnp.where(is_ego, target, state.lane))
        deciding = 1 + state.time % self.cars
        near = around(moved, deciding, params)
        speed, desired = (jnp.sum(jnp.where(index == deciding, x, 0.0)) for x in (state.speed, state.desired))
        safe = jnp.minimum(SAFE, jnp.minimum(params.braking, ADHESION * params.grip))
        side = mobil(changes(near, who, who, speed, desired), params.politeness, safe)
        lane = moved.lane + jnp.where((index == deciding) & (state.desired > BROKEN), side, 0)

        ahead = leaders(state.place, lane, params.length)
        follows_ego = ahead.chosen[:, 0]
        dt = STEP / PARTS
        wish = jnp.array(ACCELERATIONS, jnp.float32)[action]
        wish = jnp.clip(wish, -ADHESION * params.grip, TRACTION * params.grip)
        hardest = jnp.minimum(params.braking, ADHESION * params.grip)

        def speeds_ahead(speed: Array) -> Array:
            return jnp.sum(jnp.where(ahead.chosen, speed, 0.0), axis=1)

        speed, gap, way = state.speed, ahead.gap, jnp.zeros(count, jnp.float32)
        in_front = speeds_ahead(speed)
        with_ego = is_ego | follows_ego
        hit = jnp.any((gap < 0) & with_ego)
        for _ in range(PARTS):
            chosen = jnp.maximum(idm(who, speed, state.desired, gap, in_front), -hardest)
            after = jnp.maximum(speed + dt * jnp.where(is_ego, wish, chosen), 0.0)
            after = jnp.minimum(after, state.desired)
            # Other cars are slow enough to stop in the next part of the step, even if the car ahead stops at once;
            # but not behind the ego car.
            most = jnp.maximum(gap / dt + 0.5 * (in_front - speed), 0.0)
            after = jnp.where(with_ego, after, jnp.minimum(after, most))
            after_front = speeds_ahead(after)
            distance = 0.5 * dt * (speed + after)
            gap = jnp.where(ahead.gap < FAR, gap + 0.5 * dt * (in_front + after_front) - distance, FAR)
            way = way + distance
            speed, in_front = after, after_front
            hit = hit | jnp.any((gap < 0) & with_ego)
        place = state.place + way / params.length
        place = place - jnp.floor(place)
        change = speed[0] - state.speed[0]
        cost = EFFORT * jnp.square(change) + CHANGE * changed + self.collision_cost * hit
        reward = way[0] / 100 - cost
        after = TrafficState(place, speed, lane, state.desired, change, state.time + 1)
        return self._observe(after, params), after, reward, hit, {}

    def action_space(self, params: Traffic | None = None) -> Discrete:
        del params
        return Discrete(len(ACCELERATIONS))

    def observation_space(self, params: Traffic | None = None) -> Box:
        del params
        return Box(-jnp.inf, jnp.inf, (17,))

    def draw(self, frames: Sequence[Frame], task: Traffic) -> Image:
        """Draw the road around the ego car from above (``drawing.Drawable``)."""
        picture, canvas = blank(SIZE, SIZE // 3)
        state: TrafficState = frames[-1].state
        width, lanes = SIZE / 160, int(task.lanes)
        height = SIZE / 3 / (self.lanes + 1)
        bottom = height * (self.lanes + 0.5)
        canvas.rectangle((0, bottom - lanes * height, SIZE, bottom), fill="lightgrey")
        for line in range(lanes + 1):
            canvas.line([(0, bottom - line * height), (SIZE, bottom - line * height)], fill="grey", width=2)
        # Distances to the ego car are between minus and plus half of the ring.
        away = np.asarray(state.place) - float(np.asarray(state.place)[0])
        away = (away - np.round(away)) * float(task.length)
        for i in reversed(range(len(away))):
            x, y = SIZE / 2 + width * away[i], bottom - height * (float(state.lane[i]) + 0.5)
            box = (x - 0.5 * width * CAR, y - 0.3 * height, x + 0.5 * width * CAR, y + 0.3 * height)
            # Slow cars are dark.
            shade = int(np.clip(255 * float(state.speed[i]) / TOP, 0, 255))
            canvas.rectangle(box, fill="royalblue" if i == 0 else (shade, shade // 2, 0), outline="black")
        return picture


def _without_collision(task: Traffic, step: Transition) -> Array:
    """Return whether a step ends an episode without a collision."""
    del task
    return step.truncated & jnp.logical_not(step.terminated)


def motorway(
    horizon: int = 40,
    cars: int = 10,
    lanes: int = 3,
    *,
    lowest_grip: float = 0.06,
    highest_grip: float = 1.0,
    lowest_braking: float = 1.0,
    highest_braking: float = 6.0,
    shortest_ring: float = 400.0,
    longest_ring: float = 800.0,
    blocked_share: float = 0.5,
    collision_cost: float = 10.0,
    shifted: bool = False,
) -> EnvFamily:
    """Make a family of ring roads with random manners of drivers, density, lanes and grip.

    The grip and the hardest braking of drivers are uniform on a logarithmic scale. The other numbers are uniform: the
    mean desired speed (14 to 22 metres per second), the time headway (1 to 2 seconds), the politeness (0 to 0.5), the
    length of the ring, and the number of open lanes (2 to ``lanes``).

    If ``shifted`` is true, held-out roads are more slippery than all training roads (0.6 to 1 times the lowest grip),
    and their drivers are more aggressive. Their hardest braking is 0.6 to 1 times the lowest one of training, they keep
    headways of 0.6 to 1 seconds, and they are impolite (politeness -0.2 to 0).

    An episode is a success if it ends without a collision.

    Args:
        horizon: The number of steps of an episode without a collision.
        cars: The number of other cars.
        lanes: The largest number of open lanes, at least 2.
        lowest_grip: The lowest grip of training roads.
        highest_grip: The highest grip of training roads.
        lowest_braking: The lowest limit of the braking of drivers on training roads, in metres per second squared.
        highest_braking: The highest limit of the braking of drivers on training roads.
        shortest_ring: The length of the shortest ring in metres, where cars are densest.
        longest_ring: The length of the longest ring in metres.
        blocked_share: The share of roads on which a car has broken down.
        collision_cost: The cost of a collision, in units of 100 m.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.driving.motorway()
        >>> family.horizon, family.observation_space.shape, family.action_space.n
        (40, (17,), 6)
    """
    horizon, shifted = positive_int("horizon", horizon), boolean("shifted", shifted)
    cars, lanes = positive_int("cars", cars), whole(at_least=2)("lanes", lanes)
    lowest_grip = real(at_least=0.01, at_most=1)("lowest_grip", lowest_grip)
    highest_grip = real(at_least=lowest_grip, at_most=1)("highest_grip", highest_grip)
    lowest_braking = real(at_least=0.1)("lowest_braking", lowest_braking)
    highest_braking = real(at_least=lowest_braking)("highest_braking", highest_braking)
    # A lane begins with at most half of the cars, and neighbours are at least half of their mean distance apart.
    least = 2 * (CAR + STANDSTILL) * ((cars + 2) // 2)
    shortest_ring = real(at_least=least)("shortest_ring", shortest_ring, f" for {cars} cars")
    longest_ring = real(at_least=shortest_ring)("longest_ring", longest_ring)
    blocked_share = real(at_least=0, at_most=1)("blocked_share", blocked_share)
    env = Motorway(cars, lanes, real(at_least=0)("collision_cost", collision_cost))

    def sampler(outside: bool) -> Callable[[Key], Traffic]:
        def sample(key: Key) -> Traffic:
            u = jax.random.uniform(key, (8,), jnp.float32)

            def between(i: int, low: float, high: float) -> Array:
                return low + (high - low) * u[i]

            if outside:
                grip, braking = between(0, 0.6, 1.0) * lowest_grip, between(1, 0.6, 1.0) * lowest_braking
                headway, politeness = between(2, 0.6, 1.0), between(3, -0.2, 0.0)
            else:
                grip = lowest_grip * (highest_grip / lowest_grip) ** u[0]
                braking = lowest_braking * (highest_braking / lowest_braking) ** u[1]
                headway, politeness = between(2, 1.0, 2.0), between(3, 0.0, 0.5)
            return Traffic(
                speed=between(4, 14.0, 22.0),
                headway=headway,
                politeness=politeness,
                braking=braking,
                grip=grip,
                length=between(5, shortest_ring, longest_ring),
                lanes=jnp.minimum(2 + (u[6] * (lanes - 1)).astype(jnp.int32), lanes),
                blocked=u[7] < blocked_share,
                max_steps_in_episode=horizon,
            )

        return sample

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sampler(False), sampler(shifted)),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        success=_without_collision,
    )
