"""Tables of an evaluation, as text, Markdown and HTML, and the names of its scores."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl_jax.experiments.registry import Measure
from metarl_jax.runs.errors import storing
from metarl_jax.runs.files import write_atomically
from metarl_jax.runs.folder import RunFolder

if TYPE_CHECKING:
    from rich.console import Console

_HTML = '<pre style="white-space: pre; line-height: normal; font-family: monospace">{code}</pre>'
"""The HTML element that holds a table."""
_WIDTH = 100
"""The width in characters of a table that is not printed on a terminal."""


def measure_of(evaluation: dict[str, Any]) -> Measure:
    """Return the measure that an evaluation reports."""
    known = evaluation["measure"]
    return Measure(**{name: known[name] for name in Measure._fields if name in known})


def of_stage(measure: Measure) -> str:
    """Return the name of the score of one stage."""
    return "return of an episode" if measure.total else measure.title.replace("the last", "an")


def stages(evaluation: dict[str, Any]) -> range:
    """Return the numbers of the stages that have a score."""
    first = measure_of(evaluation).first_stage
    return range(first, first + len(evaluation["ours"]["score_by_stage"]))


def stage_axis(measure: Measure) -> str:
    """Return the label of an axis of stages."""
    return measure.stage if measure.first_stage else f"{measure.stage}s"


def training_comparable(measure: Measure) -> bool:
    """Return whether the training metric can be compared with the reported score.

    For some algorithms, the training metric is the return of an episode, but the reported score is the reward of a
    trial.
    """
    return measure.training_metric == "trial_reward" or not measure.total


def rows(evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows ``(learner, score, 95 % interval)`` of the main table, best first.

    The rows are the trained learner, the oracles, the published scores and the exact optimum.
    """
    measured = [(e["score"], e["name"], e["ci95"]) for e in (evaluation["ours"], *evaluation["oracles"])]
    published = [(value, name, None) for name, value in evaluation["paper"].items()]
    if evaluation["optimum"] is not None:
        published.append((evaluation["optimum"], "exact optimum (dynamic programming)", None))
    sign = -1 if evaluation["measure"]["higher_is_better"] else 1
    ordered = sorted(measured + published, key=lambda row: math.inf if row[0] is None else sign * row[0])
    return [
        (name, number_text(value) if interval or name.startswith("exact") else f"{value:g}", interval_text(interval))
        for value, name, interval in ordered
    ]


def number_text(value: float | None) -> str:
    """Format a score with three decimal places.

    None stands for a mean over tasks where adaptation diverged on a task; its text is "diverged".
    """
    if value is None:
        return "diverged"
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.1e}"


def interval_text(interval: list[float | None] | None) -> str:
    """Return an interval as text; nothing if it is not known."""
    return " to ".join(map(number_text, interval)) if interval and None not in interval else ""


def _title(evaluation: dict[str, Any]) -> str:
    measure, stages = evaluation["measure"], evaluation["stages"]
    otherwise = "".join(f", {name} {value}" for name, value in evaluation["changes"].items())
    return (
        f"{evaluation['experiment']}{otherwise}: "
        f"mean {measure['title']} {'of' if measure['total'] else 'after'} {stages} {measure['stage']}s, "
        f"{evaluation['tasks']} held-out tasks, {evaluation['training_seeds']} seed(s), "
        f"after {evaluation['iteration']} iterations"
    )


SHOWN_STAGES = (0, 1, 2, 3, 4, 5, 10, 20, 50)
"""The stages that a table by stage shows, in addition to the last one."""


def stage_rows(evaluation: dict[str, Any]) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """Return the table of scores by stage, for a measure that reports the score of the last stage.

    Returns:
        The stages, and rows ``(learner, a score for each stage)``. Both are empty for a measure that reports a sum over
        stages.
    """
    if evaluation["measure"]["total"]:
        return [], []
    first = evaluation["measure"]["first_stage"]
    last = first + len(evaluation["ours"]["score_by_stage"]) - 1
    stages = sorted({stage for stage in SHOWN_STAGES if first <= stage <= last} | {last})
    found = []
    for learner in (evaluation["ours"], *evaluation["oracles"]):
        found.append((learner["name"], [number_text(learner["score_by_stage"][stage - first]) for stage in stages]))
    for name, scores in evaluation["paper_by_stage"].items():
        found.append((name, [f"{scores[str(stage)]:g}" if str(stage) in scores else "" for stage in stages]))
    return stages, found


