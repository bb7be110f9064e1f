"""Robots with simulated physics: the held-out return by adaptation episode or gradient step, for all kinds of learners.

    python benchmarks/locomotion.py                                   # the half cheetah's direction, every algorithm
    python benchmarks/locomotion.py --cells rl2-half-cheetah-direction --seeds 1
    python benchmarks/locomotion.py --cells others                    # speed, ants, walkers: one algorithm or two each
    python benchmarks/locomotion.py --cells long --seeds 1            # 20 million steps each, and 40 million
    python benchmarks/locomotion.py --cells paper --seeds 1           # at published sizes, for an accelerator

The budgets are what two cores compute in minutes, and are smaller than those of the papers. Published curves are of
other bodies, and show only the order of magnitude. The value of adaptation is the paired gain over play before
adaptation, and over random actions.

The gain is that of the first gradient step, for which gradient-based learners are trained, and otherwise that over
random actions. The share is the gain, divided by the gain that a plain learner that observes the task reaches in as
many steps. Intervals of gains add those of the two returns in quadrature, which is wider than a paired interval.
"""

from __future__ import annotations

import math

import numpy as np
from adaptation_table import TableRow, main
from results_file import read_rows, write_row

NAME = "locomotion"
GRADIENT = "1 gradient step"

DIRECTION = tuple(f"{method}-half-cheetah-direction" for method in ("maml", "promp", "rl2", "varibad", "pearl"))
OTHERS = (
    *(f"{method}-half-cheetah-velocity" for method in ("rl2", "varibad", "pearl")),
    "pearl-walker-parameters",
)
# These experiments have fewer iterations than the presets.
SHORT = {
    "varibad-half-cheetah-direction": 150,
    "maml-half-cheetah-velocity": 50,
    "promp-ant-direction": 40,
    "varibad-ant-direction": 200,
    "promp-walker-parameters": 38,
}
# Gradient-based learners have 20 million steps, and the others 40 million.
LONG: dict[str, dict[str, int]] = {
    "known-task-trpo-half-cheetah-direction": {"iterations": 250, "horizon": 200},
    "maml-half-cheetah-direction": {"iterations": 125, "horizon": 200},
    "promp-half-cheetah-direction": {"iterations": 125, "horizon": 200},
    "known-task-trpo-half-cheetah-velocity": {"iterations": 500},
    "maml-half-cheetah-velocity": {"iterations": 250},
    "promp-ant-direction": {"iterations": 250},
    "promp-walker-parameters": {"iterations": 250},
    "known-task-ppo-half-cheetah-direction": {"iterations": 3125},
    "rl2-half-cheetah-direction": {"iterations": 3125},
    "varibad-half-cheetah-direction": {"iterations": 3125},
}
# Learners that observe the task, by the names of those that they are references of.
KNOWN_TASK = {
    "maml": "known-task-trpo",
    "promp": "known-task-trpo",
    "rl2": "known-task-ppo",
    "varibad": "known-task-ppo",
}
# Networks, batches and steps of an iteration are those of Rakelly et al. (2019), with 144 of their 500 iterations.
# These iterations have 1.44 million environment steps, with which a replay gets about 370 episodes. Twenty training
# tasks are drawn from their two. The C engine simulates the physics, because 25 robots are few for a GPU. Their weight
# of the KL divergence, 0.1, is for its sum over a meta-batch, and not for its mean.
PUBLISHED = {
    "encoder_units": 200,
    "units": 300,
    "layers": 3,
    "learning_rate": 3e-4,
    "gradient_steps": 2000,
    "meta_batch": 4,
    "kl_weight": 0.4,
    "automatic_temperature": False,
    "prior_episodes": 5,
    "posterior_episodes": 5,
    "replay_episodes": 600,
    "exploration_episodes": 2,
    "adaptation_episodes": 4,
    "iterations": 144,
    "engine": "c",
}
KNOWN = {name: TableRow(name, {}) for name in ("known-task-trpo-half-cheetah-direction",)}
PAPER = {
    "pearl-half-cheetah-direction-published": TableRow(
        "pearl-half-cheetah-direction", {}, settings=PUBLISHED, variant="published sizes"
    )
}


def cells(names: tuple[str, ...]) -> dict[str, TableRow]:
    return {name: TableRow(name, {}) for name in names}


def short() -> dict[str, TableRow]:
    return {
        f"{name}-{number}": TableRow(name, {}, settings={"iterations": number}, variant=f"{number} iterations")
        for name, number in SHORT.items()
    }


def long() -> dict[str, TableRow]:
    return {
        f"{name}-long": TableRow(name, {}, settings=dict(settings), variant=_variant(name, settings))
        for name, settings in LONG.items()
    }


def _variant(name: str, settings: dict[str, int]) -> str:
    horizon = f"{settings['horizon']} steps an episode, " if "horizon" in settings else ""
    return f"{horizon}{40 if settings['iterations'] > 1000 else 20} million steps"


def gains() -> None:
    """Write the gain of each learner, and its share of the gain of a learner that observes the task, from the rows."""
    rows = {(row["experiment"], row["variant"], row["metric"]): row for row in read_rows(NAME)}
    for experiment, variant in dict.fromkeys(key[:2] for key in rows):
        method, _, family = experiment.partition("-half-cheetah-")
        of_stage = {metric: row for key, row in rows.items() for metric in key[2:] if key[:2] == (experiment, variant)}
        before, after = (of_stage.get(f"return of an episode after {step}") for step in ("0 gradient steps", GRADIENT))
        if experiment.startswith("known-task"):
            continue
        if before is not None and after is not None:
            over, low = "gain of the first gradient step", before["ours"]
        else:
            after = of_stage.get("reward of a trial after 2 episodes")
            if after is None:
                continue
            over, low = "gain of the second episode over random actions", after["references"]["random"]
        wanted = f"{KNOWN_TASK.get(method)}-half-cheetah-{family}"
        known = [row["ours"] for key, row in rows.items() if key[:2] == (wanted, variant) and "ours" in row]
        metrics = {over: 1.0}
        if known:
            metrics["share of the gain of a learner that observes the task"] = max(known) - low
        spread = [(row["ci95"][1] - row["ci95"][0]) / 2 for row in (after, before) if row is not None]
        seeds = before["by_seed"] if before is not None else [low] * len(after["by_seed"])
        by_seed = np.subtract(after["by_seed"], seeds)
        for metric, scale in metrics.items():
            mean = float(by_seed.mean())
            numbers = {
                "metric": metric,
                "ours": mean / scale,
                "ci95": [(mean + sign * math.hypot(*spread)) / scale for sign in (-1, 1)],
                "by_seed": (by_seed / scale).tolist(),
            }
            same = ("experiment", "variant", "seeds", "heldout_tasks", "steps", "train_wall_s", "settings")
            origin = ("device", "versions", "commit")
            row = {name: after[name] for name in same} | numbers | {name: after[name] for name in origin}
            write_row(NAME, row, ("experiment", "variant", "metric"))
            print(f"{experiment} {variant}: {metric} {row['ours']:.3f} {row['ci95']}", flush=True)


if __name__ == "__main__":
    main(
        NAME,
        __doc__ or "",
        cells(DIRECTION),
        more={"others": cells(OTHERS) | short(), "long": long(), "known": KNOWN, "paper": PAPER},
    )
    gains()
