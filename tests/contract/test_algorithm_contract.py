"""What every algorithm must do: the loop's, the compiler's and the resume's expectations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import ALGORITHMS, Case, flat, modules

import metarl_jax.algorithms
from metarl_jax import training
from metarl_jax.types import Algorithm, Array, Key, Metrics, State

CASES = flat(ALGORITHMS)


class Built(NamedTuple):
    name: str
    case: Case
    algorithm: Algorithm
    step: Any
    """Compiled."""
    traces: list[None]
    """Grows by one whenever ``step`` is traced."""
    run: Any
    """``training.run``, compiled: ``(state, iterations)``."""


@pytest.fixture(scope="module", params=CASES, ids=[name for name, _ in CASES])
def built(request: pytest.FixtureRequest) -> Built:
    name, builder = request.param
    case = builder()
    algorithm, traces = case.make(), []

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        traces.append(None)
        return algorithm.step(key, state)

    run = jax.jit(lambda state, n: training.run(algorithm, state, n, capacity=20))
    return Built(name, case, algorithm, jax.jit(step), traces, run)


def assert_identical(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(raw(got)), jax.tree.leaves(raw(expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(raw(got)), jax.tree.leaves(raw(expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def raw(tree: Any) -> Any:
    """Random keys as numbers, so that they compare."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_every_module_has_a_builder() -> None:
    assert modules(metarl_jax.algorithms) == set(ALGORITHMS)


@pytest.mark.parametrize("name", sorted(modules(metarl_jax.algorithms)))
def test_every_module_has_config_validate_and_make(name: str) -> None:
    module = __import__(f"metarl_jax.algorithms.{name}", fromlist=["make"])
    assert module.Config.__dataclass_params__.frozen
    assert all(field.kw_only for field in module.Config.__dataclass_fields__.values())
    module.validate(module.Config())
    assert callable(module.make)
    assert isinstance(module.State, type)


def test_step_keeps_tree_shapes_and_types_and_compiles_once(built: Built) -> None:
    state = built.algorithm.init(jax.random.key(0))
    built.traces.clear()
    for i in range(3):
        after, metrics = built.step(jax.random.key(i), state)
        assert shapes(after) == shapes(state)
        assert metrics
        for name, value in metrics.items():
            assert value.shape == (), name
            assert jnp.issubdtype(value.dtype, jnp.floating), name
            assert bool(jnp.isfinite(value)), name
        state = after
    assert len(built.traces) <= 1


def test_every_trainable_leaf_learns(built: Built) -> None:
    before = state = built.algorithm.init(jax.random.key(0))
    for i in range(3):
        state, _ = built.step(jax.random.key(i), state)
    old, new = built.case.params(before), built.case.params(state)
    assert jax.tree.leaves(old)
    for (path, a), b in zip(jax.tree.leaves_with_path(old), jax.tree.leaves(new), strict=True):
        assert bool(jnp.any(a != b)), f"{jax.tree_util.keystr(path)} did not change"


def test_vmap_over_seeds_is_a_loop_over_them(built: Built) -> None:
    keys_init, keys_step = (jax.random.split(jax.random.key(i), 3) for i in (1, 2))
    states = jax.vmap(built.algorithm.init)(keys_init)
    together = jax.jit(jax.vmap(built.algorithm.step))(keys_step, states)
    for i in range(3):
        state = built.algorithm.init(keys_init[i])
        assert_close(jax.tree.map(lambda x, i=i: x[i], states), state, 1e-6)
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), built.step(keys_step[i], state), 2e-4)


def test_learning_rate_may_be_a_tracer(built: Built) -> None:
    def one(key: Key, rate: Array) -> Any:
        algorithm = built.case.make(**{built.case.learning_rate: rate})
        return built.case.params(algorithm.step(key, algorithm.init(key))[0])

    keys = jnp.stack([jax.random.key(3)] * 2)
    rates = jnp.array([1e-3, 4e-3])
    params = jax.jit(jax.vmap(one))(keys, rates)
    alone = jax.jit(one)(keys[0], rates[0])
    assert_close(jax.tree.map(lambda x: x[0], params), alone, 2e-4)
    assert any(bool(jnp.any(x[0] != x[1])) for x in jax.tree.leaves(params))


def test_resumed_is_uninterrupted(built: Built) -> None:
    start = training.start(built.algorithm, jax.random.key(7))
    whole = built.run(start, 20)
    first = built.run(start, 12)
    # Through the host, as a checkpoint goes.
    saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), raw(first.state))
    restored = saved._replace(key=jax.random.wrap_key_data(saved.key))
    second = built.run(restored, 8)
    assert int(whole.iterations) == 20
    assert (int(first.iterations), int(second.iterations)) == (12, 8)
    assert_identical(second.state, whole.state)
    for name, rows in whole.metrics.items():
        np.testing.assert_array_equal(first.metrics[name][:12], rows[:12])
        np.testing.assert_array_equal(second.metrics[name][:8], rows[12:])


