"""Presets: adaptive control of linear-quadratic plants, by RL², PEARL and MAML.

RL² and PEARL are trained on the regrets of inputs, which a simulator knows (``EnvFamily.privileged``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from metarl_jax.experiments.base import Experiment, experiment
from metarl_jax.experiments.registry import REWARD_OF_TRIAL_BY_ADAPTATION, Measure
from metarl_jax.experiments.starting_points import OFF_POLICY, ON_POLICY, POLICY_GRADIENT

EPISODES = 3
"""The number of episodes on a plant."""


class Preset(NamedTuple):
    """The settings of a learner."""

    title: str
    algorithm: str
    settings: dict[str, Any]
    network: str | None = None
    measure: Measure | None = None
    tuned: bool = False


PRESETS = {
    # A controller is a gain that depends on the plant. A memory that generates the weights of the policy represents it
    # more easily than a memory that is an input of the policy.
    "rl2": Preset(
        "RL²",
        "rl2",
        {
            **ON_POLICY,
            "episodes": EPISODES,
            "trials": 128,
            "hidden_size": 64,
            "policy_units": 16,
            "policy_layers": 1,
            "previous_observation": True,
            "iterations": 400,
            "learning_rate": 2e-3,
            "discount": 0.9,
            "entropy_coefficient": 0.0,
            "training_reward": "task",
            "deterministic": True,
        },
        "hypernetwork",
        tuned=True,
    ),
    "pearl": Preset(
        "PEARL",
        "pearl",
        {
            **OFF_POLICY,
            "iterations": 40,
            "training_tasks": 100,
            "tasks": 10,
            "posterior_episodes": 2,
            "initial_episodes": 3,
            "gradient_steps": 200,
            "meta_batch": 8,
            "batch_size": 64,
            "units": 64,
            "discount": 0.9,
            "next_observation": True,
            "adaptation_episodes": EPISODES,
        },
        measure=REWARD_OF_TRIAL_BY_ADAPTATION._replace(training_metric="posterior_return"),
    ),
    "maml": Preset("MAML-TRPO", "maml_trpo", {**POLICY_GRADIENT, "iterations": 150}),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, preset in PRESETS.items():
        yield experiment(
            name=f"{name}-linear-quadratic",
            description=f"{preset.title} on adaptive control of linear plants with unknown dynamics",
            algorithm=preset.algorithm,
            family="linear-quadratic",
            network=preset.network,
            settings=preset.settings,
            measure=preset.measure,
            tuned=preset.tuned,
        )
