"""Command lines for messages, quoted so that a user can paste them into a shell."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from metarl_jax import experiments


def quoted(word: str | Path) -> str:
    """Quote a word for a POSIX shell.

    A path that begins with a dash is preceded by ``./``, so that it is not read as an option. A word with control
    characters, or with bytes that are not text, is written as ``$'...'``, which bash, zsh and ksh understand. The
    message is therefore always one line of printable text.
    """
    text = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    if text.isprintable():
        return shlex.quote(text)

    def escaped(character: str) -> str:
        if character in "\\'":
            return f"\\{character}"
        return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))

    return f"$'{''.join(map(escaped, text))}'"


def command(*words: str | Path) -> str:
    """Return the command line ``metarl-jax WORD...``."""
    return " ".join(["metarl-jax", *map(quoted, words)])


def on_folder(name: str, path: Path, experiment: str) -> str:
    """Return the command line ``metarl-jax NAME PATH``, with ``--experiment`` for an experiment of the user.

    Args:
        name: the name of the command.
        path: the folder of a run or of a study.
        experiment: the name of the experiment of that folder.
    """
    source = experiments.source(experiment)
    return command(name, path, *(("--experiment", source.reference) if source else ()))
