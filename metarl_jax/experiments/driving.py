"""Presets: driving among unknown drivers on roads of unknown grip, by RL², VariBAD and ProMP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment

EPISODES = 2
"""The number of episodes of a trial."""

# The values of states differ by several units, because collisions are expensive. The loss of the critic, which shares
# layers with the policy, therefore has a small weight. One seed was trained with a weight of 0.5 before, on easier
# roads. Other settings were not compared.
_PPO: dict[str, Any] = {
    "episodes": EPISODES,
    "iterations": 400,
    "trials": 128,
    "epochs": 3,
    "minibatches": 4,
    "learning_rate": 2e-3,
    "discount": 0.95,
    "gae_lambda": 0.9,
    "entropy_coefficient": 0.01,
    "value_unit": "reward",
    "value_coefficient": 0.05,
    "max_grad_norm": 0.5,
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
    "promp": (
        "ProMP",
        "promp",
        {
            "iterations": 200,
            "tasks": 20,
            "episodes": 10,
            "clip": 0.3,
            "inner_steps": 1,
            "inner_rate": 0.1,
            "adaptation_steps": 1,
            "units": 64,
            "discount": 0.95,
        },
    ),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, (title, algorithm, settings) in PRESETS.items():
        yield experiment(
            name=f"{name}-driving",
            description=f"{title} on driving among unknown drivers: {EPISODES} episodes of at most 40 steps",
            algorithm=algorithm,
            family="driving",
            settings=settings,
            tuned=False,
        )
