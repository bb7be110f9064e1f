"""All selection uses validation tasks. The toy family has validation and held-out tasks that disagree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from metarl_jax import cli, experiments
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.experiments.registry import REWARD_OF_TRIAL
from metarl_jax.runs import checkpoints, evaluate, metrics, study, study_folder, train
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.types import Adaptation, Algorithm, Array, Key, Metrics, Task, TaskDistribution

NAME = "rl2-bandit-10x5"
TRAINING, HELDOUT = 1.0, -1.0
"""The only task of each split; validation tasks are the training tasks."""


def algorithm(rate: float | Array) -> Algorithm:
    """The score after n iterations: -(n - 2)^2 - 1000 rate on validation tasks, n + 1000 rate on held-out tasks."""

    def step(key: Key, state: Array) -> tuple[Array, Metrics]:
        del key
        return state + 1, {"loss": jnp.float32(0)}

    def adapt(key: Key, state: Array, task: Task) -> Adaptation:
        del key
        score = jnp.where(task == HELDOUT, state + 1000 * rate, -((state - 2) ** 2) - 1000 * rate)
        return Adaptation(score[None])

    return Algorithm(init=lambda key: jnp.float32(0), step=step, adapt=adapt)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment of that algorithm, under the name of another experiment."""
    found = dataclasses.replace(
        experiments.get(NAME),
        measure=REWARD_OF_TRIAL,
        heldout_tasks=4,
        paper={},
        optimum=None,
    )

    def build(config: RunConfig) -> Problem:
        return Problem(
            family=None,
            inner_problem=None,
            in_context_problem=None,
            algorithm=algorithm(config.settings["learning_rate"]),
            config=None,
            vary=lambda values: algorithm(values["learning_rate"]),
            tasks=TaskDistribution(lambda key: jnp.float32(TRAINING), lambda key: jnp.float32(HELDOUT)),
            optimal_return=None,
            iterations=config.settings["iterations"],
            stages=1,
            steps_per_iteration=1,
        )

    monkeypatch.setattr(experiments, "get", lambda name: found)
    monkeypatch.setattr(Experiment, "oracles", lambda self, problem, stages: [])
    monkeypatch.setattr(train, "build", build)
    return found


def config(toy: Experiment, **changes: Any) -> RunConfig:
    settings = toy.with_overrides({"learning_rate": 1e-3, "iterations": 4, **changes})
    return RunConfig(experiment=NAME, settings=settings, seed=0, seeds=1, evaluate_every=1)


def score_of(evaluation: Mapping[str, Any]) -> float:
    return evaluation["ours"]["score"]


def test_the_best_state_is_best_on_validation_tasks_and_reported_on_heldout_ones(
    toy: Experiment, tmp_path: Path
) -> None:
    run = train.new_run(tmp_path / "run", config(toy))
    assert train.train(run, train.Options(keep_best=True)).finished
    scores = [line["validation_score"] for line in metrics.read(run.metrics)]
    assert scores == [[-2.0], [-1.0], [-2.0], [-5.0]]
    assert train.load_states(run, train.build(run.config), best=True).iteration == 2
    best = evaluate.evaluate(run, None, {}, 0, print, best=True)
    last = evaluate.evaluate(run, None, {}, 0, print)
    assert (best["iteration"], score_of(best)) == (2, pytest.approx(3.0))
    assert (last["iteration"], score_of(last)) == (4, pytest.approx(5.0))


