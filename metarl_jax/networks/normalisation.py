"""Normalisation of batches, and of single images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.types import Array


def _standardise(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=axes, keepdims=True) + epsilon)


class ImageNormalisation(nn.Module):
    """Mean 0 and variance 1 over pixels and features of each image, then a learned scale and shift of each feature."""

    epsilon: float = 1e-3
    """Added to the variance."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[N, height, width, features]``, of the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _standardise(x, (1, 2, 3), self.epsilon) * scale + shift


class BatchNormalisation(nn.Module):
    """Mean 0 and variance 1 of each feature over the batch it is given, then a learned scale and shift.

    Nothing is remembered from batch to batch: support and query are each normalised by their own statistics, a query's
    examples together (transductive), as in the few-shot experiments of MAML and, unless they say so, of Reptile.
    """

    epsilon: float = 1e-3
    """Added to the variance."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[..., features]``, of the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _standardise(x, tuple(range(x.ndim - 1)), self.epsilon) * scale + shift
