"""Exceptions that end a command with one line and an exit code instead of a traceback."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator


class Stop(Exception):
    """Ends the command; the message is one line for the user."""

    exit_code = 1


class UserError(Stop):
    """The command cannot do what was asked: bad names, values, folders or files."""

    exit_code = 2


class Diverged(Stop):
    """Training produced numbers that are not finite."""

    exit_code = 3


class StorageError(Stop):
    """A file, a folder or the standard output cannot be written, for example because the disk is full."""

    exit_code = 4


def storage_advice(error: OSError) -> str:
    """What a user has to do before the same write can succeed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make it writable"
    return "mend that"


@contextlib.contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn an OSError within this context into a StorageError: ``cannot WHAT: reason``."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {what}: {error.strerror or error}") from error


class Lost(Stop):
    """Another process that trains the same run is gone."""

    exit_code = 5


class ReaderGone(Stop):
    """The reader of standard output has gone (``| head``); nothing is left to say."""

    exit_code = 141
