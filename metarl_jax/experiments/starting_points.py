"""Starting settings for combinations of an algorithm and a family without tuned settings.

The defaults of each algorithm are those of its paper's first experiment, which may be of another kind. Those of RL²,
for example, are for bandits of ten pulls. The settings here were chosen on tasks that no reported result uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl_jax.experiments.registry import Algorithm, Family

# Trials have two episodes, as those of VariBAD on robots, which trained for 1e8 steps.
ON_POLICY: dict[str, Any] = {
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
VARIBAD: dict[str, Any] = {
    **ON_POLICY,
    "adaptation_episodes": 2,
    "model_trials": 8,
    "model_updates": 8,
    "model_learning_rate": 2e-3,
    "buffer_trials": 1024,
    "bound_steps": 50,
    "kl_weight": 0.1,
}
# Networks, batches and the number of gradient steps are smaller than published.
OFF_POLICY: dict[str, Any] = {
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
# Networks, batches and the number of gradient steps are smaller than those of Ni et al. (2022).
OFF_POLICY_TRIALS: dict[str, Any] = {
    "episodes": 2,
    "iterations": 330,
    "trials": 25,
    "initial_trials": 100,
    "gradient_steps": 40,
    "batch_trials": 16,
    "learning_rate": 1e-3,
    "reward_scale": 5.0,
    "hidden_size": 64,
    "head_units": 64,
}
# Settings of policies that adapt by policy gradients: those of Finn et al. (2017) on point navigation, with a smaller
# network.
POLICY_GRADIENT: dict[str, Any] = {
    "iterations": 200,
    "tasks": 20,
    "inner_rate": 0.1,
    "adaptation_steps": 3,
    "units": 64,
    "activation": "tanh",
}
_BY_INTERFACE = {
    "policy": ON_POLICY,
    "estimates": ON_POLICY,
    "off-policy": OFF_POLICY_TRIALS,
    "belief": VARIBAD,
    "context": OFF_POLICY,
}


def settings(algorithm: Algorithm, family: Family) -> Mapping[str, Any]:
    """Return starting settings. The caller leaves out those that the combination does not have."""
    if family.kind == "few-shot":
        return {"context_size": 5} if algorithm.name == "cavia" else {}
    if algorithm.interface == "gradient":
        clip = {"clip": 0.3} if algorithm.name == "promp" else {}
        return {**POLICY_GRADIENT, **clip}
    return _BY_INTERFACE.get(algorithm.interface, {})
