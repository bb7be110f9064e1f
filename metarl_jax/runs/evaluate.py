"""Measure a trained run and its experiment's oracles on the same held-out tasks."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from metarl_jax.evaluation import Evaluation, meta_test
from metarl_jax.experiments.base import Experiment, Measure, Problem
from metarl_jax.ops.statistics import mean_with_interval, stratified_bootstrap
from metarl_jax.runs import files, migrations, train
from metarl_jax.runs.errors import StorageError, UserError, storing
from metarl_jax.runs.files import check_shape, finite
from metarl_jax.runs.folder import RunFolder, versions
from metarl_jax.types import Adaptation, Key, State, Task

Adapt: TypeAlias = Callable[[Key, State, Task], Adaptation]

SCHEMA = 3
FEWEST_SEEDS = 3
"""The smallest number of seeds over which an interval is computed. The bootstrap of two seeds can only give the range
between them."""
EVALUATION_TAG = 0x4556414C
"""The number that is folded into the key of held-out tasks. No ``split`` of a training key gives the result (compare
``train.VALIDATION_TAG``)."""
PILOT_TAG = 0x50494C4F
"""The number that is folded into the key of the held-out tasks of a pilot, which are not those of the evaluation."""
PILOT_TASKS = 256
"""The number of held-out tasks of a pilot."""


def _summary(name: str, evaluation: Evaluation, measure: Measure) -> dict[str, Any]:
    """Compute the statistics of one learner, as the evaluation file has them.

    The statistics are the reported score with its 95 % interval over tasks and its interquartile mean (IQM) over seeds,
    and the mean score and the success rate of each stage. A mean that is not finite, because adaptation diverged on a
    task, is None.
    """
    scores = np.asarray(evaluation.score, np.float64)
    reported = measure.headline(scores)
    per_seed = reported.mean(axis=1)
    # All seeds adapted to the same tasks, so the mean over seeds on one task is one observation.
    over_tasks = mean_with_interval(reported.mean(axis=0))
    by_stage = [mean_with_interval(scores[..., stage].mean(axis=0)) for stage in range(scores.shape[-1])]
    summary: dict[str, Any] = {
        "name": name,
        "score": over_tasks.mean,
        "ci95": [over_tasks.low, over_tasks.high],
        "per_seed": per_seed.tolist(),
        "score_by_stage": [stage.mean for stage in by_stage],
        "ci95_by_stage": [[stage.low, stage.high] for stage in by_stage],
        "per_seed_by_stage": scores.mean(axis=1).tolist(),
    }
    if len(per_seed) > 1:
        over_seeds = stratified_bootstrap(per_seed[:, None])
        interval = [over_seeds.low, over_seeds.high] if len(per_seed) >= FEWEST_SEEDS else [None, None]
        summary["over_seeds"] = {"iqm": over_seeds.mean, "ci95": interval}
    if evaluation.success is not None:
        success = np.asarray(evaluation.success, np.float64)
        intervals = [mean_with_interval(success[..., stage].mean(axis=0)) for stage in range(success.shape[-1])]
        summary["success_by_stage"] = [stage.mean for stage in intervals]
        summary["success_ci95_by_stage"] = [[stage.low, stage.high] for stage in intervals]
        summary["per_seed_success_by_stage"] = success.mean(axis=1).tolist()
    if evaluation.regret is not None:
        summary["cumulative_regret"] = np.asarray(evaluation.regret, np.float64).mean(axis=(0, 1)).tolist()
    return finite(summary)


def gain(over: str, ours: np.ndarray, other: np.ndarray, measure: Measure) -> dict[str, Any]:
    """Compute the mean paired difference between the trained learner and another learner.

    A difference is taken on each task, so that the difficulty of the task cancels. A positive value means that the
    trained learner is better.

    Args:
        over: the name of the other learner.
        ours: scores of the trained learner, ``[S, N]`` for S seeds and N tasks.
        other: scores of the other learner, ``[S, N]`` or ``[1, N]``.
        measure: the measure, which says whether higher is better.
    """
    with np.errstate(invalid="ignore"):
        # Both scores may be infinite.
        difference = (ours - other) * (1 if measure.higher_is_better else -1)
    mean = mean_with_interval(difference.mean(axis=0))
    per_seed = difference.mean(axis=1).tolist()
    return finite({"over": over, "mean": mean.mean, "ci95": [mean.low, mean.high], "per_seed": per_seed})


def tasks_for(precision: float, pilot: np.ndarray) -> int | None:
    """Return the number of tasks whose mean score is within ``precision`` of the expected score with 95 % confidence.

    The rule is Stein's (1945, "A two-sample test for a linear hypothesis whose power is independent of the variance"):
    ``(t s / precision)^2`` tasks, and at least as many as the pilot has. Here s is the standard deviation of the pilot,
    and t is the quantile of Student's distribution for its number of tasks. The interval that is reported comes from
    the new tasks alone, so that its half-width is only about ``precision``.

    Args:
        precision: the largest error.
        pilot: scores of S seeds on the N tasks of a pilot, ``[S, N]``.

    Returns:
        The number of tasks; None if a score is not finite, because adaptation diverged.
    """
    estimate, number = mean_with_interval(pilot.mean(axis=0)), pilot.shape[1]
    half_width = (estimate.high - estimate.low) / 2
    needed = number * (half_width / precision) ** 2
    return max(number, math.ceil(needed)) if math.isfinite(needed) else None


def path_of(folder: RunFolder, iteration: int, tasks: int, changes: Mapping[str, Any], seed: int) -> Path:
    """Return the path of an evaluation. The name identifies everything that the evaluation depends on.

    Changed settings appear in the name as a hash.
    """
    text = json.dumps(dict(changes), sort_keys=True)
    changed = f"-changed-{hashlib.sha256(text.encode()).hexdigest()[:16]}" if changes else ""
    return folder.path / f"evaluation-iteration{iteration}-tasks{tasks}{changed}-seed{seed}.json"


def _measured(path: Path, iteration: int, tasks: int, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Read the evaluation in a file, and check that it agrees with the name of the file.

    Raises:
        UserError: if the file holds another evaluation, is damaged, or has another schema.
    """
    result = read(path)
    asked = {"iteration": iteration, "tasks": tasks, "changes": dict(changes), "seed": seed}
    for name, value in asked.items():
        if result[name] != value:
            raise UserError(
                f"{path} holds an evaluation with {name} {result[name]}, not {value}: move it away to evaluate again"
            )
    return result


