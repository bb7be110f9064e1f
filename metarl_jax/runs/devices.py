"""The devices that a run's tasks are spread over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from metarl_jax.batching import TASK_AXIS
from metarl_jax.runs.errors import UserError


class Placement(NamedTuple):
    """How programs for several devices are compiled and called."""

    jit_options: dict[str, Any]
    """Arguments of ``jax.jit`` for programs whose arguments and results every device has whole."""
    put: Callable[[Any], Any]
    """Give every device the whole of a tree of arrays."""


def prepare(number: int) -> None:
    """See to it that there are so many devices: on a CPU each of its cores can be one.

    To be called before JAX first computes anything.
    """
    if number > 1:
        # If JAX has its devices already, ``spread`` says whether they are too few.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", number)


@contextlib.contextmanager
def spread(number: int) -> Iterator[Placement]:
    """Within it, ``batching.task_batch`` spreads tasks over so many devices.

    Raises:
        UserError: if there are fewer.
    """
    if number == 1:
        yield Placement({}, lambda tree: tree)
        return
    if number > jax.device_count():
        raise UserError(f"there are {jax.device_count()} devices ({jax.default_backend()}) here, not {number}")
    some = jax.devices()[:number]
    mesh = jax.make_mesh((number,), (TASK_AXIS,), axis_types=(AxisType.Auto,), devices=some)
    whole = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        options = {"in_shardings": whole, "out_shardings": whole}
        yield Placement(options, lambda tree: jax.device_put(tree, whole))
