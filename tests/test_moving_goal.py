"""A grid whose goal moves: steps, the optimal return compared with a search, and the exact filter with enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import bandits, moving_goal
from metarl_jax.environments.dark_room import MOVES
from metarl_jax.environments.drawing import Frame
from metarl_jax.oracles import moving_goal as oracles
from metarl_jax.types import EnvFamily, Oracle, Transition


def test_the_goal_moves_at_the_rate_of_the_task_to_any_cell() -> None:
    family = moving_goal.make(3, 60)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 4000))
    goals, rate = np.asarray(tasks.goals), np.asarray(tasks.rate)
    np.testing.assert_allclose(np.bincount(goals.reshape(-1), minlength=9) / goals.size, 1 / 9, atol=0.01)
    moved = np.mean(goals[:, 1:] != goals[:, :-1], axis=1)
    # One in nine moves ends in the same cell.
    np.testing.assert_allclose(np.polyfit(rate, moved, 1), [8 / 9, 0.0], atol=0.05)
    assert rate.min() >= 0.01
    assert rate.max() <= 0.05
    shifted = moving_goal.make(3, 60, shifted=True).tasks
    assert float(jax.vmap(shifted.sample)(jax.random.split(jax.random.key(0), 500)).rate.max()) <= 0.05
    assert float(jax.vmap(shifted.sample_heldout)(jax.random.split(jax.random.key(0), 500)).rate.min()) >= 0.06


def test_a_step_moves_within_the_grid_and_pays_at_the_goal_of_its_time() -> None:
    family = moving_goal.make(3, 4)
    task = moving_goal.GoalCourse(jnp.array([5, 4, 1, 5], jnp.int32), jnp.float32(0.05), 4)
    cell, state = family.env.reset(jax.random.key(0), task)
    assert int(cell) == 4
    seen = []
    for action in (1, 1, 3, 1):
        _, state, reward, _, truncated, info = family.env.step(jax.random.key(0), state, jnp.int32(action), task)
        seen.append((int(info["final_observation"]), float(reward), bool(truncated)))
    # Up to (1, 2), where it stays, down to (1, 1), and up again.
    assert seen == [(5, 1.0, False), (5, 0.0, False), (4, 0.0, False), (5, 1.0, True)]


def best_return(goals: np.ndarray, size: int) -> int:
    """Return the largest return from the middle of the grid, by a search over all sequences of actions."""
    best = 0
    for actions in itertools.product(MOVES, repeat=len(goals)):
        place, total = np.array([size // 2, size // 2]), 0
        for move, goal in zip(actions, goals, strict=True):
            place = np.clip(place + move, 0, size - 1)
            total += int(place @ [size, 1] == goal)
        best = max(best, total)
    return best


def played(oracle: Oracle, family: EnvFamily, task: Any, seed: int = 0) -> Transition:
    assert oracle.play is not None
    return jax.jit(oracle.play)(jax.random.key(seed), task)


@pytest.mark.parametrize("goals", [[0, 0, 8, 8, 8], [2, 1, 0, 3, 6], [7, 4, 4, 0, 0], [8, 8, 0, 0, 0]])
def test_the_optimal_return_is_that_of_the_best_sequence_of_actions(goals: list[int]) -> None:
    family = moving_goal.make(3, 5)
    task = moving_goal.GoalCourse(jnp.array(goals, jnp.int32), jnp.float32(0.05), 5)
    assert family.optimal_return is not None
    best = best_return(np.array(goals), 3)
    assert float(family.optimal_return(task)) == best
    assert float(jnp.sum(played(oracles.known_course(family, 1), family, task).reward)) == best


STEPS = ((4, 0.0), (1, 0.0), (0, 1.0), (0, 0.0), (3, 0.0))


def test_the_filter_is_the_sum_over_all_courses_of_the_goal() -> None:
    rates, cells = np.array([0.05, 0.4]), 5
    belief = oracles.prior(rates, cells)
    for cell, reward in STEPS:
        belief = oracles.observe(belief, jnp.int32(cell), jnp.float32(reward), rates)
    joint = np.zeros((2, cells))
    for course in itertools.product(range(cells), repeat=len(STEPS) + 1):
        if any((course[time] == cell) != bool(reward) for time, (cell, reward) in enumerate(STEPS)):
            continue
        for h, rate in enumerate(rates):
            steps = [rate / cells + (1 - rate) * (before == after) for before, after in itertools.pairwise(course)]
            joint[h, course[-1]] += np.prod(steps)
    np.testing.assert_allclose(belief.probability, joint / joint.sum(), rtol=1e-4)


def test_a_belief_without_moves_excludes_cells_and_starts_again() -> None:
    rates = np.zeros(1)
    belief = oracles.prior(rates, 3)
    for cell, expected in ((0, [0, 0.5, 0.5]), (2, [0, 1, 0]), (1, [1 / 3, 1 / 3, 1 / 3])):
        belief = oracles.observe(belief, jnp.int32(cell), jnp.float32(0), rates)
        np.testing.assert_allclose(belief.goal, expected, atol=1e-6)


@pytest.mark.parametrize("make", [oracles.posterior_sampling, oracles.without_moves])
def test_posterior_sampling_stays_at_the_goal_and_leaves_when_it_has_moved(make: Any) -> None:
    family = moving_goal.make(3, 60)
    goals = jnp.where(jnp.arange(60) < 30, 8, 0)
    task = moving_goal.GoalCourse(goals.astype(jnp.int32), jnp.float32(0.02), 60)
    oracle = make(family, 1)
    for seed in range(3):
        steps = played(oracle, family, task, seed)
        reward = np.asarray(steps.reward)
        for half in (reward[:30], reward[30:]):
            assert half.sum() > 0
            first = int(half.argmax())
            assert np.all(half[first:] == 1)
        # A cell without a reward is left at once, or is not the cell that the learner goes to.
        assert reward[30] == 0
        assert int(steps.final_obs[31]) != 8


def test_a_grid_is_drawn() -> None:
    family = moving_goal.make(4, 10)
    task = family.tasks.sample(jax.random.key(0))
    frames = [
        Frame(np.array(cell), (), None if step == 0 else np.array(1), 0, step, 0.0, False)
        for step, cell in enumerate((10, 11))
    ]
    pictures = [family.env.draw(frames[:n], task) for n in (1, 2)]  # pyright: ignore[reportAttributeAccessIssue]
    assert len({picture.size for picture in pictures}) == 1
    assert np.any(np.asarray(pictures[0]) != np.asarray(pictures[1]))


@pytest.mark.parametrize("settings", [{"size": 1}, {"size": 101}, {"horizon": 0}])
def test_settings_out_of_range_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        moving_goal.make(**settings)


@pytest.mark.parametrize("make", [oracles.known_course, oracles.posterior_sampling, oracles.without_moves])
def test_references_refuse_other_families_and_no_episodes(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must be one of environments\.moving_goal, not one of Bandit"):
        make(bandits.bernoulli(), 1)
    with pytest.raises(ValueError, match="episodes"):
        make(moving_goal.make(), 0)
