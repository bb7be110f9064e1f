"""The study folder.

``study.json`` (what was asked for), ``cells/`` (an ordinary run folder for each combination of settings, on which
``resume``, ``evaluate``, ``report`` and ``record`` work), ``table.json``, ``table.md``, ``*.png``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl_jax import checks
from metarl_jax.references import Source
from metarl_jax.runs import files
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import (
    RunConfig,
    default_evaluate_every,
    nested,
    open_folder,
    read_experiment,
    resolved,
    stored_source,
)

if TYPE_CHECKING:
    from metarl_jax.experiments.base import Experiment

SCHEMA = 2
CONFIG = "study.json"
MOST_CELLS = 1000
_MOST_NAME_BYTES = 240


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """All that decides what a study computes; stored as ``study.json``."""

    experiment: str
    settings: dict[str, Any]
    """Of the experiment, defaults included; what varies has here its first value."""
    vary: dict[str, list[Any]]
    """The values of the settings that vary: every combination is a cell."""
    seed: int
    """The first seed of every cell."""
    seeds: int
    """Of each cell."""
    evaluate_every: int | None = None
    """Iterations between validations; None: twenty times a run."""
    evaluation_tasks: int | None = None
    """Held-out tasks, and validation tasks, of the table; None: as many as the experiment says."""
    names: dict[str, str] | None = None
    """The names of the algorithm, the family and the network; None: those of the experiment."""
    source: Source | None = None
    """Where the user's experiment was loaded from; as ``RunConfig.source``."""

    def __post_init__(self) -> None:
        """TypeError or ValueError for a value of another type or out of range, as in a file from elsewhere."""
        for name, kind in (("experiment", str), ("settings", dict), ("vary", dict)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is of another type than {kind.__name__}")
        if not all(isinstance(values, list) and values for values in self.vary.values()):
            raise TypeError("vary does not map settings to lists of values")
        checks.seed_range(self.seed, self.seeds)
        for name in ("evaluate_every", "evaluation_tasks"):
            if getattr(self, name) is not None:
                checks.positive_int(name, getattr(self, name))

    def resolve(self) -> Experiment:
        """The experiment.

        Raises:
            ValueError: if this version does not have it.
        """
        return resolved(self.experiment, self.names)

    def stored(self) -> dict[str, Any]:
        """What ``study.json`` holds.

        Raises:
            ValueError: if this version does not have the experiment, or a setting belongs to no part of it.
        """
        return {
            "schema": SCHEMA,
            "experiment": self.experiment,
            **nested(self.resolve(), self.settings),
            "vary": self.vary,
            "seed": self.seed,
            "seeds": self.seeds,
            "evaluate_every": self.evaluate_every,
            "evaluation_tasks": self.evaluation_tasks,
            **stored_source(self.source),
        }


class Variant(NamedTuple):
    """One combination of settings."""

    name: str
    changes: dict[str, Any]
    config: RunConfig


def cells(study: StudyConfig) -> list[Variant]:
    """Every combination, that of the first values first.

    Raises:
        ValueError: if they are more than ``MOST_CELLS``.
    """
    number = math.prod(len(values) for values in study.vary.values())
    if number > MOST_CELLS:
        raise ValueError(f"{number} combinations of settings are more than {MOST_CELLS}")
    found = []
    for values in itertools.product(*study.vary.values()):
        changes = dict(zip(study.vary, values, strict=True))
        settings = {**study.settings, **changes}
        config = RunConfig(
            experiment=study.experiment,
            names=study.names,
            source=study.source,
            settings=settings,
            seed=study.seed,
            seeds=study.seeds,
            evaluate_every=study.evaluate_every or default_evaluate_every(settings),
        )
        found.append(Variant(_name(changes), changes, config))
    if len({cell.name for cell in found}) == len(found):
        return found
    return [cell._replace(name=_unique_name(cell.name, cell.changes)) for cell in found]


def _name(changes: dict[str, Any]) -> str:
    """A readable name of at most ``_MOST_NAME_BYTES`` bytes; several cells may have the same."""
    values = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in changes.items())
    name = ",".join(values).replace("/", "_") or "as-it-is"
    return name if len(name.encode()) <= _MOST_NAME_BYTES else _unique_name(name, changes)


def _unique_name(name: str, changes: dict[str, Any]) -> str:
    """A name that tells all changes apart: its end is their hash."""
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:16]
    beginning = name.encode()[: _MOST_NAME_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{beginning}-{digest}"


class StudyFolder:
    """A study that exists."""

    def __init__(self, path: Path) -> None:
        """Open a study.

        Raises:
            UserError: if ``path`` holds none that this program can read.
        """
        self.path = path
        file = open_folder(path, "study", CONFIG, (path / "cells",))
        content = files.read_json(file)
        try:
            found = read_experiment(content)
            # Only checkpoints hold hashes, and cells have their own.
            found.pop("stored_hash", None)
            self.config = StudyConfig(**found, **content)
            self.cells = cells(self.config)
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        for cell in self.cells:
            try:
                files.require_folder(self.cell(cell))
            except OSError as error:
                raise UserError(f"{self.cell(cell)} cannot be used: {error.strerror}") from error

    def cell(self, cell: Variant) -> Path:
        """Where a cell's run folder is, or will be."""
        return self.path / "cells" / cell.name


def study_of(path: Path) -> Path | None:
    """The folder of the study that a run is a cell of.

    Args:
        path: the run folder.

    Returns:
        The absolute path of the study folder; None for a run of its own.
    """
    whole = path.absolute()
    is_cell = whole.parent.name == "cells" and files.exists(whole.parents[1] / CONFIG)
    return whole.parents[1] if is_cell else None