def test_a_study_ranks_by_validation_tasks_and_reports_heldout_ones(
    toy: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = [1e-3, 2e-3, 4e-3]
    asked = study_folder.StudyConfig(
        experiment=NAME,
        settings=config(toy).settings,
        vary={"learning_rate": rates},
        seed=0,
        seeds=3,
    )
    folder = study.new_study(tmp_path / "study", asked)
    assert study.run(folder, train.Options(), None, print) == 0
    assert "  learning_rate=0.002: validation -6.000, held-out 6.000" in capsys.readouterr().out.splitlines()
    result = study.read(folder)
    assert [entry["settings"]["learning_rate"] for entry in result["cells"]] == rates
    assert [entry["validation"]["per_seed"] for entry in result["cells"]] == [
        pytest.approx([-4 - 1000 * rate] * 3) for rate in rates
    ]
    assert [entry["heldout"]["iqm"] for entry in result["cells"]] == pytest.approx([4 + 1000 * rate for rate in rates])
    first, last = "learning_rate=0.001", "learning_rate=0.004"
    assert result["probability_of_improvement"][first][last]["probability"] == 1
    assert result["probability_of_improvement"][last][first]["probability"] == 0
    for cell in folder.cells:
        names = {path.name for path in folder.cell(cell).glob("scores-*")}
        assert names == {f"scores-iteration4-tasks4-{split}.json" for split in ("validation", "heldout")}

    # The table names the tasks of each number.
    titles, rows = study.rows(result)
    best = dict(zip(titles, rows[0], strict=True))
    assert best["cell"] == first
    assert best["validation IQM (95 % interval)"] == "-5.000 (-5.000 to -5.000)"
    assert (best["validation seeds"], best["held-out seeds"]) == (", ".join(["-5.000"] * 3), ", ".join(["5.000"] * 3))
    assert dict(zip(titles, rows[2], strict=True))["held-out IQM (95 % interval)"] == "8.000 (8.000 to 8.000)"
    paired = f"better than {first} by (paired by validation task)"
    assert (best[paired], dict(zip(titles, rows[2], strict=True))[paired]) == ("", "-3.000 (-3.000 to -3.000)")
    study.show(result)
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 validation tasks, by which the cells are ranked and compared" in shown
    assert "4 held-out tasks, by which nothing is selected" in shown
    assert "| validation IQM (95 % interval) |" in (folder.path / "table.md").read_text()


def test_a_cell_whose_adaptation_diverges_on_heldout_tasks_keeps_its_rank(toy: Experiment, tmp_path: Path) -> None:
    asked = study_folder.StudyConfig(
        experiment=NAME, settings=config(toy).settings, vary={"learning_rate": [1e-3, 2e-3]}, seed=0, seeds=2
    )
    folder = study.new_study(tmp_path / "study", asked)
    rows = {
        cell.name: {
            "cell": cell.name,
            "settings": cell.changes,
            "iteration": 4,
            "diverged": {},
            "validation": {"per_seed_by_stage": [[2.0], [3.0]] if index else [[4.0], [5.0]]},
            "heldout": {"per_seed_by_stage": [[1.0], [1.0]] if index else [[1.0], [None]]},
        }
        for index, cell in enumerate(folder.cells)
    }
    result = study.table(folder, toy, rows, 4)
    assert [entry["cell"] for entry in result["cells"]] == list(rows)
    _, shown = study.rows(result)
    assert [row[1].split()[0] for row in shown] == ["4.500", "2.500"]
    assert [row[4].split()[0] for row in shown] == ["diverged", "1.000"]
    assert len(study.write(folder, result)) == 5


def test_a_table_that_was_ranked_by_heldout_tasks_is_refused(toy: Experiment, tmp_path: Path, capsys: Any) -> None:
    asked = study_folder.StudyConfig(experiment=NAME, settings=config(toy).settings, vary={}, seed=0, seeds=1)
    folder = study.new_study(tmp_path / "study", asked)
    (folder.path / "table.json").write_text(json.dumps({"schema": 1, "cells": []}))
    message = rf"table.json has schema 1, this program has 2; to write it again: metarl-jax resume {folder.path}"
    with pytest.raises(UserError, match=message):
        study.read(folder)
    assert cli.main(["report", str(folder.path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    # The message is followed. The study itself has a schema that has not changed.
    assert study.run(study_folder.StudyFolder(folder.path), train.Options(), None, print) == 0
    assert study.read(folder)["schema"] == 2


def older(run: RunFolder) -> None:
    """Convert a run to the form of the version before validation tasks: its metrics and the score of its best state."""
    run.metrics.write_text(run.metrics.read_text().replace("validation_score", "heldout_score"))
    problem = train.build(run.config)
    for path in (*checkpoints.paths(run.checkpoints), run.best):
        if path.exists():
            target = train.load_states(run, problem).state
            found = checkpoints.load(path, target, run.config.hash(), problem.iterations)
            extra = {"wall_s": found.extra["wall_s"], "diverged": {}, "best": 1e6}
            checkpoints.write(path, found.state, found.iteration, run.config.hash(), extra)


def test_a_run_of_an_older_version_resumes_and_selects_again(
    toy: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stored best score is on held-out tasks, so scores on validation tasks cannot be compared with it."""
    run = train.new_run(tmp_path / "run", config(toy))
    options = train.Options(keep_best=True, checkpoint_every=1)
    assert not train.train(run, dataclasses.replace(options, time_limit=0.0)).finished
    older(run)
    capsys.readouterr()
    assert train.load_states(run, train.build(run.config), best=True).iteration == 1
    chosen = f"metarl-jax: warning: an older version chose {run.best}"
    assert capsys.readouterr().err == f"{chosen} by its score on held-out tasks: its score there is optimistic\n"
    assert train.train(run, options).finished
    assert f"{chosen} on held-out tasks; with --keep-best it is soon replaced\n" in capsys.readouterr().err
    best = train.load_states(run, train.build(run.config), best=True)
    assert (best.iteration, best.extra["best_validation_score"]) == (2, -1.0)
    assert capsys.readouterr().err == ""
    stored = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert ["heldout_score" in line for line in stored] == [True, False, False, False]
    assert [line["validation_score"] for line in metrics.read(run.metrics)] == [[-2.0], [-1.0], [-2.0], [-5.0]]
