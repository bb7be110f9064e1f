"""Presets: diagnosis by sequential tests in new clinics, by RL², by VariBAD and by ProMP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment

PATIENTS = 20
"""The number of patients of a clinic."""

_ON_POLICY: dict[str, Any] = {
    "trials": 128,
    "epochs": 3,
    "minibatches": 4,
    "learning_rate": 3e-3,
    "discount": 0.95,
    "gae_lambda": 0.7,
    # With a fifth of this bonus, two of three policies became deterministic before they used their memory.
    "entropy_coefficient": 0.05,
    "entropy_decay": 0.75,
    "value_unit": "reward",
    "value_coefficient": 0.5,
    "training_reward": "task",
}
# Patients of a clinic are exchangeable, and so is a permutation-invariant memory. It learned faster than a GRU.
NETWORKS = {"rl2": "set-aggregation"}
PRESETS: dict[str, dict[str, Any]] = {
    "rl2": {
        **_ON_POLICY,
        "episodes": PATIENTS,
        "iterations": 700,
        "embedding_size": 128,
        "readout_size": 128,
        "deterministic": True,
    },
    "varibad": {
        **_ON_POLICY,
        "episodes": PATIENTS,
        "adaptation_episodes": PATIENTS,
        "hidden_size": 64,
        "iterations": 200,
        "latent_size": 8,
        "model_trials": 16,
        "model_updates": 4,
        "model_learning_rate": 2e-3,
        "buffer_trials": 1024,
        "bound_steps": 20,
    },
    "promp": {"iterations": 200, "tasks": 20, "inner_rate": 0.1, "adaptation_steps": 1},
}

TUNED = {"rl2"}
"""The algorithms of which several settings were compared, by rewards in training with one seed. The settings of the
other algorithms are starting points."""


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for algorithm, settings in PRESETS.items():
        entry = registry.algorithm(algorithm)
        yield experiment(
            name=f"{algorithm}-diagnosis",
            description=f"{entry.title} on diagnosis by sequential tests: {PATIENTS} patients of a new clinic",
            algorithm=algorithm,
            family="diagnosis",
            network=NETWORKS.get(algorithm),
            settings=settings,
            tuned=algorithm in TUNED,
        )
