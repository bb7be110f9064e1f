"""Make the trained learners that are part of the package: weights, and cards with measured scores.

    python benchmarks/pretrained.py                        # train, export and measure all six
    python benchmarks/pretrained.py --names maml-sinusoid  # one of them
    python benchmarks/pretrained.py --runs FOLDER          # use the runs FOLDER/NAME; train what is missing
    python benchmarks/pretrained.py --readme               # put the table into README.md of this folder

The score of a learner is that of ``metarl-jax evaluate`` on held-out tasks, by which nothing is chosen: each learner is
seed 0 of its command. The files are written to ``metarl_jax/pretrained_learners``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from results_file import PAGE, provenance, table, with_block

import metarl_jax as mrl
from metarl_jax.reports import collect
from metarl_jax.runs import evaluate, pretrained_learners
from metarl_jax.runs.folder import RunFolder

PROGRAM = "pretrained.py"
MOST_BYTES = 500_000


class Recipe(NamedTuple):
    """How a learner is trained, and what its score is compared with."""

    description: str
    arguments: tuple[str, ...]
    """The words after ``metarl-jax train``."""
    tasks: int
    """The number of held-out tasks."""
    reference: str
    """The name of the score on the card that the table shows."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RECIPES = {
    "rl2-bandit-100x5": Recipe(
        "RL² with a GRU on Bernoulli bandits: 100 pulls, 5 arms", _words("rl2-bandit-100x5"), 20_000, "Gittins index"
    ),
    # The settings are those of the preset with 100 pulls, with a window of a trial of 10 pulls.
    "snail-bandit-10x5": Recipe(
        "RL² with SNAIL and a privileged critic on Bernoulli bandits: 10 pulls, 5 arms",
        _words(
            "rl2_asymmetric bandit --memory snail --episodes 10 --arms 5 --window 10 --attention-first --blocks 1 "
            "--filters 16 --trials 256 --minibatches 8 --learning-rate 3e-3 --adam-epsilon 3e-6 "
            "--entropy-coefficient 0.017 --entropy-decay 0.75 --iterations 400"
        ),
        20_000,
        "Gittins index",
    ),
    "varibad-gridnavi": Recipe(
        "VariBAD on GridNavi: 4 episodes of 15 steps", _words("varibad-gridnavi"), 20_000, "Bayes-optimal"
    ),
    "pearl-point-robot-dense": Recipe(
        "PEARL on point robots with a dense reward: the last of 4 episodes of 20 steps",
        _words("pearl-point-robot-dense"),
        2_000,
        "best play, goal known",
    ),
    "maml-sinusoid": Recipe(
        "MAML on sinusoids: 10 gradient steps on 5 examples",
        _words("maml-sinusoid"),
        20_000,
        "MAML (Finn et al. 2017, Table 2)",
    ),
    "maml-glyphs-5x1": Recipe(
        "MAML on synthetic glyphs: 5 classes, 1 example of each",
        _words("maml-glyphs-5x1 --filters 32 --iterations 2000"),
        2_000,
        "from scratch, gradient descent (0.4)",
    ),
}


def command(name: str) -> list[str]:
    """Return the command that trains a learner."""
    return ["metarl-jax", "train", *RECIPES[name].arguments]


def trained(name: str, folder: Path) -> RunFolder:
    """Return the finished run of a learner; train it if the folder does not have it."""
    path = folder / name
    if not path.exists():
        words = [sys.executable, "-m", "metarl_jax", *command(name)[1:], "--no-progress", "--run-dir", str(path)]
        subprocess.run(words, check=True)
    run = RunFolder(path)
    if mrl.runs.open(path).metrics["iteration"][-1] != run.config.settings["iterations"]:
        raise SystemExit(f"{path} has not finished")
    return run


def make(name: str, run: RunFolder, now: Mapping[str, Any]) -> mrl.Card:
    """Write the weights and the card of a learner.

    Args:
        name: the name of the learner.
        run: its finished run.
        now: the device, versions and commit of the measurement.
    """
    recipe = RECIPES[name]
    # Seed 0 of the tasks is that of ``metarl-jax evaluate``.
    result = evaluate.evaluate(run, recipe.tasks, {}, 0, print)
    published = collect.collect(run, name, None, []).published(result)
    path = mrl.save(pretrained_learners.FOLDER / f"{name}.safetensors", mrl.load(run.path), overwrite=True)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}")
    summary, ours = json.loads((run.path / "summary.json").read_text()), result["ours"]
    card = mrl.Card(
        name=name,
        description=recipe.description,
        command=shlex.join(command(name)),
        steps=summary["steps"],
        unit=run.config.resolve().unit,
        training_seconds=round(summary["train_wall_s"], 1),
        metric=result["measure"]["title"],
        score=ours["score"],
        ci95=(ours["ci95"][0], ours["ci95"][1]),
        heldout_tasks=result["tasks"],
        references={one["name"]: one["score"] for one in result["oracles"]},
        published={} if published is None else dict([published]),
        optimum=result["optimum"],
        bytes=path.stat().st_size,
        device=run.versions()[-1]["device"],
        versions={"metarl_jax": mrl.__version__, **now["versions"]},
        commit=now["commit"],
    )
    pretrained_learners.write_card(card)
    return card


def cells(card: mrl.Card) -> tuple[str, ...]:
    """Return a row of the table."""
    compared = {**card.references, **card.published}
    reference = RECIPES[card.name].reference
    low, high = card.ci95
    return (
        f"`{card.name}`",
        card.description,
        card.metric,
        f"{card.score:.4g} ({low:.4g} to {high:.4g})",
        f"{compared[reference]:.4g}, {reference}",
        f"{card.heldout_tasks:,}",
        f"{card.steps:,} {card.unit}",
        f"{card.training_seconds:.0f} s",
        f"{card.bytes / 1000:.0f} kB",
    )


HEADER = (
    "name",
    "learner",
    "score",
    "measured (95 % interval)",
    "reference",
    "held-out tasks",
    "training",
    "time",
    "file",
)


def shown() -> str:
    """Return the table of all cards, in Markdown."""
    return table(HEADER, map(cells, mrl.pretrained_cards().values()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the learners, or show their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--runs", type=Path, help="the folder of finished runs; without it, runs are temporary")
    parser.add_argument("--readme", action="store_true", help="make nothing; put the table into benchmarks/README.md")
    asked = parser.parse_args(arguments)
    if asked.readme:
        PAGE.write_text(with_block(PAGE.read_text(), PROGRAM, shown()))
        print(shown())
        return
    # The files of one learner change the commit of the next one, but not what is measured.
    now = provenance()
    pretrained_learners.FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in asked.names:
            print(make(name, trained(name, asked.runs or Path(temporary)), now), flush=True)


if __name__ == "__main__":
    main()
