"""Presets: bandits, users and grids that change within a trial, by RL² and VariBAD.

Learners by gradient descent and PEARL do not apply: they adapt to earlier episodes, and a task is over after one
episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment

_RL2: dict[str, Any] = {
    "episodes": 1,
    "iterations": 700,
    "trials": 256,
    "hidden_size": 64,
    "learning_rate": 2e-3,
    "entropy_decay": 0.75,
    "training_reward": "task",
    # On validation tasks, switching arms gave 0.25 more than with samples.
    "deterministic": True,
}
# Rewards of items are larger than those of arms that pay 0 or 1, and so is the loss of the critic.
_INTERESTS: dict[str, Any] = {
    "iterations": 500,
    "value_coefficient": 2.0,
    "trials": 128,
    "learning_rate": 3e-3,
    # With a third of this bonus, scores did not improve after a third of training.
    "entropy_coefficient": 0.15,
}
_VARIBAD: dict[str, Any] = {
    **_RL2,
    "iterations": 250,
    "adaptation_episodes": 1,
    "model_trials": 16,
    "model_updates": 2,
    "model_learning_rate": 2e-3,
    "buffer_trials": 1024,
    "bound_steps": 20,
    "kl_weight": 0.1,
    "policy_units": 64,
}
_MOVING_GOAL: dict[str, Any] = {
    "episodes": 1,
    "iterations": 400,
    "trials": 128,
    "hidden_size": 64,
    "learning_rate": 2e-3,
    "discount": 0.97,
    "gae_lambda": 0.9,
    "entropy_coefficient": 0.02,
}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "switching-bandit": {"rl2": _RL2, "varibad": _VARIBAD},
    "drifting-interests": {
        "rl2": _RL2 | _INTERESTS | {"embedding_size": 128},
        "varibad": _VARIBAD | _INTERESTS | {"iterations": 250},
    },
    "moving-goal": {"rl2": _MOVING_GOAL},
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for family, learners in PRESETS.items():
        for algorithm, settings in learners.items():
            yield experiment(
                name=f"{algorithm}-{family}",
                description=f"{registry.algorithm(algorithm).title} on {registry.family(family).title}",
                algorithm=algorithm,
                family=family,
                settings=settings,
                # The settings of the others are similar, and were not tried.
                tuned=(algorithm, family) == ("rl2", "drifting-interests"),
            )
