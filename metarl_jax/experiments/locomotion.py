"""Presets: algorithms of every kind on simulated robots (MuJoCo), on the tasks that their papers share.

Published results are figures, for other bodies (those of rllab and of older Gym versions) and far more steps, so none
is comparable to ours. The effect of adaptation is measured by comparison with the policy before adaptation. A half
cheetah that does not adapt cannot run in both directions: it loses in one direction as much as it gains in the other,
and its mean return is below zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment
from metarl_jax.experiments.starting_points import OFF_POLICY, ON_POLICY, VARIBAD

# Chosen on tasks that no reported result uses.

# One inner step and 64 units are as published (Rothfuss et al. 2019). There are 20 tasks of 10 episodes (40 tasks of 20
# episodes as published), a larger inner step size (0.1 as published), and a tenth of the 1001 iterations. Where the
# simulation is fast, there are more tasks and iterations.
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
# Episodes of Rothfuss et al. (2019) on the half cheetah's direction have 100 steps.
_SHORT_EPISODES: dict[str, Any] = {"tasks": 40, "iterations": 250, "horizon": 100}
# These are the settings of the authors for ProMP on walkers.
_PROMP_WALKER: dict[str, Any] = {"inner_rate": 0.05, "epochs": 3, "adaptive_weight": True, "target_divergence": 1e-3}
# Observations, and beliefs, are normalised as in Zintgraf et al. (2020).
_NORMALISED = {"normalise_observations": True}
# Methods by name: title, algorithm, settings.
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "maml": ("MAML-TRPO", "maml_trpo", _GRADIENT),
    "promp": ("ProMP", "promp", {**_GRADIENT, "clip": 0.3}),
    "rl2": ("RL²", "rl2", {**ON_POLICY, **_NORMALISED}),
    "varibad": ("VariBAD", "varibad", {**VARIBAD, **_NORMALISED}),
    "pearl": ("PEARL", "pearl", OFF_POLICY),
}
FAMILIES = (
    "half-cheetah-direction",
    "half-cheetah-velocity",
    "ant-direction",
    "ant-goal",
    "walker-parameters",
    "hopper-parameters",
    "humanoid-direction",
)


_WITHOUT_MEMORY = {name: value for name, value in ON_POLICY.items() if name != "hidden_size"} | {"units": 128}
# Plain learners that observe the task, as references of what adaptation could reach in as many steps: name, title,
# algorithm, network, settings.
KNOWN: dict[str, tuple[str, str, str | None, dict[str, Any]]] = {
    "known-task-trpo": ("TRPO", "multi_task_trpo", None, {**_GRADIENT, "observe_task": True}),
    "known-task-ppo": ("PPO", "rl2", "none", {**_WITHOUT_MEMORY, **_NORMALISED, "observe_task": True}),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for family in ("half-cheetah-direction", "half-cheetah-velocity", "ant-direction"):
        for name, (title, algorithm, network, settings) in KNOWN.items():
            more = dict(_SHORT_EPISODES) if (name, family) == ("known-task-trpo", "half-cheetah-direction") else {}
            if name == "known-task-trpo":
                # MAML plays two batches of episodes in an iteration, and this learner plays one.
                iterations = {**settings, **more}["iterations"]
                more["iterations"] = 2 * iterations
            yield experiment(
                name=f"{name}-{family}",
                description=f"{title} that observes the task, on {registry.family(family).title}",
                algorithm=algorithm,
                family=family,
                network=network,
                settings={**settings, **more},
                tuned=True,
            )
    for family in FAMILIES:
        for name, (title, algorithm, settings) in METHODS.items():
            more: dict[str, Any] = {}
            if family == "half-cheetah-direction" and name in ("maml", "promp"):
                more = _SHORT_EPISODES
            if (name, family) == ("promp", "walker-parameters"):
                more = _PROMP_WALKER
            yield experiment(
                name=f"{name}-{family}",
                description=f"{title} on {registry.family(family).title}",
                algorithm=algorithm,
                family=family,
                settings={**settings, **more},
                tuned=True,
            )
