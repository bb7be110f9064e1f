"""What learners see that act on a belief about the task, as VariBAD does: an encoder, a decoder and a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl_jax.types import Array, Carry, Inputs, Key, Params, Policy, Space, Transition


class BeliefEncoder(NamedTuple):
    """A memory that says what it believes about the task. All but ``unroll`` is of one trial, as in ``Policy``."""

    init: Callable[[Key], Params]
    initial_carry: Callable[[Params], Carry]
    """The memory at the first step of a trial."""
    step: Callable[[Params, Carry, Inputs], tuple[Carry, Any]]
    """The belief, an ``ops.distributions.DiagonalGaussian`` over latent variables ``[M]``."""
    unroll: Callable[[Params, Carry, Inputs], tuple[Carry, Any]]
    """``step`` over ``[T, ...]``, or over trials side by side, ``[T, B, ...]``."""
    spaces: tuple[Space, Space | None] | None = None
    """As ``Policy.spaces``."""


class TrialDecoder(NamedTuple):
    """What a latent variable makes of a trial."""

    init: Callable[[Key], Params]
    log_likelihood: Callable[[Params, Array, Transition], Array]
    """``(params, latents [N, B, M], trials [T, B, ...]) -> [N, B]``: the log-probability of all that is decoded of a
    trial, given each of N latent variables. Steps that are not valid do not count."""
    pays: Callable[[Params, Array], Array] | None = None
    """``(params, latents [N, M]) -> [N, K]``: the probability that a step to each of K observations pays; None: it is
    no such decoder."""
    spaces: tuple[Space, Space | None] | None = None
    """As ``Policy.spaces``."""


class BeliefNetworks(NamedTuple):
    """What acts on a belief, and what the belief is learnt with."""

    encoder: BeliefEncoder
    decoder: TrialDecoder
    policy: Policy
    """Its observation is what ``show`` makes."""
    show: Callable[[Array, Any], Array]
    """``(observation, belief) ->`` what the policy is shown."""
    shown: Space
    """Where that lies."""
    latent_size: int
    """M."""
