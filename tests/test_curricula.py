"""Curricula: probabilities of replay, the buffer, exact regret, and what the algorithm is trained on."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from probes import probe_family

from metarl_jax import batching, problems, training
from metarl_jax.algorithms import pearl, promp, rl2, varibad
from metarl_jax.curricula import Buffer, Config, State, insert, prioritised, replay_probabilities
from metarl_jax.environments import bandits, gridnavi
from metarl_jax.evaluation import meta_test
from metarl_jax.networks import belief, context, mlp, recurrent
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.types import Adaptation, Algorithm, Array, EnvFamily, Key, Metrics, RunState, Task, TaskDistribution


class Learned(NamedTuple):
    """The state of the toy learner."""

    seen: Array
    """``[10]``: how often each task was trained on."""
    skill: Array


# Ten tasks, 0 to 9. No function of the environment is called.
TOY = bandits.bernoulli(2)._replace(
    tasks=TaskDistribution(
        lambda key: jax.random.randint(key, (), 0, 10, jnp.int32), lambda key: jax.random.randint(key, (), 0, 10)
    ),
    optimal_return=lambda task: 10.0 + 0 * task,
)
PLR = Config(buffer_size=8, new_tasks=3, rescored_tasks=4)


def returns(task: Array, skill: Array) -> Array:
    """Return the scores of the toy learner in two episodes."""
    return jnp.stack([-1.0 * task, 1.0 - task]) + skill


def toy(family: EnvFamily, draws: int = 8) -> Algorithm:
    """Make a learner that counts its training tasks, and that gets better by 0.25 in each meta-iteration."""

    def step(key: Key, state: Learned) -> tuple[Learned, Metrics]:
        tasks = batching.map_tasks(family.tasks.sample)(jax.random.split(key, draws))
        return Learned(state.seen.at[tasks].add(1), state.skill + 0.25), {"mean_task": jnp.mean(1.0 * tasks)}

    return Algorithm(
        init=lambda key: Learned(jnp.zeros(10, jnp.int32), jax.random.uniform(key)),
        step=step,
        adapt=lambda key, state, task: Adaptation(returns(task, state.skill)),
    )


def with_tasks(family: EnvFamily, first: int | Array) -> EnvFamily:
    """Return the toy family with training tasks from ``first`` to 9."""
    tasks = family.tasks._replace(sample=lambda key: jax.random.randint(key, (), first, 10, jnp.int32))
    return family._replace(tasks=tasks)


ALGORITHM = prioritised(toy, TOY, PLR)


@functools.cache
def start() -> State:
    """Return the state of the toy learner, with a curriculum, before the first meta-iteration."""
    return jax.jit(ALGORITHM.init)(jax.random.key(0))


@functools.partial(jax.jit, static_argnames="draws")
def stepped(
    key: Key,
    state: State,
    *,
    replay: float | Array,
    first: int | Array = 0,
    temperature: float | Array = 1.0,
    staleness: float | Array = 0.1,
    draws: int = 8,
) -> tuple[State, Metrics]:
    """Do one meta-iteration of the toy learner, in which new tasks are from ``first`` to 9."""
    settings = {"replay_probability": replay, "temperature": temperature, "staleness_coefficient": staleness}
    algorithm = prioritised(
        lambda family: toy(family, draws), with_tasks(TOY, first), Config(**{**vars(PLR), **settings})
    )
    return algorithm.step(key, state)


# ------------------------------------------------------------------------------------------------------- the formulas


def by_hand(score: list[float], staleness: list[int], beta: float, rho: float) -> list[float]:
    """Compute the probabilities of Jiang et al. (2021), equations 1 to 3, one task after another."""
    n = len(score)
    rank = [1 + sum((-other, j) < (-mine, i) for j, other in enumerate(score)) for i, mine in enumerate(score)]
    weights = [(1 / r) ** (1 / beta) for r in rank]
    by_score = [w / sum(weights) for w in weights]
    by_age = [age / sum(staleness) for age in staleness] if sum(staleness) else [1 / n] * n
    return [(1 - rho) * a + rho * b for a, b in zip(by_score, by_age, strict=True)]


@pytest.mark.parametrize(
    ("score", "staleness", "beta", "rho"),
    [
        ([0.3, -1.0, 2.0, 0.5], [0, 1, 4, 5], 1.0, 0.1),
        ([0.3, -1.0, 2.0, 0.5], [0, 1, 4, 5], 0.1, 0.3),
        ([1.0, 1.0, 0.0], [0, 0, 0], 0.5, 0.2),
        ([1.0, 2.0, 0.0], [3, 0, 0], 0.5, 1.0),
    ],
)
def test_probabilities_of_replay_are_those_of_the_paper(
    score: list[float], staleness: list[int], beta: float, rho: float
) -> None:
    got = replay_probabilities(jnp.array(score), jnp.array(staleness), beta, rho)
    np.testing.assert_allclose(got, by_hand(score, staleness, beta, rho), rtol=1e-5, atol=1e-7)
    assert float(jnp.sum(got)) == pytest.approx(1, abs=1e-6)


def test_a_new_task_replaces_the_lowest_score_only_if_its_own_is_higher() -> None:
    def made(scores: list[float], task: int) -> Buffer:
        score = jnp.array(scores)
        tasks = task + jnp.arange(len(scores), dtype=jnp.int32)
        return Buffer((tasks, jnp.stack([tasks, tasks], 1)), score, score + 0.5, tasks)

    old, new = made([3.0, 1.0, 5.0, 2.0], 0), made([2.0, 4.0, 1.5], 10)
    got = insert(old, new)
    # 4 replaces 1. The next new score, 2, does not replace the equal one.
    np.testing.assert_array_equal(got.score, [3, 4, 5, 2])
    np.testing.assert_array_equal(got.task[0], [0, 11, 2, 3])
    np.testing.assert_array_equal(got.task[1], np.stack([got.task[0]] * 2, 1))
    np.testing.assert_array_equal(got.highest, got.score + 0.5)
    np.testing.assert_array_equal(got.scored_at, got.task[0])
    # One after another gives the same scores.
    random = np.random.default_rng(0)
    inserted = jax.jit(insert)
    for _ in range(20):
        old, new = (random.integers(0, 9, n).astype(float).tolist() for n in (6, 4))
        kept = list(old)
        for score in new:
            if score > min(kept):
                kept[kept.index(min(kept))] = score
        assert sorted(np.asarray(inserted(made(old, 0), made(new, 10)).score).tolist()) == sorted(kept)


# ---------------------------------------------------------------------------------------------------------- the scores


def staying(family: EnvFamily) -> Algorithm:
    """Make a learner that goes one cell to the right, twice in an episode, and then stays."""

    def adapt(key: Key, state: Any, task: Task) -> Adaptation:
        def act(key: Key, time: Array, inputs: Any) -> tuple[Array, Array, tuple[()]]:
            del key, inputs
            return time + 1, jnp.where(time % family.horizon < 2, 2, 0).astype(jnp.int32), ()

        return Adaptation(episode_returns(trial(key, act, jnp.int32(0), family, task, 2)[1], 2))

    def step(key: Key, state: Array) -> tuple[Array, Metrics]:
        return state, {"goal": jnp.sum(1.0 * family.tasks.sample(key).goals)}

    return Algorithm(lambda key: jnp.float32(0), step, adapt)


GRID = gridnavi.make(3, 6)
STAYING = prioritised(staying, GRID, Config(buffer_size=40, new_tasks=1, rescored_tasks=1))


@pytest.fixture(scope="module")
def scored() -> State:
    return jax.jit(STAYING.init)(jax.random.key(0))


def test_regret_is_the_exact_one(scored: State) -> None:
    """The learner reaches the goal (2, 0) by a shortest path, and no other goal.

    In an episode of 6 steps a goal at distance d is worth 7 - d rewards of 1 and d - 1 rewards of -0.1. The learner has
    -0.6 where it does not reach the goal.
    """
    buffer = scored.buffer
    expected = {(0, 2): 5.5, (2, 0): 0.0, (1, 2): 4.4, (2, 1): 4.4, (2, 2): 3.3}
    goals = [tuple(goal) for goal in np.asarray(buffer.task.goals)[:, 0].tolist()]
    assert set(goals) == set(expected)
    np.testing.assert_allclose(buffer.score, [expected[goal] for goal in goals], atol=1e-5)
    np.testing.assert_allclose(buffer.highest, [4.9 if goal == (2, 0) else -0.6 for goal in goals], atol=1e-5)


def test_regret_is_that_of_evaluation(scored: State) -> None:
    """The score of a task is its cumulative regret over a trial (``meta_test``), divided by the number of episodes."""

    def regret(task: Task) -> Array:
        states = jax.tree.map(lambda x: x[None], scored)
        tasks = TaskDistribution(lambda key: task, lambda key: task)
        best = GRID.optimal_return
        found = meta_test(jax.random.key(1), STAYING.adapt, states, tasks, num_tasks=1, optimal_return=best).regret
        assert found is not None
        return found[0, 0, -1] / 2

    np.testing.assert_allclose(scored.buffer.score, jax.jit(jax.vmap(regret))(scored.buffer.task), atol=1e-5)


def test_the_highest_return_estimates_the_optimal_one() -> None:
    """The highest return is that of all scores of the task since it is in the buffer."""
    algorithm = prioritised(toy, TOY, Config(**{**vars(PLR), "score": "highest_return"}))
    better = start()._replace(buffer=start().buffer._replace(highest=jnp.full(8, 50.0), score=jnp.full(8, 60.0)))
    after, metrics = jax.jit(algorithm.step)(jax.random.key(1), better)
    # The second of two episodes has a return that is higher by 1. A new task has no earlier return.
    assert float(metrics["new_task_score"]) == pytest.approx(0.5, abs=1e-5)
    again = after.buffer.scored_at == 1
    assert int(jnp.sum(again)) == PLR.rescored_tasks
    mean = jnp.mean(jax.vmap(returns, (0, None))(after.buffer.task, after.learner.skill), axis=1)
    np.testing.assert_allclose(after.buffer.score, jnp.where(again, 50 - mean, 60), rtol=1e-5)


def test_a_step_scores_tasks_by_the_learner_after_it() -> None:
    before = start()
    after, metrics = jax.jit(ALGORITHM.step)(jax.random.key(1), before)
    now = after.buffer.scored_at == 1
    assert int(jnp.sum(now)) >= PLR.rescored_tasks
    skill = jnp.where(now, after.learner.skill, before.learner.skill)
    np.testing.assert_allclose(after.buffer.score, 9.5 + after.buffer.task - skill, rtol=1e-5)
    np.testing.assert_array_equal(after.buffer.task[~now], before.buffer.task[~now])
    assert float(metrics["buffer_score"]) == pytest.approx(float(jnp.mean(after.buffer.score)))
    assert {"mean_task", "new_task_score"} <= metrics.keys()


# ----------------------------------------------------------------------------------- what the algorithm is trained on


@pytest.mark.parametrize("replay", [0.0, 0.7, 1.0])
def test_tasks_are_replayed_with_their_probabilities(replay: float) -> None:
    """Slot i of the buffer has the task i; the new tasks are 8 and 9."""
    score, age = jnp.array([0.5, 3.0, 1.0, 2.0, 0.1, 0.2, 0.3, 0.4]), jnp.array([0, 4, 0, 1, 0, 2, 0, 3])
    buffer = Buffer(jnp.arange(8, dtype=jnp.int32), score, score, 5 - age)
    state, number = State(Learned(jnp.zeros(10, jnp.int32), jnp.float32(0)), buffer, jnp.int32(5)), 20_000
    settings = {"replay": replay, "temperature": 0.7, "staleness": 0.3}
    after, _ = stepped(jax.random.key(1), state, first=8, draws=number, **settings)
    by_slot = by_hand(score.tolist(), age.tolist(), 0.7, 0.3)
    expected = np.array([*(replay * p for p in by_slot), (1 - replay) / 2, (1 - replay) / 2])
    error = np.abs(np.asarray(after.learner.seen) - number * expected)
    # Each number is binomial. The tolerance is five standard deviations.
    assert np.all(error <= 5 * np.sqrt(number * expected * (1 - expected)))


def test_a_robust_learner_does_not_learn_from_newly_drawn_tasks() -> None:
    """Other new tasks change the buffer, and do not change the learner if all of its tasks are replayed."""
    key = jax.random.key(1)
    for replay in (0.5, 1.0):
        low, high = (stepped(key, start(), replay=replay, first=first)[0] for first in (0, 9))
        assert np.any(low.buffer.task != high.buffer.task)
        assert np.array_equal(low.learner.seen, high.learner.seen) == (replay == 1)


def test_without_replay_the_tasks_are_those_of_the_algorithm() -> None:
    key, plain = jax.random.key(1), toy(with_tasks(TOY, 0))
    alone, metrics = jax.jit(plain.step)(key, plain.init(jax.random.key(0)))
    for replay in (0.0, 1.0):
        state, with_scores = stepped(key, start(), replay=replay)
        assert np.array_equal(state.learner.seen, alone.seen) == (replay == 0)
        assert bool(with_scores["mean_task"] == metrics["mean_task"]) == (replay == 0)


def make_rl2(family: EnvFamily) -> Algorithm:
    config = rl2.Config(episodes=3, trials=4, minibatches=1, epochs=1, iterations=4)
    return rl2.make(family, recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=None)), config)


@pytest.mark.slow
def test_without_replay_training_is_that_of_the_algorithm() -> None:
    """Parameters and metrics are the same, bit for bit; with replay they differ."""
    family = bandits.bernoulli(2)
    plain = make_rl2(family)
    start, key = jax.jit(plain.init)(jax.random.key(0)), jax.random.key(1)
    alone, metrics = jax.jit(plain.step)(key, start)
    for replay in (0.0, 1.0):
        algorithm = prioritised(make_rl2, family, Config(**{**vars(PLR), "replay_probability": replay}))
        first = jax.jit(algorithm.init)(jax.random.key(0))
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(first.learner), strict=True):
            np.testing.assert_array_equal(a, b)
        state, with_scores = jax.jit(algorithm.step)(key, first)
        leaves = list(zip(jax.tree.leaves(alone), jax.tree.leaves(state.learner), strict=True))
        same = all(np.array_equal(a, b) for a, b in leaves)
        assert same == (replay == 0)
        if replay == 0:
            assert all(metrics[name] == with_scores[name] for name in metrics)
    assert algorithm.acting is not None
    assert algorithm.acting.params(state) is state.learner.params
    assert algorithm.iterations == 4


# -------------------------------------------------------------------------------------------- the algorithm's contract


def test_the_state_keeps_its_types_and_a_resumed_run_is_an_uninterrupted_one() -> None:
    run = jax.jit(lambda state, iterations: training.run(ALGORITHM, state, iterations, capacity=5))
    begin = RunState(jnp.int32(0), jax.random.key(2), start())
    types = [(x.dtype, x.shape, x.weak_type) for x in jax.tree.leaves(begin.algorithm)]
    whole = run(begin, 5).state
    assert [(x.dtype, x.shape, x.weak_type) for x in jax.tree.leaves(whole.algorithm)] == types
    resumed = run(run(begin, 2).state, 3).state
    for a, b in zip(jax.tree.leaves(whole.algorithm), jax.tree.leaves(resumed.algorithm), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(whole.algorithm.iteration) == 5


def test_seeds_and_settings_are_a_vmap() -> None:
    def one(key: Key, temperature: Array) -> State:
        return stepped(key, start(), replay=1.0, temperature=temperature)[0]

    keys, temperatures = jax.random.split(jax.random.key(0), 2), jnp.array([0.1, 5.0])
    together = jax.jit(jax.vmap(one))(keys, temperatures)
    alone = [one(key, temperature) for key, temperature in zip(keys, temperatures, strict=True)]
    for a, *b in zip(jax.tree.leaves(together), *map(jax.tree.leaves, alone), strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-5)
    # Nearly all replayed tasks are the first one if the temperature is small.
    assert np.max(alone[0].learner.seen) > np.max(alone[1].learner.seen)


def test_two_devices_agree_with_one() -> None:
    config = Config(buffer_size=8, new_tasks=4, rescored_tasks=4)
    algorithm, key = prioritised(toy, TOY, config), jax.random.key(1)
    mesh = jax.make_mesh((2,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        two = jax.jit(lambda key, state: algorithm.step(key, state)[0])(key, start())
    one = jax.jit(lambda key, state: algorithm.step(key, state)[0])(key, start())
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def make_promp(family: EnvFamily) -> Algorithm:
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(4,), history=False, critic=False)
    settings = problems.PolicyGradientSettings(episodes=3, estimator="likelihood_ratio")
    return promp.make(problems.policy_gradient(family, policy, settings), promp.Config(tasks=2, inner_steps=1))


def make_varibad(family: EnvFamily) -> Algorithm:
    networks = belief.make(family, belief.Settings(hidden_size=4, policy_units=4, decoder_units=4))
    sizes: dict[str, Any] = {"trials": 4, "minibatches": 1, "model_trials": 2, "model_updates": 1, "buffer_trials": 4}
    return varibad.make(family, networks, varibad.Config(episodes=2, **sizes))


def make_pearl(family: EnvFamily) -> Algorithm:
    networks = context.make(family, context.Settings(units=4, encoder_units=4))
    return pearl.make(family, networks, pearl.Config(training_tasks=4, tasks=2, meta_batch=2, gradient_steps=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "family"), [(make_promp, probe_family()), (make_varibad, gridnavi.rare_far_goals(3, 4))]
)
def test_algorithms_by_gradient_and_by_belief_are_trained_with_a_curriculum(make: Any, family: EnvFamily) -> None:
    config = Config(**{**vars(PLR), "score": "highest_return" if family.optimal_return is None else "regret"})
    algorithm = prioritised(make, family, config)
    key = jax.random.key(0)
    state = jax.eval_shape(algorithm.init, key)
    after, _ = jax.eval_shape(algorithm.step, key, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "family"),
    [pytest.param(make_pearl, probe_family(), marks=pytest.mark.slow), (lambda family: toy(TOY), TOY)],
    ids=["PEARL", "another family"],
)
def test_an_algorithm_that_draws_no_tasks_in_a_step_is_refused(make: Any, family: EnvFamily) -> None:
    algorithm = prioritised(make, family, Config(**{**vars(PLR), "score": "highest_return"}))
    key = jax.random.key(0)
    state = jax.eval_shape(algorithm.init, key)
    with pytest.raises(ValueError, match=r"cannot choose the tasks of this algorithm: .* draws none by tasks\.sample"):
        jax.eval_shape(algorithm.step, key, state)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r'score "regret" is for families whose optimal return is known'):
        prioritised(toy, TOY._replace(optimal_return=None), PLR)
    with pytest.raises(ValueError, match=r"rescored_tasks \(9\) must be at most buffer_size \(8\)"):
        Config(buffer_size=8, new_tasks=8, rescored_tasks=9)
    with pytest.raises(ValueError, match=r"replay_probability must be a finite number at least 0 and at most 1"):
        Config(replay_probability=1.5)
    assert PLR.scored_tasks == 7
