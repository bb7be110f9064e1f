"""The only place that batches tasks: side by side, spread over devices, or in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from metarl_jax.types import Array, Metrics, Tree

TASK_AXIS = "tasks"
SEED_AXIS = "seeds"


def task_batch(
    function: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0, *, at_once: int | None = None
) -> Callable[..., Any]:
    """``vmap`` over tasks; with a mesh set whose axes include "tasks", the work is spread over it.

    Args:
        function: of one task.
        in_axes: as for ``jax.vmap``; arguments mapped over their leading axis are sharded.
        out_axes: as for ``jax.vmap``.
        at_once: how many tasks are done side by side, and others after them, a divisor of their number; None: all. For
            which see ``trials_at_once``. Spread over devices, all are.
    """
    batched = jax.vmap(function, in_axes=in_axes, out_axes=out_axes)

    @functools.wraps(function)
    def apply(*arguments: Any) -> Any:
        axes = (in_axes,) * len(arguments) if isinstance(in_axes, int) else in_axes
        if devices() == 1 and at_once is None:
            return batched(*arguments)
        if devices() == 1:

            def part(own: list[Any]) -> Any:
                rest = iter(own)
                of_all = [next(rest) if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)]
                return jax.vmap(function, in_axes)(*of_all)

            own = [a for a, axis in zip(arguments, axes, strict=True) if axis == 0]
            number = jax.tree.leaves(own)[0].shape[0]
            # Not ``batch_size`` of ``map``, which fails where a leaf is of size 0.
            parts = jax.tree.map(lambda x: x.reshape(number // at_once, at_once, *x.shape[1:]), own)
            joined = jax.tree.map(lambda x: x.reshape(number, *x.shape[2:]), jax.lax.map(part, parts))
            return jax.vmap(lambda x: x, 0, out_axes)(joined)

        def shard(argument: Tree) -> Tree:
            return jax.lax.with_sharding_constraint(argument, PartitionSpec(TASK_AXIS))

        return batched(*(shard(a) if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)))

    return apply


def devices() -> int:
    """Over how many devices tasks are spread: as many as the mesh has along "tasks", or one."""
    return jax.sharding.get_abstract_mesh().shape.get(TASK_AXIS, 1)


CACHED_BYTES = 2**14
"""Of a task's data: with more, what a network makes of several tasks at a time overflows a core's cache."""


def prefers_sequential(task: Tree) -> bool:
    """Whether tasks had better be done in turn: on a CPU, where one fills a cache (measured: 1.5 to 3 times as fast).

    Args:
        task: the data of one task, or their shapes.
    """
    size = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(task) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )
    return size > CACHED_BYTES and jax.default_backend() == "cpu"


CACHED_CARRIES = 2**22
"""Bytes of the memories of trials that are played side by side: with more, every step fetches them from afar."""
LEAST_AT_ONCE = 8
"""Trials: with fewer side by side, products are of few rows, and slow."""


def trials_at_once(carry: Tree, trials: int) -> int | None:
    """How many trials had better be played side by side: all (None), or on a CPU as many as a cache has memories of.

    A memory that looks back reads all of itself at every step (measured, SNAIL with two attentions over 100 steps: 512
    trials take half as long 32 at a time).

    Args:
        carry: the memory of one trial, or its shapes.
        trials: to be played; what is returned divides them.
    """
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(carry))
    if jax.default_backend() != "cpu" or trials * size <= CACHED_CARRIES:
        return None
    fit = [n for n in range(LEAST_AT_ONCE, trials) if trials % n == 0 and n * size <= CACHED_CARRIES]
    return max(fit, default=None)


def sequential_sum(function: Callable[[Any], Tree], parts: Tree) -> Tree:
    """The sum of ``function(part)`` over the leading axis of ``parts``, one part after another."""

    def add(total: Tree, part: Any) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)[0]


def first_task(tasks: Tree) -> Tree:
    """The shapes of the first of the tasks on the leading axis."""
    return jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], tasks))


def task_mean(function: Callable[..., Tree], *, sequential: bool) -> Callable[..., Tree]:
    """The mean over tasks of ``function(shared, task)``.

    Args:
        function: of what tasks share, and of one task's own.
        sequential: whether tasks are done one after another (see ``prefers_sequential``) or vectorised. Spread over
            devices, each device does its own tasks one after another; all are vectorised if the devices do not get
            equally many.

    Returns:
        A function of what is shared and of a tree whose leaves have a leading axis of tasks.
    """

    def mean(shared: Any, tasks: Tree) -> Tree:
        number, side_by_side = jax.tree.leaves(tasks)[0].shape[0], task_batch(function, (None, 0))
        if not sequential or number % devices():
            return jax.tree.map(lambda x: jnp.mean(x, axis=0), side_by_side(shared, tasks))

        def rounds(x: Array) -> Array:
            # In each, one task of every device; which device has which task stays as it is.
            return jnp.moveaxis(x.reshape(devices(), number // devices(), *x.shape[1:]), 1, 0)

        total = sequential_sum(lambda tasks: side_by_side(shared, tasks), jax.tree.map(rounds, tasks))
        return jax.tree.map(lambda x: jnp.sum(x, axis=0) / number, total)

    return mean


def task_mean_gradient(
    loss: Callable[[Tree, Any], tuple[Array, Metrics]], *, sequential: bool
) -> Callable[[Tree, Tree], tuple[tuple[Array, Metrics], Tree]]:
    """As ``jax.value_and_grad(task_mean(loss), has_aux=True)``; in turn, nothing is kept from task to task."""
    if sequential:
        return task_mean(jax.value_and_grad(loss, has_aux=True), sequential=True)
    return jax.value_and_grad(task_mean(loss, sequential=False), has_aux=True)
