"""The only place that batches tasks and seeds: vectorised, sequentially, or sharded over devices.

The functions here decide which of these it is, from the shapes that they are given, the backend and the mesh that is
set. No caller asks about any of them. Where the mesh has an axis "tasks", tasks are sharded over it.
"""

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

CACHED_BYTES = 2**14
"""The data of a task that a core's cache has room for, in bytes. Where a task has more, what a network computes for
several tasks at the same time overflows the cache: on a CPU, tasks are then 1.5 to 3 times as fast sequentially."""
CACHED_CARRIES = 2**22
"""The memories of trials, in bytes, that a CPU's cache has room for. If the trials that are vectorised have more, every
step fetches them from main memory. A memory that looks back reads all of itself at every step: 512 trials of SNAIL with
two attentions over 100 steps take half as long in parts of 32."""
LEAST_AT_ONCE = 8
"""The fewest trials in a part: products of fewer rows are slow."""


def task_devices() -> int:
    """The number of devices that tasks are sharded over: the size of the mesh's axis "tasks", or one."""
    return jax.sharding.get_abstract_mesh().shape.get(TASK_AXIS, 1)


def map_tasks(
    function: Callable[..., Any],
    in_axes: int | tuple[int | None, ...] = 0,
    out_axes: Any = 0,
    *,
    carry_of: Callable[..., Tree] | None = None,
    data_of: Callable[..., Tree] | None = None,
) -> Callable[..., Any]:
    """Map a function of one task over tasks, as ``jax.vmap`` does.

    All tasks are vectorised, unless ``carry_of`` or ``data_of`` say that this would overflow a CPU's cache. Then parts
    of them are, one part after another. Tasks that are sharded over devices are always vectorised.

    Args:
        function: of one task.
        in_axes: 0 for arguments that are mapped over their leading axis, None for those that all tasks share.
        out_axes: as for ``jax.vmap``.
        carry_of: takes the arguments of ``function`` and returns the memory that it carries from step to step of a
            trial. It is traced for its shapes only.
        data_of: takes the arguments of ``function`` and returns the data that a network processes for this task. It is
            traced for its shapes only.
    """
    vectorised = jax.vmap(function, in_axes, out_axes)

    @functools.wraps(function)
    def apply(*arguments: Any) -> Any:
        axes = (in_axes,) * len(arguments) if isinstance(in_axes, int) else in_axes
        mapped = [argument for argument, axis in zip(arguments, axes, strict=True) if axis == 0]

        def with_mapped(others: list[Any]) -> list[Any]:
            rest = iter(others)
            return [next(rest) if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)]

        if task_devices() > 1:
            spec = PartitionSpec(TASK_AXIS)
            return vectorised(*with_mapped([jax.lax.with_sharding_constraint(x, spec) for x in mapped]))
        number = jax.tree.leaves(mapped)[0].shape[0]
        size = _part_size(number, lambda: with_mapped(_first(mapped)), carry_of, data_of)
        if size == number:
            return vectorised(*arguments)
        if size == 1:
            results = jax.lax.map(lambda one: function(*with_mapped(one)), mapped)
        else:
            # Not ``batch_size`` of ``map``, which fails where a leaf is of size 0.
            parts = jax.tree.map(lambda x: x.reshape(number // size, size, *x.shape[1:]), mapped)
            results = jax.lax.map(lambda part: jax.vmap(function, in_axes)(*with_mapped(part)), parts)
            results = jax.tree.map(lambda x: x.reshape(number, *x.shape[2:]), results)
        return jax.vmap(lambda x: x, 0, out_axes)(results)

    return apply


def vectorised_seeds(seeds: int) -> int:
    """How many of the seeds on a device to vectorise, where memory allows.

    On a CPU it is one: one seed keeps the cores busy, and several overflow their caches (eight seeds of RL², or of MAML
    on sinusoids, take 0.8 of the time sequentially). On an accelerator it is all of them.
    """
    return 1 if jax.default_backend() == "cpu" else seeds


def map_seeds(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Map a function of one seed's arguments over their leading axis: vectorised or sequentially."""

    def apply(seeds: Any) -> Any:
        number = jax.tree.leaves(seeds)[0].shape[0]
        return jax.vmap(function)(seeds) if vectorised_seeds(number) == number > 1 else jax.lax.map(function, seeds)

    return apply


def task_mean(
    function: Callable[[Any, Any], Tree], *, data_of: Callable[[Any, Any], Tree] | None = None
) -> Callable[[Any, Tree], Tree]:
    """The mean over tasks of ``function(shared, task)``.

    Tasks whose data overflow a CPU's cache are evaluated sequentially. If they are sharded, each device evaluates its
    own tasks sequentially; all are vectorised if the devices do not have the same number of tasks.

    Args:
        function: of what the tasks share, and of one task's own.
        data_of: takes the arguments of ``function`` and returns the data that a network processes for this task; None:
            the task itself. It is traced for its shapes only.

    Returns:
        A function of what is shared and of a tree whose leaves have a leading axis of tasks.
    """

    def mean(shared: Any, tasks: Tree) -> Tree:
        return _mean(function, shared, tasks, sequential=_overflows(shared, tasks, data_of))

    return mean


def task_mean_gradient(
    loss: Callable[[Tree, Any], tuple[Array, Metrics]], *, data_of: Callable[[Any, Any], Tree] | None = None
) -> Callable[[Tree, Tree], tuple[tuple[Array, Metrics], Tree]]:
    """The same numbers as ``jax.value_and_grad(task_mean(loss), has_aux=True)``.

    Where tasks are evaluated sequentially, each task's gradient is computed before the next task begins, so that no
    intermediate results are kept from task to task.

    Args:
        loss: ``(shared, task) -> (loss, metrics)``.
        data_of: as for ``task_mean``.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def mean(shared: Any, tasks: Tree) -> tuple[Array, Metrics]:
        return _mean(loss, shared, tasks, sequential=False)

    def mean_gradient(shared: Tree, tasks: Tree) -> tuple[tuple[Array, Metrics], Tree]:
        if _overflows(shared, tasks, data_of):
            return _mean(gradient, shared, tasks, sequential=True)
        return jax.value_and_grad(mean, has_aux=True)(shared, tasks)

    return mean_gradient


def sequential_sum(function: Callable[[Any], Tree], parts: Tree) -> Tree:
    """The sum of ``function(part)`` over the leading axis of ``parts``, one part after another."""

    def add(total: Tree, part: Any) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    shapes = jax.eval_shape(function, _first(parts))
    return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)[0]


def _mean(function: Callable[[Any, Any], Tree], shared: Any, tasks: Tree, *, sequential: bool) -> Tree:
    number, devices, vectorised = jax.tree.leaves(tasks)[0].shape[0], task_devices(), map_tasks(function, (None, 0))
    if not sequential or number % devices:
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), vectorised(shared, tasks))

    def rounds(x: Array) -> Array:
        # Each round has one task of every device; which device has which task stays as it is.
        return jnp.moveaxis(x.reshape(devices, number // devices, *x.shape[1:]), 1, 0)

    total = sequential_sum(lambda tasks: vectorised(shared, tasks), jax.tree.map(rounds, tasks))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0) / number, total)


def _part_size(
    number: int,
    first: Callable[[], list[Any]],
    carry_of: Callable[..., Tree] | None,
    data_of: Callable[..., Tree] | None,
) -> int:
    """The number of tasks in a part, a divisor of their number; ``first`` returns the arguments of the first task."""
    if not _cached():
        return number
    if data_of is not None and _bytes(jax.eval_shape(lambda: data_of(*first()))) > CACHED_BYTES:
        return 1
    if carry_of is None:
        return number
    size = _bytes(jax.eval_shape(lambda: carry_of(*first())))
    if number * size <= CACHED_CARRIES:
        return number
    fitting = [n for n in range(LEAST_AT_ONCE, number) if number % n == 0 and n * size <= CACHED_CARRIES]
    return max(fitting, default=number)


def _overflows(shared: Any, tasks: Tree, data_of: Callable[[Any, Any], Tree] | None) -> bool:
    """Whether one task's data fill a cache, so that tasks are faster sequentially."""

    def data() -> Tree:
        task = _first(tasks)
        return task if data_of is None else data_of(shared, task)

    return _cached() and _bytes(jax.eval_shape(data)) > CACHED_BYTES


def _cached() -> bool:
    """Whether what a program computes must fit a cache to be fast. An accelerator is fast with large arrays."""
    return jax.default_backend() == "cpu"


def _first(tasks: Tree) -> Tree:
    return jax.tree.map(lambda x: x[0], tasks)


def _bytes(shapes: Tree) -> int:
    """The size of arrays or their shapes, without random keys."""
    arrays = [x for x in jax.tree.leaves(shapes) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(x.size * x.dtype.itemsize for x in arrays)
