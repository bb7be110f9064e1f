"""Success rates of trained learners on Meta-World, by two rules: ``per_goal``, and Meta-World's own, ``official``.

``attempt`` lets a learner adapt to every goal of a split and then play some episodes. Every one of these evaluation
episodes starts from the learner as it was after adaptation. Both rules count the same episodes:

* ``per_goal`` counts every episode once. An episode is a success if any of its steps is.
* ``official`` is the rule of ``metaworld.evaluation``. The environments of a skill are stepped together, a success ends
  an episode, and the next one begins at once. The first three episodes to finish are counted for each skill.

A success finishes before a failure, which takes the whole horizon, so ``official`` overstates rare success. For
example, let a learner always succeed within a third of the horizon on 10 % of the goals, and never on others. Four
environments of a skill then count three successes if one of them has such a goal, which has the probability
``1 - 0.9 ** 4``, 34 %. With the 20 environments of one skill of ML1 it is 88 %.

Every rate is reported together with the horizon, which is 500 steps in Meta-World.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from metarl_jax.agents import Agent
from metarl_jax.batching import map_tasks
from metarl_jax.checks import choice, positive_int
from metarl_jax.environments.manipulation import Goals, Manipulation
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.rollout import episode, no_action
from metarl_jax.types import (
    Acting,
    Algorithm,
    Array,
    Box,
    Carry,
    EnvFamily,
    Inputs,
    Key,
    Params,
    State,
    Task,
    Transition,
)

Split: TypeAlias = Literal["heldout", "validation", "training"]
"""The goals on which a learner is evaluated."""


@dataclass(frozen=True)
class Attempts:
    """The outcomes of N evaluation episodes on each of G goals. ``print`` shows the success rates by both rules."""

    steps: NDArray[np.int64]
    """``[G, N]``: the step of the first success of each episode, from 1 to the horizon; 0 if there is no success."""
    skills: tuple[str, ...]
    """The name of the skill of each goal, G names. All goals of a skill follow each other, and each skill has as many
    goals."""
    horizon: int
    """The number of steps of an episode."""

    def __str__(self) -> str:
        counted, (goals, episodes) = per_goal(self), self.steps.shape
        skills = len(counted.by_skill)
        environments = skills * min(max(20 // skills, 1), goals // skills)
        finished = official(self, environments=environments, evaluation_episodes=min(3, episodes))
        low, high = counted.interval
        return (
            f"horizon {self.horizon}, {goals} goals: per goal {counted.rate:.1%} ({low:.1%} to {high:.1%}), {episodes} "
            f"episodes each; official rule {finished.rate:.1%}, {environments} environments"
        )


class SuccessRate(NamedTuple):
    """A success rate by the official rule."""

    rate: float
    """The mean over skills."""
    by_skill: dict[str, float]
    """The success rate of each skill."""


class RatePerGoal(NamedTuple):
    """A success rate in which every episode counts once."""

    rate: float
    """The mean over goals, and thereby over skills."""
    by_skill: dict[str, float]
    """The success rate of each skill."""
    interval: tuple[float, float]
    """The 95 % interval over goals; NaN if there is one goal only."""


def per_goal(attempts: Attempts) -> RatePerGoal:
    """Return the share of successful episodes, each counted once. It is unbiased."""
    succeeded = (attempts.steps > 0).mean(axis=1)
    rate, interval = float(succeeded.mean()), (np.nan, np.nan)
    if len(succeeded) > 1:
        estimate = mean_with_interval(succeeded)
        interval = estimate.low, estimate.high
    return RatePerGoal(
        rate, {name: float(succeeded[rows].mean()) for name, rows in _by_skill(attempts).items()}, interval
    )


def official(
    attempts: Attempts, *, environments: int = 20, evaluation_episodes: int = 3, assignments: int = 100
) -> SuccessRate:
    """Return the success rate by the rule of ``metaworld.evaluation.metalearning_evaluation``.

    In Meta-World the environments of a skill have one goal each in a round, and goals are assigned to rounds at random.
    The result is the mean over a fixed random sample of such assignments. Goals that do not fill a round are left out.

    Args:
        attempts: the outcomes of at least ``evaluation_episodes`` episodes on each goal.
        environments: the number of environments of all skills that are stepped together, 20 in Meta-World.
        evaluation_episodes: the number of episodes of a skill that are counted in a round: the first ones to finish.
        assignments: the number of assignments of goals to rounds.

    Raises:
        ValueError: if a number is not a positive whole number, if ``environments`` is not a multiple of the number of
            skills or needs more goals of a skill than there are, or if there are too few episodes on each goal.
    """
    for name, number in (
        ("environments", environments),
        ("evaluation_episodes", evaluation_episodes),
        ("assignments", assignments),
    ):
        positive_int(name, number)
    skills, episodes = _by_skill(attempts), attempts.steps.shape[1]
    if episodes < evaluation_episodes:
        raise ValueError(
            f"evaluation_episodes ({evaluation_episodes}) must be at most the number of episodes on each goal "
            f"({episodes}), because one environment may play all episodes that are counted"
        )
    together, rest = divmod(environments, len(skills))
    if rest or not together:
        raise ValueError(f"environments ({environments}) must be a multiple of the number of skills ({len(skills)})")
    random = np.random.default_rng(0)
    by_skill = {}
    for name, rows in skills.items():
        rounds = len(rows) // together
        if not rounds:
            raise ValueError(
                f"environments ({environments}) are {together} for each skill, but {name} has {len(rows)} goals"
            )
        order = random.permuted(np.broadcast_to(rows, (assignments, len(rows))), axis=1)
        drawn = order[:, : rounds * together].reshape(assignments, rounds, together)
        by_skill[name] = float(_first_finished(attempts.steps[drawn], attempts.horizon, evaluation_episodes).mean())
    return SuccessRate(float(np.mean([*by_skill.values()])), by_skill)


def _by_skill(attempts: Attempts) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each skill's goals."""
    names = np.array(attempts.skills)
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(attempts.skills)}


