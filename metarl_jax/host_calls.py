"""Calls from compiled programs to the host: errors that name their cause, and an orderly end of the process.

Physics engines and Gymnasium environments run on the host, and compiled programs call them. This module imports no
other module of the package, and no JAX.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Iterator

QUIET_S = 0.25
"""The time without calls of the host, in seconds, after which a running program counts as ended at exit."""
_exiting = False
_running = 0
"""The number of calls that have begun and not ended."""
_last_call = -float("inf")
"""The time at which a program last called the host, in seconds of ``time.monotonic``."""
_counting = threading.Lock()
_failure: HostError | None = None
"""The latest error of a call. XLA passes on the text of an exception, but not the exception."""


class HostError(RuntimeError):
    """An environment on the host failed. The message is one line, which names the environment and the cause."""


def _says_more(record: logging.LogRecord) -> bool:
    """Return whether a line of JAX's log says more than the ``HostError`` that it is about."""
    return not (record.exc_info and isinstance(record.exc_info[1], HostError))


# JAX logs the traceback of every exception in a call of the host, which is then raised as well.
logging.getLogger("jax._src.callback").addFilter(_says_more)


@contextlib.contextmanager
def call() -> Iterator[None]:
    """Mark a call of the host by a program.

    Raises:
        RuntimeError: if the interpreter exits. The error ends the program.
    """
    global _running, _last_call, _failure
    _last_call = time.monotonic()
    if _exiting:
        raise RuntimeError("the interpreter exits")
    with _counting:
        _running += 1
    try:
        yield
    except HostError as error:
        _failure = error
        raise
    finally:
        with _counting:
            _running -= 1
        _last_call = time.monotonic()


def cause(error: BaseException) -> HostError | None:
    """Return the error of a call of the host that ended a program with ``error``; None if there was no such error."""
    return _failure if _failure is not None and str(_failure) in str(error) else None


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Replace an error of JAX within this context by the ``HostError`` that caused it, if there is one."""
    try:
        yield
    except RuntimeError as error:
        found = None if isinstance(error, HostError) else cause(error)
        if found is None:
            raise
        raise found from None


@atexit.register
def wait_for_programs() -> None:
    """At exit, wait until no program calls the host.

    XLA does not cancel a program whose caller was interrupted. A program that calls the host while the interpreter
    exits aborts the process or waits for Python's lock for ever.
    """
    global _exiting
    _exiting = True
    while _running or time.monotonic() - _last_call < QUIET_S:
        time.sleep(0.01)
