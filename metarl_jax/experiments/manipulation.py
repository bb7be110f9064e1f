"""Meta-World's ML1 and ML10: an arm meets a goal, or a skill, that it has not met before and does not see.

What counts is the success rate: the share of episodes in which some step is a success, on held-out goals (ML1) or
skills (ML10). Episodes last 150 steps, as in Yu et al. (2019); Meta-World's own limit, since then, is 500. Published
rates are of other versions of its scenes and of other horizons; none is beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.experiments.control import PolicyGradient
from metarl_jax.experiments.methods import TRIAL_METHODS, TrialMethod

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily

HORIZON = 150


# What methods have of their own here, besides the settings of ``experiments.methods``. A step pays up to 10,
# which PEARL's published scale of 5 would make 50.
OWN_SETTINGS: dict[str, dict[str, Any]] = {
    # Without half of what is learnt from being for success, the hand stops short of where it counts: a centimetre more
    # pays a hundredth. And a bonus for entropy is gone while there is step size left.
    "rl2": {"iterations": 600, "entropy_decay": 0.6, "training_reward": "task"},
    "varibad": {},
    "pearl": {"training_tasks": 50, "initial_episodes": 4, "replay_episodes": 100, "reward_scale": 0.5},
}
SKILLS = {
    "reach": "brings its fingertips to a goal in the air",
    "push": "pushes a puck to a goal on the table",
    "pick-place": "picks a puck up and brings it to a goal in the air",
}

# ML10: memory, rates and discounts of public JAX baselines (rainx0r/metaworld-algorithms: 20 million steps), and the
# inner rate of Yu et al. (2019); a third of the steps or fewer, 3 episodes of a trial (10 there), and 128 units a layer
# for MAML (512 there). Not tuned.
ML10 = {
    "rl2": TRIAL_METHODS["rl2"]._replace(
        settings={
            **TRIAL_METHODS["rl2"].settings,
            "iterations": 400,
            "episodes": 3,
            "trials": 40,
            "hidden_size": 256,
            "learning_rate": 5e-4,
            "discount": 0.99,
            "gae_lambda": 0.95,
        }
    ),
    "maml": TrialMethod(
        "MAML-TRPO",
        "maml",
        PolicyGradient,
        {
            "iterations": 100,
            "tasks": 20,
            "episodes": 10,
            "inner_rate": 0.05,
            "adaptation_steps": 2,
            "outer_update": "trust_region",
            "units": 128,
            "activation": "tanh",
        },
    ),
    "pearl": TRIAL_METHODS["pearl"]._replace(
        settings={
            **TRIAL_METHODS["pearl"].settings,
            "training_tasks": 100,
            "tasks": 10,
            "meta_batch": 10,
            "initial_episodes": 2,
            "replay_episodes": 60,
            "reward_scale": 0.5,
        }
    ),
}


def _many() -> EnvFamily:
    from metarl_jax.environments import manipulation

    return manipulation.ml10(horizon=HORIZON)


def _family(skill: Any) -> Callable[[], EnvFamily]:
    def family() -> EnvFamily:
        from metarl_jax.environments import manipulation

        return manipulation.ml1(skill, horizon=HORIZON)

    return family


def _oracles(problem: Problem, stages: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import at_random, from_scratch

    if problem.inner_problem is not None:
        return [from_scratch.gradient_descent(problem.inner_problem, stages, ML10["maml"].settings["inner_rate"])]
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
                validation_tasks=20,
                heldout_batch=100,
                oracles=_oracles,
            )
    for name, method in ML10.items():
        yield Experiment(
            name=f"{name}-ml10",
            description=f"{method.title} on an arm that learns skills, tested on others",
            algorithm=method.algorithm,
            family=_many,
            network=method.network,
            settings=method.settings,
            measure=method.measure,
            heldout_tasks=200,
            validation_tasks=20,
            heldout_batch=100,
            oracles=_oracles,
        )
