"""Learners of trials, with settings to begin with on any family that shows real numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from metarl_jax.experiments.base import (
    RETURN_BY_EPISODE,
    RETURN_BY_STEP,
    REWARD_OF_TRIAL,
    ContextNetwork,
    Measure,
    Network,
    RecurrentNetwork,
    StepBeliefNetwork,
)


class TrialMethod(NamedTuple):
    """An algorithm with its network, what it reports, and settings."""

    title: str
    algorithm: str
    network: type[Network]
    settings: Mapping[str, Any]
    measure: Measure = RETURN_BY_STEP


# Chosen on tasks that no reported result uses. Trials of two episodes, as VariBAD's on robots; 1e8 steps there.
_ON_POLICY: dict[str, Any] = {
    "episodes": 2,
    "trials": 32,
    "epochs": 4,
    "minibatches": 4,
    "learning_rate": 1e-3,
    "discount": 0.97,
    "gae_lambda": 0.9,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "max_grad_norm": 0.5,
    "hidden_size": 128,
    "iterations": 400,
}
# Networks and batches are smaller than published, and so are gradient steps.
_OFF_POLICY: dict[str, Any] = {
    "iterations": 100,
    "training_tasks": 20,
    "tasks": 5,
    "prior_episodes": 2,
    "posterior_episodes": 3,
    "initial_episodes": 10,
    "replay_episodes": 200,
    "gradient_steps": 300,
    "meta_batch": 4,
    "batch_size": 256,
    "encoder_units": 64,
    "units": 128,
    "layers": 2,
    "learning_rate": 1e-3,
    "automatic_temperature": True,
    "exploration_episodes": 1,
    "adaptation_episodes": 3,
}

TRIAL_METHODS = {
    "rl2": TrialMethod("RL²", "rl2", RecurrentNetwork, _ON_POLICY, REWARD_OF_TRIAL),
    "varibad": TrialMethod(
        "VariBAD",
        "varibad",
        StepBeliefNetwork,
        {
            **_ON_POLICY,
            "adaptation_episodes": 2,
            "model_trials": 8,
            "model_updates": 8,
            "model_learning_rate": 2e-3,
            "buffer_trials": 1024,
            "bound_steps": 50,
            "kl_weight": 0.1,
        },
        REWARD_OF_TRIAL._replace(setting="adaptation_episodes"),
    ),
    "pearl": TrialMethod("PEARL", "pearl", ContextNetwork, _OFF_POLICY, RETURN_BY_EPISODE),
}
