"""Output that cannot be written, or not in its encoding, does not change a run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def _full() -> Any:
    return open("/dev/full", "w", encoding="utf-8")


def _gone() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def _ascii() -> Any:
    return io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_WRONLY), "w"), encoding="ascii")


@pytest.mark.parametrize(
    ("stream", "warning"),
    [(_full, "No space left on device"), (_gone, "Broken pipe"), (lambda: None, ""), (_ascii, "")],
)
def test_a_run_does_not_depend_on_its_output(run, finished, monkeypatch, capsys, stream, warning) -> None:
    run.path = run.path.with_name("r\xe9sum\xe9 of \u6211")
    run.checkpoints = run.path / "checkpoints"
    output = stream()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        assert run.start() == 0
    if output is not None:
        output.close()
    errors = capsys.readouterr().err
    assert errors.count("\n") == bool(warning)
    assert warning in errors
    assert run.leaves() == finished.leaves()
    assert run.metrics() == finished.metrics()
    assert (run.path / "report.html").exists()


def test_a_run_continues_without_any_stream(run, finished, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        for name in ("stdin", "stdout", "stderr"):
            patch.setattr(sys, name, None)
        assert run.start() == 0
    assert run.leaves() == finished.leaves()


def test_the_locale_may_be_c(finished) -> None:
    """In the locale C, the path has bytes that are not text, and the default encoding cannot read the files."""
    path = finished.path.with_name("r\xe9sum\xe9")
    finished.path.rename(path)
    file = path / "versions.json"
    entries = [{**entry, "device": "Xe\xf3n"} for entry in json.loads(file.read_text(encoding="utf-8"))]
    file.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(REPOSITORY)}
    environment = {**os.environ, **locale}
    command = [sys.executable, "-m", "metarl_jax", "report", str(path), "--no-record"]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "Xe\xf3n" in (path / "report.html").read_text(encoding="utf-8")
