"""Parts that policy networks share: encoders of inputs, the heads of actor and critic, and policies with a memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from metarl_jax.ops.distributions import Categorical, DiagonalGaussian
from metarl_jax.types import Array, Box, Carry, Discrete, Inputs, Key, Output, Params, Policy, Space


def encode(space: Space, value: Array) -> Array:
    """Encode elements of a space as float32 vectors ``[..., features]``: one-hot if discrete, flat if continuous."""
    match space:
        case Discrete(n=n):
            return jax.nn.one_hot(value, n, dtype=jnp.float32)
        case Box(shape=shape):
            lead = value.shape[: value.ndim - len(shape)]
            return value.astype(jnp.float32).reshape(*lead, math.prod(shape))


FILTERS = ((5, 16), (2, 32))
"""The layers that encode images, each as (height and width of its filters in pixels, number of filters)."""


def cut(images: Array, size: int) -> Array:
    """Divide images into adjacent squares; zeros pad images whose sides are not multiples of the square's side.

    Args:
        images: ``[N, height, width, channels]``.
        size: height and width of a square, in pixels.

    Returns:
        ``[N, ceil(height / size), ceil(width / size), size * size * channels]``.
    """
    number, height, width, channels = images.shape
    rows, columns = -(-height // size), -(-width // size)
    padding = ((0, 0), (0, rows * size - height), (0, columns * size - width), (0, 0))
    squares = jnp.pad(images, padding).reshape(number, rows, size, columns, size, channels)
    return squares.swapaxes(2, 3).reshape(number, rows, columns, size * size * channels)


class ObservationEncoder(nn.Module):
    """An encoder of observations as float32 vectors ``[..., features]``.

    Images pass through filters; all other observations are encoded as by ``encode``. An image is an element of a box
    with three axes, (height, width, channels). Its values are scaled from the box's bounds to [0, 1]. The stride of the
    filters equals their size, so a layer is one matrix product and no pixel is read twice. On a CPU, frames of 40x30
    took a twelfth of the time of the network of Duan et al. (2016), which has two layers of 16 filters of 5x5 with
    stride 2.
    """

    space: Space

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        if not isinstance(self.space, Box) or len(self.space.shape) != 3:
            return encode(self.space, observation)
        low, high, shape = self.space
        if not np.all(np.isfinite(np.asarray(low)) & np.isfinite(np.asarray(high))):
            raise ValueError(
                f"an observation space of images needs finite bounds, by which images are scaled, not {low} to {high}"
            )
        images = observation.reshape(-1, *shape)
        for layer, (size, filters) in enumerate(FILTERS):
            images = cut(images, size)
            if layer == 0:
                # A value whose bounds are equal is scaled to 0, not to NaN.
                width = np.asarray(high, np.float64) - np.asarray(low, np.float64)
                scale = (1 / np.where(width != 0, width, 1)).astype(np.float32)
                images = (images.astype(jnp.float32) - low) * scale
            images = nn.relu(dense(nn.Dense(filters), images))
        return images.reshape(*observation.shape[:-3], math.prod(images.shape[1:]))


def observation_features(space: Space) -> int:
    """Return the number of features of an observation that ``ObservationEncoder`` has encoded."""
    encoder = ObservationEncoder(space)
    return jax.eval_shape(encoder.init_with_output, jax.random.key(0), zeros_like(space))[0].shape[-1]


def encode_inputs(seen: Array, action_space: Space, inputs: Inputs) -> Array:
    """Concatenate the encoded observation, previous action, previous reward and previous done.

    A discrete action is encoded as one-hot. At the first step of a trial the previous action is encoded as zeros (Duan
    et al. 2016, section 2.2).

    Args:
        seen: ``inputs.obs``, encoded by an ``ObservationEncoder``, ``[..., F]``.
        action_space: the space of ``inputs.prev_action``.
        inputs: the policy's inputs, with any leading axes ``[...]``.

    Returns:
        ``[..., features]`` float32.
    """
    prev_action = encode(action_space, inputs.prev_action)
    prev_action = jnp.where(inputs.first[..., None], 0.0, prev_action)
    scalars = jnp.stack([inputs.prev_reward, inputs.prev_done], axis=-1)
    return jnp.concatenate([seen, prev_action, scalars], axis=-1)


def zeros_like(space: Space) -> Array:
    """Return zeros of the shape and type of the space's elements."""
    match space:
        case Discrete():
            return jnp.int32(0)
        case Box(shape=shape):
            return jnp.zeros(shape, jnp.float32)


