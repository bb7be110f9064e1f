"""Presets: gradient-based adaptation of policies on points, and on classic control with physics as the task.

Published numbers of navigation are the data of Figure 4 of Finn et al. (2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment


class Method(NamedTuple):
    """A named method: an algorithm with its settings."""

    title: str
    algorithm: str
    settings: Mapping[str, Any] = {}


# 40 tasks and an inner step size of 0.5 in training are as in the authors' code, which uses twice the episodes at test
# time. The number of iterations is twice theirs, and the step size at test time is halved at each step; both were
# chosen on tasks that no reported result uses.
NAVIGATION_SETTINGS: dict[str, Any] = {
    "iterations": 200,
    "tasks": 40,
    "inner_rate": 0.5,
    "later_rate_fraction": 0.5,
    "adaptation_steps": 4,
}
# E-MAML's exact weight is 1 / (horizon * standard deviation of an advantage). The weight here is exact for a standard
# deviation of 5; before training the standard deviation is 9 to 14.
NAVIGATION_METHODS = {
    "maml": Method("MAML-TRPO", "maml_trpo"),
    "e-maml": Method("E-MAML-TRPO", "e_maml", {"estimator": "log_likelihood", "exploration_credit": 0.002}),
    "promp": Method("ProMP", "promp", {"clip": 0.3}),
    "multi-task": Method("multi-task training", "multi_task_trpo"),
}
NAVIGATION_TABLE: dict[str, dict[int, float]] = {
    "MAML (Finn et al. 2017)": {0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23, 4: -3.35},
    "pretrained on all tasks (Finn et al. 2017)": {0: -40.81, 1: -19.73, 2: -11.72, 3: -8.47, 4: -7.49},
    "random initialisation (Finn et al. 2017)": {0: -82.66, 1: -57.96, 2: -53.84, 3: -46.81, 4: -42.91},
}

# 40 tasks of 20 episodes, an inner step size of 0.1, and the log-likelihood estimator of MAML-TRPO and E-MAML are as in
# the authors' code. These settings differ from it: one inner step and 200 iterations (3 and 501 in their code), no
# momentum, and 64 units also for ProMP (128 in their code). E-MAML's weight follows from the standard deviation of an
# advantage before training, about 0.33.
CORNER_SETTINGS: dict[str, Any] = {
    "iterations": 200,
    "tasks": 40,
    "inner_steps": 1,
    "inner_rate": 0.1,
    "adaptation_steps": 3,
    "units": 64,
    "activation": "tanh",
}
CORNER_METHODS = {
    "maml": Method("MAML-TRPO", "maml_trpo", {"estimator": "log_likelihood"}),
    "lvc": Method("MAML-TRPO with the low-variance estimator", "maml_trpo"),
    "e-maml": Method("E-MAML-TRPO", "e_maml", {"estimator": "log_likelihood", "exploration_credit": 0.03}),
    "promp": Method("ProMP", "promp", {"clip": 0.3}),
}

# ---------------------------------------------------------------------------------------------- classic control

# Chosen on tasks that no reported result uses.
CLASSIC_CONTROL_SETTINGS: dict[str, Any] = {
    "iterations": 100,
    "tasks": 20,
    "inner_rate": 0.5,
    "adaptation_steps": 3,
    "units": 64,
    "activation": "tanh",
}
CLASSIC_CONTROL_METHODS = {
    "maml": Method("MAML-TRPO", "maml_trpo"),
    "promp": Method("ProMP", "promp", {"clip": 0.3}),
    "reptile": Method("Reptile", "reptile", {"inner_optimizer": "sgd", "inner_steps": 3, "iterations": 500}),
    "multi-task": Method("multi-task training", "multi_task_trpo"),
}
# The methods of each family.
CLASSIC_CONTROL: dict[str, Sequence[str]] = {
    "cartpole": tuple(CLASSIC_CONTROL_METHODS),
    "pendulum": ("maml",),
    "acrobot": ("maml",),
    "mountain-car": ("maml",),
    "mountain-car-continuous": ("maml",),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, method in NAVIGATION_METHODS.items():
        yield experiment(
            name=f"{name}-navigation",
            description=f"{method.title} on point navigation (Finn et al. 2017)",
            algorithm=method.algorithm,
            family="navigation",
            settings={**NAVIGATION_SETTINGS, **method.settings},
            tuned=True,
            heldout_tasks=200,
            validation_tasks=20,
            heldout_batch=2048,
            paper_by_stage=NAVIGATION_TABLE,
            same_method="MAML (Finn et al. 2017)" if name == "maml" else None,
        )
    for name, method in CORNER_METHODS.items():
        yield experiment(
            name=f"{name}-corners",
            description=f"{method.title} on point navigation to four corners (Rothfuss et al. 2019)",
            algorithm=method.algorithm,
            family="corners",
            settings={**CORNER_SETTINGS, **method.settings},
            tuned=True,
            heldout_tasks=200,
            validation_tasks=20,
            heldout_batch=2048,
        )
    for family, methods in CLASSIC_CONTROL.items():
        for name in methods:
            method = CLASSIC_CONTROL_METHODS[name]
            yield experiment(
                name=f"{name}-{family}",
                description=f"{method.title} on {registry.family(family).title}",
                algorithm=method.algorithm,
                family=family,
                settings={**CLASSIC_CONTROL_SETTINGS, **method.settings},
                tuned=True,
            )
