"""Run folders from strangers: one line names each fault, and no file inside or outside is overwritten."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flax import serialization

from metarl_jax import cli
from metarl_jax.runs import checkpoints, evaluate, metrics, report, study
from metarl_jax.runs.files import printable
from metarl_jax.runs.study_folder import StudyConfig, cells

COMMANDS = ["resume", "evaluate", "report", "record", "watch"]
WRITE_REPORT = report.write
"""The real function. The other tests of this folder replace it."""


def _command(run: Any, command: str) -> int:
    path = str(run.path)
    if command == "resume":
        return run.resume()
    if command == "evaluate":
        return cli.main(["evaluate", path, "--evaluation-tasks", "9"])
    if command == "best":
        return cli.main(["evaluate", path, "--evaluation-tasks", "9", "--best"])
    return cli.main([command, path, *(["--once"] if command == "watch" else [])])


def _one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


# Checkpoints by name.


def test_another_file_with_the_ending_of_checkpoints_is_none(finished, capsys) -> None:
    whole, metrics_before = finished.leaves(), finished.metrics()
    backup = finished.checkpoints / "backup.checkpoint"
    shutil.copy(finished.checkpoint(12), backup)
    unicode_digits = finished.checkpoints / "٠٠٠٠٠٠٠٩٩.checkpoint"
    shutil.copy(finished.checkpoint(12), unicode_digits)
    assert [path.name for path in checkpoints.paths(finished.checkpoints)] == [
        "000000020.checkpoint",
        "000000016.checkpoint",
        "000000012.checkpoint",
    ]
    finished.checkpoint(20).unlink()
    assert finished.resume() == 0
    assert capsys.readouterr().err == ""
    assert finished.leaves() == whole and finished.metrics() == metrics_before
    # Deleting old checkpoints does not change them either.
    assert backup.exists() and unicode_digits.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("000000032.checkpoint", "it holds iteration 12, not the one in its name"),
        ("000000020.checkpoint", "it holds iteration 12, not the one in its name"),
    ],
)
def test_a_checkpoint_under_another_name_is_skipped(finished, capsys, name: str, reason: str) -> None:
    whole = finished.leaves()
    shutil.copy(finished.checkpoint(12), finished.checkpoints / name)
    assert finished.resume() == 0
    captured = capsys.readouterr()
    assert _one_line(captured.err).endswith(f"skipped checkpoint {finished.checkpoints / name}: {reason}")
    assert finished.leaves() == whole
    if name.startswith("000000032"):
        assert (finished.checkpoints / f"{name}.damaged").exists()


def _content(path: Path) -> dict[str, Any]:
    content: Any = serialization.msgpack_restore(checkpoints.read_payload(path))
    return content


def _write(path: Path, payload: bytes) -> None:
    path.write_bytes(hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def test_a_checkpoint_beyond_the_run_is_skipped(finished, capsys) -> None:
    content = _content(finished.checkpoint(20))
    content["meta"]["iteration"] = 21
    _write(finished.checkpoint(21), serialization.msgpack_serialize(content))
    assert finished.resume() == 0
    assert "it holds iteration 21 of a run of 20" in _one_line(capsys.readouterr().err)


def _meta(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        content["meta"][name] = value
        return content

    return change


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        del content["meta"][name]
        return content

    return change


def _extra(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        content["meta"]["extra"][name] = value
        return content

    return change


def _leaf(value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        first = sorted(content["leaves"])[0]
        content["leaves"][first] = value
        return content

    return change


def _key_implementation(content: dict[str, Any]) -> Any:
    content["meta"]["keys"] = dict.fromkeys(content["meta"]["keys"], "rbg")
    return content


def _no_key(content: dict[str, Any]) -> Any:
    content["meta"]["keys"] = {}
    return content


def _short_key(content: dict[str, Any]) -> Any:
    for name in content["meta"]["keys"]:
        content["leaves"][name] = content["leaves"][name][..., :1]
    return content


def _strange_leaf(content: dict[str, Any]) -> Any:
    content["leaves"]["\x1b[2J"] = np.zeros(1)
    return content


CRAFTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda content: [1, 2],
    "a number": lambda content: 7,
    "empty": lambda content: {},
    "no meta": lambda content: {"leaves": content["leaves"]},
    "no leaves": lambda content: {"meta": content["meta"]},
    "meta a list": lambda content: {**content, "meta": []},
    "leaves a list": lambda content: {**content, "leaves": [1]},
    "no schema": _without("schema"),
    "no iteration": _without("iteration"),
    "no keys": _without("keys"),
    "no extra": _without("extra"),
    "schema": _meta("schema", 99),
    "iteration a text": _meta("iteration", "20"),
    "iteration a number": _meta("iteration", 20.0),
    "iteration true": _meta("iteration", True),
    "iteration negative": _meta("iteration", -1),
    "keys of numbers": _meta("keys", {"a": 1}),
    "wall_s a text": _extra("wall_s", "1"),
    "wall_s not finite": _extra("wall_s", float("nan")),
    "diverged a number": _extra("diverged", 1),
    "diverged control characters": _extra("diverged", {"\x1b[2J": 3}),
    "best a text": _extra("best", "much"),
    "best validation score a text": _extra("best_validation_score", "much"),
    "a leaf a text": _leaf("text"),
    "a leaf too large": _leaf(np.zeros((3, 5, 7), np.float32)),
    "a leaf of another type": _leaf(np.zeros(1, np.complex64)),
    "a strange leaf": _strange_leaf,
    "another kind of key": _key_implementation,
    "no key": _no_key,
    "a short key": _short_key,
}


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize("name", CRAFTED)
def test_a_whole_checkpoint_of_foreign_content_is_one_line(finished, capsys, name: str, command: str) -> None:
    change = CRAFTED[name]
    path = finished.checkpoint(20)
    _write(path, serialization.msgpack_serialize(change(copy.deepcopy(_content(path)))))
    before = finished.content()
    assert _command(finished, command) == 2
    message = _one_line(capsys.readouterr().err)
    assert message.startswith("metarl-jax: error: ") and "000000020.checkpoint" in message
    assert printable(message) == message
    assert finished.content() == before


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        # These are extensions of flax: an array whose data is not MessagePack, and an array of objects.
        b"\xc7\x03\x01\xc1\xc1\xc1",
        b"\xc7\x0c\x01\x93\x91\x01\xa1O\xc4\x04abcd",
    ],
    ids=["nothing", "unused byte", "nested", "endless", "no array", "array of objects"],
)
def test_content_that_is_not_messagepack_is_a_one_line_error(finished, capsys, payload: bytes) -> None:
    _write(finished.checkpoint(20), payload)
    before = finished.content()
    assert finished.resume() == 2
    assert "checkpoint is not a checkpoint: its content cannot be parsed" in _one_line(capsys.readouterr().err)
    assert finished.content() == before


def test_another_version_of_the_package_reads_a_checkpoint(finished, monkeypatch, capsys) -> None:
    whole = finished.leaves()
    for iteration in (16, 20):
        finished.checkpoint(iteration).unlink()
    monkeypatch.setattr("metarl_jax.__version__", "99.0.0")
    assert finished.resume() == 0
    assert capsys.readouterr().err == ""
    assert finished.leaves() == whole
    versions = json.loads((finished.path / "versions.json").read_text())
    assert [(entry["from_iteration"], entry["metarl_jax"]) for entry in versions][-1] == (12, "99.0.0")


@pytest.fixture
def old(run, root: Path) -> Any:
    """A run folder in the form of version 0.1.0."""
    shutil.copytree(root / "tests" / "data" / "run-0.1.0", run.path)
    return run


def test_a_run_folder_of_version_0_1_0_loads(old, capsys) -> None:
    before = old.content()
    assert cli.main(["evaluate", str(old.path), "--evaluation-tasks", "8"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "already measured" in captured.out
    assert old.content() == before
    assert cli.main(["evaluate", str(old.path), "--evaluation-tasks", "9", "--best"]) == 0
    assert cli.main(["watch", str(old.path), "--once"]) == 0
    assert "iteration 6/6, finished" in capsys.readouterr().out


def test_a_run_folder_of_version_0_1_0_resumes(old, capsys) -> None:
    last = old.leaves(6)
    old.checkpoint(6).unlink()
    assert old.resume() == 0
    assert "an older version chose" in _one_line(capsys.readouterr().err)
    now = old.leaves(6)
    assert now.keys() == last.keys()
    for name, value in last.items():
        # The compiler options of the tests differ from those of that run.
        np.testing.assert_allclose(now[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert [line["iteration"] for line in old.metrics()] == [1, 2, 3, 4, 5, 6]


# Metrics.


def _middle(lines: list[str]) -> list[str]:
    return [*lines[:4], '{"iteration": 5, "st\x00', *lines[5:]]


@pytest.mark.parametrize(
    ("change", "missing", "kept"),
    [
        (lambda lines: lines[:9], "iterations 10 to 16", False),
        (lambda lines: [], "iterations 1 to 16", False),
        (lambda lines: None, "iterations 1 to 16", False),
        (lambda lines: lines[3:], "iterations 1 to 3", False),
        (lambda lines: [*lines[:2], *lines[3:8], *lines[10:]], "iterations 3, 9 to 10", False),
        (_middle, "iteration 5", True),
        (lambda lines: [*lines[:4], "[" * 100_000, *lines[5:]], "iteration 5", True),
        (lambda lines: [*lines[:4], "{}", *lines[5:]], "iteration 5", True),
        (lambda lines: ["\x00" * 4000], "iterations 1 to 16", True),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "iteration 1", True),
    ],
    ids=["cut", "empty", "deleted", "head", "gaps", "garbage", "nested", "object", "zeroed", "order"],
)
def test_metrics_that_are_lost_are_named(finished, capsys, change, missing: str, kept: bool) -> None:
    path, whole = finished.path / "metrics.jsonl", finished.leaves()
    lines = change(path.read_text().splitlines())
    path.unlink()
    if lines is not None:
        path.write_text("".join(f"{line}\n" for line in lines))
    damaged = path.read_bytes() if lines is not None else b""
    finished.checkpoint(20).unlink()
    assert finished.resume() == 0
    assert _one_line(capsys.readouterr().err) == (
        f"metarl-jax: warning: {path} has no metrics of {missing}: they are lost, training goes on without them"
    )
    assert finished.leaves() == whole
    found = [line["iteration"] for line in finished.metrics()]
    assert found[-4:] == [17, 18, 19, 20] and found == sorted(set(found))
    aside = path.with_name("metrics.jsonl.damaged")
    assert aside.exists() == kept
    if kept:
        assert aside.read_bytes() == damaged


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iter')
    assert metrics.keep_until(path, 1) == []
    assert path.read_text() == '{"iteration": 1}\n'
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


# Evaluations by name.


def test_evaluations_have_names_of_their_own() -> None:
    folder: Any = SimpleNamespace(path=Path("run"))
    changes = [{}, {"data_dir": "data/v2"}, {"data_dir": "data_v2"}, {"data_dir": "x" * 5000}, {"a": 1}, {"a": 1.0}]
    changes += [{"a": "1"}, {"a": True}, {"a": "1-b=2"}, {"a": "1", "b": 2}]
    names = {evaluate.path_of(folder, 60000, 10**6, change, 2**32 - 1).name for change in changes}
    assert len(names) == len(changes)
    assert all(len(name) <= 100 and name.isascii() and "/" not in name for name in names)
    assert evaluate.path_of(folder, 1, 2, {"a": 1, "b": 2}, 0) == evaluate.path_of(folder, 1, 2, {"b": 2, "a": 1}, 0)


def test_an_evaluation_with_another_number_of_tasks_is_not_reported(finished, capsys) -> None:
    own = finished.path / "evaluation-iteration20-tasks16-seed0.json"
    shutil.copy(own, finished.path / "evaluation-iteration20-tasks9-seed0.json")
    before = finished.content()
    assert _command(finished, "evaluate") == 2
    assert "holds an evaluation with tasks 16, not 9: move it away to evaluate again" in _one_line(
        capsys.readouterr().err
    )
    assert finished.content() == before


def test_cells_of_a_study_have_names_of_their_own() -> None:
    def names_of(**vary: list[Any]) -> list[str]:
        config = StudyConfig(experiment="e", settings={"iterations": 1}, vary=vary, seed=0, seeds=1)
        return [cell.name for cell in cells(config)]

    assert names_of(a=[0.5, 1.0], b=["x"]) == ["a=0.5,b=x", "a=1,b=x"]
    for names in (
        names_of(folder=["data/v2", "data_v2"]),
        names_of(a=[0.12345671, 0.12345672]),
        names_of(folder=["x" * 300, "x" * 299 + "y"]),
        names_of(folder=["é" * 200, "é" * 201]),
    ):
        assert len(set(names)) == 2
        assert all(len(name.encode()) <= 240 and "/" not in name for name in names)


# Links to other places.


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that no command may change."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "precious").write_text('{"iteration": 1, "steps": 2}\n{"iteration": 99}\n')
    for iteration in range(5):
        (path / f"00000000{iteration}.checkpoint").write_text("precious")
    return path


def _tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


READ_OR_WRITTEN = {
    "lock": ["resume"],
    "metrics.jsonl": ["resume", "watch", "report"],
    "versions.json": ["resume", "report"],
    "summary.json": ["resume"],
    "best.checkpoint": ["resume", "best"],
    "report.md": ["report"],
    "report.html": ["report"],
    "evaluation-iteration20-tasks9-seed0.json": ["evaluate", "report"],
    "trial-iteration20-seed0.gif": ["record", "report"],
    "config.json": COMMANDS,
    "checkpoints/000000020.checkpoint": ["resume", "evaluate"],
}
"""Files of a run folder, and the commands that use them."""
FORESEEN = [
    f"{name}.tmp"
    for name in (
        *("metrics.jsonl", "versions.json", "summary.json", "best.checkpoint", "report.md", "report.html"),
        *(
            "evaluation-iteration20-tasks9-seed0.json",
            "trial-iteration20-seed0.gif",
            "checkpoints/000000020.checkpoint",
        ),
    )
]
"""The names that version 0.1.0 gave to temporary files."""


def _plant(run: Any, name: str, make: Callable[[Path], object]) -> None:
    path = run.path / name
    path.unlink(missing_ok=True)
    make(path)
    if not name.startswith("checkpoints/"):
        # A part of the run must still be trained.
        run.checkpoint(20).unlink(missing_ok=True)


@pytest.mark.parametrize("name", READ_OR_WRITTEN)
def test_a_link_is_never_followed(finished, outside: Path, capsys, monkeypatch, name: str) -> None:
    monkeypatch.setattr(report, "write", WRITE_REPORT)
    _plant(finished, name, lambda path: path.symlink_to(outside / "precious"))
    before = _tree(outside)
    for command in READ_OR_WRITTEN[name]:
        assert _command(finished, command) in (0, 2, 4)
        assert "Traceback" not in (err := capsys.readouterr().err)
        assert len(err.splitlines()) <= 2, err
        assert _tree(outside) == before
    path = finished.path / name
    # A checkpoint that cannot be read is renamed.
    assert path.is_symlink() or path.with_name(f"{path.name}.damaged").is_symlink()


def test_links_under_predictable_temporary_names_have_no_effect(finished, outside: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(report, "write", WRITE_REPORT)
    for name in FORESEEN:
        _plant(finished, name, lambda path: path.symlink_to(outside / "precious"))
    before, whole = _tree(outside), finished.leaves(16)
    for command in ("resume", "evaluate", "report", "record"):
        assert _command(finished, command) == 0
        assert capsys.readouterr().err == ""
    assert _tree(outside) == before
    assert finished.leaves(16) == whole


@pytest.mark.parametrize("name", ["checkpoints", "events"])
def test_a_folder_that_is_a_link_is_refused(finished, outside: Path, capsys, name: str) -> None:
    shutil.rmtree(finished.path / name)
    (finished.path / name).symlink_to(outside)
    before = _tree(outside)
    for command in COMMANDS:
        assert _command(finished, command) == 2
        assert _one_line(capsys.readouterr().err) == (
            f"metarl-jax: error: {finished.path / name} cannot be used: it is a symbolic link, which is not followed"
        )
    assert _tree(outside) == before


@pytest.mark.parametrize("name", READ_OR_WRITTEN)
def test_a_fifo_never_blocks_a_command(finished, capsys, monkeypatch, name: str) -> None:
    monkeypatch.setattr(report, "write", WRITE_REPORT)
    _plant(finished, name, os.mkfifo)
    for command in READ_OR_WRITTEN[name]:
        assert _command(finished, command) in (0, 2, 4)
        assert len((err := capsys.readouterr().err).splitlines()) <= 2, err


def test_links_above_a_run_folder_are_followed(finished, tmp_path: Path) -> None:
    whole = finished.leaves()
    finished.checkpoint(20).unlink()
    finished.path.rename(tmp_path / "elsewhere")
    finished.path.symlink_to(tmp_path / "elsewhere")
    assert finished.resume() == 0
    assert finished.leaves() == whole


# Damage of other files.


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "[" * 100_000, "\x00" * 50])
def test_damaged_versions_stop_a_resume_and_stay(finished, capsys, content: str) -> None:
    (finished.path / "versions.json").write_text(content)
    before = finished.content()
    finished.checkpoint(20).unlink()
    del before["checkpoints/000000020.checkpoint"]
    assert finished.resume() == 2
    message = _one_line(capsys.readouterr().err)
    assert "versions.json cannot be read: " in message and message.endswith("; move it away to go on without it")
    assert finished.content() == before
    (finished.path / "versions.json").unlink()
    assert finished.resume() == 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": "8"}, "trials must be a positive whole number, not '8'"),
        ({"trials": True}, "trials must be a positive whole number, not True"),
        ({"discount": None}, "discount must be a finite number at least 0 and at most 1, not None"),
        ({"cell": ["gru"]}, "cell must be one of gru, lstm, not ['gru']"),
    ],
)
def test_settings_of_other_types_are_one_line(finished, capsys, command: str, settings: dict, message: str) -> None:
    path = finished.path / "config.json"
    config = json.loads(path.read_text())
    part = config["network" if "cell" in settings else "algorithm"]["settings"]
    part |= settings
    path.write_text(json.dumps(config))
    before = finished.content()
    code = _command(finished, command)
    err = capsys.readouterr().err
    if command in ("resume", "evaluate", "record"):
        assert code == 2 and message in _one_line(err)
        assert finished.content() == before
    assert "Traceback" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_control_character_of_a_run_folder_reaches_the_terminal(finished, capsys, command: str) -> None:
    evil = "\x1b]0;title\x07\x1b[2J"
    shutil.copy(finished.checkpoint(20), finished.checkpoints / f"{evil}.checkpoint")
    result = json.loads((finished.path / "evaluation-iteration20-tasks16-seed0.json").read_text())
    result["ours"]["name"] = evil
    (finished.path / "evaluation-iteration20-tasks9-seed0.json").write_text(json.dumps(result))
    (finished.path / f"evaluation-{evil}.json").write_text("{")
    (finished.path / f"trial-iteration20-seed{evil}.gif").write_bytes(b"GIF89a")
    with open(finished.path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"iteration": 21, "steps": 1, "wall_s": 1.0, evil: [1.0]}) + "\n")
    _command(finished, command)
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert not any(c in text for c in "\x1b\x07")


def test_a_control_character_in_the_configuration_is_refused(finished, capsys) -> None:
    path = finished.path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "experiment": "\x1b[2J"}))
    for command in COMMANDS:
        assert _command(finished, command) == 2
        captured = capsys.readouterr()
        assert "contains control characters" in _one_line(captured.err)
        assert "\x1b" not in captured.out + captured.err


# Studies.


@pytest.fixture
def received_study(tmp_path: Path) -> Path:
    """A study folder whose cells have not been trained yet."""
    path = tmp_path / "study"
    options = ["--vary", "learning-rate=0.001,0.002", "--iterations", "1", "--tasks", "2", "--seeds", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "run", lambda *arguments: 1)
        assert cli.main(["study", "fomaml-sinusoid", *options, "--run-dir", str(path)]) == 1
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vary": {f"s{i}": list(range(10)) for i in range(9)}},
            "1000000000 combinations of settings are more than 1000",
        ),
        ({"vary": {"learning_rate": 3}}, "vary does not map settings to lists of values"),
        ({"vary": {"learning_rate": []}}, "vary does not map settings to lists of values"),
        ({"vary": [1]}, "vary is of another type than dict"),
        ({"algorithm": "all"}, "algorithm is not a JSON object with settings"),
        ({"seed": 2**32 - 1, "seeds": 2}, "seeds 4294967295 .. 4294967296 are not all from 0 to 4294967295"),
        ({"seeds": 0}, "seeds must be a positive whole number, not 0"),
        ({"evaluate_every": 0}, "evaluate_every must be a positive whole number, not 0"),
        ({"evaluation_tasks": "9"}, "evaluation_tasks must be a positive whole number, not '9'"),
        ({"schema": 99}, "has schema 99"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
        ({"experiment": "\x1b[2J"}, "contains control characters"),
        ({"experiment": "unknown"}, "unknown"),
    ],
)
def test_a_study_that_cannot_be_used_is_one_line(received_study: Path, capsys, changes: dict, message: str) -> None:
    path = received_study / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    before = _tree(received_study)
    for command in (["resume"], ["report"], ["watch", "--once"]):
        capsys.readouterr()
        assert cli.main([command[0], str(received_study), *command[1:]]) == 2
        captured = capsys.readouterr()
        assert message in _one_line(captured.err)
        assert printable(captured.err.strip()) == captured.err.strip()
    assert _tree(received_study) == before


@pytest.mark.parametrize("name", ["cells", "cells/learning_rate=0.001"])
def test_a_study_whose_parts_are_links_is_refused(received_study: Path, outside: Path, capsys, name: str) -> None:
    path = received_study / name
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(outside)
    before = _tree(outside)
    for command in (["resume"], ["report"], ["watch", "--once"]):
        capsys.readouterr()
        assert cli.main([command[0], str(received_study), *command[1:]]) == 2
        assert "it is a symbolic link, which is not followed" in _one_line(capsys.readouterr().err)
    assert _tree(outside) == before


TABLE = {
    "schema": study.SCHEMA,
    "experiment": "fomaml-sinusoid",
    "measure": {"title": "error"},
    "tasks": 8,
    "seeds": 1,
    "compared_with": "a",
    "cells": [{"cell": "a", "validation": {"iqm": None}, "heldout": {"iqm": None}}],
    "probability_of_improvement": {},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": 3}, "cells is not a list"),
        ({"cells": [{"cell": "a"}]}, "cells[0].validation is missing"),
        ({"cells": [{**TABLE["cells"][0], "heldout": {"iqm": 1.0}}]}, "heldout.per_seed is missing"),
        ({"measure": None}, "measure is not a dictionary"),
        ({"probability_of_improvement": {"a": {"b": 1}}}, "probability_of_improvement.a.b is not a dictionary"),
        ({"schema": 1}, "has schema 1"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(received_study: Path, capsys, changes: dict, message: str) -> None:
    (received_study / "table.json").write_text(json.dumps({**TABLE, **changes}))
    before = _tree(received_study)
    capsys.readouterr()
    assert cli.main(["report", str(received_study)]) == 2
    line = _one_line(capsys.readouterr().err)
    assert message in line and line.endswith(f"to write it again: metarl-jax resume {received_study}")
    assert _tree(received_study) == before


# Places that cannot be written.


def test_long_names_are_one_line(tmp_path: Path, capsys) -> None:
    long = str(tmp_path / ("x" * 300))
    for command, code in (
        (["train", "maml-sinusoid", "--run-dir", long], 4),
        (["resume", long], 2),
        (["study", "maml-sinusoid", "--run-dir", long], 4),
        (["resume", long], 2),
        (["evaluate", long], 2),
        (["report", long], 2),
        (["record", long], 2),
        (["watch", long, "--once"], 2),
    ):
        assert cli.main(command) == code, command
        assert "File name too long" in _one_line(capsys.readouterr().err)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", ["resume", "evaluate", "report", "record"])
def test_a_folder_that_cannot_be_written_is_one_line(finished, monkeypatch, capsys, command: str) -> None:
    monkeypatch.setattr(report, "write", WRITE_REPORT)
    finished.checkpoint(20).unlink()
    (finished.path / "trial-iteration20-seed0.gif").unlink(missing_ok=True)
    before = finished.content()
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **keywords: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(finished.path)):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest, **keywords)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert _command(finished, command) == 4
    message = _one_line(capsys.readouterr().err)
    assert message.startswith("metarl-jax: error: cannot write") and "make room" not in message
    assert finished.content() == before
