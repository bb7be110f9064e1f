"""Feed-forward networks: predictors, and an actor-critic without memory, the baseline for policies with a memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.checks import choice, positive_int
from metarl_jax.interfaces.few_shot import FewShotFamily
from metarl_jax.interfaces.gradient import Predictor
from metarl_jax.networks.heads import ActorCriticHead, ObservationEncoder, dense, encode_inputs, example_inputs
from metarl_jax.networks.normalisation import BatchNormalisation
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, Carry, HasSpaces, Inputs, Key, Output, Params, Policy, Space

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": nn.relu}


class MLPActorCritic(nn.Module):
    """A feed-forward actor-critic: inputs -> layers -> distribution over actions and value."""

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


def policy(
    observation_space: Space,
    action_space: Space,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: Literal["tanh", "relu"] = "tanh",
    history: bool = True,
    critic: bool = True,
) -> Policy:
    """Make a feed-forward actor-critic; its carry is ``()``.

    Args:
        observation_space: the space of the environment's observations.
        action_space: the space of its actions.
        hidden_sizes: units of each layer.
        activation: the activation of the layers, "tanh" or "relu".
        history: whether the previous action, reward and done are inputs in addition to the observation. They are not
            inputs of the policies that gradient-based meta-learners adapt, whose weights hold all information on the
            task.
        critic: whether the network has a critic; without one, its value is always zero.

    Raises:
        ValueError: if a size is not a positive whole number, or the activation is unknown.
    """
    sizes = tuple(positive_int("hidden_sizes", size) for size in hidden_sizes)
    choice(*_ACTIVATIONS)("activation", activation)
    network = MLPActorCritic(observation_space, action_space, sizes, _ACTIVATIONS[activation], history, critic)

    def init(key: Key) -> Params:
        return network.init(key, example_inputs(observation_space, action_space))

    def step(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        # Without a memory, a whole trial is a batch. The same function serves as ``unroll``.
        return carry, network.apply(params, inputs)  # pyright: ignore[reportReturnType]

    return Policy(init, lambda params: (), step, step, critic, (observation_space, action_space))


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of a feed-forward actor-critic; defaults are those of the code of Finn et al. (2017)."""

    units: Annotated[PositiveInt, Doc("Units of each hidden layer of the policy.")] = 100
    layers: Annotated[PositiveInt, Doc("Hidden layers of the policy.")] = 2
    activation: Annotated[Literal["tanh", "relu"], Doc("The activation of the hidden layers.")] = "relu"


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, history: bool = True, critic: bool = True) -> Policy:
    """Make a feed-forward actor-critic; its carry is ``()``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network, and the activation.
        history: whether the previous action, reward and done are inputs in addition to the observation. They are not
            inputs of the policies that gradient-based meta-learners adapt, whose weights hold all information on the
            task.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    return policy(
        family.observation_space,
        family.action_space,
        hidden_sizes=(settings.units,) * settings.layers,
        activation=settings.activation,
        history=history,
        critic=critic,
    )


class MLP(nn.Module):
    """A network of rectified layers and a linear layer on top."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden_sizes:
            x = nn.relu(nn.Dense(size)(x))
        return nn.Dense(self.outputs, name="head")(x)


