"""Read a study from Python: its cells, and the scores of their seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from metarl_jax.runs.errors import UserError
from metarl_jax.runs.files import printable
from metarl_jax.runs.study_folder import StudyFolder


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A combination of settings of a study, with the scores of its S seeds.

    The scores are NaN if training or adaptation diverged.
    """

    name: str
    """The name of the cell."""
    path: Path
    """The run folder of the cell, which ``open`` reads."""
    settings: Mapping[str, Any]
    """The values of the settings that vary in the study, by name."""
    validation: np.ndarray
    """The score of each seed on validation tasks, ``[S]``. Settings are chosen by these scores."""
    heldout: np.ndarray
    """The score of each seed on held-out tasks, ``[S]``. Nothing is chosen by these scores; report them."""


def open_study(path: str | os.PathLike[str]) -> tuple[Cell, ...]:
    """Read a study that ``metarl-jax study`` has trained and evaluated.

    Args:
        path: the folder of the study.

    Returns:
        The cells. The first one has the best interquartile mean over seeds on validation tasks.

    Raises:
        UserError: if the path is not a study that this version can read, or if the study has not been evaluated yet.
    """
    from metarl_jax.runs import study

    folder = StudyFolder(Path(path))
    table = study.read(folder)
    variants = {variant.name: variant for variant in folder.cells}
    seeds = folder.config.seeds
    found: list[Cell] = []
    for entry in table["cells"]:
        variant = variants.pop(entry["cell"], None)
        if variant is None:
            raise UserError(
                f"{folder.path}: table.json has a cell {printable(entry['cell'])!r} that is not in study.json"
            )
        scores: dict[str, np.ndarray] = {}
        for split in study.TITLES:
            of_seeds = entry[split]["per_seed"] if entry[split]["iqm"] is not None else [None] * seeds
            if len(of_seeds) != seeds:
                raise UserError(f"{folder.path}: table.json has {len(of_seeds)} scores of {seeds} seeds")
            scores[split] = np.array(of_seeds, np.float64)
        found.append(
            Cell(
                name=variant.name,
                path=folder.cell(variant),
                settings=MappingProxyType(dict(variant.changes)),
                validation=scores["validation"],
                heldout=scores["heldout"],
            )
        )
    return tuple(found)
