"""A critic of what is known of a bandit's arms: minus the regret that is to come.

It sums features of each arm (Deep Sets, Zaheer et al. 2017): it does not matter in which order they stand. What is
foreseen, after every outcome of every pull, differs in one arm from what is known: the features of the others are not
computed again.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.checks import positive_int
from metarl_jax.networks.heads import dense
from metarl_jax.types import ArmsCritic, Array, Key, Params


class _Arms(nn.Module):
    """What is known of the arms to minus the mean regret of a pull that is left."""

    units: int

    def setup(self) -> None:
        self.arm = [nn.Dense(self.units) for _ in range(2)]
        self.time = nn.Dense(self.units)
        self.together = nn.Dense(self.units)
        # Of the order of what a pull loses halfway through learning.
        small, start = nn.initializers.orthogonal(0.1), nn.initializers.constant(-3.0)
        self.head = nn.Dense(1, kernel_init=small, bias_init=start)

    def _of_arm(self, known: Array) -> Array:
        return dense(self.arm[1], nn.tanh(dense(self.arm[0], known)))

    def _of_all(self, arms: int, features: Array, left: Array) -> Array:
        time = jnp.stack([left / 100, jnp.log1p(left) / 5, 1 / jnp.sqrt(1 + left)], axis=-1)
        # Arms are independent: their sum varies as the root of how many there are.
        x = nn.tanh(features / arms**0.5 + dense(self.time, time))
        # Regrets, large ones and small: what is learnt is their size's logarithm, nearly.
        return -nn.softplus(dense(self.head, nn.tanh(dense(self.together, x)))[..., 0])

    def __call__(self, known: Array, left: Array) -> Array:
        return self._of_all(known.shape[-2], jnp.sum(self._of_arm(known), axis=-2), left)

    def foresee(self, known: Array, then: Array, left: Array) -> Array:
        now = self._of_arm(known)
        others = jnp.sum(now, axis=-2, keepdims=True) - now
        features = others[..., None, :] + self._of_arm(then)
        return self._of_all(known.shape[-2], features, jnp.broadcast_to(left[..., None, None], features.shape[:-1]))


def make(features: int, *, units: int = 64) -> ArmsCritic:
    """A critic of a bandit's arms.

    Args:
        features: F, that tell what is known of an arm.
        units: of each layer.

    Raises:
        ValueError: for a size that is not a positive whole number.
    """
    network, features = _Arms(positive_int("units", units)), positive_int("features", features)

    def init(key: Key) -> Params:
        return network.init(key, jnp.zeros((1, features)), jnp.zeros(()))

    def value(params: Params, known: Array, left: Array) -> Array:
        return network.apply(params, known, left)  # pyright: ignore[reportReturnType]

    def foresee(params: Params, known: Array, then: Array, left: Array) -> Array:
        return network.apply(params, known, then, left, method="foresee")  # pyright: ignore[reportReturnType]

    return ArmsCritic(init, value, foresee)
