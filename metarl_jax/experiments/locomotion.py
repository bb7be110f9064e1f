"""Presets: robots with real physics, every family of algorithms on the tasks that their papers share.

Published results are figures, of other bodies (rllab's, older Gym's) and of far more steps than what is run here; none
is comparable to ours. What adaptation is worth is measured against play before it. A half cheetah that does not adapt
cannot do well in both directions: whatever it gains in one it loses in the other, and its mean return is below zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment
from metarl_jax.experiments.starting_points import OFF_POLICY, ON_POLICY, VARIBAD

# Chosen on tasks that no reported result uses.

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
# Observations, and beliefs, are normalised as in Zintgraf et al. (2020).
_NORMALISED = {"normalise_observations": True}
# By name: title, algorithm, settings.
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


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for family in FAMILIES:
        for name, (title, algorithm, settings) in METHODS.items():
            more: dict[str, Any] = {}
            # Rothfuss et al. (2019) have episodes of 100 steps there.
            if family == "half-cheetah-direction" and name in ("maml", "promp"):
                more = {"tasks": 40, "iterations": 250, "horizon": 100}
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
