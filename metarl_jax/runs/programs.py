"""Programs that train several seeds, and several runs that differ in nothing but numbers, at once.

A column is one seed of one run. Its numbers (learning rates and the like) are arguments of the program, so that one
compiled program trains all columns.
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
"""Settings that differ from column to column, by name; ``[columns]`` each."""
MEMORY_SHARE = 0.9
"""Of the memory that is free, what a program may need."""


def algorithm(problem: Problem, values: Mapping[str, Array]) -> Algorithm:
    """A problem's algorithm with some numbers replaced."""
    return problem.vary(values) if values else problem.algorithm


def start_states(problem: Problem, values: Mapping[str, Array], seed: Array | int, seeds: int) -> RunState:
    """The states of one run's seeds before their first iteration, stacked.

    Args:
        problem: what the run trains on.
        values: the run's settings that are arguments of the program.
        seed: the first seed, ``uint32``; the next ones are ``seed + 1 .. seed + seeds - 1``.
        seeds: how many there are.

    Raises:
        ValueError: if ``seed`` is known (no tracer) and a seed is not from 0 to ``checks.LAST_SEED``, where the next
            one would be 0 again.
    """
    made = algorithm(problem, values)
    with contextlib.suppress(TypeError):  # what JAX raises for a tracer
        checks.seed_range(int(seed), seeds)
    ids = jnp.asarray(seed, jnp.uint32) + jnp.arange(seeds, dtype=jnp.uint32)
    return jax.vmap(lambda i: training.start(made, jax.random.key(i)))(ids)


def train_columns(
    problem: Problem, capacity: int, at_a_time: int
) -> Callable[[RunState, Values, Array], training.Chunk]:
    """``training.run`` of columns: ``(states, values, iterations [columns]) ->`` a chunk with leading axes of columns.

    Args:
        problem: what all columns share.
        capacity: the most iterations.
        at_a_time: columns that are trained side by side, a divisor of those that a device has; the next ones follow.
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
        # In turn: no batched predicate, so that the loop need not select over its whole carry.
        return jax.lax.map(one, columns, batch_size=at_a_time if at_a_time > 1 else None)

    def spread(states: RunState, values: Values, iterations: Array) -> training.Chunk:
        if jax.sharding.get_abstract_mesh().shape.get(SEED_AXIS, 1) == 1:
            return some(states, values, iterations)
        # Columns have nothing to tell each other: each device goes through its own, and waits for none.
        spec = PartitionSpec(SEED_AXIS)
        # Host callbacks, which robots are stepped by, are for programs that leave no axis to the compiler.
        axes = {SEED_AXIS} if task_devices() > 1 else {SEED_AXIS, TASK_AXIS}
        each = jax.shard_map(some, in_specs=spec, out_specs=spec, axis_names=axes, check_vma=False)
        return each(states, values, iterations)

    return spread


def varying(configs: Sequence[RunConfig]) -> list[str]:
    """The settings that differ between runs."""
    first = configs[0].settings
    return [name for name in first if any(config.settings[name] != first[name] for config in configs)]


def values_of(configs: Sequence[RunConfig]) -> dict[str, np.ndarray]:
    """The settings that differ between runs, ``[R]`` each."""
    return {name: np.asarray([c.settings[name] for c in configs], np.float32) for name in varying(configs)}


def can_be_arguments(experiment: Experiment, problem: Problem, names: Sequence[str]) -> list[str]:
    """Those of an experiment's settings that a program can take as arguments: real numbers that decide no shape."""
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
            # What JAX raises where Python needs to know a number, and the checks where they do.
            return False
        return True

    return numbers if traced(numbers) else [name for name in numbers if traced([name])]


def groups(
    experiment: Experiment, configs: Sequence[RunConfig], build: Callable[[RunConfig], Problem]
) -> list[list[int]]:
    """Which runs one program can train: those that differ in arguments only, by their indices."""
    fields, alike = experiment.fields(), dict[str, list[int]]()
    for index, config in enumerate(configs):
        # None means that something is left out, and zero often does: that is another program.
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


def compile_to_fit(compile_for: Callable[[int], Any], columns: int, free: int | None) -> tuple[Any, int]:
    """The program that trains as many columns side by side as memory allows, and how many these are.

    Args:
        compile_for: compiles it for a number of columns at a time.
        columns: of a device.
        free: bytes of a device; None: not known.

    Raises:
        TooLarge: if not even one column at a time fits, by what the compiler says it needs.
    """
    at_a_time = vectorised_seeds(columns)
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
    """What a compiled program needs of a device, arguments and results included; None if it does not say."""
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
    """The memory of a device that is free, of the one with the least; None if that is not known."""
    # Processes must come to the same program.
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
            # Files that were read once count as used, until someone needs the place.
            free.append(int(limit) - used + int(statistics["inactive_file"]))
    except (OSError, KeyError, ValueError):
        # Not Linux, or no control group.
        pass
    # The cores of a CPU are devices that share its memory.
    return min(free) // jax.local_device_count() if free else None
