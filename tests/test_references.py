"""Tests of loading the user's code by reference."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from metarl_jax import references


def test_a_name_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(kw_only=True)\n"
        "class Thing:\n"
        "    size: int = 3\n"
        "thing = Thing()\n"
    )
    before = list(sys.path)
    loaded = references.load("mine.py:thing")
    assert loaded.value.size == 3
    assert loaded.reference == "mine.py:thing"
    assert loaded.sha256 is not None and len(loaded.sha256) == 64
    assert sys.path == before
    # The file is executed once, as long as it stays the same.
    assert references.load(f"{tmp_path}/mine.py:thing").value is loaded.value
    Path("mine.py").write_text("thing = 4\n")
    assert references.load("mine.py:thing").value == 4


def test_a_name_in_a_module() -> None:
    assert references.load("os.path:join") == (os.path.join, "os.path:join", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.py:thing", "none.py:thing: none.py cannot be read: No such file or directory"),
        ("mine.py:thin", r"mine.py has no 'thin' \(did you mean thing"),
        ("mine.py:", "mine.py has no ''"),
        ("raises.py:thing", r"raises.py:thing cannot be loaded: ZeroDivisionError: division by zero"),
        ("mine:thing", r"No module named 'mine' \(the working directory is not searched"),
        ("os.path:joyn", "os.path has no 'joyn'"),
        ("thing", r"'thing' is not a reference: it must be FILE.py:NAME or PACKAGE.MODULE:NAME"),
    ],
)
def test_references_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    Path("mine.py").write_text("thing = 1\n")
    Path("raises.py").write_text("thing = 1 / 0\n")
    with pytest.raises(ValueError, match=message):
        references.load(text)
    assert not [name for name in sys.modules if name.startswith("metarl_jax_user_raises")]
