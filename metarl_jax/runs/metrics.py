"""Read and write ``metrics.jsonl``, which has one line for each iteration.

Every metric of a line is a list with one entry for each seed. Some lines have a validation score. After a seed has
diverged, its entries are ``null``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from metarl_jax.runs import files
from metarl_jax.runs.progress import warn

Line: TypeAlias = dict[str, Any]
_BEGINNING = b'{"iteration": '
"""The first characters of every line."""


def parse(text: bytes | str) -> Line:
    """Parse one line. The name ``heldout_score``, which version 0.1.0 wrote, is replaced by ``validation_score``.

    Raises:
        ValueError: if the line does not have the form that ``Writer`` writes.
    """
    line = files.parse_json(text)
    if not isinstance(line, dict):
        raise ValueError("it does not hold a JSON object")
    iteration = line.get("iteration")
    if not isinstance(iteration, int) or isinstance(iteration, bool) or iteration < 1:
        raise ValueError("it has no iteration")
    if "heldout_score" in line:
        line["validation_score"] = line.pop("heldout_score")
    return line


def read(path: Path) -> list[Line]:
    """Return all complete lines. An incomplete last line, which a killed process may leave, is ignored.

    Raises:
        ValueError: if a line is damaged.
        OSError: if the file cannot be read.
    """
    if not files.exists(path):
        return []
    return [parse(line) for line in files.read(path).split(b"\n")[:-1]]


def keep_until(path: Path, iteration: int) -> list[range]:
    """Remove damaged lines, and the lines of later iterations, which a resumed run writes again.

    If the file has damaged lines, or lines out of order, a copy of it is kept as ``metrics.jsonl.damaged``.

    Args:
        path: the file, which need not exist.
        iteration: the iteration of the checkpoint from which the run is resumed.

    Returns:
        The iterations up to ``iteration`` that have no line.

    Raises:
        OSError: if the file cannot be read or written.
    """
    content = files.read(path) if files.exists(path) else b""
    kept: list[bytes] = []
    present = [0]
    *whole, rest = content.split(b"\n")
    damaged = not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest))
    for text in whole:
        try:
            own = parse(text)["iteration"]
        except ValueError:
            damaged = True
            continue
        if own <= present[-1]:
            damaged = True
        elif own <= iteration:
            kept.append(text + b"\n")
            present.append(own)
    if damaged:
        files.write_atomically(files.aside(path), content)
        files.write_atomically(path, b"".join(kept))
    elif content:
        with files.open_regular(path, os.O_RDWR, "rb+") as file:
            file.truncate(sum(map(len, kept)))
    gaps = zip(present, [*present[1:], iteration + 1], strict=True)
    return [range(before + 1, after) for before, after in gaps if after > before + 1]


def missing_text(missing: Sequence[range]) -> str:
    """Describe the iterations that ``keep_until`` returned, for a message."""
    shown = [str(gap[0]) if len(gap) == 1 else f"{gap[0]} to {gap[-1]}" for gap in missing]
    more = f" and {len(shown) - 5} more gaps" if len(shown) > 5 else ""
    return f"iteration{'s' * (sum(map(len, missing)) > 1)} {', '.join(shown[:5])}{more}"


def scalars(line: Line, seed_ids: Sequence[int]) -> dict[str, float]:
    """Return the metrics of a line in the form that trackers get.

    Args:
        line: one line of ``metrics.jsonl``.
        seed_ids: the seeds, in the order of the entries of each metric.

    Returns:
        The values by name; with several seeds the names are ``NAME/seed-N``. A value that is None is left out.
    """
    return {
        name if len(seed_ids) == 1 else f"{name}/seed-{seed}": value
        for name, values in line.items()
        if isinstance(values, list)
        for seed, value in zip(seed_ids, values, strict=True)
        if value is not None
    }


class Writer:
    """A writer that appends lines to ``metrics.jsonl``."""

    def __init__(self, path: Path, iteration: int) -> None:
        """Open the file to append the iterations after ``iteration``. A warning names missing earlier iterations.

        Raises:
            OSError: if the file cannot be written.
        """
        if missing := keep_until(path, iteration):
            warn(f"{path} has no metrics of {missing_text(missing)}: they are lost, training goes on without them")
        self._file = files.open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, lines: list[Line]) -> None:
        """Append lines, and force them to the disk, so that they exist whenever a later checkpoint exists."""
        if not lines:
            return
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
