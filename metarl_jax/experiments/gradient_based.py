"""MAML and its kin, and Reptile: few-shot regression and point navigation.

Published numbers: sinusoids, Finn et al. (2017), Table 2; navigation, the data behind their Figure 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metarl_jax.experiments.base import ERROR_BY_STEP, RETURN_BY_STEP, Experiment, Problem

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import EnvFamily, FewShot, InnerProblem


class Method(NamedTuple):
    """An algorithm, with what makes a named method of it."""

    title: str
    algorithm: str
    settings: Mapping[str, Any] = {}


# ---------------------------------------------------------------------------------------------------- sinusoids


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Settings of few-shot regression."""

    shots: int = 10
    """Examples of a task to adapt on, in training."""
    queries: int = 10
    """Examples of a task that adaptation is judged on, in training (10 in the code of Finn et al. 2017)."""
    heldout_shots: int = 5
    """Examples to adapt on of a held-out task."""
    heldout_queries: int = 100
    """Examples that adaptation is judged on, of a held-out task."""
    batch_size: int = 0
    """Examples that one inner step sees; 0: all."""
    units: int = 40
    """Units of each of the two hidden layers."""
    context_size: int = 0
    """Context parameters beside the input, for CAVIA."""

    def make(self, family: Callable[[int, int], FewShot]) -> InnerProblem:
        """The problem, of a function of shots and queries.

        Raises:
            ValueError: for a size that is not a positive whole number (of context and batch: or 0).
        """
        from metarl_jax import problems
        from metarl_jax.checks import natural_int
        from metarl_jax.networks import mlp

        natural_int("batch_size", self.batch_size)
        return problems.few_shot(
            family(self.shots, self.queries),
            mlp.predictor(1, 1, (self.units, self.units), context_size=self.context_size),
            heldout=family(self.heldout_shots, self.heldout_queries),
            batch_size=self.batch_size or None,
        )

    def steps_per_iteration(self, family: Any, config: Any) -> int:
        """Tasks that one seed meets in one meta-iteration."""
        del family
        return config.tasks


def _maml_sinusoid() -> Callable[[int, int], FewShot]:
    from metarl_jax.datasets import sinusoid

    return sinusoid.maml


def _reptile_sinusoid() -> Callable[[int, int], FewShot]:
    from metarl_jax.datasets import sinusoid

    return sinusoid.reptile


