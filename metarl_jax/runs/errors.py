"""Exceptions that end a command with a message of one line and an exit code, without a traceback."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator


class Stop(Exception):
    """An exception that ends the command. Its message is one line for the user."""

    exit_code = 1


class UserError(Stop):
    """The command cannot do its work because of a wrong name, value, folder or file."""

    exit_code = 2


class Diverged(Stop):
    """Training produced numbers that are not finite."""

    exit_code = 3


class StorageError(Stop):
    """A file, a folder or the standard output cannot be written, for example because the disk is full."""

    exit_code = 4


def storage_advice(error: OSError) -> str:
    """Return the action that a user must take before the same write can succeed, for a message."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make it writable"
    return "solve that problem"


@contextlib.contextmanager
def storing(what: str) -> Iterator[None]:
    """Convert an OSError within this context to a StorageError with the message ``cannot WHAT: reason``."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {what}: {error.strerror or error}") from error


class Lost(Stop):
    """Another process that trains the same run has ended, or cannot be reached."""

    exit_code = 5


class ReaderGone(Stop):
    """The reader of standard output has closed it, as in ``| head``. No message is written."""

    exit_code = 141
