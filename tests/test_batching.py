"""Tests of tasks that are vectorised, evaluated sequentially, or sharded."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import metarl_jax
from metarl_jax import batching
from metarl_jax.types import Array, Metrics, Tree

widths: set[tuple[int, ...]] = set()
"""The sizes of the leading axes over which ``seen`` was mapped."""


def seen(x: Array) -> Array:
    """Return ``x``, and add the leading axes that it is mapped over at run time to ``widths``."""

    def note(x: np.ndarray) -> np.ndarray:
        widths.add(x.shape)
        return x

    return jax.pure_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims")


def test_tasks_are_vectorised_unless_something_overflows_a_cache() -> None:
    x, y = jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 2.0])
    batched = batching.map_tasks(lambda a, b: a * b, in_axes=(0, None), out_axes=1)
    np.testing.assert_array_equal(batched(x, y), jax.vmap(lambda a, b: a * b, in_axes=(0, None), out_axes=1)(x, y))


@pytest.mark.parametrize(
    ("trials", "numbers", "expected"),
    [(512, 20_000, 32), (512, 64, 512), (90, 90_000, 10), (509, 20_000, 509), (64, 2**18, 64)],
)
def test_the_number_of_vectorised_trials_is_limited_by_the_cache_size_of_memories(
    trials: int, numbers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_of(trial: Array, shared: Array) -> Tree:
        assert trial.shape == (3,)
        return jnp.zeros(numbers), jnp.int32(0), shared

    mapped = batching.map_tasks(lambda trial, shared: seen(trial[0]) + shared, (0, None), carry_of=carry_of)
    arguments = jnp.arange(3.0 * trials).reshape(trials, 3), jnp.float32(1)
    widths.clear()
    np.testing.assert_array_equal(mapped(*arguments), arguments[0][:, 0] + 1)
    assert widths == {(expected,)}
    widths.clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mapped(*arguments)
    assert widths == {(trials,)}


@pytest.mark.parametrize("more", [0, 1])
def test_tasks_whose_data_overflow_a_cache_are_mapped_sequentially(more: int) -> None:
    def data_of(task: Array) -> Tree:
        return {"images": jnp.zeros(batching.CACHED_BYTES // 4 + more), "key": jax.random.key(0), "first": task[:0]}

    widths.clear()
    mapped = batching.map_tasks(lambda task: seen(task[0]) + task, out_axes=1, data_of=data_of)
    tasks = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(mapped(tasks), (tasks + tasks[:, :1]).T)
    assert widths == ({()} if more else {(4,)})


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 6])
def test_tasks_in_parts_are_the_same(devices: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result equals that of ``vmap``, with shared arguments, leaves of size 0, and all output axes."""
    tasks = jnp.arange(12.0).reshape(6, 2), jnp.zeros((6, 0))
    monkeypatch.setattr(batching, "CACHED_CARRIES", 4 * size)
    monkeypatch.setattr(batching, "LEAST_AT_ONCE", 1)

    def function(task: tuple[Array, Array], shared: Array, key: Array) -> tuple[Array, Array]:
        return task[0] * shared + jax.random.uniform(key, (2,)), task[1]

    arguments = tasks, jnp.float32(3), jax.random.split(jax.random.key(0), 6)
    expected = jax.vmap(function, (0, None, 0), (1, 0))(*arguments)
    mesh = jax.make_mesh((devices,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        mapped = batching.map_tasks(function, (0, None, 0), (1, 0), carry_of=lambda task, shared, key: shared)
        traced = jax.jit(mapped).trace(*arguments)
        got = traced.lower().compile()(*arguments)
    sequential = any(e.primitive.name == "scan" and e.params["length"] == 6 // size for e in traced.jaxpr.jaxpr.eqns)
    assert sequential == (devices == 1 and size < 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


@pytest.mark.parametrize(("number", "devices"), [(7, 1), (7, 2), (8, 2)])
def test_sequential_tasks_have_the_same_mean_and_gradient(
    number: int, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"w": jax.random.normal(jax.random.key(0), (3, 2)), "b": jnp.float32(0.5)}
    tasks = jax.random.normal(jax.random.key(1), (number, 5, 3)), jnp.arange(1.0 * number)

    def loss(shared: dict[str, Array], task: tuple[Array, Array]) -> tuple[Array, Metrics]:
        x, weight = task
        y = jnp.tanh(x @ shared["w"]) * weight + shared["b"]
        return jnp.sum(y**2), {"largest": jnp.max(y)}

    expected = jax.value_and_grad(
        lambda s: jax.tree.map(jnp.mean, jax.vmap(loss, in_axes=(None, 0))(s, tasks)), has_aux=True
    )(shared)
    assert float(jnp.abs(expected[1]["w"]).min()) > 0.01
    mesh = jax.make_mesh((devices,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert batching.task_devices() == devices
        for cached in (0, 2**14):
            monkeypatch.setattr(batching, "CACHED_BYTES", cached)
            gradient = jax.jit(batching.task_mean_gradient(loss)).trace(shared, tasks)
            mean = jax.jit(batching.task_mean(loss)).trace(shared, tasks)
            for program, want in ((gradient, expected), (mean, expected[0])):
                sequential = any(e.primitive.name == "scan" for e in program.jaxpr.jaxpr.eqns)
                assert sequential == (cached == 0 and number % devices == 0)
                got = program.lower().compile()(shared, tasks)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
    assert batching.task_devices() == 1


def test_each_device_evaluates_its_own_tasks_sequentially(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices exchange sums only, and no device processes the tasks of another one."""
    monkeypatch.setattr(batching, "CACHED_BYTES", 0)
    shared, tasks = jnp.ones((3, 2)), jnp.ones((8, 5, 3))
    mesh = jax.make_mesh((2,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec(batching.TASK_AXIS))

    def loss(shared: Array, task: Array) -> tuple[Array, Metrics]:
        return jnp.sum(jnp.tanh(task @ shared)), {}

    with jax.set_mesh(mesh):
        gradient = jax.jit(batching.task_mean_gradient(loss), in_shardings=(None, spread))
        text = gradient.lower(shared, tasks).compile().as_text() or ""
    assert "all-reduce" in text
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert other not in text
    assert "[4,1,5,3]" in text.replace(" ", ""), "each device's half of the tasks, one a round"


def test_tasks_are_sequential_where_the_data_of_one_overflow_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit applies to all arrays of a task, or to those that ``data_of`` returns."""

    def loss(shared: Array, task: Tree) -> tuple[Array, Metrics]:
        return shared * task["weight"], {}

    def sequential(numbers: int, data_of: Any = None) -> bool:
        tasks = {
            "images": jnp.zeros((4, numbers)),
            "weight": jnp.ones(4),
            "keys": jax.random.split(jax.random.key(0), 4),
        }
        programs = [
            jax.make_jaxpr(make(loss, data_of=data_of))(jnp.float32(1), tasks)
            for make in (batching.task_mean, batching.task_mean_gradient)
        ]
        found = {any(e.primitive.name == "scan" for e in program.jaxpr.eqns) for program in programs}
        assert len(found) == 1, "mean and gradient agree"
        return found.pop()

    most = batching.CACHED_BYTES // 4 - 1
    assert not sequential(most)
    assert sequential(most + 1)
    assert not sequential(most + 1, lambda shared, task: task["images"])
    assert sequential(most + 2, lambda shared, task: task["images"])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not sequential(most + 1)


def test_only_this_module_asks_for_devices_or_the_backend() -> None:
    package = Path(metarl_jax.__file__).parent
    files = [
        *(package / "algorithms").glob("*.py"),
        *(package / f"{n}.py" for n in ("meta_gradient", "ppo", "evaluation")),
    ]
    asking = {"default_backend", "devices", "local_devices", "device_count", "local_device_count", "task_devices"}
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {n.attr for n in nodes if isinstance(n, ast.Attribute)} | {
            n.id for n in nodes if isinstance(n, ast.Name)
        }
        assert not names & asking, file.name
