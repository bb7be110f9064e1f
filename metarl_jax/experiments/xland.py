"""Presets: RL² on XLand-MiniGrid (Nikulin et al. 2023, arXiv 2312.12044); tasks are the rulesets of a benchmark.

The paper's figures are of a billion steps and more on GPUs, and none is comparable to these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment

# The size of the memory and what stands between it and the heads as in ``benchmarks/xland_speed.py``; the rest chosen
# on rulesets that no reported result uses.
SETTINGS: dict[str, Any] = {
    "episodes": 4,
    "iterations": 400,
    "trials": 64,
    "epochs": 2,
    "minibatches": 4,
    "hidden_size": 128,
    "embedding_size": 64,
    "readout_size": 64,
    "learning_rate": 1e-3,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "value_unit": "reward",
}


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name in ("made-up", "trivial-21k"):
        family = f"xland-{name}"
        yield experiment(
            name=f"rl2-{family}",
            description=f"RL² on {registry.family(family).title}",
            algorithm="rl2",
            family=family,
            settings=SETTINGS,
            tuned=True,
        )