def evaluate(
    folder: RunFolder,
    tasks: int | None,
    changes: Mapping[str, Any],
    seed: int,
    say: Callable[[str], None],
    *,
    best: bool = False,
    precision: float | None = None,
) -> dict[str, Any]:
    """Evaluate the newest checkpoint and the oracles. If the file of that evaluation exists, read it instead.

    Args:
        folder: the run.
        tasks: the number of held-out tasks; None for the experiment's number.
        changes: settings that differ from those of training, by name. Examples are longer trials, more data for each
            gradient step, or other held-out tasks.
        seed: the seed of the tasks and of the randomness of every learner.
        say: a function that gets a line for each learner.
        best: whether to evaluate the state with the best validation score, if the run kept it, instead of the newest.
        precision: the half-width of the learner's 95 % interval that is enough, in units of the score. A pilot on other
            tasks determines how many of the tasks give it (``tasks_for``), and the others are not tested. None, or no
            more tasks than a pilot has: all tasks are tested.

    Returns:
        The content of the evaluation file.

    Raises:
        UserError: if no checkpoint can be used, or if the settings do not fit the learner or are out of range.
        StorageError: if the result cannot be written.
    """
    config = folder.config
    experiment = config.resolve()
    trained = train.build(config)
    checkpoint = train.load_states(folder, trained, best=best)
    changes = {name: value for name, value in changes.items() if value != config.settings.get(name)}
    problem = _changed(experiment, trained, config.settings, changes)
    stages = problem.stages
    tasks = experiment.heldout_tasks if tasks is None else tasks
    measure = experiment.measure
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), EVALUATION_TAG), seed)

    def adapted(adapt: Adapt, states: State, seeds: int, key: Key, tasks: int) -> Evaluation:
        @jax.jit
        def run(key: Key, states: State) -> Evaluation:
            return meta_test(
                key,
                adapt,
                states,
                problem.tasks,
                num_tasks=tasks,
                num_seeds=seeds,
                batch_size=experiment.heldout_batch,
                optimal_return=problem.optimal_return,
            )

        return run(key, states)

    learner = problem.algorithm.adapt, checkpoint.state.algorithm, config.seeds
    if precision is not None and tasks > PILOT_TASKS:
        pilot = adapted(*learner, jax.random.fold_in(key, PILOT_TAG), PILOT_TASKS)
        enough = tasks_for(precision, measure.headline(np.asarray(pilot.score, np.float64)))
        if enough is None or enough > tasks:
            needs = "cannot be reached" if enough is None else f"needs {enough:,} held-out tasks"
            say(f"a 95 % interval of +-{precision:g} {needs}: {tasks:,} are measured")
        else:
            tasks = enough
    path = path_of(folder, checkpoint.iteration, tasks, changes, seed)
    if files.exists(path):
        result = _measured(path, checkpoint.iteration, tasks, changes, seed)
        say(f"already measured: {path}")
        return result
    if not os.access(folder.path, os.W_OK):
        raise StorageError(f"cannot write {path}: {folder.path} is not writable")

    def test(name: str, adapt: Adapt, states: State, seeds: int) -> tuple[dict[str, Any], np.ndarray]:
        evaluation = adapted(adapt, states, seeds, key, tasks)
        summary = _summary(name, evaluation, measure)
        succeeded = "".join(f"{rate:9.1%}" for rate in summary.get("success_by_stage", ()))
        words = f", success by {measure.stage}:{succeeded}" if succeeded else ""
        say(f"  {name}: {'diverged' if summary['score'] is None else format(summary['score'], '.3f')}{words}")
        return summary, np.asarray(evaluation.score, np.float64)

    otherwise = "".join(f", {name} {value}" for name, value in changes.items() if name != measure.setting)
    say(f"measuring on {tasks} held-out tasks, {stages} {measure.stage}{'s' * (stages != 1)} each{otherwise}")
    name = f"{experiment.learner} (ours)"
    ours, scores = test(name, *learner)
    reported, oracles, gains = measure.headline(scores), [], []
    ours["per_task"] = per_task(reported)
    if measure.first_stage == 0:
        gains.append(gain("no adaptation", reported, scores[..., 0], measure))
    for oracle in experiment.oracles(problem, stages):
        summary, scores = test(oracle.name, oracle.adapt, (), 1)
        oracles.append(summary)
        gains.append(gain(oracle.name, reported, measure.headline(scores), measure))
    same_tasks = has_the_tasks_of(experiment, {**config.settings, **changes})
    as_published = same_tasks and (measure.setting is None or stages == experiment.fields()[measure.setting].default)
    result = {
        "schema": SCHEMA,
        "experiment": config.experiment,
        "iteration": checkpoint.iteration,
        "tasks": tasks,
        "stages": stages,
        "changes": changes,
        "seed": seed,
        "measure": measure._asdict(),
        "training_seeds": config.seeds,
        "ours": ours,
        "oracles": oracles,
        "gains": gains,
        "paper": dict(experiment.paper) if as_published else {},
        "paper_by_stage": {
            name: {str(stage): score for stage, score in scores.items()}
            for name, scores in (experiment.paper_by_stage.items() if same_tasks else ())
        },
        "optimum": experiment.optimum if as_published else None,
        "versions": versions(),
    }
    with storing(f"write {path}"):
        files.write_json(path, result)
    return result


