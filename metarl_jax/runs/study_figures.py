"""Figures of a study, as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.ops.statistics import stratified_bootstrap
from metarl_jax.runs import metrics
from metarl_jax.runs.evaluate import FEWEST_SEEDS
from metarl_jax.runs.files import write_atomically
from metarl_jax.runs.study_folder import StudyFolder

_BAND_REPETITIONS = 200
"""The number of bootstrap resamples for each point of a learning curve. It is small because there are many points."""


def _figure(height: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())
    return path


def curves(study: StudyFolder, result: dict[str, Any]) -> Path:
    """Draw the validation score of each cell during training: the interquartile mean over seeds, and its interval.

    There is no interval if there are too few seeds.
    """
    figure, axes = _figure()
    for cell in study.cells:
        having = [line for line in metrics.read(study.cell(cell) / "metrics.jsonl") if "validation_score" in line]
        points = [(line["steps"], line["validation_score"]) for line in having if None not in line["validation_score"]]
        estimates = [stratified_bootstrap(np.c_[scores], repetitions=_BAND_REPETITIONS) for _, scores in points]
        steps = [step for step, _ in points]
        (line,) = axes.plot(steps, [e.mean for e in estimates], label=cell.name)
        if result["seeds"] >= FEWEST_SEEDS:
            low, high = [e.low for e in estimates], [e.high for e in estimates]
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
    unit = study.config.resolve().unit
    axes.set(xlabel=f"{unit} of a seed", ylabel=f"validation {result['measure']['title']}")
    figure.legend(loc="outside lower center", fontsize="x-small")
    return _save(figure, study.path / "learning_curves.png")


def scores(study: StudyFolder, result: dict[str, Any], measured: list[dict[str, Any]]) -> Path:
    """Draw the interquartile mean of each cell with its interval, and each seed, on validation and held-out tasks."""
    from matplotlib.patches import Patch

    figure, axes = _figure(max(4.0, 1.5 + 0.4 * len(measured)))
    colors = {"validation": "tab:blue", "heldout": "tab:orange"}
    for (split, color), above in zip(colors.items(), (0.2, -0.2), strict=True):
        for place, entry in enumerate(reversed(measured)):
            own, at = entry[split], place + above
            if own["iqm"] is None:
                continue
            low, high = own["ci95"] or [own["iqm"]] * 2
            axes.barh(at, high - low, left=low, height=0.35, color=color, alpha=0.4)
            axes.plot([own["iqm"]] * 2, [at - 0.17, at + 0.17], color="black")
            axes.plot(own["per_seed"], [at] * len(own["per_seed"]), ".", color=color)
    axes.set_yticks(range(len(measured)), [entry["cell"] for entry in reversed(measured)], fontsize="x-small")
    axes.set(xlabel=result["measure"]["title"])
    titles = ("validation tasks, which rank the cells", "held-out tasks")
    handles = [Patch(color=color, alpha=0.4, label=title) for color, title in zip(colors.values(), titles, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="x-small")
    return _save(figure, study.path / "scores.png")


def improvement(study: StudyFolder, result: dict[str, Any], measured: list[dict[str, Any]]) -> Path:
    """Draw the probability that the cell of a row is better than the cell of a column, on validation tasks."""
    figure, axes = _figure(max(4.0, 1.5 + 0.25 * len(measured)))
    names, better = [entry["cell"] for entry in measured], result["probability_of_improvement"]
    square = [
        [better.get(row, {}).get(column, {"probability": 0.5})["probability"] for column in names] for row in names
    ]
    image = axes.imshow(np.asarray(square), vmin=0, vmax=1, cmap="RdBu")
    axes.set_xticks(range(len(names)), [str(i + 1) for i in range(len(names))], fontsize="x-small")
    axes.set_yticks(range(len(names)), [f"{name}  {i + 1}" for i, name in enumerate(names)], fontsize="x-small")
    figure.colorbar(image, label="row better than column (validation)", shrink=0.8)
    return _save(figure, study.path / "improvement.png")
