"""Beliefs about a latent variable: independent Gaussians, their products, and their variational bounds.

A belief is a ``DiagonalGaussian``. Its ``sample`` is reparameterised, and its ``kl`` has a closed form.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.types import Array, Key

LARGEST_EXPONENT = 60.0
"""Exponentials from e^-60 to e^60, and their sums, do not overflow or vanish in float32."""


def standard(shape: tuple[int, ...]) -> DiagonalGaussian:
    """Return N(0, I), with mean and log standard deviation of the given shape."""
    return DiagonalGaussian(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def product(factors: DiagonalGaussian, weight: Array | None = None) -> DiagonalGaussian:
    """Return the normalised product of N Gaussians (Rakelly et al. 2019, section 4.1).

    Its precision is the sum of the precisions, and its mean is the mean weighted by precisions.

    Args:
        factors: ``[N, ..., D]``.
        weight: ``[N, ...]``, the power of each factor; 1 if not given. A factor with the power 0 is left out, and may
            be infinite or NaN. At least one power must be positive.

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
    """Return a bound for each belief of a sequence, whose prior is the belief before it (Zintgraf et al. 2020, section
    3.1).

    The bound at step t is E[log p(data | m)] - KL(q_t || q_{t-1}), where one reparameterised sample estimates the mean
    over m ~ q_t. With weight 1 the bound is at most log E[p(data | m)] over m ~ q_{t-1}, with equality if q_t is the
    posterior. If the data at step t are those of this step only, and every belief is exact, the sum of the bounds is
    the log-evidence of all data.

    Args:
        key: random key.
        beliefs: q_t, ``[T, ..., D]``.
        log_likelihood: ``m [K, ..., D] -> [K, ...]``: log p(data of step t | m_t).
        prior: the belief before the first one, ``[..., D]``.
        kl_weight: the weight of the divergence.
        steps: int32, the steps whose bounds are returned: ``[K]``, or ``[K, B]`` with the leading axes of ``...`` for
            different steps in each sequence. None: all steps in order.

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
