"""Presets: cold-start recommendation to users without a history, by RL² and by PEARL."""

from __future__ import annotations

from collections.abc import Iterator

from metarl_jax.experiments.base import Experiment, experiment
from metarl_jax.experiments.registry import REWARD_OF_TRIAL, REWARD_OF_TRIAL_BY_ADAPTATION

INTERACTIONS = 20
"""The number of interactions with a user."""

# Chosen on catalogues that no reported result uses.
PRESETS = {
    "rl2": (
        "RL²",
        "rl2",
        {"episodes": INTERACTIONS, "iterations": 400, "trials": 256, "hidden_size": 128, "learning_rate": 2e-3},
    ),
    "pearl": (
        "PEARL",
        "pearl",
        {
            "iterations": 200,
            "training_tasks": 500,
            "tasks": 50,
            "prior_episodes": INTERACTIONS,
            "posterior_episodes": INTERACTIONS,
            "initial_episodes": INTERACTIONS,
            "gradient_steps": 100,
            "batch_size": 32,
            "encoder_units": 64,
            "units": 64,
            "layers": 2,
            "learning_rate": 1e-3,
            "automatic_temperature": True,
            "target_entropy": -0.1,
            "adaptation_episodes": INTERACTIONS,
            "exploration_episodes": 1,
            "deterministic": False,
        },
    ),
}
MEASURES = {
    "rl2": REWARD_OF_TRIAL,
    "pearl": REWARD_OF_TRIAL_BY_ADAPTATION._replace(training_metric="posterior_return"),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, (title, algorithm, settings) in PRESETS.items():
        yield experiment(
            name=f"{name}-cold-start",
            description=f"{title} on recommendations to new users: {INTERACTIONS} recommendations from 50 items",
            algorithm=algorithm,
            family="cold-start",
            measure=MEASURES[name],
            settings=settings,
            tuned=True,
        )