def test_same_seed_is_bit_identical_and_another_is_not(built: Built) -> None:
    def params(seed: int) -> Any:
        return built.case.params(built.run(training.start(built.algorithm, jax.random.key(seed)), 3).state.algorithm)

    assert_identical(params(0), params(0))
    assert any(
        bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(params(0)), jax.tree.leaves(params(1)), strict=True)
    )


def test_a_learning_rate_that_explodes_is_flagged_and_dropped(built: Built) -> None:
    algorithm = built.case.make(**{built.case.learning_rate: jnp.float32(jnp.inf)})
    start = training.start(algorithm, jax.random.key(0))
    chunk = jax.jit(lambda s: training.run(algorithm, s, 5, capacity=5))(start)
    assert bool(chunk.diverged)
    assert int(chunk.iterations) == int(chunk.state.step) == 0
    assert_identical(chunk.state, start)


class Poisoned(NamedTuple):
    inner: Any
    steps: Array


def test_divergence_is_flagged_at_its_iteration_with_the_last_finite_state(built: Built) -> None:
    """Parameters that turn into NaN in iteration 4 (of 0, 1, ...) leave the state after iteration 3."""
    inner = built.algorithm

    def init(key: Key) -> Poisoned:
        return Poisoned(inner.init(key), jnp.int32(0))

    def step(key: Key, state: Poisoned) -> tuple[Poisoned, Metrics]:
        after, metrics = inner.step(key, state.inner)
        bad = jnp.where(state.steps == 4, jnp.nan, 0.0)
        after = jax.tree.map(lambda x: x + bad.astype(x.dtype) if x.dtype == jnp.float32 else x, after)
        return Poisoned(after, state.steps + 1), metrics

    poisoned = Algorithm(init, step, inner.adapt)
    start = training.start(poisoned, jax.random.key(7))
    run = jax.jit(lambda state, n: training.run(poisoned, state, n, capacity=20))
    chunk, finite = run(start, 20), run(start, 4)
    assert bool(chunk.diverged)
    assert not bool(finite.diverged)
    assert int(chunk.iterations) == int(chunk.state.step) == int(finite.iterations) == 4
    assert_identical(chunk.state, finite.state)


def test_a_task_adapts_alike_in_any_company(built: Built) -> None:
    """Duplicating a task in a batch, or having others beside it, leaves each task's adaptation as it is alone."""
    state = built.algorithm.init(jax.random.key(0))
    tasks = [built.case.tasks.sample_heldout(jax.random.key(s)) for s in (1, 2)]
    keys = [jax.random.key(s) for s in (3, 4)]
    order = (0, 0, 1, 0)
    batch = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(leaf) for leaf in x]), *(tasks[i] for i in order))
    adapt = jax.jit(jax.vmap(built.algorithm.adapt, in_axes=(0, None, 0)))
    together = adapt(jnp.stack([keys[i] for i in order]), state, batch)
    assert together.score.shape == (len(order), built.case.adaptation_scores)
    alone = [jax.jit(built.algorithm.adapt)(key, state, task) for key, task in zip(keys, tasks, strict=True)]
    for row, i in enumerate(order):
        assert_close(jax.tree.map(lambda x, row=row: x[row], together), alone[i], 1e-4)


SHARDED = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
sys.path[:0] = json.loads(sys.argv[1])
import numpy as np
from jax.sharding import AxisType
from builders import ALGORITHMS
from metarl_jax import training

module, name = json.loads(sys.argv[2])
algorithm = ALGORITHMS[module][name]().make()

def run(state):
    return training.run(algorithm, state, 1, capacity=1)

start = training.start(algorithm, jax.random.key(0))
one = jax.jit(run)(start)
mesh = jax.make_mesh((2,), (training.TASK_AXIS,), axis_types=(AxisType.Auto,))
with jax.set_mesh(mesh):
    compiled = jax.jit(run).lower(start).compile()
    two = compiled(start)
leaves = lambda chunk: jax.tree.leaves((chunk.state.algorithm, chunk.metrics))
def difference(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.max(np.abs(a - b) / (1 + np.abs(a))))

worst = max(difference(a, b) for a, b in zip(leaves(one), leaves(two)))
text = compiled.as_text()
communicates = "all-reduce" in text or "all-gather" in text
print(json.dumps({"devices": jax.device_count(), "worst": worst, "communicates": communicates}))
"""


def test_two_devices_agree_with_one(built: Built, root: Path) -> None:
    here = Path(__file__).parent
    arguments = [json.dumps([str(here), str(here.parent)]), json.dumps(built.name.split(".", 1))]
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, *arguments], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["devices"] == 2
    assert got["communicates"], "the program was not spread over the devices"
    assert got["worst"] < 2e-4
