"""Families that learners of every kind meet: point navigation, a sparse half-circle, CartPole with other physics.

Gradient-based learners of the first and the last are in ``experiments.control``. ``benchmarks/compare.py`` puts all of
them beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.experiments.methods import TRIAL_METHODS

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily


def _navigation() -> EnvFamily:
    from metarl_jax.environments import point_robot

    return point_robot.maml()


def _half_circle() -> EnvFamily:
    from metarl_jax.environments import point_robot

    return point_robot.varibad()


def _cartpole() -> EnvFamily:
    from metarl_jax.environments import classic_control

    return classic_control.cartpole()


def _known(problem: Problem, episodes: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import at_random, known_task

    return [at_random.uniform(problem.family, episodes), known_task.optimal(problem.family, episodes)]


def _searching(problem: Problem, episodes: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import point_robot

    family = problem.family
    return [point_robot.posterior_sampling(family, episodes), point_robot.goal_known(family, episodes)]


def _random(problem: Problem, episodes: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import at_random

    return [at_random.uniform(problem.family, episodes)]


class _Family(NamedTuple):
    description: str
    make: Callable[[], EnvFamily]
    oracles: Callable[[Problem, int], Sequence[Oracle]]
    settings: Mapping[str, Mapping[str, Any]]
    """By method, what it has of its own there."""


# As many goals as Rakelly et al. (2019) train points on.
_POINTS: dict[str, Any] = {"training_tasks": 100, "initial_episodes": 5}
# Chosen on tasks that no reported result uses.
FAMILIES = {
    "navigation": _Family(
        "the point navigation of Finn et al. (2017)", _navigation, _known, {"rl2": {}, "varibad": {}, "pearl": _POINTS}
    ),
    "half-circle": _Family(
        "points that look for a goal on a half-circle (Zintgraf et al. 2020)",
        _half_circle,
        _searching,
        {"rl2": {"episodes": 3}, "varibad": {"episodes": 3, "adaptation_episodes": 3}, "pearl": _POINTS},
    ),
    "cartpole": _Family(
        "CartPole with physics as the task",
        _cartpole,
        _random,
        # Every step pays the same: what tells one task from another is where steps lead.
        {
            "rl2": {},
            "varibad": {"decode_transitions": True},
            "pearl": {"target_entropy": -0.3, "next_observation": True},
        },
    ),
}


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, family in FAMILIES.items():
        for learner, settings in family.settings.items():
            method = TRIAL_METHODS[learner]
            yield Experiment(
                name=f"{learner}-{name}",
                description=f"{method.title} on {family.description}",
                algorithm=method.algorithm,
                family=family.make,
                network=method.network,
                settings={**method.settings, **settings},
                measure=method.measure,
                heldout_tasks=500,
                validation_tasks=50,
                heldout_batch=250,
                oracles=family.oracles,
            )
