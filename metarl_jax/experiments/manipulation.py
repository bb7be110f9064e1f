"""Meta-World's ML1: an arm meets a goal that it has not met before and does not see.

What counts is the success rate: the share of episodes in which some step is a success, on held-out goals. Episodes last
150 steps, as in Yu et al. (2019); Meta-World's own limit, since then, is 500. Yu et al. (2019) show results on ML1 as
curves of version 1 of its scenes, which none of ours is beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl_jax.experiments.base import (
    RETURN_BY_EPISODE,
    REWARD_OF_TRIAL,
    ContextNetwork,
    Experiment,
    Measure,
    Network,
    Problem,
    RecurrentNetwork,
)

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily

HORIZON = 150


class _Method(NamedTuple):
    title: str
    algorithm: str
    network: type[Network]
    settings: dict[str, Any]
    measure: Measure


# ---------------------------------------------------------------------------------------------------------------
# The settings of every preset, as those of ``experiments.locomotion``: not tuned.

_TRIALS: dict[str, Any] = {
    "episodes": 2,
    "trials": 32,
    "epochs": 4,
    "minibatches": 4,
    "learning_rate": 1e-3,
    "discount": 0.97,
    "gae_lambda": 0.9,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "max_grad_norm": 0.5,
    "hidden_size": 128,
    "iterations": 400,
}
# A step pays up to 10, which the published scale of 5 would make 50.
_PEARL: dict[str, Any] = {
    "iterations": 100,
    "training_tasks": 50,
    "tasks": 5,
    "prior_episodes": 2,
    "posterior_episodes": 3,
    "initial_episodes": 4,
    "replay_episodes": 100,
    "gradient_steps": 300,
    "meta_batch": 4,
    "batch_size": 256,
    "encoder_units": 64,
    "units": 128,
    "layers": 2,
    "learning_rate": 1e-3,
    "reward_scale": 0.5,
    "automatic_temperature": True,
    "exploration_episodes": 1,
    "adaptation_episodes": 3,
}

METHODS = {
    "rl2": _Method("RL²", "rl2", RecurrentNetwork, _TRIALS, REWARD_OF_TRIAL),
    "pearl": _Method("PEARL", "pearl", ContextNetwork, _PEARL, RETURN_BY_EPISODE),
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
        for name, method in METHODS.items():
            yield Experiment(
                name=f"{name}-ml1-{skill}",
                description=f"{method.title} on an arm that {what}",
                algorithm=method.algorithm,
                family=_family(skill),
                network=method.network,
                settings=method.settings,
                measure=method.measure,
                heldout_tasks=200,
                heldout_tasks_in_training=20,
                heldout_batch=100,
                oracles=_oracles,
            )
