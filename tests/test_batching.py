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
        for in_turn in (True, False):
            gradient = jax.jit(batching.task_mean_gradient(loss, in_turn=in_turn))
            mean = jax.jit(batching.task_mean(loss, in_turn=in_turn))
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
        gradient = jax.jit(batching.task_mean_gradient(loss, in_turn=True), in_shardings=(None, spread))
        text = gradient.lower(shared, tasks).compile().as_text() or ""
    assert "all-reduce" in text
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert other not in text
    assert "[4,1,5,3]" in text.replace(" ", ""), "each device's half of the tasks, one a round"


def test_tasks_are_done_in_turn_where_one_fills_a_cache() -> None:
    small, large = (jnp.zeros(n, jnp.float32) for n in (batching.CACHED_BYTES // 4, batching.CACHED_BYTES // 4 + 1))
    assert not batching.suits_in_turn(small)
    assert batching.suits_in_turn(large)
    assert batching.suits_in_turn({"images": small, "keys": jax.random.key(0), "labels": jnp.zeros(1)})
    assert batching.first_task((large, jnp.zeros((large.size, 3))))[1].shape == (3,)
