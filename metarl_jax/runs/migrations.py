"""Read configurations that older versions stored: one table.

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
"""Defaults that are None now; None means the same wherever the setting has an effect."""
ADDED: dict[str, Any] = {"action_scale": 1.0}
"""Settings that did not exist, with the values that give the behaviour of that version."""
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
"""Families whose inner steps on held-out tasks used the batch size of training."""
ADAM = {"maml_trpo": "maml", "multi_task_trpo": "multi_task"}
TRUST_REGION = {new: old for old, new in ADAM.items()}


def names(experiment: Any, settings: Mapping[str, Any]) -> dict[str, str]:
    """The algorithm and the network that settings of schema 1 stand for.

    Args:
        experiment: the preset as this version has it.
        settings: as stored.

    Raises:
        ValueError: for a combination that this version does not have.
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
    """Settings of schema 1 as those of this version.

    Args:
        experiment: the run's experiment, with the algorithm and the network that ``names`` returned.
        stored: the settings in the file.
    """
    fields = experiment.fields()
    found = {name: field.default for name, field in fields.items()}
    found |= {name: value for name, value in ADDED.items() if name in fields}
    for old, value in stored.items():
        # Sizes of memories have longer names now; a "size" among the settings of a family is another one.
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
