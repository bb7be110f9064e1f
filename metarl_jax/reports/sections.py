"""The sections of a report about one run."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from metarl_jax import experiments
from metarl_jax.experiments.base import Measure
from metarl_jax.reports.animation import Animation
from metarl_jax.reports.collect import Run
from metarl_jax.reports.figures import Chart, Level, Series, Value, drawable, figure, number, short
from metarl_jax.reports.markup import Child, Html, tag
from metarl_jax.runs import commands
from metarl_jax.runs.folder import default_evaluate_every
from metarl_jax.runs.report import (
    SHOWN_STAGES,
    measure_of,
    of_stage,
    stage_axis,
    stages,
    success_rows,
    training_comparable,
)

TRAINING = 15
"""The style of the curve of training tasks: grey, without dashes."""
Evaluation = dict[str, Any]


def counted(count: int, what: str) -> str:
    """Return a count with its noun, such as "3 seeds" or "1 seed"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def span(seconds: float) -> str:
    """Format a duration, such as "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def capital(text: str) -> str:
    """Return the text with an initial capital letter."""
    return text[:1].upper() + text[1:]


def decimals(ends: Sequence[Value]) -> int:
    """Return the number of decimal places for an interval, so that its width is at least 6 units of the last place."""
    low, high = ends
    if low is None or high is None or high - low <= 1e-9 * max(abs(low), abs(high)):
        return 3
    return max(0, min(4, -math.floor(math.log10((high - low) / 6))))


def interval(ends: Sequence[Value], places: int) -> str:
    """Return the text ``low to high``; an empty text if the interval is not known."""
    return "" if None in ends else f"{number(ends[0], places)} to {number(ends[1], places)}"


def changes(evaluation: Evaluation) -> str:
    """Return the settings that differ from those of training, as text; an empty text if none differ."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in evaluation["changes"].items())


def styles(evaluation: Evaluation) -> dict[str, int]:
    """Return the style of each learner, which is the same in all figures. The style of the run itself is 0."""
    names = [oracle["name"] for oracle in evaluation["oracles"]]
    names += evaluation["paper_by_stage"]
    return {name: style for style, name in enumerate(dict.fromkeys(names), 1)}


_OPTIMUM = "exact optimum"


def _knows_the_task(oracle: dict[str, Any]) -> bool:
    """Return whether the oracle knows the task, so that no learner can be expected to reach it.

    The names of most of these oracles say so. The others have no regret.
    """
    if oracle["name"].endswith(" known"):
        return True
    regret = oracle.get("cumulative_regret")
    last = regret[-1] if regret else None
    return last is not None and oracle["score"] is not None and abs(last) < 0.01 * abs(oracle["score"])


def subtitle(run: Run) -> Html:
    """Return the size of the run in one line."""
    config, parts = run.config, []
    parts.append(counted(config.seeds, "seed"))
    if run.lines:
        parts.append(counted(run.iteration, "iteration"))
        parts.append(f"{short(float(run.lines[-1]['steps']))} {run.unit} a seed")
    if (wall := wall_s(run)) is not None:
        device = f" on {run.versions[-1].get('device', 'an unknown device')}" if run.versions else ""
        parts.append(f"{span(wall)} of training{device}")
    return tag("p", f"{', '.join(parts)}.", class_="soft")


def wall_s(run: Run) -> float | None:
    """Return the wall-clock time of training in seconds, of all seeds together; None if it is not known."""
    return drawable(run.lines[-1].get("wall_s")) if run.lines else None


def notes(run: Run) -> Child:
    """Return the list of problems: the parts that are damaged or missing."""
    return tag("ul", [tag("li", problem) for problem in run.problems], class_="notes") if run.problems else None


def lead(run: Run, evaluation: Evaluation) -> Html:
    """Return the result as one sentence: the score, the published score of the same method, and the exact optimum."""
    ours, places = evaluation["ours"], decimals(evaluation["ours"]["ci95"])
    score = [reported(evaluation), " is ", tag("strong", number(ours["score"], places)), f" ({_basis(evaluation)})"]
    known = []
    if published := run.published(evaluation):
        known.append(f"the published result of {published[0]} is {plain(published[1])}")
    if (optimum := drawable(evaluation["optimum"])) is not None:
        known.append(f"the exact optimum is {number(optimum, places)}")
    return tag("p", score, f"; {', and '.join(known)}." if known else ".", class_="lead")


