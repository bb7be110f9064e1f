"""Distribute runs over devices: first the seeds, which need no communication, then the tasks."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from metarl_jax import checks
from metarl_jax.batching import SEED_AXIS, TASK_AXIS
from metarl_jax.runs import hosts
from metarl_jax.runs.errors import UserError
from metarl_jax.types import Tree


class Placement(NamedTuple):
    """The meshes of devices that programs are compiled for. Both are None if there is one device.

    *Columns* are trees of arrays whose leading axis is that of the seeds of all runs that are trained together.
    """

    training: Mesh | None
    """The mesh for training: columns are distributed over its axis "seeds", and tasks over its axis "tasks"."""
    evaluating: Mesh | None
    """The mesh for evaluation: the same devices, all along the axis "tasks". Each device has all columns, which are
    evaluated sequentially."""

    def jit(self, function: Callable[..., Any], **options: Any) -> Any:
        """Compile a function from columns to columns, as ``jax.jit`` does."""
        if self.training is None:
            return jax.jit(function, **options)
        columns = NamedSharding(self.training, PartitionSpec(SEED_AXIS))
        return jax.jit(function, in_shardings=columns, out_shardings=columns, **options)

    def jit_whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function of columns and other arguments, which distributes its tasks over devices.

        This process must have the whole of the other arguments. The result of the function is on one device of this
        process.
        """
        if self.evaluating is None:
            return jax.jit(function)
        whole = NamedSharding(self.evaluating, PartitionSpec())
        jitted = jax.jit(function, in_shardings=whole, out_shardings=whole)
        compiled: list[Any] = []

        def call(columns: Tree, *others: Tree) -> Any:
            columns, others = _everywhere(columns, whole), _put(others, whole)
            with jax.set_mesh(self.evaluating):
                if not compiled:
                    compiled.append(jitted.lower(columns, *others).compile())
                # Devices wait for each other within this program, but not for long, so all processes start it together.
                hosts.agree()
                return _local(compiled[0](columns, *others))

        return call

    def put(self, columns: Tree) -> Tree:
        """Distribute columns, of which this process has the whole, over the devices of all processes."""
        if self.training is None:
            return columns
        return _put(columns, NamedSharding(self.training, PartitionSpec(SEED_AXIS)))

    def fetch(self, columns: Tree) -> Tree:
        """Return all columns on one device of this process."""
        if self.evaluating is None:
            return columns
        return _local(_everywhere(columns, NamedSharding(self.evaluating, PartitionSpec())))

    @property
    def seeds(self) -> int:
        """The number of devices that columns are distributed over."""
        return 1 if self.training is None else self.training.shape[SEED_AXIS]


def _same(tree: Tree) -> Tree:
    return tree


def _everywhere(columns: Tree, whole: NamedSharding) -> Tree:
    # All calls share one function, so that it is compiled once.
    return jax.jit(_same, out_shardings=whole)(columns)


def _local(whole: Tree) -> Tree:
    """Return arrays of which every device has the whole, on one device of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def _put(tree: Tree, sharding: NamedSharding) -> Tree:
    def put(leaf: Any) -> Any:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        # Each process has the whole array, and gives each of its devices a part.
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def prepare(number: int | None = None, processes: int | None = 1) -> None:
    """Start JAX with a number of devices. On a CPU, each core can be a device.

    This function must be called before JAX first computes anything.

    Args:
        number: the number of devices of all processes together; None for all devices.
        processes: the number of processes that share the devices; None if it is not known. In that case each process
            uses the devices that it has.

    Raises:
        UserError: if there is no device of the kind that ``JAX_PLATFORMS`` names, if there are too few devices, or if
            there are fewer cores than requested devices. More devices than cores require ``JAX_NUM_CPU_DEVICES`` (or
            the corresponding ``XLA_FLAGS``).
    """
    each = 1 if number is None or processes is None else max(1, number // processes)
    more = each > max(1, jax.config.jax_num_cpu_devices)  # pyright: ignore[reportAttributeAccessIssue]
    more = more and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", "")
    if more:
        # JAX may have started already. If it has too few devices, ``_check`` raises an error below.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", each)
    try:
        platform = jax.local_devices()[0].platform
    except (RuntimeError, AssertionError) as error:
        # JAX raises AssertionError for a known platform whose plugin is not installed.
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        words = f"JAX_PLATFORMS={asked} names no device that JAX finds here" if asked else "JAX finds no device here"
        needed = f"; NVIDIA GPUs need: {checks.install_command('cuda')}" if asked in ("cuda", "gpu") else ""
        raise UserError(f"{words}{': ' * bool(str(error))}{error}{needed}") from error
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if platform == "cpu" and more and each > cores:
        raise UserError(f"there are {cores} devices (CPU cores) here, not {each}")
    _check(each)


def _check(each: int) -> None:
    """Raise a UserError if this process has fewer devices."""
    here = jax.local_device_count()
    if each > here:
        raise UserError(f"there are {here} devices ({jax.default_backend()}) here, not {each}")


@contextlib.contextmanager
def spread(number: int | None, columns: int) -> Iterator[Placement]:
    """Compile programs for training for a number of devices, within this context.

    The greatest common divisor of ``number`` and ``columns`` is the number of devices along the axis of seeds. The
    axis of tasks has the remaining factor of ``number``.

    Args:
        number: the number of devices of all processes together; None for one, or for all devices if there are several
            processes.
        columns: the number of seeds of all runs that are trained together.

    Raises:
        UserError: if there are fewer devices, or if the processes cannot have equal numbers of devices.
    """
    processes = hosts.number()
    number = number or (1 if processes == 1 else jax.device_count())
    if number == 1:
        yield Placement(None, None)
        return
    if number % processes:
        raise UserError(f"{number} devices cannot be shared equally by {processes} processes")
    each = number // processes
    _check(each)
    seeds = math.gcd(number, columns)
    axes = (SEED_AXIS, TASK_AXIS)

    def mesh(shape: tuple[int, int]) -> Mesh:
        some = [device for index in range(processes) for device in jax.local_devices(process_index=index)[:each]]
        return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto, AxisType.Auto), devices=some)

    placement = Placement(mesh((seeds, number // seeds)), mesh((1, number)))
    with jax.set_mesh(placement.training):
        yield placement
