"""Feed-forward networks: an actor-critic without memory, the baseline that shows what memory buys, and predictors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.checks import choice, natural_int, positive_int
from metarl_jax.interfaces.gradient import Predictor
from metarl_jax.networks.heads import ActorCriticHead, ObservationEncoder, dense, encode_inputs, example_inputs
from metarl_jax.networks.normalisation import BatchNormalisation
from metarl_jax.types import Array, Carry, Inputs, Key, Output, Params, Policy, Space

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": nn.relu}


class MLPActorCritic(nn.Module):
    """Inputs -> layers -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    hidden_sizes: tuple[int, ...]
    activation: Callable[[Array], Array]
    history: bool
    critic: bool

    @nn.compact
    def __call__(self, inputs: Inputs) -> Output:
        features = ObservationEncoder(self.observation_space, name="see")(inputs.obs)
        if self.history:
            features = encode_inputs(features, self.action_space, inputs)
        for size in self.hidden_sizes:
            layer = nn.Dense(size, kernel_init=nn.initializers.orthogonal(2**0.5))
            features = self.activation(dense(layer, features))
        return ActorCriticHead(self.action_space, self.critic, name="head")(features)


def make(
    observation_space: Space,
    action_space: Space,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: Literal["tanh", "relu"] = "tanh",
    history: bool = True,
    critic: bool = True,
) -> Policy:
    """A feed-forward actor-critic; its carry is ``()``.

    Args:
        observation_space: what the environment shows.
        action_space: what it takes.
        hidden_sizes: units of each layer.
        activation: of the layers.
        history: whether it sees the previous action, reward and done beside the observation. The policies that
            gradient-based meta-learners adapt do not: what they know of the task is in their weights.
        critic: whether it has one; without, its value is always zero.

    Raises:
        ValueError: for a size that is not a positive whole number, or an unknown activation.
    """
    sizes = tuple(positive_int("hidden_sizes", size) for size in hidden_sizes)
    choice(*_ACTIVATIONS)("activation", activation)
    network = MLPActorCritic(observation_space, action_space, sizes, _ACTIVATIONS[activation], history, critic)

    def init(key: Key) -> Params:
        return network.init(key, example_inputs(observation_space, action_space))

    def step(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        # Without memory whole trials are one batch: the same function unrolls.
        return carry, network.apply(params, inputs)  # pyright: ignore[reportReturnType]

    return Policy(init, lambda params: (), step, step, critic, (observation_space, action_space))


class MLP(nn.Module):
    """Rectified layers, then a linear one."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden_sizes:
            x = nn.relu(nn.Dense(size)(x))
        return nn.Dense(self.outputs, name="head")(x)


def predictor(inputs: int, outputs: int, hidden_sizes: Sequence[int] = (40, 40), *, context_size: int = 0) -> Predictor:
    """A regressor with rectified layers (two of 40 in Finn et al. 2017, section 5.1).

    Args:
        inputs: features of x, ``[N, inputs]``.
        outputs: features of the prediction, ``[N, outputs]``.
        hidden_sizes: units of each layer.
        context_size: context parameters (CAVIA, Zintgraf et al. 2019), which the first layer sees beside x; 0 for none.
            With a context the parameters are ``{"context": [context_size], "network": ...}``.

    Raises:
        ValueError: for a size that is not a positive whole number (of the context: or 0).
    """
    inputs, context_size = positive_int("inputs", inputs), natural_int("context_size", context_size)
    network = MLP(tuple(positive_int("hidden_sizes", size) for size in hidden_sizes), positive_int("outputs", outputs))

    def init(key: Key) -> Params:
        params = network.init(key, jnp.zeros((1, inputs + context_size), jnp.float32))
        return {"context": jnp.zeros(context_size, jnp.float32), "network": params} if context_size else params

    def apply(params: Params, x: Array) -> Array:
        if context_size:
            context = jnp.broadcast_to(params["context"], (*x.shape[:-1], context_size))
            params, x = params["network"], jnp.concatenate([x, context], axis=-1)
        return network.apply(params, x)  # pyright: ignore[reportReturnType]

    return Predictor(init, apply)


class NormalisedMLP(nn.Module):
    """Layers, each normalised over the batch and rectified, then a linear one."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden_sizes:
            x = nn.relu(BatchNormalisation()(nn.Dense(size)(x)))
        return nn.Dense(self.outputs, name="head")(x)


def classifier(inputs: int, outputs: int, hidden_sizes: Sequence[int] = (256, 128, 64, 64)) -> Predictor:
    """The network without convolutions of the Omniglot experiments of Finn et al. (2017).

    It normalises by the statistics of the batch that it is given (``BatchNormalisation``).

    Args:
        inputs: features of an example, in any shape: x is ``[N, ...]``.
        outputs: classes; the prediction is their logits, ``[N, outputs]``.
        hidden_sizes: units of each layer.

    Raises:
        ValueError: for a size that is not a positive whole number.
    """
    inputs, outputs = positive_int("inputs", inputs), positive_int("outputs", outputs)
    network = NormalisedMLP(tuple(positive_int("hidden_sizes", size) for size in hidden_sizes), outputs)

    def init(key: Key) -> Params:
        return network.init(key, jnp.zeros((1, inputs), jnp.float32))

    def apply(params: Params, x: Array) -> Array:
        return network.apply(params, x.reshape(x.shape[0], inputs))  # pyright: ignore[reportReturnType]

    return Predictor(init, apply)
