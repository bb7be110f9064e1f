"""Networks of PEARL: an encoder of the context, and an actor and critics that are conditioned on its latent variable.

The encoder does not depend on the order of the steps of the context. Actions are discrete, or vectors between finite
bounds. Observations are encoded as in all other networks (``heads.ObservationEncoder``): images pass through filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.checks import boolean, positive_int
from metarl_jax.interfaces.context import Actor, ContextEncoder, ContextNetworks, Experience, TwinCritic
from metarl_jax.networks.heads import ObservationEncoder, dense, encode, zeros_like
from metarl_jax.ops.distributions import Categorical, DiagonalGaussian, Distribution, SquashedGaussian
from metarl_jax.ops.gaussians import product
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, Box, Discrete, HasSpaces, Key, Params, Space

NARROWEST, WIDEST = -10.0, 5.0
"""Bounds of the log standard deviation of the Gaussian factor of one step of the context."""
AT_FIRST = 2.0
"""The log standard deviation of a factor before training, about. It is large, so that even the product of hundreds of
factors carries little information at first."""
SUREST, VAGUEST = -5.0, 2.0
"""Bounds of the log standard deviation of the actor's actions, before they are squashed."""


class _Layers(nn.Module):
    """Rectified layers, then a linear one."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden_sizes:
            x = nn.relu(dense(nn.Dense(size), x))
        return dense(nn.Dense(self.outputs, name="head"), x)


class _Factors(nn.Module):
    """A network from steps ``[N, ...]`` to one Gaussian factor of the posterior for each: ``[N, M]``."""

    observation_space: Space
    action_space: Space
    latent_size: int
    hidden_sizes: tuple[int, ...]
    next_observation: bool

    @nn.compact
    def __call__(self, steps: Experience) -> DiagonalGaussian:
        see = ObservationEncoder(self.observation_space, name="see")
        features = [see(steps.obs), encode(self.action_space, steps.action), steps.reward[..., None]]
        if self.next_observation:
            features.append(see(steps.next_obs))
        both = _Layers(self.hidden_sizes, 2 * self.latent_size, name="say")(jnp.concatenate(features, axis=-1))
        mean, log_std = jnp.split(both, 2, axis=-1)
        return DiagonalGaussian(mean, jnp.clip(AT_FIRST + log_std, NARROWEST, WIDEST))


class _Actor(nn.Module):
    """A network from observations and latent variables to distributions over actions."""

    observation_space: Space
    action_space: Space
    hidden_sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, observation: Array, latent: Array) -> Distribution:
        seen = ObservationEncoder(self.observation_space, name="see")(observation)
        seen = jnp.concatenate([seen, latent], axis=-1)
        match self.action_space:
            case Discrete(n=n):
                return Categorical(_Layers(self.hidden_sizes, n, name="act")(seen))
            case Box(low=low, high=high, shape=shape):
                both = _Layers(self.hidden_sizes, 2 * shape[0], name="act")(seen)
                mean, log_std = jnp.split(both, 2, axis=-1)
                bounds = (jnp.broadcast_to(jnp.asarray(bound, jnp.float32), shape) for bound in (low, high))
                return SquashedGaussian(mean, jnp.clip(log_std, SUREST, VAGUEST), *bounds)


class _Critic(nn.Module):
    """A network from observations, latent variables and continuous actions to values ``[N]``.

    Discrete actions are not an input; the result has the value of each of the K actions, ``[N, K]``.
    """

    observation_space: Space
    action_space: Space
    hidden_sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, observation: Array, latent: Array, action: Array | None) -> Array:
        seen = [ObservationEncoder(self.observation_space, name="see")(observation), latent]
        match self.action_space, action:
            case Discrete(n=n), None:
                return _Layers(self.hidden_sizes, n, name="judge")(jnp.concatenate(seen, axis=-1))
            case Box(), jax.Array():
                seen.append(encode(self.action_space, action))
                return _Layers(self.hidden_sizes, 1, name="judge")(jnp.concatenate(seen, axis=-1))[..., 0]
            case _:
                raise TypeError("the critic takes an action if, and only if, actions are not discrete")


def encoder(
    observation_space: Space,
    action_space: Space,
    *,
    latent_size: int = 5,
    hidden_sizes: Sequence[int] = (200, 200, 200),
    next_observation: bool = False,
) -> ContextEncoder:
    """Make an encoder whose posterior is the prior times one Gaussian factor for each step of the context.

    The encoder is described in section 4.1 of Rakelly et al. (2019). The authors' code leaves out the prior where there
    is context. With the prior, the posterior tends to the prior as the context vanishes, and steps without information
    leave the posterior unchanged.

    Args:
        observation_space: the space of the environment's observations.
        action_space: the space of its actions.
        latent_size: the dimension M of the latent variable.
        hidden_sizes: rectified units of each layer (three of 200 in Rakelly et al. 2019).
        next_observation: whether the next observation is an input, too (for tasks that differ in more than reward).

    Raises:
        ValueError: if a size is not a positive whole number.
    """
    sizes = tuple(positive_int("hidden_sizes", size) for size in hidden_sizes)
    latent_size = positive_int("latent_size", latent_size)
    network = _Factors(
        observation_space, action_space, latent_size, sizes, boolean("next_observation", next_observation)
    )

    def init(key: Key) -> Params:
        obs, action, nothing = zeros_like(observation_space), zeros_like(action_space), jnp.float32(0)
        step = Experience(obs, action, nothing, obs, nothing, nothing)
        return network.init(key, jax.tree.map(lambda x: x[None], step))

    def infer(params: Params, experience: Experience) -> DiagonalGaussian:
        factors: DiagonalGaussian = network.apply(params, experience)  # pyright: ignore[reportAssignmentType]
        factors = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros((1, latent_size), jnp.float32), x]), factors)
        return product(factors, jnp.concatenate([jnp.ones(1, jnp.float32), experience.valid.astype(jnp.float32)]))

    return ContextEncoder(init, infer, (observation_space, action_space), network.next_observation)


def actor_and_critic(
    observation_space: Space, action_space: Space, *, latent_size: int, hidden_sizes: Sequence[int]
) -> tuple[Actor, TwinCritic]:
    """Make an actor and twin critics that are conditioned on a latent variable.

    Args:
        observation_space: the space of the environment's observations.
        action_space: the space of its actions, which are discrete, or vectors between finite bounds.
        latent_size: the dimension M of the latent variable.
        hidden_sizes: rectified units of each layer of the actor and of each critic.

    Raises:
        ValueError: if a size is not a positive whole number, or actions are neither discrete nor vectors between finite
            bounds.
    """
    sizes = tuple(positive_int("hidden_sizes", size) for size in hidden_sizes)
    latent_size = positive_int("latent_size", latent_size)
    if isinstance(action_space, Box):
        bounds = np.asarray(action_space.low), np.asarray(action_space.high)
        if len(action_space.shape) != 1 or not all(np.all(np.isfinite(bound)) for bound in bounds):
            raise ValueError(f"actions must be discrete, or vectors between finite bounds, not {action_space!r}")
    act, judge = (kind(observation_space, action_space, sizes) for kind in (_Actor, _Critic))
    observation, action = zeros_like(observation_space), zeros_like(action_space)
    latent = jnp.zeros(latent_size, jnp.float32)

    def init_critics(key: Key) -> Params:
        judged = None if isinstance(action_space, Discrete) else action
        return tuple(judge.init(k, observation, latent, judged) for k in jax.random.split(key))

    def both(params: Params, *arguments: Array | None) -> tuple[Array, Array]:
        first, second = (judge.apply(each, *arguments) for each in params)
        return first, second  # pyright: ignore[reportReturnType]

    def values(params: Params, observation: Array, latent: Array, action: Array) -> tuple[Array, Array]:
        if not isinstance(action_space, Discrete):
            return both(params, observation, latent, action)
        chosen = jax.nn.one_hot(action, action_space.n, dtype=jnp.float32)
        first, second = (jnp.sum(chosen * each, axis=-1) for each in both(params, observation, latent, None))
        return first, second

    def expected(
        params: Params, key: Key, observation: Array, latent: Array, distribution: Distribution
    ) -> tuple[Array, Array]:
        match distribution:
            case Categorical(logits=logits):
                smaller = jnp.minimum(*both(params, observation, latent, None))
                return jnp.sum(jax.nn.softmax(logits) * smaller, axis=-1), distribution.entropy()
            case SquashedGaussian():
                action, log_prob = distribution.sample_with_log_prob(key)
                return jnp.minimum(*both(params, observation, latent, action)), -log_prob
            case _:
                raise TypeError(
                    "the distribution over actions must be a Categorical or a SquashedGaussian, not a "
                    f"{type(distribution).__name__}"
                )

    spaces = observation_space, action_space
    return (
        Actor(lambda key: act.init(key, observation, latent), lambda *arguments: act.apply(*arguments), spaces),
        TwinCritic(init_critics, values, expected, spaces),
    )


def combine(
    observation_space: Space,
    action_space: Space,
    encoder: ContextEncoder,
    *,
    latent_size: int = 5,
    hidden_sizes: Sequence[int] = (300, 300, 300),
) -> ContextNetworks:
    """Combine an encoder with an actor and twin critics that are conditioned on the latent variable.

    Args:
        observation_space: the space of the environment's observations.
        action_space: the space of its actions, which are discrete, or vectors between finite bounds.
        encoder: the encoder, which infers the posterior.
        latent_size: the dimension M of the latent variable of the encoder.
        hidden_sizes: rectified units of each layer of the actor and of each critic (three of 300 in the code of Rakelly
            et al. 2019).

    Raises:
        ValueError: if a size is not a positive whole number, or actions are neither discrete nor vectors between finite
            bounds.
    """
    made = actor_and_critic(observation_space, action_space, latent_size=latent_size, hidden_sizes=hidden_sizes)
    return ContextNetworks(encoder, *made, latent_size)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of PEARL's networks; defaults are those of the code of Rakelly et al. (2019)."""

    latent_size: Annotated[PositiveInt, Doc("The dimension of the latent variable.")] = 5
    encoder_units: Annotated[PositiveInt, Doc("Rectified units of each layer of the encoder.")] = 200
    units: Annotated[PositiveInt, Doc("Rectified units of each layer of the actor and of each critic.")] = 300
    layers: Annotated[PositiveInt, Doc("Rectified layers of each network; a linear layer follows them.")] = 3
    next_observation: Annotated[
        bool, Doc("Whether the encoder sees the next observation of a step, for tasks that differ in dynamics.")
    ] = False


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT) -> ContextNetworks:
    """Make PEARL's networks: an encoder, an actor and twin critics.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the networks.

    Raises:
        ValueError: if actions are neither discrete nor vectors between finite bounds.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.point_robot.pearl_sparse()
        >>> networks = mrl.networks.context.make(family, mrl.networks.context.Settings(units=64))
    """
    spaces, size = (family.observation_space, family.action_space), settings.latent_size
    made = encoder(
        *spaces,
        latent_size=size,
        hidden_sizes=(settings.encoder_units,) * settings.layers,
        next_observation=settings.next_observation,
    )
    return combine(*spaces, made, latent_size=size, hidden_sizes=(settings.units,) * settings.layers)
