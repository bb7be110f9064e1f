"""Gaussian beliefs agree with closed forms: products, divergences, and bounds in a model with known evidence."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.ops.gaussians import product, sequential_elbo, standard
from metarl_jax.types import Array


def test_the_divergence_from_the_standard_gaussian_is_its_closed_form() -> None:
    """The divergence is the sum of (mu^2 + sigma^2 - 1) / 2 - log sigma."""
    mean, std = jnp.array([0.3, -1.2, 0.0]), jnp.array([0.5, 2.0, 1.0])
    got = DiagonalGaussian(mean, jnp.log(std)).kl(standard((3,)))
    expected = np.sum((np.asarray(mean) ** 2 + np.asarray(std) ** 2 - 1) / 2 - np.log(np.asarray(std)))
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    assert float(standard((3,)).kl(standard((3,)))) == 0


def test_samples_are_reparameterised() -> None:
    """For every draw, d sample / d mean = 1 and d sample / d log_std = sample - mean."""
    belief, key = DiagonalGaussian(jnp.array([1.0, -2.0]), jnp.array([0.3, -0.7])), jax.random.key(0)
    gradient = jax.jacobian(lambda b: b.sample(key))(belief)
    np.testing.assert_allclose(gradient.mean, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(gradient.log_std, np.diag(belief.sample(key) - belief.mean), atol=1e-6)


def test_the_product_of_equal_gaussians_is_narrower_by_their_number() -> None:
    one = DiagonalGaussian(jnp.array([0.4, -1.0]), jnp.array([0.2, -0.5]))
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (7, 2)), one)
    got = product(many)
    np.testing.assert_allclose(got.mean, one.mean, rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(2 * got.log_std), jnp.exp(2 * one.log_std) / 7, rtol=1e-5)


def test_the_product_is_that_of_the_densities() -> None:
    """Its log-density differs from the sum of the factors' by a constant; factors of weight zero do not count."""
    keys = jax.random.split(jax.random.key(0), 3)
    factors = DiagonalGaussian(jax.random.normal(keys[0], (4, 3)), 0.5 * jax.random.normal(keys[1], (4, 3)))
    weight = jnp.array([1.0, 0.0, 1.0, 2.0])
    points = jax.random.normal(keys[2], (5, 3))

    def difference(x: Array) -> Array:
        return product(factors, weight).log_prob(x) - jnp.sum(weight * factors.log_prob(x))

    constants = np.asarray(jax.vmap(difference)(points))
    np.testing.assert_allclose(constants, constants[0], rtol=1e-4)
    order = jnp.array([2, 3, 1, 0])
    shuffled = product(jax.tree.map(lambda x: x[order], factors), weight[order])
    ordered = product(factors, weight)
    np.testing.assert_allclose(shuffled.mean, ordered.mean, rtol=1e-5)
    np.testing.assert_allclose(shuffled.log_std, ordered.log_std, rtol=1e-5)


class Linear(NamedTuple):
    """A linear-Gaussian trial r_k = a_k m + noise of variance 1, for a latent variable of two independent numbers.

    Each coefficient vector has one entry that is not zero, so that posteriors are diagonal.
    """

    coefficients: np.ndarray
    """``[T, 2]``."""
    rewards: np.ndarray
    """``[T]``."""

    def log_likelihood(self, latent: Array, which: np.ndarray) -> Array:
        """Return the log-likelihoods ``[T']`` of the rewards chosen by ``which [T', T]``, given ``latent [T', 2]``."""
        error = self.rewards - latent @ self.coefficients.T
        return jnp.sum(which * (-0.5 * error**2 - 0.5 * np.log(2 * np.pi)), axis=-1)

    def posterior(self, mean: np.ndarray, variance: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance ``[2]`` of the posterior after the chosen rewards ``[T]``."""
        a = self.coefficients * which[:, None]
        after = 1 / (1 / variance + (a**2).sum(axis=0))
        return after * (mean / variance + a.T @ self.rewards), after

    def log_evidence(self, mean: np.ndarray, variance: np.ndarray, which: np.ndarray) -> float:
        """Return log p(chosen rewards) under a prior, a Gaussian with covariance A V A' + I."""
        a = self.coefficients[which > 0]
        error = self.rewards[which > 0] - a @ mean
        covariance = a @ np.diag(variance) @ a.T + np.eye(len(a))
        _, logdet = np.linalg.slogdet(covariance)
        return float(-0.5 * (error @ np.linalg.solve(covariance, error) + logdet + len(a) * np.log(2 * np.pi)))


STEPS = 5
_RANDOM = np.random.default_rng(0)
TRIAL = Linear(_RANDOM.normal(size=(STEPS, 2)) * np.eye(2)[_RANDOM.integers(0, 2, STEPS)], _RANDOM.normal(size=STEPS))


def bounds(beliefs: list[tuple[np.ndarray, np.ndarray]], which: np.ndarray, samples: int) -> tuple[Array, Array]:
    """Return means and standard errors of ``sequential_elbo``, ``[T]``, over draws of the latent variables."""
    mean, variance = (np.stack(x) for x in zip(*beliefs, strict=True))
    believed = DiagonalGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(0.5 * np.log(variance), jnp.float32))

    def one(key: jax.Array) -> Array:
        log_likelihood = lambda m: TRIAL.log_likelihood(m, which)  # noqa: E731
        return sequential_elbo(key, believed, log_likelihood, standard((2,)))[1]

    drawn = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), samples))
    return jnp.mean(drawn, axis=0), jnp.std(drawn, axis=0) / samples**0.5


