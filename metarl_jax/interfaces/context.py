"""The interface of learners that infer the task from context and learn off-policy, such as PEARL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl_jax.types import Array, Key, Params, Space


class Experience(NamedTuple):
    """Unordered steps of one task, ``[N, ...]``. Beliefs are inferred from them, and critics learn from them."""

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    """The observation after the action, before any reset."""
    terminated: Array
    """Whether the episode ended by its own rules."""
    valid: Array
    """Whether a step counts; the others are padding."""


class ContextEncoder(NamedTuple):
    """A network that infers a belief about a task from experience of it."""

    init: Callable[[Key], Params]
    infer: Callable[[Params, Experience], Any]
    """``(params, experience [N, *] of ONE task) ->`` the belief, an ``ops.distributions.DiagonalGaussian`` over latent
    variables ``[M]``. The order of the steps has no effect. Without valid steps it is the standard Gaussian."""
    spaces: tuple[Space, Space | None] | None = None
    """The spaces that the network was made for, as ``Policy.spaces``."""
    next_observation: bool = True
    """Whether ``infer`` uses ``Experience.next_obs``."""


class Actor(NamedTuple):
    """A policy that is conditioned on a latent variable."""

    init: Callable[[Key], Params]
    distribution: Callable[[Params, Array, Array], Any]
    """``(params, observation [..., *], latent [..., M]) ->`` a distribution over actions (``ops.distributions``)."""
    spaces: tuple[Space, Space | None] | None = None
    """The spaces that the network was made for, as ``Policy.spaces``."""


class TwinCritic(NamedTuple):
    """Two estimates of the value of an action; the smaller one is used (Fujimoto et al. 2018)."""

    init: Callable[[Key], Params]
    values: Callable[[Params, Array, Array, Array], tuple[Array, Array]]
    """``(params, observation [N, *], latent [N, M], action [N, *]) ->`` both estimates, ``[N]`` each."""
    expected: Callable[[Params, Key, Array, Array, Any], tuple[Array, Array]]
    """``(params, key, observation [N, *], latent [N, M], distribution [N])``: the mean over its actions of the smaller
    value, and its entropy in nats, ``[N]`` each. Exact for discrete actions, else by one reparameterised sample."""
    spaces: tuple[Space, Space | None] | None = None
    """The spaces that the network was made for, as ``Policy.spaces``."""


class ContextNetworks(NamedTuple):
    """A context encoder, with an actor and critics that are conditioned on the latent variable."""

    encoder: ContextEncoder
    actor: Actor
    critic: TwinCritic
    latent_size: int
    """The number M of latent variables."""
