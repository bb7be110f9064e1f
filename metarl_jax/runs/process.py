"""A command as a process: its signals, its output, and its exit code."""

from __future__ import annotations

import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

from metarl_jax.runs import hosts, interrupts, streams
from metarl_jax.runs.errors import ReaderGone, Stop, StorageError
from metarl_jax.runs.files import printable


class _End(NamedTuple):
    """How a command ended."""

    code: int
    stopped: bool = False
    """Whether it was stopped, by a signal or a ``Stop``."""
    line: str = ""
    """What to say about that."""


def run(command: Callable[[], int]) -> int:
    """Run a command to its end.

    Args:
        command: does the work and returns the exit code.

    Returns:
        The exit code: that of ``command``; that of the ``Stop`` that it raised, after one line on standard error; or
        128 + n if signal n stopped it while there was nothing to save, after one line on standard error.
    """
    with streams.guarded():
        received: int | None = None
        end = _End(0)
        try:
            with interrupts.Ending() as ending:
                try:
                    end = _end(command)
                except KeyboardInterrupt:
                    received = signal.SIGINT
                except Exception:
                    # A library may turn the interruption into an error of its own.
                    if ending.received is None:
                        if hosts.joined():
                            traceback.print_exc()
                            hosts.leave("", 1)
                        raise
                received = ending.received or received
        except KeyboardInterrupt:
            received = signal.SIGINT
        if received is not None:
            line = f"stopped by {interrupts.name(received)}{interrupts.how_to_go_on()}"
            end = _End(128 + received, True, line)
        if end.stopped:
            hosts.leave(end.line, end.code)
            if end.line:
                print(f"metarl-jax: {end.line}", file=sys.stderr, flush=True)
        return end.code


def _end(command: Callable[[], int]) -> _End:
    try:
        try:
            code = command()
        except SystemExit as shown:
            # argparse has shown the help.
            code = int(shown.code or 0)
        sys.stdout.flush()
    except ReaderGone as stop:
        return _End(stop.exit_code, True)
    except Stop as stop:
        return _End(stop.exit_code, True, f"error: {printable(one_line(str(stop)))}")
    except OSError as error:
        # A file or folder that cannot be used in a way that nothing else foresaw.
        text = f"cannot use {error.filename or 'a file'}: {error.strerror or error}"
        return _End(StorageError.exit_code, True, f"error: {printable(one_line(text))}")
    return _End(code)


def one_line(text: str) -> str:
    """Replace line ends by spaces; other spaces stay, since they may be those of a path."""
    return re.sub(r"\s*[\r\n]\s*", " ", text.strip())
