"""Settings of the contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """Compile with little optimisation, here and in child processes: these tests run many small programs once."""
    option = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(option.upper(), "1")
        before = jax.config.read(option)
        jax.config.update(option, True)
        yield
        jax.config.update(option, before)
