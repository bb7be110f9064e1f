"""Curricula: tasks of training are chosen by the learner's scores on them, for any algorithm.

``prioritised`` is Prioritised Level Replay (PLR; Jiang et al. 2021, arXiv 2010.03934) and its robust variant (Jiang et
al. 2021, arXiv 2110.02439). It keeps a buffer of tasks with their scores, and gives the algorithm a family whose
``TaskDistribution.sample`` replays tasks of this buffer. The score of a task is computed from the learner's adaptation
to it (``Algorithm.adapt``).

Scores by ``adapt`` cost environment steps of their own. In return, every algorithm can be used as it is: the trials of
an algorithm's own training are inside its ``step``, and only some algorithms have a critic whose errors could be
scores. The additional steps must be counted where learners are compared at equal steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.batching import map_tasks
from metarl_jax.precision import narrow
from metarl_jax.settings import Doc, Fraction, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import Acting, Adaptation, Algorithm, Array, EnvFamily, Key, Metrics, Task, Tree
from metarl_jax.types import State as LearnerState

DRAW_KEY, SCORE_KEY = 0x64726177, 0x73636F72
"""The numbers that are folded into a key for the curriculum's own draws. The algorithm gets the key itself, so that it
draws the same numbers as without a curriculum."""


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of Prioritised Level Replay."""

    score: Annotated[
        Literal["regret", "highest_return"],
        Doc(
            'Score of a task. "regret": the exact optimal return minus the learner\'s mean return in the episodes of a '
            'trial; the family must have ``optimal_return``. "highest_return": the highest return of an episode that '
            "the learner has had on the task since it is in the buffer, minus the mean return. This is an estimate of "
            'the regret ("MaxMC" in Jiang et al. 2021, with the mean return in place of the critic\'s values).'
        ),
    ] = "regret"
    buffer_size: Annotated[PositiveInt, Doc("Number of tasks in the buffer.")] = 256
    new_tasks: Annotated[
        PositiveInt,
        Doc("Number of newly drawn tasks that are scored in each meta-iteration and may enter the buffer."),
    ] = 16
    rescored_tasks: Annotated[
        PositiveInt,
        Doc(
            "Number of tasks of the buffer that are scored again in each meta-iteration. They are drawn by the "
            "probabilities of replay."
        ),
    ] = 16
    replay_probability: Annotated[
        Fraction,
        Doc(
            "Probability that a task of training is replayed from the buffer instead of newly drawn. With 1, the "
            "learner is trained only on tasks that were scored before, which is robust PLR. With 0, it is trained as "
            "without a curriculum."
        ),
    ] = 0.5
    temperature: Annotated[
        PositiveFloat,
        Doc(
            "Temperature of replay: a task whose score has rank r is replayed with a probability proportional to "
            "``r ** (-1 / temperature)``. It is 0.1 in Jiang et al. (2021), who replay one task at a time; with 0.1, "
            "nearly all tasks of a meta-iteration would be the first one."
        ),
    ] = 1.0
    staleness_coefficient: Annotated[
        Fraction,
        Doc(
            "Share of the probability of replay that is proportional to the number of meta-iterations since a task was "
            "scored."
        ),
    ] = 0.1

    def check_relations(self) -> None:
        super().check_relations()
        for name in ("new_tasks", "rescored_tasks"):
            if getattr(self, name) > self.buffer_size:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at most buffer_size ({self.buffer_size})")

    @property
    def scored_tasks(self) -> int:
        """Return the number of tasks that are scored in a meta-iteration.

        Each costs the environment steps of one call of ``Algorithm.adapt``.
        """
        return self.new_tasks + self.rescored_tasks


class Buffer(NamedTuple):
    """Tasks that were scored. Every leaf has a leading axis ``[N]``."""

    task: Task
    score: Array
    """The score of each task when it was last scored, ``[N]`` float32."""
    highest: Array
    """The highest return of an episode on each task so far, ``[N]`` float32."""
    scored_at: Array
    """The meta-iteration in which each task was last scored, ``[N]`` int32."""


class State(NamedTuple):
    """The state of an algorithm with a curriculum."""

    learner: LearnerState
    """The state of the algorithm."""
    buffer: Buffer
    iteration: Array
    """The number of completed meta-iterations, ``int32``."""


