"""Presets: exploration in GridNavi (Zintgraf et al. 2020, arXiv 1910.08348, section 5.1).

The paper's results there are figures. What to compare with is exact: Bayes-optimal play collects 37.214 in 4 episodes,
4.000 in the first, and in each of the others 11.071, which is what a known goal is worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment

# Chosen on tasks that no reported result uses.

# PPO's, tuned with the exact belief. Unlike the published: more trials at a time, larger steps, and a bonus for entropy
# that is twenty times as large at the start and slowly withdrawn. With a smaller one the last few cells are never
# found: who hardly ever goes there learns nothing about it.
_PPO: dict[str, Any] = {
    "episodes": 4,
    "trials": 64,
    "epochs": 4,
    "discount": 0.97,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.2,
    "entropy_decay": 0.9,
    "iterations": 6000,
}
_VARIBAD = {
    **_PPO,
    # Which of 21 cells are out is more than the published five numbers can say.
    "latent_size": 16,
    "hidden_size": 64,
    "embedding_size": 40,
    "decoder": "observation",
    "decoder_units": 32,
    # Between the rewards of a step that finds the goal and of one that does not: 1 and -0.1.
    "reward_threshold": 0.45,
    "policy_units": 128,
    "policy_layers": 1,
    "model_learning_rate": 2e-3,
    "model_trials": 32,
    "model_updates": 4,
    "buffer_trials": 8192,
}


# By name: title, algorithm, network, settings.
PRESETS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "varibad": ("VariBAD", "varibad", "belief", _VARIBAD),
    "rl2": ("RL²", "rl2", "recurrent", {**_PPO, "hidden_size": 64, "previous_observation": True}),
    "belief-oracle": (
        "A policy that is given the exact belief",
        "rl2",
        "exact-belief",
        {**_PPO, "policy_units": 128},
    ),
}


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, (title, algorithm, network, settings) in PRESETS.items():
        yield experiment(
            name=f"{name}-gridnavi",
            description=f"{title} on GridNavi: 4 episodes of 15 steps",
            algorithm=algorithm,
            family="gridnavi",
            network=network,
            settings=settings,
            tuned=True,
            # ``oracles.gridnavi.best_walk(5, 15, 4)``
            optimum=37.214286,
        )
