"""``Experiment``: an algorithm, a family of tasks and a network, with settings of all three.

The import of this module does not import JAX; building an experiment does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl_jax.checks import did_you_mean
from metarl_jax.experiments import registry
from metarl_jax.experiments.registry import Algorithm as AlgorithmEntry
from metarl_jax.experiments.registry import Family, Measure, Network

if TYPE_CHECKING:
    from metarl_jax.interfaces.few_shot import InContextProblem
    from metarl_jax.interfaces.gradient import InnerProblem
    from metarl_jax.settings import Field
    from metarl_jax.types import Algorithm, Array, Oracle, Task, TaskDistribution


class Problem(NamedTuple):
    """An experiment whose family, networks and algorithm have been made."""

    family: Any
    """An ``EnvFamily`` or a ``FewShotFamily``."""
    inner_problem: InnerProblem | None
    """The problem of a gradient-based learner; None for other learners."""
    in_context_problem: InContextProblem | None
    """The problem of an in-context learner; None for other learners."""
    algorithm: Algorithm
    config: Any
    """The algorithm's settings."""
    vary: Callable[[Mapping[str, Any]], Algorithm]
    """Makes the algorithm with other values of numerical settings, which may be tracers, so that one program can train
    with many values."""
    tasks: TaskDistribution
    optimal_return: Callable[[Task], Array] | None
    """``EnvFamily.optimal_return`` of the family; None if the sum of the scores is not reported."""
    iterations: int
    """The number of meta-iterations of a whole run."""
    stages: int
    """The number of adaptation episodes of a trial, or of gradient steps."""
    steps_per_iteration: int
    """The number of environment steps or tasks (``Experiment.unit``) of one seed in one meta-iteration."""


