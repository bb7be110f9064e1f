"""Presets: PEARL on point robots that search for a goal (Rakelly et al. 2019, arXiv 1903.08254, section 6.3).

Protocols follow the paper and its code. The paper's results are figures: with a sparse reward the learner finds the
goal within about five trajectories, after a million environment steps of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments.base import Experiment, experiment

# Networks, batches and the ratio of gradient steps to environment steps are smaller than published, so that a core
# trains a seed in minutes. The settings were chosen on tasks that no reported result uses.
_PEARL: dict[str, Any] = {
    "encoder_units": 64,
    "units": 64,
    "layers": 2,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "discount": 0.9,
    "automatic_temperature": True,
    "exploration_episodes": 1,
    "deterministic": False,
}
_DENSE = {
    **_PEARL,
    "iterations": 200,
    "tasks": 10,
    "prior_episodes": 3,
    "posterior_episodes": 3,
    "initial_episodes": 20,
    "gradient_steps": 200,
}
# Most episodes have no reward and are uninformative, so contexts are drawn from many episodes. From uninformative
# contexts the learner would only learn the policy that is best on average. A held-out task begins with few episodes;
# the consistency of beliefs trains for these. As in the published code there are 80 training tasks, which are all goals
# of the split, and five episodes of exploration. Training takes at most 1.5 million environment steps.
_SPARSE = {
    **_PEARL,
    "iterations": 300,
    "prior_episodes": 40,
    "posterior_episodes": 5,
    "initial_episodes": 45,
    "gradient_steps": 300,
    "context_size": 100,
    "latent_size": 2,
    "training_tasks": 80,
    "consistency_weight": 0.01,
    "exploration_episodes": 5,
    "adaptation_episodes": 8,
}


PRESETS = {
    "dense": ("with a dense reward", _DENSE),
    "sparse": ("with a sparse reward", _SPARSE),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, (title, settings) in PRESETS.items():
        yield experiment(
            name=f"pearl-point-robot-{name}",
            description=f"PEARL on point robots {title}: episodes of 20 steps",
            algorithm="pearl",
            family=f"point-robot-{name}",
            settings=settings,
            tuned=True,
        )
