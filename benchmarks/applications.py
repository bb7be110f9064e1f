"""Applications: learners on held-out tasks and on shifted tasks, compared with references that know more or less.

    python benchmarks/applications.py                                     # every application, three seeds each
    python benchmarks/applications.py --applications diagnosis --seeds 1
    python benchmarks/applications.py --readme                            # put the tables into benchmarks/README.md

Every application has simple references, which do not know the task and have no exact posterior; the bar is the best of
them. It also has a ceiling: a reference that knows the task, or one with the exact posterior. A reference with the
exact posterior need not be Bayes-optimal, so that a learner can exceed it. A row has the share of the gap between bar
and ceiling that a learner closes. All learners get the same tasks, so that differences are paired by task. Shifted
tasks come from another distribution than the training tasks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adaptation_table import TableRow, measure
from results_file import PAGE, provenance, read_rows, table, with_block, write_row

NAME = "applications"
IDENTITY = ("application", "learner", "tasks")
HELDOUT, SHIFTED = "held-out", "shifted"


class Application(NamedTuple):
    """A family of tasks from an application, its learners and the roles of its references."""

    title: str
    """The application, for tables."""
    learners: tuple[str, ...]
    """The names of the presets."""
    uninformed: tuple[str, ...]
    """The beginnings of the names of references that do not know the task and have no exact posterior."""
    ceiling: str
    """The beginning of the name of the reference with the exact posterior, or with the known task."""
    shifted: Mapping[str, Any] | None = {"shifted": True}
    """The settings of shifted tasks; None: the family has none."""


_CLASSIFIERS = ("nearest", "ridge regression", "from scratch")
APPLICATIONS: dict[str, Application] = {
    "adaptive-control": Application(
        "adaptive control of linear plants",
        ("rl2-linear-quadratic", "pearl-linear-quadratic", "maml-linear-quadratic"),
        ("Riccati controller of the nominal plant", "robust fixed gain", "certainty equivalence, least squares"),
        "Riccati controller, plant known",
    ),
    "changing-arms": Application(
        "arms that switch",
        ("rl2-switching-bandit", "varibad-switching-bandit"),
        ("discounted UCB", "sliding-window UCB", "discounted Thompson sampling"),
        "best arm, course known",
    ),
    "changing-interests": Application(
        "interests that drift",
        ("rl2-drifting-interests", "varibad-drifting-interests"),
        ("discounted UCB", "sliding-window UCB", "discounted Thompson sampling", "discounted LinUCB"),
        "best arm, course known",
    ),
    "changing-mdp": Application(
        "a hidden goal that moves",
        ("rl2-moving-goal",),
        ("posterior sampling without moves",),
        "best path, course known",
    ),
    # Kelly's rule with the posterior is not exactly Bayes-optimal, because it ignores later steps.
    "markets": Application(
        "portfolios in unknown markets",
        ("rl2-markets", "varibad-markets", "promp-markets"),
        ("buy and hold", "best fixed fraction", "Kelly, estimated"),
        "Kelly, posterior",
    ),
    "motion-planning": Application(
        "motion planning on hidden maps",
        ("rl2-motion-planning", "varibad-motion-planning", "maml-motion-planning"),
        ("random", "straight to the goal", "optimistic planning"),
        "shortest path, map known",
    ),
    "cross-domain": Application(
        "recommendation across domains",
        ("rl2-cross-domain", "varibad-cross-domain"),
        ("random", "popularity", "greedy by the posterior of each domain", "posterior sampling in each domain"),
        "best play, goal known",
    ),
    "diagnosis": Application(
        "diagnosis in new clinics",
        ("rl2-diagnosis", "varibad-diagnosis", "promp-diagnosis"),
        ("random", "best plan for the mean clinic", "best plan for count"),
        "best plan, clinic known",
    ),
    "driving": Application(
        "driving among unknown drivers",
        ("rl2-driving",),
        ("random", "rule, mean road", "rule, best fixed numbers", "rule, grip measured", "planning, grip measured"),
        "planning, road known",
    ),
    "icu-sepsis": Application(
        "treatment of sepsis",
        ("rl2-icu-sepsis", "varibad-icu-sepsis"),
        ("random", "clinicians", "best policy for the mean model"),
        "best policy, population known",
    ),
    "text": Application(
        "texts, new topics",
        ("maml-text", "anil-text", "reptile-text", "snail-text", "meta-network-text"),
        _CLASSIFIERS,
        "many examples",
    ),
    "text-domains": Application(
        "texts, a new domain",
        ("maml-text-domains", "reptile-text-domains", "snail-text-domains"),
        _CLASSIFIERS,
        "many examples",
    ),
}


def row_of(key: str, application: Application, evaluation: dict[str, Any], tasks: str) -> dict[str, Any]:
    """Return the row of a learner from its evaluation.

    Args:
        key: the name of the application.
        application: the application.
        evaluation: the evaluation that ``measure`` or ``evaluate`` returned, with the run's folder.
        tasks: which tasks were tested.
    """
    from metarl_jax.runs.folder import RunFolder

    folder = Path(evaluation["folder"])
    settings = RunFolder(folder).config.settings
    summary = json.loads((folder / "summary.json").read_text())
    ours, sign = evaluation["ours"], 1 if evaluation["measure"]["higher_is_better"] else -1
    references = {oracle["name"]: oracle["score"] for oracle in evaluation["oracles"]}
    simple = {name: score for name, score in references.items() if name.startswith(application.uninformed)}
    bar = max(simple, key=lambda name: sign * simple[name])
    ceiling = next(name for name in references if name.startswith(application.ceiling))
    gain = next(gain for gain in evaluation["gains"] if gain["over"] == bar)
    gap, error = references[ceiling] - references[bar], (gain["ci95"][1] - gain["ci95"][0]) / 2
    return {
        "application": key,
        "learner": evaluation["experiment"],
        "tasks": tasks,
        "metric": evaluation["measure"]["title"],
        "ours": ours["score"],
        "ci95": ours["ci95"],
        "by_seed": ours["per_seed"],
        "score_by_stage": ours["score_by_stage"],
        "references": references,
        "bar": bar,
        "ceiling": ceiling,
        "gain": [gain["mean"], *gain["ci95"]],
        "gain_by_seed": gain["per_seed"],
        # The gap must exceed the error of the gain. On some shifted tasks the ceiling is even below the bar.
        "share": (ours["score"] - references[bar]) / gap if sign * gap > error else None,
        "target": references[bar],
        "reached": gain["ci95"][0] > 0,
        "seeds": len(ours["per_seed"]),
        "heldout_tasks": evaluation["tasks"],
        "steps": summary["steps"] // len(ours["per_seed"]),
        "train_wall_s": summary["train_wall_s"],
        "settings": {name: x for name, x in settings.items() if name not in ("path", "data_dir")},
        "testing": evaluation["changes"],
        **provenance(),
    }


def shown() -> str:
    """Return the table in Markdown."""
    header = ("application", "learner", "tasks", "ours", "best simple reference", "ceiling", "share of the gap", "gain")

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        references, gain = row["references"], row["gain"]
        return (
            APPLICATIONS[row["application"]].title,
            row["learner"],
            row["tasks"],
            f"{row['ours']:.3f}",
            f"{references[row['bar']]:.3f} ({row['bar']})",
            f"{references[row['ceiling']]:.3f} ({row['ceiling']})",
            "" if row["share"] is None else f"{row['share']:.0%}",
            f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})",
        )

    order = {key: i for i, key in enumerate(APPLICATIONS)}
    return table(header, map(cells, sorted(read_rows(NAME), key=lambda row: order[row["application"]])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--applications", nargs="+", choices=list(APPLICATIONS), default=list(APPLICATIONS))
    parser.add_argument("--learners", nargs="+", help="names of presets; default: all of each application")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    parser.add_argument("--readme", action="store_true", help="run nothing; put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    if arguments.readme:
        PAGE.write_text(with_block(PAGE.read_text(), "applications.py", shown()))
        return
    for key in arguments.applications:
        application = APPLICATIONS[key]
        for learner in application.learners:
            if arguments.learners is not None and learner not in arguments.learners:
                continue
            tests: dict[str, Mapping[str, Any]] = {HELDOUT: {}}
            if application.shifted is not None:
                tests[SHIFTED] = application.shifted
            for tasks, testing in tests.items():
                cell = TableRow(learner, {}, testing=testing, test_variant=tasks)
                # The second call finds the trained run, and only tests it.
                evaluation = measure(cell, arguments.seeds, None, arguments.folder, arguments.minutes, 1)
                if evaluation is None:
                    print(f"{key}, {learner}: time ran out; call again to go on", flush=True)
                    break
                row = row_of(key, application, evaluation, tasks)
                write_row(NAME, row, IDENTITY)
                gain, share = row["gain"], "none" if row["share"] is None else f"{row['share']:.0%}"
                numbers = [
                    f"{key}, {learner}, {tasks} tasks: {row['ours']:.3f} {row['ci95']}",
                    f"{row['bar']} {row['target']:.3f}",
                    f"gain {gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})",
                    f"{row['ceiling']} {row['references'][row['ceiling']]:.3f}",
                    f"share of the gap {share}",
                ]
                print(", ".join(numbers), flush=True)


if __name__ == "__main__":
    main()