def per_task(reported: np.ndarray) -> list[float | None]:
    """Return the reported score on each task, ``[N]``, for paired comparisons.

    Args:
        reported: the reported scores of S seeds, ``[S, N]``.

    Returns:
        The means over seeds with seven significant digits. None stands for a task on which adaptation diverged.
    """
    return [float(f"{score:.7g}") if np.isfinite(score) else None for score in reported.mean(axis=0)]


def has_the_tasks_of(experiment: Experiment, settings: Mapping[str, Any]) -> bool:
    """Return whether the tasks are those of the experiment's own settings, which published numbers are about."""
    return all(settings[name] == field.default for name, field in experiment.parts().family.items())


def _changed(
    experiment: Experiment, trained: Problem, settings: Mapping[str, Any], changes: Mapping[str, Any]
) -> Problem:
    """Build the experiment with the changed settings of an evaluation.

    Raises:
        UserError: if a setting is wrong, or if the parameters of the trained learner do not fit the changed settings.
    """
    if not changes:
        return trained
    listed = ", ".join(f"{name} {value}" for name, value in changes.items())
    try:
        problem = experiment.build(experiment.with_overrides({**settings, **changes}))
    except ValueError as error:
        raise UserError(str(error)) from None
    was, now = (jax.eval_shape(p.algorithm.init, jax.random.key(0)) for p in (trained, problem))
    if was != now:
        raise UserError(f"the learner cannot be evaluated with {listed}: its parameters were trained for other shapes")
    return problem


