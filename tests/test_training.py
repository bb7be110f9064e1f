"""The training loop on an algorithm whose numbers are all known."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import training
from metarl_jax.types import Adaptation, Algorithm, Array, Key, Metrics, Task


class Walk(NamedTuple):
    position: Array
    steps: Array


def random_walk(*, poison: int | None = None) -> Algorithm:
    """Make an algorithm that adds a normal number at each iteration; iteration ``poison`` gives NaN."""

    def init(key: Key) -> Walk:
        return Walk(jax.random.normal(key, (3,)), jnp.int32(0))

    def step(key: Key, state: Walk) -> tuple[Walk, Metrics]:
        move = jax.random.normal(key, (3,))
        if poison is not None:
            move = jnp.where(state.steps == poison, jnp.nan, move)
        return Walk(state.position + move, state.steps + 1), {"move": move[0]}

    def adapt(key: Key, state: Walk, task: Task) -> Adaptation:
        del key, task
        return Adaptation(state.position)

    return Algorithm(init, step, adapt)


def test_the_loop_splits_the_key_and_counts() -> None:
    algorithm = random_walk()
    state = training.start(algorithm, jax.random.key(0))
    chunk = training.run(algorithm, state, 3, capacity=5)
    key, walk, moves = state.key, state.algorithm, []
    for _ in range(3):
        key, key_step = jax.random.split(key)
        walk, metrics = algorithm.step(key_step, walk)
        moves.append(metrics["move"])
    assert int(chunk.state.step) == int(chunk.iterations) == 3
    np.testing.assert_allclose(chunk.state.algorithm.position, walk.position, rtol=1e-6)
    np.testing.assert_allclose(chunk.metrics["move"], [*moves, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(chunk.state.key), jax.random.key_data(key))


def test_chunks_of_any_length_are_one_program() -> None:
    algorithm, traces = random_walk(), []

    @jax.jit
    def run(state: training.RunState, n: int) -> training.Chunk:
        traces.append(None)
        return training.run(algorithm, state, n, capacity=20)

    start = training.start(algorithm, jax.random.key(1))
    whole = run(start, 20).state
    for lengths in ((12, 8), (1, 19), (20, 0), (0, 20), (5, 5, 5, 5)):
        state = start
        for n in lengths:
            state = run(state, n).state
        np.testing.assert_array_equal(state.algorithm.position, whole.algorithm.position)
        assert int(state.step) == 20
    assert len(traces) == 1


@pytest.mark.parametrize("poison", [0, 3])
def test_divergence_keeps_the_last_finite_state(poison: int) -> None:
    algorithm = random_walk(poison=poison)
    start = training.start(algorithm, jax.random.key(2))
    chunk = jax.jit(lambda s: training.run(algorithm, s, 6, capacity=6))(start)
    assert bool(chunk.diverged)
    assert int(chunk.iterations) == int(chunk.state.step) == poison
    before = training.run(random_walk(), start, poison, capacity=6)
    np.testing.assert_allclose(chunk.state.algorithm.position, before.state.algorithm.position, rtol=1e-6)
    assert not bool(before.diverged)


def test_one_seed_that_diverges_leaves_the_others_running() -> None:
    def run(key: Key, bad: Array) -> training.Chunk:
        healthy = random_walk()

        def step(key: Key, state: Walk) -> tuple[Walk, Metrics]:
            after, metrics = healthy.step(key, state)
            return after._replace(position=jnp.where(bad & (state.steps == 2), jnp.nan, after.position)), metrics

        algorithm = healthy._replace(step=step)
        return training.run(algorithm, training.start(algorithm, key), 5, capacity=5)

    keys = jnp.stack([jax.random.key(3)] * 2)
    chunks = jax.jit(jax.vmap(run))(keys, jnp.array([True, False]))
    np.testing.assert_array_equal(chunks.diverged, [True, False])
    np.testing.assert_array_equal(chunks.state.step, [2, 5])
    assert bool(jnp.all(jnp.isfinite(chunks.state.algorithm.position)))


@pytest.mark.parametrize(("iterations", "capacity"), [(6, 5), (-1, 5), (1, 0)])
def test_sizes_that_do_not_fit_are_named(iterations: int, capacity: int) -> None:
    algorithm = random_walk()
    with pytest.raises(ValueError, match="capacity"):
        training.run(algorithm, training.start(algorithm, jax.random.key(0)), iterations, capacity)
