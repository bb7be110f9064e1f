"""What ends a command with one line and an exit code instead of a traceback."""

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
    """The run folder cannot be written to, e.g. the disk is full."""

    exit_code = 4


class Interrupted(Stop):
    """Ctrl-C after training, when there is nothing left to save."""

    exit_code = 130


class Lost(Stop):
    """Another process that trains the same run is gone."""

    exit_code = 5