def dense(layer: nn.Module, x: Array) -> Array:
    """Apply a layer to ``[..., F]`` as one product of two matrices.

    Without the reshaping, XLA would transpose all of ``x`` for the gradient of the weights.
    """
    if x.ndim <= 2:
        return layer(x)  # pyright: ignore[reportCallIssue]
    flat = layer(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))  # pyright: ignore[reportCallIssue]
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


def example_inputs(observation_space: Space, action_space: Space) -> Inputs:
    """Return inputs of zeros that have the right shapes and types, for the initialisation of networks."""
    zeros = zeros_like(observation_space), zeros_like(action_space)
    return Inputs(*zeros, jnp.float32(0), jnp.float32(0), jnp.bool_(True))


class ActorCriticHead(nn.Module):
    """The heads of an actor-critic, from features ``[..., F]`` to a distribution over actions and a value.

    The weights of the policy's layer start near zero, so that a new agent explores evenly. Continuous actions have a
    learned standard deviation, which does not depend on the features and starts at one.
    """

    action_space: Space
    critic: bool = True
    """Whether there is a critic; without one, the value is always zero."""

    @nn.compact
    def __call__(self, features: Array) -> Output:
        small = nn.initializers.orthogonal(0.01)
        if self.critic:
            critic = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")
            value = dense(critic, features)[..., 0]
        else:
            value = jnp.zeros(features.shape[:-1], jnp.float32)
        match self.action_space:
            case Discrete(n=n):
                distribution = Categorical(dense(nn.Dense(n, kernel_init=small, name="policy"), features))
            case Box(shape=shape):
                size = math.prod(shape)
                mean = dense(nn.Dense(size, kernel_init=small, name="policy"), features)
                log_std = self.param("log_std", nn.initializers.zeros, (size,), jnp.float32)
                mean = mean.reshape(*mean.shape[:-1], *shape)
                distribution = DiagonalGaussian(mean, jnp.broadcast_to(log_std.reshape(shape), mean.shape))
        return Output(distribution, value, features)


def remembering_policy(
    network: nn.Module,
    initial_carry: Callable[[], Carry],
    observation_space: Space,
    action_space: Space,
    critic: bool = True,
) -> Policy:
    """Make the policy of a network with a memory.

    Args:
        network: a module that computes one step when it is called with a carry and inputs. Its method ``unroll``
            computes T steps of B trials, ``[T, B, ...]``.
        initial_carry: a function that returns the memory at the start of a trial.
        observation_space: the space of the environment's observations.
        action_space: the space of its actions.
        critic: whether the network has a critic.
    """

    def init(key: Key) -> Params:
        return network.init(key, initial_carry(), example_inputs(observation_space, action_space))

    def step(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return network.apply(params, carry, inputs)  # pyright: ignore[reportReturnType]

    def unroll(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        if inputs.prev_reward.ndim > 1:
            return network.apply(params, carry, inputs, method="unroll")  # pyright: ignore[reportReturnType]
        one = jax.tree.map(lambda x: x[None], carry), jax.tree.map(lambda x: x[:, None], inputs)
        carry, output = unroll(params, *one)
        return jax.tree.map(lambda x: x[0], carry), jax.tree.map(lambda x: x[:, 0], output)

    return Policy(init, lambda params: initial_carry(), step, unroll, critic, (observation_space, action_space))
