"""Presets: treatment of sepsis in populations that respond unalike, by RL² and by VariBAD.

Their settings were not tuned. There is no preset of a learner by gradient descent: a policy has to approximate the best
treatment in 713 states before a few steps from it on some patients can improve it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment

PATIENTS = 8
"""The number of patients of a population."""

_ON_POLICY: dict[str, Any] = {
    "episodes": PATIENTS,
    "trials": 128,
    "epochs": 4,
    "minibatches": 4,
    "learning_rate": 2e-3,
    "discount": 0.98,
    "gae_lambda": 0.9,
    "entropy_coefficient": 0.01,
    "value_unit": "reward",
    "value_coefficient": 0.5,
    "training_reward": "task",
    "hidden_size": 64,
}
PRESETS: dict[str, dict[str, Any]] = {
    "rl2": {**_ON_POLICY, "iterations": 250, "previous_observation": True, "readout_size": 64},
    # Most rewards are zero, and transitions say more about a population.
    "varibad": {
        **_ON_POLICY,
        "adaptation_episodes": PATIENTS,
        "iterations": 200,
        "decode_transitions": True,
        "model_trials": 16,
        "model_updates": 4,
        "model_learning_rate": 2e-3,
        "buffer_trials": 1024,
        "bound_steps": 20,
        "kl_weight": 0.1,
    },
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for algorithm, settings in PRESETS.items():
        entry = registry.algorithm(algorithm)
        yield experiment(
            name=f"{algorithm}-icu-sepsis",
            description=f"{entry.title} on the treatment of sepsis: {PATIENTS} patients of a population",
            algorithm=algorithm,
            family="icu-sepsis",
            settings=settings,
            tuned=False,
        )
