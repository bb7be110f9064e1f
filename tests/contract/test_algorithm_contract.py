"""The contract of every algorithm: training loop, compilation and resuming."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import ALGORITHMS, Case, flat, modules
from jax.sharding import AxisType

import metarl_jax.algorithms
from metarl_jax import batching, training
from metarl_jax.types import Algorithm, Array, Key, Metrics, RunState

CASES = flat(ALGORITHMS)


NEVER = -1


class Poisonable(NamedTuple):
    """The state of an algorithm, and its number of iterations."""

    inner: Any
    age: Array


def poisonable(algorithm: Algorithm, at: int | Array) -> Algorithm:
    """Make the same algorithm with parameters that become NaN in iteration ``at``."""

    def init(key: Key) -> Poisonable:
        return Poisonable(algorithm.init(key), jnp.int32(0))

    def step(key: Key, state: Poisonable) -> tuple[Poisonable, Metrics]:
        after, metrics = algorithm.step(key, state.inner)
        bad = jnp.where(state.age == at, jnp.nan, 0.0)
        after = jax.tree.map(lambda x: x + bad.astype(x.dtype) if x.dtype == jnp.float32 else x, after)
        return Poisonable(after, state.age + 1), metrics

    return Algorithm(init, step, algorithm.adapt)


class Built(NamedTuple):
    name: str
    case: Case
    algorithm: Algorithm
    start: Any
    """``training.start`` of the poisonable algorithm: ``(key)``."""
    run: Any
    """``training.run`` of the poisonable algorithm, compiled once: ``(state, iterations, iteration to poison)``."""


@pytest.fixture(scope="module", params=CASES, ids=[name for name, _ in CASES])
def built(request: pytest.FixtureRequest) -> Built:
    name, builder = request.param
    case = builder()
    algorithm = case.make()
    run = jax.jit(lambda state, n, at: training.run(poisonable(algorithm, at), state, n, capacity=20))
    return Built(
        name=name,
        case=case,
        algorithm=algorithm,
        start=jax.jit(lambda key: training.start(poisonable(algorithm, NEVER), key)),
        run=run,
    )


def assert_identical(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(raw(got)), jax.tree.leaves(raw(expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(raw(got)), jax.tree.leaves(raw(expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def raw(tree: Any) -> Any:
    """Replace random keys by their data, so that trees can be compared."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)


def test_every_module_has_a_builder() -> None:
    assert modules(metarl_jax.algorithms) == set(ALGORITHMS)


@pytest.mark.parametrize("name", sorted(modules(metarl_jax.algorithms)))
def test_every_module_has_config_validate_and_make(name: str) -> None:
    module = __import__(f"metarl_jax.algorithms.{name}", fromlist=["make"])
    assert module.Config.__dataclass_params__.frozen
    assert all(field.kw_only for field in module.Config.__dataclass_fields__.values())
    module.Config()
    assert callable(module.make)
    assert isinstance(module.State, type)


def test_step_keeps_tree_shapes_and_types_so_that_it_compiles_once(built: Built) -> None:
    """The output state of ``step`` has the types of its input state, including weak types: one program takes both."""
    key = jax.random.key(0)
    begun = jax.jit(built.algorithm.init).trace(key)
    state = begun.out_info
    traced = jax.jit(built.algorithm.step).trace(key, state)
    after, metrics = traced.out_info
    assert jax.tree.structure(after) == jax.tree.structure(state)
    before = begun.jaxpr.out_avals
    # The types of the arguments are those of the result of ``init``.
    assert traced.jaxpr.in_avals[-len(before) :] == before
    assert traced.jaxpr.out_avals[: len(before)] == before
    assert metrics
    for name, value in metrics.items():
        assert value.shape == (), name
        assert jnp.issubdtype(value.dtype, jnp.floating), name


@pytest.mark.slow
def test_every_trainable_leaf_learns_and_metrics_are_finite(built: Built) -> None:
    before = built.start(jax.random.key(0))
    chunk = built.run(before, 3, NEVER)
    old, new = (built.case.params(state.algorithm.inner) for state in (before, chunk.state))
    assert jax.tree.leaves(old)
    for (path, a), b in zip(jax.tree.leaves_with_path(old), jax.tree.leaves(new), strict=True):
        assert bool(jnp.any(a != b)), f"{jax.tree_util.keystr(path)} did not change"
    for name, rows in chunk.metrics.items():
        assert bool(jnp.all(jnp.isfinite(rows[:3]))), name


