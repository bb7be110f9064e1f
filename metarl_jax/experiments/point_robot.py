"""PEARL on points that look for a goal (Rakelly et al. 2019, arXiv 1903.08254, section 6.3, and their code).

The paper's results there are figures: with a sparse reward the learner finds the goal within some five trajectories,
after a million environment steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl_jax.experiments.base import RETURN_BY_EPISODE, ContextNetwork, Experiment, Problem

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily

# Networks and batches are smaller than published, and so are gradient steps for each step of the environment: a core
# trains a seed in minutes. Chosen on tasks that no reported result uses.
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
# Where most episodes say nothing, contexts are drawn from many: one that says nothing teaches but to do what is good on
# average, and there is no posterior to sample from. At most 1.5 million environment steps.
_SPARSE = {
    **_PEARL,
    "iterations": 300,
    "prior_episodes": 40,
    "posterior_episodes": 5,
    "initial_episodes": 45,
    "gradient_steps": 300,
    "context_size": 100,
    "latent_size": 2,
    "adaptation_episodes": 8,
}


class _Preset(NamedTuple):
    description: str
    family: str
    """The function of ``environments.point_robot``."""
    settings: dict[str, Any]


PRESETS = {
    "dense": _Preset("paid by the distance", "pearl_dense", _DENSE),
    "sparse": _Preset("paid near the goal alone", "pearl_sparse", _SPARSE),
}


def _points(name: str) -> Callable[[], EnvFamily]:
    def family() -> EnvFamily:
        from metarl_jax.environments import point_robot

        return getattr(point_robot, name)()

    return family


def _oracles(problem: Problem, episodes: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import point_robot

    family, known = problem.family, point_robot.goal_known(problem.family, episodes)
    # Who is paid by the distance has seen all after two steps.
    return [known] if family.privileged is None else [point_robot.posterior_sampling(family, episodes), known]


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, preset in PRESETS.items():
        yield Experiment(
            name=f"pearl-point-robot-{name}",
            description=f"PEARL on point robots {preset.description}: episodes of 20 steps",
            algorithm="pearl",
            family=_points(preset.family),
            network=ContextNetwork,
            measure=RETURN_BY_EPISODE,
            heldout_tasks=2000,
            settings=preset.settings,
            oracles=_oracles,
        )
