"""Beliefs about a latent variable: independent Gaussians, their products, and the bounds that they are learnt from.

A belief is a ``DiagonalGaussian``, whose ``sample`` is reparameterised and whose ``kl`` is closed.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.types import Array, Key

LARGEST_EXPONENT = 60.0
"""Exponentials up to e^60 and their sums are far from the largest float32, those from e^-60 on from the smallest."""


def standard(shape: tuple[int, ...]) -> DiagonalGaussian:
    """N(0, I), with mean and log standard deviation of that shape."""
    return DiagonalGaussian(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def product(factors: DiagonalGaussian, weight: Array | None = None) -> DiagonalGaussian:
    """The normalised product of N Gaussians: precisions add up, and weigh the means (Rakelly et al. 2019, section 4.1).

    Args:
        factors: ``[N, ..., D]``.
        weight: ``[N, ...]``, the power of each factor: 0 leaves it out, and then it may be infinite or NaN; 1 if not
            given. One at least is positive.

    Returns:
        ``[..., D]``.
    """
    chex.assert_equal_shape([factors.mean, factors.log_std])
    if weight is not None:
        chex.assert_shape(weight, factors.mean.shape[:-1])
    mean, log_precision = factors.mean, -2 * factors.log_std
    if weight is not None:
        counts = weight[..., None] != 0
        mean, log_precision = jnp.where(counts, mean, 0.0), jnp.where(counts, log_precision, -jnp.inf)
    # The largest precision is factored out where its exponential would overflow or vanish.
    largest = jax.lax.stop_gradient(jnp.max(log_precision, axis=0))
    shift = jnp.where(jnp.abs(largest) > LARGEST_EXPONENT, largest, 0.0)
    precision = jnp.exp(log_precision - shift)
    if weight is not None:
        precision = precision * weight[..., None]
    total = jnp.sum(precision, axis=0)
    return DiagonalGaussian(jnp.sum(precision * mean, axis=0) / total, -0.5 * (jnp.log(total) + shift))


def sequential_elbo(
    key: Key,
    beliefs: DiagonalGaussian,
    log_likelihood: Callable[[Array], Array],
    prior: DiagonalGaussian,
    kl_weight: float | Array = 1.0,
    steps: Array | None = None,
) -> tuple[Array, Array]:
    """A bound for each of a sequence of beliefs, its prior the belief before it (Zintgraf et al. 2020, section 3.1).

    At step t it is E[log p(data | m)] - KL(q_t || q_{t-1}), the mean over m ~ q_t by one reparameterised sample. With
    weight 1 that is at most log E[p(data | m)] over m ~ q_{t-1}, with equality if q_t is the posterior. Where the
    data at step t are that step's alone and every belief is exact, the bounds add up to the log-evidence of all.

    Args:
        key: random key.
        beliefs: q_t, ``[T, ..., D]``.
        log_likelihood: ``m [K, ..., D] -> [K, ...]``: log p(data of step t | m_t).
        prior: before the first belief, ``[..., D]``.
        kl_weight: of the divergence.
        steps: int32, the steps whose bound is wanted: ``[K]``, or with the leading axes of ``...``, ``[K, B]``, of each
            sequence its own; None: all, in order.

    Returns:
        The expected log-likelihoods, and the bounds, ``[K, ...]`` each, in nats.
    """
    chex.assert_equal_shape([beliefs.mean, beliefs.log_std])
    chex.assert_shape([prior.mean, prior.log_std], beliefs.mean.shape[1:])
    chex.assert_rank(kl_weight, 0)
    if steps is not None:
        chex.assert_shape(steps, (None, *beliefs.mean.shape[1 : steps.ndim]))
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), prior, beliefs)
    if steps is not None:
        rows = steps.reshape(*steps.shape, *(1,) * (beliefs.mean.ndim - steps.ndim))
        beliefs, before = jax.tree.map(lambda x: jnp.take_along_axis(x, rows, axis=0), (beliefs, before))
    expected = log_likelihood(beliefs.sample(key))
    chex.assert_shape(expected, beliefs.mean.shape[:-1])
    return expected, expected - kl_weight * beliefs.kl(before)
