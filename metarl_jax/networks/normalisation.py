"""Normalisation of whole batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.types import Array


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
        features, axes = x.shape[-1:], tuple(range(x.ndim - 1))
        scale = self.param("scale", nn.initializers.ones, features)
        shift = self.param("shift", nn.initializers.zeros, features)
        centred = x - jnp.mean(x, axis=axes)
        return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=axes) + self.epsilon) * scale + shift
