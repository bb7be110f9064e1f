"""Values and gradients near the limits of floats are exact, or infinite where the true value is, and never NaN."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_jax import ppo, problems
from metarl_jax.algorithms import reptile
from metarl_jax.datasets import sinusoid
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.networks import heads, linear_recurrence, mlp, transformer
from metarl_jax.ops import distributions
from metarl_jax.ops.baselines import fit_linear
from metarl_jax.ops.distributions import Categorical, DiagonalGaussian
from metarl_jax.ops.gaussians import product
from metarl_jax.ops.inner_loop import descend, step_sizes
from metarl_jax.ops.policy_gradients import approximate_kl, clipped_surrogate, likelihood_ratio, masked_mean
from metarl_jax.ops.running_statistics import initial_statistics, observe
from metarl_jax.types import Array, Box, Discrete, Inputs, Spaces, Transition
from tests.probes import probe_family

LARGEST = float(np.finfo(np.float32).max)


def bits(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32)


def finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------------------------------- Gaussians


def gaussian_kl(x: Array) -> Array:
    """Return the divergence for (mean, log std, log std of the other); the mean of the other is zero."""
    return DiagonalGaussian(x[:1], x[1:2]).kl(DiagonalGaussian(jnp.zeros(1), x[2:]))


GAUSSIAN_KL = jax.jit(jax.value_and_grad(gaussian_kl))


def exact_kl(mean: float, log_std: float, other: float) -> tuple[float, np.ndarray]:
    """Return the divergence and its gradient, computed in float64."""
    d = log_std - other
    # Where the closed form cancels, the power series is used.
    scale = d**2 * (1 + 2 * d / 3 + d**2 / 3 + 2 * d**3 / 15) if abs(d) < 1e-3 else (math.expm1(2 * d) - 2 * d) / 2
    ratio = mean * math.exp(-other)
    slope = math.expm1(2 * d)
    return scale + ratio**2 / 2, np.array([ratio * math.exp(-other), slope, -slope - ratio**2])


floats = st.floats(-100, 100, width=32, allow_subnormal=False)
means = st.one_of(st.just(0.0), st.floats(-1e3, 1e3, width=32, allow_subnormal=False))


@settings(max_examples=300, deadline=None)
@given(
    mean=st.one_of(st.just(0.0), st.floats(-1e3, 1e3, width=32, allow_subnormal=False)), log_std=floats, other=floats
)
def test_gaussian_divergence_is_exact_wherever_it_can_be_represented(mean: float, log_std: float, other: float) -> None:
    # The rounding of the difference in float32 is not tested.
    log_std = float(np.float32(other) + np.float32(np.float32(log_std) - np.float32(other)))
    value, gradient = (np.asarray(x, np.float64) for x in GAUSSIAN_KL(jnp.array([mean, log_std, other], jnp.float32)))
    difference = float(np.float32(log_std) - np.float32(other))
    expected, slopes = exact_kl(mean, difference + other, other)
    assert not np.isnan(value)
    assert not np.isnan(gradient).any()
    # exp(x) has the rounding error of x: about 100 times that of a float.
    if expected < 0.99 * LARGEST and abs(mean * math.exp(-other)) < 1e19:
        assert value == pytest.approx(expected, rel=3e-5, abs=1e-37)
        if np.abs(slopes).max() < 0.99 * LARGEST:
            np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-4 * np.abs(slopes).max() + 1e-30)
    elif expected > 1.01 * LARGEST:
        assert value == np.inf


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(-44.0, 43.5), (-50.0, 49.5), (-100.0, 99.5), (1e-6, 1e-12), (-1e-6, 1e-12), (44.7, 0.5 * math.exp(89.4))],
)
def test_gaussian_divergence_of_standard_deviations(difference: float, expected: float) -> None:
    value, gradient = GAUSSIAN_KL(jnp.array([0.0, difference, 0.0]))
    # The values 44.7 and e^89.4 are rounded.
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert finite(gradient)


def test_a_divergence_beyond_the_largest_float_is_infinite_with_a_finite_gradient_that_points_down() -> None:
    for difference in (44.8, 50.0, 1e4):
        value, gradient = GAUSSIAN_KL(jnp.array([0.0, difference, 0.0]))
        assert value == jnp.inf
        assert finite(gradient)
        assert gradient[1] > 1e38


def test_divergences_curve_as_they_should_where_policies_agree() -> None:
    """The second derivative, the metric of a trust region, is 2 in the log standard deviation."""
    assert float(jax.hessian(gaussian_kl)(jnp.array([0.0, 0.3, 0.3]))[1, 1]) == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("log_std", [-79.0, -85.0, -100.0, -150.0, -200.0])
def test_densities_are_finite_at_the_mean_of_the_narrowest_gaussian(log_std: float) -> None:
    """A distance of zero is zero in units of a standard deviation whose inverse overflows."""

    def log_density(x: Array) -> Array:
        return DiagonalGaussian(x[:1], x[1:]).log_prob(jnp.zeros(1))

    value, gradient = jax.value_and_grad(log_density)(jnp.array([0.0, log_std]))
    assert float(value) == pytest.approx(-log_std - 0.5 * math.log(2 * math.pi), rel=1e-6)
    np.testing.assert_allclose(gradient, [0, -1], atol=1e-6)
    same = DiagonalGaussian(jnp.zeros(1), jnp.array([log_std]))
    assert float(same.kl(same)) == 0


@pytest.mark.parametrize("log_std", [-60.0, -44.0, 3.0, 44.0, 60.0])
def test_products_of_very_narrow_and_very_wide_gaussians(log_std: float) -> None:
    """The product of three equal factors is exact, with a fourth factor of weight zero that is NaN."""
    factors = DiagonalGaussian(jnp.array([[1.0], [2.0], [6.0], [jnp.nan]]), jnp.array([[log_std]] * 3 + [[jnp.inf]]))
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    got = product(factors, weight)
    np.testing.assert_allclose(got.mean, [3.0], rtol=1e-6)
    np.testing.assert_allclose(got.log_std, [log_std - 0.5 * math.log(3)], rtol=1e-6)
    gradient = jax.grad(lambda f: jnp.sum(product(f, weight).mean + product(f, weight).log_std))(factors)
    assert finite(jax.tree.map(lambda x: x[:3], gradient))
    np.testing.assert_array_equal(jax.tree.leaves(gradient)[0][3], 0)


# --------------------------------------------------------------------------------------------------- masked actions

ACTIONS = 5
logits = st.lists(st.floats(-30, 30, width=32), min_size=ACTIONS, max_size=ACTIONS)
masks = st.lists(st.booleans(), min_size=ACTIONS, max_size=ACTIONS).filter(any)
CATEGORICAL = jax.jit(
    lambda p, q, action: (
        jax.value_and_grad(lambda x: Categorical(x).entropy())(p),
        jax.value_and_grad(lambda x, y: Categorical(x).kl(Categorical(y)), argnums=(0, 1))(p, q),
        jax.value_and_grad(lambda x: Categorical(x).log_prob(action))(p),
    )
)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


@settings(max_examples=200, deadline=None)
@given(p=logits, q=logits, p_mask=masks, q_mask=masks)
def test_masked_actions_do_not_affect_values_and_gradients(
    p: list[float], q: list[float], p_mask: list[bool], q_mask: list[bool]
) -> None:
    """Values agree with closed forms in float64 over the possible actions."""
    possible, other = np.array(p_mask), np.array(q_mask)
    x = np.where(possible, np.array(p, np.float32), -np.inf).astype(np.float32)
    y = np.where(other, np.array(q, np.float32), -np.inf).astype(np.float32)
    action = int(np.flatnonzero(possible)[-1])
    entropy, divergence, log_prob = CATEGORICAL(jnp.asarray(x), jnp.asarray(y), jnp.int32(action))
    log_p, log_q = log_softmax(x), log_softmax(y)
    probability = np.exp(log_p)
    finite_log_p = np.where(possible, log_p, 0)
    expected = -(probability * finite_log_p).sum()
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    close(entropy[0], expected)
    close(entropy[1], -probability * (finite_log_p + expected))
    close(log_prob[0], log_p[action])
    close(log_prob[1], np.eye(ACTIONS)[action] - probability)
    assert finite(divergence[1])
    if (possible & ~other).any():
        assert divergence[0] == jnp.inf
        return
    ratio = np.where(possible, finite_log_p - np.where(other, log_q, 0), 0)
    expected = (probability * ratio).sum()
    close(divergence[0], expected)
    close(divergence[1][0], probability * (ratio - expected))
    close(divergence[1][1], np.exp(log_q) - probability)
    assert not np.any(np.asarray(divergence[1][0])[~possible])
    assert not np.any(np.asarray(divergence[1][1])[~other])


def test_an_action_that_is_nan_is_not_hidden() -> None:
    bad, good = Categorical(jnp.array([jnp.nan, 0.0])), Categorical(jnp.zeros(2))
    for value in (bad.entropy(), bad.kl(good), good.kl(bad), bad.log_prob(jnp.int32(1))):
        assert bool(jnp.isnan(value))


@pytest.mark.parametrize("threshold", [0.0, 2.0**-24, 0.25, 0.5, 1 - 2.0**-23, 1 - 2.0**-24, 1.0])
def test_masked_actions_are_never_drawn(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    """Actions of all masks of five actions are possible for every random number, even for 1, which is never drawn."""
    every = np.array([mask for mask in itertools.product([False, True], repeat=ACTIONS) if any(mask)])
    masked = jnp.where(jnp.asarray(every), jnp.array([0.3, -2.0, 1.0, -90.0, 0.1]), -jnp.inf)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, *rest, **named: jnp.full(shape, threshold))
    actions = np.asarray(Categorical(masked).sample(jax.random.key(0)))
    assert every[np.arange(len(every)), actions].all()
    assert actions.dtype == np.int32


def test_masked_actions_are_never_drawn_where_rounding_moves_running_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """With parallel sums of many numbers, an action of probability zero is not drawn."""
    random, rows, size = np.random.default_rng(0), 400, 300
    x = 2 * random.normal(size=(rows, size)).astype(np.float32)
    possible = random.random((rows, size)) > 0.4
    masked = jnp.where(jnp.asarray(possible), x, -jnp.inf)
    sums = np.asarray(jnp.cumsum(jax.nn.softmax(masked), axis=-1))
    rises = (np.diff(sums, axis=-1) != 0) & ~possible[:, 1:]
    found = np.flatnonzero(rises.any(axis=-1))
    before = sums[found, rises[found].argmax(axis=-1)] / sums[found, -1]
    for ulps in range(-3, 4):
        numbers = np.full(rows, 0.5, np.float32)
        numbers[found] = before + np.float32(ulps * 2.0**-24)
        monkeypatch.setattr(jax.random, "uniform", lambda *_, numbers=numbers, **__: jnp.asarray(numbers))
        actions = np.asarray(Categorical(masked).sample(jax.random.key(0)))
        assert possible[np.arange(rows), actions].all()


@settings(max_examples=100, deadline=None)
@given(p=logits, mask=masks, numbers=st.lists(st.floats(0, 1, width=32, exclude_max=True), min_size=8, max_size=8))
def test_draws_are_the_inverse_of_the_cumulative_distribution(
    p: list[float], mask: list[bool], numbers: list[float]
) -> None:
    x = jnp.where(jnp.array(mask), jnp.array(p, jnp.float32), -jnp.inf)
    probability = jax.nn.softmax(x)
    sums = np.asarray(jnp.cumsum(probability))
    thresholds = np.array(numbers, np.float32) * sums[-1]
    got = distributions._first_above(jnp.asarray(thresholds), jnp.asarray(sums), probability > 0)
    np.testing.assert_array_equal(got, [np.flatnonzero(sums > threshold)[0] for threshold in thresholds])


# ----------------------------------------------------------------------------------------------------------- ratios


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "value", "slope"),
    [
        (100.0, 1.0, 1.2, 0.0),
        (100.0, 0.0, 0.0, 0.0),
        (np.inf, 1.0, 1.2, 0.0),
        (np.inf, 0.0, 0.0, 0.0),
        (1e30, 1.0, 1.2, 0.0),
        (-100.0, 1.0, 0.0, 0.0),
        (-np.inf, 1.0, 0.0, 0.0),
        (-np.inf, -1.0, -0.8, 0.0),
        (30.0, -1.0, -math.exp(30), -math.exp(30)),
    ],
)
def test_clipped_surrogate_of_extreme_ratios(log_ratio: float, advantage: float, value: float, slope: float) -> None:
    got = jax.value_and_grad(lambda x: clipped_surrogate(x, jnp.float32(advantage), 0.2))(jnp.float32(log_ratio))
    np.testing.assert_allclose(got, (value, slope), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("clip", [0.2, math.inf])
@pytest.mark.parametrize("log_ratio", [41.0, 100.0, 1e30, np.inf])
def test_the_way_back_from_a_huge_ratio_of_a_bad_action_stays_open(log_ratio: float, clip: float) -> None:
    """Where the objective has no bound, value and slope are large and finite, and so are their squares."""
    value, slope = jax.value_and_grad(lambda x: clipped_surrogate(x, jnp.float32(-3.0), clip))(jnp.float32(log_ratio))
    assert float(value) < -1e17
    assert float(slope) < -1e17
    assert finite((value**2, slope**2))


@settings(max_examples=200, deadline=None)
@given(x=st.floats(-39, 39, width=32), advantage=st.floats(-10, 10, width=32))
def test_ordinary_ratios_are_bit_for_bit_equal_to_those_without_a_bound(x: float, advantage: float) -> None:
    log_ratio, a = jnp.float32(x), jnp.float32(advantage)
    ratio = jnp.exp(log_ratio)
    np.testing.assert_array_equal(bits(likelihood_ratio(log_ratio)), bits(ratio))
    plain = jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.2) * a)
    np.testing.assert_array_equal(bits(clipped_surrogate(log_ratio, a, 0.2)), bits(plain))
    np.testing.assert_array_equal(bits(approximate_kl(log_ratio)), bits(jnp.expm1(log_ratio) - log_ratio))
    np.testing.assert_array_equal(bits(jax.grad(likelihood_ratio)(log_ratio)), bits(ratio))


@pytest.mark.parametrize("log_ratio", [-100.0, 50.0, 100.0, 1e10])
def test_the_estimate_of_a_divergence_has_finite_values_and_gradients(log_ratio: float) -> None:
    value, slope = jax.value_and_grad(approximate_kl)(jnp.float32(log_ratio))
    assert finite((value, slope))
    assert float(value) > 0
    assert math.copysign(1, float(slope)) == math.copysign(1, log_ratio)


@pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("mask", [[True, False], [1.0, 0.0]])
def test_a_masked_mean_does_not_depend_on_masked_values(bad: float, mask: list[Any]) -> None:
    value, gradient = jax.value_and_grad(lambda x: masked_mean(x, jnp.array(mask)))(jnp.array([3.0, bad]))
    assert float(value) == 3
    np.testing.assert_array_equal(gradient, [1, 0])
    assert float(masked_mean(jnp.array([bad, bad]), jnp.zeros(2, bool))) == 0


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_rows_and_observations_of_weight_zero_may_be_anything(bad: float) -> None:
    features, target, weight = jnp.array([[1.0, 2.0], [1.0, 3.0], [1.0, 5.0]]), jnp.array([1.0, 2.0, 4.0]), jnp.ones(3)
    clean = fit_linear(features, target, weight)
    rows, targets = (jnp.concatenate([x, jnp.full_like(x[:1], bad)]) for x in (features, target))
    np.testing.assert_allclose(fit_linear(rows, targets, jnp.append(weight, 0.0)), clean, rtol=1e-5)
    seen = observe(initial_statistics((2,)), features, weight)
    also = observe(initial_statistics((2,)), rows, jnp.append(weight, 0.0))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), seen, also))


# -------------------------------------------------------------------------------------------------------------- PPO

STEPS, TRIALS = 3, 2
PPO_CONFIG = ppo.Config(episodes=1, trials=TRIALS, minibatches=1, epochs=1, normalise_advantages=False)
PPO = ppo.make(mlp.policy(Box(-1, 1, (2,)), Discrete(3), hidden_sizes=(3,)), Box(-1, 1, (2,)), STEPS, PPO_CONFIG)


def ppo_batch() -> ppo.Batch:
    """Make a minibatch of trials, where the last step of the second trial does not count."""
    shape = (STEPS, TRIALS)
    inputs = Inputs(
        jax.random.normal(jax.random.key(0), (*shape, 2)),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape),
        jnp.zeros(shape),
        jnp.zeros(shape, bool),
    )
    weight = jnp.ones(shape).at[-1, 1].set(0.0)
    return ppo.Batch(
        inputs, jnp.ones(shape, jnp.int32), jnp.full(shape, -1.1), jnp.ones(shape), jnp.zeros(shape), weight
    )


@jax.jit
def ppo_update(batch: ppo.Batch) -> tuple[Any, Any]:
    params = PPO.policy.init(jax.random.key(1))
    params, _, metrics = PPO.update(jax.random.key(2), params, PPO.init(params), batch, jnp.int32(0))
    return params, metrics


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_one_step_with_a_huge_ratio_does_not_destroy_the_parameters(advantage: float) -> None:
    batch = ppo_batch()
    batch = batch._replace(
        log_prob=batch.log_prob.at[0, 0].set(-150.0), advantage=batch.advantage.at[0, 0].set(advantage)
    )
    params, metrics = ppo_update(batch)
    assert finite(params)
    assert finite(metrics)


def test_values_after_the_end_of_a_trial_have_no_effect() -> None:
    batch = ppo_batch()
    poisoned = batch._replace(log_prob=batch.log_prob.at[-1, 1].set(-500.0))
    clean, other = ppo_update(batch), ppo_update(poisoned)
    assert finite(clean)
    jax.tree.map(np.testing.assert_array_equal, clean, other)


def test_advantages_do_not_depend_on_values_after_the_end_of_the_trial() -> None:
    shape = (STEPS,)
    inputs = jax.tree.map(lambda x: x[:, 1], ppo_batch().inputs)
    valid = jnp.array([True, True, False])

    def prepared(beyond: float) -> ppo.Batch:
        padded = jnp.array([1.0, 2.0, beyond])
        nothing = jnp.zeros(shape, bool)
        played = Transition(
            inputs, jnp.zeros(shape, jnp.int32), padded, nothing, nothing, inputs.obs, nothing, valid, ()
        )
        return PPO.prepare(inputs, played, ppo.Record(padded, padded), jnp.int32(0))

    clean = prepared(0.0)
    for beyond in (jnp.inf, jnp.nan):
        jax.tree.map(np.testing.assert_array_equal, clean, prepared(float(beyond)))
    assert finite(clean)


# -------------------------------------------------------------------------------------------------- policy gradients

FAMILY = probe_family()
POLICY = mlp.policy(FAMILY.observation_space, FAMILY.action_space, hidden_sizes=(3,), history=False)


def policy_problem(estimator: problems.Estimator, clip: float | None) -> InnerProblem:
    settings = problems.PolicyGradientSettings(episodes=6, estimator=estimator, clip=clip, baseline="critic")
    return problems.policy_gradient(FAMILY, POLICY, settings)


@pytest.fixture(scope="module")
def rollouts() -> tuple[Any, problems.Rollouts]:
    """Return parameters that differ from those that played, and episodes of different lengths."""
    problem = policy_problem("dice", None)
    params = problem.init(jax.random.key(0))
    batch = jax.jit(problem.support)(jax.random.key(1), params, FAMILY.tasks.sample(jax.random.key(2)))
    assert 0 < int(batch.valid.sum()) < batch.valid.size
    return jax.tree.map(lambda x: x + 0.1, params), batch


@pytest.mark.parametrize("estimator", ["dice", "likelihood_ratio", "log_likelihood"])
def test_inner_and_outer_losses_do_not_depend_on_padding(
    rollouts: tuple[Any, problems.Rollouts], estimator: problems.Estimator
) -> None:
    params, batch = rollouts
    problem = policy_problem(estimator, 0.2)
    assert problem.policy is not None
    divergence, distribution = problem.policy.divergence, problem.policy.distribution

    def everything(params: Any, batch: problems.Rollouts) -> Array:
        moved = divergence(distribution(params, batch), batch)
        return problem.inner_loss(params, batch) + problem.outer_loss(params, batch) + moved

    gradient = jax.jit(jax.value_and_grad(everything))
    # There are ratios of e^200 and more, and distributions that are a point.
    poisoned = batch._replace(
        log_prob=jnp.where(batch.valid, batch.log_prob, -200.0),
        distribution=batch.distribution._replace(
            log_std=jnp.where(batch.valid[..., None], batch.distribution.log_std, 60.0)
        ),
    )
    clean = gradient(params, batch)
    assert finite(clean)
    jax.tree.map(np.testing.assert_array_equal, clean, gradient(params, poisoned))
    # The gradient is finite for a valid step with such a ratio, for both signs of its advantage.
    first = jnp.zeros(batch.valid.shape, bool).at[:, 0].set(True)
    assert finite(gradient(params, batch._replace(log_prob=jnp.where(first, -200.0, batch.log_prob))))


# ------------------------------------------------------------------------------------------------------ other places


def test_reptile_counts_steps_exactly_beyond_2_to_the_24() -> None:
    """The step count is exact, although the float32 mean of five counts of 20,000,001 is not."""
    problem = problems.few_shot(sinusoid.reptile(), mlp.predictor(1, 1, hidden_sizes=(2,)))
    algorithm = reptile.make(problem, reptile.Config(tasks=5, inner_steps=2))
    state = algorithm.init(jax.random.key(0))
    late = jax.tree.map(lambda x: jnp.full_like(x, 20_000_001) if x.dtype == jnp.int32 else x, state.inner)
    after = jax.jit(algorithm.step)(jax.random.key(1), state._replace(inner=late))[0]
    counts = [int(x) for x in jax.tree.leaves(after.inner) if x.dtype == jnp.int32]
    assert counts
    assert set(counts) == {20_000_003}


def test_inner_steps_are_recomputed_for_data_of_width_zero() -> None:
    batches = {"obs": jnp.zeros((5, 3, 0)), "y": jnp.arange(5.0)}
    params = jnp.float32(1.0)

    def loss(params: Array, batch: dict[str, Array]) -> Array:
        return (params - batch["y"]) ** 2 + jnp.sum(batch["obs"])

    rates = step_sizes(0.1, params, 5)
    plain = descend(loss, params, batches, rates)
    np.testing.assert_allclose(descend(loss, params, batches, rates, rematerialise=True), plain, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("log_rate", [-200.0, -100.0, 100.0])
def test_linear_memories_that_never_fade_or_at_once_have_finite_gradients(log_rate: float) -> None:
    policy = linear_recurrence.make(
        Spaces(Box(-1, 1, (2,)), Discrete(2)), linear_recurrence.Settings(layers=1, model_size=4, hidden_size=3)
    )
    params = policy.init(jax.random.key(0))
    params = jax.tree.map_with_path(
        lambda path, x: jnp.full_like(x, log_rate) if "log_rate" in jax.tree_util.keystr(path) else x, params
    )
    inputs = heads.example_inputs(Box(-1, 1, (2,)), Discrete(2))

    def value(params: Any) -> Array:
        return policy.step(params, policy.initial_carry(params), inputs)[1].value

    assert finite(jax.value_and_grad(value)(params))


def test_rates_are_finite_for_the_longest_memories() -> None:
    """Moduli stay between 0 and 1, although float32 rounds to both limits."""
    draw = linear_recurrence._log_minus_log(1 - 1e-9, 1 - 1e-12)
    assert finite(draw(jax.random.key(0), (1000,), jnp.float32))


def test_layers_are_normalised_exactly_where_features_hardly_differ() -> None:
    x = np.asarray(1000 + np.random.default_rng(0).normal(size=(4, 64)), np.float32)
    exact = (x - x.mean(-1, keepdims=True, dtype=np.float64)) / x.std(-1, keepdims=True, dtype=np.float64)
    layer = transformer._Layer(64, 4, True)
    found = layer.init_with_output(jax.random.key(0), jnp.asarray(x), method=lambda m, x: m.normalise_attention(x))[0]
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_images_whose_bounds_are_equal_are_zero() -> None:
    encoder = heads.ObservationEncoder(Box(3.0, 3.0, (5, 5, 2)))
    params = encoder.init(jax.random.key(0), jnp.full((5, 5, 2), 3.0))
    np.testing.assert_array_equal(encoder.apply(params, jnp.full((5, 5, 2), 3.0)), 0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bounds", [(0, 255), (0.0, 1.0), (-0.3, 0.4), (0.0, 0.1)])
def test_images_are_scaled_by_their_bounds(bounds: tuple[float, float]) -> None:
    low, high = bounds
    images = jax.random.uniform(jax.random.key(0), (5, 5, 2), minval=low, maxval=high)
    box, unit = (heads.ObservationEncoder(Box(*ends, (5, 5, 2))) for ends in (bounds, (0.0, 1.0)))
    params = unit.init(jax.random.key(1), images)
    scaled = (images - low) * (1 / (high - low))
    np.testing.assert_array_equal(bits(box.apply(params, images)), bits(unit.apply(params, scaled)))
