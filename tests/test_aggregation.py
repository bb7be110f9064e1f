"""Memories that aggregate over time: NumPy references, the order of transitions, and the parallel form."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.networks import scans, set_aggregation, split_aggregation
from metarl_jax.types import Array, Discrete, Inputs, Key, Policy, Spaces

STEPS = 8
SPACES = Spaces(Discrete(4), Discrete(3))
Aggregate = Literal["mean", "max"]


def trial() -> Inputs:
    keys = jax.random.split(jax.random.key(1), 3)
    return Inputs(
        obs=jax.random.randint(keys[0], (STEPS,), 0, 4),
        prev_action=jax.random.randint(keys[1], (STEPS,), 0, 3),
        prev_reward=jax.random.normal(keys[2], (STEPS,)),
        prev_done=jnp.zeros(STEPS),
        first=jnp.zeros(STEPS, bool),
    )


def moved(policy: Policy) -> Any:
    """Return parameters away from the initial ones, some of which are zero."""

    @jax.jit
    def draw(key: Key) -> Any:
        leaves, structure = jax.tree.flatten(policy.init(key))
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            structure, [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        )

    return draw(jax.random.key(0))


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_the_order_of_transitions_does_not_matter_to_a_set(aggregate: Aggregate) -> None:
    """A whole transition is moved: with it, the observation before it, which the memory carries."""
    settings = set_aggregation.Settings(aggregate=aggregate, embedding_size=7, hidden_size=5, readout_size=4)
    policy = set_aggregation.make(SPACES, settings)
    params, inputs = moved(policy), trial()
    before = jax.nn.one_hot(jax.random.randint(jax.random.key(3), (STEPS,), 0, 4), 4)

    @jax.jit
    def after(order: Array) -> tuple[Array, Array, Array]:
        """Return the memory and the value after the transitions in an order, and then one more step."""

        def step(carry: Any, t: Array) -> tuple[Any, Array]:
            now: Any = jax.tree.map(lambda x: x[t], inputs)
            carry, output = policy.step(params, carry._replace(observation=before[t]), now)
            return carry, output.value

        carry, _ = jax.lax.scan(step, policy.initial_carry(params), order)
        value = step(carry, jnp.int32(0))[1]
        return carry.aggregate, carry.number, value

    expected = after(jnp.arange(STEPS))
    for order in (jnp.arange(STEPS)[::-1], jax.random.permutation(jax.random.key(4), STEPS)):
        for got, wanted in zip(after(order), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    # Other transitions have another aggregate.
    assert np.all(after(jnp.zeros(STEPS, int))[0] != expected[0])


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_a_set_is_aggregated_as_in_numpy_with_a_learned_prior(aggregate: Aggregate) -> None:
    network = set_aggregation.SetActorCritic(*SPACES, aggregate, 7, 5, 4, True)
    policy = set_aggregation.make(
        SPACES, set_aggregation.Settings(aggregate=aggregate, embedding_size=7, hidden_size=5, readout_size=4)
    )
    params, inputs = moved(policy), trial()
    seen = jax.nn.one_hot(inputs.obs, 4)
    embed = jax.jit(functools.partial(network.apply, method="_embed"))
    previous = jnp.concatenate([jnp.zeros((1, 4)), seen[:-1]])
    features, elements = map(np.asarray, embed(params, seen, inputs, previous))
    own = jax.tree.map(np.asarray, params["params"])
    if aggregate == "mean":
        weight = np.log1p(np.exp(own["prior_weight"]))
        steps = np.arange(1, STEPS + 1)[:, None]
        expected = (weight * own["prior"] + np.cumsum(elements, axis=0)) / (weight + steps)
    else:
        expected = np.maximum(own["prior"], np.maximum.accumulate(elements, axis=0))
    read = np.concatenate([features, expected], axis=-1) @ own["readout"]["kernel"] + own["readout"]["bias"]
    value = np.maximum(read, 0) @ own["head"]["value"]["kernel"] + own["head"]["value"]["bias"]
    got = jax.jit(policy.unroll)(params, policy.initial_carry(params), inputs)[1].value
    np.testing.assert_allclose(got, value[:, 0], rtol=1e-4, atol=1e-5)


def test_one_half_of_the_gru_is_aggregated_and_the_other_half_is_not() -> None:
    network = split_aggregation.SplitAggregationActorCritic(*SPACES, "gru", 6, 7, None, True, True)
    policy = split_aggregation.make(
        SPACES, split_aggregation.Settings(hidden_size=6, embedding_size=7, readout_size=None)
    )
    params, inputs = moved(policy), trial()
    carry = policy.initial_carry(params)
    one: Any = jax.tree.map(lambda x: x[None], carry.recurrent)
    rows: Any = jax.tree.map(lambda x: x[:, None], inputs)
    _, (_, _, hidden) = jax.jit(functools.partial(network.apply, method="_advance_all"))(params, one, rows)
    hidden = np.asarray(hidden)[:, 0]
    carry, output = jax.jit(policy.unroll)(params, carry, inputs)
    assert output.features is not None
    np.testing.assert_allclose(output.features[:, :3], hidden[:, :3], rtol=1e-5, atol=1e-6)
    largest = np.maximum(np.maximum.accumulate(hidden[:, 3:], axis=0), 0)
    np.testing.assert_allclose(output.features[:, 3:], largest, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carry.largest, largest[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("then", [jnp.add, jnp.maximum])
def test_the_parallel_prefix_is_the_stepwise_one_with_its_derivatives(
    then: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``prefix`` runs the form of this platform; the form of accelerators is chosen by a replacement of the choice."""
    state, elements = jax.random.normal(jax.random.key(0), (2, 3)), jax.random.normal(jax.random.key(1), (STEPS, 2, 3))
    accumulate = {jnp.add: np.add, jnp.maximum: np.maximum}[then].accumulate
    expected = accumulate(np.concatenate([np.asarray(state)[None], np.asarray(elements)]))[1:]

    def loss(state: Array, elements: Array) -> tuple[Array, Array]:
        states = scans.prefix(then, state, elements)
        return jnp.sum((states - 1) ** 2), states

    def results() -> Any:
        return jax.jit(jax.value_and_grad(lambda *x: loss(*x), argnums=(0, 1), has_aux=True))(state, elements)

    (_, stepwise), derivatives = results()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cpu, default: default(*x))
    (_, parallel), others = results()
    for states in (stepwise, parallel):
        np.testing.assert_allclose(states, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(derivatives, others, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="hidden_size must be an even number for split aggregation, not 7"):
        split_aggregation.Settings(hidden_size=7)
    with pytest.raises(ValueError, match="aggregate must be one of mean, max, not 'sum'"):
        set_aggregation.Settings(aggregate="sum")  # pyright: ignore[reportArgumentType]