def reported(evaluation: Evaluation) -> str:
    """Return the name of the reported score at the beginning of a sentence, such as "The mean reward of a trial"."""
    measure, last = measure_of(evaluation), stages(evaluation)[-1]
    title = measure.title if measure.title.startswith("mean ") else f"mean {measure.title}"
    if measure.total:
        title += f" of {counted(last, measure.stage)}"
    elif measure.first_stage == 0:
        title += f" {_when(measure, last)}"
    elif measure.setting:
        title = title.replace("the last episode", f"the last of {counted(last, measure.stage)}")
    return f"The {title}"


def _basis(evaluation: Evaluation) -> str:
    """Return what the reported score is computed from: its interval, the seeds, the tasks, and changed settings."""
    within = interval(evaluation["ours"]["ci95"], decimals(evaluation["ours"]["ci95"]))
    seeds = evaluation["training_seeds"]
    parts = [
        f"95 % interval {within}" if within else "",
        f"mean of {counted(seeds, 'seed')}" if seeds > 1 else "1 seed",
        counted(evaluation["tasks"], "held-out task"),
        changes(evaluation),
    ]
    return ", ".join(part for part in parts if part)


def plain(value: float) -> str:
    """Format a published number with the digits that it was published with."""
    usual = 1e-4 <= abs(value) < 1e6
    return (f"{value}" if usual else f"{value:g}").replace("-", "−")


def _when(measure: Measure, stage: int) -> str:
    return f"in {measure.stage} {stage}" if measure.first_stage else f"after {counted(stage, measure.stage)}"


def _drawn(values: Sequence[Value]) -> list[Value]:
    return [drawable(value) for value in values]


def by_stage(name: str, learner: dict[str, Any], numbers: range, style: int) -> Series:
    """Return the line of a learner in a figure of adaptation."""
    low, high = ([drawable(ends[side]) for ends in learner["ci95_by_stage"]] for side in (0, 1))
    return Series(name, numbers, _drawn(learner["score_by_stage"]), style, low, high)


def learning(run: Run) -> Child:
    """Return the figure of the scores on training tasks and on validation tasks during training."""
    measure = run.measure
    title = measure.title if measure else "score"
    curves = [run.curve("validation_score", "validation tasks", 0)]
    if measure and training_comparable(measure):
        curves.append(run.curve(measure.training_metric, "training tasks", TRAINING))
    series = [curve for curve in curves if curve is not None]
    if not series:
        return None
    levels = []
    if run.evaluations and not run.evaluations[0]["changes"]:
        levels = _levels(run, run.evaluations[0])
    bands = " Bands show the range from the lowest to the highest seed." if run.config.seeds > 1 else ""
    points = f" Each training point is the mean of about {run.averaged()} iterations." if run.averaged() > 1 else ""
    lines = " Horizontal lines are results on held-out tasks." if levels else ""
    chart = Chart("Learning", f"{run.unit} of each seed", title, series, levels)
    tasks = run.experiment.validation_tasks if run.experiment else 0
    on = f" Validation uses {counted(tasks, 'task')}." if tasks and curves[0] else ""
    return figure(chart, f"{capital(title)} during training.{on}{lines}{bands}{points}")


def _levels(run: Run, evaluation: Evaluation) -> list[Level]:
    """Return the horizontal lines of the learning figure.

    They are the published score of the same method, the exact optimum, and the best reference learner that does not
    know the task.
    """
    levels = []
    if published := run.published(evaluation):
        levels.append(Level(f"{published[0]}, published", published[1], 1))
    if (optimum := drawable(evaluation["optimum"])) is not None:
        levels.append(Level(_OPTIMUM, optimum, 2))
    sign = -1 if measure_of(evaluation).higher_is_better else 1
    others = [o for o in evaluation["oracles"] if not _knows_the_task(o) and drawable(o["score"]) is not None]
    if others:
        best = min(others, key=lambda oracle: sign * oracle["score"])
        levels.append(Level(f"{best['name']}, measured here", best["score"], 3))
    return levels


