"""Convolutional networks for images, whose convolutions stay fast if every task has weights of its own.

Here a convolution extracts patches, which does not depend on the weights, and multiplies them by the kernel as a
matrix. A ``vmap`` of this over the weights is a batched matrix product. A ``vmap`` of XLA's convolution over the
weights is a grouped convolution, which took 20 times as long on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.checks import choice, positive_int
from metarl_jax.interfaces.few_shot import FewShotFamily
from metarl_jax.interfaces.gradient import Predictor
from metarl_jax.networks.normalisation import BatchNormalisation, ImageNormalisation
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, Key, Params

KERNEL = 3
STRIDE = 2


def patches(x: Array, size: int, stride: int) -> Array:
    """Extract the patches that a ``size`` x ``size`` kernel covers at each of its positions on zero-padded images.

    Args:
        x: images ``[N, height, width, channels]``.
        size: height and width of the kernel, in pixels.
        stride: the stride of the kernel in both directions, in pixels.

    Returns:
        ``[N, ceil(height / stride), ceil(width / stride), size * size * channels]``, with the padding of XLA's "SAME".
    """
    steps = [-(-length // stride) for length in x.shape[1:3]]
    missing = [max((n - 1) * stride + size - length, 0) for n, length in zip(steps, x.shape[1:3], strict=True)]
    padded = jnp.pad(x, [(0, 0), *((total // 2, total - total // 2) for total in missing), (0, 0)])
    height, width = ((n - 1) * stride + 1 for n in steps)
    seen = [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(size)
        for column in range(size)
    ]
    return jnp.concatenate(seen, axis=-1)


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """Compute a convolution with padding "SAME".

    Args:
        x: images ``[N, height, width, channels]``.
        kernel: ``[size, size, channels, filters]``.
        stride: the stride in both directions, in pixels.

    Returns:
        ``[N, ceil(height / stride), ceil(width / stride), filters]``.
    """
    return patches(x, kernel.shape[0], stride) @ kernel.reshape(-1, kernel.shape[-1])


class Convolution(nn.Module):
    """A convolution with 3x3 filters and a bias."""

    filters: int
    stride: int = STRIDE

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (KERNEL, KERNEL, x.shape[-1], self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, jnp.float32)
        # A normalisation that follows removes the bias again, but the published networks have one.
        bias = self.param("bias", nn.initializers.zeros, (self.filters,), jnp.float32)
        return convolve(x, kernel, self.stride) + bias


class ConvolutionalClassifier(nn.Module):
    """A classifier: blocks of convolution, batch normalisation and rectification, then a linear layer."""

    outputs: int
    filters: int
    blocks: int
    average: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.blocks):
            x = nn.relu(BatchNormalisation()(Convolution(self.filters)(x)))
        x = jnp.mean(x, axis=(1, 2)) if self.average else x.reshape(x.shape[0], -1)
        return nn.Dense(self.outputs, name="head")(x)


class ImageEmbedding(nn.Module):
    """A network from images ``[N, height, width, channels]`` to rectified features ``[N, size]``.

    It consists of blocks of convolution, normalisation over the image, and rectification. Each block halves height and
    width. The features of an image do not depend on the other images.
    """

    size: int
    filters: int
    blocks: int
    pooling: bool
    """Whether blocks halve images by 2x2 max-pooling (which drops an odd last row or column) or by strides of 2."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.blocks):
            x = Convolution(self.filters, 1 if self.pooling else STRIDE)(x)
            x = nn.relu(ImageNormalisation()(x))
            if self.pooling:
                x = largest_of_four(x)
        return nn.relu(nn.Dense(self.size)(x.reshape(x.shape[0], -1)))


def largest_of_four(x: Array) -> Array:
    """Compute the maxima of 2x2 pixels of ``[N, height, width, channels]``; a single row or column stays as it is."""
    # The derivative of jnp.max divides by the number of elements that equal the maximum. If XLA computes the maximum
    # twice and rounds differently, this number is zero.
    if x.shape[1] > 1:
        x = jnp.maximum(x[:, 0 : x.shape[1] - 1 : 2], x[:, 1::2])
    if x.shape[2] > 1:
        x = jnp.maximum(x[:, :, 0 : x.shape[2] - 1 : 2], x[:, :, 1::2])
    return x


def classifier(
    image_shape: Sequence[int],
    outputs: int,
    *,
    filters: int = 64,
    blocks: int = 4,
    features: Literal["average", "all"] = "average",
) -> Predictor:
    """Make the network of the Omniglot experiments of Finn et al. (2017), with strided convolutions and no pooling.

    The network normalises by the statistics of its batch (``BatchNormalisation``). For 5 classes and images of
    28x28x1 it has 112,261 parameters.

    Args:
        image_shape: the shape of one image, ``(height, width, channels)``.
        outputs: the number of classes; the prediction is their logits, ``[N, outputs]``.
        filters: filters of each convolution.
        blocks: the number of blocks, each of which halves height and width.
        features: the input of the linear layer. "average" is the mean of each filter over the image, as in the code of
            Finn et al.; "all" is the whole map of the last block, as in the code of Nichol et al. (2018).

    Raises:
        ValueError: if a size is not a positive whole number, the shape does not have three numbers, or ``features`` is
            not a known name.
    """
    shape = tuple(positive_int("image_shape", size) for size in image_shape)
    if len(shape) != 3:
        raise ValueError(f"image_shape must be (height, width, channels), not {shape}")
    choice("average", "all")("features", features)
    network = ConvolutionalClassifier(
        positive_int("outputs", outputs),
        positive_int("filters", filters),
        positive_int("blocks", blocks),
        features == "average",
    )

    def init(key: Key) -> Params:
        return network.init(key, jnp.zeros((1, *shape), jnp.float32))

    def apply(params: Params, x: Array) -> Array:
        return network.apply(params, x)  # pyright: ignore[reportReturnType]

    return Predictor(init, apply)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the convolutional classifier; defaults are those of the code of Finn et al. (2017)."""

    filters: Annotated[PositiveInt, Doc("Filters of each convolution.")] = 64
    blocks: Annotated[PositiveInt, Doc("Convolutions, each of which halves height and width.")] = 4
    features: Annotated[
        Literal["average", "all"],
        Doc(
            'The input of the linear layer: "average" is the mean of each filter of the last convolution over the '
            'image (Finn et al. 2017), "all" is its whole map (Nichol et al. 2018).'
        ),
    ] = "average"


def make(family: FewShotFamily, settings: Settings) -> Predictor:
    """Make the convolutional classifier for few-shot tasks whose inputs are images.

    Args:
        family: the few-shot tasks.
        settings: the sizes of the network.

    Raises:
        ValueError: if the inputs are not images.
    """
    examples = family.examples()
    return classifier(
        examples.shape,
        examples.outputs,
        filters=settings.filters,
        blocks=settings.blocks,
        features=settings.features,
    )
