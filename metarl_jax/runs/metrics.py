"""``metrics.jsonl``: one line an iteration, some with a validation score; every metric is a list with an entry a seed.

A seed that has diverged has ``null`` from then on.
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
"""How every line begins."""


def parse(text: bytes | str) -> Line:
    """One line; ``heldout_score``, which version 0.1.0 wrote, becomes ``validation_score``.

    Raises:
        ValueError: if it is not what ``Writer`` writes.
    """
    line = files.parse_json(text)
    if not isinstance(line, dict):
        raise ValueError("it holds no JSON object")
    iteration = line.get("iteration")
    if not isinstance(iteration, int) or isinstance(iteration, bool) or iteration < 1:
        raise ValueError("it has no iteration")
    if "heldout_score" in line:
        line["validation_score"] = line.pop("heldout_score")
    return line


def read(path: Path) -> list[Line]:
    """All whole lines; what a killed process left half written at the end is not one.

    Raises:
        ValueError: if a line is damaged.
        OSError: if the file cannot be read.
    """
    if not files.exists(path):
        return []
    return [parse(line) for line in files.read(path).split(b"\n")[:-1]]


def keep_until(path: Path, iteration: int) -> list[range]:
    """Drop the lines of later iterations, which a resumed run writes again, and lines that are damaged.

    A file with damaged lines, or lines out of order, is kept as ``metrics.jsonl.damaged``.

    Args:
        path: the file, which need not exist.
        iteration: of the checkpoint that the run goes on from.

    Returns:
        The iterations up to that one of which there is no line.

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
    """The iterations that ``keep_until`` returned, in words."""
    shown = [str(gap[0]) if len(gap) == 1 else f"{gap[0]} to {gap[-1]}" for gap in missing]
    more = f" and {len(shown) - 5} more gaps" if len(shown) > 5 else ""
    return f"iteration{'s' * (sum(map(len, missing)) > 1)} {', '.join(shown[:5])}{more}"


def scalars(line: Line, seed_ids: Sequence[int]) -> dict[str, float]:
    """The metrics of a line, as trackers get them.

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
    """Appends to ``metrics.jsonl``."""

    def __init__(self, path: Path, iteration: int) -> None:
        """Go on after ``iteration``; a warning names the iterations before it of which there are no metrics.

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
        """Append lines, and force them to the disk: a checkpoint written later may count on them."""
        if not lines:
            return
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
