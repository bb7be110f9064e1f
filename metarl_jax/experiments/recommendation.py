"""Cold start: recommend to users of whom nothing is known, with a memory (RL²) and by inference (PEARL)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl_jax.experiments.base import (
    REWARD_OF_TRIAL,
    ContextNetwork,
    Experiment,
    Measure,
    Network,
    Problem,
    RecurrentNetwork,
)

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily

INTERACTIONS = 20
"""With a user."""


class _Preset(NamedTuple):
    description: str
    algorithm: str
    network: type[Network]
    settings: dict[str, Any]
    measure: Measure = REWARD_OF_TRIAL


# Chosen on catalogues that no reported result uses.
PRESETS = {
    "rl2": _Preset(
        "RL²",
        "rl2",
        RecurrentNetwork,
        {"episodes": INTERACTIONS, "iterations": 400, "trials": 256, "hidden_size": 128, "learning_rate": 2e-3},
    ),
    "pearl": _Preset(
        "PEARL",
        "pearl",
        ContextNetwork,
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
        REWARD_OF_TRIAL._replace(setting="adaptation_episodes", training_metric="posterior_return"),
    ),
}


def _users() -> EnvFamily:
    from metarl_jax.environments import recommendation

    return recommendation.made_up()


def _oracles(problem: Problem, episodes: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import known_task, recommendation

    family = problem.family
    makers = recommendation.popularity, recommendation.thompson, recommendation.similar_users, known_task.optimal
    return [make(family, episodes) for make in makers]


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, preset in PRESETS.items():
        yield Experiment(
            name=f"{name}-cold-start",
            description=f"{preset.description} for new users: {INTERACTIONS} recommendations of 50 items",
            algorithm=preset.algorithm,
            family=_users,
            network=preset.network,
            measure=preset.measure,
            settings=preset.settings,
            oracles=_oracles,
        )
