"""A run that was interrupted, for any reason, gives the same result as an uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarl_jax import cli
from metarl_jax.runs import checkpoints, train
from metarl_jax.runs.folder import RunFolder
from metarl_jax.runs.interrupts import Interrupts

REPOSITORY = Path(__file__).parents[2]


def test_same_seed_same_bits(run, finished) -> None:
    assert run.start("--checkpoint-every", "7") == 0
    assert run.leaves() == finished.leaves()
    assert run.metrics() == finished.metrics()


@pytest.mark.slow
def test_observations_of_width_0_are_normalised_and_trained_on(run) -> None:
    """A bandit has no observations, but their statistics are part of the state."""
    assert run.start("--normalise-observations", "--seeds", "2") == 0
    assert len(run.metrics()) == 20


def test_another_seed_differs(run, finished) -> None:
    assert run.start("--seed", "1") == 0
    assert run.leaves() != finished.leaves()


def test_twelve_and_eight_are_twenty(finished) -> None:
    whole, metrics = finished.leaves(), finished.metrics()
    for later in (16, 20):
        finished.checkpoint(later).unlink()
    assert [line["iteration"] for line in metrics] == list(range(1, 21))
    assert finished.resume() == 0
    assert finished.leaves() == whole
    assert finished.metrics() == metrics


def test_seeds_together_resume_exactly(run) -> None:
    assert run.start("--seeds", "2", "--seed", "5") == 0
    whole, metrics = run.leaves(), run.metrics()
    assert len(metrics[-1]["trial_reward"]) == len(metrics[-1]["validation_score"]) == 2
    assert len(set(metrics[-1]["loss"])) == 2
    for later in (16, 20):
        run.checkpoint(later).unlink()
    assert run.resume() == 0
    assert run.leaves() == whole
    assert run.metrics() == metrics


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 128 + signal.SIGUSR1)])
def test_a_signal_saves_and_prints_the_command_to_resume(run, finished, monkeypatch, capsys, number, code) -> None:
    evaluated = train._validation

    def interrupted(experiment, problem, seeds):
        score = evaluated(experiment, problem, seeds)

        def score_and_signal(*arguments):
            os.kill(os.getpid(), number)
            return score(*arguments)

        return score_and_signal

    monkeypatch.setattr(train, "_validation", interrupted)
    assert run.start() == code
    name = signal.Signals(number).name
    assert capsys.readouterr().err == f"{name}: saved at iteration 5; go on with: metarl-jax resume {run.path}\n"
    assert len(run.metrics()) == 5
    monkeypatch.setattr(train, "_validation", evaluated)
    assert run.resume() == 0
    assert run.leaves() == finished.leaves()
    assert run.metrics() == finished.metrics()


def test_a_signal_during_the_last_save_skips_the_final_report(run, finished, monkeypatch, capsys) -> None:
    saved = checkpoints.save

    def save_and_signal(folder, state, iteration, *arguments, **options):
        if iteration == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        saved(folder, state, iteration, *arguments, **options)

    monkeypatch.setattr(checkpoints, "save", save_and_signal)
    assert run.start() == 143
    assert "SIGTERM: saved at iteration 20; go on with: metarl-jax resume" in capsys.readouterr().err
    assert not list(run.path.glob("evaluation-*"))
    assert run.leaves() == finished.leaves()
    assert run.resume() == 0
    assert (run.path / "report.html").exists()


def test_a_second_signal_has_its_usual_effect() -> None:
    # A process that was started in the background ignores SIGINT. The handler below is the one that users have.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)
            assert interrupts.received == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_time_limit_saves_and_stops(run, finished, capsys) -> None:
    assert run.start("--time-limit", "0.000001") == 0
    assert "metarl-jax resume" in capsys.readouterr().out
    assert 0 < len(run.metrics()) < 20
    assert run.resume() == 0
    assert run.leaves() == finished.leaves()
    assert run.metrics() == finished.metrics()


@pytest.mark.slow
def test_killed_at_random_moments() -> None:
    script = REPOSITORY / "benchmarks" / "kill_test.py"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(script), "--kills", "3", "--iterations", "4000", "--longest", "0.3"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_run_ends_with_its_report(finished) -> None:
    report = (finished.path / "report.html").read_text()
    assert report.startswith("<!doctype html>")
    assert "<h4>Learning</h4>" in report and "<h4>Adaptation</h4>" in report
    assert "Training is not finished" not in report
    assert "--iterations 20 " in re.sub("</?span>", "", report)


def test_the_number_of_held_out_tasks_is_kept_until_another_is_given(run, finished) -> None:
    """The number is not part of the hash that checkpoints store, so it may change."""

    def resumed(*options: str) -> set[str]:
        before = {path.name for path in run.path.glob("evaluation-*")}
        assert cli.main(["resume", str(run.path), *options]) == 0
        return {path.name for path in run.path.glob("evaluation-*")} - before

    assert run.start("--time-limit", "0.000001") == 0
    assert not list(run.path.glob("evaluation-*"))
    assert resumed() == {"evaluation-iteration20-tasks16-seed0.json"}
    assert resumed("--evaluation-tasks", "9") == {"evaluation-iteration20-tasks9-seed0.json"}
    assert resumed() == set()
    assert RunFolder(run.path).config.evaluation_tasks == 9
    assert run.leaves() == finished.leaves()
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "--evaluation-tasks 9" in re.sub("</?span>", "", page)


def test_a_configuration_without_that_number_resumes(finished) -> None:
    file = finished.path / "config.json"
    content = json.loads(file.read_text())
    del content["evaluation_tasks"]
    file.write_text(json.dumps(content))
    assert RunFolder(finished.path).config.evaluation_tasks is None
    finished.checkpoint(20).unlink()
    assert finished.resume() == 0


def test_another_number_is_not_stored_in_a_run_that_trains(finished, capsys) -> None:
    before = finished.content()
    with RunFolder(finished.path).lock():
        assert cli.main(["resume", str(finished.path), "--evaluation-tasks", "9"]) == 2
    assert "another process" in capsys.readouterr().err
    assert finished.content() == before
