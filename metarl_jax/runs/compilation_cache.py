"""The cache of compiled programs, which later processes reuse, in the user's cache folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def folder() -> Path:
    """Return ``METARL_JAX_CACHE_DIR`` if it is set, or else ``metarl_jax`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("METARL_JAX_CACHE_DIR")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metarl_jax"


def enable() -> bool:
    """Make JAX store compiled programs in ``folder()``. If that folder cannot be written, silently do nothing.

    Returns:
        Whether JAX stores compiled programs.
    """
    import jax

    with contextlib.suppress(OSError, RuntimeError):
        path = folder()
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK | os.X_OK):
            jax.config.update("jax_compilation_cache_dir", str(path))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            return True
    return False
