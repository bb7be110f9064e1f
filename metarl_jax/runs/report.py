"""Tables and figures of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metarl_jax import experiments
from metarl_jax.experiments.base import Experiment
from metarl_jax.runs import metrics
from metarl_jax.runs.errors import StorageError
from metarl_jax.runs.files import write_atomically
from metarl_jax.runs.folder import RunFolder


def rows(evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table *ours vs oracles vs paper* as ``(learner, score, 95 % interval)``, best first."""
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
    """To three digits after the point; None is the mean over tasks on one of which adaptation diverged."""
    if value is None:
        return "diverged"
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.1e}"


def interval_text(interval: list[float | None] | None) -> str:
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


def stage_rows(evaluation: dict[str, Any]) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """Scores by stage, where the last one is what is reported: the stages, and ``(learner, a score for each)``."""
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


def markdown(evaluation: dict[str, Any]) -> str:
    """The table as markdown; ours is in bold."""
    lines = [f"{_title(evaluation)}", "", "| learner | score | 95 % interval |", "|---|---:|---:|"]
    for name, value, interval in rows(evaluation):
        mark = "**" if name == evaluation["ours"]["name"] else ""
        lines.append(f"| {mark}{name}{mark} | {mark}{value}{mark} | {interval} |")
    lines += ["", "| better, task by task, than | by | 95 % interval |", "|---|---:|---:|"]
    lines += [
        f"| {gain['over']} | {number_text(gain['mean'])} | {interval_text(gain['ci95'])} |"
        for gain in evaluation["gains"]
    ]
    stages, learners = stage_rows(evaluation)
    if stages:
        stage = evaluation["measure"]["stage"]
        lines += ["", f"| after {stage} | {' | '.join(map(str, stages))} |", "|---|" + "---:|" * len(stages)]
        lines += [f"| {name} | {' | '.join(scores)} |" for name, scores in learners]
    return "\n".join([*lines, *_over_seeds(evaluation)]) + "\n"


def _over_seeds(evaluation: dict[str, Any]) -> list[str]:
    """What stands under the table of a run of several seeds."""
    ours = evaluation["ours"]
    if "over_seeds" not in ours:
        return []
    each = ", ".join(map(number_text, ours["per_seed"]))
    seeds = ours["over_seeds"]
    return ["", f"Each seed: {each}; interquartile mean {number_text(seeds['iqm'])} ({interval_text(seeds['ci95'])})"]


def show(evaluation: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("learner", title=_title(evaluation), title_justify="left")
    table.add_column("score", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value, interval in rows(evaluation):
        table.add_row(name, value, interval, style="bold green" if name == evaluation["ours"]["name"] else None)
    console = Console()
    console.print(table)
    gains = Table("better, task by task, than")
    for title in ("by", "95 % interval"):
        gains.add_column(title, justify="right")
    for gain in evaluation["gains"]:
        gains.add_row(gain["over"], number_text(gain["mean"]), interval_text(gain["ci95"]))
    console.print(gains)
    stages, learners = stage_rows(evaluation)
    if stages:
        by_stage = Table(f"after {evaluation['measure']['stage']}")
        for stage in stages:
            by_stage.add_column(str(stage), justify="right")
        for name, scores in learners:
            by_stage.add_row(name, *scores)
        console.print(by_stage)
    for line in _over_seeds(evaluation)[1:]:
        console.print(line, highlight=False)


def write(folder: RunFolder, evaluations: Iterable[dict[str, Any]]) -> list[Path]:
    """Write ``report.md``, ``learning_curve.png`` and, from the first evaluation, ``adaptation.png``.

    Returns:
        The files written.

    Raises:
        StorageError: if they cannot be.
    """
    evaluations, experiment = list(evaluations), experiments.get(folder.config.experiment)
    written: list[Path] = []
    try:
        lines = metrics.read(folder.metrics)
        if lines:
            written.append(_learning_curve(folder.path / "learning_curve.png", experiment, lines, evaluations))
        if evaluations:
            written.append(_adaptation(folder.path / "adaptation.png", evaluations[0]))
            text = "\n".join(markdown(evaluation) for evaluation in evaluations)
            write_atomically(folder.path / "report.md", text.encode())
            written.append(folder.path / "report.md")
    except OSError as error:
        raise StorageError(f"cannot write the report into {folder.path}: {error.strerror}") from error
    return written


def new_figure(columns: int, height: float = 4.0) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def save_figure(figure: Any, path: Path) -> Path:
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())
    return path


def _seed_curves(lines: list[dict[str, Any]], name: str) -> list[tuple[list[int], list[float]]]:
    """``(steps, values)`` of each seed, where there are values."""
    having = [line for line in lines if name in line]
    seeds = len(having[0][name]) if having else 0
    pairs = [[(line["steps"], line[name][s]) for line in having if line[name][s] is not None] for s in range(seeds)]
    return [([x for x, _ in seed], [y for _, y in seed]) for seed in pairs]


def _learning_curve(
    path: Path, experiment: Experiment, lines: list[dict[str, Any]], evaluations: list[dict[str, Any]]
) -> Path:
    figure, (axes,) = new_figure(1)
    for seed, (steps, values) in enumerate(_seed_curves(lines, experiment.measure.training_metric)):
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, label="training" if seed == 0 else None)
    for seed, (steps, values) in enumerate(_seed_curves(lines, "heldout_score")):
        axes.plot(steps, values, color="tab:orange", marker=".", label="held-out" if seed == 0 else None)
    if evaluations and evaluations[0]["measure"]["total"]:
        best = max(evaluations[0]["oracles"], key=_not_omniscient, default=None)
        if best is not None and _not_omniscient(best) > float("-inf"):
            axes.axhline(best["score"], color="grey", linestyle="--", label=best["name"])
    axes.set(xlabel=f"{experiment.unit} of a seed", ylabel=experiment.measure.title)
    axes.legend()
    return save_figure(figure, path)


def _not_omniscient(oracle: dict[str, Any]) -> float:
    """Reward of an oracle that has to learn; minus infinity for one that knows the task (its regret is zero)."""
    regret = oracle.get("cumulative_regret")
    omniscient = regret is not None and abs(regret[-1]) < 0.01 * abs(oracle["score"])
    return float("-inf") if omniscient else oracle["score"]


def _adaptation(path: Path, evaluation: dict[str, Any]) -> Path:
    learners = [evaluation["ours"], *evaluation["oracles"]]
    measure = evaluation["measure"]
    panels = ["score_by_stage"] + ["cumulative_regret"] * ("cumulative_regret" in evaluation["ours"])
    figure, axes = new_figure(len(panels))
    for panel, (ax, name) in enumerate(zip(axes, panels, strict=True)):
        for index, learner in enumerate(learners):
            values = [math.nan if value is None else value for value in learner[name]]
            style = {"color": "black", "linewidth": 2.5, "zorder": 3} if index == 0 else {"linewidth": 1.2}
            x = range(measure["first_stage"], measure["first_stage"] + len(values))
            ax.plot(x, values, label=learner["name"] if panel == 0 else None, **style)
        score = "reward" if measure["total"] else measure["title"]
        ax.set(xlabel=measure["stage"], ylabel=score if name == "score_by_stage" else "cumulative regret")
    figure.legend(loc="outside right upper", fontsize="small")
    return save_figure(figure, path)
