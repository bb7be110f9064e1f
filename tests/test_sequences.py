"""Sequences of tasks: the matrix of scores in closed form, the measures by their definitions, and bad input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import problems, sequences
from metarl_jax.algorithms import anil, cavia, maml, meta_sgd, reptile
from metarl_jax.datasets import sinusoid
from metarl_jax.environments import point_robot
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.networks import mlp
from metarl_jax.sequences import SequenceScores
from metarl_jax.training import train
from metarl_jax.types import Algorithm, TaskDistribution

STEPS, RATE, TASKS = 3, 0.2, 4


def quadratic() -> InnerProblem:
    """Return a problem whose tasks are points c, with the loss ``|x - c|^2 / 2`` and the score ``-|x - c|^2``."""

    def nothing(key: Any, params: Any, task: Any) -> Any:
        del key, params
        return task

    def sample(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (2,), jnp.float32)

    return InnerProblem(
        tasks=TaskDistribution(sample, lambda key: 3 + sample(key), lambda key: sample(key) - 3),
        init=lambda key: {"x": jax.random.normal(key, (2,), jnp.float32)},
        support=nothing,
        query=nothing,
        inner_loss=lambda params, task: jnp.sum((params["x"] - task) ** 2) / 2,
        outer_loss=lambda params, task: jnp.sum((params["x"] - task) ** 2) / 2,
        score=lambda params, task: -jnp.sum((params["x"] - task) ** 2),
    )


def learners(problem: InnerProblem) -> list[tuple[Algorithm, Any]]:
    """Return learners that adapt by the same gradient descent."""
    sizes: dict[str, Any] = {"inner_rate": RATE, "adaptation_steps": STEPS, "iterations": 1}
    made = [
        maml.make(problem, maml.Config(**sizes)),
        reptile.make(problem, reptile.Config(**sizes, inner_optimizer="sgd")),
    ]
    return [(algorithm, algorithm.init(jax.random.key(3))) for algorithm in made]


@pytest.mark.parametrize("which", [0, 1])
def test_the_matrix_of_a_quadratic_problem_in_closed_form(which: int) -> None:
    problem = quadratic()
    algorithm, state = learners(problem)[which]
    tasks = np.random.RandomState(0).normal(size=(TASKS, 2))
    start, keep = np.asarray(state.params["x"], np.float64), (1 - RATE) ** STEPS

    def scores(points: list[np.ndarray]) -> np.ndarray:
        return np.array([[-np.sum((x - c) ** 2) for c in tasks] for x in points])

    carried = [start]
    for c in tasks:
        carried.append(c + keep * (carried[-1] - c))
    alone = [start, *(c + keep * (start - c) for c in tasks)]
    means = [tasks[:i].mean(axis=0) for i in range(1, TASKS + 1)]
    together = [start, *(m + keep**i * (start - m) for i, m in enumerate(means, start=1))]
    key = jax.random.key(5)
    for learner, points in (
        (sequences.without_reset(problem, algorithm, state), carried),
        (sequences.with_reset(problem, algorithm, state), alone),
        (sequences.joint(problem, state.params, steps=STEPS, rate=RATE), together),
    ):
        found = sequences.matrix(key, problem, learner, jnp.asarray(tasks, jnp.float32))
        np.testing.assert_allclose(found, scores(points), rtol=1e-4, atol=1e-5)


def test_joint_training_scales_long_gradients_down() -> None:
    problem, start, most = quadratic(), np.array([30.0, -40.0]), 0.5
    tasks = np.random.RandomState(0).normal(size=(2, 2))
    params = {"x": jnp.asarray(start, jnp.float32)}
    learner = sequences.joint(problem, params, steps=STEPS, rate=RATE, max_norm=most)
    found = learner(jax.random.key(0), jnp.asarray(tasks, jnp.float32))["x"]
    for number in (1, 2):
        x = start
        for _ in range(number * STEPS):
            gradient = x - tasks[:number].mean(axis=0)
            x = x - RATE * gradient * min(1, most / np.linalg.norm(gradient))
        np.testing.assert_allclose(found[number], x, rtol=1e-5)
    near = {"x": jnp.asarray(tasks.mean(axis=0), jnp.float32)}
    for one in (100.0, None):
        short = sequences.joint(problem, near, steps=STEPS, rate=RATE, max_norm=one)
        after = short(jax.random.key(0), jnp.asarray(tasks, jnp.float32))["x"]
        np.testing.assert_allclose(after[2], tasks.mean(axis=0), rtol=1e-5)


def test_a_learner_from_scratch_begins_with_random_parameters() -> None:
    problem = quadratic()
    algorithm, state = learners(problem)[0]
    learner = sequences.from_scratch(problem, algorithm, state)
    tasks = jnp.zeros((TASKS, 2), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 300)
    found = np.asarray(jax.jit(jax.vmap(lambda key: learner(key, tasks)["x"]))(keys))
    np.testing.assert_allclose(found[:, 0].std(axis=0), 1.0, rtol=0.2)
    decay = (1 - RATE) ** (STEPS * np.arange(TASKS + 1))
    np.testing.assert_allclose(found, found[:, :1] * decay[:, None], rtol=1e-4, atol=1e-6)


def test_all_learners_get_the_same_held_out_or_validation_tasks() -> None:
    problem = quadratic()
    algorithm, state = learners(problem)[0]
    named = {
        "kept": sequences.without_reset(problem, algorithm, state),
        "reset": sequences.with_reset(problem, algorithm, state),
    }
    means = {}
    for split in ("heldout", "validation"):
        scores = sequences.evaluate(
            jax.random.key(0), problem, named, length=3, num_sequences=7, split=split, batch_size=5
        )
        assert scores["kept"].score.shape == (7, 4, 3)
        # The start and the first task are the same for both.
        np.testing.assert_allclose(scores["kept"].score[:, :2], scores["reset"].score[:, :2], rtol=1e-5)
        assert np.abs(scores["kept"].score[:, 2] - scores["reset"].score[:, 2]).max() > 0.01
        assert len(np.unique(scores["kept"].score[:, 0])) == 21
        means[split] = scores["kept"].before().mean
    x = np.asarray(state.params["x"], np.float64)
    # The expected squared distance from a point of N(m, 1) in both coordinates.
    for split, centre in (("heldout", 3.0), ("validation", -3.0)):
        assert abs(means[split] + np.sum((x - centre) ** 2) + 2) < 10


def test_the_measures_by_their_definitions() -> None:
    score = np.random.RandomState(0).normal(size=(6, 5, 4))
    for better, sign in ((True, 1), (False, -1)):
        scores = SequenceScores(score, better)
        r = sign * score
        average = [np.mean([x[4, j] for j in range(4)]) for x in r]
        learned = [np.mean([x[j + 1, j] for j in range(4)]) for x in r]
        forward = [np.mean([x[i, i] - x[0, i] for i in range(1, 4)]) for x in r]
        backward = [np.mean([x[4, i] - x[i + 1, i] for i in range(3)]) for x in r]
        forgotten = [np.mean([max(x[row, i] for row in (1, 2, 3)) - x[4, i] for i in range(3)]) for x in r]
        assert scores.average().mean == pytest.approx(sign * np.mean(average))
        assert scores.learned().mean == pytest.approx(sign * np.mean(learned))
        assert scores.before().mean == pytest.approx(np.mean(score[:, 0]))
        assert scores.forward_transfer().mean == pytest.approx(np.mean(forward))
        assert scores.backward_transfer().mean == pytest.approx(np.mean(backward))
        assert scores.forgetting().mean == pytest.approx(np.mean(forgotten))
        half = scores.forgetting().high - scores.forgetting().mean
        # 2.5706 is the 97.5 % quantile of Student's distribution with 5 degrees of freedom.
        assert half == pytest.approx(2.5706 * np.std(forgotten, ddof=1) / np.sqrt(6), rel=1e-3)
    assert "6 sequences of 4 tasks" in str(scores)


@pytest.mark.parametrize("algorithm", [maml, anil, reptile])
def test_learners_of_sinusoids(algorithm: Any) -> None:
    problem = problems.few_shot(sinusoid.maml(shots=3, queries=4), mlp.predictor(1, 1, hidden_sizes=(6, 5)))
    made = algorithm.make(problem, algorithm.Config(tasks=2, iterations=2, adaptation_steps=2))
    run = train(jax.random.key(0), made)
    learner = sequences.without_reset(problem, made, run.state)
    tasks = jax.vmap(problem.tasks.sample_heldout)(jax.random.split(jax.random.key(1), 3))
    params = learner(jax.random.key(2), tasks)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y), params, run.state.algorithm.params)
    assert any(np.abs(x[3] - x[2]).max() > 0 for x in jax.tree.leaves(params))
    scores = sequences.matrix(jax.random.key(2), problem, learner, tasks)
    for i in range(4):
        for j in range(3):
            task, after = (jax.tree.map(lambda x, at=at: x[at], tree) for at, tree in ((j, tasks), (i, params)))
            assert float(scores[i, j]) == pytest.approx(float(problem.score(after, task.query)), rel=1e-4)


@pytest.mark.slow
def test_a_learner_of_reinforcement_learning_tasks() -> None:
    family = point_robot.varibad(horizon=4)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(5,), history=False, critic=False)
    problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=4))
    made = maml.make(problem, maml.Config(tasks=2, iterations=1, adaptation_steps=1))
    learner = sequences.without_reset(problem, made, made.init(jax.random.key(0)))
    scores = sequences.evaluate(jax.random.key(0), problem, {"MAML": learner}, length=2, num_sequences=3)
    assert np.isfinite(scores["MAML"].score).all()


def test_bad_input_is_named() -> None:
    problem = quadratic()
    algorithm, state = learners(problem)[0]
    named = {"kept": sequences.without_reset(problem, algorithm, state)}
    for name in ("length", "num_sequences"):
        with pytest.raises(ValueError, match=f"{name} must be at least 2, not 1"):
            sequences.evaluate(jax.random.key(0), problem, named, **{name: 1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="split must be one of heldout, validation, not 'training'"):
        sequences.evaluate(jax.random.key(0), problem, named, split="training")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"key must be jax\.random\.key"):
        sequences.evaluate(0, problem, named)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="steps must be a positive whole number, not 0"):
        sequences.joint(problem, state.params, steps=0, rate=0.1)
    with pytest.raises(ValueError, match="max_norm must be a finite number above 0, not -1"):
        sequences.joint(problem, state.params, steps=1, rate=0.1, max_norm=-1.0)
    with pytest.raises(ValueError, match="state must be that of one seed"):
        sequences.without_reset(problem, algorithm, jax.tree.map(lambda x: x[None], state))
    waves = problems.few_shot(sinusoid.maml(shots=3, queries=4), mlp.predictor(1, 1, (4,), context_size=2))
    for module in (meta_sgd, cavia):
        other = module.make(waves, module.Config(iterations=1))
        with pytest.raises(ValueError, match="cannot begin with the parameters after an earlier task"):
            sequences.with_reset(waves, other, other.init(jax.random.key(0)))
