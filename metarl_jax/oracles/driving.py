"""Drivers without meta-learning, as reference learners for ``environments.driving``.

The drivers follow a rule: they keep their distance by the intelligent driver model (IDM), and change lanes by MOBIL, as
the other cars do. They also limit their speed, so that they can brake in the distance that they see. The rule has
numbers (``Rule``) that depend on the task; the drivers differ in what they know about them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.driving import (
    ACCELERATIONS,
    ADHESION,
    BRAKE,
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
    changes,
    driver,
    idm,
    mobil,
)
from metarl_jax.oracles.base import of_trials
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.types import Adaptation, Array, Carry, EnvFamily, Inputs, Key, Oracle, State, Task, Transition

HEADWAY = 0.5
"""The time headway of the rules in seconds."""
BOLDNESS = 4.0
"""The braking that a change of lanes may require by IDM, as a multiple of the hardest possible braking. IDM brakes
harder than necessary at small gaps, so that multiples above 1 are safe enough."""
CANDIDATES = tuple(itertools.product((0.1, 0.2, 0.4, 0.7), (3.0,), (0.0, 3.0, 6.0), (2.0, 4.0, 8.0)))
"""The numbers of the fixed rules that are tried (``Rule``)."""
TASKS = 256
"""The number of training tasks on which the numbers of the fixed rule are chosen."""


class Rule(NamedTuple):
    """The numbers of a rule."""

    grip: Array
    """The assumed grip of the road."""
    braking: Array
    """The assumed hardest braking of other drivers, in metres per second squared."""
    beyond: Array
    """The assumed speed of cars that are out of sight, in metres per second."""
    boldness: Array
    """The braking that a change of lanes may require, as a multiple of the hardest possible braking."""


def speed_limit(rule: Rule) -> Array:
    """Return the largest speed from which the ego car can brake to ``rule.beyond`` within the distance ``SEEN``."""
    return rule.beyond + jnp.sqrt(2 * ADHESION * rule.grip * SEEN)


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
    # Neither the ego car nor the new follower may have to brake too hard.
    change = change._replace(is_free=change.is_free & (ahead[1:] >= -rule.boldness * limit))
    side = mobil(change, jnp.float32(0), rule.boldness * jnp.minimum(rule.braking, limit))
    wanted = jnp.minimum(ahead[0], speed_limit(rule) - speed)
    possible = jnp.clip(jnp.array(ACCELERATIONS[: BRAKE + 1], jnp.float32), -limit, TRACTION * rule.grip)
    along = jnp.argmin(jnp.abs(possible - wanted)).astype(jnp.int32)
    return jnp.where(side > 0, LEFT, jnp.where(side < 0, RIGHT, along)).astype(jnp.int32)


def rule_of(task: Traffic) -> Rule:
    """Return the rule of a driver who takes a task for the true one: no car ahead is slower than the slowest driver."""
    return Rule(task.grip, task.braking, (1 - SPREAD) * task.speed, jnp.float32(BOLDNESS))


def _environment(family: EnvFamily) -> Motorway:
    if not isinstance(family.env, Motorway):
        raise ValueError(f"family must be one of environments.driving, not one of {type(family.env).__name__}")
    return family.env


def _training_tasks(family: EnvFamily) -> Traffic:
    return jax.jit(lambda key: family.tasks.sample_distinct(key, TASKS))(jax.random.key(1))


def mean_task(family: EnvFamily) -> Traffic:
    """Return the mean of ``TASKS`` training tasks; that of grips and of limits of braking is the geometric mean.

    Raises:
        ValueError: if the family is another one.
    """
    _environment(family)
    tasks = _training_tasks(family)
    grip, braking = (jnp.exp(jnp.mean(jnp.log(x))) for x in (tasks.grip, tasks.braking))
    mean: Traffic = jax.tree.map(lambda x: jnp.mean(x, dtype=jnp.float32), tasks)
    return mean.replace(grip=grip, braking=braking)


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


def _make(name: str, family: EnvFamily, episodes: int, start: Callable[[Task], tuple[Rule, Estimate | None]]) -> Oracle:
    """Make an oracle that drives by a rule.

    Args:
        name: the name of the oracle.
        family: the family of tasks.
        episodes: the number of episodes of a trial.
        start: ``task -> (rule, bounds of the grip)``. Without bounds, the assumed grip does not change.
    """
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def run(key: Key, task: Task) -> tuple[Carry, Transition]:
        rule, bounds = start(task)

        def act(key: Key, memory: Estimate | None, inputs: Inputs) -> tuple[Estimate | None, Array, tuple[()]]:
            del key
            near, speed, change = env.seen(inputs.obs)
            if memory is None:
                return None, decide(rule, near, speed), ()
            new = memory.observe(speed, change)
            # The first observation of an episode shows no change of the speed.
            known = jnp.logical_or(inputs.first, inputs.prev_done > 0)
            memory = jax.tree.map(lambda old, new: jnp.where(known, old, new), memory, new)
            action = decide(rule._replace(grip=memory.grip), near, speed)
            return memory._replace(action=action), action, ()

        return trial(key, act, bounds, family, task, episodes)

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        del state
        steps = run(key, task)[1]
        return Adaptation(episode_returns(steps, episodes), (), episode_successes(steps, family, task, episodes))

    return of_trials(name, episodes, run)._replace(adapt=adapt)


def mean(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule of a driver who takes every road for the mean of training roads.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    rule = rule_of(mean_task(family))
    return _make("rule, mean road", family, episodes, lambda task: (rule, None))


def best_fixed_rule(family: EnvFamily) -> Rule:
    """Return the rule with the highest mean return on training tasks, among ``CANDIDATES``.

    Each rule drives one episode on each of ``TASKS`` training tasks. All rules have the same tasks and random keys.

    Raises:
        ValueError: if the family is another one.
    """
    _environment(family)
    candidates = jnp.array(CANDIDATES, jnp.float32)
    tasks, keys = _training_tasks(family), jax.random.split(jax.random.key(2), TASKS)

    def value(numbers: Array) -> Array:
        oracle = _make("", family, 1, lambda task: (Rule(*numbers), None))
        return jnp.mean(jax.vmap(lambda key, task: oracle.adapt(key, (), task).score[0])(keys, tasks))

    values = jax.jit(lambda candidates: jax.lax.map(value, candidates))(candidates)
    return Rule(*candidates[jnp.argmax(values)])


def fixed(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule with the same numbers on all roads that is best on training roads (``best_fixed_rule``).

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    rule = best_fixed_rule(family)
    return _make("rule, best fixed numbers", family, episodes, lambda task: (rule, None))


def estimated(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule of a driver who measures the grip by the accelerations of the own car.

    The driver knows the range of grips of training roads, and takes the geometric mean of the bounds that are known so
    far. Otherwise the driver takes the road for the mean of training roads.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    rule, grips = rule_of(mean_task(family)), _training_tasks(family).grip
    bounds = Estimate(jnp.min(grips), jnp.max(grips), jnp.int32(KEEP))
    return _make("rule, grip measured", family, episodes, lambda task: (rule, bounds))


def known(family: EnvFamily, episodes: int) -> Oracle:
    """Make the rule of a driver who knows the road and the manners of its drivers.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _make("rule, road known", family, episodes, lambda task: (rule_of(task), None))
