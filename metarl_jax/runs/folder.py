"""The run folder.

A run folder contains ``config.json`` (the configuration), ``versions.json`` (a list of the software and hardware that
trained the run, with a new entry where they changed), ``metrics.jsonl``, ``events/`` (TensorBoard), ``checkpoints/``,
``summary.json``, ``evaluation-*.json``, ``trial-*.gif``, ``report.md`` and ``report.html``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import metarl_jax
from metarl_jax import checks, references
from metarl_jax.references import Source
from metarl_jax.runs import commands, files, interrupts
from metarl_jax.runs.errors import StorageError, UserError, storing
from metarl_jax.runs.progress import warn

if TYPE_CHECKING:
    from metarl_jax.experiments.base import Experiment

SCHEMA = 2
EVALUATIONS = 20
"""The number of validations of a run without ``--evaluate-every``."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of a run, which determines its result.

    ``config.json`` stores it, with the settings grouped by part.
    """

    experiment: str
    """The name of a preset, or of a combination: "algorithm family" or "algorithm family network"."""
    settings: dict[str, Any]
    """Every setting of the experiment by name, defaults included."""
    seed: int
    """The first of the seeds that are trained together."""
    seeds: int
    """The number of seeds that are trained together."""
    evaluate_every: int
    """The number of iterations between validations."""
    evaluation_tasks: int | None = None
    """The number of held-out tasks of the final table; None for the experiment's number. Training does not depend on
    it."""
    names: dict[str, str] | None = None
    """The names of the algorithm, the family and the network; None for those of the experiment."""
    source: Source | None = None
    """The place from which the user's experiment was loaded. No code is loaded because it is named here. None means
    that the experiment is part of this package, or that a program has registered it."""
    stored_hash: str | None = None
    """The hash that identifies the configuration in checkpoints of an older version; None if ``hash`` computes it."""

    def __post_init__(self) -> None:
        """Check the values, which may come from a stranger's file.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if the seeds or a number of tasks are out of range.
        """
        for name, kind in (("experiment", str), ("settings", dict)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is of another type than {kind.__name__}")
        checks.seed_range(self.seed, self.seeds)
        checks.positive_int("evaluate_every", self.evaluate_every)
        if self.evaluation_tasks is not None:
            checks.positive_int("evaluation_tasks", self.evaluation_tasks)

    def hash(self) -> str:
        """Return a hash of everything that training depends on. It identifies the configuration in checkpoints."""
        if self.stored_hash is not None:
            return self.stored_hash
        depends = {
            "experiment": self.experiment,
            "settings": self.settings,
            "seed": self.seed,
            "seeds": self.seeds,
            "evaluate_every": self.evaluate_every,
        }
        return hash_of(depends)

    def resolve(self) -> Experiment:
        """Return the experiment.

        Raises:
            ValueError: if this version does not have it.
        """
        return resolved(self.experiment, self.names)

    def stored(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Raises:
            ValueError: if this version does not have the experiment, or a setting belongs to no part of it.
        """
        own = {"seed": self.seed, "seeds": self.seeds, "evaluate_every": self.evaluate_every}
        return {
            "schema": SCHEMA,
            "experiment": self.experiment,
            **nested(self.resolve(), self.settings),
            **own,
            "evaluation_tasks": self.evaluation_tasks,
            **stored_source(self.source),
        }


def stored_source(source: Source | None) -> dict[str, Any]:
    """Return the entry ``source`` of a stored configuration, or no entry for an experiment of this package."""
    return {"source": source._asdict()} if source is not None else {}


def _read_source(content: Any) -> Source | None:
    """Parse the entry ``source`` of a configuration, which may come from a stranger.

    Raises:
        TypeError, ValueError: if the entry is not a reference and a hash.
    """
    if content is None:
        return None
    if not isinstance(content, dict) or content.keys() != {"reference", "sha256"}:
        raise TypeError("source is not a JSON object with reference and sha256")
    reference, sha256 = content["reference"], content["sha256"]
    if not isinstance(reference, str):
        raise TypeError("the reference of source is of another type than str")
    references.check(reference)
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise ValueError("the sha256 of source is not a SHA-256 in hexadecimal")
    return Source(reference, sha256)


