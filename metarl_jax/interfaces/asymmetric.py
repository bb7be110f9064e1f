"""What asymmetric actor-critics see: a policy, and a critic that is given privileged information in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from metarl_jax.types import Array, Key, Params, Policy


class ArmsCritic(NamedTuple):
    """What will be lost to the best of a bandit's arms, given what is known of each, whichever is which."""

    init: Callable[[Key], Params]
    value: Callable[[Params, Array, Array], Array]
    """``(params, known [..., K, F], pulls that are left [...]) -> [...]``: minus the regret of a pull that is left."""
    lookahead: Callable[[Params, Array, Array, Array], Array]
    """``(params, known [..., K, F], then known of the arm pulled [..., K, O, F], pulls that are then left [...]) ->
    [..., K, O]``: ``value`` after every outcome of pulling every arm, for a fraction of what that takes one by one."""


class AsymmetricNetworks(NamedTuple):
    """A policy, and a critic that knows more than it."""

    policy: Policy
    """Without a critic of its own."""
    critic: ArmsCritic