def adaptation(evaluation: Evaluation) -> list[Child]:
    """Return the figures of scores and of regret by stage."""
    measure, numbers, style = measure_of(evaluation), stages(evaluation), styles(evaluation)
    if len(numbers) < 2:
        return []
    learners = [(evaluation["ours"], 0), *((o, style[o["name"]]) for o in evaluation["oracles"])]
    series = [by_stage(learner["name"], learner, numbers, number) for learner, number in learners]
    for name, scores in evaluation["paper_by_stage"].items():
        y = [drawable(scores.get(str(stage))) for stage in numbers]
        series.append(Series(f"{name}, published", numbers, y, style[name], kind="points"))
    label = of_stage(measure)
    chart = Chart("Adaptation", stage_axis(measure), label, series, whole_x=True)
    tasks = counted(evaluation["tasks"], "held-out task")
    found: list[Child] = [figure(chart, f"{capital(label)}, mean over {tasks}. Bands show its 95 % intervals.")]
    if "cumulative_regret" in evaluation["ours"]:
        regrets = [
            Series(learner["name"], numbers, _drawn(learner["cumulative_regret"]), number)
            for learner, number in learners
            if "cumulative_regret" in learner
        ]
        chart = Chart("Cumulative regret", stage_axis(measure), "regret so far", regrets, whole_x=True)
        found.append(figure(chart, "The return of the best policy that knows the task, minus the learner's return."))
    return found


def columns(figures: Sequence[Child]) -> Child:
    """Arrange figures in columns if the page is wide enough."""
    shown = [figure for figure in figures if figure is not None]
    names = {1: "columns one", 3: "columns three"}
    return tag("div", shown, class_=names.get(len(shown), "columns")) if shown else None


