"""What learners see that infer the task from context and learn off-policy, as PEARL does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl_jax.types import Array, Key, Params, Space


class Experience(NamedTuple):
    """Steps of one task in no order, ``[N, ...]``: what a belief is inferred from, and what critics learn from."""

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    """The observation after the action, before any reset."""
    terminated: Array
    """The episode ended by its own rules."""
    valid: Array
    """What is not valid is not there."""


class ContextEncoder(NamedTuple):
    """What experience of a task says about it."""

    init: Callable[[Key], Params]
    infer: Callable[[Params, Experience], Any]
    """The belief, an ``ops.distributions.DiagonalGaussian`` over latent variables ``[M]``, given experience ``[N, *]``
    of ONE task in whatever order; given none, the standard Gaussian."""
    spaces: tuple[Space, Space | None] | None = None
    """As ``Policy.spaces``."""


class Actor(NamedTuple):
    """What acts, given a latent variable."""

    init: Callable[[Key], Params]
    distribution: Callable[[Params, Array, Array], Any]
    """``(params, observation [..., *], latent [..., M]) ->`` a distribution over actions (``ops.distributions``)."""
    spaces: tuple[Space, Space | None] | None = None
    """As ``Policy.spaces``."""


class TwinCritic(NamedTuple):
    """Two estimates of what an action is worth, of which the smaller one counts."""

    init: Callable[[Key], Params]
    values: Callable[[Params, Array, Array, Array], tuple[Array, Array]]
    """``(params, observation [N, *], latent [N, M], action [N, *]) ->`` both, ``[N]`` each."""
    expected: Callable[[Params, Key, Array, Array, Any], tuple[Array, Array]]
    """``(params, key, observation [N, *], latent [N, M], distribution [N])``: the mean over its actions of the smaller
    value, and its entropy in nats, ``[N]`` each. Exact for discrete actions, else by one reparameterised sample."""
    spaces: tuple[Space, Space | None] | None = None
    """As ``Policy.spaces``."""


class ContextNetworks(NamedTuple):
    """What infers a task from context, and acts on it."""

    encoder: ContextEncoder
    actor: Actor
    critic: TwinCritic
    latent_size: int
    """M."""
