"""The mapping of functions over tasks and seeds: vectorised, sequentially, or sharded over devices.

The functions of this module choose among these from the shapes of their arguments, the backend and the mesh that is
set. No other module that handles tasks asks about them. If the mesh has an axis "tasks", tasks are sharded over it.
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
"""The largest data of a task, in bytes, for which the cache of a CPU's core suffices. With larger data, the
intermediate results of several tasks overflow the cache, and tasks are 1.5 to 3 times as fast sequentially."""
CACHED_CARRIES = 2**22
"""The total size of the memories of trials, in bytes, for which a CPU's cache suffices. If vectorised trials have
larger memories, every step fetches them from main memory. A memory with attention reads all of its content at every
step: 512 trials of SNAIL with two attentions over 100 steps take half as long in parts of 32 trials."""
LEAST_AT_ONCE = 8
"""The smallest number of trials in a part, because matrix products of fewer rows are slow."""


def task_devices() -> int:
    """Return the number of devices that tasks are sharded over: the size of the mesh's axis "tasks", or one."""
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

    All tasks are vectorised, unless the sizes of ``carry_of`` or ``data_of`` would overflow a CPU's cache. In that case
    parts of the tasks are vectorised, and the parts are processed sequentially. Tasks that are sharded over devices are
    always vectorised.

    Args:
        function: a function of one task.
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
        # A call of the host takes time, whatever the number of its tasks.
        if size == number or calls_host(function, *jax.eval_shape(lambda: with_mapped(_first(mapped)))):
            return vectorised(*arguments)
        if size == 1:
            results = jax.lax.map(lambda one: function(*with_mapped(one)), mapped)
        else:
            # The argument ``batch_size`` of ``lax.map`` fails where a leaf has size 0.
            parts = jax.tree.map(lambda x: x.reshape(number // size, size, *x.shape[1:]), mapped)
            results = jax.lax.map(lambda part: jax.vmap(function, in_axes)(*with_mapped(part)), parts)
            results = jax.tree.map(lambda x: x.reshape(number, *x.shape[2:]), results)
        return jax.vmap(lambda x: x, 0, out_axes)(results)

    return apply


def vectorised_seeds(seeds: int) -> int:
    """Return how many of the seeds on a device should be vectorised if memory allows it.

    On a CPU the number is one: one seed keeps the cores busy, and several seeds overflow the caches (eight seeds of
    RL², or of MAML on sinusoids, take 0.8 times as long sequentially). On an accelerator all seeds are vectorised,
    unless they call the host (``calls_host``), which JAX refuses in a vectorised loop.
    """
    return 1 if jax.default_backend() == "cpu" else seeds


def map_seeds(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Map a function of one seed over a leading axis of seeds, vectorised or sequentially."""

    def apply(seeds: Any) -> Any:
        number = jax.tree.leaves(seeds)[0].shape[0]
        if vectorised_seeds(number) == number > 1 and not calls_host(function, jax.eval_shape(lambda: _first(seeds))):
            return jax.vmap(function)(seeds)
        return jax.lax.map(function, seeds)

    return apply


def task_mean(
    function: Callable[[Any, Any], Tree], *, data_of: Callable[[Any, Any], Tree] | None = None
) -> Callable[[Any, Tree], Tree]:
    """Make a function that computes the mean over tasks of ``function(shared, task)``.

    Tasks whose data overflow a CPU's cache are evaluated sequentially. If tasks are sharded, each device evaluates its
    own tasks sequentially; if the devices have different numbers of tasks, all tasks are vectorised.

    Args:
        function: a function of the argument that all tasks share, and of the argument of one task.
        data_of: takes the arguments of ``function`` and returns the data that a network processes for this task. It is
            traced for its shapes only. None: the task itself is the data.

    Returns:
        A function of the shared argument and of a tree whose leaves have a leading axis of tasks.
    """

    def mean(shared: Any, tasks: Tree) -> Tree:
        return _mean(function, shared, tasks, sequential=_overflows(shared, tasks, data_of))

    return mean


def task_mean_gradient(
    loss: Callable[[Tree, Any], tuple[Array, Metrics]], *, data_of: Callable[[Any, Any], Tree] | None = None
) -> Callable[[Tree, Tree], tuple[tuple[Array, Metrics], Tree]]:
    """Make a function that computes the same as ``jax.value_and_grad(task_mean(loss), has_aux=True)``.

    If tasks are evaluated sequentially, the gradient of each task is computed before the next task begins, so that
    intermediate results of only one task are kept.

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
    """Return the sum of ``function(part)`` over the leading axis of ``parts``, computed sequentially."""

    def add(total: Tree, part: Any) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    shapes = jax.eval_shape(function, _first(parts))
    return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)[0]


def _mean(function: Callable[[Any, Any], Tree], shared: Any, tasks: Tree, *, sequential: bool) -> Tree:
    number, devices, vectorised = jax.tree.leaves(tasks)[0].shape[0], task_devices(), map_tasks(function, (None, 0))
    if not sequential or number % devices:
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), vectorised(shared, tasks))

    def rounds(x: Array) -> Array:
        # Each round has one task of every device, and no task moves to another device.
        return jnp.moveaxis(x.reshape(devices, number // devices, *x.shape[1:]), 1, 0)

    total = sequential_sum(lambda tasks: vectorised(shared, tasks), jax.tree.map(rounds, tasks))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0) / number, total)


def calls_host(function: Callable[..., Any], *arguments: Any) -> bool:
    """Return whether a function calls the host, as environments of Gymnasium do. The function is traced."""
    return bool(jax.make_jaxpr(function)(*arguments).effects)


def _part_size(
    number: int,
    first: Callable[[], list[Any]],
    carry_of: Callable[..., Tree] | None,
    data_of: Callable[..., Tree] | None,
) -> int:
    """Return the number of tasks in a part, a divisor of ``number``.

    ``first`` returns the arguments of the first task.
    """
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
    """Return whether the data of one task exceed a cache, so that tasks are faster sequentially."""

    def data() -> Tree:
        task = _first(tasks)
        return task if data_of is None else data_of(shared, task)

    return _cached() and _bytes(jax.eval_shape(data)) > CACHED_BYTES


def _cached() -> bool:
    """Return whether intermediate results must fit into a cache to be fast.

    An accelerator is fast with large arrays.
    """
    return jax.default_backend() == "cpu"


def _first(tasks: Tree) -> Tree:
    return jax.tree.map(lambda x: x[0], tasks)


def _bytes(shapes: Tree) -> int:
    """Return the size of arrays in bytes, given the arrays or their shapes. Random keys are not counted."""
    arrays = [x for x in jax.tree.leaves(shapes) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(x.size * x.dtype.itemsize for x in arrays)
