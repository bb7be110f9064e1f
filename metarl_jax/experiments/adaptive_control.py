"""Presets: adaptive control of linear-quadratic plants, by RL², VariBAD and MAML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment
from metarl_jax.experiments.starting_points import ON_POLICY, POLICY_GRADIENT, VARIBAD

EPISODES = 3
"""The number of episodes on a plant."""

# Chosen on validation tasks.
_ON_POLICY: dict[str, Any] = {
    "episodes": EPISODES,
    "trials": 128,
    "hidden_size": 64,
    "iterations": 300,
    "learning_rate": 2e-3,
    "entropy_coefficient": 0.0,
    "deterministic": True,
}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "rl2": ("RL²", {**ON_POLICY, **_ON_POLICY}),
    "varibad": (
        "VariBAD",
        {**VARIBAD, **_ON_POLICY, "adaptation_episodes": EPISODES, "decode_transitions": True},
    ),
    "maml_trpo": ("MAML-TRPO", {**POLICY_GRADIENT, "inner_rate": 0.1}),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for algorithm, (title, settings) in PRESETS.items():
        yield experiment(
            name=f"{algorithm.removesuffix('_trpo')}-linear-quadratic",
            description=f"{title} on adaptive control of linear plants with unknown dynamics",
            algorithm=algorithm,
            family="linear-quadratic",
            settings=settings,
            tuned=True,
        )