def replay_probabilities(
    score: Array, staleness: Array, temperature: float | Array, staleness_coefficient: float | Array
) -> Array:
    """Compute the probability of replay of each task (Jiang et al. 2021, arXiv 2010.03934, equations 1 to 3).

    Args:
        score: the scores, ``[N]``. The task with the highest score has rank 1; of equal scores, the first has the lower
            rank.
        staleness: the number of meta-iterations since each task was scored, ``[N]``. If all are 0, the share that is
            due to staleness is uniform.
        temperature: the temperature beta of the ranks: weights are ``(1 / rank) ** (1 / beta)``.
        staleness_coefficient: the share rho of the probabilities that is proportional to staleness.

    Returns:
        Probabilities ``[N]``, float32, which add up to 1.
    """
    order = jnp.argsort(score, descending=True, stable=True)
    rank = jnp.zeros(score.shape, jnp.float32).at[order].set(jnp.arange(1, len(score) + 1, dtype=jnp.float32))
    by_score = jax.nn.softmax(-jnp.log(rank) / temperature)
    age = jnp.asarray(staleness, jnp.float32)
    total = jnp.sum(age)
    by_age = jnp.where(total > 0, age / jnp.where(total > 0, total, 1), 1 / len(score))
    return (1 - staleness_coefficient) * by_score + staleness_coefficient * by_age


def insert(buffer: Buffer, new: Buffer) -> Buffer:
    """Insert new tasks in place of the tasks with the lowest scores, as long as the new score is higher.

    Args:
        buffer: N tasks.
        new: at most N further tasks.

    Returns:
        The N tasks with the highest scores. A new task does not replace one with an equal score.
    """
    highest_first = jnp.argsort(new.score, descending=True)
    lowest_first = jnp.argsort(buffer.score)[: len(new.score)]
    better = new.score[highest_first] > buffer.score[lowest_first]

    def replace(old: Array, other: Array) -> Array:
        return old.at[lowest_first].set(_where(better, other[highest_first], old[lowest_first]))

    return jax.tree.map(replace, buffer, new)


