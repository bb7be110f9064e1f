"""The encoder of images: it equals convolutions, and it works with every memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metarl_jax.networks import fast_weights, linear_recurrence, mlp, recurrent, snail, transformer
from metarl_jax.networks.heads import FILTERS, ObservationEncoder, observation_features
from metarl_jax.types import Box, Discrete, Inputs, Policy, Spaces

IMAGES = Box(0.0, 255.0, (30, 40, 3))
ACTIONS = Discrete(3)
SMALL: dict[str, Any] = {
    "fast_weights": lambda space: fast_weights.make(
        Spaces(space, ACTIONS), fast_weights.Settings(embedding_size=7, key_size=4, value_size=5, readout_size=6)
    ),
    "linear_recurrence": lambda space: linear_recurrence.make(
        Spaces(space, ACTIONS), linear_recurrence.Settings(model_size=5, hidden_size=4)
    ),
    "mlp": lambda space: mlp.policy(space, ACTIONS, hidden_sizes=(5,)),
    "recurrent": lambda space: recurrent.make(
        Spaces(space, ACTIONS), recurrent.Settings(hidden_size=5, embedding_size=6, previous_observation=True)
    ),
    "snail": lambda space: snail.make(
        Spaces(space, ACTIONS), snail.Settings(window=3, blocks=1, embedding_size=5, filters=4)
    ),
    "transformer": lambda space: transformer.make(
        Spaces(space, ACTIONS), transformer.Settings(window=4, layers=1, model_size=8, heads=2)
    ),
}


@pytest.mark.parametrize("shape", [(30, 40, 3), (7, 6, 2)])
def test_is_a_stack_of_strided_convolutions(shape: tuple[int, ...]) -> None:
    space = Box(-1.0, 3.0, shape)
    encoder = ObservationEncoder(space)
    images = jax.random.uniform(jax.random.key(0), (2, 3, *shape), minval=-1, maxval=3)
    params: Any = encoder.init(jax.random.key(1), images)
    got = jnp.asarray(encoder.apply(params, images))
    x = (images.reshape(6, *shape) + 1) / 4
    for layer, (size, filters) in enumerate(FILTERS):
        weights = params["params"][f"Dense_{layer}"]
        # Zeros pad the last row and column before scaling; black would be -1.
        missing = [(0, -length % size) for length in x.shape[1:3]]
        x = jnp.pad(x, [(0, 0), *missing, (0, 0)], constant_values=0.25 if layer == 0 else 0.0)
        kernel = weights["kernel"].reshape(size, size, -1, filters)
        x = jax.lax.conv_general_dilated(x, kernel, (size, size), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = nn.relu(x + weights["bias"])
    np.testing.assert_allclose(got, x.reshape(2, 3, -1), rtol=1e-5, atol=1e-5)
    assert observation_features(space) == x[0].size


def test_bytes_are_seen_as_the_numbers_that_they_stand_for() -> None:
    encoder = ObservationEncoder(IMAGES)
    image = jax.random.randint(jax.random.key(0), IMAGES.shape, 0, 256).astype(jnp.uint8)
    params = encoder.init(jax.random.key(1), image)
    np.testing.assert_array_equal(encoder.apply(params, image), encoder.apply(params, image.astype(jnp.float32)))


@pytest.mark.parametrize("space", [Discrete(4), Box(-1.0, 1.0, (3,)), Box(-1.0, 1.0, (2, 3))])
def test_observations_that_are_not_images_have_no_filters(space: Discrete | Box) -> None:
    observation = jnp.int32(2) if isinstance(space, Discrete) else jnp.arange(6.0)[: np.prod(space.shape)]
    observation = observation if isinstance(space, Discrete) else observation.reshape(space.shape)
    encoder = ObservationEncoder(space)
    assert not jax.tree.leaves(encoder.init(jax.random.key(0), observation))
    expected = jax.nn.one_hot(2, 4) if isinstance(space, Discrete) else observation.reshape(-1)
    np.testing.assert_array_equal(encoder.apply({}, observation), expected)
    assert observation_features(space) == expected.size
    for make in SMALL.values():
        assert "see" not in jax.eval_shape(make(space).init, jax.random.key(0))["params"]


def test_images_without_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="finite bounds"):
        observation_features(Box(-np.inf, np.inf, (5, 5, 3)))


# The contract tests cover images for the other memories.
@pytest.mark.parametrize("name", sorted(set(SMALL) - {"mlp", "snail"}))
def test_every_memory_sees_them(name: str) -> None:
    """``unroll`` of bytes equals ``step`` after ``step``, and its gradient reaches the filters."""
    policy: Policy = SMALL[name](IMAGES)
    steps = 4
    frames = jax.random.randint(jax.random.key(0), (steps, *IMAGES.shape), 0, 256).astype(jnp.uint8)
    zeros = jnp.zeros(steps)
    inputs = Inputs(frames, jnp.zeros(steps, jnp.int32), zeros, zeros, jnp.arange(steps) == 0)
    params = jax.jit(policy.init)(jax.random.key(1))
    carry = policy.initial_carry(params)

    @jax.jit
    def unrolled(params: Any) -> Any:
        return jax.value_and_grad(lambda p: jnp.sum(policy.unroll(p, carry, inputs)[1].value ** 2))(params)

    @jax.jit
    def stepped(params: Any) -> Any:
        return jax.lax.scan(lambda c, x: policy.step(params, c, x), carry, inputs)[1].value

    total, gradient = unrolled(params)
    np.testing.assert_allclose(total, jnp.sum(stepped(params) ** 2), rtol=1e-4)
    for leaf in jax.tree.leaves(gradient["params"]["see"]):
        assert bool(jnp.any(leaf != 0))
