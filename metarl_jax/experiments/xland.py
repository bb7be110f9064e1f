"""RL² on XLand-MiniGrid (Nikulin et al. 2023, arXiv 2312.12044): tasks are the rulesets of a benchmark.

The paper's figures are of a billion steps and more on GPUs, and none is beside these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from metarl_jax.experiments.base import Experiment, Problem

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily

ENVIRONMENT = "XLand-MiniGrid-R1-9x9"
HORIZON = 64
"""Steps of an episode: four of them are a trial of 256."""

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


def _made_up() -> EnvFamily:
    from metarl_jax.environments import xland

    return xland.make(xland.made_up(), ENVIRONMENT, horizon=HORIZON)


def _downloaded(name: str) -> Callable[[], EnvFamily]:
    def family() -> EnvFamily:
        from metarl_jax.environments import xland

        return xland.make(xland.load(name), ENVIRONMENT, horizon=HORIZON)

    return family


BENCHMARKS: dict[str, tuple[str, Callable[[], EnvFamily]]] = {
    "made-up": ("made-up rulesets: which of three objects counts, and what to do with it", _made_up),
    "trivial-21k": ("the rulesets of trivial-21k, which xminigrid downloads", _downloaded("trivial-21k")),
}


def _oracles(problem: Problem, episodes: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import at_random

    return [at_random.uniform(problem.family, episodes)]


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, (description, family) in BENCHMARKS.items():
        yield Experiment(
            name=f"rl2-xland-{name}",
            description=f"RL² on XLand-MiniGrid, {description}",
            algorithm="rl2",
            family=family,
            heldout_tasks=1000,
            validation_tasks=128,
            heldout_batch=250,
            settings=SETTINGS,
            oracles=_oracles,
        )
