"""Evaluation of algorithms and oracles.

``meta_test`` is traced by compiled programs, and ``evaluate`` is for notebooks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from metarl_jax import host_calls
from metarl_jax.batching import map_tasks
from metarl_jax.checks import choice, positive_int
from metarl_jax.interfaces.few_shot import FewShot, FewShotFamily
from metarl_jax.ops.statistics import Estimate, mean_with_interval
from metarl_jax.training import is_key, state_of
from metarl_jax.types import (
    Adaptation,
    Algorithm,
    Array,
    Key,
    Oracle,
    RunState,
    State,
    Task,
    TaskDistribution,
    Tree,
)

Split: TypeAlias = Literal["heldout", "validation"]
"""The tasks of a ``TaskDistribution`` that an evaluation draws."""


class Evaluation(NamedTuple):
    """The scores of S learners (seeds) on N tasks of one split, in E adaptation episodes each."""

    score: Array
    """``[S, N, E]``: the return (or the accuracy) of each adaptation episode."""
    regret: Array | None
    """``[S, N, E]``: the cumulative regret after each episode. None: the optimal return of the tasks is not known."""
    success: Array | None = None
    """``[S, N, E]``: the share of successful episodes at each stage. None: the learner does not report successes."""


def meta_test(
    key: Key,
    adapt: Callable[[Key, State, Task], Adaptation],
    states: State,
    tasks: TaskDistribution,
    *,
    num_tasks: int,
    num_seeds: int = 1,
    batch_size: int = 2048,
    optimal_return: Callable[[Task], Array] | None = None,
    split: Split = "heldout",
) -> Evaluation:
    """Let learners adapt to new tasks, as deployed, and score every adaptation episode.

    Every seed gets the same tasks, because paired comparisons are sharper. All other randomness differs between seeds.

    Args:
        key: a random key that training did not use.
        adapt: ``Algorithm.adapt`` or ``Oracle.adapt``.
        states: the states of the learners, stacked along a leading axis of ``num_seeds``; ``()`` for oracles.
        tasks: the distribution of the tasks.
        num_tasks: the number N of tasks. A whole number of batches is computed, and further tasks are discarded.
        num_seeds: the number S of seeds.
        batch_size: the largest number of tasks that are vectorised, which bounds memory. ``batching.map_tasks`` may
            vectorise fewer tasks.
        optimal_return: the optimal expected return per episode of a known task (``EnvFamily.optimal_return``).
        split: "heldout" draws held-out tasks, for a result that is reported. "validation" draws validation tasks, for
            a score by which a setting or a checkpoint is chosen.

    Raises:
        ValueError: if the number of tasks, the number of seeds or the batch size is not a positive whole number, if the
            split is another one, or if the states are not stacked along a leading axis of ``num_seeds``.
    """
    for name, number in (("num_tasks", num_tasks), ("num_seeds", num_seeds), ("batch_size", batch_size)):
        positive_int(name, number)
    choice("heldout", "validation")("split", split)
    _check_stacked(states, num_seeds)
    sample = tasks.sample_heldout if split == "heldout" else tasks.validation
    batch_size = min(batch_size, num_tasks)
    batches = -(-num_tasks // batch_size)

    def one_task(keys: tuple[Key, Key], state: State) -> tuple[Array, Array, Array | None]:
        key_task, key_adapt = keys
        task = sample(key_task)
        adaptation = adapt(key_adapt, state, task)
        best = jnp.asarray(jnp.nan if optimal_return is None else optimal_return(task), jnp.float32)
        return adaptation.score, best, adaptation.success

    def learner(keys: tuple[Key, Key], state: State) -> Tree:
        key_task, key_adapt = keys
        return adapt(key_adapt, state, sample(key_task)).learner

    def one_seed(key: Key, state: State) -> tuple[Array, Array, Array | None]:
        def one_batch(keys: tuple[Key, Key]) -> tuple[Array, Array, Array | None]:
            # The result of adaptation has about the size of the memory that is carried from step to step.
            return map_tasks(one_task, in_axes=(0, None), carry_of=learner)(keys, state)

        adapt_keys = jax.random.split(key, (batches, batch_size))
        return jax.lax.map(one_batch, (task_keys, adapt_keys))

    key_tasks, key_seeds = jax.random.split(key)
    task_keys = jax.random.split(key_tasks, (batches, batch_size))
    # Seeds are evaluated sequentially, because one batch of tasks already fills the device.
    found = jax.lax.map(lambda x: one_seed(*x), (jax.random.split(key_seeds, num_seeds), states))
    score, best, success = jax.tree.map(
        lambda x: x.reshape(num_seeds, batches * batch_size, *x.shape[3:])[:, :num_tasks], found
    )
    regret = jnp.cumsum(best[..., None] - score, axis=-1) if optimal_return is not None else None
    return Evaluation(score, regret, success)


def _check_stacked(states: State, num_seeds: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        if jnp.shape(leaf)[:1] != (num_seeds,):
            where = f"states{jax.tree_util.keystr(path)} has shape {list(jnp.shape(leaf))}"
            raise ValueError(
                f"states must be stacked along a leading axis of num_seeds ({num_seeds}), but {where}. The state of "
                "one learner is stacked by jax.tree.map(lambda x: x[None], state); evaluate() needs no such axis"
            )


# --------------------------------------------------------------------------------------------------------- in notebooks


class HasTasks(Protocol):
    """An object that tasks are drawn from: a family of tasks, or a problem that was made from one."""

    @property
    def tasks(self) -> TaskDistribution:
        """The distribution of the tasks."""
        ...


@dataclass(frozen=True)
class Scores:
    """The scores of a learner on new tasks. ``print`` shows a table of means with 95 % intervals over tasks."""

    score: NDArray[np.float64]
    """``[N, E]``, or ``[S, N, E]`` of S seeds: the return (or the few-shot score) of each adaptation episode (or after
    each gradient step) on each of N tasks."""
    regret: NDArray[np.float64] | None
    """``[N, E]`` or ``[S, N, E]``: the cumulative regret after each episode. None: the optimal return of the tasks is
    not known, or the scores are by gradient step."""
    success: NDArray[np.float64] | None
    """``[N, E]`` or ``[S, N, E]``: whether each episode is a success. None: success is not defined for these tasks."""
    stage: str
    """The stage that each score belongs to: "episode", or "gradient step", where the first score is that before any
    gradient step."""

    def by_stage(self) -> list[Estimate]:
        """Return the mean score of each of the E stages, with its 95 % interval over tasks."""
        return [_estimate(self.score[..., stage]) for stage in range(self.score.shape[-1])]

    def total(self) -> Estimate:
        """Return the mean over tasks of the sum over stages, which is the return of a whole trial."""
        return _estimate(self.score.sum(axis=-1))

    def last(self) -> Estimate:
        """Return the mean score of the last stage."""
        return self.by_stage()[-1]

    def __str__(self) -> str:
        tasks, seeds = self.score.shape[-2], self.score.shape[0] if self.score.ndim == 3 else 1
        first = 0 if self.stage == "gradient step" else 1
        rows = [(str(first + index), _text(estimate)) for index, estimate in enumerate(self.by_stage())]
        if self.stage == "episode" and len(rows) > 1:
            rows.append(("sum", _text(self.total())))
        width = max(len(self.stage), *(len(name) for name, _ in rows))
        of_seeds = f", {seeds} seeds" if seeds > 1 else ""
        lines = [f"{tasks} tasks{of_seeds}; mean (95 % interval over tasks)", f"{self.stage:>{width}}  score"]
        lines += [f"{name:>{width}}  {text}" for name, text in rows]
        if self.success is not None:
            rates = [_estimate(self.success[..., stage]).mean for stage in range(self.success.shape[-1])]
            lines.append("success by " + self.stage + ": " + " ".join(f"{rate:.1%}" for rate in rates))
        if self.regret is not None:
            lines.append(f"cumulative regret: {_text(_estimate(self.regret[..., -1]))}")
        return "\n".join(lines)


def _estimate(scores: NDArray[np.float64]) -> Estimate:
    # All seeds had the same tasks, so the mean over seeds on a task is one observation.
    return mean_with_interval(scores.mean(axis=0) if scores.ndim == 2 else scores)


def _text(estimate: Estimate) -> str:
    return f"{estimate.mean:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def evaluate(
    key: Key,
    learner: Algorithm | Oracle,
    state: State,
    family: HasTasks,
    *,
    num_tasks: int = 1000,
    split: Split = "heldout",
    batch_size: int = 2048,
) -> Scores:
    """Let a learner adapt to new tasks, as deployed, and score every adaptation episode.

    Args:
        key: a random key that training did not use.
        learner: an algorithm or an oracle.
        state: ``Training.state`` of one seed or of several seeds; or the state of the algorithm itself; or ``()`` for
            an oracle.
        family: the family of tasks; for few-shot learners the problem, which draws tasks together with their examples.
        num_tasks: the number N of tasks, at least two.
        split: "heldout" draws held-out tasks, for a result that is reported; "validation" draws validation tasks, for a
            score by which a setting or a checkpoint is chosen.
        batch_size: the largest number of tasks that are vectorised, which bounds memory.

    Raises:
        TypeError: if ``key`` is no typed random key, ``state`` is the result of ``train`` as a whole, ``family`` has no
            tasks or is few-shot, or the function is traced.
        ValueError: if there are fewer than two tasks, if the batch size is not a positive whole number, or if the split
            is another one.
        HostError: if an environment of Gymnasium fails (``metarl_jax.host_calls``).

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family), config)
        >>> run = mrl.train(jax.random.key(0), algorithm)
        >>> scores = mrl.evaluate(jax.random.key(1), algorithm, run.state, family, num_tasks=100)
        >>> scores.score.shape  # tasks and episodes
        (100, 5)
        >>> scores.total().low < scores.total().mean < scores.total().high  # a 95 % interval over tasks
        True
    """
    state = state_of(state)
    if not is_key(key):
        raise TypeError(f"key must be jax.random.key(seed), not {key!r}")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((key, state))):
        raise TypeError("evaluate cannot be traced, since it returns NumPy arrays: use evaluation.meta_test there")
    if isinstance(family, FewShot | FewShotFamily):
        raise TypeError("few-shot learners are evaluated on their problem, which draws examples (problems.few_shot)")
    if not isinstance(getattr(family, "tasks", None), TaskDistribution):
        raise TypeError(
            f"tasks are drawn from a family of tasks, or from a problem that was made from one, not from {family!r}"
        )
    if positive_int("num_tasks", num_tasks) < 2:
        raise ValueError(f"num_tasks must be at least 2, for an interval over tasks, not {num_tasks}")
    seeds = None
    if isinstance(state, RunState):
        seeds = state.step.shape[0] if jnp.ndim(state.step) else None
        state = state.algorithm
    states = jax.tree.map(lambda x: x[None], state) if seeds is None else state
    with host_calls.clear_errors():
        found = _compiled_meta_test(
            key,
            learner.adapt,
            states,
            family.tasks,
            num_tasks=num_tasks,
            num_seeds=seeds or 1,
            batch_size=batch_size,
            # The optimum is that of one episode; a score by gradient step is the mean of many.
            optimal_return=getattr(family, "optimal_return", None) if learner.stage == "episode" else None,
            split=split,
        )
        jax.block_until_ready(found)

    def on_host(values: Array | None) -> Any:
        if values is None:
            return None
        array = np.asarray(values, np.float64)
        return array[0] if seeds is None else array

    return Scores(*map(on_host, found), stage=learner.stage)


_compiled_meta_test = jax.jit(
    meta_test, static_argnames=("adapt", "tasks", "num_tasks", "num_seeds", "batch_size", "optimal_return", "split")
)
