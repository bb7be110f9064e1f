"""Presets: portfolios in markets with unknown drift, volatility and autocorrelation, by RL², VariBAD and ProMP.

RL² and VariBAD are trained with the expected rewards of their actions, given the market, because observed rewards are
mostly noise (``EnvFamily.privileged``). Their policies observe the rewards of the environment, and these are reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment

EPISODES = 3
"""The number of episodes of a trial."""

# No other settings were tried. Actions do not change later returns, so the discount is small.
_PPO: dict[str, Any] = {
    "episodes": EPISODES,
    "iterations": 150,
    "trials": 128,
    "epochs": 4,
    "learning_rate": 2e-3,
    "discount": 0.5,
    "gae_lambda": 0.5,
    "entropy_coefficient": 0.01,
    "value_coefficient": 500.0,
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
            "model_trials": 32,
            "model_updates": 4,
            "model_learning_rate": 2e-3,
            "buffer_trials": 4096,
            "bound_steps": 10,
            "policy_units": 64,
        },
    ),
    "promp": (
        "ProMP",
        "promp",
        {
            "iterations": 200,
            "tasks": 20,
            "episodes": 20,
            "clip": 0.3,
            "inner_steps": 1,
            "inner_rate": 0.1,
            "adaptation_steps": 2,
            "units": 32,
            "discount": 0.5,
        },
    ),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, (title, algorithm, settings) in PRESETS.items():
        yield experiment(
            name=f"{name}-markets",
            description=f"{title} on portfolios in unknown markets: {EPISODES} episodes of 20 steps",
            algorithm=algorithm,
            family="markets",
            settings=settings,
            tuned=False,
        )
