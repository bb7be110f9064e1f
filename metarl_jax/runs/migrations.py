"""Convert configurations, and names in evaluations, that older versions stored.

Schema 1 (version 0.1) had one flat map of settings. In it, zero meant "off" for some settings, and the trust region and
the exploration term were settings of one MAML algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {"size": "model_size"}
"""New names of settings by their old names."""
ZERO_IS_NONE = {
    "embedding_size",
    "readout_size",
    "max_inner_norm",
    "batch_size",
    "heldout_batch_size",
    "bound_steps",
    "context_size",
    "clip",
}
"""Settings for which zero meant "off"; this version has None."""
DEFAULT_IS_NONE = {"target_entropy": -1.0}
"""Old default values that this version replaces by None. None has the same effect wherever the setting has one."""
ADDED: dict[str, Any] = {
    "action_scale": 1.0,
    "posterior_context_episodes": 0,
    "context_unit": "step",
    "consistency_weight": None,
    "deterministic": False,
    "observe_task": False,
}
"""Settings that did not exist in schema 1, with the values that give the behaviour of version 0.1."""
GONE = {
    "outer_update",
    "exploration_credit",
    "first_order",
    "rematerialise",
    "learning_rate",
    "final_learning_rate_fraction",
    "epochs",
    "max_divergence",
    "conjugate_gradients",
    "metric_share",
    "damping",
    "architecture",
    "filters",
    "blocks",
    "features",
    "context_size",
}
"""Settings that had no effect on some algorithms and networks, and that these do not have any more."""
SINUSOIDS = ("sinusoid", "sinusoid-reptile")
"""Families whose inner steps on held-out tasks used the batch size of training."""
ADAM = {"maml_trpo": "maml", "multi_task_trpo": "multi_task"}
"""The names of algorithms with Adam, by the names of the same algorithms with a trust region."""
TRUST_REGION = {new: old for old, new in ADAM.items()}
"""The names of algorithms with a trust region, by the names of the same algorithms with Adam."""

LEARNERS = {
    "greedy_posterior_mean": "greedy on posterior means",
    "epsilon_greedy": "ε-greedy",
    "ucb1": "UCB1",
    "thompson_sampling": "Thompson sampling",
    "optimistic_thompson_sampling": "optimistic Thompson sampling",
    "best_arm": "best arm, task known",
    "gittins": "Gittins index",
    "psrl": "PSRL",
    "opsrl": "OPSRL",
    "ucrl2": "UCRL2",
    "beb": "BEB",
    "state_gittins": "Gittins index of each state",
    "optimal": "best play, task known",
}
"""The names of reference learners by the names that evaluations of version 0.1 have."""


def rename_learners(evaluation: dict[str, Any]) -> None:
    """Replace the names that version 0.1 gave to reference learners in an evaluation."""
    for oracle in evaluation["oracles"]:
        oracle["name"] = LEARNERS.get(oracle["name"], oracle["name"])
    for gain in evaluation["gains"]:
        gain["over"] = LEARNERS.get(gain["over"], gain["over"])


def names(experiment: Any, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the algorithm, the family and the network that correspond to settings of schema 1.

    Args:
        experiment: the preset of this version.
        settings: the stored settings.

    Raises:
        ValueError: if this version does not have the combination.
    """
    algorithm: str = experiment.algorithm
    network: str = experiment.network
    match settings.get("outer_update"):
        case "adam":
            algorithm = ADAM.get(algorithm, algorithm)
        case "trust_region":
            algorithm = TRUST_REGION.get(algorithm, algorithm)
        case _:
            pass
    credit = settings.get("exploration_credit")
    if algorithm in ("maml_trpo", "e_maml"):
        algorithm = "e_maml" if credit else "maml_trpo"
    elif credit:
        raise ValueError(f"this version has no {algorithm} with exploration_credit {credit!r}")
    if settings.get("outer_update") == "trust_region" and algorithm not in ("e_maml", *ADAM):
        raise ValueError(f"this version has no {algorithm} with outer_update 'trust_region'")
    if settings.get("architecture") == "mlp":
        network = "normalised-mlp"
    return {"algorithm": algorithm, "family": experiment.family, "network": network}


def settings(experiment: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings of schema 1 to settings of this version.

    Args:
        experiment: the experiment of the run, with the algorithm and the network that ``names`` returned.
        stored: the settings in the file.
    """
    fields = experiment.fields()
    found = {name: field.default for name, field in fields.items()}
    found |= {name: value for name, value in ADDED.items() if name in fields}
    for old, value in stored.items():
        # The size of a memory has a longer name now. The setting "size" of a family keeps its name.
        name = RENAMED[old] if RENAMED.get(old) in fields else old
        if name in fields:
            off = value == 0 and not isinstance(value, bool) and name in ZERO_IS_NONE and fields[name].optional
            found[name] = None if off or DEFAULT_IS_NONE.get(name) == value else value
        elif name not in GONE:
            # The check of the settings reports unknown names.
            found[name] = value
    if experiment.family in SINUSOIDS and "heldout_batch_size" in fields:
        found["heldout_batch_size"] = found["batch_size"]
    return found
