"""Running statistics agree with NumPy's statistics of all data, and policies use them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import ppo
from metarl_jax.algorithms import rl2
from metarl_jax.environments import point_robot
from metarl_jax.networks import recurrent
from metarl_jax.ops.running_statistics import initial_statistics, normalise, observe
from metarl_jax.types import Discrete, Inputs, Spaces


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (0.01, -3.0), (50.0, 1000.0)])
def test_parts_add_up_to_the_whole(scale: float, shift: float) -> None:
    random = np.random.default_rng(0)
    parts = [scale * random.normal(size=(7, size, 3)) * (1, 2, 3) + shift * np.arange(3) for size in (2, 5, 1, 8)]
    weights = [random.integers(0, 2, part.shape[:2]) for part in parts]
    statistics = initial_statistics((3,))
    for part, weight in zip(parts, weights, strict=True):
        statistics = observe(statistics, jnp.asarray(part, jnp.float32), jnp.asarray(weight, jnp.float32))
    counted = np.concatenate([part[weight > 0] for part, weight in zip(parts, weights, strict=True)])
    assert statistics.number == len(counted)
    np.testing.assert_allclose(statistics.mean, counted.mean(axis=0), rtol=1e-5, atol=1e-5 * scale)
    # The numbers are rounded to float32 first.
    rounding = 1e-4 + 10 * abs(shift) / scale * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(statistics.variance, counted.var(axis=0), rtol=rounding)


def test_values_of_weight_zero_have_no_effect() -> None:
    before = observe(initial_statistics((2,)), jnp.ones((3, 2)) * jnp.arange(3.0)[:, None], jnp.ones(3))
    after = observe(before, jnp.full((4, 2), 1e3), jnp.zeros(4))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), before, after))


def test_numbers_are_cut_off_far_from_the_mean() -> None:
    seen = observe(initial_statistics(()), jnp.array([1.0, 3.0]), jnp.ones(2))
    np.testing.assert_allclose(normalise(seen, jnp.array([2.0, 3.0, 100.0, -100.0]), 4.0), [0, 1, 4, -4], atol=1e-6)


@pytest.mark.slow
def test_statistics_cover_all_observations_and_have_no_gradient() -> None:
    family = point_robot.maml()
    plain = recurrent.make(family, recurrent.Settings(hidden_size=8, embedding_size=8))
    settings = {"episodes": 1, "trials": 8, "epochs": 2, "minibatches": 2, "normalise_observations": True}
    algorithm = rl2.make(family, plain, rl2.Config(**settings))
    start = algorithm.init(jax.random.key(0))
    once, _ = jax.jit(algorithm.step)(jax.random.key(1), start)
    twice, _ = jax.jit(algorithm.step)(jax.random.key(2), once)
    assert start.params.seen.number == 0
    assert once.params.seen.number == 8 * family.horizon
    assert twice.params.seen.number == 2 * 8 * family.horizon
    # Observations are unscaled until the second iteration.
    without = rl2.make(family, plain, rl2.Config(**{**settings, "normalise_observations": False}))
    same, _ = jax.jit(without.step)(jax.random.key(1), without.init(jax.random.key(0)))
    for ours, theirs in zip(jax.tree.leaves(once.params.network), jax.tree.leaves(same.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)

    # The policy is the plain policy on scaled observations; ``step`` agrees with ``unroll``.
    policy = ppo.normalised(plain, family.observation_space)
    obs = 5 * jax.random.normal(jax.random.key(3), (6, 2))
    zeros = jnp.zeros(6)
    inputs = Inputs(obs, jnp.zeros((6, 2)), zeros, zeros, jnp.arange(6) == 0)
    scaled = inputs._replace(obs=normalise(once.params.seen, obs, ppo.FARTHEST))
    carry = policy.initial_carry(once.params)
    outputs = policy.unroll(once.params, carry, inputs)[1]
    expected = plain.unroll(once.params.network, carry, scaled)[1]
    np.testing.assert_allclose(outputs.value, expected.value, atol=1e-6)
    stepped = jax.lax.scan(lambda carry, x: policy.step(once.params, carry, x), carry, inputs)[1]
    np.testing.assert_allclose(outputs.value, stepped.value, atol=1e-5)

    def value(params: ppo.Normalised) -> jax.Array:
        return jnp.sum(policy.unroll(params, carry, inputs)[1].value)

    gradient = jax.grad(value)(once.params)
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradient.seen))
    assert any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient.network))


def test_only_real_numbers_are_normalised() -> None:
    policy = recurrent.make(Spaces(Discrete(4), Discrete(2)), recurrent.Settings(hidden_size=8))
    with pytest.raises(ValueError, match=r"normalise_observations is for .* real numbers, not Discrete\(n=4\)"):
        ppo.normalised(policy, Discrete(4))
