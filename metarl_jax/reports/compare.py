"""The part of a report that compares several runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl_jax.reports import sections
from metarl_jax.reports.collect import Run
from metarl_jax.reports.figures import COLOURS, DASHES, Chart, Series, figure, number, short
from metarl_jax.reports.markup import Child, Html, tag
from metarl_jax.runs import evaluate, report


def style_of(index: int) -> int:
    """Return the style of a run in figures. No run has the style 0, which is drawn thick and on top."""
    return index + COLOURS * DASHES


def _table(runs: Sequence[Run]) -> Html:
    titles = ["run", "score", "of", "held-out tasks", "seeds", "steps a seed", "wall time", "device", "commit"]
    rows = []
    for run in runs:
        score: list[Child] = ["not evaluated"]
        of = tasks = ""
        if run.evaluations:
            evaluation = run.evaluations[0]
            places, ours = sections.decimals(evaluation["ours"]["ci95"]), evaluation["ours"]
            score = [number(ours["score"], places), tag("small", sections.interval(ours["ci95"], places))]
            of = report.measure_of(evaluation).title
            of += f", {sections.changes(evaluation)}" if evaluation["changes"] else ""
            tasks = f"{evaluation['tasks']:,}"
        versions = run.versions[-1] if run.versions else {}
        wall = sections.wall_s(run)
        cells = [
            tag("th", tag("strong", run.label), tag("small", run.title), scope="row"),
            tag("td", score, class_="number"),
            tag("td", of),
            tag("td", tasks, class_="number"),
            tag("td", f"{run.config.seeds}", class_="number"),
            tag("td", short(float(run.lines[-1]["steps"])) if run.lines else "", class_="number"),
            tag("td", "" if wall is None else sections.span(wall), class_="number"),
            tag("td", versions.get("device", "")),
            tag("td", sections.commit(versions)),
        ]
        rows.append(tag("tr", cells))
    numbers = {"score", "held-out tasks", "seeds", "steps a seed", "wall time"}
    head = [tag("th", title, scope="col", class_="number" if title in numbers else None) for title in titles]
    return sections.scroll(tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), "Runs compared")


def not_paired(run: Run, other: Run) -> str | None:
    """Return the reason why the scores of two runs on each task cannot be paired; None if they can be paired."""
    if not (run.evaluations and other.evaluations):
        return "not both are evaluated"
    if run.experiment is None or other.experiment is None:
        return "an experiment is not known"
    ours, theirs = run.evaluations[0], other.evaluations[0]
    if not ("per_task" in ours["ours"] and "per_task" in theirs["ours"]):
        return "an evaluation of an older version has no scores of single tasks"
    names = run.experiment.parts().family
    settings, others = ({**r.config.settings, **r.evaluations[0]["changes"]} for r in (run, other))
    if run.experiment.family != other.experiment.family or any(settings[n] != others.get(n) for n in names):
        return "the tasks are different"
    if (ours["tasks"], ours["seed"]) != (theirs["tasks"], theirs["seed"]):
        return "the evaluations drew different tasks"
    measure, their_measure = report.measure_of(ours), report.measure_of(theirs)
    if (measure.title, measure.total) != (their_measure.title, their_measure.total):
        return "the scores are different"
    if measure.total and len(report.stages(ours)) != len(report.stages(theirs)):
        return f"the trials have different numbers of {measure.stage}s"
    return None


def _paired(runs: Sequence[Run]) -> list[Child]:
    """Return the table of paired differences between each run and the first one."""
    first, rows = runs[0], []
    for run in runs[1:]:
        reason = not_paired(run, first)
        if reason is None:
            evaluation = run.evaluations[0]
            ours, theirs = (np.array([r.evaluations[0]["ours"]["per_task"]], np.float64) for r in (run, first))
            gain = evaluate.gain(first.label, ours, theirs, report.measure_of(evaluation))
            places = sections.decimals(gain["ci95"])
            cells = [
                tag("td", number(gain["mean"], places), class_="number"),
                tag("td", sections.interval(gain["ci95"], places), class_="number"),
                tag("td", f"{evaluation['tasks']:,}", class_="number"),
            ]
        else:
            cells = [tag("td", f"cannot be paired: {reason}", colspan=3)]
        rows.append(tag("tr", tag("th", run.label, scope="row"), cells))
    heads = ("95 % interval", "held-out tasks")
    titles = [tag("th", "run", scope="col"), tag("th", f"better than {first.label} by", scope="col", class_="number")]
    titles += [tag("th", title, scope="col", class_="number") for title in heads]
    title = "Paired differences"
    table = tag("table", tag("thead", tag("tr", titles)), tag("tbody", rows))
    words = (
        "The two runs adapted to the same held-out tasks. The difference is taken on each task, with the mean over the "
        "seeds of a run, and then averaged over tasks. A positive number is an improvement. The intervals are over "
        "tasks: they say nothing about other training seeds."
    )
    return [tag("h3", title), sections.scroll(table, title), tag("p", words, class_="under")]


def _family(run: Run) -> str:
    """Return the name of the family of tasks; that of the experiment if this program does not have it."""
    return run.experiment.family if run.experiment else run.config.experiment


def _learning(runs: Sequence[Run]) -> list[Child]:
    """Return figures of validation scores during training: one for each family and measure that several runs share."""
    groups: dict[tuple[str, str, str], list[Series]] = {}
    for index, run in enumerate(runs):
        curve = run.curve("validation_score", run.label, style_of(index))
        if curve and run.measure:
            groups.setdefault((_family(run), run.measure.title, run.unit), []).append(curve)
    found: list[Child] = []
    for (_, title, unit), series in groups.items():
        if len(series) > 1:
            chart = Chart("Learning", f"{unit} of each seed", title, series)
            caption = f"{sections.capital(title)} on validation tasks during training, mean over seeds."
            found.append(figure(chart, f"{caption} Bands show the range from the lowest to the highest seed."))
    return found


def _adaptation(runs: Sequence[Run]) -> list[Child]:
    """Return figures of scores by stage: one for each family and kind of stage that several runs share."""
    groups: dict[tuple[str, str, str], list[Series]] = {}
    for index, run in enumerate(runs):
        if run.evaluations and len(report.stages(run.evaluations[0])) > 1:
            evaluation = run.evaluations[0]
            measure, numbers = report.measure_of(evaluation), report.stages(evaluation)
            line = sections.by_stage(run.label, evaluation["ours"], numbers, style_of(index))
            groups.setdefault((_family(run), measure.stage, report.of_stage(measure)), []).append(line)
    found: list[Child] = []
    for (_, stage, label), series in groups.items():
        if len(series) > 1:
            chart = Chart("Adaptation", stage, label, series, whole_x=True)
            caption = f"{sections.capital(label)}, mean over the held-out tasks of each run."
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
        "section",
        _table(runs),
        warning,
        notes,
        _paired(runs),
        tag("h3", "Learning and adaptation") if figures else None,
        sections.columns(figures),
        _settings(runs),
        aria_label="Comparison",
    )
