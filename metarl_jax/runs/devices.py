"""The devices that runs are spread over: seeds first, which have nothing to tell each other, then tasks."""

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
    """How programs for several devices are compiled and called; on one device nothing special is done.

    Columns are what has a leading axis of seeds (of all runs trained together).
    """

    training: Mesh | None
    """Columns are spread over "seeds"; the tasks of each over "tasks"."""
    evaluating: Mesh | None
    """The same devices, all along "tasks": columns are whole on each, and evaluated in turn."""

    def jit(self, function: Callable[..., Any], **options: Any) -> Any:
        """``jax.jit`` of a function from columns to columns."""
        if self.training is None:
            return jax.jit(function, **options)
        columns = NamedSharding(self.training, PartitionSpec(SEED_AXIS))
        return jax.jit(function, in_shardings=columns, out_shardings=columns, **options)

    def jit_whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``jax.jit`` of a function of columns, and of what this process has whole, that is spread over tasks.

        What it returns is on one device of this process.
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
                # Programs in which devices wait for each other are begun together: they do not wait for long.
                hosts.agree()
                return _local(compiled[0](columns, *others))

        return call

    def put(self, columns: Tree) -> Tree:
        """Spread columns, which this process has whole, over the devices of all."""
        if self.training is None:
            return columns
        return _put(columns, NamedSharding(self.training, PartitionSpec(SEED_AXIS)))

    def fetch(self, columns: Tree) -> Tree:
        """All columns, on one device of this process."""
        if self.evaluating is None:
            return columns
        return _local(_everywhere(columns, NamedSharding(self.evaluating, PartitionSpec())))

    @property
    def seeds(self) -> int:
        """Over how many devices columns are spread."""
        return 1 if self.training is None else self.training.shape[SEED_AXIS]


def _same(tree: Tree) -> Tree:
    return tree


def _everywhere(columns: Tree, whole: NamedSharding) -> Tree:
    # One function for all calls, so that it is compiled once.
    return jax.jit(_same, out_shardings=whole)(columns)


def _local(whole: Tree) -> Tree:
    """What every device has whole, on one device of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def _put(tree: Tree, sharding: NamedSharding) -> Tree:
    def put(leaf: Any) -> Any:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        # Each process has the whole, and gives its devices their parts.
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def prepare(number: int | None = None, processes: int | None = 1) -> None:
    """Start JAX on its devices, so many of them; on a CPU each of its cores can be a device.

    To be called before JAX first computes anything.

    Args:
        number: devices of all processes together; None: as many as there are.
        processes: the number of processes that share them; None: not known, each has the devices that it has.

    Raises:
        UserError: if there is no device of the kind that ``JAX_PLATFORMS`` names, or there are too few devices, or
            fewer cores than devices are asked for. More devices than cores need ``JAX_NUM_CPU_DEVICES`` (or the
            ``XLA_FLAGS`` for that).
    """
    each = 1 if number is None or processes is None else max(1, number // processes)
    more = each > max(1, jax.config.jax_num_cpu_devices)  # pyright: ignore[reportAttributeAccessIssue]
    more = more and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", "")
    if more:
        # If JAX has its devices already, there is an error below if they are too few.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", each)
    try:
        platform = jax.local_devices()[0].platform
    except (RuntimeError, AssertionError) as error:
        # JAX asserts for a platform that it knows, and whose plugin is not installed.
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        words = f"JAX_PLATFORMS={asked} names no device that JAX finds here" if asked else "JAX finds no device here"
        needed = f"; NVIDIA GPUs need: {checks.install_command('cuda')}" if asked in ("cuda", "gpu") else ""
        raise UserError(f"{words}{': ' * bool(str(error))}{error}{needed}") from error
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if platform == "cpu" and more and each > cores:
        raise UserError(f"there are {cores} devices (CPU cores) here, not {each}")
    _check(each)


def _check(each: int) -> None:
    """UserError if this process has fewer devices."""
    here = jax.local_device_count()
    if each > here:
        raise UserError(f"there are {here} devices ({jax.default_backend()}) here, not {each}")


@contextlib.contextmanager
def spread(number: int | None, columns: int) -> Iterator[Placement]:
    """Within it, programs for training are compiled for so many devices.

    Args:
        number: devices, of all processes together; None: one, or all if there are several processes.
        columns: seeds of all runs trained together; as many devices as divide them get seeds of their own, and what is
            left is for tasks.

    Raises:
        UserError: if there are fewer devices, or processes cannot have equally many.
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
