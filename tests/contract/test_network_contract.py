"""The contract of every policy network."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import NETWORKS, NOT_NETWORKS, SPACES, flat, makers, modules

import metarl_jax.networks
from metarl_jax.types import Array, Box, Carry, Discrete, Inputs, Key, Output, Policy, Space

STEPS = 6
# All networks share the code that depends on spaces. Two networks are tested with every kind of space, and each other
# network with one of them.
EVERYWHERE = {"mlp.make", "recurrent.make[gru]"}
CASES = [
    (f"{network} / {spaces}", build, SPACES[spaces])
    for i, (network, build) in enumerate(flat(NETWORKS))
    for spaces in (SPACES if network in EVERYWHERE else [list(SPACES)[i % len(SPACES)]])
]


class Network(NamedTuple):
    policy: Policy
    action_space: Space
    params: Any
    inputs: Inputs
    """Return random inputs ``[STEPS, ...]``."""
    actions: Array


def random_value(key: Key, space: Space, lead: int) -> Array:
    match space:
        case Discrete(n=n):
            return jax.random.randint(key, (lead,), 0, n)
        case Box(shape=shape):
            return jax.random.normal(key, (lead, *shape))


def random_inputs(key: Key, observation_space: Space, action_space: Space) -> Inputs:
    keys = jax.random.split(key, 4)
    return Inputs(
        obs=random_value(keys[0], observation_space, STEPS),
        prev_action=random_value(keys[1], action_space, STEPS),
        prev_reward=jax.random.normal(keys[2], (STEPS,)),
        prev_done=jax.random.bernoulli(keys[3], 0.4, (STEPS,)).astype(jnp.float32),
        first=jnp.arange(STEPS) == 0,
    )


@pytest.fixture(scope="module", params=[case[1:] for case in CASES], ids=[case[0] for case in CASES])
def network(request: pytest.FixtureRequest) -> Network:
    build, (observation_space, action_space) = request.param
    policy = build(observation_space, action_space)
    # The function is compiled as a whole, because single operations would be hundreds of programs.
    policy = policy._replace(init=jax.jit(policy.init), step=jax.jit(policy.step), unroll=jax.jit(policy.unroll))
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def moved(params: Any) -> Any:
        """Return parameters away from the initial ones, whose biases are zero and whose policy layer is nearly zero."""
        leaves, structure = jax.tree.flatten(params)
        noise = jax.random.split(keys[1], len(leaves))
        return jax.tree.unflatten(
            structure, [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, noise, strict=True)]
        )

    params = moved(policy.init(keys[0]))
    inputs = random_inputs(keys[2], observation_space, action_space)
    return Network(policy, action_space, params, inputs, random_value(keys[3], action_space, STEPS))


def scanned(policy: Policy, params: Any, inputs: Inputs) -> tuple[Carry, Output]:
    return jax.lax.scan(lambda carry, x: policy.step(params, carry, x), policy.initial_carry(params), inputs)


def unrolled(policy: Policy, params: Any, inputs: Inputs) -> tuple[Carry, Output]:
    return policy.unroll(params, policy.initial_carry(params), inputs)


def close(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        # The rounding error is that of the largest terms of a sum, even if the sum is small.
        size = max(1.0, float(jnp.max(jnp.abs(b)))) if b.size else 1.0
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * size)


def at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def test_some_networks_meet_every_kind_of_space() -> None:
    assert {name for name, _ in flat(NETWORKS)} > EVERYWHERE


def test_every_module_has_a_builder() -> None:
    assert modules(metarl_jax.networks) - NOT_NETWORKS == set(NETWORKS)


@pytest.mark.parametrize("name", sorted(modules(metarl_jax.networks) - NOT_NETWORKS))
def test_every_maker_has_a_builder(name: str) -> None:
    found = makers(importlib.import_module(f"metarl_jax.networks.{name}"), "Policy")
    assert found, "a module of networks has a public function that returns a Policy"
    assert found == {builder.partition("[")[0] for builder in NETWORKS[name]}


def test_unroll_is_a_scan_of_step_gradients_included(network: Network) -> None:
    policy, inputs = network.policy, network.inputs

    def loss(params: Any, play: Any) -> tuple[Array, Any]:
        carry, output = play(policy, params, inputs)
        weight = jnp.linspace(-1, 1, STEPS)
        log_prob = output.distribution.log_prob(network.actions)
        total = jnp.sum(weight * (log_prob + 0.5 * output.distribution.entropy() + output.value**2))
        return total, (carry, output)

    gradient_of = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, expected), expected_gradient = gradient_of(network.params, scanned)
    (_, got), gradient = gradient_of(network.params, unrolled)
    close(got, expected)
    close(gradient, expected_gradient)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert bool(jnp.any(leaf != 0)), f"{jax.tree_util.keystr(path)} has no gradient"


@pytest.mark.parametrize("since", [1, 3, STEPS - 1])
def test_the_future_does_not_leak(network: Network, since: int) -> None:
    policy, params, inputs = network.policy, network.params, network.inputs
    changed = inputs._replace(
        prev_reward=inputs.prev_reward.at[since:].add(1.0), prev_done=1 - inputs.prev_done.at[:since].set(0)
    )
    changed = changed._replace(prev_done=changed.prev_done.at[:since].set(inputs.prev_done[:since]))
    _, before = unrolled(policy, params, inputs)
    _, after = unrolled(policy, params, changed)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a[:since], b[:since])
    assert bool(jnp.all(before.value[since] != after.value[since]))


def test_every_input_has_an_effect(network: Network) -> None:
    """Observation, previous action, reward and done affect the output, except for the action at the first step."""
    policy, params, inputs = network.policy, network.params, at(network.inputs, 2)
    carry = policy.initial_carry(params)

    def value(x: Inputs) -> Array:
        return policy.step(params, carry, x)[1].value

    for field in ("obs", "prev_action", "prev_reward", "prev_done"):
        old = getattr(inputs, field)
        if old.size:
            assert value(inputs) != value(
                inputs._replace(**{field: old + 1 if old.dtype != jnp.int32 else 1 - old % 2})
            )
    first = inputs._replace(first=jnp.bool_(True))
    assert value(first) == value(first._replace(prev_action=jnp.zeros_like(inputs.prev_action)))
    assert value(first) == value(first._replace(prev_action=jnp.ones_like(inputs.prev_action)))


def test_the_carry_keeps_its_shape(network: Network) -> None:
    carry = network.policy.initial_carry(network.params)
    after_step = network.policy.step(network.params, carry, at(network.inputs, 0))[0]
    after_unroll = network.policy.unroll(network.params, carry, network.inputs)[0]
    for after in (after_step, after_unroll):
        assert jax.tree.structure(after) == jax.tree.structure(carry)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(carry), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_batched_trials_equal_a_vmap_over_trials(network: Network) -> None:
    """Return values and the gradient of the weights of ``unroll`` over ``[T, B, ...]``."""
    policy, trials = network.policy, 3
    scales = jnp.array([1.0, -0.5, 2.0])
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (STEPS, trials, *x.shape[1:])), network.inputs)
    batch = batch._replace(prev_reward=scales * batch.prev_reward)

    def side_by_side(params: Any) -> tuple[Carry, Output]:
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), policy.initial_carry(params))
        return policy.unroll(params, carry, batch)

    def mapped(params: Any) -> tuple[Carry, Output]:
        return jax.vmap(lambda x: unrolled(policy, params, x), in_axes=1, out_axes=(0, 1))(batch)

    def loss(params: Any, play: Any) -> tuple[Array, Any]:
        carry, output = play(params)
        weight = jnp.linspace(-1, 1, STEPS * trials).reshape(STEPS, trials)
        return jnp.sum(weight * (output.distribution.entropy() + output.value**2)), (carry, output)

    gradient_of = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, expected), expected_gradient = gradient_of(network.params, mapped)
    (_, got), gradient = gradient_of(network.params, side_by_side)
    close(got, expected)
    close(gradient, expected_gradient)


def test_batch_elements_are_independent(network: Network) -> None:
    policy, params = network.policy, network.params
    scales = jnp.array([1.0, -0.5, 2.0])
    batch = jax.vmap(lambda s: network.inputs._replace(prev_reward=s * network.inputs.prev_reward))(scales)
    play = jax.jit(jax.vmap(lambda x: unrolled(policy, params, x)))
    batched = play(batch)
    for i in range(3):
        close(at(batched, i), unrolled(policy, params, at(batch, i)))
    poisoned = batch._replace(prev_reward=batch.prev_reward.at[1].set(jnp.nan))
    after = play(poisoned)
    close(at(after, jnp.array([0, 2])), at(batched, jnp.array([0, 2])))


def test_outputs_are_distributions_over_the_action_space(network: Network) -> None:
    _, output = unrolled(network.policy, network.params, network.inputs)
    assert output.value.shape == (STEPS,)
    sample = output.distribution.sample(jax.random.key(0))
    assert (sample.shape, sample.dtype) == (network.actions.shape, network.actions.dtype)
    assert output.distribution.log_prob(sample).shape == (STEPS,)


def test_initial_parameters_are_a_function_of_the_key(network: Network) -> None:
    one, again, other = (network.policy.init(jax.random.key(s)) for s in (1, 1, 2))
    same = [bool(jnp.all(a == b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True)]
    assert all(same)
    differ = [bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]
    assert any(differ)
