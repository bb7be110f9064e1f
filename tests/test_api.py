"""Tests of the public API: ``import metarl_jax``."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.evaluation import meta_test
from metarl_jax.types import Algorithm, EnvFamily, RunState


def small_bandit(iterations: int) -> tuple[EnvFamily, Algorithm]:
    family = mrl.environments.bandits.bernoulli(arms=3)
    policy = mrl.networks.recurrent.make(family, mrl.networks.recurrent.Settings(hidden_size=4))
    config = mrl.algorithms.rl2.Config(episodes=4, trials=8, minibatches=1, iterations=iterations)
    return family, mrl.algorithms.rl2.make(family, policy, config)


PACKAGES = ["algorithms", "datasets", "environments", "interfaces", "networks", "oracles", "runs"]


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_importing_is_cheap_and_imports_no_jax() -> None:
    code = (
        "import sys, time; before = time.perf_counter(); import metarl_jax as mrl; mrl.experiments; mrl.environments\n"
        "print(time.perf_counter() - before, 'jax' in sys.modules, 'numpy' in sys.modules)"
    )
    seconds, has_jax, has_numpy = min(in_a_new_process(code).split() for _ in range(3))
    assert float(seconds) < 0.1
    assert (has_jax, has_numpy) == ("False", "False")


def test_all_names_exist_and_are_listed() -> None:
    assert set(mrl.__all__) >= {"train", "evaluate", "load", "save", "register", "check_family", "Agent", *PACKAGES}
    assert set(mrl.__all__) <= set(dir(mrl))
    for name in mrl.__all__:
        assert getattr(mrl, name) is not None
    with pytest.raises(AttributeError, match="trian"):
        mrl.trian  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.parametrize("name", PACKAGES)
def test_stubs_list_every_module(name: str) -> None:
    package = importlib.import_module(f"metarl_jax.{name}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    assert modules <= set(dir(package)) or name == "runs"
    for public in dir(package):
        assert getattr(package, public) is not None


def readme_blocks(root: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)


def test_the_readme_has_the_five_lines(root: Path) -> None:
    first = readme_blocks(root)[0]
    statements = [node for node in ast.parse(first).body if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) == 5
    for word in ("train", "evaluate", "print"):
        assert word in first


@pytest.mark.slow
def test_the_readme_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute all Python blocks in order in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in readme_blocks(root):
        exec(compile(block, "README.md", "exec"), namespace)


def test_training_knows_its_iterations() -> None:
    _, algorithm = small_bandit(iterations=6)
    run = mrl.train(jax.random.key(0), algorithm)
    assert isinstance(run.state, RunState)
    assert {rows.shape for rows in run.metrics.values()} == {(6,)}
    assert not run.diverged
    # Training in consecutive parts is the same run.
    first = mrl.train(jax.random.key(0), algorithm, iterations=4)
    both = mrl.train(first.state, algorithm)
    jax.tree.map(np.testing.assert_array_equal, raw(both.state), raw(run.state))
    with pytest.raises(ValueError, match="the run has completed its 6 iterations"):
        mrl.train(run.state, algorithm)
    with pytest.warns(UserWarning, match="7 iterations are more than the 6 that the algorithm was made for"):
        mrl.train(run.state, algorithm, iterations=1)


def raw(state: Any) -> Any:
    def one(x: Any) -> Any:
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(one, state)


@pytest.mark.slow
def test_seeds_progress_and_transformations() -> None:
    _, algorithm = small_bandit(iterations=3)
    seeds = mrl.train(jax.random.key(0), algorithm, seeds=2)
    keys = jax.random.split(jax.random.key(0), 2)
    alone = [mrl.train(key, algorithm) for key in keys]
    seen: list[tuple[int, float]] = []
    reported = mrl.train(keys[0], algorithm, progress=lambda done, rows: seen.append((done, float(rows["loss"]))))
    compiled = jax.jit(lambda key: mrl.train(key, algorithm))(keys[0])
    mapped = jax.vmap(lambda key: mrl.train(key, algorithm))(keys)
    for name, rows in seeds.metrics.items():
        assert rows.shape == (2, 3)
        for index, run in enumerate(alone):
            np.testing.assert_allclose(rows[index], run.metrics[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(reported.metrics[name], alone[0].metrics[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(compiled.metrics[name], alone[0].metrics[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mapped.metrics[name], rows, rtol=1e-3, atol=1e-4)
    assert [done for done, _ in seen] == [1, 2, 3]
    assert seen[-1][1] == pytest.approx(float(alone[0].metrics["loss"][-1]), rel=1e-4)
    with pytest.raises(ValueError, match="progress cannot be reported from within a compiled function"):
        jax.jit(lambda key: mrl.train(key, algorithm, progress=True))(keys[0])
    with pytest.raises(ValueError, match="seeds are for a new run"):
        mrl.train(alone[0].state, algorithm, seeds=2)
    with pytest.raises(TypeError, match=r"training starts from jax.random.key\(seed\)"):
        mrl.train(0, algorithm)  # pyright: ignore[reportArgumentType]


def test_divergence_causes_a_warning() -> None:
    def step(key: Any, state: Any) -> Any:
        del key
        return state + 1, {"loss": jnp.where(state == 2, jnp.nan, 1.0)}

    algorithm = Algorithm(lambda key: jnp.float32(0), step, lambda *_: None, iterations=5)  # pyright: ignore[reportArgumentType]
    with pytest.warns(UserWarning, match="diverged .* in iteration 3"):
        run = mrl.train(jax.random.key(0), algorithm)
    assert bool(run.diverged)
    assert int(run.state.step) == 2
    np.testing.assert_array_equal(np.isnan(run.metrics["loss"]), [False, False, True, True, True])
    with pytest.warns(UserWarning, match="diverged .* in iteration 3"):
        seen: list[float] = []
        reported = mrl.train(jax.random.key(0), algorithm, progress=lambda done, rows: seen.append(float(rows["loss"])))
    np.testing.assert_array_equal(reported.metrics["loss"], run.metrics["loss"])
    np.testing.assert_array_equal(seen, [1.0, 1.0, np.nan])


def test_evaluation_takes_states_as_they_are() -> None:
    family, algorithm = small_bandit(iterations=2)
    one = mrl.train(jax.random.key(0), algorithm)
    several = mrl.train(jax.random.key(0), algorithm, seeds=3)
    scores = mrl.evaluate(jax.random.key(1), algorithm, one.state, family, num_tasks=20)
    assert scores.score.shape == (20, 4)
    assert scores.regret is not None
    # The optimum is that of an episode, and a score after a gradient step is the mean of many episodes.
    by_step = algorithm._replace(stage="gradient step")
    assert mrl.evaluate(jax.random.key(1), by_step, one.state, family, num_tasks=20).regret is None
    own = mrl.evaluate(jax.random.key(1), algorithm, one.state.algorithm, family, num_tasks=20)
    np.testing.assert_array_equal(own.score, scores.score)
    assert mrl.evaluate(jax.random.key(1), algorithm, several.state, family, num_tasks=20).score.shape == (3, 20, 4)
    best = mrl.oracles.bandits.best_arm(family, 4)
    optimum = mrl.evaluate(jax.random.key(1), best, (), family, num_tasks=2000)
    # The mean of the largest of three uniform numbers is 3/4.
    total = optimum.total()
    assert total.low < 4 * 0.75 < total.high
    text = str(optimum).splitlines()
    assert text[0] == "2000 tasks; mean (95 % interval over tasks)"
    assert text[1].split() == ["episode", "score"]
    assert [line.split()[0] for line in text[2:7]] == ["1", "2", "3", "4", "sum"]
    assert f"{total.mean:.4g} ({total.low:.4g} to {total.high:.4g})" in text[6]
    with pytest.raises(TypeError, match="tasks are drawn from a family of tasks"):
        mrl.evaluate(jax.random.key(1), algorithm, one.state, family.tasks)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="num_tasks must be at least 2"):
        mrl.evaluate(jax.random.key(1), algorithm, one.state, family, num_tasks=1)


def test_meta_test_names_the_axis_to_stack() -> None:
    family, algorithm = small_bandit(iterations=2)
    state = mrl.train(jax.random.key(0), algorithm).state.algorithm
    with pytest.raises(ValueError, match=r"states must be stacked along a leading axis of num_seeds \(1\), but states"):
        meta_test(jax.random.key(1), algorithm.adapt, state, family.tasks, num_tasks=4)


def test_warnings_point_to_the_caller() -> None:
    _, algorithm = small_bandit(iterations=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mrl.train(jax.random.key(0), algorithm, iterations=2)
    assert [warning.filename for warning in caught] == [__file__]
