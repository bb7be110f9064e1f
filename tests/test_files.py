"""Files and folders that may have come from a stranger: no link is followed, nothing is waited for or overwritten."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import metarl_jax
from metarl_jax.runs import files, folder
from metarl_jax.runs.errors import StorageError, UserError
from metarl_jax.runs.folder import created


def _link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("nothing"))


def _fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


SPECIAL = pytest.mark.parametrize("make", [_link, _dangling, _fifo])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no code may change."""
    path = tmp_path / "outside" / "precious"
    path.parent.mkdir()
    path.write_bytes(b"precious")
    return path


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    path = tmp_path / "inside"
    path.mkdir()
    return path


@SPECIAL
def test_writing_refuses_paths_that_are_not_regular_files(
    make: Callable[[Path, Path], None], inside: Path, outside: Path
) -> None:
    make(inside / "file", outside)
    with pytest.raises(OSError, match=r"symbolic link|not a regular file"):
        files.write_atomically(inside / "file", b"new")
    with pytest.raises(OSError, match=r"symbolic link|not a regular file"):
        files.open_regular(inside / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab")
    assert os.listdir(inside) == ["file"]
    assert outside.read_bytes() == b"precious" and len(list(outside.parent.iterdir())) == 1


@SPECIAL
def test_reading_refuses_paths_that_are_not_regular_files(
    make: Callable[[Path, Path], None], inside: Path, outside: Path
) -> None:
    make(inside / "file", outside)
    with pytest.raises(OSError, match=r"symbolic link|not a regular file"):
        files.read(inside / "file")
    with pytest.raises(UserError, match=r"file cannot be read: it is (a symbolic link|not a regular file)"):
        files.read_json(inside / "file")


def test_reading_refuses_devices_folders_and_too_large_files(inside: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        files.read(Path("/dev/zero"))
    with pytest.raises(IsADirectoryError):
        files.read(inside)
    (inside / "file").write_bytes(b"12345")
    assert files.read(inside / "file", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        files.read(inside / "file", 4)


def test_a_temporary_name_cannot_be_predicted(inside: Path, outside: Path) -> None:
    # Version 0.1.0 would have written through links of these names.
    for name in ("report.md.tmp", "report.html.tmp"):
        (inside / name).symlink_to(outside)
    files.write_atomically(inside / "report.md", b"new")
    assert (inside / "report.md").read_bytes() == b"new"
    assert outside.read_bytes() == b"precious"


def test_a_write_that_fails_leaves_only_the_old_content(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_atomically(inside / "file", b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(inside / "file", b"new")
    assert (inside / "file").read_bytes() == b"old"
    assert os.listdir(inside) == ["file"]


def test_only_own_temporary_files_are_removed(inside: Path) -> None:
    for name in ("notes.tmp", ".swp.tmp", ".0123456789abcdef.tmp", "metrics.jsonl"):
        (inside / name).touch()
    files.remove_temporary(inside)
    assert set(os.listdir(inside)) == {"notes.tmp", ".swp.tmp", "metrics.jsonl"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ('{"a": ["\\u001b[2J"]}', r"control characters"),
        ('{"\\u009b2J": 1}', r"control characters"),
        ('{"a": "\\u202e"}', r"control characters"),
        ("[1]", "not hold a JSON object"),
        ("", "Expecting value"),
        ("\x00" * 20, "Expecting value"),
        ("\xff", "."),
    ],
)
def test_bad_json_is_one_error(inside: Path, text: str, message: str) -> None:
    (inside / "file.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=f"file.json cannot be read: .*{message}") as caught:
        files.read_json(inside / "file.json")
    assert len(str(caught.value).splitlines()) == 1
    assert files.printable(str(caught.value)) == str(caught.value)


def test_a_path_that_is_not_text_is_stored_unchanged(inside: Path) -> None:
    content = {"data_dir": os.fsdecode(b"data/caf\xe9"), "name": "café"}
    files.write_json(inside / "file.json", content)
    assert files.read_json(inside / "file.json") == content


def test_control_characters_are_shown_and_other_characters_stay() -> None:
    assert files.printable("a\x1b[2Jb\x9b\u202eé ²\n") == "a\\x1b[2Jb\\x9b\\u202eé ²\\n"


def test_damaged_files_are_put_under_a_free_name(inside: Path) -> None:
    for number in ("", "-2", "-3"):
        aside = files.aside(inside / "file")
        assert aside.name == f"file.damaged{number}"
        aside.touch()


def _flock(number: int) -> Callable[[object, int], None]:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_not_mistaken_for_another_process(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", _flock(number))
    with created(inside / "run", "run", numbered=False) as (staging, _):
        (staging / "config.json").touch()
    assert capsys.readouterr().err == ""
    folder.lock(inside).close()
    assert capsys.readouterr().err == (
        f"metarl-jax: warning: the file system of {inside} has no locks: make sure that no other process trains there\n"
    )


def test_a_lock_that_is_held_and_one_that_fails(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder.lock(inside), pytest.raises(UserError, match="another process is training"):
        folder.lock(inside)
    monkeypatch.setattr(fcntl, "flock", _flock(errno.EIO))
    with pytest.raises(StorageError, match=r"cannot lock .*: Input/output error"):
        folder.lock(inside)


@SPECIAL
def test_a_lock_is_a_regular_file(make: Callable[[Path, Path], None], inside: Path, outside: Path) -> None:
    make(inside / "lock", outside)
    with pytest.raises(StorageError, match=r"cannot write to .*: it is (a symbolic link|not a regular file)"):
        folder.lock(inside)
    assert outside.read_bytes() == b"precious" and len(list(outside.parent.iterdir())) == 1


def test_two_creations_under_one_name_get_two_folders(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "name"
    with created(path, "run", numbered=True) as (first, first_path):
        (first / "config.json").write_text("first")
        with created(path, "run", numbered=True) as (second, second_path):
            (second / "config.json").write_text("second")
    assert [second_path, first_path] == [[path], [path.with_name("name-2")]]
    assert (path / "config.json").read_text() == "second"
    assert (path.with_name("name-2") / "config.json").read_text() == "first"
    assert len(os.listdir(path.parent)) == 2


def test_a_name_that_was_given_is_never_taken_twice(tmp_path: Path) -> None:
    path = tmp_path / "a name"

    def inner() -> None:
        with created(path, "run", numbered=False) as (staging, _):
            (staging / "config.json").write_text("first")

    with pytest.raises(UserError, match="exists already") as caught, created(path, "run", numbered=False) as (late, _):
        (late / "config.json").write_text("second")
        inner()
    assert str(caught.value) == (
        f"'{path}' exists already; choose another --run-dir, or go on with: metarl-jax resume '{path}'"
    )
    assert (path / "config.json").read_text() == "first"
    assert os.listdir(tmp_path) == ["a name"]


def test_only_the_remains_of_a_killed_creation_are_removed(tmp_path: Path) -> None:
    def left(name: str, content: str, age_s: float) -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / content).touch()
        then = time.time() - age_s
        os.utime(path, (then, then))
        return path

    old_form = left(".run.4711.tmp", "config.json", 120)
    new_form = left(".metarl-jax-0123456789abcdef.tmp", "lock", 120)
    fresh = left(".run.4712.tmp", "config.json", 1)
    someone_elses = left(".notes.1.tmp", "diary", 1e6)
    held = left(".metarl-jax-00000000deadbeef.tmp", "lock", 120)
    with folder.lock(held), created(tmp_path / "run", "run", numbered=False) as (staging, _):
        (staging / "config.json").touch()
    assert not old_form.exists() and not new_form.exists()
    assert fresh.exists() and held.exists() and (someone_elses / "diary").exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EACCES, "make it writable"), (errno.EROFS, "make it writable")],
)
def test_the_advice_fits_the_error(number: int, advice: str) -> None:
    from metarl_jax.runs.errors import storage_advice

    assert storage_advice(OSError(number, os.strerror(number))) == advice


def _git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, "-C", str(repository), *arguments], check=True, capture_output=True)


def test_a_commit_is_that_of_the_repository_that_tracks_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / ".venv" / "metarl_jax"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "thesis.tex").write_text("")
    monkeypatch.setattr(metarl_jax, "__file__", str(package / "__init__.py"))
    assert folder.commit() is None
    _git(tmp_path, "init")
    _git(tmp_path, "add", "thesis.tex")
    _git(tmp_path, "commit", "-m", "thesis")
    # The repository contains the environment, but does not track the package.
    assert folder.commit() is None
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "package")
    clean = folder.commit()
    assert clean is not None and len(clean) >= 7 and all(c in "0123456789abcdef" for c in clean)
    (tmp_path / "thesis.tex").write_text("changed")
    assert folder.commit() == clean
    (package / "__init__.py").write_text("changed")
    assert folder.commit() == f"{clean} (modified)"


def test_a_configuration_of_other_types_is_refused(tmp_path: Path) -> None:
    with created(tmp_path / "run", "run", numbered=False) as (staging, _):
        content = {"experiment": "maml-sinusoid", "settings": [], "seed": 0, "seeds": 1, "evaluate_every": 1}
        (staging / "config.json").write_text(json.dumps({**content, "schema": 1}))
    with pytest.raises(UserError, match=r"config.json cannot be read: settings is of another type than dict"):
        folder.RunFolder(tmp_path / "run")
