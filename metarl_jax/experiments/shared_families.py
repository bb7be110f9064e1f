"""Presets: RL², recurrent soft actor-critic, VariBAD, HyperX and PEARL on points, a half-circle, and CartPole.

Gradient-based learners on point navigation and CartPole are in ``experiments.control``. ``benchmarks/compare.py``
compares all of these learners.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment
from metarl_jax.experiments.starting_points import OFF_POLICY, OFF_POLICY_TRIALS, ON_POLICY, VARIBAD

# The contexts of a held-out task are those of training: two episodes with sampled actions.
_AS_IN_TRAINING: dict[str, Any] = {"exploration_episodes": 2, "deterministic": False}
# The number of training goals and the discount are those of the point robots of Rakelly et al. (2019), and so is the
# number of tasks in a gradient step.
_POINTS: dict[str, Any] = {
    **_AS_IN_TRAINING,
    "training_tasks": 100,
    "initial_episodes": 5,
    "discount": 0.9,
    "meta_batch": 16,
    "batch_size": 64,
}
_THREE_EPISODES: dict[str, Any] = {"episodes": 3, "adaptation_episodes": 3}
# Chosen on tasks that no reported result uses, except for those of ``UNTUNED``.
FAMILIES: Mapping[str, tuple[str, Mapping[str, Mapping[str, Any]]]] = {
    "navigation": (
        "point navigation (Finn et al. 2017)",
        {"rl2": {}, "recurrent_sac": {"discount": 0.9}, "varibad": {}, "pearl": _POINTS},
    ),
    "half-circle": (
        "point robots with goals on a half-circle (Zintgraf et al. 2020)",
        {
            "rl2": {"episodes": 3},
            "recurrent_sac": {"episodes": 3, "discount": 0.9},
            "varibad": _THREE_EPISODES,
            "hyperx": _THREE_EPISODES,
            "pearl": _POINTS,
        },
    ),
    # Every step has the same reward, so only transitions distinguish tasks.
    "cartpole": (
        "CartPole with random physics",
        {
            "rl2": {},
            "recurrent_sac": {},
            "varibad": {"decode_transitions": True},
            "pearl": {**_AS_IN_TRAINING, "target_entropy": -0.3, "next_observation": True},
        },
    ),
}
METHODS = {
    "rl2": ON_POLICY,
    "recurrent_sac": OFF_POLICY_TRIALS,
    "varibad": VARIBAD,
    "hyperx": VARIBAD,
    "pearl": OFF_POLICY,
}

UNTUNED = {("recurrent_sac", "navigation"), ("recurrent_sac", "cartpole"), ("hyperx", "half-circle")}
"""The algorithms and families whose settings are those of another family, or published ones, and were not tried."""


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for family, (title, methods) in FAMILIES.items():
        for algorithm, settings in methods.items():
            yield experiment(
                name=f"{algorithm.replace('_', '-')}-{family}",
                description=f"{registry.algorithm(algorithm).title} on {title}",
                algorithm=algorithm,
                family=family,
                # The mean of a set costs a CPU a small part of the time of a recurrent network.
                network="set-aggregation" if algorithm == "recurrent_sac" else None,
                settings={**METHODS[algorithm], **settings},
                tuned=(algorithm, family) not in UNTUNED,
                validation_tasks=50,
                heldout_batch=250,
            )
