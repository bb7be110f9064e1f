"""Signals that request a command to stop: SIGINT (Ctrl-C), SIGTERM, and SIGHUP and SIGUSR1, which schedulers send.

``Interrupts`` records a signal while a run trains, so that the run can save its state first. ``Ending`` covers the rest
of a command, including imports and compilation. There a signal ends the process immediately, with a message of one
line.
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
"""The signals that are handled. Windows has only the first two."""
REPEAT_S = 0.1
"""The time in seconds after the first signal in which further signals count as the same request. A launcher may forward
a signal that the terminal also sends to every process."""

_hint = ""
_temporary: list[Path] = []
_ending: Ending | None = None
_last = threading.Lock()


def go_on_with(command: str) -> None:
    """Set the command line that resumes the current work. The last line of a stopped command names it."""
    global _hint
    _hint = command


def how_to_go_on() -> str:
    """Return the end of a message: ``; go on with: ...``, or nothing if there is no work to resume yet."""
    return f"; go on with: {_hint}" if _hint else ""


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[None]:
    """Delete a file or a folder if ``end_process`` ends the process within this context."""
    _temporary.append(path)
    try:
        yield
    finally:
        _temporary.remove(path)


def end_process(text: str, exit_code: int) -> None:
    """Write a last line to standard error, unless ``text`` is empty, and end the process immediately.

    This function does not return. No Python code runs afterwards, and no output of other threads follows the line.
    """
    if not _last.acquire(blocking=False):
        # Another thread is already ending the process.
        time.sleep(60)
    with contextlib.suppress(OSError):
        output, error = os.dup(1), os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if os.isatty(output):
            # A live display has hidden the cursor and has not ended its line.
            os.write(output, b"\x1b[?25h\n")
        if text:
            os.write(error, f"metarl-jax: {text}\n".encode(errors="backslashreplace"))
    for path in _temporary:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink()
    os._exit(exit_code)


def name(number: int) -> str:
    """Return the name of a signal, such as SIGINT."""
    return signal.Signals(number).name


def _install(handler: Any) -> dict[int, Any]:
    """Install a handler for the signals, and return their previous handlers.

    If SIGHUP is ignored, as under nohup, it stays ignored. Only the main thread can handle signals; in any other thread
    this function does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    hangup = getattr(signal, "SIGHUP", None)
    wanted = [n for n in SIGNALS if n != hangup or signal.getsignal(n) is not signal.SIG_IGN]
    # The previous handler is None if it was not installed from Python.
    return {number: signal.signal(number, handler) or signal.SIG_DFL for number in wanted}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupts:
    """A context that records the first signal. A second signal has the effect that it had before the context.

    Within ``Ending``, a second signal ends the process immediately.
    """

    received: int | None = None
    """The number of the signal that was received; None if there was none."""

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
    """A context in which a signal ends the process immediately, unless ``Interrupts`` records the signal.

    A separate thread ends the process. An exception in the main thread would not be reliable: libraries swallow it,
    some libraries crash when it is raised during their import, and the main thread may be in a compiler for minutes.
    Use this context only in a process that does nothing but run the command, and only in its main thread.
    """

    saving = False
    """Whether an ``Interrupts`` context is active."""
    taken = False
    """Whether ``Interrupts`` has recorded the signal."""
    missed: int | None = None
    """The number of a signal that arrived while no ``Interrupts`` context was active; None if there was none."""

    def __enter__(self) -> Ending:
        global _ending
        _ending = self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # Python writes the number of a signal there immediately, even while the main thread runs no Python code.
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = _install(self._miss)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let signals end the process without a traceback while Python shuts down."""
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
            # After a signal, wait a moment: the main thread may be about to enter or to leave ``Interrupts``.
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
                end_process(f"stopped by a second signal, before all was saved{how_to_go_on()}", 128 + received[0])
            if first and not self.saving and not self.taken:
                end_process(f"stopped by {name(first)}{how_to_go_on()}", 128 + first)
