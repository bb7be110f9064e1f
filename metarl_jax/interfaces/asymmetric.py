"""The interface of asymmetric actor-critics, whose critic alone gets privileged information in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from metarl_jax.types import Array, Key, Params, Policy


class ArmsCritic(NamedTuple):
    """A critic that predicts a bandit's future regret from the beliefs about its arms, whatever their order."""

    init: Callable[[Key], Params]
    value: Callable[[Params, Array, Array], Array]
    """``(params, beliefs [..., K, F], remaining pulls [...]) -> [...]``: minus the mean regret of a remaining pull."""
    lookahead: Callable[[Params, Array, Array, Array], Array]
    """``(params, beliefs [..., K, F], beliefs about the pulled arm afterwards [..., K, O, F], remaining pulls [...]) ->
    [..., K, O]``: ``value`` after each outcome of a pull of each arm. It costs a fraction of separate evaluations."""


class AsymmetricNetworks(NamedTuple):
    """A policy, and a critic that gets privileged information."""

    policy: Policy
    """The policy; it has no critic of its own."""
    critic: ArmsCritic
