"""The run folder.

``config.json`` (what was asked for), ``versions.json`` (what ran it, a list: one entry more per resume),
``metrics.jsonl``, ``events/`` (TensorBoard), ``checkpoints/``, ``summary.json``, ``evaluation-*.json``,
``trial-*.gif``, ``report.md``, ``report.html``.
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
"""Validations of a run where ``--evaluate-every`` does not say."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that decides what a run computes. ``config.json`` stores it, with the settings grouped by part."""

    experiment: str
    """The name of a preset, or of a combination: "algorithm family" or "algorithm family network"."""
    settings: dict[str, Any]
    """Every setting of the experiment by name, defaults included."""
    seed: int
    """The first of the seeds that are trained together."""
    seeds: int
    evaluate_every: int
    """Iterations between validations."""
    evaluation_tasks: int | None = None
    """Held-out tasks of the final table; None: as many as the experiment says. Training does not depend on it."""
    names: dict[str, str] | None = None
    """The names of the algorithm, the family and the network; None: those of the experiment."""
    source: Source | None = None
    """Where the user's experiment was loaded from. Nothing is loaded because it is stored here. None: the experiment is
    the package's own, or a program has registered it."""
    stored_hash: str | None = None
    """What identifies the configuration in checkpoints of an older version; None: that is computed."""

    def __post_init__(self) -> None:
        """Check values, which may be those of a file from elsewhere.

        Raises:
            TypeError: for a value of another type.
            ValueError: for seeds or a number of tasks out of range.
        """
        for name, kind in (("experiment", str), ("settings", dict)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is of another type than {kind.__name__}")
        checks.seed_range(self.seed, self.seeds)
        checks.positive_int("evaluate_every", self.evaluate_every)
        if self.evaluation_tasks is not None:
            checks.positive_int("evaluation_tasks", self.evaluation_tasks)

    def hash(self) -> str:
        """Identify in checkpoints what training depends on."""
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
        """The experiment.

        Raises:
            ValueError: if this version does not have it.
        """
        return resolved(self.experiment, self.names)

    def stored(self) -> dict[str, Any]:
        """What ``config.json`` holds.

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
    """The entry of a stored configuration that says where the experiment came from; none for the package's own."""
    return {"source": source._asdict()} if source is not None else {}


def _read_source(content: Any) -> Source | None:
    """Where the experiment came from, as a configuration says that may be from elsewhere.

    Raises:
        TypeError, ValueError: for anything but a reference and a hash.
    """
    if content is None:
        return None
    if not isinstance(content, dict) or content.keys() != {"reference", "sha256"}:
        raise TypeError("source is no JSON object with reference and sha256")
    reference, sha256 = content["reference"], content["sha256"]
    if not isinstance(reference, str):
        raise TypeError("the reference of source is of another type than str")
    references.check(reference)
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise ValueError("the sha256 of source is no SHA-256 in hexadecimal")
    return Source(reference, sha256)


def hash_of(content: Mapping[str, Any]) -> str:
    """The SHA-256 of what JSON makes of it, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolved(experiment: str, names: Mapping[str, str] | None) -> Experiment:
    """The experiment of that name, with the algorithm, family and network of the names given.

    Raises:
        ValueError: if this version does not have it.
    """
    from metarl_jax import experiments

    found = experiments.get(experiment)
    return found if names is None else dataclasses.replace(found, **names)


def nested(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings grouped by part, as they are stored.

    Raises:
        ValueError: if a setting belongs to nothing.
    """
    experiment.check_names(settings)
    parts = experiment.nested(settings)
    named = {"algorithm": experiment.algorithm, "network": experiment.network, "family": experiment.family}
    return {
        part: {"name": named[part], "settings": values} if part in named else {"settings": values}
        for part, values in parts.items()
    }


def read_experiment(content: dict[str, Any]) -> dict[str, Any]:
    """The experiment and the settings of a stored configuration, in this version's form.

    They are taken out of ``content``: "experiment", "source", "names", "settings" and "stored_hash".

    Raises:
        ValueError: for another schema, or an experiment that this version does not have.
        TypeError: for a value of another type.
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
            raise TypeError(f"{part} is no JSON object with settings")
        if part != "problem":
            if not isinstance(stored.get("name"), str):
                raise TypeError(f"the name of {part} is of another type than str")
            names[part] = stored["name"]
        if twice := settings.keys() & stored["settings"].keys():
            raise ValueError(f"{min(twice)} is set twice")
        settings |= stored["settings"]
    return {"experiment": experiment, "source": source, "names": names, "settings": settings}


class RunFolder:
    """Paths and configuration of a run that exists."""

    def __init__(self, path: Path) -> None:
        """Open a run.

        Raises:
            UserError: if ``path`` holds no run that this program can read, or a part of it is a symbolic link.
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
        """Hold the run against other processes for as long as the returned file is open.

        Raises:
            UserError: if another process trains it.
            StorageError: if the folder cannot be written to.
        """
        file = lock(self.path)
        with storing(f"write to {self.path}"):
            files.remove_temporary(self.path)
            files.remove_temporary(self.checkpoints)
        return file

    def versions(self) -> list[dict[str, Any]]:
        """What ran this run: an entry for each time that this changed; empty if that is not known.

        Raises:
            UserError: if ``versions.json`` is damaged.
        """
        path = self.path / "versions.json"
        if not files.exists(path):
            return []
        try:
            entries = files.parse_json(files.read(path, files.MOST_JSON_BYTES))
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise ValueError("it holds no list of JSON objects")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UserError(f"{path} cannot be read: {reason}; move it away to go on without it") from error
        return entries

    def add_versions(self, iteration: int) -> None:
        """Note what runs it from ``iteration`` on; nothing is added if that has not changed.

        Raises:
            UserError: if ``versions.json`` is damaged.
            OSError: if it cannot be written.
        """
        entries, now = self.versions(), versions()
        if not entries or {**entries[-1], "from_iteration": 0} != {**now, "from_iteration": 0}:
            files.write_json(self.path / "versions.json", [*entries, {"from_iteration": iteration, **now}])


def open_folder(path: Path, kind: str, config: str, parts: tuple[Path, ...]) -> Path:
    """See that a folder of a run or of a study can be opened.

    Args:
        path: the folder; it may be a symbolic link itself.
        kind: "run" or "study".
        config: the name of the file that such a folder has.
        parts: its sub-folders, which must not be links.

    Returns:
        The path of the file ``config``.

    Raises:
        UserError: if it is not such a folder, or cannot be read.
    """
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise UserError(f"there is no {kind} folder {path}: it is a file")
        if not files.exists(path / config):
            raise UserError(f"{path} is no {kind} folder: it has no {config}")
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
    """Iterations between validations where the user does not say."""
    iterations = settings.get("iterations")
    return max(1, iterations // EVALUATIONS) if isinstance(iterations, int) else 1


_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def lock(path: Path, *, quiet: bool = False) -> IO[bytes]:
    """Hold a folder against other processes for as long as the returned file is open.

    A file system without locks gives one warning instead.

    Args:
        path: the folder.
        quiet: whether to leave out that warning.

    Raises:
        UserError: if another process holds it.
        StorageError: if the file ``lock`` cannot be opened in the folder, or not be locked.
    """
    with storing(f"write to {path}"):
        file = files.open_regular(path / "lock", os.O_RDWR | os.O_CREAT, "rb+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            if not quiet:
                warn(f"the file system of {path} has no locks: see to it that no other process trains there")
            return file
        file.close()
        if error.errno in _HELD:
            raise UserError(f"another process is training {path}") from error
        raise StorageError(f"cannot lock {path}: {error.strerror}") from error
    return file


_STAGING = re.compile(r"\.metarl-jax-[0-9a-f]{16}\.tmp|\..+\.\d+\.tmp", re.DOTALL)
"""The names of folders that are being made; the second form is that of version 0.1.0."""
_STAGING_SECONDS = 60.0
"""The age from which a folder that nobody holds is taken for one whose creation was killed."""
_STAGED = {"config.json", "study.json", "versions.json", "checkpoints", "cells", "lock"}
"""All that a folder may hold at its creation."""


@contextlib.contextmanager
def created(path: Path, kind: str, *, numbered: bool, experiment: str = "") -> Iterator[tuple[Path, list[Path]]]:
    """Make a folder that appears under its name only when it is whole.

    Args:
        path: the folder to be; parents are made.
        kind: "run" or "study".
        numbered: whether ``NAME-2``, ``NAME-3`` and so on may be taken where the name is taken.
        experiment: the name of its experiment, for a message.

    Yields:
        The folder to fill, under a temporary name; and a list, which holds the final path once the context has ended.

    Raises:
        UserError: if something of that name exists.
        StorageError: if it cannot be written; nothing is left.
    """
    final: list[Path] = []
    staging = path.parent / f".metarl-jax-{secrets.token_hex(8)}{files.TEMPORARY}"
    with storing(f"make the {kind} folder {path}"):
        if not numbered and files.exists(path):
            raise _taken(path, experiment)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_killed_creations(path.parent)
        staging.mkdir()
        # The lock tells other processes that this creation goes on.
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
    """Delete what killed processes left of folders that they were making."""
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
    """Make a run folder; it appears under its name only when it is whole.

    Args:
        path: the folder to be; parents are made.
        config: stored as ``config.json``.
        fill: writes what else a run needs from the start (its first checkpoint).
        numbered: whether ``NAME-2``, ``NAME-3`` and so on may be taken where the name is taken.

    Raises:
        UserError: if something of that name exists.
        StorageError: if it cannot be written; nothing is left.
    """
    with created(path, "run", numbered=numbered, experiment=config.experiment) as (staging, final):
        files.write_json(staging / "config.json", config.stored())
        (staging / "checkpoints").mkdir()
        folder = RunFolder(staging)
        folder.add_versions(0)
        fill(folder)
    return RunFolder(final[0])


def commit() -> str | None:
    """The git commit of this package, with " (modified)" if its files differ from it.

    None if no repository tracks the package's own files: one that merely holds the environment into which the package
    is installed says nothing about it.
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
    """Device, package versions, and the commit of this package where a git repository tracks it."""
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
