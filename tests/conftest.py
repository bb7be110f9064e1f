"""Settings of every test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Compiled programs are kept within a test session only: a test run must not depend on what an earlier one left.
os.environ.setdefault("METARL_JAX_CACHE_DIR", tempfile.mkdtemp(prefix="metarl-jax-tests-"))
os.environ.setdefault("MPLBACKEND", "Agg")
# The same goes for the tests' own programs; tests run as many small ones, often the same, also in child processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["METARL_JAX_CACHE_DIR"])
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root() -> Path:
    """The project's folder."""
    return ROOT
