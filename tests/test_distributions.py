"""Comparison of distributions with closed forms, finite differences and counted frequencies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from metarl_jax.ops.distributions import Categorical, DiagonalGaussian, SquashedGaussian

DRAWS = 100_000


def logits(size: int, seed: int = 0) -> jax.Array:
    return 1.5 * jax.random.normal(jax.random.key(seed), (size,))


def probabilities(size: int, seed: int = 0) -> np.ndarray:
    weights = np.exp(np.asarray(logits(size, seed), np.float64))
    return weights / weights.sum()


@pytest.mark.parametrize("size", [2, 5, 50])
def test_categorical_samples_in_proportion(size: int) -> None:
    distribution = Categorical(logits(size))
    actions = np.asarray(jax.vmap(distribution.sample)(jax.random.split(jax.random.key(1), DRAWS)))
    assert actions.dtype == np.int32
    assert actions.min() >= 0
    assert actions.max() < size
    expected = DRAWS * probabilities(size)
    chi_square = float(np.sum((np.bincount(actions, minlength=size) - expected) ** 2 / expected))
    freedom = size - 1
    # Chi-square has the mean `freedom` and twice this variance. The bound is five standard deviations and its skew.
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom) + 10


def test_categorical_never_draws_actions_of_probability_zero() -> None:
    distribution = Categorical(jnp.array([-jnp.inf, 0.0, -jnp.inf, 0.0, -jnp.inf]))
    actions = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(0), 20_000))
    assert set(np.unique(np.asarray(actions))) == {1, 3}


def test_categorical_sampling_of_a_batch_has_one_draw_each() -> None:
    distribution = Categorical(jnp.zeros((1000, 4)))
    actions = np.asarray(distribution.sample(jax.random.key(0)))
    assert actions.shape == (1000,)
    assert len(np.unique(actions)) == 4


@pytest.mark.parametrize("size", [2, 5, 50])
def test_categorical_closed_forms(size: int) -> None:
    p, q = probabilities(size, 0), probabilities(size, 1)
    distribution, other = Categorical(logits(size, 0)), Categorical(logits(size, 1))
    np.testing.assert_allclose(jax.vmap(distribution.log_prob)(jnp.arange(size)), np.log(p), atol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), -np.sum(p * np.log(p)), rtol=1e-5)
    np.testing.assert_allclose(distribution.kl(other), np.sum(p * np.log(p / q)), rtol=1e-4)
    np.testing.assert_allclose(distribution.kl(distribution), 0, atol=1e-6)
    assert int(distribution.mode()) == int(np.argmax(p))


def test_categorical_score_is_one_hot_minus_probabilities() -> None:
    gradient = jax.grad(lambda x: Categorical(x).log_prob(jnp.int32(2)))(logits(5))
    np.testing.assert_allclose(gradient, np.eye(5)[2] - probabilities(5), atol=1e-6)


def test_categorical_gradients_match_finite_differences() -> None:
    def value(x: jax.Array) -> jax.Array:
        distribution = Categorical(x)
        return distribution.entropy() + distribution.kl(Categorical(logits(5, 1)))

    check_grads(value, (logits(5),), order=2, modes=("rev",), atol=2e-2, rtol=2e-2)


def test_gaussian_samples_have_its_moments() -> None:
    mean, log_std = jnp.array([1.0, -2.0]), jnp.array([0.3, -1.0])
    distribution = DiagonalGaussian(mean, log_std)
    draws = np.asarray(jax.vmap(distribution.sample)(jax.random.split(jax.random.key(0), DRAWS)))
    std = np.exp(np.asarray(log_std))
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * std.max() / np.sqrt(DRAWS))
    np.testing.assert_allclose(draws.std(0), std, rtol=5 / np.sqrt(2 * DRAWS))
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / np.sqrt(DRAWS)
    np.testing.assert_array_equal(distribution.mode(), mean)


def test_gaussian_closed_forms() -> None:
    mean, log_std = np.array([0.5, -1.0, 2.0]), np.array([0.1, -0.7, 0.4])
    other_mean, other_log_std = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.2, -0.3])
    action = np.array([1.0, -1.5, 0.0])
    distribution = DiagonalGaussian(jnp.array(mean), jnp.array(log_std))
    other = DiagonalGaussian(jnp.array(other_mean), jnp.array(other_log_std))
    variance, other_variance = np.exp(2 * log_std), np.exp(2 * other_log_std)
    log_density = np.sum(-0.5 * np.log(2 * np.pi * variance) - (action - mean) ** 2 / (2 * variance))
    np.testing.assert_allclose(distribution.log_prob(jnp.array(action)), log_density, rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), 0.5 * np.sum(np.log(2 * np.pi * np.e * variance)), rtol=1e-5)
    divergence = np.sum(other_log_std - log_std + (variance + (mean - other_mean) ** 2) / (2 * other_variance) - 0.5)
    np.testing.assert_allclose(distribution.kl(other), divergence, rtol=1e-5)
    np.testing.assert_allclose(distribution.kl(distribution), 0, atol=1e-6)


def test_gaussian_gradients_match_finite_differences() -> None:
    def value(mean: jax.Array, log_std: jax.Array) -> jax.Array:
        distribution = DiagonalGaussian(mean, log_std)
        other = DiagonalGaussian(jnp.array([0.0, 1.0]), jnp.array([0.2, -0.2]))
        return distribution.log_prob(jnp.array([0.3, 0.8])) + distribution.entropy() + distribution.kl(other)

    arguments = (jnp.array([0.5, -0.2]), jnp.array([0.1, -0.3]))
    check_grads(value, arguments, order=2, modes=("rev",), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_expected_score_is_zero(kind: str) -> None:
    if kind == "categorical":
        p = probabilities(5)
        scores = jax.vmap(lambda a: jax.grad(lambda x: Categorical(x).log_prob(a))(logits(5)))(jnp.arange(5))
        np.testing.assert_allclose(p @ np.asarray(scores), 0, atol=1e-6)
    else:
        mean, log_std = jnp.array([0.7]), jnp.array([-0.4])
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)  # integrates polynomials exactly
        actions = mean + jnp.exp(log_std) * jnp.array(nodes)[:, None]
        scores = jax.vmap(
            lambda a: jax.grad(lambda m, s: DiagonalGaussian(m, s).log_prob(a), argnums=(0, 1))(mean, log_std)
        )(actions)
        for score in scores:
            np.testing.assert_allclose(weights @ np.asarray(score), 0, atol=1e-4)


# ------------------------------------------------------------------------------------------- squashed Gaussians


def squashed() -> SquashedGaussian:
    bounds = jnp.array([-2.0, 0.0]), jnp.array([1.0, 0.5])
    return SquashedGaussian(jnp.array([0.3, -0.8]), jnp.array([-0.5, -0.7]), *bounds)


def test_squashed_samples_lie_within_their_bounds_and_their_density_is_one_in_all() -> None:
    distribution = squashed()
    draws, log_prob = jax.vmap(distribution.sample_with_log_prob)(jax.random.split(jax.random.key(0), 2000))
    assert bool(jnp.all((draws > distribution.low) & (draws < distribution.high)))
    np.testing.assert_allclose(jax.vmap(distribution.log_prob)(draws), log_prob, atol=2e-3)
    bounds = zip(np.asarray(distribution.low), np.asarray(distribution.high), strict=True)
    inside = [np.linspace(low, high, 402)[1:-1] for low, high in bounds]
    grid = jnp.asarray(np.stack(np.meshgrid(*inside, indexing="ij"), axis=-1), jnp.float32)
    cell = float(np.prod([points[1] - points[0] for points in inside]))
    assert float(jnp.sum(jnp.exp(distribution.log_prob(grid)))) * cell == pytest.approx(1, abs=5e-3)


def test_squashed_densities_are_finite_where_the_tangent_is_flat() -> None:
    """Return the log density of tanh(x): that of x minus log(1 - tanh(x)^2) = -2 log cosh x."""
    x = jnp.array([12.0])
    certain = SquashedGaussian(x, jnp.array([-20.0]), jnp.array([-1.0]), jnp.array([1.0]))
    action, log_prob = certain.sample_with_log_prob(jax.random.key(0))
    # They agree up to rounding, which depends on the compilation.
    assert float(action[0]) == pytest.approx(1, abs=1e-6)
    normal = DiagonalGaussian(x, jnp.array([-20.0]))
    expected = float(normal.log_prob(normal.sample(jax.random.key(0)))) + 2 * (12 - np.log(2))
    assert float(log_prob) == pytest.approx(expected, rel=1e-5)
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda m: certain._replace(mean=m).log_prob(action))(x))))


def test_the_squashed_middle_is_where_half_of_the_draws_lie_below() -> None:
    distribution = squashed()
    draws = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(1), DRAWS))
    np.testing.assert_allclose(jnp.mean(draws < distribution.mode(), axis=0), 0.5, atol=0.01)
