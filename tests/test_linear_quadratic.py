"""Linear-quadratic plants: the Riccati recursion, posteriors and gains compared with other ways to compute them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from metarl_jax.environments import bandits
from metarl_jax.environments import linear_quadratic as plants
from metarl_jax.environments.drawing import SIZE, Frame
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import linear_quadratic as oracles
from metarl_jax.rollout import trial
from metarl_jax.types import EnvFamily, Inputs, Oracle, Transition

EFFORT, NOISE = 0.1, 0.3


def plant(seed: int, states: int = 3, inputs: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return np.eye(states) + 0.15 * random.normal(size=(states, states)), random.normal(size=(states, inputs))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_controller_of_a_known_plant_minimises_the_cost_over_all_sequences_of_inputs(seed: int) -> None:
    (a, b), horizon = plant(seed), 7
    found = plants.riccati(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), EFFORT, horizon)
    # Without noise, the states are ``free x + forced u``, where u has the inputs of all steps. Least squares find u.
    powers = [np.linalg.matrix_power(a, k) for k in range(horizon + 1)]
    free = np.concatenate(powers[1:])
    forced = np.block(
        [[powers[t - s] @ b if t >= s else np.zeros_like(b) for s in range(horizon)] for t in range(horizon)]
    )
    x = np.random.default_rng(seed + 10).normal(size=3)
    both = np.concatenate([forced, np.sqrt(EFFORT) * np.eye(forced.shape[1])])
    target = np.concatenate([free @ x, np.zeros(forced.shape[1])])
    inputs, squares, *_ = np.linalg.lstsq(both, -target, rcond=None)
    np.testing.assert_allclose(-np.asarray(found.gains[0]) @ x, inputs[:2], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(x @ np.asarray(found.costs[0]) @ x, squares[0] / 10, rtol=1e-4)
    # The cost of other first inputs, with the best later ones.
    excess = np.array([0.3, -0.2])
    rest = np.linalg.lstsq(both[:, 2:], -target - both[:, :2] @ (inputs[:2] + excess), rcond=None)[1][0]
    curvature = np.asarray(found.curvatures[0])
    np.testing.assert_allclose(excess @ curvature @ excess, (rest - squares[0]) / 10, rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_long_horizon_has_the_solution_of_the_algebraic_riccati_equation(seed: int) -> None:
    a, b = plant(seed)
    found = plants.riccati(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), EFFORT, 200)
    after = linalg.solve_discrete_are(a, b, np.eye(3), EFFORT * np.eye(2))
    gain = np.linalg.solve(EFFORT * np.eye(2) + b.T @ after @ b, b.T @ after @ a)
    np.testing.assert_allclose(found.gains[0], gain, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.eye(3) + 10 * np.asarray(found.costs[0]), after, rtol=1e-3, atol=1e-3)


def expected_return(a: np.ndarray, b: np.ndarray, gains: np.ndarray) -> float:
    """Compute the expected return of linear feedback by the second moments of the state."""
    moment, total = np.eye(len(a)) / 3, 0.0
    for gain in gains:
        total -= EFFORT * np.trace(gain @ moment @ gain.T)
        closed = a - b @ gain
        moment = closed @ moment @ closed.T + NOISE**2 * np.eye(len(a))
        total -= np.trace(moment)
    return total / 10


def test_the_optimal_return_is_that_of_the_optimal_controller_and_of_no_other_one() -> None:
    family = plants.make(noise=NOISE, effort=EFFORT)
    assert family.optimal_return is not None
    random = np.random.default_rng(0)
    for seed in range(5):
        task = family.tasks.sample(jax.random.key(seed))
        a, b = np.asarray(task.dynamics, float), np.asarray(task.gains, float)
        gains = np.asarray(plants.riccati(task.dynamics, task.gains, EFFORT, 20).gains, float)
        best = float(family.optimal_return(task))
        np.testing.assert_allclose(expected_return(a, b, gains), best, rtol=1e-4)
        for _ in range(10):
            assert expected_return(a, b, gains + 0.1 * random.normal(size=gains.shape)) < best


def test_the_controller_of_a_known_plant_gets_the_optimal_return() -> None:
    family = plants.make()
    assert family.optimal_return is not None
    # Plants that are easily controlled do not reach the stops.
    task = plants.Plant(jnp.array([[0.95, 0.3], [-0.1, 1.05]]), jnp.array([[0.6, 0.1], [-0.2, -0.8]]), 20)
    oracle = oracles.known_plant(family, 2)
    scores = jax.jit(jax.vmap(lambda key: oracle.adapt(key, (), task).score))(jax.random.split(jax.random.key(1), 3000))
    error = np.asarray(scores).std(axis=0) / np.sqrt(3000)
    assert np.all(np.abs(np.asarray(scores).mean(axis=0) - float(family.optimal_return(task))) < 4 * error)


def test_stops_cap_the_cost_of_very_unstable_plants() -> None:
    family = plants.make()
    assert family.optimal_return is not None
    task = plants.Plant(1.3 * jnp.eye(2), 0.01 * jnp.eye(2), 20)
    oracle = oracles.known_plant(family, 1)
    scores = jax.jit(jax.vmap(lambda key: oracle.adapt(key, (), task).score))(jax.random.split(jax.random.key(1), 100))
    assert float(scores.mean()) > float(family.optimal_return(task))


def test_regrets_are_the_difference_from_the_optimal_return() -> None:
    family = plants.make(horizon=5)
    assert family.optimal_return is not None
    assert family.privileged is not None
    assert family.privileged.training_reward is not None
    regrets, optimal_return = family.privileged.training_reward, family.optimal_return
    task = plants.Plant(jnp.array([[0.95, 0.3], [-0.1, 1.05]]), jnp.array([[0.6, 0.1], [-0.2, -0.8]]), 5)

    def act(key: jax.Array, carry: Any, inputs: Inputs) -> tuple[Any, jax.Array, Any]:
        return carry, jnp.array([-0.5, 0.5]) * inputs.obs + 0.5 * jax.random.normal(key, (2,)), ()

    def difference(key: jax.Array) -> jax.Array:
        steps = trial(key, act, (), family, task, 2)[1]
        return jnp.sum(steps.reward) - 2 * optimal_return(task) - jnp.sum(regrets(task, steps, 0.9))

    found = np.asarray(jax.jit(jax.vmap(difference))(jax.random.split(jax.random.key(0), 5000)))
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(5000)


def test_a_step_follows_the_plant_up_to_its_limits() -> None:
    family = plants.make(noise=NOISE)
    task = plants.Plant(jnp.array([[1.0, 0.5], [0.0, -1.0]]), jnp.array([[2.0, 0.0], [0.0, 0.1]]), 20)
    state = plants.PlantState(jnp.array([1.0, 2.0]), jnp.int32(3))

    def step(key: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, _, reward, _, truncated, info = family.env.step(key, state, action, task)
        return info["final_observation"], reward, truncated

    keys = jax.random.split(jax.random.key(0), 4000)
    after, reward, truncated = jax.vmap(step, (0, None))(keys, jnp.array([-1.0, 9.0]))
    # The second input is clipped to 5.
    np.testing.assert_allclose(after.mean(axis=0), [0.0, -1.5], atol=5 * NOISE / np.sqrt(4000))
    np.testing.assert_allclose(after.std(axis=0), NOISE, rtol=0.06)
    np.testing.assert_allclose(reward, -0.1 * np.sum(np.asarray(after) ** 2, axis=1) - 0.01 * 26, rtol=1e-4)
    assert not bool(jnp.any(truncated))
    stopped, _, _ = step(jax.random.key(0), jnp.array([5.0, 0.0]))
    assert float(stopped[0]) == plants.LIMIT
    last = plants.PlantState(state.position, jnp.int32(19))
    assert bool(family.env.step(jax.random.key(0), last, jnp.zeros(2), task)[4])


def conditioned(family: EnvFamily, steps: Transition, spread: np.ndarray) -> np.ndarray:
    """Compute the posterior mean of [A B] from a trial, by conditioning the joint normal distribution of all states.

    ``spread``, ``[4]``, has the standard deviation of each entry of a row of [A B].
    """
    prior = family.env.prior  # pyright: ignore[reportAttributeAccessIssue]
    mean = np.concatenate([prior.dynamics, prior.gains], axis=1)
    seen = ~np.asarray(steps.truncated)
    regressors = np.concatenate([steps.inputs.obs, np.clip(steps.action, -5, 5)], axis=1)[seen].astype(float)
    after = np.asarray(steps.final_obs, float)[seen]
    # The last step of the trial is not seen either: it is truncated.
    inside = np.all(np.abs(after) < plants.LIMIT, axis=1)
    regressors, after = regressors[inside], after[inside]
    covariance = regressors * spread**2 @ regressors.T + NOISE**2 * np.eye(len(regressors))
    return mean + (np.linalg.solve(covariance, after - regressors @ mean.T).T @ regressors) * spread**2


@pytest.mark.parametrize(
    ("make", "spread"),
    [
        (oracles.certainty_equivalence, np.array([0.1, 0.1, 0.4, 0.4])),
        (oracles.least_squares, np.full(4, oracles.SPREAD)),
    ],
)
def test_the_estimates_of_certainty_equivalence_are_posterior_means(make: Any, spread: np.ndarray) -> None:
    family = plants.make(noise=NOISE, horizon=6, dynamics_spread=0.1, gains_spread=0.4)
    oracle = make(family, 3)
    assert oracle.play is not None
    play, adapt = jax.jit(oracle.play), jax.jit(oracle.adapt)
    for seed in range(3):
        task, key = family.tasks.sample(jax.random.key(seed)), jax.random.key(10 + seed)
        steps, memory = play(key, task), adapt(key, (), task).learner
        expected = conditioned(family, steps, spread)
        np.testing.assert_allclose(memory.belief.mean, expected, rtol=1e-3, atol=1e-3)
        truth = np.concatenate([task.dynamics, task.gains], axis=1)
        prior = conditioned(family, jax.tree.map(lambda x: x[:0], steps), spread)
        assert np.linalg.norm(expected - truth) < np.linalg.norm(prior - truth)
        # The last action is optimal for the posterior mean with one step left.
        mean = jnp.asarray(expected, jnp.float32)
        gain = plants.riccati(mean[:, :2], mean[:, 2:], EFFORT, 1).gains[0]
        np.testing.assert_allclose(steps.action[-1], -gain @ steps.inputs.obs[-1], rtol=1e-2, atol=1e-2)


def test_least_squares_approach_the_controller_of_the_known_plant_with_much_data() -> None:
    family, episodes = plants.make(), 30

    def scores(make: Any) -> np.ndarray:
        oracle = make(family, episodes)
        return np.asarray(
            jax.jit(jax.vmap(lambda key: oracle.adapt(key, (), family.tasks.sample(key)).score))(
                jax.random.split(jax.random.key(2), 100)
            )
        ).mean(axis=0)

    regret = scores(oracles.known_plant) - scores(oracles.least_squares)
    assert regret[0] > 0.5
    assert regret[-10:].mean() < 0.05


@pytest.mark.slow
def test_the_robust_gain_of_plants_with_one_state_is_that_of_a_search() -> None:
    family = plants.make(1, 1, 10, dynamics_spread=0.05, gains_spread=0.1, noise=NOISE, effort=EFFORT)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(3), 400))
    a, b = np.asarray(tasks.dynamics, float), np.asarray(tasks.gains, float)
    gains = np.linspace(0.5, 2.5, 81)
    scores = [
        np.mean([expected_return(*one, np.full((10, 1, 1), gain)) for one in zip(a, b, strict=True)]) for gain in gains
    ]
    found = oracles.robust_gain(family, steps=200)
    assert found.shape == (1, 1)
    # The mean return is flat near its maximum, so gains are compared by their returns.
    achieved = np.interp(found.item(), gains, scores)
    assert max(scores) - achieved < 0.003 * abs(max(scores))
    assert max(scores) - np.interp(0.5, gains, scores) > 0.1 * abs(max(scores))


def mean_score(family: EnvFamily, oracle: Oracle) -> float:
    tested = jax.jit(lambda key: meta_test(key, oracle.adapt, jnp.zeros(1), family.tasks, num_tasks=1000))
    return float(np.asarray(tested(jax.random.key(5)).score).sum(axis=-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("shifted", [False, True])
def test_controllers_are_ordered_by_their_information(shifted: bool) -> None:
    family = plants.make(shifted=shifted)
    makers = (
        oracles.nominal,
        oracles.robust,
        oracles.least_squares,
        oracles.certainty_equivalence,
        oracles.known_plant,
    )
    scores = [mean_score(family, make(family, 3)) for make in makers]
    assert scores == sorted(scores)


def test_shifted_plants_have_less_damping_and_larger_gains() -> None:
    keys = jax.random.split(jax.random.key(0), 2000)
    same, shifted = (jax.vmap(plants.make(shifted=shifted).tasks.sample_heldout)(keys) for shifted in (False, True))
    np.testing.assert_allclose(
        shifted.dynamics - same.dynamics, np.broadcast_to(0.16 * np.eye(2), (2000, 2, 2)), atol=1e-5
    )
    np.testing.assert_allclose(shifted.gains - same.gains, np.broadcast_to(0.8 * np.eye(2), (2000, 2, 2)), atol=1e-5)
    training = jax.vmap(plants.make(shifted=True).tasks.sample)(keys)
    np.testing.assert_array_equal(training.gains, same.gains)
    unstable = np.abs(np.linalg.eigvals(np.asarray(same.dynamics))).max(axis=-1) > 1
    assert 0.25 < unstable.mean() < 0.42


def test_a_plant_is_drawn() -> None:
    family = plants.make(horizon=4)
    task = family.tasks.sample(jax.random.key(0))
    observation, state = family.env.reset(jax.random.key(1), task)
    first = Frame(np.asarray(observation), state, None, 0, 0, 0.0, False)
    later = Frame(np.array([2.0, -1.0]), state, np.array([1.0, 0.5]), 0, 1, -1.0, False)
    pictures = [family.env.draw(frames, task) for frames in ([first], [first, later])]  # pyright: ignore
    assert {picture.size for picture in pictures} == {(SIZE, SIZE)}
    assert np.any(np.asarray(pictures[0]) != np.asarray(pictures[1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"states": 0}, "states"),
        ({"inputs": 3}, r"inputs must be at most states \(2\), not 3"),
        ({"horizon": -1}, "horizon"),
        ({"dynamics_spread": 0.0}, "dynamics_spread"),
        ({"gains_spread": -1.0}, "gains_spread"),
        ({"noise": 0.0}, "noise"),
        ({"effort": float("nan")}, "effort"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plants.make(**settings)


@pytest.mark.parametrize(
    "make",
    [oracles.known_plant, oracles.nominal, oracles.robust, oracles.certainty_equivalence, oracles.least_squares],
)
def test_references_refuse_other_families_and_no_episodes(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must be one of environments\.linear_quadratic, not one of Bandit"):
        make(bandits.bernoulli(), 2)
    with pytest.raises(ValueError, match="episodes"):
        make(plants.make(), 0)
