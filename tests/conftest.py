"""Settings of every test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Compiled programs are kept within a test session only: a test run must not depend on what an earlier one left.
os.environ.setdefault("METARL_JAX_CACHE_DIR", tempfile.mkdtemp(prefix="metarl-jax-tests-"))
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root() -> Path:
    """The project's folder."""
    return ROOT