def exact_beliefs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the exact posteriors after each reward."""
    beliefs, belief = [], (np.zeros(2), np.ones(2))
    for step in range(STEPS):
        belief = TRIAL.posterior(*belief, np.eye(STEPS)[step])
        beliefs.append(belief)
    return beliefs


def test_with_exact_beliefs_the_bounds_add_up_to_the_log_evidence() -> None:
    """If each belief decodes its own step, log p(r_1) + log p(r_2 | r_1) + ... = log p(r_1, ..., r_T)."""
    mean, error = bounds(exact_beliefs(), np.eye(STEPS), 20_000)
    evidence = TRIAL.log_evidence(np.zeros(2), np.ones(2), np.ones(STEPS))
    assert abs(float(jnp.sum(mean)) - evidence) < 4 * float(jnp.sum(error))


def test_a_bound_that_decodes_the_whole_trial_is_its_evidence_less_a_divergence() -> None:
    """With prior q_{t-1}, log-evidence Z and posterior p, the bound of any belief q_t is log Z - KL(q_t || p)."""
    beliefs = [(mean + 0.3, variance * 0.8) for mean, variance in exact_beliefs()]
    everything = np.ones((STEPS, STEPS))
    mean, error = bounds(beliefs, everything, 20_000)
    before = [(np.zeros(2), np.ones(2)), *beliefs[:-1]]
    for step, (prior, (centre, variance)) in enumerate(zip(before, beliefs, strict=True)):
        evidence = TRIAL.log_evidence(prior[0], prior[1], everything[0])
        goal, spread = TRIAL.posterior(prior[0], prior[1], everything[0])
        divergence = 0.5 * np.sum((variance + (centre - goal) ** 2) / spread - 1 - np.log(variance / spread))
        assert abs(float(mean[step]) - (evidence - divergence)) < 4 * float(error[step])
        assert divergence > 0.01


def test_constant_beliefs_have_no_divergence_between_steps() -> None:
    believed = DiagonalGaussian(jnp.full((4, 2), 0.3), jnp.full((4, 2), -0.2))
    first = DiagonalGaussian(believed.mean[0], believed.log_std[0])

    def log_likelihood(latent: Array) -> Array:
        return jnp.sum(latent, axis=-1)

    expected, bound = sequential_elbo(jax.random.key(0), believed, log_likelihood, first)
    np.testing.assert_array_equal(expected, bound)
    _, weighed = sequential_elbo(jax.random.key(0), believed, log_likelihood, standard((2,)), 0.5)
    np.testing.assert_allclose(expected - weighed, [0.5 * float(first.kl(standard((2,)))), 0, 0, 0], atol=1e-6)


def test_the_bounds_of_some_steps_are_those_among_all() -> None:
    """With tiny variances samples equal the means, so the result does not depend on the key."""
    means = jax.random.normal(jax.random.key(1), (6, 3, 2))
    beliefs, steps = DiagonalGaussian(means, jnp.full((6, 3, 2), -20.0)), jnp.array([4, 0, 3])

    def log_likelihood(latent: Array) -> Array:
        return -jnp.sum(latent**2, axis=-1)

    every = sequential_elbo(jax.random.key(0), beliefs, log_likelihood, standard((3, 2)), 0.1)
    some = sequential_elbo(jax.random.key(0), beliefs, log_likelihood, standard((3, 2)), 0.1, steps)
    for all_steps, chosen in zip(every, some, strict=True):
        np.testing.assert_allclose(chosen, all_steps[steps], rtol=1e-5)
