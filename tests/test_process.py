"""A command as a process: signals, output that cannot be written, and the commands that messages suggest."""

from __future__ import annotations

import ast
import errno
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarl_jax import cli
from metarl_jax.runs import commands, interrupts, process, streams
from metarl_jax.runs.errors import UserError

PACKAGE = Path(interrupts.__file__).resolve().parent.parent


def child(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a process that can be interrupted, and prints "up" before it runs some code."""
    # A process that was started in the background ignores SIGINT, and its children inherit that.
    # These signals may be ignored if the tests were started in the background, or with nohup.
    before = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **options.pop("env", {})}
    started = subprocess.Popen([sys.executable, "-c", before + code, *arguments], env=environment, **options)
    assert started.stdout is None or started.stdout.readline() == "up\n"
    return started


def end(process: subprocess.Popen[str], timeout: float = 30) -> tuple[int, str]:
    """Wait for a process, and return its exit code and its standard error."""
    try:
        errors = process.communicate(timeout=timeout)[1]
    finally:
        process.kill()
    return process.returncode, errors


# Signals.

TRAIN = """
from metarl_jax.__main__ import main
print("up", flush=True)
sys.exit(main())
"""


@pytest.mark.parametrize("after", [0.02, 0.15, 0.5, 1.5, 3.0])
def test_ctrl_c_at_the_start_ends_the_command(tmp_path: Path, after: float) -> None:
    """Ctrl-C comes during imports and compilation, with an empty cache. The run would take hours."""
    arguments = ["train", "fomaml-sinusoid", "--iterations", "1000000", "--run-dir", str(tmp_path / "my run")]
    cold = {"METARL_JAX_CACHE_DIR": str(tmp_path / "cold"), "JAX_COMPILATION_CACHE_DIR": ""}
    started = child(TRAIN, *arguments, env=cold)
    time.sleep(after)
    started.send_signal(signal.SIGINT)
    code, errors = end(started)
    assert code == 130
    # On a fast machine, training has already begun when the last signal comes.
    again = re.escape(f"; go on with: metarl-jax resume '{tmp_path}/my run'")
    assert re.fullmatch(f"(metarl-jax: stopped by SIGINT({again})?|SIGINT: saved at iteration \\d+{again})\n", errors)


STUBBORN = """
import time
from pathlib import Path
from metarl_jax.runs import interrupts, process
def command():
    interrupts.go_on_with("metarl-jax resume run")
    with interrupts.temporary(Path(sys.argv[1])):
        print("up", flush=True)
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
sys.exit(process.run(command, alone=True))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_cannot_be_swallowed(tmp_path: Path, name: str) -> None:
    """The command ends even if it swallows every exception, and incomplete files are removed."""
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "half").write_text("")
    number = getattr(signal, name)
    started = child(STUBBORN, str(staging))
    started.send_signal(number)
    assert end(started) == (128 + number, f"metarl-jax: stopped by {name}; go on with: metarl-jax resume run\n")
    assert not staging.exists()


SAVING = """
import time
from metarl_jax.runs import interrupts, process
def command():
    with interrupts.Interrupts() as signals:
        print("up", flush=True)
        while not signals.received:
            time.sleep(0.01)
        print("saving", flush=True)
        time.sleep(float(sys.argv[1]))
    return 128 + signals.received
sys.exit(process.run(command, alone=True))
"""


def test_a_run_that_saves_is_not_interrupted_before_a_second_signal() -> None:
    started = child(SAVING, "1")
    started.send_signal(signal.SIGTERM)
    # A launcher that received the same signal forwards it.
    started.send_signal(signal.SIGTERM)
    assert end(started) == (143, "")
    started = child(SAVING, "60")
    assert started.stdout is not None
    started.send_signal(signal.SIGUSR1)
    assert started.stdout.readline() == "saving\n"
    time.sleep(2 * interrupts.REPEAT_S)
    started.send_signal(signal.SIGINT)
    assert end(started) == (130, "metarl-jax: stopped by a second signal, before all was saved\n")


def test_a_signal_between_start_up_and_training_is_not_lost() -> None:
    """The signal comes before ``Interrupts`` is active, and after the thread that ends the process has checked."""
    ending = interrupts.Ending()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interrupts, "_ending", ending)
        ending._miss(signal.SIGHUP, None)
        with interrupts.Interrupts() as signals:
            assert signals.received == signal.SIGHUP
            assert ending.taken


@pytest.fixture
def hangup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_every_signal_is_noted_while_a_run_trains(number: signal.Signals) -> None:
    # This signal is ignored if the tests run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with interrupts.Interrupts() as signals:
        os.kill(os.getpid(), number)
        time.sleep(0)
        assert signals.received == number


@pytest.mark.usefixtures("hangup")
def test_hang_ups_stay_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupts.Interrupts() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0)
    assert signals.received == signal.SIGUSR1
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_signals_are_for_the_main_thread_only() -> None:
    """A run can be trained in another thread, for example by a notebook."""
    seen: list[int | None] = []

    def train() -> None:
        with interrupts.Interrupts() as signals:
            seen.append(signals.received)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [None]


def test_ctrl_c_within_another_program_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert process.run(command) == 130
    assert capsys.readouterr().err == "metarl-jax: stopped by SIGINT\n"


