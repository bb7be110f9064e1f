"""RL³: the estimated action values, and the policy that observes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import experiments
from metarl_jax.environments import classic_control, dark_room, gridnavi, point_robot, tabular_mdp
from metarl_jax.experiments import registry
from metarl_jax.networks import estimated_values, estimates, recurrent
from metarl_jax.types import Array, Carry, Discrete, EnvFamily, Inputs, Output, Policy

SETTINGS = estimated_values.Settings(prior_transitions=0.5, prior_rewards=2.0, prior_reward=0.25)
STEPS, HORIZON = 15, 5
MDP = tabular_mdp.make(states=3, actions=2, horizon=HORIZON)


def inputs(family: EnvFamily, key: Array) -> Inputs:
    """Return random inputs ``[STEPS, ...]``. The first episodes end early."""
    keys, space = jax.random.split(key, 3), family.observation_space
    states = space.n if isinstance(space, Discrete) else space.shape[0]
    obs = jax.random.randint(keys[0], (STEPS,), 0, max(states, 1))
    assert isinstance(family.action_space, Discrete)
    return Inputs(
        obs if isinstance(space, Discrete) else jax.nn.one_hot(obs, states),
        jax.random.randint(keys[1], (STEPS,), 0, family.action_space.n),
        jax.random.normal(keys[2], (STEPS,)),
        jnp.isin(jnp.arange(STEPS), jnp.array([2, 6, 11])).astype(jnp.float32),
        jnp.arange(STEPS) == 0,
    )


def counted_values(seen: Any, step: int, states: int, actions: int) -> np.ndarray:
    """Count the steps before ``step`` in loops, and return the action values of its state by value iteration."""
    transitions, rewards = np.zeros((states, actions, states)), [[[] for _ in range(actions)] for _ in range(states)]
    for t in range(1, step + 1):
        state, action = seen.obs[t - 1], seen.prev_action[t]
        rewards[state][action].append(seen.prev_reward[t])
        if not seen.prev_done[t]:
            transitions[state, action, seen.obs[t]] += 1
    starts = [t for t in range(step + 1) if t == 0 or seen.prev_done[t]]
    value = np.zeros(states)
    values = np.zeros((states, actions))
    for _ in range(HORIZON - (step - starts[-1])):
        for state in range(states):
            for action in range(actions):
                known = rewards[state][action]
                mean = (2.0 * 0.25 + sum(known)) / (2.0 + len(known))
                counts = transitions[state, action] + 0.5
                values[state, action] = mean + counts @ value / counts.sum()
        value = values.max(axis=1)
    return values[seen.obs[step]]


def test_action_values_are_those_of_value_iteration_on_the_counted_model() -> None:
    given = inputs(MDP, jax.random.key(0))
    states = jnp.argmax(given.obs, axis=-1)

    def one_step(estimates: estimated_values.Estimates, x: tuple[Array, Inputs]) -> Any:
        estimates = estimated_values.observe(estimates, *x, SETTINGS)
        return estimates, (
            estimated_values.action_values(estimates, HORIZON, SETTINGS),
            estimated_values.features(estimates, HORIZON, SETTINGS),
        )

    _, (values, features) = jax.jit(
        lambda: jax.lax.scan(one_step, estimated_values.no_data(3, 2, SETTINGS), (states, given))
    )()
    seen = jax.tree.map(np.asarray, given._replace(obs=states))
    expected = np.stack([counted_values(seen, t, 3, 2) for t in range(STEPS)])
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert np.abs(np.diff(expected, axis=1)).max() > 0.3
    # The features are made of these values, and of the visits of the current state.
    time = np.array([t - max(s for s in (0, 2, 6, 11) if s <= t) for t in range(STEPS)])
    best = expected.max(axis=1)
    np.testing.assert_allclose(features[:, :2], expected - best[:, None], atol=1e-5)
    np.testing.assert_allclose(features[:, 2], best / (HORIZON - time), rtol=1e-5)
    for t in range(STEPS):
        taken = seen.prev_action[1 : t + 1][seen.obs[:t] == seen.obs[t]]
        np.testing.assert_allclose(features[t, 3:], 1 / np.sqrt(1 + np.bincount(taken, minlength=2)), rtol=1e-5)


def test_standardised_leads_are_over_the_best_other_action() -> None:
    # Two imaginary rewards of the prior are added to the visits.
    visits, rewards = np.array([398.0, 98.0, 23.0]), np.array([0.50, 0.51, 0.3])
    estimates = estimated_values.no_data(1, 3, SETTINGS)._replace(
        visits=jnp.asarray(visits, jnp.float32)[None], reward=jnp.asarray(rewards, jnp.float32)[None]
    )
    standardised = replace(SETTINGS, standardised=True)
    features = estimated_values.features(estimates, 1, standardised)
    assert len(features) == estimated_values.number_of_features(3, standardised) == 10
    np.testing.assert_array_equal(features[:7], estimated_values.features(estimates, 1, SETTINGS))
    lead = np.array([-0.01, 0.01, -0.21]) / np.sqrt([1 / 400 + 1 / 100, 1 / 100 + 1 / 400, 1 / 25 + 1 / 100])
    np.testing.assert_allclose(features[7:], 4 * np.tanh(lead / 4), rtol=1e-4)


def test_without_data_the_values_are_those_of_the_prior() -> None:
    estimates = estimated_values.no_data(3, 2, SETTINGS)
    np.testing.assert_allclose(estimated_values.action_values(estimates, HORIZON, SETTINGS), 0.25 * HORIZON, rtol=1e-6)
    features = estimated_values.features(estimates, HORIZON, SETTINGS)
    np.testing.assert_allclose(features, [0, 0, 0.25, 1, 1], atol=1e-6)


def scanned(policy: Policy, params: Any, given: Inputs) -> tuple[Carry, Output]:
    return jax.lax.scan(lambda carry, x: policy.step(params, carry, x), policy.initial_carry(params), given)


def with_memory(family: EnvFamily) -> Policy:
    settings = recurrent.Settings(hidden_size=4, embedding_size=5)
    return estimated_values.make(family, lambda spaces: recurrent.make(spaces, settings), SETTINGS)


def alone(family: EnvFamily) -> Policy:
    return estimates.make(family, estimates.Settings(units=6, layers=1))


@pytest.mark.parametrize("made", [with_memory, alone])
@pytest.mark.parametrize("family", [MDP, gridnavi.make(3, 4)], ids=["one-hot", "index"])
def test_unroll_is_a_scan_of_step_gradients_included(family: EnvFamily, made: Callable[[EnvFamily], Policy]) -> None:
    policy = made(family)
    params = jax.jit(policy.init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    trials = jax.vmap(lambda key: inputs(family, key), out_axes=1)(jax.random.split(jax.random.key(2), 3))

    def batched(params: Any) -> tuple[Carry, Output]:
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), policy.initial_carry(params))
        return policy.unroll(params, carry, trials)

    def one_by_one(params: Any) -> tuple[Carry, Output]:
        return jax.vmap(lambda x: scanned(policy, params, x), in_axes=1, out_axes=(0, 1))(trials)

    def loss(params: Any, play: Any) -> tuple[Array, Any]:
        carry, output = play(params)
        return jnp.sum(output.distribution.entropy() + output.value**2), (carry, output)

    gradient_of = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    got, expected = gradient_of(params, batched), gradient_of(params, one_by_one)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    one = jax.tree.map(lambda x: x[:, 0], trials)
    single = jax.jit(lambda: policy.unroll(params, policy.initial_carry(params), one))()[1]
    np.testing.assert_allclose(single.value, got[0][1][1].value[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "family",
    [
        point_robot.varibad(),
        classic_control.cartpole(),
        # The observation is a pair of one-hot vectors.
        dark_room.decision_pretrained(),
    ],
    ids=["real actions", "real observations", "two-hot observations"],
)
def test_other_families_are_refused(family: EnvFamily) -> None:
    with pytest.raises(ValueError, match="need discrete actions, and observations that are discrete or one-hot: this"):
        estimated_values.make(family, recurrent.make)


def test_the_registered_families_that_have_states_are_accepted_and_others_refused() -> None:
    tabular = [family for family in registry.families() if family.tabular]
    assert {family.name for family in tabular} >= {"bandit", "tabular-mdp", "gridnavi"}
    for family in tabular:
        made = registry.resolve(family.make)(**family.defaults)
        assert estimated_values.make(made, recurrent.make).spaces == (made.observation_space, made.action_space)
    with pytest.raises(ValueError, match="rl3 does not apply to half-circle: it needs discrete actions, and"):
        experiments.combination("rl3", "half-circle")


def test_the_prior_may_be_a_tracer() -> None:
    """Several priors are one program, as several learning rates are."""
    made = experiments.get("rl3-tabular-mdp-10")
    problem = made.build(made.with_overrides({"trials": 2, "minibatches": 1, "embedding_size": 4}))

    def init(prior: Array) -> Any:
        return problem.vary({"prior_reward": prior}).init(jax.random.key(0))

    assert jax.tree.leaves(jax.eval_shape(jax.vmap(init), jnp.arange(2.0)))
