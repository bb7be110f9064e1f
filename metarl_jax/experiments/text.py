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


# Chosen on validation tasks.
GRADIENT = {"units": 128, "tasks": 8, "adaptation_steps": 5, **FIVE}
KINDS = {
    "maml": Kind("MAML", "maml", "mlp", {"iterations": 1000, "inner_steps": 3, "inner_rate": 0.5, **GRADIENT}),
    "anil": Kind("ANIL", "anil", "mlp", {"iterations": 1000, "inner_steps": 3, "inner_rate": 0.5, **GRADIENT}),
    "reptile": Kind("Reptile", "reptile", "mlp", {"iterations": 1000, "inner_steps": 5, **GRADIENT}),
    "snail": Kind(
        "SNAIL",
        "in_context",
        "snail",
        {"iterations": 1000, "attentions": 2, "growing_attentions": False, "filters": 32, "tasks": 8, **FIVE},
    ),
    "meta-network": Kind(
        "the Meta Network", "in_context", "meta-network", {"iterations": 500, "hidden_size": 32, "tasks": 4, **ONE}
    ),
}
FAMILIES = {"text": "new topics", "text-domains": "known topics in new domains"}
ON_DOMAINS = ("maml", "reptile", "snail")


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for family, title in FAMILIES.items():
        for name, kind in KINDS.items():
            if family == "text" or name in ON_DOMAINS:
                yield experiment(
                    name=f"{name}-{family}",
                    description=f"{kind.title} on texts: {title}, {kind.settings['shots']} texts of each",
                    algorithm=kind.algorithm,
                    family=family,
                    network=kind.network,
                    settings=kind.settings,
                    tuned=True,
                )
