"""Tests of docstrings: each public object has one, the names in it exist, and its example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import metarl_jax

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(metarl_jax.__path__, "metarl_jax.")
    if not name.rpartition(".")[2].startswith("_")
]
FILES = {"json", "jsonl", "md", "npz", "py"}
"""Endings of files, whose names look like those of objects."""
SLOW = {"metarl_jax.algorithms.pearl.make", "metarl_jax.algorithms.varibad.make"}


def public_objects(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the module, and each public class, function and method that it defines, by name."""
    yield module.__name__, module
    for name, value in list(vars(module).items()):
        is_own = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        if not is_own or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            for method in vars(value):
                member = inspect.getattr_static(value, method)
                if not method.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    yield f"{module.__name__}.{name}.{method}", getattr(value, method)


def undocumented(module: types.ModuleType) -> list[str]:
    """Return the public objects of a module that have no docstring, or the one that Python makes of the fields."""
    docstrings = {name: inspect.getdoc(value) or "" for name, value in public_objects(module)}
    return [name for name, text in docstrings.items() if not text or text.startswith(f"{name.rpartition('.')[2]}(")]


def exists(name: str) -> bool:
    """Return whether a name with dots is that of a module, of an object of one, or of a field."""
    owner, _, last = name.rpartition(".")
    try:
        with warnings.catch_warnings():
            # The import of another package may warn.
            warnings.simplefilter("ignore")
            return hasattr(found := pkgutil.resolve_name(owner), last) or last in getattr(found, "__annotations__", ())
    except (ImportError, AttributeError):
        return False


def broken_references(module: types.ModuleType) -> list[str]:
    """Return names such as ``types.Policy`` in docstrings that begin with a module of the package and do not exist."""
    modules = {name.rpartition(".")[2] for name in MODULES} | {"metarl_jax"}
    places = "", "metarl_jax.", f"{module.__name__}.", f"{module.__name__.rpartition('.')[0]}."
    found = []
    for where, value in public_objects(module):
        arguments = inspect.signature(value).parameters if inspect.isfunction(value) else ()
        for name in re.findall(r"``([A-Za-z_]\w*(?:\.\w+)+)``", inspect.getdoc(value) or ""):
            first, *others = name.split(".")
            is_reference = first in modules and first not in arguments and not FILES & set(others)
            if is_reference and not any(exists(place + name) for place in places):
                found.append(f"{where}: {name}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_public_objects_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert undocumented(module) == []
    assert broken_references(module) == []


def test_missing_docstrings_and_broken_references_are_found() -> None:
    module = types.ModuleType("metarl_jax.rollout")
    code = (
        "from typing import NamedTuple\n"
        "class Pair(NamedTuple):\n"
        "    x: int\n"
        "class Documented:\n"
        "    '''See ``types.Policy``, ``types.Policy.init``, ``rollout.trial``, ``types.Policies`` and ``a.b``.'''\n"
        "    def method(self): pass\n"
        "def function(): '''See ``algorithms.rl2`` and ``metarl_jax.algorithms.rl3``.'''\n"
        "def _private(): pass\n"
    )
    exec(code, vars(module))
    assert undocumented(module) == [f"metarl_jax.rollout{name}" for name in ("", ".Pair", ".Documented.method")]
    assert broken_references(module) == [
        "metarl_jax.rollout.Documented: types.Policies",
        "metarl_jax.rollout.function: metarl_jax.algorithms.rl3",
    ]


def examples() -> list[Any]:
    """Return the examples of all docstrings, one for each object."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for name in MODULES:
        path = Path(metarl_jax.__file__).parent.parent / (name.replace(".", "/") + ".py")
        if not path.exists():
            path = path.with_suffix("") / "__init__.py"
        if ">>>" in path.read_text(encoding="utf-8"):
            found += [test for test in finder.find(importlib.import_module(name), name, globs={}) if test.examples]
    return [
        pytest.param(test, id=test.name.removeprefix("metarl_jax."), marks=[pytest.mark.slow] * (test.name in SLOW))
        for test in found
    ]


@pytest.mark.parametrize("example", examples())
def test_examples_run(
    example: doctest.DocTest, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]
) -> None:
    """Run an example by itself, in a folder that has a run and a file with an experiment of the user."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root / "tests/data/run-0.1.0", "runs/my-run")
    shutil.copy(root / "tests/data/own_experiment.py", "my_file.py")
    runner, said = doctest.DocTestRunner(), []
    runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_the_public_functions_have_examples() -> None:
    wanted = {
        *("training.train", "evaluation.evaluate", "agents.Agent", "runs.agent_files.load", "runs.agent_files.save"),
        *("few_shot_learner.FewShotLearner", "runs.pretrained_learners.pretrained"),
        *("runs.opened.open", "experiments.register", "experiments.load", "experiments.find"),
        *(f"algorithms.{name}.make" for name in ("rl2", "maml", "pearl", "varibad", "reptile")),
    }
    assert wanted <= {example.id for example in examples()}
