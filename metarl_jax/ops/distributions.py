"""Action distributions of one step, as trees of arrays (so they scan, vmap and can be stored)."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Key


class Categorical(NamedTuple):
    """A choice among K actions."""

    logits: Array
    """``[..., K]``, unnormalised log-probabilities."""

    def sample(self, key: Key) -> Array:
        """Draw ``[...]`` int32 actions by inverse CDF: one random number a draw, whatever K."""
        cumulative = jnp.cumsum(jax.nn.softmax(self.logits), axis=-1)
        # Scaled by the last entry, which rounding may leave a little off one.
        threshold = jax.random.uniform(key, self.logits.shape[:-1], jnp.float32) * cumulative[..., -1]
        action = jnp.sum(threshold[..., None] >= cumulative, axis=-1, dtype=jnp.int32)
        return jnp.minimum(action, self.logits.shape[-1] - 1)

    def sample_with_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draw ``[...]`` int32 actions, with their log-probabilities."""
        action = self.sample(key)
        return action, self.log_prob(action)

    def mode(self) -> Array:
        """The likeliest action ``[...]``, int32."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Log p(action), ``[...]``."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        # A masked sum rather than a gather: its gradient is no scatter.
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=bool)
        return jnp.sum(jnp.where(chosen, log_probabilities, 0.0), axis=-1)

    def entropy(self) -> Array:
        """Entropy in nats, ``[...]``."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)

    def kl(self, other: Categorical) -> Array:
        """KL(self || other) in nats, ``[...]``."""
        p = jax.nn.log_softmax(self.logits)
        q = jax.nn.log_softmax(other.logits)
        return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


class DiagonalGaussian(NamedTuple):
    """Independent Gaussians over a real action vector of D entries."""

    mean: Array
    """``[..., D]``."""
    log_std: Array
    """``[..., D]``."""

    def sample(self, key: Key) -> Array:
        """Draw ``[..., D]``."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, jnp.float32)

    def mode(self) -> Array:
        """The mean."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """Log density, ``[...]``."""
        standard = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * standard**2 - self.log_std - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Array:
        """Differential entropy in nats, ``[...]``."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: DiagonalGaussian) -> Array:
        """KL(self || other) in nats, ``[...]``."""
        variance_ratio = jnp.exp(2 * (self.log_std - other.log_std))
        shift = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return 0.5 * jnp.sum(variance_ratio + shift - 1 - jnp.log(variance_ratio), axis=-1)


class SquashedGaussian(NamedTuple):
    """Real action vectors between bounds: independent Gaussians through a hyperbolic tangent (Haarnoja et al. 2018,
    appendix C), scaled. There is no closed form of its entropy.
    """

    mean: Array
    """``[..., D]``, before squashing."""
    log_std: Array
    """``[..., D]``, before squashing."""
    low: Array
    """``[D]``."""
    high: Array
    """``[D]``."""

    def _squash(self, x: Array) -> Array:
        return self.low + (self.high - self.low) * (jnp.tanh(x) + 1) / 2

    def _log_density(self, x: Array) -> Array:
        """Of the action that ``x`` is squashed to. log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x))."""
        slope = 2 * (math.log(2) - x - jax.nn.softplus(-2 * x)) + jnp.log((self.high - self.low) / 2)
        return DiagonalGaussian(self.mean, self.log_std).log_prob(x) - jnp.sum(slope, axis=-1)

    def sample(self, key: Key) -> Array:
        """Draw ``[..., D]``."""
        return self._squash(DiagonalGaussian(self.mean, self.log_std).sample(key))

    def sample_with_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draw ``[..., D]``, with its log density ``[...]``, which stays exact where the tangent is flat."""
        x = DiagonalGaussian(self.mean, self.log_std).sample(key)
        return self._squash(x), self._log_density(x)

    def mode(self) -> Array:
        """Where the Gaussian's mean is squashed to (the median of each entry, not its mode)."""
        return self._squash(self.mean)

    def log_prob(self, action: Array) -> Array:
        """Log density, ``[...]``; of an action on a bound, that of one a rounding error within."""
        unit = 2 * (action - self.low) / (self.high - self.low) - 1
        edge = 1 - jnp.finfo(action.dtype).eps
        return self._log_density(jnp.arctanh(jnp.clip(unit, -edge, edge)))


Distribution: TypeAlias = Categorical | DiagonalGaussian | SquashedGaussian
