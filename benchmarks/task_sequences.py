"""Sequences of held-out tasks without resets: forward transfer and forgetting of learners by gradient descent.

    python benchmarks/task_sequences.py                         # all families
    python benchmarks/task_sequences.py --families sinusoid --sequences 100

A trained learner adapts to ten held-out tasks, one after another, from the parameters that it had after the task
before. It is compared, on the same sequences, with itself reset to its meta-learned parameters for every task; with
joint training on all tasks so far, by as many gradient steps; and with the same adaptation from random parameters, with
as many gradient steps for each task and with a hundred. ``metarl_jax.sequences`` defines the measures. Learners are the
trained ones of the package, and for texts those of ``benchmarks/applications.py`` (the first seed in its folder).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from results_file import provenance, write_row

NAME = "task_sequences"
IDENTITY = ("family", "learner")
MANY_STEPS = 100
MAX_INNER_NORM = 10.0
"""The largest norm of a gradient. Away from the meta-learned parameters, gradients can be long, and steps diverge."""


class Kind(NamedTuple):
    """A trained learner."""

    preset: str
    pretrained: bool
    """Whether it is a trained learner of the package; otherwise it is a run of three seeds."""


KINDS = {
    "sinusoid": Kind("maml-sinusoid", True),
    "glyphs": Kind("maml-glyphs-5x1", True),
    "text": Kind("maml-text", False),
}


def trained(kind: Kind, folder: Path) -> tuple[Any, dict[str, Any], Any]:
    """Return the experiment, its settings and the trained parameters of the network."""
    import jax

    import metarl_jax as mrl
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder

    experiment = mrl.experiments.get(kind.preset)
    if kind.pretrained:
        learner = mrl.pretrained(kind.preset)  # pyright: ignore[reportArgumentType, reportCallIssue]
        origin: Any = learner.origin
        parts = (origin[part]["settings"] for part in ("algorithm", "problem", "network", "family"))
        settings = {name: value for part in parts for name, value in part.items()}
        return experiment, experiment.with_overrides(settings), learner.params
    run = RunFolder(folder / f"{kind.preset}-3-seeds")
    state = train.load_states(run, train.build(run.config)).state
    return experiment, dict(run.config.settings), jax.tree.map(lambda x: x[0], state.algorithm.params)


def measure(name: str, kind: Kind, arguments: argparse.Namespace) -> None:
    """Measure a learner and its references, print the measures and write a row for each."""
    import jax

    from metarl_jax import sequences

    experiment, settings, params = trained(kind, arguments.folder)
    settings["max_inner_norm"] = MAX_INNER_NORM
    built = experiment.build(settings)
    problem, algorithm = built.inner_problem, built.algorithm
    many = {"adaptation_steps": MANY_STEPS, "later_rate_fraction": 1.0}
    longer = experiment.build({**settings, **many}, family=built.family).algorithm
    state = algorithm.init(jax.random.key(0))._replace(params=params)
    steps = settings["adaptation_steps"]
    learners = {
        "MAML, no reset": sequences.without_reset(problem, algorithm, state),
        "MAML, reset for every task": sequences.with_reset(problem, algorithm, state),
        "MAML, joint training": sequences.joint(
            problem, params, steps=steps, rate=settings["inner_rate"], max_norm=MAX_INNER_NORM
        ),
        "from scratch, no reset": sequences.from_scratch(problem, algorithm, state),
        (longest := f"from scratch, no reset, {MANY_STEPS} steps"): sequences.from_scratch(problem, longer, state),
    }
    better = experiment.measure.higher_is_better
    for learner, scores in sequences.evaluate(
        jax.random.key(1),
        problem,
        learners,
        length=arguments.length,
        num_sequences=arguments.sequences,
        higher_is_better=better,
    ).items():
        measures = ("before", "learned", "average", "forward_transfer", "backward_transfer", "forgetting")
        found = {measure: getattr(scores, measure)() for measure in measures}
        row = {
            "family": name,
            "preset": kind.preset,
            "learner": learner,
            "metric": experiment.measure.title,
            "higher_is_better": better,
            **{measure: [x.mean, x.low, x.high] for measure, x in found.items()},
            "matrix": scores.score.mean(axis=0).round(5).tolist(),
            "length": arguments.length,
            "sequences": arguments.sequences,
            "gradient_steps": MANY_STEPS if learner == longest else steps,
            "max_inner_norm": MAX_INNER_NORM,
            **provenance(),
        }
        write_row(NAME, row, IDENTITY)
        print(f"{name}, {learner}: " + ", ".join(f"{k} {x.mean:.3f}" for k, x in found.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--length", type=int, default=10, help="tasks of a sequence")
    parser.add_argument("--sequences", type=int, default=200, help="number of sequences")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where the runs of applications.py are")
    arguments = parser.parse_args()
    for name in arguments.families:
        measure(name, KINDS[name], arguments)


if __name__ == "__main__":
    main()
