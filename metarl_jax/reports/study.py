"""The page about a study: the result, the cells, figures, and how to reproduce it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl_jax import experiments
from metarl_jax.experiments.base import Experiment
from metarl_jax.reports import collect, sections
from metarl_jax.reports.figures import Chart, Row, Series, figure, number, rows_figure
from metarl_jax.reports.markup import Child, Html, tag
from metarl_jax.runs import commands, evaluate
from metarl_jax.runs.folder import RunFolder
from metarl_jax.runs.study_folder import StudyFolder

MOST_CURVES = 8
"""The largest number of cells whose learning curves are drawn."""
MOST_CELLS = 12
"""The largest number of cells in a figure of scores, and in a table of pairs of cells."""


def named(changes: Mapping[str, Any]) -> str:
    """Return the settings of a cell as a reader writes them, such as "learning rate 0.001, arms 5"."""
    values = (f"{value:g}" if isinstance(value, float) else f"{value}" for value in changes.values())
    return ", ".join(f"{n.replace('_', ' ')} {v}" for n, v in zip(changes, values, strict=True)) or "no setting varies"


def page(study: StudyFolder, result: dict[str, Any]) -> tuple[str, Child, Child]:
    """Return the title, the introduction and the main part of the page.

    Args:
        study: the study.
        result: its table (``runs.study.read``).
    """
    experiment, config = study.config.resolve(), study.config
    cells = {cell.name: cell for cell in study.cells}
    names = {name: named(cell.changes) for name, cell in cells.items()}
    entries = [entry for entry in result["cells"] if entry["cell"] in cells]
    runs = {
        entry["cell"]: collect.collect(RunFolder(study.cell(cells[entry["cell"]])), names[entry["cell"]], None, [])
        for entry in entries
    }
    varied = " and ".join(name.replace("_", " ") for name in config.vary) or "nothing"
    title = f"Study of {varied}: {experiment.description.rstrip('.')}"
    size = f"{sections.counted(len(cells), 'cell')}, {sections.counted(config.seeds, 'seed')} each."
    explained = (
        "A cell is a combination of settings. All cells have the same seeds and are evaluated on the same tasks."
    )
    introduction = tag("p", f"{size} {explained}", class_="soft")
    measured = [entry for entry in entries if entry["validation"]["iqm"] is not None]
    main: list[Child] = [_lead(study, result, measured, names), _notes(study, result, entries, names)]
    figures = [_learning(result, measured, runs, experiment), _scores(result, measured, names)]
    main += [sections.columns(figures), _table(result, entries, names), _pairs(result, measured, names)]
    main += [tag("h3", "How to reproduce this study"), _provenance(study, result)]
    if entries:
        main.append(sections.settings(runs[entries[0]["cell"]], "Settings of the first cell of the table"))
    return title, introduction, main


def _too_few(result: dict[str, Any]) -> bool:
    return result["seeds"] < evaluate.FEWEST_SEEDS


def _places(own: dict[str, Any]) -> int:
    """Return the number of decimal places of the scores of a cell on one split."""
    scores = own["per_seed"]
    return sections.decimals(own.get("ci95") or (min(scores), max(scores)))


def _lead(study: StudyFolder, result: dict[str, Any], measured: list[dict[str, Any]], names: dict[str, str]) -> Child:
    """Return the result as one sentence: the cell that is best on validation tasks, and its held-out score."""
    if not measured:
        return tag("p", "Every cell diverged.", class_="lead")
    best = measured[0]
    own, title = best["heldout"], result["measure"]["title"]
    if own["iqm"] is None:
        return tag("p", f"The best cell is {names[best['cell']]}; it diverged on held-out tasks.", class_="lead")
    places = _places(own)
    within = f", 95 % interval over seeds {sections.interval(own['ci95'], places)}" if own.get("ci95") else ""
    basis = f"{sections.counted(result['seeds'], 'seed')}{within}, {sections.counted(result['tasks'], 'held-out task')}"
    score = [f"The best cell on validation tasks is {names[best['cell']]}, whose {title} on held-out tasks is "]
    score += [tag("strong", number(own["iqm"], places)), f" ({basis})"]
    (settings,) = [cell.config.settings for cell in study.cells if cell.name == best["cell"]]
    known = _known(study.config.resolve(), settings, places)
    return tag("p", score, f"; {', and '.join(known)}." if known else ".", class_="lead")


def _known(experiment: Experiment, settings: Mapping[str, Any], places: int) -> list[str]:
    """Return the published result of the same method and the exact optimum, where they are known for these settings."""
    measure, found = experiment.measure, []
    stages = settings[measure.setting] if measure.setting else measure.first_stage
    usual = experiment.fields()[measure.setting].default if measure.setting else measure.first_stage
    if stages != usual or not evaluate.has_the_tasks_of(experiment, settings):
        return []
    if (name := experiment.same_method) is not None:
        value = experiment.paper.get(name)
        if value is None and not measure.total:
            value = experiment.paper_by_stage.get(name, {}).get(stages)
        if value is not None:
            found.append(f"the published result of {name} is {sections.plain(value)}")
    if experiment.optimum is not None:
        found.append(f"the exact optimum is {number(experiment.optimum, places)}")
    return found


def _notes(study: StudyFolder, result: dict[str, Any], entries: list[dict[str, Any]], names: dict[str, str]) -> Child:
    """Return a list of what limits the conclusions."""
    found = []
    if _too_few(result):
        found.append(
            f"There are no intervals over seeds: {sections.counted(result['seeds'], 'seed')} of a cell "
            f"{'is' if result['seeds'] == 1 else 'are'} too few. Train at least {evaluate.FEWEST_SEEDS}, better 5."
        )
    diverged = [names[entry["cell"]] for entry in entries if entry["validation"]["iqm"] is None]
    found += [f"Diverged, and therefore without a score: {name}." for name in diverged]
    if missing := len(study.cells) - len(entries):
        found.append(f"The table does not have {sections.counted(missing, 'cell')} of the study.")
    return tag("ul", [tag("li", text) for text in found], class_="notes") if found else None


def _learning(
    result: dict[str, Any], measured: list[dict[str, Any]], runs: dict[str, collect.Run], experiment: Experiment
) -> Child:
    """Return the figure of validation scores during training."""
    series: list[Series] = []
    for entry in measured[:MOST_CURVES]:
        run = runs[entry["cell"]]
        if curve := run.curve("validation_score", run.label, len(series)):
            series.append(curve)
    if not series:
        return None
    title = result["measure"]["title"]
    caption = f"{sections.capital(title)} on {experiment.validation_tasks:,} validation tasks during training."
    if result["seeds"] > 1:
        caption += " Lines are means over seeds, and bands show the range from the lowest to the highest seed."
    if len(measured) > MOST_CURVES:
        caption += f" Only the {MOST_CURVES} best cells are drawn."
    return figure(Chart("Learning curves", f"{experiment.unit} of each seed", title, series), caption)


def _scores(result: dict[str, Any], measured: list[dict[str, Any]], names: dict[str, str]) -> Child:
    """Return the figure of the scores of each cell after training."""
    kinds = {"validation": "validation tasks, which rank the cells", "heldout": "held-out tasks"}
    rows = [
        Row(
            names[entry["cell"]],
            [
                (own["iqm"], own.get("per_seed") or (), own.get("ci95") or ())
                for own in (entry[split] for split in kinds)
            ],
        )
        for entry in measured[:MOST_CELLS]
    ]
    if not rows:
        return None
    caption = "Bars are interquartile means (IQM) over seeds, and dots are single seeds."
    if not _too_few(result):
        caption += " Lines show the 95 % intervals of the IQM."
    if len(measured) > MOST_CELLS:
        caption += f" Only the {MOST_CELLS} best cells are drawn."
    return rows_figure("Scores after training", result["measure"]["title"], list(kinds.values()), rows, caption)


def _score(own: dict[str, Any], result: dict[str, Any]) -> Child:
    """Return the score of a cell on one split, with its interval and the score of each seed."""
    if own["iqm"] is None:
        return "diverged"
    places = _places(own)
    within = sections.interval(own["ci95"], places) if own.get("ci95") and not _too_few(result) else ""
    each = f"seeds: {', '.join(number(x, places) for x in own['per_seed'])}"
    small = [tag("small", within) if within else None, tag("small", each, class_="source")]
    return [number(own["iqm"], places), small]


def _table(result: dict[str, Any], entries: list[dict[str, Any]], names: dict[str, str]) -> Child:
    """Return the table of the cells, best first."""
    first, tasks = result["compared_with"], f"{result['tasks']:,}"
    place_of_first = next((place for place, entry in enumerate(entries, 1) if entry["cell"] == first), None)
    titles = ["cell", "validation tasks", f"better than cell {place_of_first} by", "held-out tasks"]
    heads = [tag("th", title, scope="col", class_="number" if n else None) for n, title in enumerate(titles)]
    body = []
    for place, entry in enumerate(entries, 1):
        cells: list[Child] = [tag("th", f"{place}. {names[entry['cell']]}", scope="row")]
        gain = entry.get("gain")
        places = sections.decimals(gain["ci95"]) if gain else 0
        by = [number(gain["mean"], places), tag("small", sections.interval(gain["ci95"], places))] if gain else "–"
        columns = _score(entry["validation"], result), by, _score(entry["heldout"], result)
        cells += [tag("td", shown, class_="number") for shown in columns]
        body.append(tag("tr", cells, class_="ours" if place == 1 else None))
    title = f"Cells, best first: {result['measure']['title']}"
    words = (
        "Scores are interquartile means (IQM) over seeds, which drop the lowest and the highest quarter. With fewer "
        f"than four seeds, the IQM is the mean. The cells are ranked by {tasks} validation tasks. Nothing is selected "
        f"by the {tasks} held-out tasks, so that the held-out score of the first cell has no selection bias. The "
        "differences are means of paired differences on each validation task, with 95 % intervals over tasks. A "
        "positive number is an improvement."
    )
    written = tag("table", tag("thead", tag("tr", heads)), tag("tbody", body))
    return [tag("h3", title), sections.scroll(written, title), tag("p", words, class_="under")]


def _pairs(result: dict[str, Any], measured: list[dict[str, Any]], names: dict[str, str]) -> Child:
    """Return the table of the probabilities that one cell is better than another."""
    shown = [entry["cell"] for entry in measured[:MOST_CELLS]]
    if len(shown) < 2:
        return None
    better = result["probability_of_improvement"]
    heads = [tag("th", "cell", scope="col")]
    heads += [tag("th", f"{n}.", scope="col", class_="number") for n in range(1, len(shown) + 1)]
    rows = []
    for place, row in enumerate(shown, 1):
        cells: list[Child] = [tag("th", f"{place}. {names[row]}", scope="row")]
        for column in shown:
            pair = better.get(row, {}).get(column)
            ends = pair["ci95"] if pair and not _too_few(result) else [None]
            small = tag("small", sections.interval(ends, 2)) if None not in ends else None
            cells.append(tag("td", number(pair["probability"], 2) if pair else "–", small, class_="number"))
        rows.append(tag("tr", cells))
    title = "Probability of improvement"
    words = (
        "The probability that a seed of the cell of the row is better on validation tasks than a seed of the cell of "
        f"the column (Agarwal et al. 2021). It is the share of the {result['seeds'] ** 2} pairs of seeds, where ties "
        "count half. 0.5 means that neither is better."
    )
    written = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows))
    return [tag("h3", title), sections.scroll(written, title), tag("p", words, class_="under")]


def _provenance(study: StudyFolder, result: dict[str, Any]) -> Html:
    """Return the table of software and hardware, and the command line that trains the study again."""
    config, stored = study.config, result.get("versions")
    versions = {name: str(value) for name, value in stored.items()} if isinstance(stored, dict) else {}
    others = ", ".join(f"{name} {value}" for name, value in versions.items() if name not in ("device", "commit"))
    seeds = f"{config.seed}" if config.seeds == 1 else f"{config.seed} to {config.seed + config.seeds - 1}"
    facts = [("experiment", config.experiment), ("seeds" if config.seeds > 1 else "seed", seeds)]
    facts += [(f"{name.replace('_', ' ')}", ", ".join(map(str, values))) for name, values in config.vary.items()]
    facts += [("device", versions.get("device", "not known")), ("commit", sections.commit(versions))]
    facts.append(("software", others))
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in facts]
    again = [tag("p", "Command to train it again:"), sections.command_line(command(study))]
    return tag("div", tag("table", tag("tbody", body), class_="facts"), tag("div", again), class_="columns")


def command(study: StudyFolder) -> str:
    """Return the command line that trains the study again."""
    config, source = study.config, experiments.source(study.config.experiment)
    words = ["study", source.reference if source else config.experiment]
    for name, field in config.resolve().fields().items():
        value = config.settings[name]
        if name not in config.vary and value != field.default:
            words += sections.option(name, value)
    for name, values in config.vary.items():
        words += ["--vary", f"{name}={','.join(map(str, values))}"]
    words += ["--seed", f"{config.seed}"] * (config.seed != 0) + ["--seeds", f"{config.seeds}"]
    for name in ("evaluate_every", "evaluation_tasks"):
        if (value := getattr(config, name)) is not None:
            words += sections.option(name, value)
    return commands.command(*words)
