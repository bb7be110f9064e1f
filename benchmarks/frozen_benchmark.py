"""The table of the frozen benchmark: algorithms of the package, and learners from outside, within its budgets.

    python benchmarks/frozen_benchmark.py                                   # every algorithm on tier 1, three seeds
    python benchmarks/frozen_benchmark.py --tier 2 --learners rl2 varibad --minutes 30
    python benchmarks/frozen_benchmark.py --learners discounted-thompson --families bandit
    python benchmarks/frozen_benchmark.py --readme                          # put the table into benchmarks/README.md

Every learner, family, number of seeds and variant has a file in the folder, which ``metarl-jax benchmark check`` can
check, and rows in ``results/frozen_benchmark.json``. A family that has these rows is not played again. A run that was
interrupted continues where it stopped. With ``--iterations``, training is shorter, for a trial: this is another
variant. The table has the rows with the most seeds, without trials.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results_file import PAGE, provenance, read_rows, table, with_block, write_row

from metarl_jax import experiments
from metarl_jax.benchmark import families, score
from metarl_jax.benchmark.families import ENTRIES, SPLITS, Entry, Split
from metarl_jax.experiments import registry

NAME = "frozen_benchmark"
IDENTITY = ("learner", "family", "tasks", "variant", "seeds", "benchmark")
EXAMPLES = Path(__file__).resolve().parent.parent / "tests" / "data"
EXTERNAL: Mapping[str, str] = {
    "discounted-thompson": f"{EXAMPLES / 'discounted_thompson.py'}:DiscountedThompson",
}
"""Learners that are not part of the package."""


def algorithms() -> list[str]:
    """Return the names of the algorithms that apply to a family of the benchmark."""
    kinds = [registry.family(entry.family) for entry in ENTRIES]
    return [
        algorithm.name
        for algorithm in registry.algorithms()
        if any(registry.does_not_apply(algorithm, family) is None for family in kinds)
    ]


def applies(learner: str, entry: Entry) -> bool:
    """Return whether a learner can play a family."""
    if learner in EXTERNAL:
        return True
    algorithm, family = registry.algorithm(learner), registry.family(entry.family)
    if algorithm.interface == "imitation" and family.source is None:
        return False
    return registry.does_not_apply(algorithm, family) is None


def variant_of(learner: str, iterations: int | None) -> str:
    """Return the name of a trial with shorter training; an empty text for a result."""
    return "" if iterations is None or learner in EXTERNAL else f"at most {iterations} iterations"


def file_of(folder: Path, learner: str, what: str, seeds: int, iterations: int | None) -> Path:
    """Return the path of the file of a learner on a family or a tier. Trials and other seeds have other files."""
    trial = "" if not variant_of(learner, iterations) else f"-{iterations}-iterations"
    return folder / f"{learner}-{what}-{seeds}-seeds{trial}.json"


def is_tuned(config: Mapping[str, Any]) -> bool:
    """Return whether the settings of a learner were tuned by its authors.

    They are those of a tuned preset of the package, or of a learner from outside, whose authors chose them. The number
    of episodes of a trial and the number of iterations do not matter: the benchmark sets the first, and its budget may
    lower the second. A combination without a preset has starting settings, and usually far fewer steps than the budget.

    Args:
        config: the content of ``config.json`` of the run folder; empty for a learner from outside.
    """
    name = config.get("experiment")
    return name is None or (name in experiments.names() and experiments.get(name).tuned)


def measure(
    learner: str, entry: Entry, seeds: int, folder: Path, minutes: float | None, iterations: int | None
) -> list[dict[str, Any]]:
    """Train and play a learner on a family, and write its file; return its rows, or none if the time ran out."""
    from metarl_jax.benchmark import entry as entries
    from metarl_jax.benchmark import run
    from metarl_jax.runs import compilation_cache, devices

    compilation_cache.enable()
    devices.prepare(1)
    folder.mkdir(parents=True, exist_ok=True)
    runs = folder / f"runs-{seeds}-seeds{'' if iterations is None else f'-{iterations}-iterations'}"
    content = run.run(
        EXTERNAL.get(learner, learner),
        [entry],
        seeds,
        shifted=True,
        folder=runs,
        minutes=minutes,
        memory=None,
        iterations=iterations,
        say=lambda text: print(text, flush=True),
    )
    if content is None:
        return []
    entries.write(file_of(folder, learner, entry.name, seeds, iterations), content)
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    trained = runs / f"benchmark-{learner}-{entry.name}"
    if trained.exists():
        config = json.loads((trained / "config.json").read_text())
        summary = json.loads((trained / "summary.json").read_text())
    part = content["families"][entry.name]
    rows = []
    for split in entry.splits:
        found = part[split]["scores"]
        rows.append(
            {
                "learner": learner,
                "family": entry.name,
                "tier": entry.tier,
                "tasks": split,
                "variant": variant_of(learner, iterations),
                "metric": "score",
                "ours": found["mean"],
                "ci95": found["ci95"],
                "by_seed": found["by_seed"],
                "score_by_episode": found["by_episode"],
                "success_by_episode": found["success_by_episode"],
                "seeds": seeds,
                "heldout_tasks": part[split]["tasks"],
                "steps": part["training_steps"][0],
                "steps_are": part["training_steps_are"],
                "train_wall_s": summary.get("train_wall_s"),
                "experiment": config.get("experiment"),
                "tuned": is_tuned(config),
                "settings": {
                    name: value
                    for name, value in config.get("settings", {}).items()
                    if name not in ("path", "data_dir", "histories")
                },
                "benchmark": families.VERSION,
                **provenance(),
            }
        )
    return rows


def merge(learner: str, tier: int, folder: Path, seeds: int, iterations: int | None) -> None:
    """Write the file of a learner on a whole tier, if it has the files of all families with these seeds."""
    from metarl_jax.benchmark import entry as entries

    paths = [file_of(folder, learner, entry.name, seeds, iterations) for entry in families.of_tier(tier)]
    if not all(path.exists() for path in paths):
        return
    contents = [entries.read(path) for path in paths]
    parts = {name: part for content in contents for name, part in content["families"].items()}
    whole = entries.assemble(tier, seeds, contents[0]["learner"], parts)
    entries.write(file_of(folder, learner, f"tier-{tier}", seeds, iterations), whole)


def shown(tier: int) -> str:
    """Return the table of a tier in Markdown: learners by families, held-out tasks and shifted tasks."""
    rows = {
        (row["learner"], row["family"], row["tasks"]): row
        for row in sorted(read_rows(NAME), key=lambda row: row["seeds"])
        if row["tier"] == tier and not row["variant"] and row["benchmark"] == families.VERSION
    }
    entries = families.of_tier(tier)
    parts = []
    for split in SPLITS:
        names = list(dict.fromkeys(learner for learner, _, tasks in rows if tasks == split))
        named = [entry for entry in entries if split in entry.splits]
        header = ("learner", *(entry.name for entry in named), *(["interquartile mean"] if split == "heldout" else []))
        lines = [reference_cells(role, named, split) for role in ("random", "posterior")]
        for name in names:
            own = [rows.get((name, entry.name, split)) for entry in named]
            lines.append([name, *map(score_cell, own), *([aggregate_cell(own)] if split == "heldout" else [])])
        title = "Held-out tasks" if split == "heldout" else "Shifted tasks"
        note = "Scores in brackets are of settings that were not tuned."
        parts.append(f"{title}, tier {tier}. {note}\n\n{table(header, lines)}")
    return "\n".join(parts)


def all_shown() -> str:
    """Return the tables of all tiers that have rows, in Markdown."""
    return "\n".join(
        map(shown, sorted({row["tier"] for row in read_rows(NAME) if row["benchmark"] == families.VERSION}))
    )


def score_cell(row: dict[str, Any] | None) -> str:
    """Return a score with half the width of its interval; in brackets if the settings were not tuned."""
    if row is None:
        return ""
    text = f"{row['ours']:.2f} ± {row['ci95'][1] - row['ours']:.2f}"
    return text if row["tuned"] else f"({text})"


def reference_cells(role: score.Role, entries: Sequence[Entry], split: Split) -> list[str]:
    """Return the scores of a reference, by family."""
    name = {"random": "random actions", "posterior": "posterior sampling"}.get(role, role)
    cells = []
    for entry in entries:
        found, (fixed, optimum) = score.reference(entry.name, split, role), score.scale(entry.name, split)
        cells.append("" if found is None else f"{score.normalised(found.value, fixed.value, optimum.value):.2f}")
    return [f"*{name}*", *cells, *([""] if split == "heldout" else [])]


def aggregate_cell(rows: Sequence[dict[str, Any] | None]) -> str:
    """Return the interquartile mean of a learner; an empty text if a family or a seed is missing."""
    by_seed = [row["by_seed"] for row in rows if row is not None]
    if len(by_seed) != len(rows) or len({len(seeds) for seeds in by_seed}) != 1:
        return ""
    found = score.aggregate(np.array(by_seed).T)
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def main() -> None:
    known = [*EXTERNAL, *algorithms()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", type=int, choices=list(families.TIERS), default=1)
    parser.add_argument("--learners", nargs="+", choices=known, default=known)
    parser.add_argument("--families", nargs="+", choices=[entry.name for entry in ENTRIES], help="of the tier")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="time limit of training on one family; call again to go on")
    parser.add_argument("--iterations", type=int, help="at most; for a trial, whose rows are of another variant")
    parser.add_argument("--folder", type=Path, default=Path("runs/frozen"), help="where files and run folders are")
    parser.add_argument("--readme", action="store_true", help="run nothing; put the tables into benchmarks/README.md")
    arguments = parser.parse_args()
    if arguments.readme:
        PAGE.write_text(with_block(PAGE.read_text(), f"{NAME}.py", all_shown()))
        return
    for entry in families.of_tier(arguments.tier):
        if arguments.families is not None and entry.name not in arguments.families:
            continue
        for learner in arguments.learners:
            done = {
                (row["learner"], row["family"], row["variant"])
                for row in read_rows(NAME)
                if row["seeds"] == arguments.seeds and row["benchmark"] == families.VERSION
            }
            variant = variant_of(learner, arguments.iterations)
            if not applies(learner, entry) or (learner, entry.name, variant) in done:
                continue
            print(f"{learner} on {entry.name}", flush=True)
            for row in measure(
                learner, entry, arguments.seeds, arguments.folder, arguments.minutes, arguments.iterations
            ):
                write_row(NAME, row, IDENTITY)
    for learner in arguments.learners:
        merge(learner, arguments.tier, arguments.folder, arguments.seeds, arguments.iterations)


if __name__ == "__main__":
    main()
