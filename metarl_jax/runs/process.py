"""Run a command as a process, with its signals, its output and its exit code."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Callable

from metarl_jax import host_calls
from metarl_jax.runs import hosts, interrupts, streams
from metarl_jax.runs.errors import ReaderGone, Stop, StorageError, UserError
from metarl_jax.runs.files import printable


def run(command: Callable[[], int], *, alone: bool = False) -> int:
    """Run a command to its end.

    Args:
        command: a function that does the work and returns the exit code.
        alone: whether the process does nothing else. In that case a signal ends the process immediately where there is
            nothing to save (``interrupts.Ending``). Otherwise Ctrl-C raises KeyboardInterrupt there, as usual in
            Python.

    Returns:
        The exit code that ``command`` returned. If ``command`` raised a ``Stop``, its exit code, after one line on
        standard error. After KeyboardInterrupt, 130.
    """
    with streams.guarded(), interrupts.Ending() if alone else contextlib.nullcontext():
        interrupts.go_on_with("")
        line = ""
        try:
            try:
                code = command()
            except SystemExit as shown:
                # The help text, or a message about the command line, has already been printed.
                code = int(shown.code or 0)
            sys.stdout.flush()
            return code
        except ReaderGone as stop:
            code = stop.exit_code
        except Stop as stop:
            line, code = f"error: {printable(one_line(str(stop)))}", stop.exit_code
        except OSError as error:
            # A file or a folder cannot be used, and no other code has handled that case.
            text = f"cannot use {error.filename or 'a file'}: {error.strerror or error}"
            line, code = f"error: {printable(one_line(text))}", StorageError.exit_code
        except KeyboardInterrupt:
            line, code = f"stopped by SIGINT{interrupts.how_to_go_on()}", 130
        except Exception as error:
            failed = host_calls.cause(error)
            if failed is not None:
                # An environment of the user failed within a compiled program, whose own error is long.
                line = f"error: {printable(one_line(str(failed)))}{interrupts.how_to_go_on()}"
                code = UserError.exit_code
            elif not hosts.joined():
                raise
            else:
                traceback.print_exc()
                line, code = f"error: internal error{interrupts.how_to_go_on()}", 1
        if hosts.joined():
            # A normal exit of Python would wait for the other processes, and they would wait for this one.
            interrupts.end_process(line, code)
        if line:
            print(f"metarl-jax: {line}", file=sys.stderr, flush=True)
        return code


def one_line(text: str) -> str:
    """Replace line ends by spaces. Other spaces are kept, because they may be part of a path."""
    return re.sub(r"\s*[\r\n]\s*", " ", text.strip())
