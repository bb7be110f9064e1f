"""Writing files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""How temporary files end; whatever carries it after a crash is rubbish."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path``, force it to the disk, and move it there in one step.

    Raises:
        OSError: if it cannot be written; ``path`` is then as it was, and no temporary file is left.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, content: Any) -> None:
    """``write_atomically``, as JSON; numbers must be finite."""
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def remove_temporary(folder: Path) -> None:
    """Delete what a killed process left half written."""
    for path in folder.rglob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)
