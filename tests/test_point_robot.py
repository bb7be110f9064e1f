"""Point robots: rewards, moves and terminations computed by hand, and the scores of reference learners."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import point_robot
from metarl_jax.oracles import point_robot as oracles
from metarl_jax.types import EnvFamily, Oracle

NEAR = 1 - 0.1
"""The reward at a distance of 0.1 from the goal, for the reward "near"."""


@pytest.mark.parametrize(
    ("family", "goal", "position", "action", "after", "reward", "ended"),
    [
        # The reward is minus the distance after the move, which is clipped to 0.1 along each axis.
        (point_robot.maml(), (0.3, 0.4), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), -0.5, False),
        (point_robot.maml(), (0.3, 0.0), (0.0, 0.0), (5.0, 0.0), (0.1, 0.0), -0.2, False),
        (point_robot.maml(), (0.3, 0.0), (0.2, 0.0), (0.95, 0.0), (0.295, 0.0), -0.005, True),
        (point_robot.pearl_dense(), (0.6, -0.8), (0.0, 0.1), (0.0, -1.0), (0.0, 0.0), -1.0, False),
        # The reward is the progress, outside |x| + |y| = 0.5 and in the goal's quadrant only.
        (point_robot.promp(), (2.0, 2.0), (2.0, 0.3), (0.0, 1.0), (2.0, 0.5), 0.2, False),
        (point_robot.promp(), (2.0, 2.0), (2.0, 0.5), (0.0, -1.0), (2.0, 0.3), -0.2, False),
        (point_robot.promp(), (2.0, 2.0), (0.1, 0.1), (0.5, 0.5), (0.2, 0.2), 0.0, False),
        (point_robot.promp(), (-2.0, 2.0), (2.0, 0.3), (-1.0, 1.0), (1.8, 0.5), 0.0, False),
        # The reward is 1 - distance near the goal.
        (point_robot.pearl_sparse(), (1.0, 0.0), (0.8, 0.0), (1.0, 0.0), (0.9, 0.0), NEAR, False),
        (point_robot.varibad(), (0.0, 1.0), (0.0, 0.8), (0.0, 1.0), (0.0, 0.9), NEAR, False),
        (point_robot.varibad(), (0.0, 1.0), (0.0, 0.6), (0.0, 1.0), (0.0, 0.7), 0.0, False),
    ],
)
def test_a_move(
    family: EnvFamily,
    goal: tuple[float, float],
    position: tuple[float, float],
    action: tuple[float, float],
    after: tuple[float, float],
    reward: float,
    ended: bool,
) -> None:
    task = point_robot.PointParams(jnp.asarray(goal), family.horizon)
    state = point_robot.PointState(jnp.asarray(position), jnp.int32(3))
    _, _, got, terminated, truncated, info = family.env.step(jax.random.key(0), state, jnp.asarray(action), task)
    np.testing.assert_allclose(info["final_observation"], after, atol=1e-6)
    np.testing.assert_allclose(got, reward, atol=1e-6)
    assert (bool(terminated), bool(truncated)) == (ended, False)
    last = point_robot.PointState(state.position, jnp.int32(family.horizon - 1))
    assert bool(family.env.step(jax.random.key(0), last, jnp.asarray(action), task)[4])


@pytest.mark.parametrize(
    ("family", "radius"),
    [(point_robot.pearl_sparse(), 1.0), (point_robot.varibad(), 1.0), (point_robot.promp(), 8**0.5)],
)
def test_goals_at_a_distance(family: EnvFamily, radius: float) -> None:
    for sample in (family.tasks.sample, family.tasks.sample_heldout, family.tasks.validation):
        goal = jax.vmap(sample)(jax.random.split(jax.random.key(0), 500)).goal
        np.testing.assert_allclose(jnp.linalg.norm(goal, axis=1), radius, rtol=1e-5)
        if radius == 1.0:
            assert float(goal[:, 1].min()) >= -1e-6, "goals are on the upper half"


def test_listed_training_goals_are_drawn_without_replacement() -> None:
    tasks = point_robot.pearl_sparse().tasks
    drawn = tasks.sample_distinct(jax.random.key(0), 200).goal
    keys = jax.random.split(jax.random.key(1), 3000)
    independent = {tuple(goal) for goal in np.asarray(jax.vmap(tasks.sample)(keys).goal).tolist()}
    for some in (drawn[:80], drawn[80:160]):
        assert {tuple(goal) for goal in np.asarray(some).tolist()} == independent
    assert len({tuple(goal) for goal in np.asarray(drawn[160:]).tolist()}) == 40
    unlisted = point_robot.maml().tasks.sample_distinct(jax.random.key(0), 200).goal
    assert len({tuple(goal) for goal in np.asarray(unlisted).tolist()}) == 200


def test_pearl_s_goals_differ_between_splits() -> None:
    tasks, keys = point_robot.pearl_sparse().tasks, jax.random.split(jax.random.key(0), 3000)
    train, heldout, validation = (
        {tuple(goal) for goal in np.asarray(jax.vmap(sample)(keys).goal).tolist()}
        for sample in (tasks.sample, tasks.sample_heldout, tasks.validation)
    )
    assert (len(train), len(heldout), train & heldout) == (80, 20, set())
    assert not validation & (train | heldout)


@pytest.mark.parametrize(("family", "size"), [(point_robot.maml(), 0.5), (point_robot.pearl_dense(), 1.0)])
def test_goals_in_a_square(family: EnvFamily, size: float) -> None:
    goal = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 4000)).goal
    assert 0.99 * size < float(jnp.abs(goal).max()) <= size
    # The mean distance of a uniform coordinate from the centre is half the size. The error of the mean is below 1 %.
    np.testing.assert_allclose(jnp.mean(jnp.abs(goal), axis=0), size / 2, rtol=0.05)


def test_best_play_of_known_goals() -> None:
    """The optimum equals hand computations for two goals, and on average an independent simulation, about -0.51."""
    family = point_robot.maml()
    assert family.optimal_return is not None
    for goal, expected in (((0.3, 0.0), -(0.2 + 0.1)), ((0.25, 0.1), -(0.15 + 0.05))):
        best = family.optimal_return(point_robot.PointParams(jnp.asarray(goal), 100))
        np.testing.assert_allclose(best, expected, atol=1e-6)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(jnp.mean(jax.vmap(family.optimal_return)(tasks)), -0.5, atol=0.03)


# -------------------------------------------------------------------------------------------------- reference learners


def test_the_return_of_goal_known_is_the_optimal_return() -> None:
    """The score of the learner that knows the goal equals the optimal return, where the latter is known exactly."""
    for family in (point_robot.maml(), point_robot.pearl_sparse(), point_robot.varibad()):
        task = family.tasks.sample(jax.random.key(0))
        assert family.optimal_return is not None
        score = jax.jit(oracles.goal_known(family, 2).adapt)(jax.random.key(1), (), task).score
        # Two roundings of a position on the edge of the rewarded circle may differ.
        np.testing.assert_allclose(score, family.optimal_return(task), rtol=1e-3, atol=0.05)


def met(oracle: Callable[..., Oracle], number: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the goal was met in each of 8 episodes on held-out tasks, and the share of the optimal return."""
    family = point_robot.pearl_sparse()
    keys = jax.random.split(jax.random.key(0), (2, number))
    tasks = jax.vmap(family.tasks.sample_heldout)(keys[0])
    scores = np.asarray(jax.jit(jax.vmap(oracle(family, 8).adapt, (0, None, 0)))(keys[1], (), tasks).score)
    best = np.asarray(jax.vmap(family.optimal_return)(tasks))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return scores > 0, scores / best[:, None]


