"""The recurrent networks against flax's cells, and the part of their memory that is not the cell's state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metarl_jax.networks import gated, recurrent
from metarl_jax.networks.heads import encode, encode_inputs
from metarl_jax.types import Array, Box, Discrete, Inputs, Spaces

STATES, ACTIONS, HIDDEN, STEPS = Discrete(4), Discrete(3), 5, 6


def _inputs() -> Inputs:
    keys = jax.random.split(jax.random.key(0), 3)
    return Inputs(
        obs=jax.random.randint(keys[0], (STEPS,), 0, STATES.n),
        prev_action=jax.random.randint(keys[1], (STEPS,), 0, ACTIONS.n),
        prev_reward=jax.random.normal(keys[2], (STEPS,)),
        prev_done=(jnp.arange(STEPS) == 3).astype(jnp.float32),
        first=jnp.arange(STEPS) == 0,
    )


def _noisy(params: Any) -> Any:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure, [x + 0.5 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def _reference(cell: gated.Cell, weights: Any, features: Array) -> Array:
    """Return the memory after each step, ``[T, H]``, computed by flax's cell with the same weights."""
    gates = ("r", "z", "n") if cell == "gru" else ("i", "f", "g", "o")

    projection = weights["input_projection"]
    params: dict[str, dict[str, Array]] = {}
    parts = (projection["kernel"], weights["recurrent_kernel"])
    biases = (projection["bias"], weights["recurrent_bias"])
    for i, gate in enumerate(gates):
        inside = cell == "gru" and gate == "n"  # the reset gate multiplies this bias only
        both = biases[0][i] + biases[1][i]
        params[f"i{gate}"] = {"kernel": parts[0][i]}
        params[f"h{gate}"] = {"kernel": parts[1][i]}
        if cell == "gru":
            params[f"i{gate}"]["bias"] = biases[0][i] if inside else both
            if inside:
                params[f"h{gate}"]["bias"] = biases[1][i]
        else:
            params[f"h{gate}"]["bias"] = both
    zeros = jnp.zeros(HIDDEN)
    module, carry = (nn.GRUCell(HIDDEN), zeros) if cell == "gru" else (nn.LSTMCell(HIDDEN), (zeros, zeros))
    rows = []
    for x in features:
        carry, hidden = module.apply({"params": params}, carry, x)  # pyright: ignore[reportGeneralTypeIssues]
        rows.append(hidden)
    return jnp.stack(rows)


@pytest.mark.parametrize("cell", gated.GATES)
def test_the_memory_is_that_of_flaxs_cell(cell: gated.Cell) -> None:
    policy = recurrent.make(
        Spaces(STATES, ACTIONS), recurrent.Settings(cell=cell, hidden_size=HIDDEN, embedding_size=None)
    )
    params, inputs = _noisy(policy.init(jax.random.key(2))), _inputs()
    _, output = policy.unroll(params, policy.initial_carry(params), inputs)
    weights = params["params"]
    expected = _reference(cell, weights, encode_inputs(encode(STATES, inputs.obs), ACTIONS, inputs))
    value = weights["head"]["value"]
    np.testing.assert_allclose(output.value, (expected @ value["kernel"] + value["bias"])[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [STATES, Box(-1.0, 1.0, (2, 3))], ids=["discrete", "continuous"])
def test_the_previous_observation_is_kept_and_used(space: Discrete | Box) -> None:
    policy = recurrent.make(
        Spaces(space, ACTIONS), recurrent.Settings(hidden_size=HIDDEN, embedding_size=7, previous_observation=True)
    )
    params, inputs = _noisy(policy.init(jax.random.key(3))), _inputs()
    if isinstance(space, Box):
        inputs = inputs._replace(obs=jax.random.normal(jax.random.key(4), (STEPS, *space.shape)))
        vectors = inputs.obs.reshape(STEPS, -1)
    else:
        vectors = jax.nn.one_hot(inputs.obs, space.n)
    carry = policy.initial_carry(params)
    np.testing.assert_array_equal(carry.observation, jnp.zeros(vectors.shape[-1]))
    for t in range(STEPS):
        now = jax.tree.map(lambda x, t=t: x[t], inputs)
        blank = carry._replace(observation=jnp.zeros_like(carry.observation))
        seen, initial_statistics = (policy.step(params, c, now)[1].value for c in (carry, blank))
        assert (seen != initial_statistics) == (t > 0)
        carry, _ = policy.step(params, carry, now)
        np.testing.assert_array_equal(carry.observation, vectors[t])


def test_without_previous_observations_only_the_cell_state_is_carried() -> None:
    policy = recurrent.make(Spaces(STATES, ACTIONS), recurrent.Settings(hidden_size=HIDDEN))
    assert policy.initial_carry(None).observation.shape == (0,)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="cell must be one of gru, lstm, not 'rnn'"):
        recurrent.make(Spaces(STATES, ACTIONS), recurrent.Settings(cell="rnn"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="hidden_size must be a positive whole number, not 0"):
        recurrent.make(Spaces(STATES, ACTIONS), recurrent.Settings(hidden_size=0))
    with pytest.raises(ValueError, match="readout_size must be a positive whole number or None, not -1"):
        recurrent.make(Spaces(STATES, ACTIONS), recurrent.Settings(readout_size=-1))
    with pytest.raises(ValueError, match=r"embedding_size must be a positive whole number or None, not 2\.5"):
        recurrent.make(Spaces(STATES, ACTIONS), recurrent.Settings(embedding_size=2.5))  # pyright: ignore[reportArgumentType]
