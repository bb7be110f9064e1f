"""Figures of a run, drawn by matplotlib onto axes of the caller or onto a new figure."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl_jax.runs.report import measure_of, of_stage, stage_axis, stages, training_comparable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from metarl_jax.experiments.base import Experiment

_MOST_POINTS = 500
"""The largest number of points of a curve. With more iterations, each point is the mean of several iterations."""


def _axes(width: float = 6.0) -> Axes:
    """Return the axes of a new figure. A notebook displays the figure, although pyplot does not manage it."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.0), layout="constrained")

    class ShownAxes(Axes):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    return figure.add_subplot(axes_class=ShownAxes)


def _curve(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, **style: Any) -> None:
    """Draw a metric: the mean over seeds, and a band from the minimum to the maximum.

    Args:
        axes: the axes to draw on.
        steps: the steps of a seed, ``[L]``.
        values: the metric, ``[L]`` or ``[L, S]``; NaN where there is no value.
        label: the label in the legend.
        style: the style of the line.
    """
    table = values[:, None] if values.ndim == 1 else values
    known = ~np.isnan(table).all(axis=1)
    pieces = np.array_split(np.flatnonzero(known), min(int(known.sum()), _MOST_POINTS) or 1)
    rows = [_mean(table[piece], axis=0) for piece in pieces if piece.size]
    if not rows:
        return
    x = [steps[piece].mean() for piece in pieces]
    (line,) = axes.plot(x, [_mean(row, axis=0) for row in rows], label=label, **style)
    if table.shape[1] > 1:
        low, high = [np.nanmin(row) for row in rows], [np.nanmax(row) for row in rows]
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Compute the mean of the values that are not NaN; NaN if there are none."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def learning(experiment: Experiment, found: Mapping[str, np.ndarray], metric: str | None, ax: Axes | None) -> Axes:
    """Draw metrics against the steps of a seed.

    Args:
        experiment: the experiment of the run.
        found: the metrics, by name.
        metric: the name of a metric; None for the score on validation tasks and, if it is comparable, the score on
            training tasks.
        ax: the axes to draw on; None for those of a new figure.
    """
    axes = _axes() if ax is None else ax
    measure = experiment.measure
    if metric is not None:
        _curve(axes, found["steps"], found[metric], metric.replace("_", " "))
        axes.set(ylabel=metric.replace("_", " "))
    else:
        if training_comparable(measure) and measure.training_metric in found:
            _curve(axes, found["steps"], found[measure.training_metric], "training tasks", color="tab:gray")
        if "validation_score" in found:
            _curve(axes, found["steps"], found["validation_score"], "validation tasks", color="tab:blue", marker=".")
        axes.set(ylabel=measure.title)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    axes.set(xlabel=f"{experiment.unit} of each seed")
    return axes


def adaptation(evaluation: dict[str, Any], ax: Axes | None) -> Axes:
    """Draw the scores by stage of the run and of the reference learners, and published scores.

    Args:
        evaluation: the content of the evaluation file.
        ax: the axes to draw on; None for those of a new figure.
    """
    from matplotlib.ticker import MaxNLocator

    axes = _axes(8.0) if ax is None else ax
    measure, numbers = measure_of(evaluation), stages(evaluation)
    few = len(numbers) <= 50
    for learner in (evaluation["ours"], *evaluation["oracles"]):
        ours = learner is evaluation["ours"]
        style: dict[str, Any] = {"linewidth": 2.5, "zorder": 3} if ours else {"linestyle": "--"}
        scores = np.array(learner["score_by_stage"], np.float64)
        (line,) = axes.plot(numbers, scores, label=learner["name"], marker="." if few else None, **style)
        low, high = np.array(learner["ci95_by_stage"], np.float64).T
        axes.fill_between(numbers, low, high, color=line.get_color(), alpha=0.25 if ours else 0.08, linewidth=0)
    for name, scores in evaluation["paper_by_stage"].items():
        known = [(stage, scores[str(stage)]) for stage in numbers if scores.get(str(stage)) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "x", label=f"{name}, published")
    axes.set(xlabel=stage_axis(measure), ylabel=of_stage(measure))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ax is None:
        # The legend is outside of the axes, because there may be a dozen reference learners.
        axes.figure.legend(loc="outside right upper", fontsize="small")
    else:
        axes.legend(fontsize="small")
    return axes
