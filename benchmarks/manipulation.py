"""Meta-World's ML1 and ML10: success rate and return on held-out goals, or skills, by adaptation episode.

    python benchmarks/manipulation.py                                # reach
    python benchmarks/manipulation.py --cells others --seeds 1       # push, pick-place
    python benchmarks/manipulation.py --cells ml10 --seeds 1         # ten skills to train on, five others to test on

An episode is a success if any of its steps is. The bar is a success rate of 0.9 on held-out goals in the last episode.
For ML10, there are separate rows with the success rate of each skill, for held-out skills and for training skills.
"""

from __future__ import annotations

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
# RL² learns from the environment's own reward. VariBAD and PEARL have half of the iterations of their presets.
OTHERS = {
    name: TableRow(name, {}, settings=settings, variant=f"{settings['iterations']} iterations")
    for skill in ("push", "pick-place")
    for name, settings in (
        (f"rl2-ml1-{skill}", {**PAID, "iterations": 200}),
        (f"varibad-ml1-{skill}", {"iterations": 200}),
        (f"pearl-ml1-{skill}", {"iterations": 50}),
    )
}

ML10 = {name: TableRow(name, {}) for name in ("rl2-ml10", "maml-ml10", "pearl-ml10")}


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
            "variant": cell.variant,
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
    groups = {"others": OTHERS, "variants": VARIANTS, "ml10": ML10}
    main("manipulation", __doc__ or "", REACH, also=by_skill, more=groups)
