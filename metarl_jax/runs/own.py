"""Find the experiments of run folders and study folders, including experiments of the user.

A folder stores the place from which its experiment was loaded. That text may come from a stranger. Therefore no code is
loaded because of it, and the user must name the code again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from metarl_jax import experiments
from metarl_jax.experiments.base import Experiment
from metarl_jax.runs import commands
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunFolder
from metarl_jax.runs.progress import warn
from metarl_jax.runs.study_folder import StudyFolder

Folder: TypeAlias = RunFolder | StudyFolder


def resolve(command: str, folders: Sequence[Folder], named: Sequence[str]) -> list[Experiment]:
    """Find the experiments of folders. If a file of code has changed since training, write a warning.

    Args:
        command: the name of the command that opens the folders, for messages.
        folders: at least one folder.
        named: the references that the user gave with ``--experiment``; their code is executed.

    Returns:
        The experiment of each folder.

    Raises:
        UserError: if a reference cannot be loaded or is the experiment of no folder, or if the experiment of a folder
            is not part of this package and was not named by the user.
    """
    for name, reference in _load(named).items():
        if all(folder.config.experiment != name for folder in folders):
            raise UserError(
                f"{commands.quoted(reference)} is the experiment {name!r}, but "
                + ", ".join(f"{folder.path} is of the experiment {folder.config.experiment!r}" for folder in folders)
            )
    found = []
    for folder in folders:
        config = folder.config
        try:
            found.append(config.resolve())
        except ValueError as error:
            if config.source is not None and config.experiment not in experiments.names():
                raise _not_named(command, folders, folder) from None
            raise UserError(f"{folder.path} cannot be used by this version of metarl_jax: {error}") from None
        used = experiments.source(config.experiment)
        if used and config.source and used.sha256 and config.source.sha256 not in (None, used.sha256):
            file = commands.quoted(used.reference.rpartition(":")[0])
            warn(f"{file} is not the version that {folder.path} was trained with: its SHA-256 is another one")
    return found


def _load(named: Sequence[str]) -> dict[str, str]:
    """Load the references, and return them by the names of their experiments.

    Raises:
        UserError: if a reference cannot be loaded, or two references are experiments of the same name.
    """
    found: dict[str, str] = {}
    for reference in dict.fromkeys(named):
        try:
            name = experiments.load(reference).name
        except ValueError as error:
            raise UserError(f"--experiment: {error}") from None
        if name in found:
            both = f"{commands.quoted(found[name])} and {commands.quoted(reference)}"
            raise UserError(f"{both} are both experiments of the name {name!r}: use one of them at a time")
        found[name] = reference
    return found


def _not_named(command: str, folders: Sequence[Folder], folder: Folder) -> UserError:
    """Return the error for a folder whose experiment is not known and was not named by the user."""
    sources = dict.fromkeys(
        one.config.source.reference
        for one in folders
        if one.config.source is not None and experiments.source(one.config.experiment) != one.config.source
    )
    assert folder.config.source is not None
    options = [word for reference in sources for word in ("--experiment", reference)]
    again = commands.command(command, *(one.path for one in folders), *options)
    return UserError(
        f"{folder.path} was trained with {commands.quoted(folder.config.source.reference)}, which is not part of "
        f"metarl_jax; if you trust that code, name it again: {again}"
    )