def success_rows(evaluation: dict[str, Any]) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """Return the table of success rates by stage.

    Returns:
        The stages, and rows ``(learner, a rate for each stage)``. Both are empty if the tasks do not define success.
    """
    learners = [e for e in (evaluation["ours"], *evaluation["oracles"]) if "success_by_stage" in e]
    if not learners:
        return [], []
    first = evaluation["measure"]["first_stage"]
    stages = range(first, first + len(learners[0]["success_by_stage"]))
    return list(stages), [(e["name"], [f"{rate:.1%}" for rate in e["success_by_stage"]]) for e in learners]


def markdown(evaluation: dict[str, Any]) -> str:
    """Return the tables of an evaluation as Markdown. The trained learner is in bold."""
    lines = [f"{_title(evaluation)}", "", "| learner | score | 95 % interval |", "|---|---:|---:|"]
    for name, value, interval in rows(evaluation):
        mark = "**" if name == evaluation["ours"]["name"] else ""
        lines.append(f"| {mark}{name}{mark} | {mark}{value}{mark} | {interval} |")
    if evaluation["gains"]:
        lines += ["", "| compared with | better by (paired by task) | 95 % interval |", "|---|---:|---:|"]
    lines += [
        f"| {gain['over']} | {number_text(gain['mean'])} | {interval_text(gain['ci95'])} |"
        for gain in evaluation["gains"]
    ]
    stage = evaluation["measure"]["stage"]
    for title, (stages, learners) in (("after", stage_rows(evaluation)), ("success by", success_rows(evaluation))):
        if stages:
            lines += ["", f"| {title} {stage} | {' | '.join(map(str, stages))} |", "|---|" + "---:|" * len(stages)]
            lines += [f"| {name} | {' | '.join(scores)} |" for name, scores in learners]
    return "\n".join([*lines, *_over_seeds(evaluation)]) + "\n"


def _over_seeds(evaluation: dict[str, Any]) -> list[str]:
    """Return the lines under the table of a run of several seeds, or no lines for a run of one seed."""
    ours = evaluation["ours"]
    if "over_seeds" not in ours:
        return []
    each = ", ".join(map(number_text, ours["per_seed"]))
    seeds = ours["over_seeds"]
    within = f" ({text})" if (text := interval_text(seeds["ci95"])) else ""
    return ["", f"Each seed: {each}; interquartile mean {number_text(seeds['iqm'])}{within}"]


def show(evaluation: dict[str, Any]) -> None:
    """Print the tables of an evaluation."""
    from rich.console import Console

    _print(evaluation, Console())


def text(evaluation: dict[str, Any]) -> str:
    """Return the tables that ``show`` prints, without colours."""
    from rich.console import Console

    written = io.StringIO()
    _print(evaluation, Console(file=written, width=_WIDTH, color_system=None, force_jupyter=False))
    return written.getvalue().rstrip()


def html(evaluation: dict[str, Any]) -> str:
    """Return the tables that ``show`` prints, as HTML."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=_WIDTH, record=True, force_jupyter=False, color_system="truecolor")
    _print(evaluation, console)
    return console.export_html(inline_styles=True, code_format=_HTML)


def _print(evaluation: dict[str, Any], console: Console) -> None:
    """Print the tables on a console."""
    from rich.table import Table
    from rich.text import Text

    # ``Text`` is not parsed as markup. A name from a stranger's file could otherwise be read as markup of rich.
    table = Table("learner", title=Text(_title(evaluation)), title_justify="left")
    table.add_column("score", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value, interval in rows(evaluation):
        table.add_row(Text(name), value, interval, style="bold green" if name == evaluation["ours"]["name"] else None)
    console.print(table)
    gains = Table("compared with")
    for title in ("better by (paired by task)", "95 % interval"):
        gains.add_column(title, justify="right")
    for gain in evaluation["gains"]:
        gains.add_row(Text(gain["over"]), number_text(gain["mean"]), interval_text(gain["ci95"]))
    if evaluation["gains"]:
        console.print(gains)
    for title, (stages, learners) in (("after", stage_rows(evaluation)), ("success by", success_rows(evaluation))):
        if stages:
            by_stage = Table()
            by_stage.add_column(Text(f"{title} {evaluation['measure']['stage']}"))
            for stage in stages:
                by_stage.add_column(str(stage), justify="right")
            for name, scores in learners:
                by_stage.add_row(Text(name), *scores)
            console.print(by_stage)
    for line in _over_seeds(evaluation)[1:]:
        console.print(line, highlight=False, markup=False)


def write(folder: RunFolder, evaluations: Sequence[dict[str, Any]]) -> Path:
    """Write the tables of evaluations to ``report.md``, and return its path.

    Raises:
        StorageError: if the file cannot be written.
    """
    path = folder.path / "report.md"
    with storing(f"write {path}"):
        write_atomically(path, "\n".join(markdown(evaluation) for evaluation in evaluations).encode())
    return path
