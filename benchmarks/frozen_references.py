"""The stored numbers of the frozen benchmark: digests of tasks, and reference values.

    python benchmarks/frozen_references.py --digests                 # metarl_jax/benchmark/tasks.json
    python benchmarks/frozen_references.py --families bandit maze    # these families of references.json
    python benchmarks/frozen_references.py                           # all families

Both files are part of a version of the benchmark. They are written once, and a change needs a new version. A reference
value is the return of an episode, as a mean over the episodes of a trial and over the tasks of a split, or over all
possible tasks of training, as ``metarl_jax.benchmark`` says. A simulated value has the standard error over repeated
trials on the same tasks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import oracles
from metarl_jax.benchmark import families, tasks
from metarl_jax.benchmark.families import ENTRIES, Entry, Split
from metarl_jax.environments.gridnavi import GridNavi
from metarl_jax.types import Array, EnvFamily, Oracle, Task

FOLDER = Path(families.__file__).parent
Value = dict[str, Any]
TRIALS = {1: 40, 2: 10, 3: 2}
"""The number of simulated trials of a reference on each task, by tier."""


def value(mean: float, error: float, kind: str, what: str) -> Value:
    """Return a reference value, as it is stored."""
    return {"value": float(mean), "standard_error": float(error), "kind": kind, "what": what}


def exact(mean: Any, what: str) -> Value:
    return value(float(mean), 0.0, "exact", what)


def simulated(oracle: Oracle, drawn: Task, trials: int, what: str, seed: int) -> Value:
    """Play trials of an oracle on every task, and return the mean with its standard error on these tasks."""
    number = len(jax.tree.leaves(drawn)[0])
    adapt = jax.jit(jax.vmap(lambda key, task: oracle.adapt(key, (), task).score.mean()))
    keys = jax.random.split(jax.random.key(seed), trials)
    scores = np.stack([np.asarray(adapt(jax.random.split(key, number), drawn), np.float64) for key in keys])
    variance = scores.var(axis=0, ddof=1).mean() / trials if trials > 1 else 0.0
    return value(float(scores.mean()), math.sqrt(variance / number), "simulated", what)


# ------------------------------------------------------------------------------------------- the best fixed policies


def _mean_arm(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    return exact(np.asarray(drawn.means, np.float64).mean(), "any arm: all are equally good in training")


def _any_policy(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    """Compute the return of the uniform policy. All fixed policies have the same expected return in training."""

    def one(task: Any) -> Array:
        transition, reward = task.transition.mean(axis=1), task.reward_mean.mean(axis=1)
        return jax.lax.fori_loop(0, family.horizon, lambda _, v: reward + transition @ v, jnp.zeros_like(reward))[0]

    return exact(
        np.asarray(jax.vmap(one)(drawn), np.float64).mean(),
        "uniformly random actions: all policies that do not adapt are equally good in training",
    )


def on_a_grid(mean: float, what: str, split: Split) -> Value:
    """Return the value of the best walks. On shifted tasks they differ, and the value on training tasks stands in."""
    return exact(mean, what) if split == "heldout" else value(mean, 0.0, "bound", f"{what}; not of shifted goals")


def _grid(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    """All but one of the 15 steps can end in one of the 21 cells where the goal may be."""
    what = "a walk to any possible goal and a stay there, as a mean over these goals"
    return on_a_grid(-1.5 + 1.1 * 14 / 21, what, split)


def _room(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    what = "20 steps in any cells, as a mean over all 81 cells as goals"
    return value(20 / 81, 0.0, "bound", f"{what}; not of {'held-out' if split == 'heldout' else 'shifted'} goals")


def _key_and_door(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    """Step t adds at most one cell for the key, and at most t - 1 pairs of a key and a door after it."""
    pairs = 50 * 49 / 2
    what = "a walk through 50 different cells, as a mean over all pairs of cells"
    return on_a_grid(50 / 81 + pairs / (81 * 80), what, split)


def _half(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    return exact(0.5, "any turn: the junction does not show the cue")


def _origin(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    far = np.linalg.norm(np.asarray(drawn.goal, np.float64), axis=-1)
    what = "a stay at the origin, which is the best place; a walk that meets goals by chance may be slightly better"
    return value(-100 * far.mean(), 0.0, "bound", what)


def _popular(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    # The training users decide which item is popular, also for shifted users.
    oracle = oracles.recommendation.popularity(families.make(entry.name), entry.episodes)
    return simulated(oracle, drawn, TRIALS[1], "the item that training users of the same group like best", 1)


def _diagonal(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    """Compute the return of a walk along the diagonal to the best place, as a mean over the goals of training."""
    if split == "shifted":
        return exact(0.0, "a walk to the best place for training goals")
    angle = (np.arange(100_000) + 0.5) * math.pi / 100_000

    def paid(radius: float) -> float:
        far = np.hypot(np.cos(angle) - radius / math.sqrt(2), np.sin(angle) - radius / math.sqrt(2))
        return float(np.where(far <= 0.2, 1 - far, 0.0).mean())

    best = max(np.linspace(0.8, 1.1, 301), key=paid)
    steps = np.minimum(0.1 * math.sqrt(2) * np.arange(1, family.horizon + 1), best)
    return value(sum(map(paid, steps)), 0.0, "bound", "a walk along the diagonal to the best place, and a stay there")


def _at_random(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    oracle = oracles.at_random.uniform(family, entry.episodes)
    found = simulated(oracle, drawn, TRIALS[entry.tier], "uniformly random actions, as a lower bound", 2)
    return {**found, "kind": "bound"}


def _stand(entry: Entry, split: Split, family: EnvFamily, drawn: Any) -> Value:
    what = "no action: both directions are equally likely, so that a fixed gait gains nothing and costs control"
    return exact(0.0, what)


FIXED: dict[str, Callable[[Entry, Split, EnvFamily, Any], Value]] = {
    "bandit": _mean_arm,
    "gaussian-bandit": _mean_arm,
    "tabular-mdp-10": _any_policy,
    "gridnavi": _grid,
    "dark-room": _room,
    "t-maze": _half,
    "navigation": _origin,
    "cold-start": _popular,
    "half-circle": _diagonal,
    "key-to-door": _key_and_door,
    "maze": _at_random,
    "tabular-mdp-25": _any_policy,
    "half-cheetah-direction": _stand,
    "xland": _at_random,
}

# ------------------------------------------------------------------------------------ posterior sampling and optima

Make = Callable[[EnvFamily, int], Oracle]
POSTERIOR: dict[str, tuple[Make, str]] = {
    "bandit": (oracles.bandits.thompson_sampling, "Thompson sampling with the prior of training"),
    "gaussian-bandit": (oracles.bandits.thompson_sampling, "Thompson sampling with the prior of training"),
    "tabular-mdp-10": (oracles.tabular_mdp.psrl, "PSRL with the prior of training"),
    "tabular-mdp-25": (oracles.tabular_mdp.psrl, "PSRL with the prior of training"),
    "gridnavi": (oracles.gridnavi.posterior_sampling, "posterior sampling with the prior of training"),
    "dark-room": (oracles.dark_room.posterior_sampling, "posterior sampling, where every cell may be the goal"),
    "cold-start": (oracles.recommendation.similar_users, "posterior sampling among 2000 training users"),
    "half-circle": (oracles.point_robot.posterior_sampling, "posterior sampling of goals, one draw in each episode"),
}
WITHOUT_SHIFT = ("half-circle",)
"""Families where the posterior of the training tasks is impossible on shifted tasks."""


def posterior(entry: Entry, split: Split, family: EnvFamily, drawn: Task) -> Value | None:
    """Return the value of posterior sampling with the prior of training; None if there is none."""
    if entry.name not in POSTERIOR or (split == "shifted" and entry.name in WITHOUT_SHIFT):
        return None
    make, what = POSTERIOR[entry.name]
    # The learner knows the training tasks only.
    return simulated(make(families.make(entry.name), entry.episodes), drawn, TRIALS[entry.tier], what, 3)


def optimum(entry: Entry, split: Split, family: EnvFamily, drawn: Task) -> Value:
    """Return the value of a (nearly) Bayes-optimal learner, otherwise of the optimal policy of the known task."""
    if split == "heldout" and entry.name == "bandit":
        what = "the finite-horizon Gittins index, which is near-optimal"
        return simulated(oracles.bandits.gittins(family, entry.episodes), drawn, TRIALS[entry.tier], what, 4)
    if split == "heldout" and entry.name == "gridnavi":
        # Bayes-optimal walks differ in the order of cells. Only their mean over all possible goals is the same.
        walk = oracles.gridnavi.best_walk(cast(GridNavi, family.env).size, entry.horizon, entry.episodes)
        return exact(walk.value / entry.episodes, "the Bayes-optimal learner, as a mean over all possible goals")
    if entry.name == "maze":
        what = "a guide that knows the maze, but may not be the fastest"
        return {**simulated(oracles.maze.guide(family, entry.episodes), drawn, 1, what, 4), "kind": "bound"}
    if entry.name == "half-cheetah-direction":
        what = "PEARL with published sizes, the fourth episode on a task (benchmarks/results/locomotion.json)"
        return value(1608.854, 7.46, "trained", what)
    if family.optimal_return is None:
        return value(entry.highest, 0.0, "bound", "the highest return that is possible")
    best = np.asarray(jax.jit(jax.vmap(family.optimal_return))(drawn), np.float64)
    return exact(best.mean(), "the optimal policy of the known task")


def reference_values(entry: Entry, split: Split) -> dict[str, Value | None]:
    """Return the reference values of a family and a split by role."""
    family, drawn = families.make(entry.name, split), tasks.draw(entry.name, split)
    at_random = oracles.at_random.uniform(family, entry.episodes)
    return {
        "random": simulated(at_random, drawn, TRIALS[entry.tier], "uniformly random actions", 0),
        "fixed": FIXED[entry.name](entry, split, family, drawn),
        "posterior": posterior(entry, split, family, drawn),
        "optimum": optimum(entry, split, family, drawn),
    }


# ------------------------------------------------------------------------------------------------------------- files


def digests(entry: Entry) -> dict[str, Any]:
    """Return the digests of the tasks of a family by split."""
    found = {}
    for split in entry.splits:
        made = tasks.make_digest(entry.name, split, tasks.draw(entry.name, split))
        found[split] = {"sha256": made.sha256, "scales": list(made.scales), "shifts": list(made.shifts)}
    return found


def store(path: Path, found: dict[str, Any]) -> None:
    """Replace the entries of families in a file, which has all entries in the order of the benchmark."""
    old = json.loads(path.read_text())["families"] if path.exists() else {}
    merged = {**old, **found}
    order = [entry.name for entry in ENTRIES if entry.name in merged]
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(merged[name])}" for name in order)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(f'{{\n "version": {families.VERSION},\n "families": {{\n{rows}\n }}\n}}\n')
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=[entry.name for entry in ENTRIES], help="default: all")
    parser.add_argument("--digests", action="store_true", help="write the digests of tasks, and no reference values")
    arguments = parser.parse_args()
    for entry in ENTRIES:
        if arguments.families is not None and entry.name not in arguments.families:
            continue
        if arguments.digests:
            store(FOLDER / "tasks.json", {entry.name: digests(entry)})
            print(entry.name, flush=True)
            continue
        found = {split: reference_values(entry, split) for split in entry.splits}
        store(FOLDER / "references.json", {entry.name: found})
        for split, values in found.items():
            texts = [
                f"{role} {one['value']:.4f} ± {one['standard_error']:.4f} ({one['kind']})"
                for role, one in values.items()
                if one is not None
            ]
            print(f"{entry.name}, {split}: {'; '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
