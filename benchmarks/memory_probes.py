"""Linear probes (``mrl.probes``) of the memories of learners on applications.

    python benchmarks/memory_probes.py --folder runs                   # every application with such tasks
    python benchmarks/memory_probes.py --applications markets --folder runs
    python benchmarks/memory_probes.py --readme                        # put the table into benchmarks/README.md

The runs are those of ``benchmarks/applications.py``; a run that is missing is trained first. The memory of the first
seed is probed. Probes are fitted on 4000 training tasks, and tested on 4000 held-out tasks and on 4000 shifted tasks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adaptation_table import TableRow, measure
from applications import APPLICATIONS, HELDOUT, SHIFTED
from results_file import PAGE, provenance, read_rows, table, with_block, write_row

NAME = "memory_probes"
IDENTITY = ("application", "learner", "tasks", "parameter")
TASKS = 4000
PARAMETERS = {
    "adaptive-control": ("dynamics", "gains"),
    "changing-arms": ("rate",),
    "changing-interests": ("rate",),
    "markets": ("drift", "volatility", "autocorrelation"),
    "cross-domain": ("likes",),
    "diagnosis": ("prevalence", "positive"),
}
"""The parameters of tasks that are predicted, by application."""
MEMORIES = ("rl2-", "varibad-")
"""The beginnings of presets of learners that update a memory at every step."""


def probe(key: str, learner: str, folder: Path, shifted: bool) -> list[dict[str, Any]]:
    """Return the rows of a trained learner: one for each parameter of the task.

    Args:
        key: the application.
        learner: the preset.
        folder: the run folder.
        shifted: whether the tasks to test on are shifted.
    """
    import jax

    import metarl_jax as mrl
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder

    run = RunFolder(folder)
    problem = train.build(run.config)
    states = train.load_states(run, problem).state.algorithm
    state = jax.tree.map(lambda x: x[0], states)
    changes = APPLICATIONS[key].shifted or {} if shifted else {}
    family = run.config.resolve().make_family({**run.config.settings, **changes})
    found = mrl.probes.linear_probes(
        jax.random.key(20_261_201),
        problem.algorithm,
        state,
        family,
        episodes=problem.stages,
        num_tasks=TASKS,
        targets=lambda task: {name: getattr(task, name) for name in PARAMETERS[key]},
    )
    return [
        {
            "application": key,
            "learner": learner,
            "tasks": SHIFTED if shifted else HELDOUT,
            "parameter": name,
            "metric": "explained share of the variance",
            "ours": float(shares[-1]),
            "explained": shares.tolist(),
            "after_steps": found.steps.tolist(),
            "seeds": 1,
            "heldout_tasks": found.tasks,
            **provenance(),
        }
        for name, shares in zip(found.names, found.explained.T, strict=True)
    ]


def shown() -> str:
    """Return the table in Markdown."""
    header = ("application", "learner", "parameter", "first step", "middle", "last step", "last step, shifted tasks")
    rows = read_rows(NAME)
    order = {key: i for i, key in enumerate(APPLICATIONS)}
    shifted = {
        tuple(row[name] for name in ("application", "learner", "parameter")): row["ours"]
        for row in rows
        if row["tasks"] == SHIFTED
    }

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        shares = row["explained"]
        moved = shifted.get((row["application"], row["learner"], row["parameter"]))
        return (
            APPLICATIONS[row["application"]].title,
            row["learner"],
            row["parameter"],
            *(f"{share:.2f}" for share in (shares[0], shares[len(shares) // 2], shares[-1])),
            "" if moved is None else f"{moved:.2f}",
        )

    heldout = [row for row in rows if row["tasks"] == HELDOUT]
    return table(header, map(cells, sorted(heldout, key=lambda row: order[row["application"]])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--applications", nargs="+", choices=list(PARAMETERS), default=list(PARAMETERS))
    parser.add_argument("--learners", nargs="+", help="names of presets; default: all with a memory")
    parser.add_argument("--seeds", type=int, default=3, help="of the runs")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of training; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    parser.add_argument("--readme", action="store_true", help="run nothing; put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    if arguments.readme:
        PAGE.write_text(with_block(PAGE.read_text(), f"{NAME}.py", shown()))
        return
    for key in arguments.applications:
        for learner in APPLICATIONS[key].learners:
            asked = arguments.learners is None or learner in arguments.learners
            if not asked or not learner.startswith(MEMORIES):
                continue
            found = measure(TableRow(learner, {}), arguments.seeds, None, arguments.folder, arguments.minutes, 1)
            if found is None:
                print(f"{key}, {learner}: time ran out; call again to go on", flush=True)
                continue
            for shifted in (False, True):
                for row in probe(key, learner, Path(found["folder"]), shifted):
                    write_row(NAME, row, IDENTITY)
                    shares = ", ".join(f"{share:.2f}" for share in row["explained"])
                    print(f"{key}, {learner}, {row['tasks']} tasks, {row['parameter']}: {shares}", flush=True)


if __name__ == "__main__":
    main()
