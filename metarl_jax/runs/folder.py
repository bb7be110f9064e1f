"""The run folder.

``config.json`` (what was asked for), ``versions.json`` (what ran it, a list: one entry more per resume),
``metrics.jsonl``, ``events/`` (TensorBoard), ``checkpoints/``, ``summary.json``, ``evaluation-*.json``,
``trial-*.gif``, ``report.md``, ``report.html``.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import metarl_jax
from metarl_jax.runs.errors import StorageError, UserError
from metarl_jax.runs.files import TEMPORARY, remove_temporary, write_json

SCHEMA = 1
EVALUATIONS = 20
"""Validations of a run where ``--evaluate-every`` does not say."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that decides what a run computes; stored as ``config.json``."""

    experiment: str
    settings: dict[str, Any]
    """Every setting of the experiment, defaults included."""
    seed: int
    """Of the first of the seeds trained together."""
    seeds: int
    evaluate_every: int
    """Iterations between validations."""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """TypeError for a value of another type, as in a file from elsewhere."""
        for name, kind in (
            ("experiment", str),
            ("settings", dict),
            ("seed", int),
            ("seeds", int),
            ("evaluate_every", int),
        ):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is of another type than {kind.__name__}")

    def hash(self) -> str:
        """Identifies the configuration in checkpoints."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


class RunFolder:
    """Paths and configuration of a run that exists."""

    def __init__(self, path: Path) -> None:
        """Open a run.

        Raises:
            UserError: if ``path`` holds no run that this program can read.
        """
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = path / "best.checkpoint"
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events"
        file = path / "config.json"
        if not path.is_dir():
            raise UserError(f"there is no run folder {path}")
        if not file.is_file():
            raise UserError(f"{path} is no run folder: it has no config.json")
        try:
            content = json.loads(file.read_text())
            schema = content.get("schema")
            if schema != SCHEMA:
                raise UserError(f"{file} has schema {schema}, this program has {SCHEMA}: it cannot be read")
            self.config = RunConfig(**content)
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error

    def lock(self) -> IO[bytes]:
        """Hold the run against other processes for as long as the returned file is open.

        Raises:
            UserError: if another process trains it.
        """
        file = lock(self.path)
        remove_temporary(self.path)
        return file

    def add_versions(self, iteration: int) -> None:
        """Note what runs it from ``iteration`` on; nothing is added if that has not changed."""
        path = self.path / "versions.json"
        entries = json.loads(path.read_text()) if path.exists() else []
        now = versions()
        if not entries or {**entries[-1], "from_iteration": 0} != {**now, "from_iteration": 0}:
            write_json(path, [*entries, {"from_iteration": iteration, **now}])


def default_evaluate_every(settings: Mapping[str, Any]) -> int:
    """Iterations between validations where the user does not say."""
    iterations = settings.get("iterations")
    return max(1, iterations // EVALUATIONS) if isinstance(iterations, int) else 1


def lock(path: Path) -> IO[bytes]:
    """Hold a folder against other processes for as long as the returned file is open.

    Raises:
        UserError: if another process holds it.
    """
    file = open(path / "lock", "wb")  # noqa: SIM115 (held open on purpose)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(f"another process is training {path}") from error
    return file


def create(path: Path, config: RunConfig, fill: Callable[[RunFolder], None]) -> RunFolder:
    """Make a run folder; it appears under its name only when it is whole.

    Args:
        path: the folder to be; parents are made.
        config: stored as ``config.json``.
        fill: writes what else a run needs from the start (its first checkpoint).

    Raises:
        UserError: if something of that name exists.
        StorageError: if it cannot be written; nothing is left.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another --run-dir, or go on with --resume {path}")
    staging = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        staging.mkdir(parents=True)
        write_json(staging / "config.json", dataclasses.asdict(config))
        (staging / "checkpoints").mkdir()
        folder = RunFolder(staging)
        folder.add_versions(0)
        fill(folder)
        os.rename(staging, path)
    except OSError as error:
        raise StorageError(f"cannot make the run folder {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return RunFolder(path)


def versions() -> dict[str, Any]:
    """Device, package versions, and this package's commit where git knows it."""
    import jax

    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "metarl_jax": metarl_jax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": f"cpu x{cpus}" if device.platform == "cpu" else f"{device.device_kind} x{jax.device_count()}",
        "commit": commit,
    }
