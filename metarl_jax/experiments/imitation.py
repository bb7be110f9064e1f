"""Presets: Algorithm Distillation in a dark room, and the Decision-Pretrained Transformer on Gaussian bandits.

The memories and the sizes are not those of the papers, which use transformers on accelerators. The memories were chosen
after a few short runs, by the loss on training tasks and by the regret on validation tasks; other settings were not
tuned.
"""

from __future__ import annotations

from collections.abc import Iterator

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    yield experiment(
        name="algorithm-distillation-dark-room",
        description=f"Algorithm Distillation on {registry.family('dark-room-new-goals').title}",
        algorithm="algorithm_distillation",
        family="dark-room-new-goals",
        network="fast-weights",
        settings={"episodes": 25, "trials": 32, "learning_rate": 2e-3, "iterations": 1500, "key_size": 48},
        tuned=False,
    )
    yield experiment(
        name="decision-pretrained-gaussian-bandit-500x5",
        description="the Decision-Pretrained Transformer on Gaussian bandits (noise 0.3): 500 pulls, 5 arms",
        algorithm="decision_pretrained",
        family="gaussian-bandit",
        network="estimates",
        settings={"episodes": 500, "trials": 64, "learning_rate": 3e-3, "iterations": 10_000, "units": 128},
        tuned=False,
    )
