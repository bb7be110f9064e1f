"""Presets: RL² on families of tasks from other suites of environments in JAX, Navix and Craftax-Classic.

No result of RL² on these families was published. The settings of Navix follow those of GridNavi and short runs that
were scored on validation tasks. Those of Craftax-Classic were not tuned, and RL² does not reach the return of a policy
without a memory there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment

_BOTH: dict[str, Any] = {
    "episodes": 3,
    "trials": 64,
    "epochs": 4,
    "minibatches": 4,
    "hidden_size": 64,
    "embedding_size": 64,
    "learning_rate": 2e-3,
    "discount": 0.98,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "value_unit": "reward",
}
SETTINGS: dict[str, dict[str, Any]] = {
    # A large entropy bonus keeps the policy from the same search in every episode.
    "navix": {
        **_BOTH,
        "previous_observation": True,
        "discount": 0.97,
        "entropy_coefficient": 0.1,
        "entropy_decay": 0.8,
        "iterations": 400,
    },
    "craftax-classic": {**_BOTH, "iterations": 120},
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for family, settings in SETTINGS.items():
        yield experiment(
            name=f"rl2-{family}",
            description=f"RL² on {registry.family(family).title}",
            algorithm="rl2",
            family=family,
            settings=settings,
            tuned=False,
        )
