"""Presets: RL² on XLand-MiniGrid (Nikulin et al. 2023, arXiv 2312.12044); its tasks are the rulesets of a benchmark.

The paper's results are for at least a billion steps on GPUs, and none is comparable to those of these presets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment

# The sizes of the memory and of the layers between memory and heads are as in ``benchmarks/xland_speed.py``. All other
# settings were chosen on rulesets that no reported result uses.
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
    """Yield every preset of this file."""
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
