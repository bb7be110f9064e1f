"""The study folder.

A study folder contains ``study.json`` (the configuration), ``cells/``, ``table.json``, ``table.md``,
``*.png`` and ``report.html``. ``cells/`` has an ordinary run folder for each combination of settings. The commands
``resume``, ``evaluate``, ``report`` and ``record`` work on it.
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
    """The configuration of a study, which determines its result. ``study.json`` stores it."""

    experiment: str
    """The name of a preset, or of a combination: "algorithm family" or "algorithm family network"."""
    settings: dict[str, Any]
    """Every setting of the experiment by name, defaults included. A setting that varies has its first value here."""
    vary: dict[str, list[Any]]
    """The values of each setting that varies. Every combination of values is a cell."""
    seed: int
    """The first seed of every cell."""
    seeds: int
    """The number of seeds of each cell."""
    evaluate_every: int | None = None
    """The number of iterations between validations; None for twenty validations in a run."""
    evaluation_tasks: int | None = None
    """The number of held-out tasks, and also of validation tasks, of the table; None for the experiment's number."""
    names: dict[str, str] | None = None
    """The names of the algorithm, the family and the network; None for those of the experiment."""
    source: Source | None = None
    """The place from which the user's experiment was loaded. No code is loaded because it is named here. None means
    that the experiment is part of this package, or that a program has registered it."""

    def __post_init__(self) -> None:
        """Check the values, which may come from a stranger's file.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range.
        """
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
        """Return the experiment.

        Raises:
            ValueError: if this version does not have it.
        """
        return resolved(self.experiment, self.names)

    def stored(self) -> dict[str, Any]:
        """Return the content of ``study.json``.

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
    """A cell of a study: one combination of settings."""

    name: str
    """The name of the cell, and of its run folder."""
    changes: dict[str, Any]
    """The values of the settings that vary, by name."""
    config: RunConfig
    """The configuration of the run."""


def cells(study: StudyConfig) -> list[Variant]:
    """Return every combination of settings, beginning with the first value of each.

    Raises:
        ValueError: if there are more than ``MOST_CELLS`` combinations.
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
    """Return a readable name of at most ``_MOST_NAME_BYTES`` bytes. Several cells may get the same name."""
    values = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in changes.items())
    name = ",".join(values).replace("/", "_") or "as-it-is"
    return name if len(name.encode()) <= _MOST_NAME_BYTES else _unique_name(name, changes)


def _unique_name(name: str, changes: dict[str, Any]) -> str:
    """Return a name that is unique to the changes. It ends in their hash."""
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:16]
    beginning = name.encode()[: _MOST_NAME_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{beginning}-{digest}"


class StudyFolder:
    """The paths and the configuration of an existing study."""

    def __init__(self, path: Path) -> None:
        """Open a study.

        Raises:
            UserError: if ``path`` is not a study folder that this program can read.
        """
        self.path = path
        file = open_folder(path, "study", CONFIG, (path / "cells",))
        content = files.read_json(file)
        try:
            found = read_experiment(content)
            # Only checkpoints need the hash, and each cell has its own.
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
        """Return the path of a cell's run folder, which need not exist yet."""
        return self.path / "cells" / cell.name


def study_of(path: Path) -> Path | None:
    """Return the folder of the study that a run is a cell of.

    Args:
        path: the run folder.

    Returns:
        The absolute path of the study folder; None if the run is not part of a study.
    """
    whole = path.absolute()
    is_cell = whole.parent.name == "cells" and files.exists(whole.parents[1] / CONFIG)
    return whole.parents[1] if is_cell else None
