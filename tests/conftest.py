"""Settings and fixtures that all tests share."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

# Compiled programs are stored within a test session only, so that a test run does not depend on earlier ones.
os.environ.setdefault("METARL_JAX_CACHE_DIR", tempfile.mkdtemp(prefix="metarl-jax-tests-"))
os.environ.setdefault("MPLBACKEND", "Agg")
# As in ``metarl_jax.__main__``.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The programs of the tests themselves are stored, too: tests run many small programs, often the same ones, also in
# child processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["METARL_JAX_CACHE_DIR"])
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Most programs run once, so most of the time is spent on compilation.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# XLA's older emitters for CPUs compile in two thirds of the time. Other versions may not have them, and XLA refuses
# unknown flags.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import jax

# Programs run on the first device unless a mesh says otherwise; the second is for programs that are sharded over two
# devices.
jax.config.update("jax_num_cpu_devices", 2)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


OPTIONAL = ("craftax", "icu_sepsis", "navix")
"""Packages without which the tests of their families are skipped."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that names a package which is not installed, in its file, its own name or its parameters."""
    for package in OPTIONAL:
        if package in item.nodeid.replace("-", "_") and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


MOST_BYTES = 3 * 2**30
"""The memory of a test process above which compiled programs are dropped between modules."""


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Drop compiled programs between modules. Otherwise thousands of programs would take 8 GB in each process."""
    yield
    if psutil.Process().memory_info().rss > MOST_BYTES:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def full_optimisation() -> Iterator[None]:
    """Compile with XLA's default flags, here and in child processes, for modules whose programs run for long."""
    option = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(option.upper(), "0")
        jax.config.update(option, False)
        yield
        jax.config.update(option, True)


@pytest.fixture
def forget() -> Iterator[Callable[[], None]]:
    """Return a function that unregisters the user's entries, as in a new process. It is also called at the end."""
    from metarl_jax import experiments
    from metarl_jax.experiments import registry

    tables: list[dict[Any, Any]] = [registry._ALGORITHMS, registry._NETWORKS, registry._FAMILIES]
    tables += [experiments._REGISTERED, experiments._SOURCES, experiments._ENTRIES]
    before = [dict(table) for table in tables]

    def forget() -> None:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
        for name in [name for name in sys.modules if name.startswith("metarl_jax_user_")]:
            del sys.modules[name]

    yield forget
    forget()


@pytest.fixture(scope="session")
def xland_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Provide a file of 20 rulesets in place of xminigrid's download of trivial-21k."""
    from xminigrid import benchmarks

    from metarl_jax.environments import xland

    folder, some = tmp_path_factory.mktemp("xland"), jax.tree.map(lambda x: x[:20], xland.made_up())
    content = {"goals": some.goal, "rules": some.rules, "init_tiles": some.init_tiles, "num_rules": np.zeros(20, int)}
    benchmarks.save_bz2_pickle(content, str(folder / "trivial_21k"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "DATA_PATH", str(folder))
        yield


@pytest.fixture(scope="session")
def omniglot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with an ``omniglot.npz`` of the real shapes, with a random 4x4 pattern for each character."""
    folder = tmp_path_factory.mktemp("data")
    patterns = np.random.default_rng(0).integers(0, 2, (1623, 1, 4, 4), np.uint8) * 255
    images = np.broadcast_to(patterns.repeat(7, axis=2).repeat(7, axis=3), (1623, 20, 28, 28))
    np.savez(
        folder / "omniglot.npz",
        images=images,
        character_id=np.arange(1, 1624, dtype=np.uint16),
        alphabet_id=(np.arange(1623) % 50).astype(np.uint8),
        alphabet_names=np.asarray([f"alphabet {i}" for i in range(50)]),
    )
    return folder
