"""HyperX: both bonuses, their decay, and that they reach the policy's training only."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import belief_learning
from metarl_jax.algorithms import hyperx, varibad
from metarl_jax.environments import point_robot
from metarl_jax.networks import belief
from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Inputs, TaskDistribution, Transition


def short() -> EnvFamily:
    """Make point robots with episodes of four steps."""
    family = point_robot.varibad()

    def sample(key: Array) -> Any:
        return family.tasks.sample(key).replace(max_steps_in_episode=4)

    return family._replace(horizon=4, tasks=TaskDistribution(sample, sample))


FAMILY = short()
NETWORKS = belief.make(
    FAMILY,
    belief.Settings(
        latent_size=2, hidden_size=5, embedding_size=6, decoder_units=6, policy_units=7, policy_layers=1,
        decode_transitions=True,
    ),
)  # fmt: skip
SIZES: dict[str, Any] = {
    "episodes": 2, "trials": 4, "minibatches": 2, "epochs": 1, "iterations": 5, "buffer_trials": 8,
    "model_trials": 3, "model_updates": 1, "adaptation_episodes": 2,
}  # fmt: skip
SMALL: dict[str, Any] = {"novelty_units": 8, "novelty_features": 4, "novelty_updates": 1, "novelty_batch": 8}
ZERO: dict[str, Any] = {"novelty_weight": 0.0, "error_weight": 0.0}


def config(**settings: Any) -> hyperx.Config:
    return hyperx.Config(**(SIZES | SMALL | settings))


def same(a: Any, b: Any) -> bool:
    return all(bool(jnp.all(x == y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def close(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def trial(key: Array, steps: int) -> Transition:
    keys = jax.random.split(key, 3)
    zeros, obs = jnp.zeros(steps), jax.random.normal(keys[0], (steps, 2))
    action, reward = jax.random.normal(keys[1], (steps, 2)), jax.random.normal(keys[2], (steps,))
    inputs = Inputs(obs, action, reward, zeros, zeros > 0)
    return Transition(inputs, action, reward, zeros > 0, zeros > 0, obs + 0.1, zeros.astype(jnp.int32), zeros == 0, ())


@pytest.mark.slow
def test_both_bonuses_reach_the_policy_only_and_without_them_hyperx_is_varibad() -> None:
    algorithm = varibad.make(FAMILY, NETWORKS, varibad.Config(**SIZES))
    start = jax.jit(algorithm.init)(jax.random.key(0))
    keys = jax.random.key(1), jax.random.key(2)

    def two(step: Any, state: Any) -> list[tuple[Any, Any]]:
        first = step(keys[0], state)
        return [first, step(keys[1], first[0])]

    usual = two(jax.jit(algorithm.step), start)
    without = hyperx.make(FAMILY, NETWORKS, config(**ZERO))
    own = jax.jit(without.init)(jax.random.key(0))
    assert same(own._replace(bonus=()), start)
    for (state, metrics), (expected, expected_metrics) in zip(two(jax.jit(without.step), own), usual, strict=True):
        # Compilers round the two programs differently.
        close(state._replace(bonus=()), expected)
        close([metrics[name] for name in expected_metrics], list(expected_metrics.values()))
    large: dict[str, Any] = {"novelty_weight": 100.0, "error_weight": 100.0}
    state, metrics = jax.jit(hyperx.make(FAMILY, NETWORKS, config(**large)).step)(keys[0], own)
    expected, expected_metrics = usual[0]
    assert not same(state.policy, expected.policy)
    np.testing.assert_allclose(metrics["trial_reward"], expected_metrics["trial_reward"], rtol=1e-6)
    learned, wanted = (jax.tree.leaves((x.model, x.buffer)) for x in (state, expected))
    for one, other in zip(learned, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_returns_on_heldout_tasks_contain_no_bonus() -> None:
    weights: dict[str, Any] = {"novelty_weight": 100.0, "error_weight": 100.0}
    algorithm = hyperx.make(FAMILY, NETWORKS, config(**weights))
    usual = varibad.make(FAMILY, NETWORKS, varibad.Config(**SIZES))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    task = FAMILY.tasks.sample_heldout(jax.random.key(1))
    score = jax.jit(algorithm.adapt)(jax.random.key(2), state, task).score
    np.testing.assert_array_equal(score, jax.jit(usual.adapt)(jax.random.key(2), state._replace(bonus=()), task).score)
    # An episode has at most four steps with a reward of at most 1, and a bonus would be far larger.
    assert float(jnp.max(jnp.abs(score))) <= FAMILY.horizon


def test_the_novelty_of_a_state_falls_as_the_predictor_learns_it() -> None:
    bonus = hyperx.make_bonus(NETWORKS, config(novelty_updates=200, novelty_learning_rate=1e-2, error_weight=0.0))
    state = bonus.init(jax.random.key(0))
    model = belief_learning.Model((), NETWORKS.decoder.init(jax.random.key(1)))
    familiar = trial(jax.random.key(2), 8)
    other = familiar._replace(final_obs=familiar.final_obs + jnp.array([3.0, -3.0]))
    after = DiagonalGaussian(jnp.zeros((8, 2)), jnp.zeros((8, 2)))

    @jax.jit
    def novelty(state: Any, t: Transition) -> Any:
        return bonus.reward(jax.random.key(3), state, model, t, after, jnp.int32(0))

    _, record = novelty(state, familiar)
    records = jax.tree.map(lambda x: x[None], record)
    # The statistics of the inputs are updated once, so that they are the same before and after learning.
    state = jax.jit(bonus.update)(jax.random.key(4), state, records, jnp.int32(0))[0]
    kept = state.novelty.inputs
    before = novelty(state, familiar)[1].novelty
    state, metrics = jax.jit(bonus.update)(jax.random.key(5), state, records, jnp.int32(1))
    state = state._replace(novelty=state.novelty._replace(inputs=kept))
    learned, new = (novelty(state, t)[1].novelty for t in (familiar, other))
    assert float(jnp.mean(learned)) < 0.5 * float(jnp.mean(before))
    assert float(jnp.mean(learned)) < 0.1 * float(jnp.mean(new))
    assert float(metrics["novelty_loss"]) > 0


def test_the_error_is_that_of_the_decoder_at_each_step() -> None:
    """With the same latent variable at every step, the errors add up to minus the log-likelihood of the trial."""
    made = config(novelty_weight=0.0, error_weight=1.0)
    bonus = hyperx.make_bonus(NETWORKS, made)
    state = bonus.init(jax.random.key(0))
    decoder = NETWORKS.decoder
    model = belief_learning.Model((), decoder.init(jax.random.key(1)))
    t = trial(jax.random.key(2), 8)
    t = t._replace(valid=jnp.arange(8) < 6, reward=t.reward.at[7].set(jnp.nan))
    latent = jnp.array([0.5, -1.0])
    after = DiagonalGaussian(jnp.tile(latent, (8, 1)), jnp.full((8, 2), -50.0))
    added, record = jax.jit(bonus.reward)(jax.random.key(3), state, model, t, after, jnp.int32(0))
    one = jax.tree.map(lambda x: x[:6, None], t)
    expected = -decoder.log_likelihood(model.decoder, latent[None, None], one)[0, 0]
    np.testing.assert_allclose(jnp.sum(record.error), expected, rtol=1e-5)
    np.testing.assert_array_equal(record.error[6:], 0)
    # Without data, the standard deviation of the sums is 1.
    np.testing.assert_allclose(added, record.error, rtol=1e-5)


def test_the_bonus_gets_the_belief_after_each_step() -> None:
    """The belief after a step is the belief before the next one; the last one includes the last reward."""
    recording = belief_learning.Bonus(
        init=lambda key: jnp.zeros((4, 8, 2)),
        reward=lambda key, state, model, t, after, iteration: (jnp.zeros(8), after.mean),
        update=lambda key, state, records, iteration: (records, {}),
    )
    algorithm = belief_learning.make(FAMILY, NETWORKS, belief_learning.Config(**SIZES), bonus=recording)
    start = jax.jit(algorithm.init)(jax.random.key(0))
    state = jax.jit(algorithm.step)(jax.random.key(1), start)[0]
    t = jax.tree.map(lambda x: jnp.moveaxis(x[:4], 0, 1), state.buffer)
    last = Inputs(t.final_obs[-1:], t.action[-1:], t.reward[-1:], jnp.ones((1, 4)), jnp.zeros((1, 4), bool))
    inputs = jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y]), t.inputs, last)
    first = jax.tree.map(lambda x: x[:1], t.inputs)
    encoder, params = NETWORKS.encoder, start.model.encoder
    carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), encoder.initial_carry(params))
    carry, _ = encoder.unroll(params, carry, first)
    expected = encoder.unroll(params, carry, inputs)[1].mean
    np.testing.assert_allclose(state.bonus, jnp.moveaxis(expected, 0, 1), rtol=1e-4, atol=1e-6)


def test_the_weights_fall_to_zero() -> None:
    made = config(iterations=11)
    weights = jax.vmap(lambda i: hyperx.bonus_weight(made, i))(jnp.arange(11))
    np.testing.assert_allclose(weights, np.linspace(1, 0, 11), atol=1e-6)
    assert weights[-1] == 0
    half = jax.vmap(lambda i: hyperx.bonus_weight(config(iterations=11, bonus_decay=0.5), i))(jnp.arange(11))
    np.testing.assert_allclose(half, np.maximum(np.linspace(1, -1, 11), 0), atol=1e-6)


def test_discounted_sums() -> None:
    np.testing.assert_allclose(hyperx.discounted_sums(jnp.array([1.0, 2.0, 4.0]), 0.5), [1, 2.5, 5.25])


def test_bad_settings_and_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="error_weight"):
        config(error_weight=-1.0)
    with pytest.raises(ValueError, match="bonus_decay"):
        config(bonus_decay=0.0)
    with pytest.raises(ValueError, match="HyperX needs a policy that observes a vector of real numbers, not Discrete"):
        hyperx.make(FAMILY, NETWORKS._replace(shown=Discrete(3)), config())
    with pytest.raises(ValueError, match=r"networks must be a .*BeliefNetworks, not Box"):
        hyperx.make(FAMILY, Box(0.0, 1.0, (2,)), config())  # pyright: ignore[reportArgumentType]