def _first_finished(steps: NDArray[np.int64], horizon: int, number: int) -> NDArray[np.float64]:
    """Return the share of successes among the first ``number`` episodes to finish.

    Args:
        steps: ``[..., environments, episodes]``, as ``Attempts.steps``: consecutive episodes of each environment.
        horizon: the number of steps of an episode without success.
        number: the number of episodes that are counted. Where several finish at the same step, those of the first
            environments are counted.
    """
    finished = np.cumsum(np.where(steps > 0, steps, horizon), axis=-1)
    together = (*steps.shape[:-2], -1)
    first = np.argsort(finished.reshape(together), axis=-1, kind="stable")[..., :number]
    return np.take_along_axis(steps.reshape(together) > 0, first, axis=-1).mean(axis=-1)


def attempt(
    key: Key,
    algorithm: Algorithm,
    state: State,
    family: EnvFamily,
    *,
    episodes: int = 3,
    adaptation_episodes: int = 10,
    adaptation_steps: int = 1,
    explorer: Algorithm | None = None,
    split: Split = "heldout",
    batch_size: int = 50,
) -> Attempts:
    """Let a trained learner adapt to each goal of a split, and play evaluation episodes on it.

    All episodes have the whole horizon, because an episode that a success would end differs only after that success.

    Args:
        key: a random key that training did not use.
        algorithm: the algorithm, which acts in evaluation episodes.
        state: ``Training.state`` of one seed, or the state of the algorithm itself.
        family: a family of ``environments.manipulation``.
        episodes: the number N of evaluation episodes on each goal.
        adaptation_episodes: the number of episodes of each step of adaptation. A learner with a memory is usually
            trained with one evaluation episode after them, in trials of ``adaptation_episodes + 1`` episodes.
        adaptation_steps: the number of steps of adaptation. After each of them a learner by gradient descent takes one
            gradient step, and a learner with a memory goes on.
        explorer: the same learner with other settings, which acts in adaptation episodes. In the published evaluation,
            actions are samples there and the most likely ones in evaluation (the setting ``deterministic``). None:
            ``algorithm`` acts in all episodes.
        split: the goals: "heldout" for a result that is reported, "validation", or "training".
        batch_size: the largest number of goals that are vectorised.

    Raises:
        TypeError: if the family is not one of ``environments.manipulation``, or the state does not belong to the
            algorithm.
        ValueError: if the algorithm or the explorer does not act, the state is that of several seeds, a number is not a
            positive whole number, or the split is another one.
    """
    for name, number in (
        ("episodes", episodes),
        ("adaptation_episodes", adaptation_episodes),
        ("adaptation_steps", adaptation_steps),
        ("batch_size", batch_size),
    ):
        positive_int(name, number)
    choice("heldout", "validation", "training")("split", split)
    env, tasks = family.env, family.tasks
    goals = {"heldout": tasks.sample_heldout, "validation": tasks.validation, "training": tasks.sample}[split]
    if not (isinstance(env, Manipulation) and isinstance(goals, Goals) and family.success is not None):
        raise TypeError("these evaluations are for families of environments.manipulation, whose goals are listed")
    params = Agent(algorithm, state, family).params
    acting, exploring = algorithm.acting, (algorithm if explorer is None else explorer).acting
    if acting is None or exploring is None:
        raise ValueError("the explorer does not act")
    one_goal = _one_goal(family, acting, exploring, episodes, adaptation_episodes, adaptation_steps)
    program = jax.jit(map_tasks(one_goal, in_axes=(0, 0, None)))
    number = len(goals.places)
    batch = min(batch_size, number)
    keys, found = jax.random.split(key, number), []
    for begin in range(0, number, batch):
        # The last batch is filled up with goals of the beginning, whose outcomes are discarded.
        rows = np.arange(begin, begin + batch) % number
        found.append(program(keys[rows], jax.tree.map(lambda x, rows=rows: x[rows], goals.tasks), params))
    steps = np.concatenate([np.asarray(part, np.int64) for part in found])[:number]
    return Attempts(steps, tuple(env.skills[index].name for index in np.asarray(goals.skill)), goals.horizon)


