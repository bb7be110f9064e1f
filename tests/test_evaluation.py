"""Tests of the evaluation on learners with known scores."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import equations

from metarl_jax.evaluation import meta_test
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.types import Adaptation, Array, Key, State, Task, TaskDistribution

TASKS = TaskDistribution(
    sample=lambda key: jax.random.uniform(key) - 100.0,  # training tasks, which an evaluation must not draw
    sample_heldout=jax.random.uniform,
)


def adapt(key: Key, state: State, task: Task) -> Adaptation:
    """Return the scores of two episodes: the task plus the learner's offset, and the same with noise."""
    return Adaptation(jnp.stack([task + state, task + state + 0.1 * jax.random.normal(key)]))


STATES = jnp.array([0.0, 10.0, 20.0])


def evaluate(num_tasks: int, batch_size: int = 2048, seed: int = 0) -> np.ndarray:
    return np.asarray(_evaluate(jax.random.key(seed), num_tasks, batch_size))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _evaluate(key: Key, num_tasks: int, batch_size: int) -> Array:
    return meta_test(key, adapt, STATES, TASKS, num_tasks=num_tasks, num_seeds=3, batch_size=batch_size).score


def test_scores_do_not_depend_on_the_batch_size() -> None:
    whole = evaluate(50)
    assert whole.shape == (3, 50, 2)
    for batch_size in (50, 7, 1):
        np.testing.assert_allclose(evaluate(50, batch_size), whole, rtol=1e-5)


def test_scores_do_not_depend_on_how_many_learners_a_cache_holds() -> None:
    def evaluated(numbers: int) -> tuple[np.ndarray, set[int]]:
        def remembering(key: Key, state: State, task: Task) -> Adaptation:
            return adapt(key, state, task)._replace(learner=jnp.full(numbers, task))

        def scores(key: Key) -> Array:
            return meta_test(key, remembering, STATES, TASKS, num_tasks=48, num_seeds=3).score

        program = jax.make_jaxpr(scores)(jax.random.key(0))
        shapes = [v.aval.shape for e in equations(program.jaxpr) for v in e.outvars]
        return np.asarray(scores(jax.random.key(0))), {s[0] for s in shapes if len(s) == 2 and s[1] == numbers}

    (whole, all_tasks), (parts, some) = evaluated(999), evaluated(2**16)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert (all_tasks, some) == ({48}, {16})


def test_more_tasks_begin_with_the_same_ones() -> None:
    np.testing.assert_allclose(evaluate(30, 8)[:, :20], evaluate(20, 8), rtol=1e-5)


def test_tasks_are_held_out_shared_by_the_seeds_and_distinct() -> None:
    score = evaluate(40)
    tasks = score[:, :, 0] - np.asarray(STATES)[:, None]
    assert np.all((tasks >= -1e-5) & (tasks <= 1.00001))
    np.testing.assert_allclose(tasks[1], tasks[0], atol=1e-5)
    assert len(np.unique(score[0, :, 0])) == 40
    noise = score[:, :, 1] - score[:, :, 0]
    assert np.abs(np.corrcoef(noise)[0, 1]) < 0.6, "seeds have randomness of their own"
    assert not np.allclose(noise[0], noise[1], atol=1e-3)


def test_other_keys_give_other_tasks() -> None:
    assert not np.allclose(evaluate(10), evaluate(10, seed=1))


def test_regret_accumulates_against_the_tasks_best() -> None:
    result = meta_test(
        jax.random.key(0), adapt, STATES[:1], TASKS, num_tasks=10, optimal_return=lambda task: task + 3.0
    )
    assert result.regret is not None
    gap = np.asarray(result.score)[..., :1] + 3.0 - np.asarray(result.score)
    np.testing.assert_allclose(result.regret, np.cumsum(gap, axis=-1), rtol=1e-5)
    assert meta_test(jax.random.key(0), adapt, STATES[:1], TASKS, num_tasks=10).regret is None


def test_successes_come_with_the_scores_they_belong_to() -> None:
    def counting(key: Key, state: State, task: Task) -> Adaptation:
        adaptation = adapt(key, state, task)
        return adaptation._replace(success=(adaptation.score > 10.5).astype(jnp.float32))

    result = meta_test(jax.random.key(0), counting, STATES, TASKS, num_tasks=9, num_seeds=3, batch_size=4)
    assert result.success is not None
    np.testing.assert_array_equal(result.success, result.score > 10.5)
    assert 0 < float(jnp.mean(result.success[1])) < 1
    assert meta_test(jax.random.key(0), adapt, STATES[:1], TASKS, num_tasks=3).success is None


def test_the_interval_over_tasks_covers_the_mean() -> None:
    inside = 0
    for seed in range(40):
        estimate = mean_with_interval(evaluate(100, seed=seed)[0, :, 1])
        inside += estimate.low <= 0.5 <= estimate.high
    assert inside >= 33  # 95 % of 40 minus three standard deviations


def test_oracles_have_no_state() -> None:
    def oracle(key: Key, state: State, task: Task) -> Adaptation:
        del key
        assert state == ()
        return Adaptation(jnp.atleast_1d(task))

    score = meta_test(jax.random.key(0), oracle, (), TASKS, num_tasks=6, batch_size=4).score
    assert score.shape == (1, 6, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_of_each_task_are_its_own(batch_size: int) -> None:
    score = meta_test(
        jax.random.key(5), lambda k, s, t: Adaptation(jnp.full(1, t)), (), TASKS, num_tasks=9, batch_size=batch_size
    ).score[0, :, 0]
    keys = jax.random.split(jax.random.split(jax.random.key(5))[0], 9)
    np.testing.assert_array_equal(score, jax.vmap(TASKS.sample_heldout)(keys))


def test_validation_tasks_are_drawn_by_a_sampler_of_their_own_or_that_of_training() -> None:
    def scores(tasks: TaskDistribution) -> Array:
        found = meta_test(
            jax.random.key(5), lambda k, s, t: Adaptation(jnp.full(1, t)), (), tasks, num_tasks=9, split="validation"
        )
        return found.score[0, :, 0]

    keys = jax.random.split(jax.random.split(jax.random.key(5))[0], 9)
    np.testing.assert_array_equal(scores(TASKS), jax.vmap(TASKS.sample)(keys))
    own = TASKS._replace(sample_validation=jax.random.normal)
    np.testing.assert_array_equal(scores(own), jax.vmap(jax.random.normal)(keys))
    with pytest.raises(ValueError, match="split must be one of heldout, validation, not 'test'"):
        meta_test(jax.random.key(0), adapt, STATES, TASKS, num_tasks=1, split="test")  # pyright: ignore[reportArgumentType]
