"""Compiled programs that train several seeds at the same time, and several runs whose settings differ only in numbers.

A column is one seed of one run. The numbers that differ, such as learning rates, are arguments of the program, so that
one compiled program trains all columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from metarl_jax import checks, training
from metarl_jax.batching import SEED_AXIS, TASK_AXIS, task_devices, vectorised_seeds
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.runs import hosts
from metarl_jax.runs.folder import RunConfig
from metarl_jax.types import Algorithm, Array, RunState, Tree

Values: TypeAlias = dict[str, Array]
"""The settings that differ between columns, by name; each has the shape ``[columns]``."""
MEMORY_SHARE = 0.9
"""The fraction of the free memory that a program may need."""


def algorithm(problem: Problem, values: Mapping[str, Array]) -> Algorithm:
    """Return the algorithm of a problem with some of its numeric settings replaced."""
    return problem.vary(values) if values else problem.algorithm


def start_states(problem: Problem, values: Mapping[str, Array], seed: Array | int, seeds: int) -> RunState:
    """Return the stacked states of the seeds of one run before the first iteration.

    Args:
        problem: the problem that the run trains on.
        values: the settings of the run that are arguments of the program.
        seed: the first seed, ``uint32``; the others are ``seed + 1 .. seed + seeds - 1``.
        seeds: the number of seeds.

    Raises:
        ValueError: if ``seed`` is not a tracer, and any of the seeds is not from 0 to ``checks.LAST_SEED``. The seed
            after the last one would be 0 again.
    """
    made = algorithm(problem, values)
    with contextlib.suppress(TypeError):  # JAX raises it for a tracer.
        checks.seed_range(int(seed), seeds)
    ids = jnp.asarray(seed, jnp.uint32) + jnp.arange(seeds, dtype=jnp.uint32)
    return jax.vmap(lambda i: training.start(made, jax.random.key(i)))(ids)


def train_columns(
    problem: Problem, capacity: int, at_a_time: int
) -> Callable[[RunState, Values, Array], training.Chunk]:
    """Return a function that applies ``training.run`` to columns.

    Args:
        problem: the problem that all columns share.
        capacity: the largest number of iterations.
        at_a_time: the number of columns that are vectorised, a divisor of the number of columns of a device. The groups
            of this size are trained sequentially.

    Returns:
        A function ``(states, values, iterations [columns]) -> chunk``. All arrays of the states, the values and the
        chunk have a leading axis of columns.
    """

    def one(column: tuple[RunState, Values, Array]) -> training.Chunk:
        state, values, iterations = column
        return training.run(algorithm(problem, values), state, iterations, capacity)

    def some(states: RunState, values: Values, iterations: Array) -> training.Chunk:
        columns = states, values, iterations
        if iterations.shape[0] == 1:
            chunk = one(jax.tree.map(lambda x: x[0], columns))
            return jax.tree.map(lambda x: x[None], chunk)
        if iterations.shape[0] == at_a_time:
            return jax.vmap(one)(columns)
        # Groups run sequentially. A single column has no batched predicate, so its loop does not select over its carry.
        return jax.lax.map(one, columns, batch_size=at_a_time if at_a_time > 1 else None)

    def spread(states: RunState, values: Values, iterations: Array) -> training.Chunk:
        if jax.sharding.get_abstract_mesh().shape.get(SEED_AXIS, 1) == 1:
            return some(states, values, iterations)
        # Columns need no communication: each device trains its own columns without waiting for other devices.
        spec = PartitionSpec(SEED_AXIS)
        # Callbacks to the host, which step robots, require a program that leaves no axis to the compiler.
        axes = {SEED_AXIS} if task_devices() > 1 else {SEED_AXIS, TASK_AXIS}
        each = jax.shard_map(some, in_specs=spec, out_specs=spec, axis_names=axes, check_vma=False)
        return each(states, values, iterations)

    return spread


def varying(configs: Sequence[RunConfig]) -> list[str]:
    """Return the names of the settings that differ between runs."""
    first = configs[0].settings
    return [name for name in first if any(config.settings[name] != first[name] for config in configs)]


def values_of(configs: Sequence[RunConfig]) -> dict[str, np.ndarray]:
    """Return the values of the settings that differ between R runs, by name; each has the shape ``[R]``."""
    return {name: np.asarray([c.settings[name] for c in configs], np.float32) for name in varying(configs)}


def can_be_arguments(experiment: Experiment, problem: Problem, names: Sequence[str]) -> list[str]:
    """Return the settings that a program can take as arguments: real numbers on which no shape depends.

    Args:
        experiment: the experiment.
        problem: the problem that the experiment built.
        names: the names of the settings to choose from.
    """
    fields = experiment.fields()
    numbers = [name for name in names if fields[name].type is float]

    def traced(some: Sequence[str]) -> bool:
        def everything(values: Values) -> Tree:
            algorithm = problem.vary(values)
            state = algorithm.init(jax.random.key(0))
            task = problem.tasks.sample_heldout(jax.random.key(0))
            return algorithm.step(jax.random.key(0), state), algorithm.adapt(jax.random.key(0), state, task)

        try:
            jax.eval_shape(everything, {name: jax.ShapeDtypeStruct((), jnp.float32) for name in some})
        except (TypeError, ValueError):
            # JAX and the checks raise these errors where they need the value of a tracer.
            return False
        return True

    return numbers if traced(numbers) else [name for name in numbers if traced([name])]


def groups(
    experiment: Experiment, configs: Sequence[RunConfig], build: Callable[[RunConfig], Problem]
) -> list[list[int]]:
    """Group runs by the program that can train them.

    The runs of a group differ only in settings that are arguments of a program.

    Args:
        experiment: the experiment of all runs.
        configs: the configurations of the runs.
        build: a function that builds the problem of a configuration.

    Returns:
        The indices of the runs of each group.
    """
    fields, alike = experiment.fields(), dict[str, list[int]]()
    for index, config in enumerate(configs):
        # None, and often zero, means that a part of the program is left out, which makes it another program.
        fixed = {n: v for n, v in config.settings.items() if fields[n].type is not float or not v}
        alike.setdefault(repr(sorted(fixed.items())), []).append(index)
    found: dict[str, list[int]] = {}
    for indices in alike.values():
        differing = varying([configs[i] for i in indices])
        arguments = can_be_arguments(experiment, build(configs[indices[0]]), differing) if differing else []
        for index in indices:
            rest = {name: value for name, value in configs[index].settings.items() if name not in arguments}
            zeros = [name for name in arguments if not configs[index].settings[name]]
            found.setdefault(repr((sorted(rest.items()), zeros)), []).append(index)
    return list(found.values())


class TooLarge(Exception):
    """A program does not fit into memory."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"needs {needed / 2**30:.1f} GiB of {free / 2**30:.1f}")
        self.needed, self.free = needed, free


