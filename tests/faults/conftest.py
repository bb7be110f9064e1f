"""A run that is so small that tests can train and damage it many times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from metarl_jax import cli
from metarl_jax.experiments.base import Experiment
from metarl_jax.runs import report, train

EXPERIMENT = "rl2-bandit-10x5"
SMALL = [
    *("--trials", "8", "--minibatches", "1", "--epochs", "1", "--hidden-size", "4", "--episodes", "3"),
    *("--evaluation-tasks", "16"),
]
ITERATIONS = 20


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of compiled programs for the whole folder, because the tests use the same small programs."""
    path = tmp_path_factory.mktemp("cache")
    yield path
    jax.config.update("jax_compilation_cache_dir", None)


def _once(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called once for each key of its arguments.

    The results are stored, so that no other object gets their id.
    """
    results: dict[Any, Any] = {}

    def called(*arguments: Any) -> Any:
        name = key(*arguments)
        if name not in results:
            results[name] = function(*arguments)
        return results[name]

    return called


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda x: (jax.typeof(x), getattr(x, "sharding", None)), tree))


# Tracing the same programs for every resume would take most of the time of these tests.
BUILD = _once(train.build, lambda config: repr((config.experiment, sorted(config.settings.items()))))
COMPILE = _once(
    train._compile,
    lambda problem, placement, arguments, runs: (id(problem), _shapes(arguments), runs),
)
VALIDATION = _once(
    train._validation, lambda experiment, problem, seeds: (id(problem), experiment.validation_tasks, seeds)
)


@pytest.fixture(autouse=True)
def _small_world(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one cache, make programs once, and leave out oracles and figures, which other tests cover."""
    monkeypatch.setenv("METARL_JAX_CACHE_DIR", str(cache))
    monkeypatch.setattr(Experiment, "oracles", lambda self, problem, stages: [])
    monkeypatch.setattr(train, "build", BUILD)
    monkeypatch.setattr(train, "_compile", COMPILE)
    monkeypatch.setattr(train, "_validation", VALIDATION)
    monkeypatch.setattr(report, "write", lambda folder, evaluations: [])


class Run:
    """A run folder, with methods that run commands on it and read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    def start(self, *options: str) -> int:
        """Run ``metarl-jax train`` with this folder."""
        small = [*SMALL, "--iterations", str(ITERATIONS), "--checkpoint-every", "4", "--evaluate-every", "5"]
        return cli.main(["train", EXPERIMENT, *small, "--run-dir", str(self.path), *options])

    def resume(self, *options: str) -> int:
        """Run ``metarl-jax resume`` on this folder."""
        return cli.main(["resume", str(self.path), "--evaluation-tasks", "16", *options])

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics without entries that depend on the clock."""
        lines = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "wall_s"} for line in lines]

    def checkpoint(self, iteration: int) -> Path:
        """Return the path of the checkpoint of an iteration."""
        return self.checkpoints / f"{iteration:09d}.checkpoint"

    def leaves(self, iteration: int = ITERATIONS) -> dict[str, Any]:
        """Return the arrays of a checkpoint as lists, by path."""
        from flax import serialization

        from metarl_jax.runs import checkpoints

        content: Any = serialization.msgpack_restore(checkpoints.read_payload(self.checkpoint(iteration)))
        return {name: value.tolist() for name, value in content["leaves"].items()}

    def content(self) -> dict[str, bytes]:
        """Return the content of every file except the lock, by path."""
        files = [p for p in self.path.rglob("*") if p.is_file() and p.name != "lock"]
        return {str(p.relative_to(self.path)): p.read_bytes() for p in files}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has not been trained yet."""
    return Run(tmp_path / "run")


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METARL_JAX_CACHE_DIR", str(cache))
        assert Run(path).start() == 0
    return path


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Run:
    """A copy of a finished run of 20 iterations with checkpoints at 12, 16 and 20, which a test may damage."""
    import shutil

    shutil.copytree(_finished, tmp_path / "finished")
    return Run(tmp_path / "finished")
