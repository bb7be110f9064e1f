"""Hypernetworks, in addition to the contract tests of networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metarl_jax.networks import belief, hypernetwork, mlp
from metarl_jax.types import Array, Box, Discrete, Inputs, Output, Policy, Space, Spaces

STEPS, SEEN = 7, 3
OBSERVATIONS = Box(-1.0, 1.0, (SEEN,))
SMALL: dict[str, Any] = {"hidden_size": 6, "embedding_size": 5, "latent_size": 4, "policy_units": 8}


def history(seed: int, actions: Space) -> Inputs:
    keys = jax.random.split(jax.random.key(seed), 3)
    action = (
        jax.random.randint(keys[1], (STEPS,), 0, actions.n)
        if isinstance(actions, Discrete)
        else jax.random.normal(keys[1], (STEPS, *actions.shape))
    )
    return Inputs(
        obs=jax.random.normal(keys[0], (STEPS, SEEN)),
        prev_action=action,
        prev_reward=jax.random.normal(keys[2], (STEPS,)),
        prev_done=jnp.zeros(STEPS),
        first=jnp.arange(STEPS) == 0,
    )


def outputs(output: Output) -> list[Array]:
    return jax.tree.leaves((output.distribution, output.value))


def ordinary(policy: Policy, bias: Array) -> Any:
    """Return the weights, as those of an ordinary policy, that a generator's biases are."""
    return ravel_pytree(jax.jit(policy.init)(jax.random.key(9)))[1](bias)


@pytest.mark.parametrize("actions", [Discrete(4), Box(-1.0, 1.0, (2,))], ids=["discrete", "continuous"])
def test_with_bias_hyperinit_the_first_policy_is_an_ordinary_one(actions: Space) -> None:
    """The outputs are those of a feed-forward policy with the same initialisation, whatever the history."""
    spaces = Spaces(OBSERVATIONS, actions)
    plain = mlp.make(spaces, mlp.Settings(units=8, layers=2, activation="tanh"), history=False)
    policy = hypernetwork.make(spaces, hypernetwork.Settings(**SMALL))
    params = jax.jit(policy.init)(jax.random.key(0))
    weights = ordinary(plain, params["params"]["head"]["generator"]["bias"])
    first = np.asarray(weights["params"]["Dense_0"]["kernel"])
    # The ordinary initialisation of these layers is orthogonal with a gain of the square root of 2.
    np.testing.assert_allclose(first @ first.T, 2 * np.eye(SEEN), atol=1e-5)
    assert float(jnp.std(weights["params"]["head"]["policy"]["kernel"])) > 0
    unroll, expect = jax.jit(policy.unroll), jax.jit(plain.unroll)
    for seed in range(3):
        inputs = history(seed, actions)
        got = unroll(params, policy.initial_carry(params), inputs)[1]
        expected = expect(weights, (), inputs)[1]
        for a, b in zip(outputs(got), outputs(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_with_kaiming_the_first_policy_is_none_and_depends_on_the_history() -> None:
    spaces = Spaces(OBSERVATIONS, Discrete(4))
    policy = hypernetwork.make(spaces, hypernetwork.Settings(**SMALL, initialisation="kaiming"))
    params = jax.jit(policy.init)(jax.random.key(0))
    inputs = history(0, spaces.action_space)
    other = inputs._replace(prev_reward=inputs.prev_reward + 1)
    unroll = jax.jit(policy.unroll)
    one, two = (unroll(params, policy.initial_carry(params), x)[1] for x in (inputs, other))
    assert float(jnp.max(jnp.abs(one.value - two.value))) > 1e-3
    # An ordinary policy layer is orthogonal with a gain of 0.01, so that the first policy explores evenly.
    assert float(jnp.max(jnp.abs(one.distribution.logits))) > 0.1


def test_a_generated_network_has_the_weights_that_its_memory_generates() -> None:
    """The weights are linear in the memory, and the output is that of an ordinary network with them."""
    spaces = Spaces(OBSERVATIONS, Discrete(4))
    plain = mlp.make(spaces, mlp.Settings(units=8, layers=2, activation="tanh"), history=False)
    policy = hypernetwork.make(spaces, hypernetwork.Settings(**{**SMALL, "latent_size": None}))
    params = jax.jit(policy.init)(jax.random.key(0))
    generator = params["params"]["head"]["generator"]
    generator["kernel"] = 0.3 * jax.random.normal(jax.random.key(1), generator["kernel"].shape)
    carry, step, expect = policy.initial_carry(params), jax.jit(policy.step), jax.jit(plain.step)
    for t in range(3):
        inputs = jax.tree.map(lambda x: x[t], history(0, spaces.action_space))  # noqa: B023
        carry, output = step(params, carry, inputs)
        weights = ordinary(plain, carry.state @ generator["kernel"] + generator["bias"])
        for a, b in zip(outputs(output), outputs(expect(weights, (), inputs)[1]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("generated", ["bias-hyperinit", "kaiming"])
def test_varibad_s_policy_can_be_generated_from_the_belief(generated: Any) -> None:
    spaces = Spaces(OBSERVATIONS, Discrete(4))
    settings = belief.Settings(latent_size=2, policy_units=6, policy_layers=1, generated_policy=generated)
    policy = belief.make(spaces, settings).policy
    params = jax.jit(policy.init)(jax.random.key(0))
    obs = jnp.array([0.5, -0.2, 0.1])

    @jax.jit
    def logits(params: Any, belief: Array) -> Array:
        inputs = jax.tree.map(lambda x: x[0], history(0, spaces.action_space))
        shown = inputs._replace(obs=jnp.concatenate([obs, belief]))
        return policy.step(params, (), shown)[1].distribution.logits

    one, two = (logits(params, scale * jnp.ones(4)) for scale in (0.0, 1.0))
    # With Bias-HyperInit the first policy is the same under every belief.
    distance = float(jnp.max(jnp.abs(one - two)))
    assert distance == 0 if generated == "bias-hyperinit" else distance > 1e-2
    gradient = jax.grad(lambda params: jnp.sum(logits(params, jnp.ones(4)) ** 2))(params)
    assert float(jnp.max(jnp.abs(gradient["params"]["generator"]["generator"]["kernel"]))) > 0


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="initialisation must be one of bias-hyperinit, kaiming, not 'normc'"):
        hypernetwork.Settings(initialisation="normc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="latent_size must be a positive whole number or None, not 0"):
        hypernetwork.Settings(latent_size=0)
