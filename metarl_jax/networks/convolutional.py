"""Convolutional networks of images, whose convolutions stay fast where every task has weights of its own.

A ``vmap`` of XLA's convolution over weights is a grouped convolution, which took 20 times as long on a CPU as what is
done here: patches are cut out, which depends on no weights, and multiplied by the kernel as a matrix; a ``vmap`` of
that is a batched matrix product.
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
    """What a ``size`` x ``size`` kernel sees at every step of its way over images padded with zeros.

    Args:
        x: ``[N, height, width, channels]``.
        size: of the kernel.
        stride: of its steps, in both directions.

    Returns:
        ``[N, ceil(height / stride), ceil(width / stride), size * size * channels]``, padded as XLA's "SAME".
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
    """A convolution with padding "SAME".

    Args:
        x: ``[N, height, width, channels]``.
        kernel: ``[size, size, channels, filters]``.
        stride: in both directions.

    Returns:
        ``[N, ceil(height / stride), ceil(width / stride), filters]``.
    """
    return patches(x, kernel.shape[0], stride) @ kernel.reshape(-1, kernel.shape[-1])


class Convolution(nn.Module):
    """3x3 filters, and a bias."""

    filters: int
    stride: int = STRIDE

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (KERNEL, KERNEL, x.shape[-1], self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, jnp.float32)
        # A normalisation after it takes the bias away again; the published networks have it all the same.
        bias = self.param("bias", nn.initializers.zeros, (self.filters,), jnp.float32)
        return convolve(x, kernel, self.stride) + bias


class ConvolutionalClassifier(nn.Module):
    """Blocks of convolution, batch normalisation and rectification, then a linear layer."""

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
    """Images ``[N, height, width, channels]`` to rectified features ``[N, size]``, each image by itself.

    Blocks of convolution, normalisation over the image, and rectification; each halves height and width.
    """

    size: int
    filters: int
    blocks: int
    pooling: bool
    """Whether by maxima of 2x2 (where an odd row or column is left over, it is left out) or by strides of 2."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.blocks):
            x = Convolution(self.filters, 1 if self.pooling else STRIDE)(x)
            x = nn.relu(ImageNormalisation()(x))
            if self.pooling:
                x = largest_of_four(x)
        return nn.relu(nn.Dense(self.size)(x.reshape(x.shape[0], -1)))


def largest_of_four(x: Array) -> Array:
    """Maxima of 2x2 of ``[N, height, width, channels]``; of a single row or column, itself."""
    # Not by jnp.max, whose derivative divides by how often the largest is found again: where XLA computes it twice and
    # rounds otherwise, never.
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
    """The network of the Omniglot experiments of Finn et al. (2017): strided convolutions, no pooling in between.

    It normalises by the statistics of the batch that it is given (``BatchNormalisation``). For 5 classes of 28x28x1 it
    has 112,261 parameters.

    Args:
        image_shape: of x without its batch, ``(height, width, channels)``.
        outputs: classes; the prediction is their logits, ``[N, outputs]``.
        filters: of each convolution.
        blocks: each halves height and width.
        features: what the linear layer sees of the last block: "average": each filter's mean over the image (the code
            of Finn et al.); "all": the whole map (that of Nichol et al. 2018).

    Raises:
        ValueError: for a size that is not a positive whole number, a shape that is not of three, or an unknown name.
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
            "What the linear layer sees of the last convolution: each filter's mean over the image (Finn et al. 2017), "
            "or the whole map (Nichol et al. 2018)."
        ),
    ] = "average"


def make(family: FewShotFamily, settings: Settings) -> Predictor:
    """The convolutional classifier for few-shot tasks whose inputs are images.

    Args:
        family: the few-shot tasks.
        settings: sizes.

    Raises:
        ValueError: for inputs that are no images.
    """
    examples = family.examples()
    return classifier(
        examples.shape,
        examples.outputs,
        filters=settings.filters,
        blocks=settings.blocks,
        features=settings.features,
    )