def _regression_oracles(problem: Problem, steps: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import from_scratch

    assert problem.inner_problem is not None
    return [make(problem.inner_problem, steps, 0.01) for make in (from_scratch.gradient_descent, from_scratch.adam)]


_SINUSOID = "Finn et al. 2017, Table 2"
SINUSOID_TABLE: dict[str, dict[int, float]] = {
    f"MAML ({_SINUSOID})": {1: 0.67, 5: 0.38, 10: 0.35},
    f"multi-task, regularised to the mean ({_SINUSOID})": {1: 2.91, 5: 2.72, 10: 2.71},
    f"pretrained on all tasks ({_SINUSOID})": {1: 2.41, 5: 2.23, 10: 2.19},
}
# Of 20,000 held-out tasks a few are so steep that gradient descent with the published step size runs away from them,
# and one such task is the mean of all: inner gradients are scaled down to a norm of 100, which descent that goes well
# stays below.
SINUSOID_SETTINGS: dict[str, Any] = {"max_inner_norm": 100.0}
SINUSOID_METHODS = {
    "maml": Method("MAML", "maml"),
    "fomaml": Method("first-order MAML", "maml", {"first_order": True}),
    "anil": Method("ANIL", "anil"),
    "meta-sgd": Method("Meta-SGD", "meta_sgd"),
    "cavia": Method("CAVIA", "cavia", {"context_size": 5}),
    "imaml": Method("iMAML", "imaml", {"inner_steps": 10}),
    "multi-task": Method("multi-task training", "multi_task"),
}
# 32 inner steps on all 10 points, as in the paper; the rest of Reptile's settings there are not given: those of its
# authors' demonstration, plain gradient descent of 0.02 and an outer step of 0.1 (not annealed there).
REPTILE_SINUSOID_SETTINGS: dict[str, Any] = {
    "inner_optimizer": "sgd",
    "inner_rate": 0.02,
    "inner_steps": 32,
    "adaptation_steps": 32,
    "tasks": 5,
    "outer_rate": 1.0,
    "iterations": 30000,
    "units": 64,
    "heldout_shots": 10,
    "heldout_queries": 50,
}

# --------------------------------------------------------------------------------------------------- navigation


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Settings of adaptation by policy gradients."""

    episodes: int = 20
    """Episodes that one gradient step sees."""
    discount: float = 0.99
    """Per step."""
    gae_lambda: float = 1.0
    """Lambda of the advantage estimator."""
    estimator: Literal["dice", "likelihood_ratio", "log_likelihood"] = "likelihood_ratio"
    """How the meta-gradient through an inner step is estimated."""
    baseline: Literal["linear", "none"] = "linear"
    """What returns are compared with."""
    clip: float = 0.0
    """PPO's clipping radius in the outer loss; 0: no clipping."""
    units: int = 100
    """Units of each of the two hidden layers of the policy."""
    activation: Literal["tanh", "relu"] = "relu"
    """Of the hidden layers."""

    def make(self, family: EnvFamily) -> InnerProblem:
        """The problem of a family of environments.

        Raises:
            ValueError: for an unknown name, a size that is not a positive whole number, or a number out of range.
        """
        from metarl_jax import problems
        from metarl_jax.checks import real
        from metarl_jax.networks import mlp

        real(at_least=0)("clip", self.clip)
        policy = mlp.make(
            family.observation_space,
            family.action_space,
            hidden_sizes=(self.units, self.units),
            activation=self.activation,
            history=False,
            critic=False,
        )
        return problems.policy_gradient(
            family,
            policy,
            episodes=self.episodes,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            estimator=self.estimator,
            baseline=self.baseline,
            clip=self.clip or None,
        )

    def steps_per_iteration(self, family: EnvFamily, config: Any) -> int:
        """Environment steps that one seed takes in one meta-iteration."""
        return config.tasks * config.batches_per_task * self.episodes * family.horizon


def _maml_navigation() -> EnvFamily:
    from metarl_jax.environments import point_robot

    return point_robot.maml()


def _navigation_oracles(problem: Problem, steps: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import from_scratch, known_task

    assert problem.inner_problem is not None
    return [
        from_scratch.gradient_descent(problem.inner_problem, steps, NAVIGATION_SETTINGS["inner_rate"]),
        known_task.optimal(problem.family, steps + 1),
    ]


# As the authors' code: 40 tasks, inner steps of 0.5 in training; at test twice the episodes are allowed there.
NAVIGATION_SETTINGS: dict[str, Any] = {
    "iterations": 100,
    "tasks": 40,
    "inner_rate": 0.5,
    "later_rate_fraction": 0.5,
    "adaptation_steps": 4,
}
# The outer loss is a mean over 100 steps of advantages scaled to one; a return is their sum, unscaled (about 5 each):
# in the loss's unit E-MAML's exact weight is 1 / (100 * 5).
NAVIGATION_METHODS = {
    "maml": Method("MAML-TRPO", "maml", {"outer_update": "trust_region"}),
    "e-maml": Method("E-MAML-TRPO", "maml", {"outer_update": "trust_region", "exploration_credit": 0.002}),
    "promp": Method("ProMP", "promp", {"clip": 0.3}),
    "multi-task": Method("multi-task training", "multi_task", {"outer_update": "trust_region"}),
}
NAVIGATION_TABLE: dict[str, dict[int, float]] = {
    "MAML (Finn et al. 2017)": {0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23, 4: -3.35},
    "pretrained on all tasks (Finn et al. 2017)": {0: -40.81, 1: -19.73, 2: -11.72, 3: -8.47, 4: -7.49},
    "random initialisation (Finn et al. 2017)": {0: -82.66, 1: -57.96, 2: -53.84, 3: -46.81, 4: -42.91},
}


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, method in SINUSOID_METHODS.items():
        yield Experiment(
            name=f"{name}-sinusoid",
            description=f"{method.title} on the sinusoids of Finn et al. (2017)",
            algorithm=method.algorithm,
            family=_maml_sinusoid,
            network=Regression,
            settings={**SINUSOID_SETTINGS, **method.settings},
            measure=ERROR_BY_STEP,
            unit="tasks",
            oracles=_regression_oracles,
            paper_by_stage=SINUSOID_TABLE,
        )
    yield Experiment(
        name="reptile-sinusoid",
        description="Reptile on the sinusoids of Nichol et al. (2018)",
        algorithm="reptile",
        family=_reptile_sinusoid,
        network=Regression,
        settings=REPTILE_SINUSOID_SETTINGS,
        measure=ERROR_BY_STEP,
        unit="tasks",
        oracles=_regression_oracles,
    )
    for name, method in NAVIGATION_METHODS.items():
        yield Experiment(
            name=f"{name}-navigation",
            description=f"{method.title} on the point navigation of Finn et al. (2017)",
            algorithm=method.algorithm,
            family=_maml_navigation,
            network=PolicyGradient,
            settings={**NAVIGATION_SETTINGS, **method.settings},
            measure=RETURN_BY_STEP,
            heldout_tasks=200,
            oracles=_navigation_oracles,
            paper_by_stage=NAVIGATION_TABLE,
        )
