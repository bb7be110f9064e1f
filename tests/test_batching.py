"""Batches of tasks: side by side and in turn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from metarl_jax import batching
from metarl_jax.types import Array, Metrics


def test_task_batch_is_vmap_without_a_mesh() -> None:
    x, y = jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 2.0])
    batched = batching.task_batch(lambda a, b: a * b, in_axes=(0, None), out_axes=1)
    np.testing.assert_array_equal(batched(x, y), jax.vmap(lambda a, b: a * b, in_axes=(0, None), out_axes=1)(x, y))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("at_once", [1, 2, 6])
def test_tasks_some_at_once_are_the_same(devices: int, at_once: int) -> None:
    """Of what tasks share, of several arguments and of leaves without a number, wherever tasks come out."""
    tasks = jnp.arange(12.0).reshape(6, 2), jnp.zeros((6, 0))

    def function(task: tuple[Array, Array], shared: Array, key: Array) -> tuple[Array, Array]:
        return task[0] * shared + jax.random.uniform(key, (2,)), task[1]

    arguments = tasks, jnp.float32(3), jax.random.split(jax.random.key(0), 6)
    expected = jax.vmap(function, (0, None, 0), (1, 0))(*arguments)
    mesh = jax.make_mesh((devices,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        got = jax.jit(batching.task_batch(function, (0, None, 0), (1, 0), at_once=at_once))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


@pytest.mark.parametrize(
    ("trials", "numbers", "expected"),
    [(512, 20_000, 32), (512, 64, None), (90, 90_000, 10), (509, 20_000, None), (64, 2**18, None)],
)
def test_trials_at_once_are_as_many_as_a_cache_has_memories_of(
    trials: int, numbers: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry = jax.ShapeDtypeStruct((numbers,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    assert batching.trials_at_once(carry, trials) == expected
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batching.trials_at_once(carry, trials) is None


@pytest.mark.parametrize(("number", "devices"), [(7, 1), (7, 2), (8, 2)])
def test_tasks_in_turn_are_the_same_mean_and_gradient(number: int, devices: int) -> None:
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
        assert batching.devices() == devices
        for sequential in (True, False):
            gradient = jax.jit(batching.task_mean_gradient(loss, sequential=sequential))
            mean = jax.jit(batching.task_mean(loss, sequential=sequential))
            for got, want in ((gradient(shared, tasks), expected), (mean(shared, tasks), expected[0])):
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
    assert batching.devices() == 1


def test_each_device_does_its_own_tasks_in_turn() -> None:
    """Nothing but sums passes between devices, and no device meets another's tasks."""
    shared, tasks = jnp.ones((3, 2)), jnp.ones((8, 5, 3))
    mesh = jax.make_mesh((2,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec(batching.TASK_AXIS))

    def loss(shared: Array, task: Array) -> tuple[Array, Metrics]:
        return jnp.sum(jnp.tanh(task @ shared)), {}

    with jax.set_mesh(mesh):
        gradient = jax.jit(batching.task_mean_gradient(loss, sequential=True), in_shardings=(None, spread))
        text = gradient.lower(shared, tasks).compile().as_text() or ""
    assert "all-reduce" in text
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert other not in text
    assert "[4,1,5,3]" in text.replace(" ", ""), "each device's half of the tasks, one a round"


def test_tasks_are_done_in_turn_where_one_fills_a_cache() -> None:
    small, large = (jnp.zeros(n, jnp.float32) for n in (batching.CACHED_BYTES // 4, batching.CACHED_BYTES // 4 + 1))
    assert not batching.prefers_sequential(small)
    assert batching.prefers_sequential(large)
    assert batching.prefers_sequential({"images": small, "keys": jax.random.key(0), "labels": jnp.zeros(1)})
    assert batching.first_task((large, jnp.zeros((large.size, 3))))[1].shape == (3,)