def prioritised(make_algorithm: Callable[[EnvFamily], Algorithm], family: EnvFamily, config: Config) -> Algorithm:
    """Train an algorithm on tasks that are chosen by Prioritised Level Replay.

    ``init`` draws and scores ``config.buffer_size`` tasks. ``step`` trains the algorithm on tasks of which each is
    replayed from the buffer or newly drawn. Then it scores ``config.new_tasks`` newly drawn tasks, which may enter the
    buffer, and ``config.rescored_tasks`` tasks of the buffer. Each score costs one call of ``Algorithm.adapt``. The
    metrics of the algorithm are those on the chosen tasks. There are two more metrics: ``new_task_score`` is the mean
    score of the newly drawn tasks, and ``buffer_score`` is that of the buffer.

    ``adapt`` is that of the algorithm. With ``replay_probability=0`` the algorithm is trained on the same tasks, with
    the same random numbers, as without a curriculum.

    Args:
        make_algorithm: makes the algorithm for a family of tasks. It is called again whenever ``step`` is traced, with
            the same family except for its training tasks.
        family: the family of tasks.
        config: the settings.

    Raises:
        ValueError: if scores are the exact regret and the family's optimal return is not known; or, when ``step`` is
            traced, if the algorithm draws no tasks in a meta-iteration. PEARL is an example: ``init`` draws its
            training tasks.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> def make_algorithm(family):
        ...     return mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family), config)
        >>> plr = mrl.curricula.Config(buffer_size=8, new_tasks=2, rescored_tasks=2)
        >>> algorithm = mrl.curricula.prioritised(make_algorithm, family, plr)
        >>> run = mrl.train(jax.random.key(0), algorithm)
        >>> run.state.algorithm.buffer.score.shape
        (8,)
    """
    algorithm, optimal_return = make_algorithm(family), family.optimal_return
    if config.score == "regret" and optimal_return is None:
        raise ValueError(
            'score "regret" is for families whose optimal return is known (EnvFamily.optimal_return): use '
            '"highest_return"'
        )

    def draw_new(key: Key) -> Task:
        return jax.tree.map(_array, family.tasks.sample(key))

    def score(key: Key, learner: LearnerState, task: Task, highest: Array, iteration: Array) -> Buffer:
        """Score one task, given the highest return on it so far."""
        returns = algorithm.adapt(key, learner, task).score
        highest = jnp.maximum(highest, jnp.max(returns))
        if config.score == "regret":
            assert optimal_return is not None
            best = jnp.asarray(optimal_return(task), jnp.float32)
        else:
            best = highest
        return Buffer(task, best - jnp.mean(returns), highest, iteration)

    def adapted(key: Key, learner: LearnerState, task: Task, highest: Array, iteration: Array) -> Tree:
        return algorithm.adapt(key, learner, task).learner

    score_tasks = map_tasks(score, in_axes=(0, None, 0, 0, None), carry_of=adapted)

    def init(key: Key) -> State:
        learner, iteration = algorithm.init(key), jnp.int32(0)
        key_tasks, key_score = jax.random.split(jax.random.fold_in(key, SCORE_KEY))
        tasks = jax.vmap(draw_new)(jax.random.split(key_tasks, config.buffer_size))
        keys = jax.random.split(key_score, config.buffer_size)
        none = jnp.full(config.buffer_size, -jnp.inf, jnp.float32)
        return State(learner, score_tasks(keys, learner, tasks, none, iteration), iteration)

    def probabilities(buffer: Buffer, iteration: Array) -> Array:
        staleness = iteration - buffer.scored_at
        return replay_probabilities(buffer.score, staleness, config.temperature, config.staleness_coefficient)

    def train(key: Key, state: State) -> tuple[LearnerState, Metrics]:
        cumulative = jnp.cumsum(probabilities(state.buffer, state.iteration))
        drawn = 0

        def sample(key: Key) -> Task:
            nonlocal drawn
            drawn += 1
            key_replay, key_task = jax.random.split(jax.random.fold_in(key, DRAW_KEY))
            threshold = jax.random.uniform(key_task, dtype=jnp.float32) * cumulative[-1]
            index = jnp.minimum(jnp.sum(threshold >= cumulative, dtype=jnp.int32), config.buffer_size - 1)
            replay = jax.random.uniform(key_replay, dtype=jnp.float32) < config.replay_probability
            return jax.tree.map(lambda old, new: jnp.where(replay, old[index], new), state.buffer.task, draw_new(key))

        tasks = family.tasks._replace(sample=sample, sample_validation=family.tasks.validation, training=None)
        chosen = make_algorithm(family._replace(tasks=tasks))
        drawn = 0
        after = chosen.step(key, state.learner)
        if not drawn:
            raise ValueError(
                "a curriculum cannot choose the tasks of this algorithm: in a meta-iteration it draws none by "
                "tasks.sample of the family that make_algorithm is called with"
            )
        return after

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        learner, metrics = train(key, state)
        key_new, key_old, key_score = jax.random.split(jax.random.fold_in(key, SCORE_KEY), 3)
        buffer, iteration = state.buffer, state.iteration + 1
        # Tasks that are scored again differ from one another, so that every slot is written once.
        slots = jax.random.choice(
            key_old, config.buffer_size, (config.rescored_tasks,), replace=False, p=probabilities(buffer, iteration)
        )
        new = jax.vmap(draw_new)(jax.random.split(key_new, config.new_tasks))
        tasks = jax.tree.map(lambda new, old: jnp.concatenate([new, old[slots]]), new, buffer.task)
        highest = jnp.concatenate([jnp.full(config.new_tasks, -jnp.inf, jnp.float32), buffer.highest[slots]])
        keys = jax.random.split(key_score, config.scored_tasks)
        scored = score_tasks(keys, learner, tasks, highest, iteration)
        new, again = (jax.tree.map(lambda x, part=part: x[part], scored) for part in _parts(config.new_tasks))
        buffer = jax.tree.map(lambda old, now: old.at[slots].set(now), buffer, again)
        buffer = insert(buffer, new)
        metrics = {**metrics, "new_task_score": jnp.mean(new.score), "buffer_score": jnp.mean(buffer.score)}
        return State(learner, buffer, iteration), metrics

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        return algorithm.adapt(key, state.learner, task)

    def acting(of_learner: Acting) -> Acting:
        return of_learner._replace(params=lambda state: of_learner.params(state.learner))

    return algorithm._replace(
        init=init, step=step, adapt=adapt, acting=None if algorithm.acting is None else acting(algorithm.acting)
    )


def _parts(cut: int) -> tuple[slice, slice]:
    """Return the slices before and after an index."""
    return slice(None, cut), slice(cut, None)


def _array(leaf: Array) -> Array:
    """Return a part of a task as an array of 32 bits whose type is not weak, as a buffer stores it."""
    array = narrow(jnp.asarray(leaf))
    return jnp.asarray(array, array.dtype)


def _where(condition: Array, one: Array, other: Array) -> Array:
    """Choose between rows, ``[N, ...]``, by a condition ``[N]``."""
    return jnp.where(condition.reshape(-1, *(1,) * (one.ndim - 1)), one, other)
