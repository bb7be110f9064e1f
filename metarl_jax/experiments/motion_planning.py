"""Presets: motion planning on hidden maps, by RL², VariBAD and MAML-TRPO.

RL² and VariBAD are trained with progress on shortest paths (``EnvFamily.privileged``). Their policies observe the
rewards of the environment, and these are reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment

EPISODES = 3
"""The number of episodes of a trial."""

# No other settings were tried.
_PPO: dict[str, Any] = {
    "episodes": EPISODES,
    "iterations": 150,
    "trials": 128,
    "epochs": 3,
    "minibatches": 4,
    "learning_rate": 2e-3,
    "discount": 0.97,
    "gae_lambda": 0.9,
    "entropy_coefficient": 0.01,
    "value_unit": "reward",
    "value_coefficient": 0.5,
    "max_grad_norm": 0.5,
    "training_reward": "task",
    "deterministic": True,
}
PRESETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "rl2": ("RL²", "rl2", {**_PPO, "hidden_size": 64}),
    "varibad": (
        "VariBAD",
        "varibad",
        {
            **_PPO,
            "adaptation_episodes": EPISODES,
            "hidden_size": 64,
            "decode_transitions": True,
            "latent_size": 8,
            "model_trials": 16,
            "model_updates": 4,
            "model_learning_rate": 2e-3,
            "buffer_trials": 4096,
            "bound_steps": 10,
        },
    ),
    "maml": (
        "MAML-TRPO",
        "maml_trpo",
        {
            "iterations": 150,
            "tasks": 20,
            "episodes": 10,
            "inner_steps": 1,
            "inner_rate": 0.1,
            "adaptation_steps": 2,
            "units": 64,
            "activation": "tanh",
        },
    ),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, (title, algorithm, settings) in PRESETS.items():
        yield experiment(
            name=f"{name}-motion-planning",
            description=f"{title} on motion planning with hidden maps: {EPISODES} episodes of at most 30 steps",
            algorithm=algorithm,
            family="motion-planning",
            settings=settings,
            tuned=False,
        )
