"""The interface of learners that act on a belief about the task, such as VariBAD: encoder, decoder and policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl_jax.types import Array, Carry, Inputs, Key, Params, Policy, Space, Transition


class BeliefEncoder(NamedTuple):
    """A memory that returns a belief about the task.

    Every function except ``unroll`` handles one trial (see ``Policy``).
    """

    init: Callable[[Key], Params]
    initial_carry: Callable[[Params], Carry]
    """The memory at the first step of a trial."""
    step: Callable[[Params, Carry, Inputs], tuple[Carry, Any]]
    """``(params, memory, inputs) -> (memory, belief)``. The belief is an ``ops.distributions.DiagonalGaussian`` over
    latent variables ``[M]``."""
    unroll: Callable[[Params, Carry, Inputs], tuple[Carry, Any]]
    """``step`` over the inputs ``[T, ...]`` of a trial, or ``[T, B, ...]`` of B vectorised trials."""
    spaces: tuple[Space, Space | None] | None = None
    """The spaces that the network was made for, as ``Policy.spaces``."""


class TrialDecoder(NamedTuple):
    """A model that predicts a trial from a latent variable."""

    init: Callable[[Key], Params]
    log_likelihood: Callable[[Params, Array, Transition], Array]
    """``(params, latents [N, B, M], trials [T, B, ...]) -> [N, B]``: the log-probability of the decoded parts of
    a trial given each of N latent variables. Invalid steps do not count."""
    pays: Callable[[Params, Array], Array] | None = None
    """``(params, latents [N, M]) -> [N, K]``: the probability that a step to each of K observations is rewarded. None:
    the decoder has no such probabilities."""
    spaces: tuple[Space, Space | None] | None = None
    """The spaces that the network was made for, as ``Policy.spaces``."""


class BeliefNetworks(NamedTuple):
    """A policy that acts on a belief, and the encoder and the decoder that learn the belief."""

    encoder: BeliefEncoder
    decoder: TrialDecoder
    policy: Policy
    """The policy; it observes what ``show`` returns."""
    show: Callable[[Array, Any], Array]
    """``(observation, belief) ->`` the policy's observation."""
    shown: Space
    """The space of the policy's observations."""
    latent_size: int
    """The number M of latent variables."""
