"""Algorithms of the package as learners of the benchmark: they are trained within the budget, and act as agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl_jax import experiments
from metarl_jax.agents import Agent
from metarl_jax.benchmark.families import Entry
from metarl_jax.benchmark.playing import Interface
from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, combination
from metarl_jax.runs import agent_files, train
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.files import exists
from metarl_jax.runs.folder import RunConfig, RunFolder, default_evaluate_every


class AgentLearner:
    """An agent as a learner of the benchmark.

    A learner that adapts by gradient descent takes a step whenever it has played ``adapt_every`` episodes, and all of
    its episodes are scored, those before the first step included.

    Args:
        agent: the agent.
        batched: whether all tasks are played at the same time.
        adapt_every: the number of episodes of a gradient step; it has no effect on other learners.
    """

    final_observation = True

    def __init__(self, agent: Agent, *, batched: bool = True, adapt_every: int = 1) -> None:
        self.batched = batched
        self._agent, self._adapt_every = agent, adapt_every
        self._played, self._first = 0, True

    def reset(self, interface: Interface) -> None:
        """Forget the task."""
        self._agent.reset(interface.seed, batch=interface.tasks)
        self._played, self._first = 0, True

    def act(self, observation: Any, reward: Any, done: Any, *, final_observation: Any = None) -> int | NDArray[Any]:
        """Choose an action."""
        if not self._first:
            self._agent.observe(reward, done, final_observation)
            if self._agent.adapts_by_gradient and np.all(done):
                self._played += 1
                if self._played % self._adapt_every == 0:
                    self._agent.adapt()
        self._first = False
        return self._agent.act(observation)


class Plan(NamedTuple):
    """How an algorithm is trained on a family of the benchmark."""

    experiment: Experiment
    settings: dict[str, Any]
    steps: int
    """The number of environment steps of one seed."""
    adapt_every: int
    """The number of episodes of a gradient step."""


def plan(algorithm: str, entry: Entry, memory: str | None = None, iterations: int | None = None) -> Plan:
    """Choose the preset of an algorithm on a family, or their combination, and fit it into the budgets.

    Args:
        algorithm: the name of the algorithm.
        entry: the family.
        memory: the name of the network; None: the default one, or that of the preset.
        iterations: the largest number of meta-iterations; None: no limit but the budget.

    Raises:
        UserError: if the algorithm does not apply to the family, or one meta-iteration exceeds the budget.
    """
    try:
        experiment = _experiment(algorithm, entry, memory)
        fields = experiment.fields()
        changes = {name: value for name, value in entry.settings.items() if name in fields}
        gradient = registry.algorithm(algorithm).interface == "gradient"
        adapt_every = max(1, entry.episodes // 2)
        if "episodes" in fields:
            changes["episodes"] = adapt_every if gradient else entry.episodes
        if "adaptation_episodes" in fields:
            changes["adaptation_episodes"] = entry.episodes
        # The other part of the trial is played after adaptation, without a further step.
        if gradient and "adaptation_steps" in fields:
            changes["adaptation_steps"] = 1
        settings = experiment.with_overrides(changes)
        problem = experiment.build(settings)
    except (ValueError, ImportError) as error:
        raise UserError(f"{algorithm} on {entry.name}: {error}") from None
    most = entry.budget // problem.steps_per_iteration
    if most < 1:
        raise UserError(f"{algorithm} on {entry.name}: one meta-iteration has more steps than the budget")
    number = min(problem.iterations, most, iterations or most)
    settings["iterations"] = number
    return Plan(experiment, settings, number * problem.steps_per_iteration, adapt_every)


def _experiment(algorithm: str, entry: Entry, memory: str | None) -> Experiment:
    """Return the tuned preset whose number of episodes is nearest, or the combination if there is none."""
    name = registry.algorithm(algorithm).name
    presets = [experiments.get(preset) for preset in experiments.names()]
    network = None if memory is None else combination(algorithm, entry.family, memory).network
    fitting = [
        preset
        for preset in presets
        if preset.tuned
        and (preset.algorithm.replace("-", "_"), preset.family) == (name.replace("-", "_"), entry.family)
        and (network is None or preset.network == network)
        and all(preset.settings.get(key, value) == value for key, value in entry.settings.items())
    ]
    if not fitting:
        return combination(algorithm, entry.family, memory)
    return min(fitting, key=lambda preset: abs(preset.settings.get("episodes", entry.episodes) - entry.episodes))


def trained(chosen: Plan, entry: Entry, seeds: int, folder: Path, minutes: float | None) -> list[AgentLearner] | None:
    """Train an algorithm in a run folder, or continue to train it, and return the learner of each seed.

    Args:
        chosen: the plan.
        entry: the family.
        seeds: the number of seeds.
        folder: the run folder.
        minutes: the time in minutes after which training is stopped and saved; None for no limit.

    Returns:
        The learners; None if the time limit came first.

    Raises:
        UserError: if the folder holds another run.
        SystemExit: if a signal stopped training.
    """
    every = default_evaluate_every(chosen.settings)
    config = RunConfig(
        experiment=chosen.experiment.name, settings=chosen.settings, seed=0, seeds=seeds, evaluate_every=every
    )
    if exists(folder):
        run = RunFolder(folder)
        if run.config.hash() != config.hash():
            raise UserError(f"{folder} holds another run: move it away, or name another folder")
    else:
        run = train.new_run(folder, config)
    outcome = train.train(run, train.Options(time_limit=minutes))
    if outcome.exit_code:
        raise SystemExit(outcome.exit_code)
    if not outcome.finished:
        return None
    found = []
    for seed in range(seeds):
        agent = agent_files.load(folder, seed=seed)
        assert isinstance(agent, Agent)
        # The episodes of a batch must end at the same time for a step of adaptation.
        batched = entry.fixed_length or not agent.adapts_by_gradient
        found.append(AgentLearner(agent, batched=batched, adapt_every=chosen.adapt_every))
    return found