@pytest.mark.slow
def test_seeds_and_learning_rates_are_a_vmap_and_one_that_explodes_is_flagged(built: Built) -> None:
    """One program trains several seeds with several learning rates.

    Every pair gives the same result as alone. A pair with an infinite rate stays at its start, and does not affect the
    others.
    """

    def one(start: RunState, rate: Array) -> training.Chunk:
        return training.run(built.case.make(**{built.case.learning_rate: rate}), start, 1, capacity=1)

    sweep = jax.jit(jax.vmap(one))
    keys, rate = jax.random.split(jax.random.key(3), 3), built.case.rate
    starts = jax.jit(jax.vmap(lambda key: training.start(built.algorithm, key)))(keys)
    chunks, others = (sweep(starts, jnp.array([rate, rate, last])) for last in (jnp.inf, 2 * rate))
    np.testing.assert_array_equal(chunks.diverged, [False, False, True])
    np.testing.assert_array_equal(chunks.iterations, [1, 1, 0])
    assert_identical(jax.tree.map(lambda x: x[2], chunks.state), jax.tree.map(lambda x: x[2], starts))
    np.testing.assert_array_equal(others.iterations, 1)
    assert_identical(*(jax.tree.map(lambda x: x[:2], each.state) for each in (chunks, others)))
    alone = [built.run(built.start(key), 1, NEVER).state.algorithm.inner for key in keys]
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], chunks.state.algorithm), alone[i], 2e-4)
    # The result depends on the learning rate, so it is not a constant of the program.
    faster = built.case.params(jax.tree.map(lambda x: x[2], others.state.algorithm))
    leaves = zip(jax.tree.leaves(faster), jax.tree.leaves(built.case.params(alone[2])), strict=True)
    assert any(bool(jnp.any(jnp.abs(a - b) > 1e-6)) for a, b in leaves)


@pytest.mark.slow
def test_resumed_is_uninterrupted(built: Built) -> None:
    start = built.start(jax.random.key(7))
    whole = built.run(start, 20, NEVER)
    first = built.run(start, 12, NEVER)
    # The state passes through the host, as in a checkpoint.
    saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), raw(first.state))
    restored = saved._replace(key=jax.random.wrap_key_data(saved.key))
    second = built.run(restored, 8, NEVER)
    assert int(whole.iterations) == 20
    assert (int(first.iterations), int(second.iterations)) == (12, 8)
    assert_identical(second.state, whole.state)
    for name, rows in whole.metrics.items():
        np.testing.assert_array_equal(first.metrics[name][:12], rows[:12])
        np.testing.assert_array_equal(second.metrics[name][:8], rows[12:])


def test_same_seed_is_bit_identical_and_another_is_not(built: Built) -> None:
    def params(seed: int) -> Any:
        state = built.run(built.start(jax.random.key(seed)), 3, NEVER).state
        return built.case.params(state.algorithm.inner)

    assert_identical(params(0), params(0))
    assert any(
        bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(params(0)), jax.tree.leaves(params(1)), strict=True)
    )


def test_divergence_is_flagged_at_its_iteration_with_the_last_finite_state(built: Built) -> None:
    """If parameters become NaN in iteration 4 (of 0, 1, ...), the result is the state after iteration 3."""
    start = built.start(jax.random.key(7))
    chunk, finite = built.run(start, 20, 4), built.run(start, 4, NEVER)
    assert bool(chunk.diverged)
    assert not bool(finite.diverged)
    assert int(chunk.iterations) == int(chunk.state.step) == int(finite.iterations) == 4
    assert_identical(chunk.state, finite.state)


@pytest.mark.slow
def test_adaptation_to_a_task_does_not_depend_on_the_other_tasks(built: Built) -> None:
    """Adaptation to a task does not depend on the other tasks in its batch."""
    state = jax.jit(built.algorithm.init)(jax.random.key(0))
    tasks = [built.case.tasks.sample_heldout(jax.random.key(s)) for s in (1, 2)]
    keys = [jax.random.key(s) for s in (3, 4)]
    order = (0, 0, 1, 0)
    batch = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(leaf) for leaf in x]), *(tasks[i] for i in order))
    adapt = jax.jit(jax.vmap(built.algorithm.adapt, in_axes=(0, None, 0)))
    together = adapt(jnp.stack([keys[i] for i in order]), state, batch)
    assert together.score.shape == (len(order), built.case.adaptation_scores)
    if together.success is not None:
        assert together.success.shape == together.score.shape
        assert bool(jnp.all((together.success >= 0) & (together.success <= 1)))
    alone = [jax.jit(built.algorithm.adapt)(key, state, task) for key, task in zip(keys, tasks, strict=True)]
    for row, i in enumerate(order):
        assert_close(jax.tree.map(lambda x, row=row: x[row], together), alone[i], 1e-4)


@pytest.mark.slow
def test_two_devices_agree_with_one(built: Built) -> None:
    start = built.start(jax.random.key(0))
    assert jax.device_count() == 2
    mesh = jax.make_mesh((2,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,))
    # This is the first step of ``run``.
    key = jax.random.split(start.key)[1]
    with jax.set_mesh(mesh):
        # A new function, because JAX would otherwise take the trace without a mesh from its cache.
        step = jax.jit(lambda key, state: built.algorithm.step(key, state))
        compiled = step.lower(key, start.algorithm.inner).compile()
        two = compiled(key, start.algorithm.inner)[0]
    text = compiled.as_text() or ""
    assert "all-reduce" in text or "all-gather" in text, "the program was not spread over the devices"
    one = built.run(start, 1, NEVER).state.algorithm.inner
    assert_close(jax.device_get(raw(two)), jax.device_get(raw(one)), 2e-4)
