"""Signals that ask a command to stop: SIGINT (Ctrl-C), SIGTERM, and SIGHUP and SIGUSR1, which schedulers send.

``Interrupts`` notes a signal while a run trains, so that the run can save first. ``Ending`` covers the rest of a
command, imports and compilation included: there a signal ends the command soon, with one line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Windows has the first two only."""
GRACE_S = 2.0
"""Seconds that the main thread has to end the command after the first signal, where nothing is to be saved."""
REPEAT_S = 0.1
"""Signals that follow the first one within this time are the same request: a launcher may pass on the one that the
terminal sends to all."""

_hint = ""
_ending: Ending | None = None
_saving = False
"""Whether a run trains, and saves before it stops."""


def go_on_with(command: str) -> None:
    """Name the command that goes on with what is under way, for the last line of a command that is stopped."""
    global _hint
    _hint = command


def how_to_go_on() -> str:
    """The end of a message: ``; go on with: ...``, or nothing where there is nothing to go on with yet."""
    return f"; go on with: {_hint}" if _hint else ""


def last_words(text: str, exit_code: int) -> NoReturn:
    """Write a last line to standard error, if there is one to write, and end the process at once.

    No Python code runs afterwards, and nothing that other threads write follows the line.
    """
    with contextlib.suppress(OSError):
        error = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        if os.isatty(1):
            # A live display hides the cursor, and its line is not ended.
            os.write(1, b"\x1b[?25h\n")
        if text:
            os.write(error, f"metarl-jax: {text}\n".encode(errors="backslashreplace"))
    os._exit(exit_code)


def act_as_default() -> None:
    """Let signals end the process without a traceback, for the time in which Python shuts down."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


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
    """While this context is entered, the first signal is noted; a second one acts as it did before."""

    received: int | None = None
    """The signal's number."""

    def __enter__(self) -> Interrupts:
        """Begin to note signals.

        Raises:
            KeyboardInterrupt: if a signal has asked the command to stop before, and the exception that it raised then
                was swallowed.
        """
        global _saving
        if _ending is not None and _ending.received is not None:
            raise KeyboardInterrupt
        _saving = True
        self._before = _install(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _saving
        _restore(self._before)
        _saving = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        _restore(self._before)


class Ending:
    """While this context is entered, a signal ends the command.

    The first signal raises KeyboardInterrupt in the main thread, which unwinds and cleans up. Libraries may swallow
    that exception, and the main thread may be within a compiler for minutes: a thread ends the process after
    ``GRACE_S``. While ``Interrupts`` is entered, the first signal is left to it. A second signal ends the process at
    once. To be used by a process's main thread only; elsewhere it does nothing.
    """

    received: int | None = None
    """The number of the first signal that came while there was nothing to save."""

    def __enter__(self) -> Ending:
        global _ending
        _ending = self
        go_on_with("")
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            # Python writes a signal's number there at once, also while the main thread runs no Python code.
            self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self._unraisable = sys.unraisablehook
            sys.unraisablehook = self._hook
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
            self._before = _install(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _ending
        _ending = None
        if self._before:
            _restore(self._before)
            signal.set_wakeup_fd(self._wakeup)
            sys.unraisablehook = self._unraisable
            self._writer.close()
            self._thread.join()
            self._reader.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None and not _saving:
            self.received = number
            raise KeyboardInterrupt

    def _hook(self, unraisable: Any) -> None:
        # Raised by ``_note`` within a destructor or a callback, where nobody can catch it.
        if not (self.received is not None and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            self._unraisable(unraisable)

    def _watch(self) -> None:
        first, began = 0, 0.0
        while True:
            wait = None if not first or _saving else max(0.0, began + GRACE_S - time.monotonic())
            self._reader.settimeout(wait)
            try:
                number = self._reader.recv(1)
            except (TimeoutError, BlockingIOError):
                if _saving:
                    continue
                last_words(f"stopped by {name(first)}{how_to_go_on()}", 128 + first)
            if not number:
                return
            if number[0] not in SIGNALS:
                continue
            if not first:
                first, began = number[0], time.monotonic()
            elif time.monotonic() - began >= REPEAT_S:
                saved = "without saving " * _saving
                last_words(f"stopped {saved}by a second signal{how_to_go_on()}", 128 + number[0])


def name(number: int) -> str:
    """A signal's name, e.g. SIGINT."""
    return signal.Signals(number).name
