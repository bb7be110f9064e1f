"""Writing files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import math
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


def finite(value: Any) -> Any:
    """Numbers as JSON has them: what is not finite becomes None, also within lists and dictionaries."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [finite(item) for item in value]
        case dict():
            return {name: finite(item) for name, item in value.items()}
    return value


def write_json(path: Path, content: Any) -> None:
    """``write_atomically``, as JSON; numbers must be finite."""
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def remove_temporary(folder: Path) -> None:
    """Delete what a killed process left half written."""
    for path in folder.rglob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)