def compile_to_fit(
    compile_for: Callable[[int], Any], columns: int, free: int | None, *, alone: bool = False
) -> tuple[Any, int]:
    """Compile the program that vectorises the largest number of columns that fits into memory.

    Args:
        compile_for: a function that compiles the program for a number of vectorised columns.
        columns: the number of columns of a device.
        free: the free memory of a device in bytes; None if it is not known.
        alone: whether columns must not be vectorised.

    Returns:
        The compiled program, and the number of vectorised columns.

    Raises:
        TooLarge: if the program for one column needs more memory than there is, according to the compiler.
    """
    at_a_time = 1 if alone else vectorised_seeds(columns)
    while True:
        compiled = compile_for(at_a_time)
        needed = needed_bytes(compiled)
        if free is None or needed is None or needed <= MEMORY_SHARE * free:
            return compiled, at_a_time
        if at_a_time == 1:
            raise TooLarge(needed, free)
        goal = at_a_time * MEMORY_SHARE * free / needed
        at_a_time = max(n for n in range(1, at_a_time) if columns % n == 0 and (n <= goal or n == 1))


def needed_bytes(compiled: Any) -> int | None:
    """Return the memory in bytes that a compiled program needs on a device; None if the compiler does not report it.

    The memory includes arguments and results.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def free_bytes() -> int | None:
    """Return the free memory in bytes of the device that has the least; None if it is not known."""
    # All processes must compile the same program, so they use the same number.
    return int(hosts.agree(_free_bytes_here() or 0).min()) or None


def _free_bytes_here() -> int | None:
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        statistics = device.memory_stats() or {}
        return statistics["bytes_limit"] - statistics["bytes_in_use"] if "bytes_limit" in statistics else None
    free: list[int] = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free.append(1024 * int(lines["MemAvailable"].split()[0]))
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((group / "memory.current").read_text(encoding="ascii"))
            statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            # The cache of files counts as used memory, but is released when memory is needed.
            free.append(int(limit) - used + int(statistics["inactive_file"]))
    except (OSError, KeyError, ValueError):
        # The system is not Linux, or has no control group.
        pass
    # The cores of a CPU are devices that share its memory.
    return min(free) // jax.local_device_count() if free else None
