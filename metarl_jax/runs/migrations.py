"""Configurations that older versions stored, read as those of this version: one table.

Schema 1 (version 0.1) had one flat map of settings; zero meant "off" for some of them, and the trust region and the
exploration term were settings of one MAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {"size": "model_size"}
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
DEFAULT_IS_NONE = {"target_entropy": -1.0}
"""Defaults that are None now, which means the same where it had an effect."""
ADDED: dict[str, Any] = {"action_scale": 1.0}
"""Settings that did not exist, with the values that stand for what the code did."""
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
"""Settings that some algorithms and networks had without any effect."""
SINUSOIDS = ("sinusoid", "sinusoid-reptile")
"""Families on which inner steps on held-out tasks saw as many examples as in training."""
ADAM = {"maml_trpo": "maml", "multi_task_trpo": "multi_task"}
TRUST_REGION = {new: old for old, new in ADAM.items()}


def names(experiment: Any, settings: Mapping[str, Any]) -> dict[str, str]:
    """The algorithm and the network that settings of schema 1 stand for.

    Args:
        experiment: the preset as this version has it.
        settings: as stored.
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
    if algorithm == "maml_trpo" and settings.get("exploration_credit"):
        algorithm = "e_maml"
    if settings.get("architecture") == "mlp":
        network = "normalised-mlp"
    return {"algorithm": algorithm, "family": experiment.family, "network": network}


def settings(experiment: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of schema 1 as those of this version.

    Args:
        experiment: what the run is of, with the algorithm and the network that ``names`` returned.
        stored: the settings in the file.
    """
    fields = experiment.fields()
    found = {name: field.default for name, field in fields.items()}
    found |= {name: value for name, value in ADDED.items() if name in fields}
    for old, value in stored.items():
        # What a size was of is now in its name; families have a "size" of their own.
        name = RENAMED[old] if RENAMED.get(old) in fields else old
        if name in fields:
            off = value == 0 and not isinstance(value, bool) and name in ZERO_IS_NONE and fields[name].optional
            found[name] = None if off or DEFAULT_IS_NONE.get(name) == value else value
        elif name not in GONE:
            # It is named where the settings are checked.
            found[name] = value
    if experiment.family in SINUSOIDS and "heldout_batch_size" in fields:
        found["heldout_batch_size"] = found["batch_size"]
    return found
