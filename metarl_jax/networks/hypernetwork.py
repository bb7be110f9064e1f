"""Hypernetworks: a memory, or a belief, whose output is the weights of the policy (Beck et al. 2022, 2023).

At every step, a linear layer, the generator, computes all weights of a small policy network from the memory of a GRU
("Recurrent Hypernetworks are Surprisingly Strong in Meta-RL", arXiv 2309.14970). This policy network observes the
environment's observation. The memory therefore selects a policy; in other networks it is an input of the policy.

The initialisation of the generator decides whether training succeeds ("Hypernetworks in Meta-Reinforcement Learning",
arXiv 2210.11348). Bias-HyperInit sets the generator's weights to zero, and its biases to an ordinary initialisation of
the generated network. The first policy is then the same for every memory, and has the scales of an ordinary network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from metarl_jax import settings
from metarl_jax.networks.heads import dense, example_inputs, observation_features, remembering_policy
from metarl_jax.networks.mlp import MLPActorCritic
from metarl_jax.networks.recurrent import Memory, RecurrentActorCritic
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, Box, HasSpaces, Key, Output, Policy, Space

Initialisation: TypeAlias = Literal["bias-hyperinit", "kaiming"]
"""The initialisation of a generator. "bias-hyperinit": weights of zero, and biases that are an ordinary initialisation
of the generated network. "kaiming": weights by He et al. (2015), and biases of zero, whatever they are used for."""


def generated_network(
    features: int, action_space: Space, hidden_sizes: tuple[int, ...], critic: bool = True
) -> MLPActorCritic:
    """Return the feed-forward actor-critic whose weights a ``Generator`` computes.

    Args:
        features: the number of features that it observes.
        action_space: the space of its actions.
        hidden_sizes: tanh units of each layer.
        critic: whether it has a critic.
    """
    seen = Box(-jnp.inf, jnp.inf, (features,))
    return MLPActorCritic(seen, action_space, hidden_sizes, jnp.tanh, False, critic, parent=None)


class Generator(nn.Module):
    """An actor-critic whose weights are computed from a condition at every step.

    All parameters of the generated network are generated: weights and biases of actor and critic, and the logarithms of
    standard deviations.
    """

    action_space: Space
    hidden_sizes: tuple[int, ...]
    latent_size: int | None
    initialisation: Initialisation
    critic: bool

    @nn.compact
    def __call__(self, seen: Array, condition: Array) -> Output:
        """Map features ``[..., F]`` and conditions ``[..., C]`` to the output of the generated networks."""
        network = generated_network(seen.shape[-1], self.action_space, self.hidden_sizes, self.critic)
        example = example_inputs(network.observation_space, self.action_space)
        shapes = jax.eval_shape(network.init, jax.random.key(0), example)
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))

        def ordinary(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
            del shape, dtype
            return ravel_pytree(network.init(key, example))[0]

        if self.latent_size:
            condition = jnp.tanh(dense(nn.Dense(self.latent_size, name="latent"), condition))
        zeros, he = nn.initializers.zeros, nn.initializers.he_uniform()
        kernel, bias = (zeros, ordinary) if self.initialisation == "bias-hyperinit" else (he, zeros)
        generator = nn.Dense(flat.size, kernel_init=kernel, bias_init=bias, name="generator")
        weights = dense(generator, condition)

        def apply(weights: Array, seen: Array) -> Output:
            return network.apply(unravel(weights), example._replace(obs=seen))  # pyright: ignore[reportReturnType]

        lead = seen.shape[:-1]
        # An observation may have no features, so that -1 would have no meaning.
        rows = (x.reshape(math.prod(lead), x.shape[-1]) for x in (weights, seen))
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), jax.vmap(apply)(*rows))


class HyperActorCritic(RecurrentActorCritic):
    """A recurrent hypernetwork: inputs -> embedding -> memory -> weights of a policy on the observation."""

    hidden_sizes: tuple[int, ...]
    latent_size: int | None
    initialisation: Initialisation
    memory_input: bool

    def _head(self) -> nn.Module:
        return Generator(self.action_space, self.hidden_sizes, self.latent_size, self.initialisation, self.critic)

    def _read(self, seen: Array, features: Array, hidden: Array) -> Output:
        del features
        if self.memory_input:
            seen = jnp.concatenate([seen, hidden], axis=-1)
        return self.head(seen, hidden)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the recurrent hypernetwork; defaults are those of Beck et al. (2023)."""

    hidden_size: Annotated[PositiveInt, Doc("Units H of the memory, a GRU.")] = 256
    embedding_size: Annotated[
        PositiveInt | None, Doc("Rectified units between the inputs and the memory; None for no such layer.")
    ] = 64
    latent_size: Annotated[
        PositiveInt | None,
        Doc(
            "Tanh units between the memory and the generator (25 in Beck et al. 2023; 10 on the ant); None for no such "
            "layer. The generator has this number of weights for each weight of the policy."
        ),
    ] = 25
    policy_units: Annotated[PositiveInt, Doc("Units of each hidden layer of the generated policy.")] = 32
    policy_layers: Annotated[PositiveInt, Doc("Hidden layers of the generated policy.")] = 2
    initialisation: Annotated[
        Initialisation,
        Doc(
            'The initialisation of the generator. "bias-hyperinit": its weights are zero, and its biases are an '
            'ordinary initialisation of the policy. "kaiming": its weights are drawn by He et al. (2015), and its '
            "biases are zero; it is for comparison, because training often fails with it."
        ),
    ] = "bias-hyperinit"
    memory_input: Annotated[
        bool, Doc("Whether the generated policy also has the memory as input, next to the observation.")
    ] = False
    previous_observation: Annotated[
        bool,
        Doc("Whether the previous observation is an input of the memory, too (zeros at the start of a trial)."),
    ] = False


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make a recurrent hypernetwork (Beck et al. 2023). Its carry is a ``recurrent.Memory``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network, and the initialisation of the generator.
        critic: whether the network has a critic; without one, its value is always zero.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.gridnavi.make()
        >>> policy = mrl.networks.hypernetwork.make(family, mrl.networks.hypernetwork.Settings(hidden_size=64))
    """
    network = HyperActorCritic(
        family.observation_space,
        family.action_space,
        "gru",
        settings.hidden_size,
        settings.embedding_size,
        None,
        settings.previous_observation,
        critic,
        (settings.policy_units,) * settings.policy_layers,
        settings.latent_size,
        settings.initialisation,
        settings.memory_input,
    )
    seen = observation_features(family.observation_space) if settings.previous_observation else 0

    def initial_carry() -> Memory:
        return Memory(jnp.zeros(settings.hidden_size, jnp.float32), jnp.zeros(seen, jnp.float32))

    return remembering_policy(network, initial_carry, family.observation_space, family.action_space, critic)
