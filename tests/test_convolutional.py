"""Networks for images: convolutions against XLA's, sizes against the published ones, and the axes of normalisation."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.interfaces.gradient import Predictor
from metarl_jax.networks import convolutional, mlp
from metarl_jax.networks.normalisation import BatchNormalisation
from metarl_jax.types import Array

SHAPE = (28, 28, 1)


def size(network: Predictor) -> int:
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))))


@pytest.mark.parametrize(
    ("height", "width", "channels", "kernel", "stride"),
    [(28, 28, 1, 3, 2), (14, 14, 8, 3, 2), (7, 7, 8, 3, 2), (4, 4, 8, 3, 2), (9, 6, 3, 3, 1), (11, 8, 2, 5, 3)],
)
def test_convolutions_are_xla_s(height: int, width: int, channels: int, kernel: int, stride: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, height, width, channels))
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, channels, 6))

    def reference(x: Array, weights: Array) -> Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, weights, (stride, stride), "SAME", dimension_numbers=layout)

    def ours(x: Array, weights: Array) -> Array:
        return convolutional.convolve(x, weights, stride)

    expected, backwards = jax.vjp(reference, x, weights)
    got, our_backwards = jax.vjp(ours, x, weights)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    cotangent = jnp.cos(jnp.arange(got.size, dtype=jnp.float32)).reshape(got.shape)
    for a, b in zip(our_backwards(cotangent), backwards(cotangent), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_sizes_are_the_published_ones() -> None:
    assert size(convolutional.classifier(SHAPE, 5)) == 112_261
    # With all four pixels of the last map instead of their mean, each class has 3 * 64 more weights.
    assert size(convolutional.classifier(SHAPE, 5, features="all")) == 112_261 + 3 * 64 * 5
    layers = (28 * 28, 256, 128, 64, 64)
    weights = sum((a + 3) * b for a, b in itertools.pairwise(layers))
    assert size(mlp.classifier(28 * 28, 5)) == weights + 65 * 5


def test_weights_of_each_task_s_own_are_a_loop_over_tasks_and_no_grouped_convolution() -> None:
    network = convolutional.classifier((8, 8, 2), 3, filters=4, blocks=2)
    params = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 3))
    x = jax.random.normal(jax.random.key(1), (3, 5, 8, 8, 2))
    batched = jax.jit(jax.vmap(network.apply))
    together = batched(params, x)
    assert together.shape == (3, 5, 3)
    for i in range(3):
        alone = network.apply(jax.tree.map(lambda p, i=i: p[i], params), x[i])
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)
    assert "stablehlo.convolution" not in batched.lower(params, x).as_text()


@pytest.mark.parametrize("features", ["average", "all"])
def test_a_convolutional_network_written_out(features: str) -> None:
    network = convolutional.classifier((6, 6, 1), 2, filters=3, blocks=1, features=features)  # pyright: ignore[reportArgumentType]
    params = network.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 1))
    block, normal, head = (params["params"][name] for name in ("Convolution_0", "BatchNormalisation_0", "head"))
    y = convolutional.convolve(x, block["kernel"], 2) + block["bias"]
    y = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-3) * normal["scale"] + normal["shift"]
    y = jnp.maximum(y, 0)
    y = y.mean((1, 2)) if features == "average" else y.reshape(4, 27)
    expected = y @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(network.apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_normalisation_uses_only_statistics_of_the_batch() -> None:
    module = BatchNormalisation(epsilon=0.0)
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (50, 4))
    variables = module.init(jax.random.key(1), x)
    assert set(variables) == {"params"}, "no running statistics are stored"
    y = np.asarray(module.apply(variables, x))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(0), 1, rtol=1e-4)


def test_the_mlp_takes_images_and_sees_the_whole_batch() -> None:
    network = mlp.classifier(16, 3, hidden_sizes=(8, 5))
    params = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
    whole = network.apply(params, x)
    assert whole.shape == (6, 3)
    np.testing.assert_allclose(whole, network.apply(params, x.reshape(6, 16)))
    order = jnp.asarray([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(network.apply(params, x[order]), whole[order], rtol=1e-4, atol=1e-5)
    assert float(jnp.max(jnp.abs(network.apply(params, x[:3]) - whole[:3]))) > 1e-3


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"image_shape must be \(height, width, channels\), not \(28, 28\)"):
        convolutional.classifier((28, 28), 5)
    with pytest.raises(ValueError, match="image_shape must be a positive whole number, not 0"):
        convolutional.classifier((28, 0, 1), 5)
    with pytest.raises(ValueError, match="outputs must be a positive whole number, not 0"):
        convolutional.classifier(SHAPE, 0)
    with pytest.raises(ValueError, match="filters must be a positive whole number, not -1"):
        convolutional.classifier(SHAPE, 5, filters=-1)
    with pytest.raises(ValueError, match=r"blocks must be a positive whole number, not 1\.5"):
        convolutional.classifier(SHAPE, 5, blocks=1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="features must be one of average, all, not 'mean'"):
        convolutional.classifier(SHAPE, 5, features="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="hidden_sizes must be a positive whole number, not 0"):
        mlp.classifier(784, 5, (0,))
