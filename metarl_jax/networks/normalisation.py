"""Normalisation over batches, and over single images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.types import Array


def _standardise(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=axes, keepdims=True) + epsilon)


class ImageNormalisation(nn.Module):
    """Normalise each image to mean 0 and variance 1, then apply a learned scale and shift of each feature.

    The mean and the variance are those over the pixels and features of the image.
    """

    epsilon: float = 1e-3
    """A constant that is added to the variance."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise images ``[N, height, width, features]``; the result has the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _standardise(x, (1, 2, 3), self.epsilon) * scale + shift


class BatchNormalisation(nn.Module):
    """Normalise each feature to mean 0 and variance 1 over the batch, then apply a learned scale and shift.

    No running statistics are stored. Support and query are each normalised by their own statistics, and all examples of
    the query are normalised together (transductive). The few-shot experiments of MAML do the same, and those of Reptile
    unless they are marked otherwise.
    """

    epsilon: float = 1e-3
    """A constant that is added to the variance."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise features ``[..., features]``; the result has the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _standardise(x, tuple(range(x.ndim - 1)), self.epsilon) * scale + shift
