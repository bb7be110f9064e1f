"""Memories that are computed in parallel: minimal GRUs, and selective state spaces, against plain NumPy loops."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.networks import min_gru, scans, selective
from metarl_jax.types import Array

STEPS, TRIALS = 9, 2


def normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_the_parallel_recurrence_is_the_stepwise_one_with_its_derivatives() -> None:
    decay, state, driven = (
        jax.nn.sigmoid(normal(0, STEPS, TRIALS, 3)),
        normal(1, TRIALS, 3),
        normal(2, STEPS, TRIALS, 3),
    )
    expected, now = [], np.asarray(state)
    for t in range(STEPS):
        now = np.asarray(decay[t]) * now + np.asarray(driven[t])
        expected.append(now)

    def loss(way: Any, *arguments: Array) -> Array:
        return jnp.sum((way(*arguments) - 1) ** 2)

    gradients = []
    for way in (scans.linear, scans.linear_stepwise, scans.linear_parallel):
        np.testing.assert_allclose(jax.jit(way)(decay, state, driven), np.stack(expected), rtol=1e-5, atol=1e-6)
        gradient = jax.jit(jax.grad(functools.partial(loss, way), argnums=(0, 1, 2)))
        gradients.append(gradient(decay, state, driven))
    for other in gradients[1:]:
        for ours, theirs in zip(gradients[0], other, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def layer_norm(x: np.ndarray, params: Any) -> np.ndarray:
    centred = x - x.mean()
    return centred / np.sqrt(x.var() + 1e-6) * params["scale"] + params["bias"]


def dense(x: np.ndarray, params: Any) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def states_of(layer: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the parameters of a layer, its inputs ``[T, F]``, and the states of its memory after each step."""
    x = normal(3, STEPS, layer.size)
    params = jax.jit(functools.partial(layer.init, method="drive"))(jax.random.key(4), x)
    leaves, structure = jax.tree.flatten(params)
    params = jax.tree.unflatten(structure, [a + 0.3 * normal(i, *a.shape) for i, a in enumerate(leaves)])
    decay, driven, _ = jax.jit(functools.partial(layer.apply, method="drive"))(params, x[:, None])
    states = scans.linear(decay, jnp.zeros(decay.shape[1:]), driven)[:, 0]
    return jax.tree.map(np.asarray, params["params"]), np.asarray(x), np.asarray(states)


def test_a_minimal_gru_follows_its_equations() -> None:
    params, xs, states = states_of(min_gru._Layer(4, 3, 100.0))
    h = np.zeros(3)
    for x, state in zip(xs, states, strict=True):
        x = layer_norm(x, params["normalise"])
        z = sigmoid(dense(x, params["update"]))
        h = (1 - z) * h + z * dense(x, params["candidate"])
        np.testing.assert_allclose(state, h, rtol=1e-4, atol=1e-5)


def test_a_selective_memory_follows_its_equations() -> None:
    layer = selective._Layer(4, 3, 2)
    params, xs, states = states_of(layer)
    h = np.zeros((3, 2))
    for x, state in zip(xs, states, strict=True):
        u = np.split(dense(layer_norm(x, params["normalise"]), params["inputs"]), 2)[0]
        u = u * sigmoid(u)
        step = np.log1p(np.exp(dense(u, params["step_size"])))
        b = np.split(dense(u, params["select"]), 2)[0]
        for channel in range(3):
            for n in range(2):
                decay = np.exp(-step[channel] * np.exp(params["log_rate"][channel, n]))
                h[channel, n] = decay * h[channel, n] + step[channel] * b[n] * u[channel]
        np.testing.assert_allclose(state, h, rtol=1e-4, atol=1e-5)


def test_the_first_memories_last_as_long_as_the_settings_say() -> None:
    gates = np.asarray(min_gru._closed(100.0)(jax.random.key(0), (500,)))
    steps = 1 / sigmoid(gates)
    assert 2 <= steps.min() < 2.1
    assert 90 < steps.max() <= 100.01
    sizes = np.log1p(np.exp(np.asarray(selective._step_size_bias(jax.random.key(0), (500,)))))
    assert 1e-3 * 0.999 <= sizes.min() < 1.2e-3
    assert 0.08 < sizes.max() <= 1e-1 * 1.001


@pytest.mark.parametrize(
    ("memory", "settings", "message"),
    [
        (min_gru, {"longest_memory": 2.0}, "longest_memory must be a finite number above 2, not 2.0"),
        (min_gru, {"layers": 0}, "layers must be a positive whole number, not 0"),
        (selective, {"state_size": -1}, "state_size must be a positive whole number, not -1"),
    ],
)
def test_bad_settings_are_named(memory: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory.Settings(**settings)
