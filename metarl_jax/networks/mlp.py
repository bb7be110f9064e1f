"""Feed-forward networks: an actor-critic without memory, the baseline that shows what memory buys, and a predictor."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.checks import positive_int
from metarl_jax.networks.heads import ActorCriticHead, encode_inputs, example_inputs
from metarl_jax.types import Array, Carry, Inputs, Key, Output, Params, Policy, Predictor, Space


class MLPActorCritic(nn.Module):
    """Inputs -> tanh layers -> distribution over actions and value."""

    observation_space: Space
    action_space: Space
    hidden_sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: Inputs) -> Output:
        features = encode_inputs(self.observation_space, self.action_space, inputs)
        for size in self.hidden_sizes:
            features = jnp.tanh(nn.Dense(size, kernel_init=nn.initializers.orthogonal(2**0.5))(features))
        return ActorCriticHead(self.action_space, name="head")(features)


def make(observation_space: Space, action_space: Space, *, hidden_sizes: Sequence[int] = (64, 64)) -> Policy:
    """A feed-forward actor-critic with tanh layers; its carry is ``()``.

    Args:
        observation_space: what the environment shows.
        action_space: what it takes.
        hidden_sizes: units of each layer.

    Raises:
        ValueError: for a size that is not a positive whole number.
    """
    sizes = tuple(positive_int("hidden_sizes", size) for size in hidden_sizes)
    network = MLPActorCritic(observation_space, action_space, sizes)

    def init(key: Key) -> Params:
        return network.init(key, example_inputs(observation_space, action_space))

    def step(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        # Without memory a whole trial is one batch: the same function unrolls.
        return carry, network.apply(params, inputs)  # pyright: ignore[reportReturnType]

    return Policy(init, lambda params: (), step, step)


class MLP(nn.Module):
    """Rectified layers, then a linear one."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden_sizes:
            x = nn.relu(nn.Dense(size)(x))
        return nn.Dense(self.outputs, name="output")(x)


def predictor(inputs: int, outputs: int, hidden_sizes: Sequence[int] = (40, 40)) -> Predictor:
    """A regressor with rectified layers (two of 40 in Finn et al. 2017, section 5.1).

    Args:
        inputs: features of x, ``[N, inputs]``.
        outputs: features of the prediction, ``[N, outputs]``.
        hidden_sizes: units of each layer.

    Raises:
        ValueError: for a size that is not a positive whole number.
    """
    inputs = positive_int("inputs", inputs)
    network = MLP(tuple(positive_int("hidden_sizes", size) for size in hidden_sizes), positive_int("outputs", outputs))

    def init(key: Key) -> Params:
        return network.init(key, jnp.zeros((1, inputs)))

    def apply(params: Params, x: Array) -> Array:
        return network.apply(params, x)  # pyright: ignore[reportReturnType]

    return Predictor(init, apply)
