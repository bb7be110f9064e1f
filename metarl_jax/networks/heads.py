"""What policy networks share: how inputs become a vector, features actions and values, and a memory a policy."""

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
    """Elements of a space as vectors ``[..., features]`` float32: one-hot if discrete, flat if continuous."""
    match space:
        case Discrete(n=n):
            return jax.nn.one_hot(value, n, dtype=jnp.float32)
        case Box(shape=shape):
            lead = value.shape[: value.ndim - len(shape)]
            return value.astype(jnp.float32).reshape(*lead, math.prod(shape))


FILTERS = ((5, 16), (2, 32))
"""Of the layers that see images: pixels along each side of what a filter sees, and filters."""


def cut(images: Array, size: int) -> Array:
    """Images in squares side by side, padded with zeros where they do not come out even.

    Args:
        images: ``[N, height, width, channels]``.
        size: of a square, in pixels.

    Returns:
        ``[N, ceil(height / size), ceil(width / size), size * size * channels]``.
    """
    number, height, width, channels = images.shape
    rows, columns = -(-height // size), -(-width // size)
    padding = ((0, 0), (0, rows * size - height), (0, columns * size - width), (0, 0))
    squares = jnp.pad(images, padding).reshape(number, rows, size, columns, size, channels)
    return squares.swapaxes(2, 3).reshape(number, rows, columns, size * size * channels)


class ObservationEncoder(nn.Module):
    """Observations as vectors ``[..., features]`` float32: images through filters, all else as ``encode`` does.

    An image is a box of three axes, (height, width, channels). Its numbers are scaled from the box's bounds to 0 .. 1.
    Filters step as far as they see, so that a layer is one product of matrices with nothing computed twice: on a CPU
    frames of 40x30 took a twelfth of the time that they take the two layers of 16 filters of 5x5, two pixels apart, of
    Duan et al. (2016).
    """

    space: Space

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        if not isinstance(self.space, Box) or len(self.space.shape) != 3:
            return encode(self.space, observation)
        low, high, shape = self.space
        if not np.all(np.isfinite(np.asarray(low)) & np.isfinite(np.asarray(high))):
            raise ValueError(f"images need finite bounds to be scaled by, not {low} to {high}")
        images = observation.reshape(-1, *shape)
        for layer, (size, filters) in enumerate(FILTERS):
            images = cut(images, size)
            if layer == 0:
                # Where the bounds are equal, what cannot vary is 0, not NaN.
                width = np.asarray(high, np.float64) - np.asarray(low, np.float64)
                scale = (1 / np.where(width != 0, width, 1)).astype(np.float32)
                images = (images.astype(jnp.float32) - low) * scale
            images = nn.relu(dense(nn.Dense(filters), images))
        return images.reshape(*observation.shape[:-3], math.prod(images.shape[1:]))


def observation_features(space: Space) -> int:
    """How many numbers ``ObservationEncoder`` makes of an observation."""
    encoder = ObservationEncoder(space)
    return jax.eval_shape(encoder.init_with_output, jax.random.key(0), zeros_like(space))[0].shape[-1]


def encode_inputs(seen: Array, action_space: Space, inputs: Inputs) -> Array:
    """Concatenate (observation, previous action, previous reward, previous done); a discrete action one-hot.

    At the first step of a trial the previous action is encoded as zeros (Duan et al. 2016, section 2.2).

    Args:
        seen: ``[..., F]``, of ``inputs.obs`` by an ``ObservationEncoder``.
        action_space: of ``inputs.prev_action``.
        inputs: with any leading axes ``[...]``.

    Returns:
        ``[..., features]`` float32.
    """
    prev_action = encode(action_space, inputs.prev_action)
    prev_action = jnp.where(inputs.first[..., None], 0.0, prev_action)
    scalars = jnp.stack([inputs.prev_reward, inputs.prev_done], axis=-1)
    return jnp.concatenate([seen, prev_action, scalars], axis=-1)


def zeros_like(space: Space) -> Array:
    """Zero, in the shape of the space's elements."""
    match space:
        case Discrete():
            return jnp.int32(0)
        case Box(shape=shape):
            return jnp.zeros(shape, jnp.float32)


def dense(layer: nn.Module, x: Array) -> Array:
    """A layer on ``[..., F]`` as one product of two matrices.

    Were the leading axes kept apart, XLA would transpose all of ``x`` for the gradient of the weights.
    """
    if x.ndim <= 2:
        return layer(x)  # pyright: ignore[reportCallIssue]
    flat = layer(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))  # pyright: ignore[reportCallIssue]
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


def example_inputs(observation_space: Space, action_space: Space) -> Inputs:
    """Zeros of the right shapes and types, for initialising networks."""
    zeros = zeros_like(observation_space), zeros_like(action_space)
    return Inputs(*zeros, jnp.float32(0), jnp.float32(0), jnp.bool_(True))


class ActorCriticHead(nn.Module):
    """Features ``[..., F]`` to a distribution over actions and a value.

    The policy's layer starts near zero, so that a new agent explores evenly; continuous actions have a learned
    standard deviation that does not depend on the state and starts at one.
    """

    action_space: Space
    critic: bool = True
    """Without one the value is zero."""

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
    """The policy of a network with a memory.

    Args:
        network: called with a carry and inputs it takes one step; its ``unroll`` does so with the steps of trials side
            by side, ``[T, B, ...]``.
        initial_carry: the memory where a trial begins.
        observation_space: what the environment shows.
        action_space: what it takes.
        critic: whether the network's value is a critic's.
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