def scroll(table: Html, label: str) -> Html:
    """Put a table into an element that scrolls horizontally if the table is wider than the page."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


class _Row(NamedTuple):
    """A learner in the table of references."""

    name: str
    kind: str
    """How its score is known; an empty text if it is only published."""
    score: Value
    ends: Sequence[Value]
    """The interval of the score; empty if there is none."""
    published: Value = None
    source: str = ""
    """Where the published score is from."""


def _rows(run: Run, evaluation: Evaluation) -> list[_Row]:
    """Return the rows of the table of references, best first.

    A published score is in the row of the learner of the same name, or in a row of its own.
    """
    ours, same = evaluation["ours"], run.published(evaluation)
    rows = {ours["name"]: _Row(ours["name"], "this run", ours["score"], ours["ci95"])}
    rows |= {o["name"]: _Row(o["name"], "reference learner", o["score"], o["ci95"]) for o in evaluation["oracles"]}
    if evaluation["optimum"] is not None:
        rows[_OPTIMUM] = _Row(_OPTIMUM, "computed", evaluation["optimum"], ())
    published = [(name, value, name) for name, value in evaluation["paper"].items() if not same or name != same[0]]
    if same:
        published.append((ours["name"], same[1], same[0]))
    for row, value, name in published:
        found = re.fullmatch(r"(.*) \((.*)\)", name)
        learner, source = (found[1], found[2]) if found else (name, "")
        place = row if row in rows else learner
        if place in rows and rows[place].published is None:
            # The name of the published learner is left out only where the row has it already.
            source = source if place != ours["name"] or place == f"{learner} (ours)" else name
            rows[place] = rows[place]._replace(published=value, source=source)
        else:
            rows[name] = _Row(learner, "", None, (), value, source)
    sign = -1 if measure_of(evaluation).higher_is_better else 1

    def order(row: _Row) -> float:
        value = row.score if row.kind else row.published
        return math.inf if value is None else sign * value

    return sorted(rows.values(), key=order)


def _sources(rows: Sequence[_Row]) -> list[str]:
    """Return the sources of published scores, in the order in which the table refers to them."""
    return list(dict.fromkeys(row.source for row in rows if row.source))


def table(run: Run, evaluation: Evaluation) -> Html:
    """Return the table that compares the run with published scores and references."""
    measure, places = measure_of(evaluation), decimals(evaluation["ours"]["ci95"])
    gains, rows = {gain["over"]: gain for gain in evaluation["gains"]}, _rows(run, evaluation)
    any_published, sources = any(row.published is not None for row in rows), _sources(rows)
    body = []
    for row in rows:
        gain = gains.get(row.name) if row.kind == "reference learner" else None
        finer = decimals(gain["ci95"]) if gain else places
        cells: list[Child] = [tag("th", row.name, tag("small", row.kind) if row.kind else None, scope="row")]
        ends = tag("small", interval(row.ends, places)) if row.ends else None
        cells.append(tag("td", number(row.score, places) if row.kind else "", ends, class_="number"))
        if any_published:
            shown = "" if row.published is None else plain(row.published)
            source = tag("sup", f"{sources.index(row.source) + 1}") if row.source else None
            cells.append(tag("td", shown, source, class_="number"))
        by = number(gain["mean"], finer) if gain else ""
        within = tag("small", interval(gain["ci95"], finer)) if gain else None
        cells.append(tag("td", by, within, class_="number"))
        body.append(tag("tr", cells, class_="ours" if row.kind == "this run" else None))
    titles = [measure.title, *(["published"] if any_published else []), "this run is better by"]
    heads = [tag("th", "learner", scope="col"), *(tag("th", title, scope="col", class_="number") for title in titles)]
    return scroll(tag("table", tag("thead", tag("tr", heads)), tag("tbody", body)), "Comparison with references")


def _under(run: Run, evaluation: Evaluation) -> Html:
    """Return the explanation of the numbers in the table."""
    places, ours = decimals(evaluation["ours"]["ci95"]), evaluation["ours"]
    words = (
        f"Small print shows 95 % intervals over {counted(evaluation['tasks'], 'held-out task')}. The run and the "
        "reference learners adapted to the same tasks. The differences are means of paired differences on each task."
    )
    if evaluation["training_seeds"] > 1:
        words += f" Each seed: {', '.join(number(value, places) for value in ours['per_seed'])}"
        if seeds := ours.get("over_seeds"):
            within = (
                f" ({text})" if (text := interval(seeds["ci95"], places)) else ", without an interval: too few seeds"
            )
            words += f"; interquartile mean {number(seeds['iqm'], places)}{within}"
        words += "."
    unchanged = next((g for g in evaluation["gains"] if g["over"] == "no adaptation"), None)
    if unchanged:
        finer = decimals(unchanged["ci95"])
        words += f" Compared with its score before adaptation, the run is better by {number(unchanged['mean'], finer)}"
        words += f" ({interval(unchanged['ci95'], finer)})."
    if any((gain["mean"] or 0) < 0 for gain in evaluation["gains"]):
        words += " A negative difference means that the run is worse."
    if sources := _sources(_rows(run, evaluation)):
        words += " Published scores are from: "
    cited = [
        [tag("sup", f"{n}"), f" {source}", "; " if n < len(sources) else "."] for n, source in enumerate(sources, 1)
    ]
    return tag("p", words, cited, class_="under")


def stage_table(evaluation: Evaluation) -> Child:
    """Return the table of scores by stage, with intervals for the run."""
    numbers, measure, places = stages(evaluation), measure_of(evaluation), decimals(evaluation["ours"]["ci95"])
    if len(numbers) < 2:
        return None
    shown = [n for n in numbers if n in SHOWN_STAGES or n == numbers[-1]]
    titles = [tag("th", f"{measure.stage}{'' if measure.first_stage else 's'}", scope="col")]
    titles += [tag("th", f"{n:,}", scope="col", class_="number") for n in shown]
    rows = []
    for learner in (evaluation["ours"], *evaluation["oracles"]):
        ours = learner is evaluation["ours"]
        cells = [tag("th", learner["name"], scope="row")]
        for n in shown:
            ends = learner["ci95_by_stage"][n - numbers[0]]
            small = tag("small", interval(ends, places)) if ours else None
            cells.append(tag("td", number(learner["score_by_stage"][n - numbers[0]], places), small, class_="number"))
        rows.append(tag("tr", cells, class_="ours" if ours else None))
    for name, scores in evaluation["paper_by_stage"].items():
        known = [scores.get(str(n)) for n in shown]
        cells = [tag("td", "" if v is None else plain(v), class_="number") for v in known]
        rows.append(tag("tr", tag("th", f"{name}, published", scope="row"), cells))
    title = f"{capital(of_stage(measure))}, by {measure.stage}"
    return scroll(tag("table", tag("caption", title), tag("thead", tag("tr", titles)), tag("tbody", rows)), title)


def success_table(evaluation: Evaluation) -> Child:
    """Return the table of success rates by stage; None if the tasks do not define success."""
    numbers, learners = success_rows(evaluation)
    if not numbers:
        return None
    title = f"Success rate, by {measure_of(evaluation).stage}"
    heads = [tag("th", f"{n:,}", scope="col", class_="number") for n in numbers]
    rows = [
        tag("tr", tag("th", name, scope="row"), [tag("td", rate, class_="number") for rate in rates])
        for name, rates in learners
    ]
    head = tag("tr", tag("th", measure_of(evaluation).stage, scope="col"), heads)
    return scroll(tag("table", tag("caption", title), tag("thead", head), tag("tbody", rows)), title)


def _tables(run: Run, evaluation: Evaluation) -> Html:
    """Return the tables, with an explanation of their numbers."""
    beside = sum(stage in SHOWN_STAGES for stage in stages(evaluation)) <= 5
    both = (
        tag("div", table(run, evaluation), _under(run, evaluation)),
        stage_table(evaluation),
        success_table(evaluation),
    )
    return tag("div", both, class_="columns tables" if beside else None)


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def film(run: Run, animation: Animation) -> Html:
    """Return the animation, and the last picture of each episode."""
    width, height = animation.size
    size = {"width": width, "height": height}
    stills = []
    stage, first = (run.measure.stage, run.measure.first_stage) if run.measure else ("episode", 1)
    for n, still in enumerate(animation.stills, first):
        words = f"{stage} {n}" if len(animation.stills) > 1 else ""
        picture = tag("img", src=_data("png", still), alt=f"The last step of {words or 'the trial'}", **size)
        stills.append(tag("div", picture, words))
    name = "Adaptation to a held-out task"
    moving = tag("img", src=_data("gif", animation.video), alt=f"{name}: {run.title}, animated", **size)
    # A reader who does not want to see movement can close this element.
    playing = tag("details", tag("summary", "Animation"), moving, open=True, class_="playing")
    last = "The last step of each episode" if len(stills) > 1 else "The last step of the trial"
    ended = tag("div", tag("p", last), tag("div", stills, class_="stills"), class_="ended")
    caption = f"{animation.caption} The learner is the first seed after iteration {animation.iteration:,}."
    shown = tag("div", playing, ended if stills else None, class_="film")
    return tag("figure", tag("h4", name), shown, tag("figcaption", caption), aria_label=name)


def command_line(text: str) -> Html:
    """Return a command line that is not broken within a word."""
    words = [tag("span", word) for word in text.split(" ")]
    return tag("pre", tag("code", [[word, " "] for word in words[:-1]], words[-1]))


def option(name: str, value: Any) -> list[str]:
    """Return the words of a command line that give a setting its value."""
    word = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{word}" if value else f"--no-{word}"]
    return [f"--{word}", str(value)]


def command(run: Run) -> str | None:
    """Return the command line that trains the run again; None if the experiment is not known."""
    if run.experiment is None:
        return None
    config, fields = run.config, run.experiment.fields()
    source = experiments.source(config.experiment)
    words = ["train", source.reference if source else config.experiment]
    for name, value in config.settings.items():
        if name in fields and value != fields[name].default:
            words += option(name, value)
    asked: dict[str, tuple[int | None, int | None]] = {"seed": (config.seed, 0), "seeds": (config.seeds, 1)}
    asked["evaluate_every"] = (config.evaluate_every, default_evaluate_every(config.settings))
    asked["evaluation_tasks"] = (config.evaluation_tasks, None)
    for name, (value, default) in asked.items():
        if value != default:
            words += option(name, value)
    return commands.command(*words)


def settings(run: Run, title: str = "Settings") -> Html:
    """Return the table of all settings. Settings that differ from their defaults come first."""
    fields = run.experiment.fields() if run.experiment else {}
    changed = {n for n, v in run.config.settings.items() if n in fields and v != fields[n].default}
    rows = []
    for name in sorted(run.config.settings, key=lambda name: name not in changed):
        value, field = str(run.config.settings[name]), fields.get(name)
        default = tag("small", f"default: {field.default}") if field and name in changed else None
        cells = [
            tag("td", tag("strong", value) if default else value, default),
            tag("td", field.doc.replace("``", "") if field else ""),
        ]
        rows.append(tag("tr", tag("th", tag("code", name), scope="row"), cells))
    titles = [tag("th", title, scope="col") for title in ("setting", "value", "meaning")]
    words = f"{counted(len(rows), 'setting')}" + (f", {len(changed)} changed" if fields else "")
    written = tag("table", tag("thead", tag("tr", titles)), tag("tbody", rows))
    return tag("details", tag("summary", f"{title}: {words}"), scroll(written, title))


_APART = {"from_iteration", "device", "commit"}
"""The entries of the versions that have separate rows."""


def commit(versions: dict[str, str]) -> str:
    """Return the commit of the package as text. The stored text is "None" if the commit is not known."""
    known = versions.get("commit", "None")
    return "not known" if known == "None" else known


def provenance(run: Run) -> list[Child]:
    """Return the table of software, hardware and seeds, and the command line that trains the run again."""
    config, rows = run.config, [("experiment", run.config.experiment)]
    seeds = f"{config.seed}" if config.seeds == 1 else f"{config.seed} to {config.seed + config.seeds - 1}"
    rows.append(("seeds" if config.seeds > 1 else "seed", seeds))
    if run.lines:
        of = config.settings.get("iterations")
        rows.append(("iterations", f"{run.iteration:,}" + (f" of {of:,}" if isinstance(of, int) else "")))
        rows.append(("steps", f"{short(float(run.lines[-1]['steps']))} {run.unit} a seed"))
    if (wall := wall_s(run)) is not None:
        rows.append(("wall time", f"{span(wall)} of training{', all seeds together' * (config.seeds > 1)}"))
    for n, entry in enumerate(run.versions):
        others = ", ".join(f"{name} {value}" for name, value in entry.items() if name not in _APART)
        device, known = entry.get("device", "not known"), commit(entry)
        if len(run.versions) == 1:
            rows += [("device", device), ("commit", known), ("software", others)]
        else:
            until = run.versions[n + 1].get("from_iteration", "?") if n + 1 < len(run.versions) else "the end"
            part = f"after iteration {entry.get('from_iteration', '?')}, until {until}"
            rows.append((part, f"{device}, commit {known}, {others}"))
    if run.evaluations and run.evaluations[0]["versions"].get("device"):
        measured = run.evaluations[0]["versions"]
        rows.append(("evaluated on", f"{measured['device']}, commit {measured.get('commit') or 'not known'}"))
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows]
    again = command(run)
    shown = [tag("p", "Command to train it again:"), command_line(again)] if again else []
    return [tag("div", tag("table", tag("tbody", body), class_="facts"), tag("div", shown), class_="columns")]


def _others(run: Run) -> Child:
    """Return the evaluations other than the one that is reported as the result."""
    found = []
    for evaluation in run.evaluations[1:]:
        otherwise = changes(evaluation) or f"at iteration {evaluation['iteration']:,}"
        title = f"Evaluation with {otherwise}, on {counted(evaluation['tasks'], 'held-out task')}"
        inside = [lead(run, evaluation), columns(adaptation(evaluation)), _tables(run, evaluation)]
        found.append(tag("details", tag("summary", title), inside))
    return found


def _curves(run: Run) -> Child:
    """Return small figures of all other training metrics."""
    measure = run.measure
    shown = {"validation_score", measure.training_metric if measure and training_comparable(measure) else ""}
    figures = []
    for metric in run.metrics:
        curve = run.curve(metric, metric.replace("_", " "), 0) if metric not in shown else None
        if curve:
            chart = Chart(capital(curve.name), f"{run.unit} of each seed", curve.name, [curve])
            figures.append(figure(chart, "", small=True))
    if not figures:
        return None
    inside = tag("div", figures, class_="columns small")
    return tag("details", tag("summary", f"{counted(len(figures), 'other training metric')}"), inside)


def run(run: Run) -> list[Child]:
    """Return all sections about a run."""
    figures: list[Child] = [learning(run)]
    parts: list[Child] = []
    if run.evaluations:
        parts.append(lead(run, run.evaluations[0]))
        figures += adaptation(run.evaluations[0])
    parts += [notes(run), columns(figures)]
    if run.evaluations:
        parts += [tag("h3", "Comparison with references"), _tables(run, run.evaluations[0])]
    if run.animation:
        parts += [tag("h3", "A trial"), film(run, run.animation)]
    parts += [_others(run), tag("h3", "How to reproduce this run"), provenance(run), settings(run), _curves(run)]
    return parts