class Parts(NamedTuple):
    """The settings of each part of an experiment, by name."""

    algorithm: dict[str, Field]
    problem: dict[str, Field]
    """The settings by which the algorithm's problem is made from the family; empty if there are none."""
    network: dict[str, Field]
    family: dict[str, Field]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An algorithm on a family of tasks with a network: any combination, or a preset with tuned settings."""

    name: str
    """The name of the preset, or the names of algorithm, family and network of a combination."""
    description: str
    algorithm: str
    """The name of an algorithm (``registry``)."""
    family: str
    """The name of a family of tasks."""
    network: str
    """The name of a network that serves the algorithm on the family."""
    settings: Mapping[str, Any]
    """Settings that differ from the defaults of the algorithm, the problem, the network and the family."""
    measure: Measure
    """The scores that are reported."""
    heldout_tasks: int
    """The number of held-out tasks of the final table; in a study also the number of its validation tasks."""
    validation_tasks: int
    """The number of tasks of each validation during training. There are about twenty validations."""
    heldout_batch: int
    """The number of held-out or validation tasks that are evaluated at the same time, which bounds memory."""
    tuned: bool
    """Whether the settings were tuned, as those of a preset."""
    minutes: float | None = None
    """The training time of one seed in minutes, on one or two cores of a current processor. None: it was not
    measured."""
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Published values of the reported score, for the number of stages in ``settings``, by "learner (source)"."""
    paper_by_stage: Mapping[str, Mapping[int, float]] = dataclasses.field(default_factory=dict)
    """Published scores by stage, by "learner (source)"."""
    same_method: str | None = None
    """The name in ``paper`` or ``paper_by_stage`` of the published learner that is the same method as this one. None:
    no number of the same method was published."""
    optimum: float | None = None
    """The exact Bayes-optimal mean reward of a trial; None if it is not known."""

    @property
    def entries(self) -> tuple[AlgorithmEntry, Family, Network]:
        """Return the entries of the registry that the experiment names.

        Raises:
            ValueError: if there is no entry of a name, or if the network does not serve the algorithm on the family.
        """
        algorithm, family = registry.algorithm(self.algorithm), registry.family(self.family)
        return algorithm, family, registry.network(algorithm, family, self.network)

    @property
    def learner(self) -> str:
        """Return the name of the learner, as people write it: its algorithm, and its network if it is not the usual
        one.
        """
        algorithm, family, network = self.entries
        usual = registry.network(algorithm, family, None)
        if network == usual:
            return algorithm.title
        return f"{algorithm.title} {'and' if ' with ' in algorithm.title else 'with'} {network.title}"

    @property
    def unit(self) -> str:
        """Return the unit in which progress is counted."""
        return "environment steps" if registry.family(self.family).kind == "reinforcement" else "tasks"

    def parts(self) -> Parts:
        """Return the settings of each part by name, with this experiment's values as defaults."""
        from metarl_jax.settings import fields, parameters

        algorithm, family, network = self.entries
        problem = _problem_settings(algorithm, family)
        own = parameters(registry.resolve(family.make))
        found = Parts(
            fields(registry.resolve(algorithm.module).Config),
            fields(problem) if problem else {},
            fields(getattr(registry.resolve(network.module), network.settings)),
            {
                name: field._replace(default=family.defaults.get(name, field.default))
                for name, field in own.items()
                if name not in family.hidden
            },
        )
        return Parts(
            *(
                {name: field._replace(default=self.settings.get(name, field.default)) for name, field in part.items()}
                for part in found
            )
        )

    def fields(self) -> dict[str, Field]:
        """Return every setting by name.

        Raises:
            ValueError: if two parts have a setting of the same name.
        """
        found: dict[str, Field] = {}
        for part in self.parts():
            if twice := found.keys() & part.keys():
                raise ValueError(f"two parts of {self.name} have a setting {min(twice)!r}: one needs another name")
            found |= part
        return found

    def check_names(self, settings: Mapping[str, Any]) -> None:
        """Check that all names in a map are settings of this experiment.

        Raises:
            ValueError: if a name is not a setting; the message gives similar names.
        """
        fields = self.fields()
        for name in settings:
            if name not in fields:
                raise ValueError(f"{self.name} has no setting {name!r}{did_you_mean(name, fields)}")

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check that a map has a valid value of every setting of this experiment, and no other names.

        Raises:
            ValueError: if a setting is wrong; the message names the first one.
        """
        from metarl_jax.settings import check

        self.check_names(settings)
        for name, field in self.fields().items():
            if name not in settings:
                raise ValueError(f"there is no value of the setting {name}")
            check(field, settings[name])

    def with_overrides(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings by name, where ``overrides`` replaces some of their values.

        Raises:
            ValueError: if a name is not a setting; the message gives similar names.
        """
        self.check_names(overrides)
        return {**{name: field.default for name, field in self.fields().items()}, **overrides}

    def nested(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Group settings by part. The part "problem" is left out if it has no settings."""
        nested = {
            part: {name: settings[name] for name in fields if name in settings}
            for part, fields in self.parts()._asdict().items()
        }
        return {part: values for part, values in nested.items() if values or part != "problem"}

    def make_family(self, settings: Mapping[str, Any], *, without_data: bool = False) -> Any:
        """Make the family of tasks.

        Args:
            settings: all settings, as ``with_overrides`` returns them.
            without_data: whether the family only has the shapes, losses and scores of its tasks, if its data are files.
                A trained learner needs nothing else.

        Raises:
            ValueError: if a setting of the tasks is out of range; the message names it.
        """
        family = registry.family(self.family)
        values = {name: settings[name] for name in self.parts().family}
        make = family.without_data if without_data and family.without_data else family.make
        return registry.resolve(make)(**{**family.defaults, **values})

    def make_networks(self, settings: Mapping[str, Any], family: Any) -> Any:
        """Make the network, or the networks, for a family.

        Args:
            settings: all settings, as ``with_overrides`` returns them.
            family: the family of tasks.
        """
        _, _, network = self.entries
        module = registry.resolve(network.module)
        sizes = getattr(module, network.settings)(**{name: settings[name] for name in self.parts().network})
        return getattr(module, network.make)(family, sizes)

    def build(self, settings: Mapping[str, Any], *, family: Any = None, without_data: bool = False) -> Problem:
        """Make the algorithm on this experiment's tasks.

        Args:
            settings: all settings, as ``with_overrides`` returns them.
            family: replaces the family of tasks; None: the family is made from the settings.
            without_data: whether no file of data is read. The learner can then act and predict, but not be trained.

        Raises:
            ValueError: if a setting is out of range; the message names the first one.
        """
        from metarl_jax.interfaces.few_shot import InContextProblem
        from metarl_jax.interfaces.gradient import InnerProblem
        from metarl_jax.types import EnvFamily

        self.check_settings(settings)
        algorithm, entry, network = self.entries
        made_family = self.make_family(settings, without_data=without_data) if family is None else family
        parts, module = self.parts(), registry.resolve(algorithm.module)
        problem_settings = _problem_settings(algorithm, entry)
        network_module = registry.resolve(network.module)

        def assemble(settings: Mapping[str, Any]) -> tuple[Any, Any, Any, Algorithm]:
            own = [{name: settings[name] for name in part} for part in parts[:3]]
            config = module.Config(**own[0])
            problem = problem_settings(**own[1]) if problem_settings else None
            sizes = getattr(network_module, network.settings)(**own[2])
            make = getattr(network_module, network.make)
            made = _assemble(algorithm, entry, made_family, make, sizes, problem, without_data)
            # A problem contains its family. Networks alone do not, so they are passed together with the family.
            alone = isinstance(made, InnerProblem | InContextProblem)
            learner = module.make(made, config) if alone else module.make(made_family, made, config)
            return config, problem, made, learner

        config, problem, made, learner = assemble(settings)
        own = made if isinstance(made, InnerProblem | InContextProblem) else None
        measure = self.measure
        return Problem(
            family=made_family,
            inner_problem=made if isinstance(made, InnerProblem) else None,
            in_context_problem=made if isinstance(made, InContextProblem) else None,
            algorithm=learner,
            config=config,
            vary=lambda values: assemble({**settings, **values})[3],
            tasks=own.tasks if own else made_family.tasks,
            optimal_return=made_family.optimal_return if isinstance(made_family, EnvFamily) and measure.total else None,
            iterations=config.iterations,
            stages=getattr(config, measure.setting) if measure.setting else 1,
            steps_per_iteration=_steps_per_iteration(algorithm, entry, made_family, config, problem),
        )

    def oracles(self, problem: Problem, stages: int) -> list[Oracle]:
        """Return the reference learners of the experiment.

        Args:
            problem: the result of ``build``.
            stages: the number of episodes, or of gradient steps, that the reference learners get.
        """
        from metarl_jax.oracles import from_scratch, nearest_example

        family = registry.family(self.family)
        found: list[Oracle] = []
        if problem.in_context_problem is not None:
            found.append(nearest_example.make(problem.in_context_problem))
        if problem.inner_problem is not None:
            # It uses the run's own step size, if the inner loop is gradient descent.
            if getattr(problem.config, "inner_optimizer", "sgd") == "sgd":
                found.append(from_scratch.gradient_descent(problem.inner_problem, stages, problem.config.inner_rate))
            if family.adam_rate is not None:
                found.append(from_scratch.adam(problem.inner_problem, stages, family.adam_rate))
            stages += 1
        return [*found, *(registry.resolve(make)(problem.family, stages) for make in family.references)]


def _measure(algorithm: AlgorithmEntry, family: Family) -> Measure:
    """Return the scores that an algorithm reports on a family."""
    if family.kind == "reinforcement":
        return algorithm.measure
    return algorithm.measure._replace(title=family.score, higher_is_better=family.score == "accuracy")


def _problem_settings(algorithm: AlgorithmEntry, family: Family) -> type | None:
    """Return the class of settings by which an algorithm's problem is made from a family; None if there is none."""
    match algorithm.interface:
        case "gradient":
            from metarl_jax import problems

            of_policy = family.kind == "reinforcement"
            return problems.PolicyGradientSettings if of_policy else problems.FewShotSettings
        case "asymmetric":
            from metarl_jax.networks import arms

            return arms.Settings
        case "off-policy":
            from metarl_jax.networks import off_policy

            return off_policy.Settings
        case "estimates":
            from metarl_jax.networks import estimated_values

            return estimated_values.Settings
        case "imitation":
            from metarl_jax import problems

            return problems.ImitationSettings
        case _:
            return None


def _assemble(
    algorithm: AlgorithmEntry,
    entry: Family,
    family: Any,
    make: Callable[..., Any],
    sizes: Any,
    problem: Any,
    without_data: bool,
) -> Any:
    """Make the networks or the problem that an algorithm's ``make`` takes in addition to its configuration."""
    from metarl_jax import problems
    from metarl_jax.types import EnvFamily

    match algorithm.interface:
        case "asymmetric":
            from metarl_jax.networks import arms

            return arms.make(family, make(family, sizes, critic=False), problem)
        case "off-policy":
            from metarl_jax.networks import off_policy

            return off_policy.make(family, make(family, sizes, critic=False), problem)
        case "estimates":
            from metarl_jax.networks import estimated_values

            return estimated_values.make(family, lambda spaces: make(spaces, sizes), problem)
        case "imitation":
            from metarl_jax.datasets import histories

            policy = make(family, sizes, critic=False)
            if without_data:
                return problems.imitation(family, policy, None)
            if problem.histories is not None:
                return problems.imitation(family, policy, histories.load(problem.histories))
            if entry.source is None:
                raise ValueError(f"no reference learner of {entry.name} can be imitated: histories must be a folder")
            return problems.imitation(family, policy, registry.resolve(entry.source))
        case "gradient":
            if isinstance(family, EnvFamily):
                policy = make(family, sizes, history=False, critic=problem.baseline == "critic")
                return problems.policy_gradient(family, policy, problem)
            return problems.few_shot(family.training, make(family, sizes), problem, heldout=family.heldout)
        case "in-context":
            return problems.in_context(family.training, make(family, sizes), heldout=family.heldout)
        case _:
            return make(family, sizes)


def _steps_per_iteration(algorithm: AlgorithmEntry, entry: Family, family: Any, config: Any, problem: Any) -> int:
    """Return the number of environment steps, or of few-shot tasks, of one seed in one meta-iteration."""
    if entry.kind == "few-shot":
        return config.tasks
    match algorithm.interface:
        case "gradient":
            return config.tasks * config.batches_per_task * problem.episodes * family.horizon
        case "context":
            # The episodes before the first iteration are not included.
            return config.tasks * (config.prior_episodes + config.posterior_episodes) * family.horizon
        case _:
            return config.trials * config.episodes * family.horizon


def experiment(
    *,
    name: str,
    description: str,
    algorithm: str,
    family: str,
    network: str | None = None,
    settings: Mapping[str, Any] | None = None,
    measure: Measure | None = None,
    tuned: bool = False,
    **others: Any,
) -> Experiment:
    """Make an experiment. The algorithm and the family provide the values that are not given.

    Args:
        name: the name of a preset, or of a combination.
        description: a description in one line.
        algorithm: the name of an algorithm.
        family: the name of a family of tasks.
        network: the name of a network; None: the default one.
        settings: the settings that differ from the defaults.
        measure: the scores that are reported; None: those of the algorithm.
        tuned: whether the settings were tuned.
        others: further fields of ``Experiment``.

    Raises:
        ValueError: if a name is not known, or the algorithm does not apply to the family.
    """
    learner, tasks = registry.algorithm(algorithm), registry.family(family)
    if reason := registry.does_not_apply(learner, tasks):
        raise ValueError(f"{algorithm} does not apply to {family}: {reason}")
    numbers = {field: getattr(tasks, field) for field in ("heldout_tasks", "validation_tasks", "heldout_batch")}
    return Experiment(
        name=name,
        description=description,
        algorithm=algorithm,
        family=family,
        network=registry.network(learner, tasks, network).name,
        settings=settings or {},
        measure=measure or _measure(learner, tasks),
        tuned=tuned,
        **{**numbers, **others},
    )


def combination(algorithm: str, family: str, network: str | None = None) -> Experiment:
    """Make a combination: an algorithm on a family of tasks, with the algorithm's starting settings.

    Args:
        algorithm: the name of the algorithm.
        family: the name of the family.
        network: the name of the network; None: the default one.

    Raises:
        ValueError: if a name is not known, or the algorithm does not apply to the family.
    """
    from metarl_jax.experiments import starting_points

    learner, tasks = registry.algorithm(algorithm), registry.family(family)
    usual = experiment(
        name=f"{algorithm} {family}",
        description=f"{learner.title} on {tasks.title}",
        algorithm=algorithm,
        family=family,
    )
    made = usual
    if network not in (None, usual.network):
        found = registry.network(learner, tasks, network)
        made = dataclasses.replace(
            usual,
            name=f"{usual.name} {found.name}",
            description=f"{learner.title} with {found.title} on {tasks.title}",
            network=found.name,
        )
    known = starting_points.settings(learner, tasks)
    fields = made.fields()
    return dataclasses.replace(made, settings={name: value for name, value in known.items() if name in fields})


__all__ = ["Experiment", "Measure", "Problem", "combination", "experiment"]
