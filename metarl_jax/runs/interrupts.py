"""Signals that ask a command to stop: SIGINT (Ctrl-C), SIGTERM, and SIGHUP and SIGUSR1, which schedulers send.

``Interrupts`` notes a signal while a run trains, so that the run can save first. ``Ending`` covers the rest of a
command, imports and compilation included: there a signal ends the process at once, with one line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Windows has the first two only."""
REPEAT_S = 0.1
"""Signals that follow the first one within this time are the same request: a launcher may pass on the one that the
terminal sends to all."""

_hint = ""
_temporary: list[Path] = []
_ending: Ending | None = None
_last = threading.Lock()


def go_on_with(command: str) -> None:
    """Name the command that goes on with what is under way, for the last line of a command that is stopped."""
    global _hint
    _hint = command


def how_to_go_on() -> str:
    """The end of a message: ``; go on with: ...``, or nothing where there is nothing to go on with yet."""
    return f"; go on with: {_hint}" if _hint else ""


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[None]:
    """Remove a file or a folder if the process is ended by ``last_words`` within this context."""
    _temporary.append(path)
    try:
        yield
    finally:
        _temporary.remove(path)


def last_words(text: str, exit_code: int) -> None:
    """Write a last line to standard error, if there is one to write, and end the process at once.

    No Python code runs afterwards, and nothing that other threads write follows the line. Does not return.
    """
    if not _last.acquire(blocking=False):
        # Another thread ends the process.
        time.sleep(60)
    with contextlib.suppress(OSError):
        output, error = os.dup(1), os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if os.isatty(output):
            # A live display hides the cursor, and its line is not ended.
            os.write(output, b"\x1b[?25h\n")
        if text:
            os.write(error, f"metarl-jax: {text}\n".encode(errors="backslashreplace"))
    for path in _temporary:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink()
    os._exit(exit_code)


def name(number: int) -> str:
    """A signal's name, e.g. SIGINT."""
    return signal.Signals(number).name


def _install(handler: Any) -> dict[int, Any]:
    """Handle the signals; return their handlers before.

    SIGHUP stays ignored where it is, as under nohup. Only the main thread can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    hangup = getattr(signal, "SIGHUP", None)
    wanted = [n for n in SIGNALS if n != hangup or signal.getsignal(n) is not signal.SIG_IGN]
    # The handler before is None where it was not installed from Python.
    return {number: signal.signal(number, handler) or signal.SIG_DFL for number in wanted}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupts:
    """While this context is entered, the first signal is noted; a second one acts as it did before.

    Where ``Ending`` is entered, a second signal ends the process at once.
    """

    received: int | None = None
    """The signal's number."""

    def __enter__(self) -> Interrupts:
        self._before = _install(self._note)
        if _ending is not None:
            _ending.saving = True
            if _ending.missed is not None:
                self._note(_ending.missed, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)
        if _ending is not None:
            _ending.saving = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if _ending is not None:
            _ending.taken = True
        _restore(self._before)


class Ending:
    """While this context is entered, a signal ends the process at once, unless ``Interrupts`` takes it.

    A thread does that. An exception in the main thread would not do: libraries swallow it, some crash when it is raised
    while they are imported, and the main thread may be within a compiler for minutes. For a process that does nothing
    but run the command, and for its main thread.
    """

    saving = False
    """Whether ``Interrupts`` is entered."""
    taken = False
    """Whether ``Interrupts`` has noted the signal."""
    missed: int | None = None
    """The number of a signal that came while ``Interrupts`` was not entered."""

    def __enter__(self) -> Ending:
        global _ending
        _ending = self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # Python writes a signal's number there at once, also while the main thread runs no Python code.
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = _install(self._miss)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let signals end the process without a traceback, in the time that Python needs to shut down."""
        global _ending
        _ending = None
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        self._writer.close()

    def _miss(self, number: int, frame: FrameType | None) -> None:
        self.missed = number

    def _watch(self) -> None:
        first, began = 0, 0.0
        while True:
            # The main thread may be about to enter or to leave ``Interrupts``.
            self._reader.settimeout(0.1 if first and not self.taken else None)
            try:
                received = self._reader.recv(1)
            except TimeoutError:
                received = b"\0"
            if not received:
                return
            if received[0] in SIGNALS and not first:
                first, began = received[0], time.monotonic()
            elif received[0] in SIGNALS and time.monotonic() - began >= REPEAT_S:
                last_words(f"stopped by a second signal, before all was saved{how_to_go_on()}", 128 + received[0])
            if first and not self.saving and not self.taken:
                last_words(f"stopped by {name(first)}{how_to_go_on()}", 128 + first)
