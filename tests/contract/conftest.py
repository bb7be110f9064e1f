"""Settings of the contract tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(quick_compilation: None) -> None:
    """These tests run many small programs once."""
