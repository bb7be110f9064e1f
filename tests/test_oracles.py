"""Oracles compared with exact values, with each other, and with independent simulations of the same policies."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import bandits as bandit_environments
from metarl_jax.environments import tabular_mdp as mdp_environments
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import bandits, tabular_mdp
from metarl_jax.oracles.base import beta, gamma
from metarl_jax.types import EnvFamily, Oracle

pytestmark = pytest.mark.usefixtures("full_optimisation")

# Values of an independent dynamic program, to six decimals: (arms, pulls) -> value.
EXACT = {
    (2, 1): 0.5,
    (2, 2): 13 / 12,
    (2, 3): 1.666667,
    (2, 5): 2.888889,
    (2, 10): 6.021786,
    (2, 20): 12.431265,
    (2, 50): 31.996712,
    (2, 100): 64.918421,
    (3, 1): 0.5,
    (3, 5): 3.006944,
    (3, 10): 6.409643,
    (3, 20): 13.465831,
    (5, 1): 0.5,
    (5, 2): 1.083333,
    (5, 3): 1.708333,
    (5, 5): 3.052083,
    (5, 10): 6.659988,
    (5, 15): 10.431543,
    (5, 20): 14.287338,
    (10, 10): 6.713951,
    (10, 15): 10.615088,
    (50, 10): 6.713951,
}

# Results of NumPy simulations of the same policies: name -> (pulls, arms, mean total reward, standard error).
SIMULATED_BANDITS = [
    ("gittins", 10, 5, 6.665, 0.004),
    ("gittins", 10, 50, 6.716, 0.003),
    ("thompson_sampling", 10, 5, 5.833, 0.003),
    ("optimistic_thompson_sampling", 10, 5, 5.982, 0.003),
    ("greedy_posterior_mean", 10, 5, 6.631, 0.004),
    ("greedy_posterior_mean", 10, 50, 6.712, 0.003),
    ("gittins", 100, 5, 78.60, 0.04),
    ("thompson_sampling", 100, 5, 74.98, 0.04),
    ("optimistic_thompson_sampling", 100, 5, 75.86, 0.04),
    ("greedy_posterior_mean", 100, 5, 75.73, 0.05),
    ("best_arm", 10, 5, 10 * 5 / 6, 0.0),
    ("random", 10, 5, 5.0, 0.0),
]

# Results of NumPy simulations of the same policies for 10 episodes of the random MDPs.
SIMULATED_MDPS = [
    ("random", 100.0, 0.0),
    ("optimal", 218.3, 0.2),
    ("psrl", 133.7, 0.7),
    ("greedy", 150.1, 0.7),
]


def total_rewards(oracle: Oracle, family: EnvFamily, tasks: int, seed: int = 2024) -> np.ndarray:
    """Return the total reward of each trial, ``[tasks]``, by the evaluation that is used for learners."""

    def score(key: jax.Array) -> jax.Array:
        return meta_test(key, oracle.adapt, (), family.tasks, num_tasks=tasks, batch_size=tasks).score

    return np.asarray(jax.jit(score)(jax.random.key(seed)))[0].sum(axis=-1)


def assert_near(rewards: np.ndarray, mean: float, standard_error: float) -> None:
    """Assert that the mean is within three standard errors of the difference."""
    combined = math.hypot(rewards.std() / math.sqrt(len(rewards)), standard_error)
    assert abs(rewards.mean() - mean) < 3 * combined, f"{rewards.mean():.4f} is not {mean} within 3 x {combined:.4f}"


@pytest.mark.parametrize("size", EXACT, ids=str)
def test_bayes_optimal_value(size: tuple[int, int]) -> None:
    assert bandits.bayes_optimal_value(*size) == pytest.approx(EXACT[size], abs=1e-6)


def test_bayes_optimal_value_refuses_too_large_problems() -> None:
    with pytest.raises(ValueError, match="arms must be a positive whole number"):
        bandits.bayes_optimal_value(0, 3)
    with pytest.raises(ValueError, match="transitions"):
        bandits.bayes_optimal_value(5, 100, max_transitions=1000)


def test_gittins_index() -> None:
    assert bandits.gittins_table(10, 1000).arm_index(0, 0, 10) == pytest.approx(0.698, abs=1e-3)
    table = bandits.gittins_table(100, 1000)
    assert table.arm_index(0, 0, 100) == pytest.approx(0.868, abs=1e-3)
    assert table.arm_index(0, 0, 10) == pytest.approx(0.698, abs=1e-3)
    # With one pull left, the index is the posterior mean. With more pulls left, it is never smaller.
    assert table.arm_index(3, 1, 1) == pytest.approx(4 / 6, abs=1e-3)
    indices = [table.arm_index(3, 1, m) for m in range(1, 97)]
    assert indices == sorted(indices)
    # The index x of a new arm with two pulls left obeys 1/2 + 1/2 max(x, 2/3) + 1/2 x = 2 x, so x = 5/9.
    assert table.arm_index(0, 0, 2) == pytest.approx(5 / 9, abs=1e-3)
    with pytest.raises(ValueError, match="at most the 100 pulls"):
        table.arm_index(50, 0, 51)


# The names that reports show.
NAMES = {
    "gittins": "Gittins index",
    "thompson_sampling": "Thompson sampling",
    "optimistic_thompson_sampling": "optimistic Thompson sampling",
    "greedy_posterior_mean": "greedy on posterior means",
    "best_arm": "best arm, task known",
    "random": "random",
}


@pytest.mark.parametrize(("name", "pulls", "arms", "mean", "standard_error"), SIMULATED_BANDITS)
def test_bandit_oracles(name: str, pulls: int, arms: int, mean: float, standard_error: float) -> None:
    family = bandit_environments.bernoulli(arms)
    oracle = getattr(bandits, name)(family, pulls)
    assert oracle.name == NAMES[name]
    assert_near(total_rewards(oracle, family, 4096 if pulls < 100 and arms < 50 else 1024), mean, standard_error)


@pytest.mark.parametrize("name", ["greedy", "epsilon_greedy", "ucb1"])
def test_unreferenced_bandit_oracles_lie_between_random_and_optimal(name: str) -> None:
    family = bandit_environments.bernoulli(5)
    rewards = total_rewards(getattr(bandits, name)(family, 10), family, 4096)
    assert 6.3 < rewards.mean() < EXACT[5, 10] + 3 * rewards.std() / 64


def test_settings_at_their_ends() -> None:
    family = bandit_environments.bernoulli(5)
    assert_near(total_rewards(bandits.epsilon_greedy(family, 10, epsilon=1.0), family, 4096), 5.0, 0.0)
    # The original UCB1 begins with each arm once. Rewards that are almost without noise show which arms were pulled.
    quiet = bandit_environments.gaussian(5, noise=1e-6)
    task = quiet.tasks.sample(jax.random.key(0))
    score = jax.jit(bandits.ucb1(quiet, 5, prior_pulls=0).adapt)(jax.random.key(1), (), task).score
    np.testing.assert_allclose(np.sort(score), np.sort(task.means), atol=1e-4)


@pytest.mark.slow
def test_gaussian_bandits() -> None:
    family = bandit_environments.gaussian(5, noise=0.3)
    names = ("random", "ucb1", "thompson_sampling", "best_arm")
    oracles = {name: getattr(bandits, name)(family, 50) for name in names}

    def totals(key: jax.Array) -> dict[str, jax.Array]:
        key_task, key_adapt = jax.random.split(key)
        task = family.tasks.sample(key_task)
        return {name: oracle.adapt(key_adapt, (), task).score.sum() for name, oracle in oracles.items()}

    rewards = jax.jit(jax.vmap(totals))(jax.random.split(jax.random.key(9), 2048))
    scores = {name: float(x.mean()) for name, x in rewards.items()}
    assert scores.pop("random") == pytest.approx(25, abs=0.5)
    assert scores.pop("best_arm") == pytest.approx(50 * 5 / 6, abs=0.5)
    for score in scores.values():
        assert 30 < score < 41


def test_gaussian_posterior_is_the_normal_cut_to_the_unit_interval() -> None:
    statistics = bandits.Statistics(
        pulls=jnp.array([0.0, 1, 4, 400, 25, 9]), total=jnp.array([0.0, 1.4, -0.8, 402.0, 10.0, 8.4])
    )
    grid = np.linspace(0, 1, 200_001)[1:-1]
    keys = jax.random.split(jax.random.key(5), 20_000)
    samples = np.asarray(jax.jit(jax.vmap(lambda key: bandits._posterior_sample(key, 0.3, statistics)))(keys))
    means = np.asarray(bandits._posterior_mean(0.3, statistics))
    for arm, (pulls, total) in enumerate(zip(*map(np.asarray, statistics), strict=True)):
        log_density = -0.5 * pulls * (grid - total / max(pulls, 1)) ** 2 / 0.3**2
        density = np.exp(log_density - log_density.max())
        density /= density.sum()
        mean = (density * grid).sum()
        spread = math.sqrt((density * (grid - mean) ** 2).sum())
        assert means[arm] == pytest.approx(mean, abs=2e-5)
        assert samples[:, arm].mean() == pytest.approx(mean, abs=4 * spread / math.sqrt(len(samples)) + 1e-6)
        assert samples[:, arm].std() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 7), (2, 1), (5, 3), (120, 40), (400, 3)])
def test_beta_sampler(a: int, b: int) -> None:
    count = 200_000
    sample = np.sort(np.asarray(beta(jax.random.key(a), jnp.full(count, float(a)), jnp.full(count, float(b)))))
    # For integer parameters, the distribution function is a binomial tail.
    n = a + b - 1
    at = sample[:: count // 400].astype(np.float64)
    coefficients = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(a, n + 1)]
    log_x, log_y = np.log(np.clip(at, 1e-300, 1)), np.log1p(-np.clip(at, 0, 1 - 1e-12))
    cdf = sum(np.exp(c + k * log_x + (n - k) * log_y) for k, c in zip(range(a, n + 1), coefficients, strict=True))
    rank = np.arange(0, count, count // 400) / count
    assert np.max(np.abs(cdf - rank)) < 1.95 / math.sqrt(count)  # Kolmogorov-Smirnov, level 0.001


def test_gamma_sampler_moments() -> None:
    shape = jnp.repeat(jnp.array([1.0, 2.0, 30.0]), 100_000).reshape(3, -1)
    sample = np.asarray(gamma(jax.random.key(3), shape))
    for row, mean in zip(sample, (1.0, 2.0, 30.0), strict=True):
        assert row.min() > 0
        assert row.mean() == pytest.approx(mean, abs=4 * math.sqrt(mean / 100_000))
        assert row.var() == pytest.approx(mean, rel=0.05)


@pytest.fixture(scope="module")
def mdp_scores() -> dict[str, np.ndarray]:
    """Return the scores ``[2048, 10]`` of every oracle of the random MDPs, on the same tasks."""
    family = mdp_environments.make()
    names = ("random", "optimal", "psrl", "greedy", "opsrl", "ucrl2", "beb", "epsilon_greedy", "state_gittins")
    oracles = [getattr(tabular_mdp, name)(family, 10) for name in names]

    def scores(key: jax.Array) -> dict[str, jax.Array]:
        key_task, *keys = jax.random.split(key, 1 + len(oracles))
        task = family.tasks.sample(key_task)
        return {name: o.adapt(k, (), task).score for name, o, k in zip(names, oracles, keys, strict=True)}

    result = jax.jit(jax.vmap(scores))(jax.random.split(jax.random.key(2024), 2048))
    return {name: np.asarray(score) for name, score in result.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mean", "standard_error"), SIMULATED_MDPS)
def test_mdp_oracles(mdp_scores: dict[str, np.ndarray], name: str, mean: float, standard_error: float) -> None:
    assert_near(mdp_scores[name].sum(axis=1), mean, standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opsrl", "ucrl2", "beb", "epsilon_greedy", "state_gittins"])
def test_unreferenced_mdp_oracles_learn(mdp_scores: dict[str, np.ndarray], name: str) -> None:
    score = mdp_scores[name]
    assert score.shape == (2048, 10)
    assert score[:, -1].mean() > score[:, 0].mean() + 2
    assert 125 < score.sum(axis=1).mean() < 170


def test_index_offsets_of_normal_arms() -> None:
    """With one pull left, the index is the mean. With two pulls left and no visits, it solves an equation in erf.

    An arm of mean -g is worth zero if -g + E max(0, m) = 0, where m ~ Normal(-g, 1/2) is the mean after a pull.
    """
    offsets = tabular_mdp._index_offsets(8)
    np.testing.assert_allclose(offsets[:8, 1], 0.0, atol=1e-6)
    g, spread = offsets[0, 2], 0.5**0.5
    density = math.exp(-0.5 * (g / spread) ** 2) / math.sqrt(2 * math.pi)
    tail = 0.5 * math.erfc(g / spread / math.sqrt(2))
    assert -g + spread * density - g * tail == pytest.approx(0.0, abs=2e-3)
    # Information is worth more with more pulls left, and less after more visits.
    assert (np.diff(offsets[0, 1:]) > 0).all()
    assert (np.diff([offsets[k, 4] for k in range(5)]) < 0).all()


def test_optimistic_variants_reduce_to_their_plain_forms() -> None:
    family = mdp_environments.make(4, 3, 5)
    task = family.tasks.sample(jax.random.key(0))

    def score(oracle: Oracle) -> np.ndarray:
        return np.asarray(oracle.adapt(jax.random.key(1), (), task).score)

    greedy = score(tabular_mdp.greedy(family, 4))
    np.testing.assert_allclose(score(tabular_mdp.beb(family, 4, bonus=0.0)), greedy, atol=1e-5)
    np.testing.assert_allclose(score(tabular_mdp.ucrl2(family, 4, scale=0.0)), greedy, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "family", "names"),
    [
        (
            bandits,
            bandit_environments.bernoulli(4),
            ["epsilon_greedy", "thompson_sampling", "gittins"],
        ),
        (tabular_mdp, mdp_environments.make(4, 3, 5), ["psrl"]),
    ],
    ids=["bandits", "tabular_mdp"],
)
def test_vmap_agrees_with_a_loop(module: Any, family: EnvFamily, names: list[str]) -> None:
    keys = jax.random.split(jax.random.key(4), 3)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(5), 3))
    for name in names:
        oracle = getattr(module, name)(family, 6)
        adapt = jax.jit(lambda key, task, oracle=oracle: oracle.adapt(key, (), task).score)
        together = jax.jit(jax.vmap(adapt))(keys, tasks)
        assert together.shape == (3, 6)
        for i in range(3):
            alone = adapt(keys[i], jax.tree.map(lambda x, i=i: x[i], tasks))
            np.testing.assert_allclose(alone, together[i], atol=1e-4)


def test_bad_input() -> None:
    bernoulli, gaussian, mdp = (
        bandit_environments.bernoulli(3),
        bandit_environments.gaussian(3),
        mdp_environments.make(3, 2, 2),
    )
    with pytest.raises(ValueError, match="gittins needs Bernoulli rewards"):
        bandits.gittins(gaussian, 10)
    with pytest.raises(ValueError, match="at most 1000"):
        bandits.gittins(bernoulli, 2000)
    with pytest.raises(ValueError, match=r"environments\.bandits, not one of TabularMDP"):
        bandits.thompson_sampling(mdp, 10)
    with pytest.raises(ValueError, match=r"environments\.tabular_mdp, not one of Bandit"):
        tabular_mdp.psrl(bernoulli, 10)
    with pytest.raises(ValueError, match="episodes must be a positive whole number"):
        bandits.ucb1(bernoulli, 0)
    with pytest.raises(ValueError, match="epsilon must be a finite number"):
        bandits.epsilon_greedy(bernoulli, 10, epsilon=1.5)
    with pytest.raises(ValueError, match="samples must be a positive whole number"):
        tabular_mdp.opsrl(mdp, 10, samples=0)
    with pytest.raises(ValueError, match="delta must be a finite number"):
        tabular_mdp.ucrl2(mdp, 10, delta=0.0)