def predictor(
    inputs: int, outputs: int, hidden_sizes: Sequence[int] = (40, 40), *, context_size: int | None = None
) -> Predictor:
    """Make a regressor with rectified layers (two of 40 units in Finn et al. 2017, section 5.1).

    Args:
        inputs: the number of features of x, which is ``[N, inputs]``.
        outputs: the number of features of the prediction, which is ``[N, outputs]``.
        hidden_sizes: units of each layer.
        context_size: the number of context parameters (CAVIA, Zintgraf et al. 2019), which are inputs of the first
            layer together with x; None for no context. With a context, the network's parameters are
            ``{"context": [context_size], "network": ...}``.

    Raises:
        ValueError: if a size is not a positive whole number.
    """
    inputs, context = positive_int("inputs", inputs), 0
    if context_size is not None:
        context = positive_int("context_size", context_size)
    network = MLP(tuple(positive_int("hidden_sizes", size) for size in hidden_sizes), positive_int("outputs", outputs))

    def init(key: Key) -> Params:
        params = network.init(key, jnp.zeros((1, inputs + context), jnp.float32))
        return {"context": jnp.zeros(context, jnp.float32), "network": params} if context else params

    def apply(params: Params, x: Array) -> Array:
        if context:
            given = jnp.broadcast_to(params["context"], (*x.shape[:-1], context))
            params, x = params["network"], jnp.concatenate([x, given], axis=-1)
        return network.apply(params, x)  # pyright: ignore[reportReturnType]

    return Predictor(init, apply)


class NormalisedMLP(nn.Module):
    """A network of layers that are normalised over the batch and rectified, and a linear layer on top."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden_sizes:
            x = nn.relu(BatchNormalisation()(nn.Dense(size)(x)))
        return nn.Dense(self.outputs, name="head")(x)


def classifier(inputs: int, outputs: int, hidden_sizes: Sequence[int] = (256, 128, 64, 64)) -> Predictor:
    """Make the network without convolutions of the Omniglot experiments of Finn et al. (2017).

    The network normalises by the statistics of its batch (``BatchNormalisation``).

    Args:
        inputs: the number of features of an example, which may have any shape: x is ``[N, ...]``.
        outputs: the number of classes; the prediction is their logits, ``[N, outputs]``.
        hidden_sizes: units of each layer.

    Raises:
        ValueError: if a size is not a positive whole number.
    """
    inputs, outputs = positive_int("inputs", inputs), positive_int("outputs", outputs)
    network = NormalisedMLP(tuple(positive_int("hidden_sizes", size) for size in hidden_sizes), outputs)

    def init(key: Key) -> Params:
        return network.init(key, jnp.zeros((1, inputs), jnp.float32))

    def apply(params: Params, x: Array) -> Array:
        return network.apply(params, x.reshape(x.shape[0], inputs))  # pyright: ignore[reportReturnType]

    return Predictor(init, apply)


@dataclass(frozen=True, kw_only=True)
class PredictorSettings(settings.Settings):
    """Settings of a predictor with rectified layers; defaults are those of Finn et al. (2017) on sinusoids."""

    units: Annotated[PositiveInt, Doc("Units of each hidden layer.")] = 40
    layers: Annotated[PositiveInt, Doc("Hidden layers.")] = 2
    context_size: Annotated[
        PositiveInt | None, Doc("The number of context parameters for CAVIA, which are inputs, too; None for none.")
    ] = None


def make_predictor(family: FewShotFamily, settings: PredictorSettings) -> Predictor:
    """Make a predictor with rectified layers for few-shot tasks whose inputs are vectors.

    Args:
        family: the few-shot tasks.
        settings: the sizes of the network.

    Raises:
        ValueError: if the inputs are not vectors.
    """
    examples = family.examples()
    if len(examples.shape) != 1:
        raise ValueError(
            f"this network is for inputs that are vectors, not for inputs of shape {list(examples.shape)}: use "
            "convolutional or normalised-mlp"
        )
    sizes = (settings.units,) * settings.layers
    return predictor(examples.shape[0], examples.outputs, sizes, context_size=settings.context_size)


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(settings.Settings):
    """Settings of the network without convolutions of Finn et al. (2017); there are none."""


def make_classifier(family: FewShotFamily, settings: ClassifierSettings) -> Predictor:
    """Make the network without convolutions of Finn et al. (2017), with layers of 256, 128, 64 and 64 units.

    Args:
        family: the few-shot tasks.
        settings: settings without any field.
    """
    del settings
    examples = family.examples()
    return classifier(math.prod(examples.shape), examples.outputs)
