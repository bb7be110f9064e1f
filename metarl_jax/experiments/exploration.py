"""Presets: exploration in GridNavi (Zintgraf et al. 2020, arXiv 1910.08348, section 5.1).

The paper's results are figures. The reference is exact: the Bayes-optimal policy has a return of 37.214 in 4 episodes:
4.000 in the first, and 11.071 in each of the others, which is the optimal return for a known goal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment

# Chosen on tasks that no reported result uses.

# The settings of PPO were tuned with the exact belief. They differ from the published ones: more trials per iteration,
# larger step sizes, and an entropy bonus that is twenty times as large at the start and decays slowly. With a smaller
# bonus the policy never finds the last few cells, because it hardly ever visits them.
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
    # The published five latent variables cannot represent which of 21 cells are excluded.
    "latent_size": 16,
    "hidden_size": 64,
    "embedding_size": 40,
    "decoder": "observation",
    "decoder_units": 32,
    # The threshold is midway between the reward at the goal, 1, and that elsewhere, -0.1.
    "reward_threshold": 0.45,
    "policy_units": 128,
    "policy_layers": 1,
    "model_learning_rate": 2e-3,
    "model_trials": 32,
    "model_updates": 4,
    "buffer_trials": 8192,
}


# Presets by name: title, algorithm, network, settings.
PRESETS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "varibad": ("VariBAD", "varibad", "belief", _VARIBAD),
    "rl2": ("RL²", "rl2", "recurrent", {**_PPO, "hidden_size": 64, "previous_observation": True}),
    "belief-oracle": (
        "RL² with the exact belief",
        "rl2",
        "exact-belief",
        {**_PPO, "policy_units": 128},
    ),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
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
