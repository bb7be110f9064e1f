"""A command as a process: its signals, its output, and its exit code."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Callable

from metarl_jax.runs import hosts, interrupts, streams
from metarl_jax.runs.errors import ReaderGone, Stop, StorageError
from metarl_jax.runs.files import printable


def run(command: Callable[[], int], *, alone: bool = False) -> int:
    """Run a command to its end.

    Args:
        command: does the work and returns the exit code.
        alone: whether the process has nothing else to do, so that a signal may end it at once where there is nothing to
            save (``interrupts.Ending``). Otherwise Ctrl-C raises KeyboardInterrupt there, as it does in Python.

    Returns:
        The exit code: that of ``command``; that of the ``Stop`` that it raised, after one line on standard error; 130
        after KeyboardInterrupt.
    """
    with streams.guarded(), interrupts.Ending() if alone else contextlib.nullcontext():
        interrupts.go_on_with("")
        line = ""
        try:
            try:
                code = command()
            except SystemExit as shown:
                # The help, or a message about the command line, is printed already.
                code = int(shown.code or 0)
            sys.stdout.flush()
            return code
        except ReaderGone as stop:
            code = stop.exit_code
        except Stop as stop:
            line, code = f"error: {printable(one_line(str(stop)))}", stop.exit_code
        except OSError as error:
            # A file or folder that cannot be used in a way that nothing else foresaw.
            text = f"cannot use {error.filename or 'a file'}: {error.strerror or error}"
            line, code = f"error: {printable(one_line(text))}", StorageError.exit_code
        except KeyboardInterrupt:
            line, code = f"stopped by SIGINT{interrupts.how_to_go_on()}", 130
        except Exception:
            if not hosts.joined():
                raise
            traceback.print_exc()
            line, code = f"error: internal error{interrupts.how_to_go_on()}", 1
        if hosts.joined():
            # Python's own way of ending would wait for the other processes, and they for this one.
            interrupts.last_words(line, code)
        if line:
            print(f"metarl-jax: {line}", file=sys.stderr, flush=True)
        return code


def one_line(text: str) -> str:
    """Replace line ends by spaces; other spaces stay, since they may be those of a path."""
    return re.sub(r"\s*[\r\n]\s*", " ", text.strip())
