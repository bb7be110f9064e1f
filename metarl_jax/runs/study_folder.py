"""The study folder.

``study.json`` (what was asked for), ``cells/`` (an ordinary run folder for each combination of settings, on which
``train --resume``, ``evaluate``, ``report`` and ``record`` work), ``table.json``, ``table.md``, ``*.png``.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, default_evaluate_every

SCHEMA = 1
CONFIG = "study.json"


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
    schema: int = SCHEMA


class Cell(NamedTuple):
    """One combination of settings."""

    name: str
    changes: dict[str, Any]
    config: RunConfig


def cells(study: StudyConfig) -> list[Cell]:
    """Every combination, that of the first values first."""
    found = []
    for values in itertools.product(*study.vary.values()):
        changes = dict(zip(study.vary, values, strict=True))
        settings = {**study.settings, **changes}
        config = RunConfig(
            experiment=study.experiment,
            settings=settings,
            seed=study.seed,
            seeds=study.seeds,
            evaluate_every=study.evaluate_every or default_evaluate_every(settings),
        )
        name = ",".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in changes.items()
        )
        found.append(Cell(name.replace("/", "_") or "as-it-is", changes, config))
    return found


class StudyFolder:
    """A study that exists."""

    def __init__(self, path: Path) -> None:
        """Open a study.

        Raises:
            UserError: if ``path`` holds none that this program can read.
        """
        self.path = path
        file = path / CONFIG
        if not file.is_file():
            raise UserError(f"{path} is no study folder: it has no {CONFIG}")
        try:
            content = json.loads(file.read_text())
            if content.get("schema") != SCHEMA:
                raise UserError(f"{file} has schema {content.get('schema')}, this program has {SCHEMA}")
            self.config = StudyConfig(**content)
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        self.cells = cells(self.config)

    def cell(self, cell: Cell) -> Path:
        """Where a cell's run folder is, or will be."""
        return self.path / "cells" / cell.name
