"""Read and write results files, ``benchmarks/results/NAME.json``, with one row for each claim.

A file is written completely or not at all.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("METARL_JAX_RESULTS") or Path(__file__).parent / "results")
"""The folder of the results files; the environment variable names another one."""
PAGE = Path(__file__).resolve().with_name("README.md")
"""The page of all results; README.md of the project has the headlines only."""
SCHEMA = 1


def provenance() -> dict[str, Any]:
    """Return the origin of a number: device, package versions, and commit (with "+" if the tree was changed).

    The environment variable METARL_JAX_COMMIT replaces the commit that git reports, for a copy without a repository.
    """
    import jax

    device = jax.devices()[0]
    kind = f"cpu x{len(os.sched_getaffinity(0))}" if device.platform == "cpu" else device.device_kind
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    versions["python"] = platform.python_version()

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return run.stdout.strip() if run.returncode == 0 else ""

    commit = os.environ.get("METARL_JAX_COMMIT")
    if not commit:
        changed = "+" if git("status", "--porcelain", "--", "../metarl_jax") else ""
        commit = (git("rev-parse", "--short", "HEAD") or "unknown") + changed
    return {"device": kind, "versions": versions, "commit": commit}


def read_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file; an empty list if there is no such file."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    if content.get("schema") != SCHEMA:
        raise SystemExit(f"{path.name} has schema {content.get('schema')!r}, this program writes {SCHEMA}")
    return content["rows"]


def write_row(name: str, row: dict[str, Any], identity: tuple[str, ...] = ("experiment", "metric")) -> None:
    """Add a row, and remove an existing row with the same fields ``identity``. The file is replaced atomically."""
    rows = [old for old in read_rows(name) if any(old.get(field) != row.get(field) for field in identity)]
    rows.append(row)
    rows.sort(key=lambda r: [str(r.get(field)) for field in identity])
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"schema": SCHEMA, "rows": rows}, indent=1) + "\n")
    os.replace(temporary, path)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_block(page: str, program: str, text: str) -> str:
    """A page with another text between the two marks of a program.

    Raises:
        ValueError: if the page does not have these marks.
    """
    begin, end = (f"<!-- benchmarks/{program}: {mark} -->\n" for mark in ("begin", "end"))
    if begin not in page or end not in page:
        raise ValueError(f"the page has no marks for the table of benchmarks/{program}")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