_LEARNER: dict[str, Any] = {
    "name": str,
    "score": float,
    "ci95": [float],
    "per_seed": [float],
    "score_by_stage": [float],
    "ci95_by_stage": [[float]],
}
_SHAPE: dict[str, Any] = {
    "experiment": str,
    "iteration": int,
    "tasks": int,
    "stages": int,
    "changes": dict,
    "seed": int,
    "measure": {name: type(value) for name, value in Measure()._asdict().items() if name != "setting"},
    "training_seeds": int,
    "ours": _LEARNER,
    "oracles": [_LEARNER],
    "gains": [{"over": str, "mean": float, "ci95": [float]}],
    "paper": {str: float},
    "paper_by_stage": {str: {str: float}},
    "optimum": float,
    "versions": dict,
}
"""The entries that an evaluation must have, with their types. Numbers may be None."""


def _check_learner(learner: dict[str, Any], stages: int) -> None:
    intervals = [learner["ci95"], *learner["ci95_by_stage"]]
    by_stage = [learner["score_by_stage"], learner["ci95_by_stage"]]
    if "cumulative_regret" in learner:
        check_shape(learner["cumulative_regret"], [float], "cumulative_regret")
        by_stage.append(learner["cumulative_regret"])
    if "per_task" in learner:
        check_shape(learner["per_task"], [float], "per_task")
    if "over_seeds" in learner:
        check_shape(learner["over_seeds"], {"iqm": float, "ci95": [float]}, "over_seeds")
        intervals.append(learner["over_seeds"]["ci95"])
    if any(len(interval) != 2 for interval in intervals):
        raise ValueError(f"an interval of {learner['name']} does not have two ends")
    if not stages or any(len(values) != stages for values in by_stage):
        raise ValueError(f"{learner['name']} does not have one value for each stage")


def read(path: Path) -> dict[str, Any]:
    """Read an evaluation file.

    Raises:
        UserError: if the file is damaged or has another schema.
    """
    result = files.read_json(path)
    schema = result.get("schema")
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, this program has {SCHEMA}")
    try:
        check_shape(result, _SHAPE)
        migrations.rename_learners(result)
        for learner in (result["ours"], *result["oracles"]):
            _check_learner(learner, len(result["ours"]["score_by_stage"]))
        if any(len(gain["ci95"]) != 2 for gain in result["gains"]):
            raise ValueError("the interval of a gain does not have two ends")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return result


def read_all(folder: RunFolder) -> tuple[list[dict[str, Any]], list[UserError]]:
    """Return every evaluation in a run folder, and the errors of the files that cannot be read.

    The evaluations are sorted by three criteria: later iterations first, then evaluations without changed settings
    first, then larger numbers of tasks first.
    """
    found, wrong = [], []
    for path in sorted(folder.path.glob("evaluation-*.json")):
        try:
            found.append(read(path))
        except UserError as error:
            wrong.append(error)
    return sorted(found, key=lambda r: (r["iteration"], not r["changes"], r["tasks"]), reverse=True), wrong
