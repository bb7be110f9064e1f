"""``metrics.jsonl``: one line an iteration, some with a validation score; every metric is a list with an entry a seed.

A seed that has diverged has ``null`` from then on. TensorBoard events get the last line of every chunk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

Line: TypeAlias = dict[str, Any]


def read(path: Path) -> list[Line]:
    """All whole lines; what a killed process left half written at the end is not one."""
    if not path.exists():
        return []
    return [parse(line) for line in path.read_text().split("\n")[:-1]]


def parse(text: str | bytes) -> Line:
    """Read one line; ``heldout_score``, as older versions wrote it, becomes ``validation_score``.

    Raises:
        ValueError: if the line is not JSON.
    """
    line = json.loads(text)
    if isinstance(line, dict) and "heldout_score" in line:
        line["validation_score"] = line.pop("heldout_score")
    return line


def keep_until(path: Path, iteration: int) -> None:
    """Drop the lines of later iterations, which a resumed run will write again."""
    if not path.exists():
        return
    size = 0
    with open(path, "rb+") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["iteration"] > iteration:
                break
            size += len(line)
        file.truncate(size)


class Writer:
    """Appends to ``metrics.jsonl`` and to TensorBoard events."""

    def __init__(self, path: Path, events: Path, seed_ids: list[int], iteration: int) -> None:
        """Go on after ``iteration``.

        Raises:
            OSError: if the files cannot be written.
        """
        from tensorboardX import SummaryWriter

        keep_until(path, iteration)
        self._file = open(path, "ab")  # noqa: SIM115 (closed in __exit__)
        self._events = SummaryWriter(str(events), purge_step=iteration + 1)
        self._seed_ids = seed_ids

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()

    def write(self, lines: list[Line]) -> None:
        """Append lines, and force them to the disk: a checkpoint written later may count on them."""
        if not lines:
            return
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, values in lines[-1].items():
            for seed, value in zip(self._seed_ids, values, strict=True) if isinstance(values, list) else ():
                if value is not None:
                    tag = name if len(self._seed_ids) == 1 else f"{name}/seed-{seed}"
                    self._events.add_scalar(tag, value, lines[-1]["iteration"])
