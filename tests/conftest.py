"""Settings of every test."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

# The cache of compiled programs is new for each test session, so that no test depends on an earlier session.
os.environ.setdefault("METARL_JAX_CACHE_DIR", tempfile.mkdtemp(prefix="metarl-jax-tests-"))
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests cache their own programs as well. They run many small programs, often the same ones, also in child processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["METARL_JAX_CACHE_DIR"])
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Most programs run once, and compilation takes most of the time, so optimisations are switched off.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# XLA's older code for loops on a CPU compiles in two thirds of the time. Other versions of XLA may not have this flag,
# and XLA rejects unknown flags.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import jax

# Programs run on the first device unless a mesh is set. The second device is for programs on two devices.
jax.config.update("jax_num_cpu_devices", 2)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


MOST_BYTES = 3 * 2**30
"""The memory of a test process above which compiled programs are dropped between modules."""


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Drop compiled programs between modules. Thousands of them would otherwise use 8 GB in each process."""
    yield
    if psutil.Process().memory_info().rss > MOST_BYTES:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def full_optimisation() -> Iterator[None]:
    """Compile with all optimisations, as users do, here and in child processes, for modules with long programs."""
    option = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(option.upper(), "0")
        jax.config.update(option, False)
        yield
        jax.config.update(option, True)


@pytest.fixture(scope="session")
def xland_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A file of 20 rulesets in the place where xminigrid downloads trivial-21k."""
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
    """A folder with an ``omniglot.npz`` of the real shape, in which each character is a fixed random 4x4 pattern."""
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