def _one_goal(
    family: EnvFamily, acting: Acting, exploring: Acting, episodes: int, adaptation_episodes: int, adaptation_steps: int
) -> Callable[[Key, Task, Params], Array]:
    """Return ``(key, task, parameters) -> [episodes]`` int32, a row of ``Attempts.steps``."""
    success, space = family.success, family.observation_space
    assert success is not None
    assert isinstance(space, Box)
    no_obs = jnp.zeros(space.shape, jnp.float32)

    def play(
        who: Acting, key: Key, params: Params, memory: Carry, before: Inputs, task: Task
    ) -> tuple[Carry, Transition]:
        """Play an episode that follows another one; ``before.obs`` is the final observation of that one."""

        def act(key: Key, memory: Carry, inputs: Inputs) -> tuple[Carry, Array, Any]:
            begins, obs = inputs.first, inputs.obs
            final_obs = jnp.where(jnp.logical_and(begins, jnp.logical_not(before.first)), before.obs, obs)
            first = before._replace(obs=obs)
            inputs = jax.tree.map(lambda then, now: jnp.where(begins, then, now), first, inputs)
            return who.act(key, params, memory, inputs, final_obs)

        return episode(key, act, memory, family, task)

    def adapted(key: Key, task: Task, params: Params) -> tuple[Carry, Inputs]:
        """Return the memory after adaptation, and the inputs that follow."""
        key_start, key_play = jax.random.split(key)
        first = Inputs(no_obs, no_action(family.action_space), jnp.float32(0), jnp.float32(0), jnp.bool_(True))

        def one_episode(now: tuple[Carry, Inputs], key: Key) -> tuple[tuple[Carry, Inputs], Transition | None]:
            memory, t = play(exploring, key, params, *now, task)
            # No episode ends before the horizon.
            action, reward, final_obs = (x[-1] for x in (t.action, t.reward, t.final_obs))
            after = Inputs(final_obs, action, reward, jnp.float32(1), jnp.bool_(False))
            return (memory, after), t if exploring.learn is not None else None

        def one_step(now: tuple[Carry, Inputs], keys: Key) -> tuple[tuple[Carry, Inputs], None]:
            (memory, before), played = jax.lax.scan(one_episode, now, keys)
            if exploring.learn is not None and played is not None:
                memory = exploring.learn(params, memory, played)
            return (memory, before), None

        keys = jax.random.split(key_play, (adaptation_steps, adaptation_episodes))
        return jax.lax.scan(one_step, (exploring.start(key_start, params), first), keys)[0]

    def one_goal(key: Key, task: Task, params: Params) -> Array:
        key_adapt, key_test = jax.random.split(key)
        memory, before = adapted(key_adapt, task, params)

        def first_success(key: Key) -> Array:
            _, t = play(acting, key, params, memory, before, task)
            reached = jax.vmap(success, (None, 0))(task, t)
            return jnp.where(jnp.any(reached), jnp.argmax(reached) + 1, 0).astype(jnp.int32)

        return jax.vmap(first_success)(jax.random.split(key_test, episodes))

    return one_goal
