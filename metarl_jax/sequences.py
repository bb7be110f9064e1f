"""Sequences of tasks: transfer between tasks and forgetting, of learners that are not reset between tasks.

A learner adapts to T held-out tasks, one after another. Its scores on all tasks after each of them are a matrix R,
where ``R[i, j]`` is the score on task j after adaptation to tasks 1 to i, and ``R[0, j]`` is the score before any
adaptation. The measures are those of Lopez-Paz & Ranzato (2017, arXiv 1706.08840, equations 2 to 4) and of Chaudhry et
al. (2018, arXiv 1801.10112). Any learner whose adaptation changes the parameters of a network can be measured, on any
``InnerProblem``, few-shot or of reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from metarl_jax import host_calls
from metarl_jax.batching import map_tasks
from metarl_jax.checks import choice, positive_int, positive_number
from metarl_jax.evaluation import Split
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.ops.inner_loop import scaled_down
from metarl_jax.ops.statistics import Estimate, mean_with_interval
from metarl_jax.training import is_key, state_of
from metarl_jax.types import Algorithm, Array, Key, Params, RunState, State, Task

Learner: TypeAlias = Callable[[Key, Task], Params]
"""``(key, tasks [T, ...]) -> parameters [T + 1, ...]`` of the network: before the first task, and after each task."""
Adapt: TypeAlias = Callable[[Key, Params, Task], Params]
"""``(key, parameters, task) ->`` the parameters of the network after adaptation to the task."""

# ------------------------------------------------------------------------------------------------------- learners


def without_reset(problem: InnerProblem, algorithm: Algorithm, state: State) -> Learner:
    """Make a learner that adapts to each task from the parameters that it had after the task before.

    Args:
        problem: the problem of the tasks.
        algorithm: an algorithm that adapts the parameters of the network, such as MAML, ANIL, Reptile, iMAML and
            multi-task training.
        state: ``Training.state`` of one seed, or the state of the algorithm itself.

    Raises:
        ValueError: if the state is that of several seeds, or if its ``params`` are not the parameters of the network.
    """
    params, adapt = _adaptation(problem, algorithm, state)
    return lambda key, tasks: _one_after_another(key, adapt, params, tasks)


def from_scratch(problem: InnerProblem, algorithm: Algorithm, state: State) -> Learner:
    """Make a learner like ``without_reset`` that begins with new random parameters instead of those of the state."""
    _, adapt = _adaptation(problem, algorithm, state)

    def learn(key: Key, tasks: Task) -> Params:
        key_init, key_learn = jax.random.split(key)
        return _one_after_another(key_learn, adapt, problem.init(key_init), tasks)

    return learn


def with_reset(problem: InnerProblem, algorithm: Algorithm, state: State) -> Learner:
    """Make a learner that adapts to each task from the parameters of the state, and forgets the tasks before.

    The arguments and the errors are those of ``without_reset``.
    """
    params, adapt = _adaptation(problem, algorithm, state)

    def learn(key: Key, tasks: Task) -> Params:
        keys = jax.random.split(key, _length(tasks))
        return _behind(params, jax.lax.map(lambda one: adapt(one[0], params, one[1]), (keys, tasks)))

    return learn


def joint(problem: InnerProblem, params: Params, *, steps: int, rate: float, max_norm: float | None = None) -> Learner:
    """Make a learner that has the data of all tasks so far, so that the order of tasks has no effect on it.

    After task i, it begins with the given parameters again and descends on the mean of the inner losses of tasks 1 to
    i. It takes i times ``steps`` gradient steps, so that it has taken as many as a learner without reset. Where tasks
    have different targets for the same input, no parameters fit all of them, so that its scores on earlier tasks
    decrease, too.

    Args:
        problem: the problem of the tasks.
        params: the parameters to begin with.
        steps: the number of gradient steps for each task so far.
        rate: the step size.
        max_norm: the largest norm of a gradient, to which longer ones are scaled down, as ``max_inner_norm`` of
            learners by gradient descent. None: gradients are not scaled.

    Raises:
        ValueError: if ``steps`` is not a positive whole number, or ``rate`` or ``max_norm`` is not positive and finite.
    """
    if max_norm is not None:
        max_norm = positive_number("max_norm", max_norm)
    steps, rate = positive_int("steps", steps), positive_number("rate", rate)

    def learn(key: Key, tasks: Task) -> Params:
        number = _length(tasks)

        def loss(params: Params, batches: Task, weights: Array) -> Array:
            return jnp.sum(weights * jax.vmap(lambda batch: problem.inner_loss(params, batch))(batches))

        def after(key: Key, so_far: Array) -> Params:
            weights = (jnp.arange(number) < so_far) / so_far

            def step(index: Array, params: Params) -> Params:
                keys = jax.random.split(jax.random.fold_in(key, index), number)
                batches = jax.vmap(problem.support, in_axes=(0, None, 0))(keys, params, tasks)
                gradient = jax.grad(loss)(params, batches, weights)
                if max_norm is not None:
                    gradient = scaled_down(gradient, max_norm)
                return jax.tree.map(lambda p, g: p - rate * g, params, gradient)

            return jax.lax.fori_loop(0, so_far * steps, step, params)

        every = jax.lax.map(lambda one: after(*one), (jax.random.split(key, number), jnp.arange(1, number + 1)))
        return _behind(params, every)

    return learn


def _adaptation(problem: InnerProblem, algorithm: Algorithm, state: State) -> tuple[Params, Adapt]:
    """Return the parameters in a state, and the function that adapts such parameters to one task."""
    found = state_of(state)
    found = found.algorithm if isinstance(found, RunState) else found
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    params = getattr(found, "params", None)
    if jax.tree.structure(params) != jax.tree.structure(shapes):
        raise ValueError(
            f"{type(found).__name__}.params of {type(found).__module__} must be the parameters of the network: this "
            "algorithm cannot begin with the parameters after an earlier task"
        )
    if jax.tree.map(jnp.shape, params) != jax.tree.map(lambda shape: shape.shape, shapes):
        raise ValueError("state must be that of one seed of this problem: jax.tree.map(lambda x: x[0], state)")

    def adapt(key: Key, params: Params, task: Task) -> Params:
        learner = algorithm.adapt(key, found._replace(params=params), task).learner
        # Some algorithms return the parameters after every step.
        return jax.tree.map(lambda x, shape: x[-1] if x.ndim > len(shape.shape) else x, learner, shapes)

    return params, adapt


def _one_after_another(key: Key, adapt: Adapt, params: Params, tasks: Task) -> Params:
    def one(params: Params, now: tuple[Key, Task]) -> tuple[Params, Params]:
        adapted = adapt(now[0], params, now[1])
        return adapted, adapted

    _, after = jax.lax.scan(one, params, (jax.random.split(key, _length(tasks)), tasks))
    return _behind(params, after)


def _length(tasks: Task) -> int:
    return jax.tree.leaves(tasks)[0].shape[0]


def _behind(first: Params, others: Params) -> Params:
    return jax.tree.map(lambda one, more: jnp.concatenate([jnp.asarray(one)[None], more]), first, others)


# --------------------------------------------------------------------------------------------------------- scores


def matrix(key: Key, problem: InnerProblem, learner: Learner, tasks: Task) -> Array:
    """Return the scores of a learner on every task of ONE sequence, before the first task and after each task.

    Args:
        key: a random key. Every row of the result is scored with the same keys, so that rows are comparable.
        problem: the problem of the tasks.
        learner: a learner, as ``without_reset`` and the other functions of this module make them.
        tasks: the tasks, with leaves ``[T, ...]``.

    Returns:
        R, ``[T + 1, T]``.
    """
    key_learn, key_score = jax.random.split(key)
    params, keys = learner(key_learn, tasks), jax.random.split(key_score, _length(tasks))

    def row(params: Params) -> Array:
        return jax.vmap(lambda key, task: problem.score_query(key, params, task)[0])(keys, tasks)

    return jax.lax.map(row, params)


@dataclass(frozen=True)
class SequenceScores:
    """The scores of a learner on sequences of tasks. ``print`` shows a table of the measures.

    All measures are estimates with 95 % intervals over sequences. Transfer is positive where scores improve, and
    forgetting is positive where they get worse, whether higher or lower scores are better.
    """

    score: NDArray[np.float64]
    """R, ``[N, T + 1, T]``: for each of N sequences the score on each task before the first task and after each."""
    higher_is_better: bool = True
    """Whether higher scores are better, as those of accuracy and return."""

    @property
    def _gain(self) -> NDArray[np.float64]:
        return self.score if self.higher_is_better else -self.score

    def before(self) -> Estimate:
        """Return the mean score on all tasks before any adaptation."""
        return mean_with_interval(self.score[:, 0].mean(axis=-1))

    def learned(self) -> Estimate:
        """Return the mean score on each task directly after adaptation to it, the mean of ``R[i, i]``."""
        return mean_with_interval(np.diagonal(self.score[:, 1:], axis1=1, axis2=2).mean(axis=-1))

    def average(self) -> Estimate:
        """Return the mean score on all tasks after the last one (equation 2): the mean of ``R[T, j]``."""
        return mean_with_interval(self.score[:, -1].mean(axis=-1))

    def forward_transfer(self) -> Estimate:
        """Return the effect of earlier tasks on later ones before adaptation to these.

        It is the mean of ``R[i - 1, i] - R[0, i]`` over i = 2 to T. Equation 4 subtracts the score of a random
        initialisation, which is ``R[0, i]`` for a learner that begins with one.
        """
        rows = np.arange(1, self.score.shape[2])
        return mean_with_interval((self._gain[:, rows, rows] - self._gain[:, 0, 1:]).mean(axis=-1))

    def backward_transfer(self) -> Estimate:
        """Return the effect of later tasks on earlier ones (equation 3): the mean of ``R[T, i] - R[i, i]`` over i < T.

        Negative backward transfer is forgetting.
        """
        learned = np.diagonal(self._gain[:, 1:], axis1=1, axis2=2)
        return mean_with_interval((self._gain[:, -1, :-1] - learned[:, :-1]).mean(axis=-1))

    def forgetting(self) -> Estimate:
        """Return the loss from the best score on a task in the past (Chaudhry et al. 2018).

        It is the mean of ``max over l < T of R[l, j] - R[T, j]`` over j < T, where l is at least one.
        """
        best = self._gain[:, 1:-1, :-1].max(axis=1)
        return mean_with_interval((best - self._gain[:, -1, :-1]).mean(axis=-1))

    def __str__(self) -> str:
        measures = {
            "before any task": self.before(),
            "after its own task": self.learned(),
            "after all tasks": self.average(),
            "forward transfer": self.forward_transfer(),
            "backward transfer": self.backward_transfer(),
            "forgetting": self.forgetting(),
        }
        lines = [f"{len(self.score)} sequences of {self.score.shape[2]} tasks; mean (95 % interval over sequences)"]
        lines += [f"{name:<18} {x.mean:.4g} ({x.low:.4g} to {x.high:.4g})" for name, x in measures.items()]
        return "\n".join(lines)


def evaluate(
    key: Key,
    problem: InnerProblem,
    learners: Mapping[str, Learner],
    *,
    length: int = 10,
    num_sequences: int = 100,
    higher_is_better: bool = True,
    split: Split = "heldout",
    batch_size: int = 50,
) -> dict[str, SequenceScores]:
    """Let learners adapt to sequences of new tasks, and score them on all tasks of a sequence after each task.

    All learners get the same sequences. The tasks of a sequence are drawn independently, so that a family of few tasks
    repeats some of them within a sequence. Choose a family of many tasks, because a repeated task cannot be forgotten
    in between as another one can.

    Args:
        key: a random key that training did not use.
        problem: the problem of the tasks.
        learners: the learners by name.
        length: the number T of tasks of a sequence, at least two.
        num_sequences: the number N of sequences, at least two.
        higher_is_better: whether higher scores are better.
        split: "heldout" or "validation" (see ``evaluation.evaluate``).
        batch_size: the largest number of sequences that are vectorised, which bounds memory.

    Raises:
        TypeError: if ``key`` is no typed random key.
        ValueError: if there are fewer than two tasks or sequences, if the batch size is not a positive whole number, if
            the split is another one.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.datasets.sinusoid.maml_family()
        >>> predictor = mrl.networks.mlp.make_predictor(family, mrl.networks.mlp.PredictorSettings())
        >>> problem = mrl.problems.few_shot(family.training, predictor, heldout=family.heldout)
        >>> maml = mrl.algorithms.maml.make(problem, mrl.algorithms.maml.Config(tasks=4, iterations=3))
        >>> run = mrl.train(jax.random.key(0), maml)
        >>> learner = mrl.sequences.without_reset(problem, maml, run.state)
        >>> scores = mrl.sequences.evaluate(
        ...     jax.random.key(1), problem, {"MAML": learner}, length=3, num_sequences=5, higher_is_better=False
        ... )
        >>> scores["MAML"].score.shape
        (5, 4, 3)
    """
    if not is_key(key):
        raise TypeError(f"key must be jax.random.key(seed), not {key!r}")
    for name, number in (("length", length), ("num_sequences", num_sequences)):
        if positive_int(name, number) < 2:
            raise ValueError(f"{name} must be at least 2, not {number}")
    batch_size = min(positive_int("batch_size", batch_size), num_sequences)
    choice("heldout", "validation")("split", split)
    sample = problem.tasks.sample_heldout if split == "heldout" else problem.tasks.validation
    batches = -(-num_sequences // batch_size)

    def scores(learner: Learner) -> NDArray[np.float64]:
        def one(key: Key) -> Array:
            key_tasks, key_learner = jax.random.split(key)
            return matrix(key_learner, problem, learner, jax.vmap(sample)(jax.random.split(key_tasks, length)))

        @jax.jit
        def every(key: Key) -> Array:
            return jax.lax.map(map_tasks(one), jax.random.split(key, (batches, batch_size)))

        with host_calls.clear_errors():
            found = jax.block_until_ready(every(key))
        return np.asarray(found, np.float64).reshape(-1, length + 1, length)[:num_sequences]

    return {name: SequenceScores(scores(learner), higher_is_better) for name, learner in learners.items()}
