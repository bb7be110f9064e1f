"""The memory of fast weights, in addition to the contract tests of networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.networks import fast_weights
from metarl_jax.types import Discrete, Inputs, Spaces


@pytest.mark.parametrize("chunk", [1, 4, 5, 12, 100])
def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """``unroll`` equals a scan of ``step``, whether or not the trial's length is a multiple of the chunk's."""
    monkeypatch.setattr(fast_weights, "CHUNK", chunk)
    policy = fast_weights.make(
        Spaces(Discrete(4), Discrete(3)),
        fast_weights.Settings(embedding_size=7, key_size=3, value_size=5, readout_size=6),
    )
    params = policy.init(jax.random.key(0))
    keys, steps = jax.random.split(jax.random.key(1), 3), 12
    inputs = Inputs(
        obs=jax.random.randint(keys[0], (steps,), 0, 4),
        prev_action=jax.random.randint(keys[1], (steps,), 0, 3),
        prev_reward=jax.random.normal(keys[2], (steps,)),
        prev_done=jnp.zeros(steps),
        first=jnp.arange(steps) == 0,
    )
    carry, output = policy.unroll(params, policy.initial_carry(params), inputs)
    expected_carry, expected = jax.lax.scan(
        lambda carry, x: policy.step(params, carry, x), policy.initial_carry(params), inputs
    )
    for got, wanted in zip(jax.tree.leaves((carry, output)), jax.tree.leaves((expected_carry, expected)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert float(jnp.abs(carry.weights).max()) > 0.1


def test_a_value_that_was_written_under_a_key_is_read_with_it() -> None:
    """The memory after T steps is the sum of outer products, whatever their order."""
    policy = fast_weights.make(
        Spaces(Discrete(2), Discrete(2)),
        fast_weights.Settings(embedding_size=8, key_size=3, value_size=4, readout_size=5),
    )
    params = policy.init(jax.random.key(0))

    def after(observations: list[int]) -> jax.Array:
        carry = policy.initial_carry(params)
        for obs in observations:
            inputs = Inputs(jnp.int32(obs), jnp.int32(0), jnp.float32(1), jnp.float32(0), jnp.bool_(False))
            # Without a previous observation, each step writes only its own inputs.
            carry = policy.step(params, carry._replace(observation=jnp.zeros(2)), inputs)[0]
        return carry.weights

    np.testing.assert_allclose(after([0, 1, 1]), after([0]) + 2 * after([1]), atol=1e-6)
    np.testing.assert_allclose(after([0, 1, 1]), after([1, 0, 1]), atol=1e-6)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="key_size must be a positive whole number, not 0"):
        fast_weights.make(Spaces(Discrete(2), Discrete(2)), fast_weights.Settings(key_size=0))
