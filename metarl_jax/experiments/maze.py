"""Presets: RL² in mazes with first-person images (Duan et al. 2016, arXiv 1611.02779, section 3.3).

The published results are numbers of steps to the target, which ``benchmarks/maze_navigation.py`` measures, not rewards
of a trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment

# Two episodes in a trial, and the discount, are as published. A batch has 32,000 steps in small mazes (50,000 as
# published). Memory and embedding have 128 units (256 as published), so that one core trains them in half an hour. All
# other settings were chosen for this package, on mazes that no reported result uses.
SMALL_SETTINGS: dict[str, Any] = {
    "episodes": 2,
    "iterations": 600,
    "trials": 64,
    "epochs": 3,
    "minibatches": 8,
    "hidden_size": 128,
    "embedding_size": 128,
    "learning_rate": 1e-3,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "value_unit": "reward",
}
MAZE_SETTINGS: dict[str, dict[str, Any]] = {
    # Training uses four episodes, because only episodes after the first reward memory. Evaluations report two of them.
    "tiny": {**SMALL_SETTINGS, "episodes": 4, "iterations": 1000},
    "small": SMALL_SETTINGS,
    "large": {**SMALL_SETTINGS, "trials": 32, "minibatches": 16},
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for size, settings in MAZE_SETTINGS.items():
        yield experiment(
            name=f"rl2-maze-{size}",
            description=f"RL² on {size} mazes with first-person views of 40x30 pixels",
            algorithm="rl2",
            family=f"maze-{size}",
            settings=settings,
            tuned=True,
        )
