"""Baselines that are fitted to collected episodes, without a network."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from metarl_jax.types import Array


def linear_features(observation: Array, time: Array, horizon: int) -> Array:
    """Return the features of the linear baseline of returns (Duan et al. 2016, arXiv 1604.06778, section 5).

    Args:
        observation: ``[..., D]``; clipped to [-10, 10].
        time: ``[...]``, the number of steps since the beginning of the episode.
        horizon: H. The time is divided by it (the paper divides by 100).

    Returns:
        ``[..., 2 D + 4]``: o, o^2, t, t^2, t^3, 1.
    """
    chex.assert_shape(time, observation.shape[:-1])
    o = jnp.clip(observation, -10, 10)
    t = (time / horizon).astype(o.dtype)[..., None]
    return jnp.concatenate([o, o**2, t, t**2, t**3, jnp.ones_like(t)], axis=-1)


def fit_linear(features: Array, target: Array, weight: Array, ridge: float = 1e-5) -> Array:
    """Fit coefficients by ridge regression.

    Args:
        features: ``[N, F]``.
        target: ``[N]``.
        weight: ``[N]``, the weight of each row. A row with the weight 0 does not count, and may hold any values.
        ridge: the penalty on squared coefficients, relative to the mean squared error, for features scaled to a mean
            square of 1.

    Returns:
        Coefficients ``[F]``.
    """
    chex.assert_rank(features, 2)
    chex.assert_shape([target, weight], features.shape[:1])
    n = jnp.maximum(jnp.sum(weight), 1)
    counts = weight != 0
    features, target = jnp.where(counts[:, None], features, 0.0), jnp.where(counts, target, 0.0)
    weighted = features * weight[:, None] / n
    scale = jnp.sqrt(jnp.sum(weighted * features, axis=0))
    # Columns are scaled to the same size, so that the ridge is the same for all and single precision suffices.
    scale = jnp.where(scale > 0, scale, 1.0)
    columns = features / scale
    gram = (weighted / scale).T @ columns + ridge * jnp.eye(features.shape[-1], dtype=features.dtype)
    return jnp.linalg.solve(gram, (weighted / scale).T @ target) / scale
