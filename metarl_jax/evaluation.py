"""``meta_test``: one evaluator for every algorithm and every oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.batching import map_tasks
from metarl_jax.checks import choice, positive_int
from metarl_jax.types import Adaptation, Array, Key, State, Task, TaskDistribution, Tree

Split: TypeAlias = Literal["heldout", "validation"]
"""Which tasks of a ``TaskDistribution`` an evaluation draws."""


class Evaluation(NamedTuple):
    """Scores on the tasks of one split; S learners (seeds), N tasks, E adaptation episodes."""

    score: Array
    """``[S, N, E]``: return (or accuracy) of each adaptation episode."""
    regret: Array | None
    """``[S, N, E]``: cumulative regret after each episode, where the tasks' optimum is known."""
    success: Array | None = None
    """``[S, N, E]``: the share of each stage's episodes that are a success, where the learner says so."""


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

    Every seed meets the same tasks (paired comparisons are sharper), with its own randomness otherwise.

    Args:
        key: random key; never one that training used.
        adapt: ``Algorithm.adapt``, or an oracle's.
        states: learners stacked along a leading axis of ``num_seeds``; ``()`` for oracles.
        tasks: where the tasks come from.
        num_tasks: N; rounded up to a whole number of batches, and cut back.
        num_seeds: S.
        batch_size: the most tasks that are vectorised, which bounds memory; ``batching.map_tasks`` may vectorise fewer.
        optimal_return: the best expected return per episode of a known task (``EnvFamily.optimal_return``).
        split: "heldout" draws held-out tasks, for a result that is reported. "validation" draws validation tasks, for
            a score by which a setting or a checkpoint is chosen.

    Raises:
        ValueError: for a number of tasks or seeds, or a batch, that is not a positive whole number, or another split.
    """
    for name, number in (("num_tasks", num_tasks), ("num_seeds", num_seeds), ("batch_size", batch_size)):
        positive_int(name, number)
    choice("heldout", "validation")("split", split)
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
            # What adaptation produces stands for what it carries from step to step.
            return map_tasks(one_task, in_axes=(0, None), carry_of=learner)(keys, state)

        adapt_keys = jax.random.split(key, (batches, batch_size))
        return jax.lax.map(one_batch, (task_keys, adapt_keys))

    key_tasks, key_seeds = jax.random.split(key)
    task_keys = jax.random.split(key_tasks, (batches, batch_size))
    # One seed after another: a batch of tasks is parallel work enough.
    found = jax.lax.map(lambda x: one_seed(*x), (jax.random.split(key_seeds, num_seeds), states))
    score, best, success = jax.tree.map(
        lambda x: x.reshape(num_seeds, batches * batch_size, *x.shape[3:])[:, :num_tasks], found
    )
    regret = jnp.cumsum(best[..., None] - score, axis=-1) if optimal_return is not None else None
    return Evaluation(score, regret, success)
