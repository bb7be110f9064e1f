"""Batches of tasks: side by side and in turn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import batching
from metarl_jax.types import Array, Metrics


def test_task_batch_is_vmap_without_a_mesh() -> None:
    x, y = jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 2.0])
    batched = batching.task_batch(lambda a, b: a * b, in_axes=(0, None), out_axes=1)
    np.testing.assert_array_equal(batched(x, y), jax.vmap(lambda a, b: a * b, in_axes=(0, None), out_axes=1)(x, y))


def test_tasks_in_turn_are_the_same_mean_and_gradient() -> None:
    shared = {"w": jax.random.normal(jax.random.key(0), (3, 2)), "b": jnp.float32(0.5)}
    tasks = jax.random.normal(jax.random.key(1), (7, 5, 3)), jnp.arange(7.0)

    def loss(shared: dict[str, Array], task: tuple[Array, Array]) -> tuple[Array, Metrics]:
        x, weight = task
        y = jnp.tanh(x @ shared["w"]) * weight + shared["b"]
        return jnp.sum(y**2), {"largest": jnp.max(y)}

    expected = jax.value_and_grad(
        lambda s: jax.tree.map(jnp.mean, jax.vmap(loss, in_axes=(None, 0))(s, tasks)), has_aux=True
    )(shared)
    assert float(jnp.abs(expected[1]["w"]).min()) > 0.01
    for in_turn in (True, False):
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5),
            batching.task_mean_gradient(loss, in_turn=in_turn)(shared, tasks),
            expected,
        )
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5),
            batching.task_mean(loss, in_turn=in_turn)(shared, tasks),
            expected[0],
        )


def test_tasks_are_done_in_turn_where_one_fills_a_cache() -> None:
    small, large = (jnp.zeros(n, jnp.float32) for n in (batching.CACHED_BYTES // 4, batching.CACHED_BYTES // 4 + 1))
    assert not batching.suits_in_turn(small)
    assert batching.suits_in_turn(large)
    assert batching.suits_in_turn({"images": small, "keys": jax.random.key(0), "labels": jnp.zeros(1)})
    assert batching.first_task((large, jnp.zeros((large.size, 3))))[1].shape == (3,)
    with jax.set_mesh(jax.make_mesh((1,), (batching.TASK_AXIS,))):
        assert not batching.suits_in_turn(large)
