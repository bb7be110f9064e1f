"""GridNavi: the rewards, the optimal returns, and the oracles compared with exact values."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import bandits, dark_room, gridnavi
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import gridnavi as oracles
from metarl_jax.oracles import known_task
from metarl_jax.types import Oracle

FAMILY = gridnavi.make()
GOALS = gridnavi.goals(5)
STAY, UP, RIGHT, DOWN, LEFT = range(5)


def test_the_reward_is_one_on_the_goal_and_minus_a_tenth_on_other_cells() -> None:
    task = dark_room.RoomParams(jnp.array([[2, 0]]), FAMILY.horizon)
    cell, state = FAMILY.env.reset(jax.random.key(0), task)
    assert int(cell) == 0
    cells, rewards = [], []
    for action in (LEFT, RIGHT, RIGHT, STAY, DOWN, UP, DOWN):
        cell, state, reward, *_ = FAMILY.env.step(jax.random.key(0), state, jnp.int32(action), task)
        cells.append(int(cell))
        rewards.append(float(reward))
    assert cells == [0, 5, 10, 10, 10, 11, 10]
    np.testing.assert_allclose(rewards, [-0.1, -0.1, 1, 1, 1, -0.1, 1], rtol=1e-6)


def test_goals_are_the_21_cells_outside_the_corner() -> None:
    for sample in (FAMILY.tasks.sample, FAMILY.tasks.sample_heldout):
        found = np.asarray(jax.vmap(sample)(jax.random.split(jax.random.key(0), 2100)).goals)[:, 0]
        counts = {goal: int(np.all(found == goal, axis=1).sum()) for goal in GOALS}
        assert len(GOALS) == 21
        assert sum(counts.values()) == 2100
        # The number is binomial with mean 100 and standard deviation 9.8. The tolerance is five standard deviations.
        assert all(abs(count - 100) < 49 for count in counts.values())


def test_the_optimal_return_has_the_expected_mean() -> None:
    """The mean is 11.0714 (PAPERS, 7.1). The nearest goal, reached at step 2, has a return of 14 - 0.1."""
    assert FAMILY.optimal_return is not None
    best = [float(FAMILY.optimal_return(dark_room.RoomParams(jnp.array([goal]), 15))) for goal in GOALS]
    assert np.mean(best) == pytest.approx(11.0714, abs=5e-5)
    assert best[GOALS.index((2, 0))] == pytest.approx(13.9)
    assert best[GOALS.index((4, 4))] == pytest.approx(8 - 0.7)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="size must be at least 3, not 2"):
        gridnavi.make(2)
    with pytest.raises(ValueError, match="horizon must be a positive whole number, not 0"):
        gridnavi.make(3, 0)
    with pytest.raises(ValueError, match=r"one of environments\.gridnavi, not one of Bandit"):
        oracles.bayes_optimal(bandits.bernoulli(2), 2)


def best_value(size: int, horizon: int, episodes: int) -> float:
    """Compute the Bayes-optimal value by recursion over time, cell and possible goals, with all five actions."""
    moves = [(0, 0), *((dx, dy) for dx, dy in itertools.product((-1, 0, 1), repeat=2) if abs(dx) + abs(dy) == 1)]

    @functools.cache
    def value(time: int, cell: tuple[int, int], possible: frozenset[tuple[int, int]]) -> float:
        if time == horizon * episodes:
            return 0.0
        if time % horizon == 0:
            cell = (0, 0)
        outcomes = []
        for dx, dy in moves:
            there = (min(max(cell[0] + dx, 0), size - 1), min(max(cell[1] + dy, 0), size - 1))
            chance = (there in possible) / len(possible)
            total = 0.0
            if chance:
                total += chance * (1 + value(time + 1, there, frozenset([there])))
            if chance < 1:
                total += (1 - chance) * (-0.1 + value(time + 1, there, possible - {there}))
            outcomes.append(total)
        return max(outcomes)

    return value(0, (0, 0), frozenset(gridnavi.goals(size)))


@pytest.mark.parametrize("size", [(3, 3, 1), (3, 3, 3), (3, 5, 2), (3, 8, 1), (4, 4, 2), (4, 5, 1), (4, 7, 1)], ids=str)
def test_the_best_walk_is_that_of_dynamic_programming(size: tuple[int, int, int]) -> None:
    assert oracles.best_walk(*size).value == pytest.approx(best_value(*size), abs=1e-9)


@pytest.mark.parametrize(("episodes", "value"), [(1, 4.000), (2, 15.071), (3, 26.143), (4, 37.214)])
def test_the_bayes_optimal_value(episodes: int, value: float) -> None:
    """The Bayes-optimal value equals that of PAPERS, 7.1."""
    assert oracles.best_walk(5, 15, episodes).value == pytest.approx(value, abs=5e-4)


def by_goal(oracle: Oracle, repetitions: int) -> np.ndarray:
    """Return the scores on every goal, each equally often, ``[goals, repetitions, E]``."""
    keys = jax.random.split(jax.random.key(1), (len(GOALS), repetitions))

    def one(key: jax.Array, goal: jax.Array) -> jax.Array:
        return oracle.adapt(key, (), dark_room.RoomParams(goal[None], FAMILY.horizon)).score

    return np.asarray(jax.jit(jax.vmap(jax.vmap(one, (0, None))))(keys, jnp.array(GOALS)))


def test_bayes_optimal_play_collects_its_value() -> None:
    """The mean over all goals is exact. From the second episode on, returns are optimal (PAPERS, 7.1)."""
    again = by_goal(oracles.bayes_optimal(FAMILY, 4), 2)
    scores = again[:, 0]
    np.testing.assert_allclose(scores.mean(axis=0), [4.0, 11.0714, 11.0714, 11.0714], atol=5e-5)
    assert scores.sum(axis=1).mean() == pytest.approx(oracles.best_walk(5, 15, 4).value, abs=1e-4)
    np.testing.assert_allclose(again, np.broadcast_to(scores[:, None], again.shape), rtol=1e-6)


def first_episode_of_posterior_sampling() -> float:
    """Compute the exact score by enumeration of the goal, the drawn cell and the paths to it over the goal."""

    @functools.cache
    def over(cell: tuple[int, int], drawn: tuple[int, int], goal: tuple[int, int]) -> float:
        if cell == goal:
            return 1.0
        ways = [(cell[0] + 1, cell[1])] * (cell[0] < drawn[0]) + [(cell[0], cell[1] + 1)] * (cell[1] < drawn[1])
        return sum(over(way, drawn, goal) for way in ways) / len(ways) if ways else 0.0

    values = []
    for goal, drawn in itertools.product(GOALS, GOALS):
        chance, steps = over((0, 0), drawn, goal), sum(goal)
        values.append(chance * (16 - steps - 0.1 * (steps - 1)) - (1 - chance) * 1.5)
    return float(np.mean(values))


def test_posterior_sampling_agrees_with_an_independent_simulation() -> None:
    """Scores equal those of PAPERS, 7.1 (standard error at most 0.05), and the exact value of the first episode."""
    scores = by_goal(oracles.posterior_sampling(FAMILY, 8), 300)
    means, deviations = scores.mean(axis=(0, 1)), scores.std(axis=(0, 1))
    errors = np.hypot(deviations / math.sqrt(scores[..., 0].size), 0.05)
    expected = [0.50, 2.25, 3.81, 5.17, 6.38, 7.42, 8.33, 9.11]
    assert np.all(np.abs(means - expected) < 3 * errors), means
    exact = first_episode_of_posterior_sampling()
    # Every goal has the same number of trials, so only the variance within goals remains.
    within = math.sqrt(np.mean(scores[..., 0].var(axis=1)) / scores[..., 0].size)
    assert abs(means[0] - exact) < 3 * within


def test_oracles_are_evaluated_as_learners_are() -> None:
    def regret(oracle: Oracle) -> np.ndarray:
        evaluation = meta_test(
            jax.random.key(3), oracle.adapt, (), FAMILY.tasks, num_tasks=50, optimal_return=FAMILY.optimal_return
        )
        assert evaluation.regret is not None
        return np.asarray(evaluation.regret)[0]

    np.testing.assert_allclose(regret(known_task.optimal(FAMILY, 3)), 0, atol=1e-4)
    best = regret(oracles.bayes_optimal(FAMILY, 3))
    assert np.all(best[:, 0] > -1e-4)
    np.testing.assert_allclose(best[:, 2], best[:, 0], atol=1e-4)


def test_the_posterior_knows_where_an_episodes_last_step_led() -> None:
    """The posterior uses the cell of the last step, although the inputs show the first cell of the next episode."""
    family = gridnavi.make(3, horizon=2)
    task = dark_room.RoomParams(jnp.array([[2, 0]]), family.horizon)
    adaptation = oracles.posterior_sampling(family, 9).adapt(jax.random.key(0), (), task)
    goal = np.arange(9) == 6
    # Two cells are within reach. After the first of nine episodes that reached the goal, all episodes score 0.9.
    first = int(np.argmax(np.asarray(adaptation.score) > 0))
    np.testing.assert_allclose(adaptation.score[first:], 0.9, rtol=1e-6)
    assert np.asarray(adaptation.score)[first] > 0
    np.testing.assert_array_equal(adaptation.learner.possible, goal)


def test_far_goals_are_rare() -> None:
    """A goal is far if x + y >= 5, which is so for 10 of 21 cells; they have a probability of 0.2 together."""
    family = gridnavi.rare_far_goals(far_share=0.2)
    for sample in (family.tasks.sample, family.tasks.sample_heldout):
        found = np.asarray(jax.vmap(sample)(jax.random.split(jax.random.key(0), 5000)).goals)[:, 0]
        for goal in GOALS:
            expected = 5000 * (0.2 / 10 if sum(goal) >= 5 else 0.8 / 11)
            count = int(np.all(found == goal, axis=1).sum())
            # The number is binomial. The tolerance is five standard deviations.
            assert abs(count - expected) < 5 * math.sqrt(expected)
    assert sum(sum(goal) >= 5 for goal in GOALS) == 10
    with pytest.raises(ValueError, match="far_share must be a finite number at least 0 and at most 1, not 2"):
        gridnavi.rare_far_goals(far_share=2)
    with pytest.raises(ValueError, match="the goals of this family are not equally likely"):
        oracles.posterior_sampling(family, 2)
