"""Presets: few-shot classification of texts by MAML, ANIL, Reptile, SNAIL and the Meta Network.

Topics of held-out tasks are new (the family text), or are those of training tasks in new domains (text-domains).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from metarl_jax.experiments.base import Experiment, experiment

FIVE = {"ways": 5, "shots": 5, "heldout_shots": 5}
ONE = {"ways": 5, "shots": 1, "heldout_shots": 1}


class Kind(NamedTuple):
    """A learner with its settings."""

    title: str
    algorithm: str
    network: str
    settings: dict[str, Any]


# The settings of MAML and ANIL are a first choice on validation tasks, and the others are guesses.
GRADIENT = {"iterations": 300, "units": 64, "layers": 1, "tasks": 8, "adaptation_steps": 5, **FIVE}
MAML = {"inner_steps": 3, "learning_rate": 3e-3, **GRADIENT}
SNAIL = {"iterations": 5000, "attentions": 1, "key_size": 64, "learning_rate": 1e-3, "tasks": 32, **FIVE}
META_NETWORK = {"iterations": 300, "hidden_size": 32, "learning_rate": 3e-3, "tasks": 8, **ONE}
KINDS = {
    "maml": Kind("MAML", "maml", "mlp", {"inner_rate": 0.3, **MAML}),
    "anil": Kind("ANIL", "anil", "mlp", {"inner_rate": 0.3, **MAML}),
    "reptile": Kind("Reptile", "reptile", "mlp", {"inner_steps": 5, **GRADIENT}),
    # One attention over the examples, without convolutions: their order has no information.
    "snail": Kind("SNAIL", "in_context", "snail", SNAIL),
    "meta-network": Kind("the Meta Network", "in_context", "meta-network", META_NETWORK),
}
FAMILIES = {"text": "new topics", "text-domains": "known topics in new domains"}
ON_DOMAINS = ("maml", "reptile", "snail")


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for family, title in FAMILIES.items():
        for name, kind in KINDS.items():
            if family == "text" or name in ON_DOMAINS:
                shots = kind.settings["shots"]
                yield experiment(
                    name=f"{name}-{family}",
                    description=f"{kind.title} on texts: {title}, {shots} example{'s' * (shots > 1)} of each",
                    algorithm=kind.algorithm,
                    family=family,
                    network=kind.network,
                    settings=kind.settings,
                )
