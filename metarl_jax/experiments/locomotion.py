"""Robots with real physics: every family of algorithms on the tasks that their papers share.

Published results are figures, of other bodies (rllab's, older Gym's) and of far more steps than what is run here; none
is beside ours. What adaptation is worth is measured against play before it. A half cheetah that does not adapt cannot
do well in both directions: whatever it gains in one it loses in the other, and its mean return is below zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.experiments.control import PolicyGradient
from metarl_jax.experiments.methods import TRIAL_METHODS, TrialMethod

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily


# ---------------------------------------------------------------------------------------------------------------
# The settings of every preset. Chosen on tasks that no reported result uses.

# One inner step and 64 units, as published (Rothfuss et al. 2019); 20 tasks of 10 episodes (40 of 20 there), a larger
# inner step (0.1 there), and a tenth of the 1001 iterations; more of both where a step is fast.
_GRADIENT: dict[str, Any] = {
    "iterations": 100,
    "tasks": 20,
    "episodes": 10,
    "inner_rate": 0.5,
    "adaptation_steps": 2,
    "action_scale": 10.0,
    "units": 64,
    "activation": "tanh",
}
# The authors' configuration of ProMP on walkers.
_PROMP_WALKER: dict[str, Any] = {"inner_rate": 0.05, "epochs": 3, "adaptive_weight": True, "target_divergence": 1e-3}


def _normalised(method: TrialMethod) -> TrialMethod:
    """With observations, and beliefs, normalised, as in Zintgraf et al. (2020)."""
    return method._replace(settings={**method.settings, "normalise_observations": True})


METHODS = {
    "maml": TrialMethod("MAML-TRPO", "maml", PolicyGradient, {**_GRADIENT, "outer_update": "trust_region"}),
    "promp": TrialMethod("ProMP", "promp", PolicyGradient, {**_GRADIENT, "clip": 0.3}),
    "rl2": _normalised(TRIAL_METHODS["rl2"]),
    "varibad": _normalised(TRIAL_METHODS["varibad"]),
    "pearl": TRIAL_METHODS["pearl"],
}


class _Task(NamedTuple):
    description: str
    family: str
    """The function of ``environments.locomotion``."""


HORIZON = 200
TASKS = {
    "half-cheetah-direction": _Task("a half cheetah that runs forth or back", "half_cheetah_direction"),
    "half-cheetah-velocity": _Task("a half cheetah that runs at a speed", "half_cheetah_velocity"),
    "ant-direction": _Task("an ant that walks forth or back", "ant_direction"),
    "ant-goal": _Task("an ant that goes to a place", "ant_goal"),
    "walker-parameters": _Task("walkers with bodies of their own", "walker_parameters"),
    "hopper-parameters": _Task("hoppers with bodies of their own", "hopper_parameters"),
    "humanoid-direction": _Task("a humanoid that walks in some direction", "humanoid_direction"),
}


@dataclass(frozen=True, kw_only=True)
class Physics:
    """Settings of what steps the robots."""

    engine: Literal["auto", "c", "mjx"] = "auto"
    """Of MuJoCo: the C library, on the processor's cores wherever JAX computes, or MJX, which is JAX; "auto": C where
    JAX computes on a CPU, else MJX. How far they lie apart: benchmarks/physics_speed.py --fidelity."""


def _robots(name: str, horizon: int) -> Callable[[Physics], EnvFamily]:
    def family(world: Physics) -> EnvFamily:
        from metarl_jax.environments import locomotion

        return getattr(locomotion, name)(horizon=horizon, engine=world.engine)

    return family


def _oracles(problem: Problem, stages: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import at_random, from_scratch

    if problem.inner_problem is not None:
        return [from_scratch.gradient_descent(problem.inner_problem, stages, _GRADIENT["inner_rate"])]
    return [at_random.uniform(problem.family, stages)]


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for task, what in TASKS.items():
        for name, method in METHODS.items():
            # Rothfuss et al. (2019) have episodes of 100 steps there.
            shorter = task == "half-cheetah-direction" and method.network is PolicyGradient
            more = {"tasks": 40, "iterations": 250} if shorter else {}
            if (name, task) == ("promp", "walker-parameters"):
                more = _PROMP_WALKER
            yield Experiment(
                name=f"{name}-{task}",
                description=f"{method.title} on {what.description}",
                algorithm=method.algorithm,
                family=_robots(what.family, 100 if shorter else HORIZON),
                world=Physics,
                network=method.network,
                settings={**method.settings, **more},
                measure=method.measure,
                heldout_tasks=200,
                validation_tasks=20,
                heldout_batch=100,
                oracles=_oracles,
            )
