"""Damaged files, full disks, and numbers that are not finite: messages name them, and no good data is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from typing import Any

import pytest

from metarl_jax import cli
from metarl_jax.runs import files


def _one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def _truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _empty(path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty])
def test_a_damaged_checkpoint_is_named_and_skipped(finished, capsys, damage) -> None:
    whole, metrics = finished.leaves(), finished.metrics()
    damage(finished.checkpoint(20))
    assert finished.resume() == 0
    captured = capsys.readouterr()
    assert "000000020.checkpoint" in _one_line(captured.err)
    assert "going on after iteration 16" in captured.out
    assert finished.leaves() == whole
    assert finished.metrics() == metrics


def test_a_run_does_not_restart_without_a_readable_checkpoint(finished, capsys) -> None:
    for iteration in (12, 16, 20):
        _truncate(finished.checkpoint(iteration))
    before = finished.content()
    assert finished.resume() == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("metarl-jax: error: no checkpoint")
    assert finished.content() == before


def test_a_run_does_not_restart_without_any_checkpoint(finished, capsys) -> None:
    for iteration in (12, 16, 20):
        finished.checkpoint(iteration).unlink()
    assert finished.resume() == 2
    assert "there is no checkpoint" in _one_line(capsys.readouterr().err)


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("another configuration", lambda run: _set_config(run, seed=7)),
        ("does not fit", lambda run: None),
        ("schema", lambda run: _set_config(run, schema=99)),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(finished, monkeypatch, capsys, what, change, command) -> None:
    change(finished)
    if what == "does not fit":
        monkeypatch.setattr("metarl_jax.runs.folder.RunConfig.hash", lambda self: _stored_hash(finished))
        network = json.loads((finished.path / "config.json").read_text())["network"]
        network["settings"]["hidden_size"] = 5
        _set_config(finished, network=network)
    before = finished.content()
    code = (
        finished.resume()
        if command == "resume"
        else cli.main(["evaluate", str(finished.path), "--evaluation-tasks", "9"])
    )
    assert code == 2
    assert what in _one_line(capsys.readouterr().err)
    assert finished.content() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--epsiodes", "3"], "Perhaps you meant: --episodes INT"),
        (["--evaluation-tasks", "0"], "evaluation_tasks must be a whole number of at least 2"),
        (["--episodes", "0"], "episodes must be a positive whole number, not 0"),
        (["--hidden-size", "5"], "cannot be evaluated with hidden_size 5"),
    ],
)
def test_an_impossible_evaluation_is_a_clear_error(finished, capsys, options, expected) -> None:
    before = finished.content()
    assert cli.main(["evaluate", str(finished.path), *options]) == 2
    assert expected in " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert finished.content() == before


def test_evaluation_with_other_settings_is_kept_apart(finished) -> None:
    before = finished.content()
    digest = hashlib.sha256(b'{"episodes": 5}').hexdigest()[:16]
    name = f"evaluation-iteration20-tasks9-changed-{digest}-seed0.json"
    for _ in range(2):
        assert cli.main(["evaluate", str(finished.path), "--evaluation-tasks", "9", "--episodes", "5"]) == 0
        assert {new for new in finished.content() if new not in before} == {name}
    result = json.loads((finished.path / name).read_text())
    assert result["changes"] == {"episodes": 5}
    assert len(result["ours"]["score_by_stage"]) == result["stages"] == 5


def _set_config(run, **changes) -> None:
    path = run.path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _stored_hash(run) -> str:
    from flax import serialization

    from metarl_jax.runs import checkpoints

    content: Any = serialization.msgpack_restore(checkpoints.read_payload(run.checkpoint(20)))
    return content["meta"]["config_hash"]


@pytest.mark.parametrize("writes", [8, 13, 14, 17])
def test_a_full_disk_stops_the_run_and_spares_the_last_state(run, finished, monkeypatch, capsys, writes) -> None:
    real, count = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert run.start() == 4
    *before, message = capsys.readouterr().err.splitlines()
    assert all("TensorBoard has failed, training goes on without it" in line for line in before)
    assert "No space left on device" in message and "last good state" in message
    assert not list(run.path.rglob(f"*{files.TEMPORARY}"))
    monkeypatch.setattr(os, "fsync", real)
    assert run.resume() == 0
    assert run.leaves() == finished.leaves()
    assert run.metrics() == finished.metrics()


def test_a_full_disk_at_the_start_leaves_no_files(run, monkeypatch, capsys) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run.start() == 4
    assert "No space left on device" in _one_line(capsys.readouterr().err)
    assert not list(run.path.parent.iterdir())


def test_temporary_files_of_a_killed_process_are_removed(finished) -> None:
    whole = finished.metrics()
    rubbish = finished.checkpoints / f".0123456789abcdef{files.TEMPORARY}"
    rubbish.write_bytes(b"half")
    with open(finished.path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 21, "lo')
    finished.checkpoint(20).unlink()
    assert finished.resume() == 0
    assert not rubbish.exists()
    assert finished.metrics() == whole


def test_divergence_stops_and_keeps_the_last_finite_state(run, capsys) -> None:
    assert run.start("--learning-rate", "1e37", "--seeds", "2") == 3
    message = _one_line(capsys.readouterr().err)
    assert "seed 0 at iteration" in message
    assert message.endswith("a smaller learning_rate (1e+37) may help")
    saved = sorted(run.checkpoints.iterdir())[-1]
    iteration = int(saved.name.removesuffix(".checkpoint"))
    assert f"at iteration {iteration + 1}" in message
    assert len(run.metrics()) == iteration
    assert "nan" not in str(run.leaves(iteration)).lower() and "inf" not in str(run.leaves(iteration)).lower()
    before = run.content()
    assert run.resume() == 3
    assert _one_line(capsys.readouterr().err) == message
    assert run.content() == before


def test_two_processes_do_not_train_one_run(finished, capsys) -> None:
    from metarl_jax.runs.folder import RunFolder

    with RunFolder(finished.path).lock():
        assert finished.resume() == 2
    assert "another process" in _one_line(capsys.readouterr().err)
