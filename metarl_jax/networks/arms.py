"""A critic of the posteriors over a bandit's arms. Its value is minus the regret of the remaining pulls.

The critic computes features of each arm, and takes the sum over arms and the maximum over arms of each feature (as in
Deep Sets, Zaheer et al. 2017). Its value therefore does not depend on the order of the arms. An outcome of a pull
changes the posterior of one arm only, so the features of the other arms are not computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.checks import positive_int
from metarl_jax.interfaces.asymmetric import ArmsCritic, AsymmetricNetworks
from metarl_jax.networks.heads import dense
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Arm, Array, EnvFamily, Key, Params, Policy


class _Arms(nn.Module):
    """A network from the posteriors over the arms to minus the mean regret of one remaining pull."""

    units: int

    def setup(self) -> None:
        self.arm = [nn.Dense(self.units) for _ in range(2)]
        self.together, self.more = nn.Dense(self.units), nn.Dense(self.units)
        # softplus(-3) = 0.05 is about the regret of a pull halfway through learning.
        small, start = nn.initializers.orthogonal(0.1), nn.initializers.constant(-3.0)
        self.head = nn.Dense(1, kernel_init=small, bias_init=start)

    def _of_arm(self, known: Array) -> Array:
        return dense(self.arm[1], nn.tanh(dense(self.arm[0], known)))

    def _of_all(self, arms: int, total: Array, highest: Array, left: Array) -> Array:
        time = jnp.stack([left / 100, jnp.log1p(left) / 5, 1 / jnp.sqrt(1 + left)], axis=-1)
        # Arms are independent: the standard deviation of their sum grows as the root of their number.
        x = jnp.concatenate([total / arms**0.5, highest, time], axis=-1)
        x = nn.tanh(dense(self.more, nn.tanh(dense(self.together, x))))
        # Regrets differ by orders of magnitude: for small ones, the head's output is about the logarithm of the regret.
        return -nn.softplus(dense(self.head, x)[..., 0])

    def __call__(self, known: Array, left: Array) -> Array:
        now = self._of_arm(known)
        return self._of_all(known.shape[-2], jnp.sum(now, axis=-2), jnp.max(now, axis=-2), left)

    def lookahead(self, known: Array, then: Array, left: Array) -> Array:
        now, new = self._of_arm(known), self._of_arm(then)
        total = (jnp.sum(now, axis=-2, keepdims=True) - now)[..., None, :] + new
        # The maximum over the other arms is the maximum over all arms, except for an arm that alone attains it.
        highest = jnp.max(now, axis=-2, keepdims=True)
        has_it = now == highest
        second = jnp.max(jnp.where(has_it, -jnp.inf, now), axis=-2, keepdims=True)
        alone = has_it & (jnp.sum(has_it, axis=-2, keepdims=True) == 1)
        highest = jnp.maximum(jnp.where(alone, second, highest)[..., None, :], new)
        return self._of_all(known.shape[-2], total, highest, jnp.broadcast_to(left[..., None, None], total.shape[:-1]))


def critic(arm: Arm, *, units: int = 64) -> ArmsCritic:
    """Make a critic of the posteriors over a bandit's arms.

    Args:
        arm: the posterior of an arm; its features are the inputs of the critic.
        units: units of each layer.

    Raises:
        ValueError: if ``units`` is not a positive whole number.
    """
    network = _Arms(positive_int("units", units))

    def init(key: Key) -> Params:
        return network.init(key, arm.features(arm.prior)[None], jnp.float32(0))

    def value(params: Params, known: Array, left: Array) -> Array:
        return network.apply(params, known, left)  # pyright: ignore[reportReturnType]

    def lookahead(params: Params, known: Array, then: Array, left: Array) -> Array:
        return network.apply(params, known, then, left, method="lookahead")  # pyright: ignore[reportReturnType]

    return ArmsCritic(init, value, lookahead)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the critic of a bandit's arms."""

    critic_units: Annotated[PositiveInt, Doc("Units of each layer of the critic.")] = 64


def make(family: EnvFamily, policy: Policy, settings: Settings) -> AsymmetricNetworks:
    """Combine a policy with a critic of the posteriors over the family's arms.

    Args:
        family: bandits whose arms have finitely many possible rewards.
        policy: a policy without a critic of its own.
        settings: the sizes of the critic.

    Raises:
        ValueError: if the family does not define ``privileged.arm``.
    """
    if family.privileged is None or family.privileged.arm is None:
        raise ValueError(
            "a privileged critic is for bandits whose arms pay finitely many rewards (EnvFamily.privileged.arm)"
        )
    return AsymmetricNetworks(policy, critic(family.privileged.arm, units=settings.critic_units))
