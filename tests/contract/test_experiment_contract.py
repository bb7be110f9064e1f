"""Every preset traces as it is, and shrunk it builds, trains two steps and is measured."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from metarl_jax import experiments, training
from metarl_jax.evaluation import meta_test

SMALL = {
    "episodes": 2,
    "iterations": 2,
    "trials": 4,
    "epochs": 1,
    "minibatches": 2,
    "hidden_size": 4,
    "embedding_size": 3,
}


def test_names_are_unique_and_found() -> None:
    names = experiments.names()
    assert names
    assert len(set(names)) == len(names)
    assert all(experiments.get(name).name == name for name in names)


@pytest.mark.parametrize("name", experiments.names())
def test_every_preset_traces_at_its_own_size(name: str) -> None:
    experiment = experiments.get(name)
    problem = experiment.build(experiment.with_overrides({}))
    state = jax.eval_shape(problem.algorithm.init, jax.random.key(0))
    after, metrics = jax.eval_shape(problem.algorithm.step, jax.random.key(0), state)
    assert after == state
    assert all(value.shape == () for value in metrics.values())
    assert problem.episodes == experiment.settings["episodes"]
    assert experiment.oracles(problem.family, 2)


@pytest.mark.parametrize("name", experiments.names())
def test_every_preset_builds_and_runs_two_steps(name: str) -> None:
    experiment = experiments.get(name)
    problem = experiment.build(experiment.with_overrides(SMALL))
    assert (problem.episodes, problem.iterations) == (2, 2)
    assert problem.steps_per_iteration == 4 * 2 * problem.family.horizon

    def run(key: jax.Array) -> training.Chunk:
        return training.run(problem.algorithm, training.start(problem.algorithm, key), 2, capacity=2)

    chunk = jax.jit(run)(jax.random.key(0))
    assert not bool(chunk.diverged)
    assert int(chunk.state.step) == 2
    states = jax.tree.map(lambda x: x[None], chunk.state.algorithm)
    scores = meta_test(jax.random.key(1), problem.algorithm.adapt, states, problem.family.tasks, num_tasks=3).score
    assert scores.shape == (1, 3, 2)
    assert bool(jnp.all(jnp.isfinite(scores)))
