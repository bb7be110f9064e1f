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


# These settings are the best of a few on validation tasks; one or two were tried for each learner.
GRADIENT = {"iterations": 300, "units": 64, "layers": 1, "tasks": 8, "adaptation_steps": 5, **FIVE}
MAML = {"inner_steps": 3, "learning_rate": 3e-3, **GRADIENT}
REPTILE = {**GRADIENT, "iterations": 400, "inner_rate": 3e-3, "inner_steps": 10, "adaptation_steps": 20, "shots": 10}
# Texts of one label are hardly more similar than others. With keys of the default size, the first attention weights all
# examples nearly equally, and training does not begin. The logarithms of the first weights grow with the root of the
# size of keys.
SNAIL: dict[str, Any] = {
    "iterations": 1500,
    "attentions": 1,
    "key_size": 512,
    "embedding_size": 128,
    "learning_rate": 1e-3,
    "tasks": 32,
    **FIVE,
}
META_NETWORK = {"iterations": 300, "hidden_size": 32, "learning_rate": 3e-3, "tasks": 8, **ONE}
KINDS = {
    "maml": Kind("MAML", "maml", "mlp", {"inner_rate": 0.3, **MAML}),
    "anil": Kind("ANIL", "anil", "mlp", {"inner_rate": 0.3, **MAML}),
    "reptile": Kind("Reptile", "reptile", "mlp", REPTILE),
    # One attention over the examples, without convolutions: their order has no information.
    "snail": Kind("SNAIL", "in_context", "snail", SNAIL),
    "meta-network": Kind("the Meta Network", "in_context", "meta-network", META_NETWORK),
}
FAMILIES = {"text": "new topics", "text-domains": "known topics in new domains"}
ON_DOMAINS = ("maml", "reptile", "snail")
# All tasks have the same labels, so that little training is enough.
SHORTER = {"maml": {"iterations": 150}, "snail": {"iterations": 300}}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for family, title in FAMILIES.items():
        for name, kind in KINDS.items():
            if family == "text" or name in ON_DOMAINS:
                shots = kind.settings["heldout_shots"]
                yield experiment(
                    name=f"{name}-{family}",
                    description=f"{kind.title} on texts: {title}, {shots} example{'s' * (shots > 1)} of each",
                    algorithm=kind.algorithm,
                    family=family,
                    network=kind.network,
                    settings=kind.settings if family == "text" else {**kind.settings, **SHORTER.get(name, {})},
                )
