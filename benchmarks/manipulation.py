"""Meta-World's ML1 and ML10: success rate and return on held-out goals, or skills, by adaptation episode.

    python benchmarks/manipulation.py                                # reach
    python benchmarks/manipulation.py --cells others --seeds 1       # push, pick-place: 10 million steps of RL²
    python benchmarks/manipulation.py --cells published --seeds 1    # ML1 as published: horizon 500, 2 million steps
    python benchmarks/manipulation.py --cells ml10 --seeds 1         # ten skills to train on, five others to test on
    python benchmarks/manipulation.py --cells short --seeds 1        # a partly trained learner, by both rules

An episode is a success if any of its steps is. The bar is a success rate of 0.9 on held-out goals in the last episode.
For ML10, there are separate rows with the success rate of each skill, for held-out skills and for training skills. A
cell of ML10 has 20 million steps of RL² or MAML, which are for an accelerator or a long run.

Every cell also has a row with its success rate by two rules, from the same episodes: ``ours`` counts each of three
episodes on every held-out goal once (``manipulation_evaluation.per_goal``), and ``official`` is Meta-World's own rule.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaptation_table import TableRow, main
from results_file import provenance, write_row

NAME = "manipulation"
BAR = 0.9
REACH = {
    f"{name}-ml1-reach": TableRow(f"{name}-ml1-reach", {}, success_targets={last: BAR})
    for name, last in (("rl2", 2), ("varibad", 2), ("pearl", 3))
}
# Variants of RL² on reach, which learn from the environment's own reward only ("paid"), as all experiments below do:
# with normalised observations, which the published settings of Meta-World's authors do not have; with an entropy bonus
# that ends before the step size reaches zero, for as many steps and for three times as many; and with a larger bonus
# and a smaller memory. A smaller memory can distinguish the fifty goals less well, so the learner has to search.
PAID: dict[str, Any] = {"iterations": 400, "entropy_decay": 1.0, "training_reward": "paid"}
VARIANTS = {
    name: TableRow("rl2-ml1-reach", {}, settings={**PAID, **settings}, variant=name, success_targets={2: BAR})
    for name, settings in (
        ("paid", {}),
        ("normalised", {"normalise_observations": True}),
        ("sure sooner", {"entropy_decay": 0.6}),
        ("sure sooner, longer", {"entropy_decay": 0.6, "iterations": 1200}),
        ("searching", {"entropy_coefficient": 0.03, "hidden_size": 64}),
    )
}
# RL² has the settings of reach and 10 million steps. VariBAD and PEARL have half of the iterations of their presets.
OTHERS = {
    name: TableRow(name, {}, settings={"iterations": iterations}, variant=variant)
    for skill in ("push", "pick-place")
    for name, iterations, variant in (
        (f"rl2-ml1-{skill}", 1042, "10 million steps"),
        (f"varibad-ml1-{skill}", 200, "200 iterations"),
        (f"pearl-ml1-{skill}", 50, "50 iterations"),
    )
}
# The horizon, the epochs, the actions at test and the 2 million steps of Meta-World's public JAX baselines.
PUBLISHED = {
    f"published-{skill}": TableRow(
        f"rl2-ml1-{skill}",
        {},
        settings={"horizon": 500, "epochs": 10, "deterministic": True, "iterations": 63},
        variant="horizon 500",
    )
    for skill in ("reach", "push", "pick-place")
}
# The rules differ most for a learner that succeeds sometimes.
_SHORT = TableRow("rl2-ml1-reach", {}, settings={"iterations": 60}, variant="60 iterations")
SHORT = {
    "reach-60": _SHORT,
    "reach-60-likely": _SHORT._replace(testing={"deterministic": True}, test_variant="most likely actions"),
}
ML10 = {name: TableRow(name, {}) for name in ("rl2-ml10", "maml-ml10", "pearl-ml10")}
BOTH_RULES = "success rate after adaptation, by both rules"


def by_both_rules(cell: TableRow, evaluation: dict[str, Any]) -> None:
    """Write a row with the success rate on held-out goals, counted for each goal and by the official rule."""
    import jax
    import numpy as np

    from metarl_jax.manipulation_evaluation import attempt, official, per_goal
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder

    run = RunFolder(Path(evaluation["folder"]))
    settings, seeds, experiment = {**run.config.settings, **cell.testing}, run.config.seeds, run.config.resolve()
    states = train.load_states(run, train.build(run.config)).state.algorithm
    problem = experiment.build(experiment.with_overrides(settings))
    algorithm, family, explorer = problem.algorithm, problem.family, None
    assert algorithm.acting is not None
    if settings.get("deterministic") and cell.experiment.startswith("rl2"):
        # The published evaluation samples actions in adaptation, and takes the most likely ones after it.
        explorer = experiment.build(experiment.with_overrides({**settings, "deterministic": False})).algorithm
    # A learner with a memory acts in the last episode of a trial of the length that it reports.
    by_gradient = algorithm.acting.learn is not None
    protocol = {
        "episodes": 3,
        "adaptation_episodes": settings["episodes"] if by_gradient else problem.stages - 1,
        "adaptation_steps": problem.stages if by_gradient else 1,
    }
    all_attempts = []
    for seed in range(seeds):
        state = jax.tree.map(lambda x, seed=seed: x[seed], states)
        key = jax.random.key(2**31 + 6)
        all_attempts.append(attempt(key, algorithm, state, family, explorer=explorer, **protocol))
        print(f"{cell.experiment}, seed {seed}: {all_attempts[-1]}", flush=True)
    counted = [per_goal(attempts) for attempts in all_attempts]
    skills = len(counted[0].by_skill)
    # ML10 has four environments for each of five skills, and ML1 twenty for one.
    finished = {
        number * skills: [official(attempts, environments=number * skills) for attempts in all_attempts]
        for number in sorted({4, 20 // skills})
    }
    row = {
        "experiment": cell.experiment,
        "variant": ", ".join(filter(None, (cell.variant, cell.test_variant))),
        "metric": BOTH_RULES,
        "horizon": family.horizon,
        "ours": float(np.mean([found.rate for found in counted])),
        "ci95": list(counted[0].interval) if seeds == 1 else None,
        "by_seed": [found.rate for found in counted],
        "by_skill": {name: float(np.mean([found.by_skill[name] for found in counted])) for name in counted[0].by_skill},
        "official_by_environments": {
            str(number): float(np.mean([found.rate for found in rates])) for number, rates in finished.items()
        },
        "goals": len(all_attempts[0].skills),
        **protocol,
        "seeds": seeds,
        **{name: json.loads((run.path / "summary.json").read_text())[name] for name in ("steps", "train_wall_s")},
        **provenance(),
    }
    write_row(NAME, row, ("experiment", "variant", "metric"))


def by_skill(cell: TableRow, evaluation: dict[str, Any]) -> None:
    """Write rows with the success rates of each skill by stage."""
    if cell.experiment not in ML10:
        return
    import jax
    import jax.numpy as jnp
    import numpy as np

    from metarl_jax.evaluation import meta_test
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder
    from metarl_jax.types import TaskDistribution

    run = RunFolder(Path(evaluation["folder"]))
    problem, seeds, number = train.build(run.config), run.config.seeds, evaluation["tasks"]
    states, family = train.load_states(run, problem).state.algorithm, problem.family
    # There are more training skills than held-out skills, so training skills get three times as many tasks.
    for skills, sample, tasks in (
        ("held-out", family.tasks.sample_heldout, number),
        ("training", family.tasks.sample, 3 * number),
    ):

        def adapt(key: Any, state: Any, task: Any) -> Any:
            found = problem.algorithm.adapt(key, state, task)
            # The number of the skill takes the place of the score.
            return found._replace(score=jnp.full_like(found.score, task.skill))

        @jax.jit
        def test(key: Any, states: Any, sample: Any = sample, tasks: int = tasks) -> Any:
            split = TaskDistribution(sample, sample)
            return meta_test(key, adapt, states, split, num_tasks=tasks, num_seeds=seeds, batch_size=100)

        found = test(jax.random.key(2**31 + 5), states)
        skill, success = np.asarray(found.score)[0, :, 0], np.asarray(found.success, np.float64).mean(axis=0)
        rates = {family.env.skills[int(i)].name: success[skill == i].mean(axis=0).tolist() for i in np.unique(skill)}
        row = {
            "experiment": cell.experiment,
            "variant": ", ".join(filter(None, (cell.variant, cell.test_variant))),
            "metric": f"success rate by stage, {skills} skills",
            "ours": success.mean(axis=0).tolist(),
            "by_skill": rates,
            "seeds": seeds,
            "tasks": tasks,
            **provenance(),
        }
        write_row(NAME, row, ("experiment", "variant", "metric"))
        for name, stages in rates.items():
            print(f"  {skills} {name}: {', '.join(f'{rate:.1%}' for rate in stages)}", flush=True)


if __name__ == "__main__":

    def also(cell: TableRow, evaluation: dict[str, Any]) -> None:
        by_skill(cell, evaluation)
        by_both_rules(cell, evaluation)

    groups = {"others": OTHERS, "published": PUBLISHED, "variants": VARIANTS, "short": SHORT, "ml10": ML10}
    main("manipulation", __doc__ or "", REACH, also=also, more=groups)
