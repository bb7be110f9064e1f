"""The jobs for an accelerator: their order, their bound of time, and that they go on."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def accelerator(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    yield importlib.import_module("accelerator")
    sys.modules.pop("accelerator", None)


def test_jobs_are_commands_that_exist(accelerator: ModuleType, root: Path) -> None:
    names = [job.name for job in accelerator.JOBS]
    assert len(set(names)) == len(names)
    assert names[0] == "maml-omniglot-5x1"
    for job in accelerator.JOBS:
        text = (root / "benchmarks" / job.script).read_text()
        words = accelerator.command(job, minutes=3, folder=Path("runs"), data=Path("data"), tiny=True)
        assert words[1] == str(root / "benchmarks" / job.script)
        assert ("--minutes" in words) == job.trains
        assert ("--data-dir" in words) == job.data
        # Options of scripts without a shared main program are in their own text.
        if not job.trains:
            assert all(word in text for word in words if word.startswith("--"))


def test_the_whole_is_bounded_and_goes_on(accelerator: ModuleType) -> None:
    now = [0.0]
    jobs = accelerator.JOBS[:5]
    began: list[tuple[str, float]] = []

    def run_job(job: Any, seconds: float) -> Any:
        began.append((job.name, seconds))
        taken = min(300.0, seconds)
        now[0] += taken
        code = 3 if job is jobs[1] else 0
        return accelerator.Outcome(code == 0 and taken == 300.0, code, taken)

    done: dict[str, float] = {}
    saved: list[int] = []
    left = accelerator.work(jobs, done, 16, run_job, lambda: saved.append(len(done)), lambda: now[0])
    # Of 960 seconds, 45 are kept for the last job to save: the third ends before them, the fourth has none.
    assert [name for name, _ in began] == [job.name for job in jobs[:3]]
    assert [seconds for _, seconds in began] == [915.0, 615.0, 315.0]
    assert list(done) == [jobs[0].name, jobs[2].name]
    assert saved == [1, 2]
    assert [(job.name, why) for job, why in left] == [
        (jobs[1].name, "exit code 3"),
        (jobs[3].name, "no time was left"),
        (jobs[4].name, "no time was left"),
    ]
    # The next call begins with what failed.
    began.clear()
    accelerator.work(jobs, done, 60, run_job, lambda: None, lambda: now[0])
    assert [name for name, _ in began] == [jobs[1].name, jobs[3].name, jobs[4].name]


def test_a_command_is_stopped_in_time(accelerator: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    def run(code: str, seconds: float) -> Any:
        return accelerator.run([sys.executable, "-c", code], seconds, None)

    assert run("print('all well')", 60)[:2] == (True, 0)
    assert "all well" in capfd.readouterr().out
    assert run("print('time ran out; call again to go on')", 60)[:2] == (False, 0)
    assert run("raise SystemExit(3)", 60)[:2] == (False, 3)
    begin = time.monotonic()
    outcome = run("import time; print('up', flush=True); time.sleep(60)", 1.0)
    assert not outcome.finished and outcome.code == -15
    assert time.monotonic() - begin < 30
