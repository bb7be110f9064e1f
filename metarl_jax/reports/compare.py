"""The part of a report that compares several runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from metarl_jax.reports import sections
from metarl_jax.reports.collect import Run
from metarl_jax.reports.figures import COLOURS, DASHES, Chart, Series, figure, number, short
from metarl_jax.reports.markup import Child, Html, tag
from metarl_jax.runs import report


def style_of(index: int) -> int:
    """Return the style of a run in figures. No run has the style 0, which is drawn thick and on top."""
    return index + COLOURS * DASHES


def _table(runs: Sequence[Run]) -> Html:
    titles = ["run", "score", "of", "seeds", "steps a seed", "wall time", "device", "commit"]
    rows = []
    for run in runs:
        score: list[Child] = ["not evaluated"]
        of = ""
        if run.evaluations:
            evaluation = run.evaluations[0]
            places, ours = sections.decimals(evaluation["ours"]["ci95"]), evaluation["ours"]
            score = [number(ours["score"], places), tag("small", sections.interval(ours["ci95"], places))]
            of = report.measure_of(evaluation).title
            of += f", {sections.changes(evaluation)}" if evaluation["changes"] else ""
        versions = run.versions[-1] if run.versions else {}
        wall = sections.wall_s(run)
        cells = [
            tag("th", tag("strong", run.label), tag("small", run.config.experiment), scope="row"),
            tag("td", score, class_="number"),
            tag("td", of),
            tag("td", f"{run.config.seeds}", class_="number"),
            tag("td", short(float(run.lines[-1]["steps"])) if run.lines else "", class_="number"),
            tag("td", "" if wall is None else sections.span(wall), class_="number"),
            tag("td", versions.get("device", "")),
            tag("td", sections.commit(versions)),
        ]
        rows.append(tag("tr", cells))
    numbers = {"score", "seeds", "steps a seed", "wall time"}
    head = [tag("th", title, scope="col", class_="number" if title in numbers else None) for title in titles]
    return sections.scroll(tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), "Runs compared")


def _learning(runs: Sequence[Run]) -> list[Child]:
    """Return figures of validation scores during training: one for each measure that several runs share."""
    groups: dict[tuple[str, str], list[Series]] = {}
    for index, run in enumerate(runs):
        curve = run.curve("validation_score", run.label, style_of(index))
        if curve and run.measure:
            groups.setdefault((run.measure.title, run.unit), []).append(curve)
    found: list[Child] = []
    for (title, unit), series in groups.items():
        if len(series) > 1:
            chart = Chart("Learning", f"{unit} of each seed", title, series)
            caption = f"{sections.capital(title)} on validation tasks during training, mean over seeds."
            found.append(figure(chart, f"{caption} Bands show the range from the lowest to the highest seed."))
    return found


def _adaptation(runs: Sequence[Run]) -> list[Child]:
    """Return figures of scores by stage: one for each kind of stage that several runs share."""
    groups: dict[tuple[str, str], list[Series]] = {}
    for index, run in enumerate(runs):
        if run.evaluations and len(report.stages(run.evaluations[0])) > 1:
            evaluation = run.evaluations[0]
            measure, numbers = report.measure_of(evaluation), report.stages(evaluation)
            line = sections.by_stage(run.label, evaluation["ours"], numbers, style_of(index))
            groups.setdefault((measure.stage, report.of_stage(measure)), []).append(line)
    found: list[Child] = []
    for (stage, label), series in groups.items():
        if len(series) > 1:
            chart = Chart("Adaptation", stage, label, series, whole_x=True)
            caption = f"{sections.capital(label)}, mean over held-out tasks."
            found.append(figure(chart, f"{caption} Bands show 95 % intervals of that mean."))
    return found


def _settings(runs: Sequence[Run]) -> Child:
    """Return a table of the settings that all runs have with different values, and the number of other settings."""
    shared = [name for name in runs[0].config.settings if all(name in run.config.settings for run in runs)]
    values: dict[str, list[Any]] = {name: [run.config.settings[name] for run in runs] for name in shared}
    different = {n: vs for n, vs in values.items() if len({json.dumps(value, sort_keys=True) for value in vs}) > 1}
    everything = {name for run in runs for name in run.config.settings}
    words = f"The runs share {sections.counted(len(shared), 'setting')}, {len(different)} of them with different values"
    words += f"; only some runs have {len(everything) - len(shared)} more" if len(everything) > len(shared) else ""
    if not different:
        return tag("p", f"{words}.", class_="under")
    head = [tag("th", "setting", scope="col"), *(tag("th", run.label, scope="col") for run in runs)]
    rows = [
        tag("tr", tag("th", tag("code", name), scope="row"), [tag("td", str(value)) for value in vs])
        for name, vs in different.items()
    ]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    label = "Settings that differ"
    return [tag("h3", label), sections.scroll(table, label), tag("p", f"{words}.", class_="under")]


def section(runs: Sequence[Run]) -> Html:
    """Return the section that compares several runs."""
    figures = [*_learning(runs), *_adaptation(runs)]
    names = {run.config.experiment for run in runs}
    warning = None
    if len(names) > 1:
        words = "The runs are of different experiments: their scores can be compared only where the tasks are the same."
        warning = tag("p", words, class_="under")
    incomplete = [f"{run.label}: {problem}" for run in runs for problem in run.problems]
    notes = tag("ul", [tag("li", text) for text in incomplete], class_="notes") if incomplete else None
    return tag(
        "section", _table(runs), warning, notes, sections.columns(figures), _settings(runs), aria_label="Comparison"
    )
