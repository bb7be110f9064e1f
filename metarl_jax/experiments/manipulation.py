"""Meta-World's ML1: an arm meets a goal that it has not met before and does not see.

What counts is the success rate: the share of episodes in which some step is a success, on held-out goals. Episodes last
150 steps, as in Yu et al. (2019); Meta-World's own limit, since then, is 500. Yu et al. (2019) show results on ML1 as
curves of version 1 of its scenes, which none of ours is beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.experiments.methods import TRIAL_METHODS

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily

HORIZON = 150


# What methods have of their own here, besides the settings of ``experiments.methods``: not tuned. A step pays up to 10,
# which PEARL's published scale of 5 would make 50.
OWN_SETTINGS: dict[str, dict[str, Any]] = {
    "rl2": {},
    "varibad": {},
    "pearl": {"training_tasks": 50, "initial_episodes": 4, "replay_episodes": 100, "reward_scale": 0.5},
}
SKILLS = {
    "reach": "brings its fingertips to a goal in the air",
    "push": "pushes a puck to a goal on the table",
    "pick-place": "picks a puck up and brings it to a goal in the air",
}


def _family(skill: Any) -> Callable[[], EnvFamily]:
    def family() -> EnvFamily:
        from metarl_jax.environments import manipulation

        return manipulation.ml1(skill, horizon=HORIZON)

    return family


def _oracles(problem: Problem, stages: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import at_random

    return [at_random.uniform(problem.family, stages)]


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for skill, what in SKILLS.items():
        for name, settings in OWN_SETTINGS.items():
            method = TRIAL_METHODS[name]
            yield Experiment(
                name=f"{name}-ml1-{skill}",
                description=f"{method.title} on an arm that {what}",
                algorithm=method.algorithm,
                family=_family(skill),
                network=method.network,
                settings={**method.settings, **settings},
                measure=method.measure,
                heldout_tasks=200,
                heldout_tasks_in_training=20,
                heldout_batch=100,
                oracles=_oracles,
            )
