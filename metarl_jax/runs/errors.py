"""Exceptions that end a command with one line and an exit code instead of a traceback."""

from __future__ import annotations


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
    """The run folder or the standard output cannot be written to, e.g. because the disk is full."""

    exit_code = 4


class Lost(Stop):
    """Another process that trains the same run is gone."""

    exit_code = 5


class ReaderGone(Stop):
    """The reader of standard output has gone (``| head``); nothing is left to say."""

    exit_code = 141
