"""Drivers without meta-learning, as reference learners for ``environments.driving``.

The drivers follow a rule: they keep their distance by the intelligent driver model (IDM), and change lanes by MOBIL, as
the other cars do; a change is safe if the deceleration that it requires is possible (``required``). They also limit
their speed, so that they can brake in the distance that they see. The rule has numbers (``Rule``) that depend on the
task; the drivers differ in what they know about them. One driver improves on the rule by planning (``look_ahead``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.driving import (
    ACCELERATIONS,
    ADHESION,
    BRAKE,
    BROKEN,
    CAR,
    FAR,
    FASTER,
    KEEP,
    LEFT,
    RIGHT,
    SEEN,
    SPREAD,
    STEP,
    TOP,
    TRACTION,
    Around,
    Motorway,
    Traffic,
    TrafficState,
    changes,
    driver,
    idm,
    mobil,
)
from metarl_jax.oracles.base import at_first_use, of_trials
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.types import Adaptation, Array, Carry, EnvFamily, Inputs, Key, Oracle, State, Task, Transition

HEADWAY = 0.5
"""The time headway of the rules in seconds."""
BOLDNESS = 0.8
"""The largest braking that a change of lanes may require, as a share of the hardest possible one. It is the best of
0.4, 0.8, 1.5 and 4 on training tasks."""
CANDIDATES = tuple(itertools.product((0.2, 0.4, 0.7), (3.0,), (0.0, 3.0, 6.0)))
"""The numbers of the fixed rules that are tried (``Rule``)."""
AHEAD = 8
"""The number of steps that ``look_ahead`` simulates."""
MARGIN = 0.7
"""The smallest gain for which ``look_ahead`` prefers an action to that of the rule; of 0.1, 0.4 and 1 on training
tasks, the last two are about equally good. The value between them was not tried."""
TASKS = 512
"""The number of training tasks on which the numbers of the fixed rule are chosen."""


class Rule(NamedTuple):
    """The numbers of a rule."""

    grip: Array
    """The assumed grip of the road."""
    braking: Array
    """The assumed hardest braking of other drivers, in metres per second squared."""
    beyond: Array
    """The assumed speed of cars that are out of sight, in metres per second."""


def speed_limit(rule: Rule) -> Array:
    """Return the largest speed from which the ego car can brake to ``rule.beyond`` within the distance ``SEEN``."""
    return rule.beyond + jnp.sqrt(2 * ADHESION * rule.grip * SEEN)


def required(closing: Array, gap: Array) -> Array:
    """Return the constant deceleration that a car needs, so that it does not reach the car ahead.

    Args:
        closing: the speed of the car, relative to the car ahead, ``[...]``.
        gap: the gap, ``[...]``; gaps below 0.5 m count as 0.5 m.
    """
    return jnp.square(jnp.maximum(closing, 0.0)) / (2 * jnp.maximum(gap, 0.5))


def decide(rule: Rule, near: Around, speed: Array) -> Array:
    """Return the action of a rule, ``int32``.

    Args:
        rule: its numbers.
        near: the cars around the ego car.
        speed: the speed of the ego car.
    """
    limit, top = ADHESION * rule.grip, jnp.float32(TOP)
    drivers = driver(jnp.float32(HEADWAY), rule.grip)
    ego = drivers._replace(acceleration=jnp.minimum(ACCELERATIONS[FASTER], TRACTION * rule.grip))
    change = changes(near, ego, drivers, speed, top)
    ahead = idm(ego, speed, top, near.gap_ahead, near.ahead)
    # The braking that a change requires of the ego car and of the new follower must be possible.
    own = required(speed - near.ahead, near.gap_ahead) <= BOLDNESS * limit
    follower = required(near.behind - speed, near.gap_behind) <= BOLDNESS * jnp.minimum(rule.braking, limit)
    change = change._replace(is_free=change.is_free & own[1:] & follower[1:])
    side = mobil(change, jnp.float32(0), jnp.float32(jnp.inf))
    wanted = jnp.minimum(ahead[0], speed_limit(rule) - speed)
    possible = jnp.clip(jnp.array(ACCELERATIONS[: BRAKE + 1], jnp.float32), -limit, TRACTION * rule.grip)
    along = jnp.argmin(jnp.abs(possible - wanted)).astype(jnp.int32)
    return jnp.where(side > 0, LEFT, jnp.where(side < 0, RIGHT, along)).astype(jnp.int32)


def rule_of(task: Traffic) -> Rule:
    """Return the rule of a driver who takes a task for the true one: no car ahead is slower than the slowest driver."""
    return Rule(task.grip, task.braking, (1 - SPREAD) * task.speed)


def _environment(family: EnvFamily) -> Motorway:
    if not isinstance(family.env, Motorway):
        raise ValueError(f"family must be one of environments.driving, not one of {type(family.env).__name__}")
    return family.env


def _training_tasks(family: EnvFamily) -> Traffic:
    _environment(family)
    return jax.jit(lambda key: family.tasks.sample_distinct(key, TASKS))(jax.random.key(1))


def mean_task(family: EnvFamily) -> Traffic:
    """Return the mean of ``TASKS`` training tasks; that of grips and of limits of braking is the geometric mean.

    Raises:
        ValueError: if the family is another one.
    """
    tasks = _training_tasks(family)
    grip, braking = (jnp.exp(jnp.mean(jnp.log(x))) for x in (tasks.grip, tasks.braking))
    mean: Traffic = jax.tree.map(lambda x: jnp.mean(x, dtype=jnp.float32), tasks)
    return dataclasses.replace(mean, grip=grip, braking=braking)


class Estimate(NamedTuple):
    """Bounds of the grip, from the accelerations of the ego car."""

    low: Array
    """The grip is at least this."""
    high: Array
    """The grip is at most this."""
    action: Array
    """The last action, ``int32``."""

    @property
    def grip(self) -> Array:
        """The geometric mean of the bounds."""
        return jnp.sqrt(self.low * self.high)

    def observe(self, speed: Array, change: Array) -> Estimate:
        """Return the bounds after a step, in which the grip may have limited the acceleration.

        Args:
            speed: the speed of the ego car after the step.
            change: the change of its speed in the step.
        """
        wished = jnp.array(ACCELERATIONS, jnp.float32)[self.action]
        reached = jnp.abs(change) / STEP
        shown = reached / jnp.where(wished > 0, TRACTION, ADHESION)
        # A car that stops or that is at its top speed does not show what the grip allows.
        free = (wished != 0) & (speed > 0) & (speed < TOP)
        limited = free & (reached < 0.99 * jnp.abs(wished))
        low = jnp.where(free, jnp.maximum(self.low, shown), self.low)
        high = jnp.where(limited, shown, self.high)
        return Estimate(jnp.minimum(low, high), jnp.maximum(low, high), self.action)


def imagined(near: Around, speed: Array, task: Traffic) -> tuple[TrafficState, Traffic]:
    """Return a state with the cars that the ego car sees, and no others, on an endless road.

    Other drivers are assumed to desire the speeds that they have, and to stay in their lanes.

    Args:
        near: the cars around the ego car.
        speed: the speed of the ego car.
        task: the traffic; the length and the number of lanes are replaced.

    Returns:
        The state, with six other cars, and the traffic. A car that is not seen is ``FAR`` away, where it does not
        matter.
    """
    away = jnp.concatenate([jnp.zeros(1, jnp.float32), near.gap_ahead + CAR, -near.gap_behind - CAR])
    right = near.is_open[2].astype(jnp.int32)
    side = jnp.array([0, 0, 1, -1, 0, 1, -1], jnp.int32)
    speeds = jnp.concatenate([speed[None], near.ahead, near.behind])
    desired = jnp.maximum(speeds, 2 * BROKEN).at[0].set(TOP)
    length, zero = jnp.float32(4 * FAR), jnp.float32(0)
    place = away / length
    state = TrafficState(place - jnp.floor(place), speeds, right + side, desired, zero, jnp.int32(6))
    lanes = 1 + right + near.is_open[1].astype(jnp.int32)
    return state, dataclasses.replace(task, length=length, lanes=lanes)


def look_ahead(env: Motorway, near: Around, speed: Array, task: Traffic) -> Array:
    """Return the action with the highest return in a simulation that continues with the rule, ``int32``.

    Each action is tried on the cars that the ego car sees, for ``AHEAD`` steps (rollouts: Bertsekas 2013). No action
    but those of the rule may exceed the rule's limit of the speed. Another action than that of the rule must be better
    by ``MARGIN``, because the cars that are out of sight are not in the simulation.

    Args:
        env: the environment.
        near: the cars around the ego car.
        speed: the speed of the ego car.
        task: the traffic, as the driver knows or assumes it.
    """
    rule = rule_of(task)
    # It would be the turn of cars 7 and later to decide about a change of lanes. They do not exist, so nobody does.
    model = Motorway(7 + AHEAD, env.lanes, env.collision_cost)
    start, traffic = imagined(near, speed, task)
    key = jax.random.key(0)
    first = decide(rule, near, speed)

    def value(action: Array) -> Array:
        def step(carry: tuple[TrafficState, Array, Array], none: None) -> tuple[Any, Array]:
            del none
            state, action, alive = carry
            obs, state, reward, hit, _ = model.step_env(key, state, action, traffic)
            near, speed, _ = model.seen(obs)
            after = state, decide(rule, near, speed), alive & jnp.logical_not(hit)
            return after, jnp.where(alive, reward, 0.0)

        (_, _, alive), rewards = jax.lax.scan(step, (start, action, jnp.bool_(True)), None, AHEAD)
        # A car that drives on has a value that a collision ends.
        return jnp.sum(rewards) + 0.2 * AHEAD * alive

    values = jax.vmap(value)(jnp.arange(len(ACCELERATIONS), dtype=jnp.int32))
    reached = speed + jnp.clip(jnp.array(ACCELERATIONS, jnp.float32), -ADHESION * rule.grip, TRACTION * rule.grip)
    index = jnp.arange(len(ACCELERATIONS))
    allowed = (reached <= jnp.maximum(speed_limit(rule), speed)) | (index == first)
    values = jnp.where(allowed, values, -jnp.inf) + MARGIN * (index == first)
    return jnp.argmax(values).astype(jnp.int32)


def _make(
    name: str,
    family: EnvFamily,
    episodes: int,
    start: Callable[[Task], tuple[Any, Estimate | None]],
    choose: Callable[[Any, Around, Array], Array],
) -> Oracle:
    """Make an oracle that drives by its knowledge of the task or by an assumption.

    Args:
        name: the name of the oracle.
        family: the family of tasks.
        episodes: the number of episodes of a trial.
        start: ``task -> (what the driver assumes, bounds of the grip)``. With bounds, the assumption is a ``Traffic``
            whose grip is replaced by the estimate of each step.
        choose: ``(assumption, cars around the ego car, its speed) -> action``.
    """
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def run(key: Key, task: Task) -> tuple[Carry, Transition]:
        assumed, bounds = start(task)

        def act(key: Key, memory: Estimate | None, inputs: Inputs) -> tuple[Estimate | None, Array, tuple[()]]:
            del key
            near, speed, change = env.seen(inputs.obs)
            if memory is None:
                return None, choose(assumed, near, speed), ()
            # The first observation of an episode shows no change of the speed.
            starts = jnp.logical_or(inputs.first, inputs.prev_done > 0)
            observed = memory.observe(speed, change)
            memory = Estimate(*(jnp.where(starts, old, new) for old, new in zip(memory, observed, strict=True)))
            action = choose(dataclasses.replace(assumed, grip=memory.grip), near, speed)
            return memory._replace(action=action), action, ()

        return trial(key, act, bounds, family, task, episodes)

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del state
        steps = run(key, task)[1]
        return Adaptation(episode_returns(steps, episodes), (), episode_successes(steps, family, task, episodes))

    return of_trials(name, episodes, run)._replace(adapt=adapt)


def _by_rule(assumed: Traffic, near: Around, speed: Array) -> Array:
    return decide(rule_of(assumed), near, speed)


def _by_planning(family: EnvFamily) -> Callable[[Traffic, Around, Array], Array]:
    env = _environment(family)
    return lambda assumed, near, speed: look_ahead(env, near, speed, assumed)


def mean(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule of a driver who takes every road for the mean of training roads.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    road = at_first_use(lambda: mean_task(family))
    return _make("rule, mean road", family, episodes, lambda task: (road(), None), _by_rule)


def best_fixed_rule(family: EnvFamily) -> Rule:
    """Return the rule with the highest mean return on training tasks, among ``CANDIDATES``.

    Each rule drives one episode on each of ``TASKS`` training tasks. All rules have the same tasks and random keys.

    Raises:
        ValueError: if the family is another one.
    """
    tasks, keys = _training_tasks(family), jax.random.split(jax.random.key(2), TASKS)
    candidates = jnp.array(CANDIDATES, jnp.float32)

    def value(numbers: Array) -> Array:
        oracle = _make("", family, 1, lambda task: (Rule(*numbers), None), decide)
        return jnp.mean(jax.vmap(lambda key, task: oracle.adapt(key, (), task).score[0])(keys, tasks))

    values = jax.jit(lambda candidates: jax.lax.map(value, candidates))(candidates)
    return Rule(*candidates[jnp.argmax(values)])


def fixed(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule with the same numbers on all roads that is best on training roads (``best_fixed_rule``).

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    rule = at_first_use(lambda: best_fixed_rule(family))
    return _make("rule, best fixed numbers", family, episodes, lambda task: (rule(), None), decide)


def _measuring(family: EnvFamily) -> tuple[Traffic, Estimate]:
    """Return the mean of training roads, and the range of their grips."""
    grips = _training_tasks(family).grip
    return mean_task(family), Estimate(jnp.min(grips), jnp.max(grips), jnp.int32(KEEP))


def measured(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule of a driver who measures the grip by the accelerations of the own car.

    The driver knows the range of grips of training roads, and takes the geometric mean of the bounds that are known so
    far. Otherwise the driver takes the road for the mean of training roads.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    start = at_first_use(lambda: _measuring(family))
    return _make("rule, grip measured", family, episodes, lambda task: start(), _by_rule)


def known(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule of a driver who knows the road and the manners of its drivers.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _make("rule, road known", family, episodes, lambda task: (task, None), _by_rule)


def planned_measured(family: EnvFamily, episodes: int) -> Oracle:
    """Make a driver who measures the grip as ``measured`` does, and plans (``look_ahead``).

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    start = at_first_use(lambda: _measuring(family))
    return _make("planning, grip measured", family, episodes, lambda task: start(), _by_planning(family))


def planned(family: EnvFamily, episodes: int) -> Oracle:
    """Make a driver who knows the road and the manners of its drivers, and plans (``look_ahead``).

    The driver sees no more than others.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _make("planning, road known", family, episodes, lambda task: (task, None), _by_planning(family))