def test_an_error_is_one_line_with_the_spaces_of_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise UserError("cannot read\n   'my  run'")

    assert process.run(command) == 2
    assert capsys.readouterr().err == "metarl-jax: error: cannot read 'my  run'\n"


# Output.


def _full() -> Any:
    return open("/dev/full", "w", encoding="utf-8")


def _gone() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def run_with(stream: Any, arguments: list[str]) -> int:
    """Run a command with a given standard output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        code = cli.main(arguments)
        assert sys.stdout is stream
        if stream is not None:
            # The stream has no buffered text that would fail when Python shuts down.
            stream.close()
        return code


@pytest.mark.parametrize("arguments", [["list"], ["train", "--help"], ["--version"]])
@pytest.mark.parametrize(
    ("stream", "code", "said"),
    [
        (_full, 4, f"metarl-jax: error: cannot write to standard output: {os.strerror(errno.ENOSPC)}\n"),
        (_gone, 141, ""),
        (lambda: None, 4, f"metarl-jax: error: cannot write to standard output: {os.strerror(errno.EBADF)}\n"),
    ],
)
def test_a_command_that_only_prints_ends_when_it_cannot(
    capsys: pytest.CaptureFixture[str], stream: Any, code: int, said: str, arguments: list[str]
) -> None:
    assert run_with(stream(), arguments) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("stream", [_full, _gone, lambda: None])
def test_a_mistake_is_named_whatever_the_output(capsys: pytest.CaptureFixture[str], stream: Any) -> None:
    assert run_with(stream(), ["trian"]) == 2
    assert capsys.readouterr().err == "metarl-jax: error: there is no command 'trian' (did you mean train?)\n"


@pytest.mark.parametrize("stream", [_full, _gone, lambda: None])
def test_an_error_that_cannot_be_written_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    errors = stream()
    monkeypatch.setattr(sys, "stderr", errors)
    assert cli.main(["trian"]) == 2
    assert sys.stderr is errors
    if errors is not None:
        errors.close()


@pytest.mark.parametrize("stream", [_full, _gone])
def test_where_results_are_files_output_is_dropped_with_one_warning(
    capsys: pytest.CaptureFixture[str], stream: Any
) -> None:
    def command() -> int:
        streams.results_are_files()
        for _ in range(3):
            print("²" * 10_000, flush=True)
        return 0

    with pytest.MonkeyPatch.context() as patch, stream() as broken:
        patch.setattr(sys, "stdout", broken)
        assert process.run(command) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("metarl-jax: warning: cannot write to standard output (")
    assert errors.endswith("); the command goes on, and its output is dropped\n")
    assert errors.count("\n") == 1


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert run_with(open(path, "w", encoding="ascii"), ["list"]) == 0  # noqa: SIM115 (closed there)
    assert "RL\\xb2 on Bernoulli bandits" in path.read_text(encoding="ascii")
    # The path has bytes that are not text.
    stream = io.TextIOWrapper(open(path, "wb"), encoding="utf-8")  # noqa: SIM115
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert process.run(lambda: print("a\udcffb") or 0) == 0
        stream.close()
    assert path.read_text(encoding="utf-8") == "a\\udcffb\n"


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """The messages of a library would be written into such a file; here the file stands for a checkpoint."""
    code = """
import os, sys
for number in range(3):
    os.close(number)
from metarl_jax.runs import streams
with streams.guarded(), open(sys.argv[1], "w") as file:
    os.write(1, b"noise")
    os.write(2, b"noise")
    file.write("whole")
    os._exit(0 if file.fileno() > 2 and not file.flush() else 1)
"""
    path = tmp_path / "checkpoint"
    command = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, check=False).returncode == 0
    assert path.read_text() == "whole"


# Dependence on the locale.

FILES = [str(path.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("name", FILES)
def test_text_is_read_and_written_in_a_named_encoding(name: str) -> None:
    """Without a named encoding, a file with an accent cannot be read in the locale C."""
    for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        modes = [a.value for a in [*node.args, *given.values()] if isinstance(a, ast.Constant)]
        binary = any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)
        # Methods of the same name open archives, pictures and addresses.
        opens = called == "open" and isinstance(node.func, ast.Name) and not binary
        text = opens or called in ("read_text", "write_text") or given.keys() & {"text", "universal_newlines"}
        assert not text or "encoding" in given, f"{name}:{node.lineno} {called}"


# Commands that messages suggest.


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "my  run",
        "résumé",
        "it's",
        'a"b',
        "$HOME",
        "a\\b",
        "tab\tend\nline",
        "caf\udce9 'x'",
        "~",
        "*",
        "-v",
        "a;b",
    ],
)
def test_a_suggested_command_can_be_pasted(name: str) -> None:
    words = commands.command("resume", Path(name))
    assert words.startswith("metarl-jax resume ")
    assert words.isprintable()
    with tempfile.TemporaryFile() as file:
        shown = f"metarl-jax() {{ printf '%s\\n' \"$@\"; }}; {words}"
        subprocess.run(["bash", "-c", shown], stdout=file, check=True)
        file.seek(0)
        printed = os.fsdecode(file.read())
    assert printed == f"resume\n{'./' * name.startswith('-')}{name}\n"