def simulated(infers: bool, number: int = 4000) -> np.ndarray:
    """Simulate in NumPy whether the goal was met by the end of each of 8 episodes, with one draw per episode.

    A table holds which goals each path meets, so the simulation shares no memory and no arithmetic with the oracle.
    """
    random, half = np.random.default_rng(1), np.linspace(0, np.pi, 400)
    heldout = np.linspace(0, np.pi, 100)[np.random.default_rng(0).permutation(100)[80:]]
    aims, goals = (np.stack([np.cos(angle), np.sin(angle)], axis=-1) for angle in (half, heldout))
    # Position t of each path is at most t steps of 0.1 along each axis from the origin.
    paths = np.clip(aims[:, None], *(sign * 0.1 * np.arange(1, 21)[:, None] for sign in (-1, 1)))
    meets, excludes = (
        (np.linalg.norm(paths[:, None] - places[:, None], axis=-1) <= 0.2).any(axis=-1) for places in (goals, aims)
    )
    found = np.zeros((number, 8), bool)
    for trial in range(number):
        goal, possible = random.integers(len(goals)), np.ones(len(aims), bool)
        for episode in range(8):
            aim = random.choice(np.flatnonzero(possible))
            if meets[aim, goal]:
                found[trial, episode:] = True
                break
            possible &= ~(infers & excludes[aim])
    return found


@pytest.mark.parametrize(("oracle", "infers"), [(oracles.prior_sampling, False), (oracles.posterior_sampling, True)])
def test_one_draw_per_episode_meets_the_share_of_goals_of_a_simulation(
    oracle: Callable[..., Oracle], infers: bool
) -> None:
    found = np.maximum.accumulate(met(oracle)[0], axis=1).mean(axis=0)
    # Five standard errors of the difference of two means, over 2,000 and 4,000 trials.
    np.testing.assert_allclose(found, simulated(infers).mean(axis=0), atol=5 * np.sqrt(0.25 / 2000 + 0.25 / 4000))


def test_a_new_draw_within_an_episode_finds_the_goal_sooner() -> None:
    found, share = met(oracles.posterior_sampling_within_episodes, 400)
    # A goal that was found is found in every later episode, because one visit determines it.
    assert np.all(found[:, 1:] >= found[:, :-1])
    assert found[:, 0].mean() < 0.8
    # An independent simulation of this policy met 97 % of the goals within five episodes.
    assert found[:, 4].mean() == pytest.approx(0.97, abs=0.03)
    assert share[found[:, 5], -1].mean() > 0.9


def test_point_robot_oracles_refuse_unsupported_arguments() -> None:
    with pytest.raises(ValueError, match='reward is "distance" or "near"'):
        oracles.goal_known(point_robot.promp(), 2)
    with pytest.raises(ValueError, match='sampling of goals needs a point robot whose reward is "near"'):
        oracles.posterior_sampling(point_robot.maml(), 2)
    with pytest.raises(ValueError, match="episodes"):
        oracles.goal_known(point_robot.maml(), 0)
    with pytest.raises(ValueError, match="goals"):
        oracles.posterior_sampling(point_robot.varibad(), 2, goals=-1)