def hash_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content as JSON with sorted names, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolved(experiment: str, names: Mapping[str, str] | None) -> Experiment:
    """Return the experiment of that name.

    Args:
        experiment: the name of the experiment.
        names: the names of the algorithm, the family and the network; None for those of the experiment.

    Raises:
        ValueError: if this version does not have the experiment.
    """
    from metarl_jax import experiments

    found = experiments.get(experiment)
    return found if names is None else dataclasses.replace(found, **names)


def nested(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Group settings by the part of the experiment that they belong to, in the form in which they are stored.

    Raises:
        ValueError: if a setting belongs to no part.
    """
    experiment.check_names(settings)
    parts = experiment.nested(settings)
    named = {"algorithm": experiment.algorithm, "network": experiment.network, "family": experiment.family}
    return {
        part: {"name": named[part], "settings": values} if part in named else {"settings": values}
        for part, values in parts.items()
    }


def read_experiment(content: dict[str, Any]) -> dict[str, Any]:
    """Read the experiment and the settings of a stored configuration, and convert them to this version's form.

    The entries that are read are removed from ``content``.

    Returns:
        A dictionary with the entries "experiment", "source", "names", "settings" and "stored_hash". An entry is left
        out where it is not known.

    Raises:
        ValueError: if the schema is another one, or if this version does not have the experiment.
        TypeError: if a value has the wrong type.
    """
    from metarl_jax.runs import migrations

    schema, experiment = content.pop("schema", None), content.pop("experiment", None)
    source = _read_source(content.pop("source", None))
    if not isinstance(experiment, str):
        raise TypeError("experiment is of another type than str")
    if schema == 1:
        stored = content.pop("settings", None)
        if not isinstance(stored, dict):
            raise TypeError("settings is of another type than dict")
        depends = {"experiment": experiment, "settings": stored, **content, "schema": 1}
        depends.pop("evaluation_tasks", None)
        found = resolved(experiment, None)
        names = migrations.names(found, stored)
        settings = migrations.settings(resolved(experiment, names), stored)
        return {"experiment": experiment, "names": names, "settings": settings, "stored_hash": hash_of(depends)}
    if schema != SCHEMA:
        raise ValueError(f"it has schema {schema}, this program has {SCHEMA}")
    names, settings = {}, {}
    for part in ("algorithm", "problem", "network", "family"):
        if part not in content and part == "problem":
            continue
        stored = content.pop(part, None)
        if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
            raise TypeError(f"{part} is not a JSON object with settings")
        if part != "problem":
            if not isinstance(stored.get("name"), str):
                raise TypeError(f"the name of {part} is of another type than str")
            names[part] = stored["name"]
        if twice := settings.keys() & stored["settings"].keys():
            raise ValueError(f"{min(twice)} is set twice")
        settings |= stored["settings"]
    return {"experiment": experiment, "source": source, "names": names, "settings": settings}


class RunFolder:
    """The paths and the configuration of an existing run."""

    def __init__(self, path: Path) -> None:
        """Open a run.

        Raises:
            UserError: if ``path`` is not a run folder that this program can read, or if a part of it is a symbolic
                link.
        """
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = path / "best.checkpoint"
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events"
        file = open_folder(path, "run", "config.json", (self.checkpoints, self.events))
        content = files.read_json(file)
        try:
            self.config = RunConfig(**read_experiment(content), **content)
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error

    def lock(self) -> IO[bytes]:
        """Lock the run against other processes for as long as the returned file is open.

        Raises:
            UserError: if another process trains the run.
            StorageError: if the folder cannot be written.
        """
        file = lock(self.path)
        with storing(f"write to {self.path}"):
            files.remove_temporary(self.path)
            files.remove_temporary(self.checkpoints)
        return file

    def versions(self) -> list[dict[str, Any]]:
        """Return the software and hardware that trained this run, with one entry for each change of them.

        The list is empty if they are not known.

        Raises:
            UserError: if ``versions.json`` is damaged.
        """
        path = self.path / "versions.json"
        if not files.exists(path):
            return []
        try:
            entries = files.parse_json(files.read(path, files.MOST_JSON_BYTES))
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise ValueError("it does not hold a list of JSON objects")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UserError(f"{path} cannot be read: {reason}; move it away to go on without it") from error
        return entries

    def add_versions(self, iteration: int) -> None:
        """Add the software and hardware that train the run after ``iteration``, if they have changed.

        Raises:
            UserError: if ``versions.json`` is damaged.
            OSError: if ``versions.json`` cannot be written.
        """
        entries, now = self.versions(), versions()
        if not entries or {**entries[-1], "from_iteration": 0} != {**now, "from_iteration": 0}:
            files.write_json(self.path / "versions.json", [*entries, {"from_iteration": iteration, **now}])


def open_folder(path: Path, kind: str, config: str, parts: tuple[Path, ...]) -> Path:
    """Check that the folder of a run or of a study can be opened.

    Args:
        path: the folder, which may itself be a symbolic link.
        kind: "run" or "study".
        config: the name of the configuration file that such a folder has.
        parts: the sub-folders, which must not be links.

    Returns:
        The path of the configuration file.

    Raises:
        UserError: if the folder is not of that kind, or cannot be read.
    """
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise UserError(f"there is no {kind} folder {path}: it is a file")
        if not files.exists(path / config):
            raise UserError(f"{path} is not a {kind} folder: it has no {config}")
    except FileNotFoundError:
        raise UserError(f"there is no {kind} folder {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    for part in parts:
        try:
            files.require_folder(part)
        except OSError as error:
            raise UserError(f"{part} cannot be used: {error.strerror}") from error
    return path / config


def default_evaluate_every(settings: Mapping[str, Any]) -> int:
    """Return the number of iterations between validations, for a run without ``--evaluate-every``."""
    iterations = settings.get("iterations")
    return max(1, iterations // EVALUATIONS) if isinstance(iterations, int) else 1


_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def lock(path: Path, *, quiet: bool = False) -> IO[bytes]:
    """Lock a folder against other processes for as long as the returned file is open.

    If the file system has no locks, write one warning instead.

    Args:
        path: the folder.
        quiet: whether to leave out that warning.

    Raises:
        UserError: if another process has locked the folder.
        StorageError: if the file ``lock`` in the folder cannot be opened, or cannot be locked.
    """
    with storing(f"write to {path}"):
        file = files.open_regular(path / "lock", os.O_RDWR | os.O_CREAT, "rb+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            if not quiet:
                warn(f"the file system of {path} has no locks: make sure that no other process trains there")
            return file
        file.close()
        if error.errno in _HELD:
            raise UserError(f"another process is training {path}") from error
        raise StorageError(f"cannot lock {path}: {error.strerror}") from error
    return file


_STAGING = re.compile(r"\.metarl-jax-[0-9a-f]{16}\.tmp|\..+\.\d+\.tmp", re.DOTALL)
"""The temporary names of folders during their creation. Version 0.1.0 used the second form."""
_STAGING_SECONDS = 60.0
"""The age in seconds above which a temporary folder that no process has locked is deleted. The process that created it
must have been killed."""
_STAGED = {"config.json", "study.json", "versions.json", "checkpoints", "cells", "lock"}
"""The names of everything that a folder may hold during its creation."""


@contextlib.contextmanager
def created(path: Path, kind: str, *, numbered: bool, experiment: str = "") -> Iterator[tuple[Path, list[Path]]]:
    """Create a folder, which gets its final name only when it is complete.

    Args:
        path: the path of the new folder; its parents are created.
        kind: "run" or "study".
        numbered: whether the folder may get the name ``NAME-2``, ``NAME-3`` and so on if ``NAME`` exists.
        experiment: the name of the experiment, for a message.

    Yields:
        The folder to fill, under a temporary name; and a list that holds the final path after the context has ended.

    Raises:
        UserError: if something of that name exists.
        StorageError: if the folder cannot be written. Then nothing of it remains.
    """
    final: list[Path] = []
    staging = path.parent / f".metarl-jax-{secrets.token_hex(8)}{files.TEMPORARY}"
    with storing(f"make the {kind} folder {path}"):
        if not numbered and files.exists(path):
            raise _taken(path, experiment)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_killed_creations(path.parent)
        staging.mkdir()
        # The lock shows other processes that this folder is still being created.
        held = lock(staging, quiet=True)
        try:
            with interrupts.temporary(staging):
                yield staging, final
            number, candidate = 1, path
            while not final:
                try:
                    if files.exists(candidate):
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
                    os.rename(staging, candidate)
                    final.append(candidate)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                        raise
                    if not numbered:
                        raise _taken(path, experiment) from None
                    number += 1
                    candidate = path.with_name(f"{path.name}-{number}")
        finally:
            held.close()
            shutil.rmtree(staging, ignore_errors=True)


def _taken(path: Path, experiment: str) -> UserError:
    again = commands.on_folder("resume", path, experiment)
    return UserError(f"{commands.quoted(path)} exists already; choose another --run-dir, or go on with: {again}")


def _remove_killed_creations(parent: Path) -> None:
    """Delete the temporary folders of processes that were killed while they created a folder."""
    for name in os.listdir(parent):
        path = parent / name
        if not _STAGING.fullmatch(name) or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            content = set(os.listdir(path))
            if not content <= _STAGED or time.time() - path.stat().st_mtime < _STAGING_SECONDS:
                continue
            if "lock" in content:
                file = held.enter_context(files.open_regular(path / "lock", os.O_RDWR, "rb+"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)


def create(path: Path, config: RunConfig, fill: Callable[[RunFolder], None], *, numbered: bool = False) -> RunFolder:
    """Create a run folder, which gets its final name only when it is complete.

    Args:
        path: the path of the new folder; its parents are created.
        config: the configuration, which is stored as ``config.json``.
        fill: a function that writes the other files that a run needs from the start, such as its first checkpoint.
        numbered: whether the folder may get the name ``NAME-2``, ``NAME-3`` and so on if ``NAME`` exists.

    Raises:
        UserError: if something of that name exists.
        StorageError: if the folder cannot be written. Then nothing of it remains.
    """
    with created(path, "run", numbered=numbered, experiment=config.experiment) as (staging, final):
        files.write_json(staging / "config.json", config.stored())
        (staging / "checkpoints").mkdir()
        folder = RunFolder(staging)
        folder.add_versions(0)
        fill(folder)
    return RunFolder(final[0])


def commit() -> str | None:
    """Return the git commit of this package, with " (modified)" if the package's files differ from that commit.

    The commit is None if no repository tracks the package's own files. A repository that only contains the environment
    into which the package is installed is not the package's.
    """
    package = Path(metarl_jax.__file__).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        run = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=10, env=environment
        )
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        modified = " (modified)" if git("status", "--porcelain", "--", ".") else ""
        return git("rev-parse", "--short", "HEAD") + modified
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, Any]:
    """Return the device, the versions of packages, and the commit of this package if a git repository tracks it."""
    import jax

    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "metarl_jax": metarl_jax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": f"cpu x{cpus}" if device.platform == "cpu" else f"{device.device_kind} x{jax.device_count()}",
        "commit": commit(),
    }
