"""Trackers: they get the metrics, they never stop training, and W&B reads no settings from a run folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from metarl_jax import cli, experiments, options
from metarl_jax.runs import hosts, metrics, tracking, weights_and_biases
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder

EXPERIMENT = "fomaml-sinusoid"
SMALL = [
    *("--iterations", "6", "--tasks", "4", "--adaptation-steps", "1", "--units", "4"),
    *("--evaluate-every", "3", "--evaluation-tasks", "16", "--seeds", "2"),
]
OWN = '''
import json

class Lines:
    """The tracker of the documentation, with more in a line."""

    def start(self, run):
        self.file = open(run.path / "lines.txt", "a")
        print(json.dumps([run.name, run.group, run.iteration, run.settings["units"]]), file=self.file, flush=True)
        return f"lines of {run.name}"

    def log(self, iteration, values):
        print(json.dumps([iteration, values]), file=self.file, flush=True)

    def close(self):
        print("closed", file=self.file)
        self.file.close()

def make():
    return Lines()

class Broken:
    def start(self, run):
        raise RuntimeError("no\\nnetwork")

    log = close = start

NUMBER = 3
def wrong():
    return NUMBER

class Half:
    def start(self, run): ...
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with trackers of the user."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that has not been trained yet."""
    return make_folder(tmp_path / "the-run")


def make_folder(path: Path) -> RunFolder:
    (path / "checkpoints").mkdir(parents=True)
    settings = experiments.get(EXPERIMENT).with_overrides({"iterations": 6, "units": 4})
    config = RunConfig(experiment=EXPERIMENT, settings=settings, seed=0, seeds=2, evaluate_every=3)
    (path / "config.json").write_text(json.dumps(config.stored()))
    return RunFolder(path)


class Recorder:
    """A tracker that stores all calls, and may raise an error or wait."""

    def __init__(self, fails_at: str = "", waits: threading.Event | None = None) -> None:
        self.calls: list[Any] = []
        self.fails_at, self.waits = fails_at, waits

    def _take(self, name: str, *arguments: Any) -> None:
        if self.waits is not None:
            assert self.waits.wait(60)
        self.calls.append((name, *arguments))
        if name == self.fails_at:
            raise OSError(f"cannot {name}")

    def start(self, run: tracking.TrackedRun) -> None:
        self._take("start", run)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._take("log", iteration, values)

    def close(self) -> None:
        self._take("close")


def background(folder: RunFolder, make: Callable[[], Any], iteration: int = 0) -> tracking.Background:
    said: list[str] = []
    return tracking.Background(tracking.Named("own", make), tracking.tracked(folder, iteration), said.append)


def test_a_tracker_is_told_of_the_run_and_gets_the_metrics_in_order(folder: RunFolder) -> None:
    recorder = Recorder()
    tracker = background(folder, lambda: recorder, iteration=2)
    tracker.log(3, {"loss": 1.0})
    tracker.log(4, {"loss": 0.5})
    tracking.close([tracker], print)
    (start, run), *logged, end = recorder.calls
    assert (start, *end) == ("start", "close")
    assert logged == [("log", 3, {"loss": 1.0}), ("log", 4, {"loss": 0.5})]
    assert (run.path, run.name, run.group, run.iteration) == (folder.path, "the-run", None, 2)
    assert run.settings == {
        **folder.config.settings,
        **{"experiment": EXPERIMENT, "seed": 0, "seeds": 2, "evaluate_every": 3},
    }


def test_a_cell_is_named_after_its_study(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "the-study" / "cells" / "inner_rate=0.1")
    assert tracking.tracked(folder, 0).group is None
    (tmp_path / "the-study" / "study.json").write_text("{}")
    run = tracking.tracked(folder, 0)
    assert (run.name, run.group) == ("the-study/inner_rate=0.1", "the-study")


@pytest.mark.parametrize("place", ["start", "log", "close"])
def test_a_tracker_that_fails_gives_one_warning(folder: RunFolder, capsys: Any, place: str) -> None:
    recorder = Recorder(fails_at=place)
    tracker = background(folder, lambda: recorder)
    for iteration in (1, 2, 3):
        tracker.log(iteration, {"loss": 1.0})
    tracking.close([tracker], print)
    assert recorder.calls[-1][0] == place
    assert capsys.readouterr().err == (
        f"metarl-jax: warning: own has failed, training goes on without it: OSError: cannot {place}\n"
    )


def test_a_function_that_makes_no_tracker_gives_one_warning(folder: RunFolder, capsys: Any) -> None:
    tracking.close([background(folder, lambda: 3)], print)
    tracking.close([background(folder, lambda: sys.exit("bye"))], print)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("TypeError: it returned a int, which has no methods start, log and close")
    assert second.endswith("SystemExit: bye")


def test_training_does_not_wait_for_a_slow_tracker(folder: RunFolder, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(tracking, "MOST_WAITING", 2)
    monkeypatch.setattr(tracking, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    waits = threading.Event()
    recorder = Recorder(fails_at="close", waits=waits)
    tracker = background(folder, lambda: recorder)
    began = time.monotonic()
    for iteration in range(1, 9):
        tracker.log(iteration, {"loss": 1.0})
    assert time.monotonic() - began < 0.1
    tracking.close([tracker], print)
    assert time.monotonic() - began < 5
    captured = capsys.readouterr()
    assert captured.out == "waiting for own, for 0.2 s at most\n"
    assert captured.err.splitlines() == [
        "metarl-jax: warning: own is too slow: some metrics are left out there from iteration 3 on",
        "metarl-jax: warning: own does not end: some metrics may be missing there",
    ]
    waits.set()
    assert tracker.ended(time.monotonic() + 60)
    # The request to end replaces the oldest metrics.
    assert [call[:2] for call in recorder.calls[1:]] == [("log", 2), ("close",)]
    assert capsys.readouterr().err == ""


def test_scalars_are_named_by_seed_and_missing_values_are_left_out() -> None:
    line = {"iteration": 3, "steps": 30, "wall_s": 1.5, "loss": [0.5, None], "return": [1.0, 2.0]}
    assert metrics.scalars(line, [7, 8]) == {"loss/seed-7": 0.5, "return/seed-7": 1.0, "return/seed-8": 2.0}
    assert metrics.scalars({"iteration": 3, "loss": [0.5]}, [7]) == {"loss": 0.5}


def test_tensorboard_gets_events_in_the_run_folder(folder: RunFolder) -> None:
    tracker = background(folder, tracking.TensorBoard)
    tracker.log(1, {"loss/seed-0": 0.5})
    tracking.close([tracker], print)
    (events,) = folder.events.iterdir()
    assert events.name.startswith("events.out.tfevents.") and b"loss/seed-0" in events.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wandbb"], r"--track must be wandb, FILE.py:NAME or PACKAGE.MODULE:NAME, not 'wandbb' \(did you mean wandb"),
        (["{own}:Lines", "{own}:Lines"], "--track names .*own.py:Lines twice"),
        (["{own}:Line"], r"--track .*own.py has no 'Line' \(did you mean Lines"),
        (["{own}:NUMBER"], "--track .*own.py:NUMBER must be a class or a function, not an object of type int"),
        (["{own}:Half"], "own.py:Half: the class has no method 'log'; a tracker has start, log, close"),
        (["nothing.py:make"], "--track nothing.py:make: nothing.py cannot be read: No such file"),
    ],
)
def test_a_word_that_names_no_tracker_is_refused(own: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tracking.load([word.format(own=own) for word in words])


def test_wandb_needs_its_package(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--track wandb needs the package wandb: pip install '\.\[wandb\]' in a check"):
        tracking.load(["wandb"])


def test_only_the_first_process_tracks(own: Path, monkeypatch: Any) -> None:
    asked, _ = options.parse(options.Resume, ["--track", f"{own}:make"], program="", description="")
    monkeypatch.setattr(hosts, "speak_once", lambda: None)
    assert [kind.name for kind in cli._prepare(asked)] == [f"{own}:make"]
    monkeypatch.setattr(hosts, "first", lambda: False)
    assert cli._prepare(asked) == ()


def read(path: Path) -> list[Any]:
    return [text if text == "closed" else json.loads(text) for text in path.read_text().splitlines()]


@pytest.mark.slow
def test_training_with_trackers(own: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    path = tmp_path / "run"
    assert cli.main(["train", EXPERIMENT, *SMALL, "--run-dir", str(path), "--track", "wandbb"]) == 2
    assert not path.exists() and "not 'wandbb'" in capsys.readouterr().err
    words = ["--track", f"{own}:Lines", "--track", f"{own}:Broken", "--time-limit", "1e-9"]
    assert cli.main(["train", EXPERIMENT, *SMALL, "--run-dir", str(path), *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        f"metarl-jax: warning: {own}:Broken has failed, training goes on without it: RuntimeError: no network\n"
    )
    assert "lines of run\n" in captured.out
    first = read(path / "lines.txt")
    assert first[0] == ["run", None, 0, 4] and first[-1] == "closed"
    stopped = first[-2][0]
    assert 0 < stopped < 6
    # A resume without the option has no trackers.
    assert cli.main(["resume", str(path), "--time-limit", "1e-9"]) == 0
    assert read(path / "lines.txt") == first
    assert str(own) not in (path / "config.json").read_text()
    assert cli.main(["resume", str(path), "--track", f"{own}:make"]) == 0
    second = read(path / "lines.txt")[len(first) :]
    lines = {line["iteration"]: line for line in metrics.read(path / "metrics.jsonl")}
    assert stopped < second[0][2] < 6 and second[-1] == "closed"
    assert second[-2] == [6, metrics.scalars(lines[6], [0, 1])]
    assert set(second[-2][1]) >= {"loss/seed-0", "loss/seed-1", "validation_score/seed-0"}
    assert len(list((path / "events").iterdir())) == 3


# Weights & Biases.

EVIL = "http://127.0.0.1:9"
SETTINGS = f"[default]\nbase_url = {EVIL}\napi_key = {'e' * 40}\nhttp_proxy = {EVIL}\nentity = evil\n"
CHILD = """
import json, sys
from pathlib import Path
from metarl_jax.runs import tracking, weights_and_biases
from metarl_jax.runs.folder import RunFolder
if "unchecked" in sys.argv:
    weights_and_biases.check_folder = lambda root: None
found = {}
class Told(weights_and_biases.WeightsAndBiases):
    def start(self, run):
        line = super().start(run)
        shown = ("base_url", "api_key", "http_proxy", "entity", "project", "run_name", "run_group", "git_root")
        found.update({name: getattr(self._run.settings, name) for name in shown})
        found.update(id=self._run.id, config=dict(self._run.config))
        return line
path = Path(sys.argv[1])
run = tracking.tracked(RunFolder(path), 0)
run = run._replace(settings={**run.settings, "stranger": "wandb-artifact://evil/evil/evil:v0"})
tracker = tracking.Background(tracking.Named("wandb", Told), run, lambda line: found.update(line=line))
tracker.log(1, {"loss/seed-0": 0.5})
tracker.log(2, {"loss/seed-0": 0.25})
tracking.close([tracker], print)
print(json.dumps(found))
"""


def wandb(folder: RunFolder, home: Path, *words: str, cwd: Path | None = None, **changes: str) -> tuple[Any, str]:
    """Track a run offline in a separate process, and return the settings that W&B used, and standard error."""
    root = Path(__file__).resolve().parent.parent
    home.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB") and name != "NETRC"}
    clean |= {"HOME": str(home), "PYTHONPATH": str(root), "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        clean.pop(name, None)
    command = [sys.executable, "-c", CHILD, str(folder.path), *words]
    place = home if cwd is None else cwd
    done = subprocess.run(command, cwd=place, env=clean | changes, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_wandb_writes_into_the_run_folder_and_resumes_the_same_run(folder: RunFolder, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found, errors = wandb(folder, home)
    assert errors == ""
    assert {name: found[name] for name in ("project", "run_name", "run_group", "api_key", "http_proxy", "entity")} == {
        **{"project": "metarl-jax", "run_name": "the-run"},
        **dict.fromkeys(("run_group", "api_key", "http_proxy", "entity")),
    }
    assert found["config"]["units"] == 4 and found["config"]["experiment"] == EXPERIMENT
    assert "stranger" not in found["config"]
    assert found["line"].startswith("W&B is offline; later: wandb sync ")
    synced = Path(found["line"].split()[-1])
    assert synced.parent == folder.path / "wandb" and len(list(synced.glob("*.wandb"))) == 1
    assert list(home.iterdir()) == []
    assert {path.name for path in folder.path.iterdir()} == {"checkpoints", "config.json", "wandb"}
    links = [path for path in folder.path.rglob("*") if path.is_symlink()]
    assert all(path.resolve().is_relative_to(folder.path.resolve()) for path in links)
    again, errors = wandb(folder, home, WANDB_PROJECT="mine")
    assert errors == ""
    assert again["id"] == found["id"] and again["project"] == "mine"
    assert json.loads((folder.path / "wandb" / "metarl-jax.json").read_text()) == {"id": found["id"]}


def test_planted_settings_cannot_redirect_wandb(folder: RunFolder, tmp_path: Path) -> None:
    """Planted settings are refused. Without that check, W&B reads them only in the working directory.

    A working directory in the run folder is refused as well.
    """
    home = tmp_path / "home"
    for name in ("wandb", ".wandb"):
        (folder.path / name).mkdir()
        (folder.path / name / "settings").write_text(SETTINGS)
    found, errors = wandb(folder, home)
    assert found == {}
    assert errors == (
        "metarl-jax: warning: wandb has failed, training goes on without it: "
        f"{folder.path / 'wandb' / 'settings'} could redirect what W&B sends: delete it, or move it away\n"
    )
    found, _ = wandb(folder, home, "unchecked")
    assert (found["base_url"], found["api_key"], found["http_proxy"], found["entity"]) != (EVIL, "e" * 40, EVIL, "evil")
    assert "wandb" in found["base_url"] or "coreweave" in found["base_url"]
    assert (found["api_key"], found["http_proxy"], found["entity"]) == (None, None, None)
    # The check is necessary: W&B reads the settings if the working directory is the run folder.
    found, _ = wandb(folder, home, "unchecked", cwd=folder.path)
    assert (found["base_url"], found["http_proxy"], found["entity"]) == (EVIL, EVIL, "evil")
    (folder.path / "wandb" / "settings").unlink()
    found, errors = wandb(folder, home, cwd=folder.path)
    assert found == {} and "start the command in another directory" in errors


def test_planted_git_settings_run_no_program(folder: RunFolder, tmp_path: Path) -> None:
    program = folder.path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'executed'}\n")
    program.chmod(0o755)

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(folder.path), *words], check=True, capture_output=True)

    git("init")
    git("config", "core.fsmonitor", str(program))
    git("status")
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    found, errors = wandb(folder, tmp_path / "home")
    assert errors == "" and found["git_root"] is None
    assert not (tmp_path / "executed").exists()


def test_wandb_without_a_key_does_not_prompt(folder: RunFolder, tmp_path: Path) -> None:
    found, errors = wandb(folder, tmp_path / "home", WANDB_MODE="online")
    assert found == {}
    assert errors.startswith("metarl-jax: warning: wandb has failed, training goes on without it: UsageError: No API")
    assert len(errors.splitlines()) == 1


def test_planted_files_for_wandb_are_refused(folder: RunFolder, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    root, outside = folder.path, tmp_path / "outside"
    outside.mkdir()
    weights_and_biases.check_folder(root)
    (root / "wandb").symlink_to(outside)
    with pytest.raises(UserError, match=r"wandb cannot be used: it is a symbolic link"):
        weights_and_biases.check_folder(root)
    (root / "wandb").unlink()
    (root / "wandb" / "cache").mkdir(parents=True)
    (root / "wandb" / "cache" / "logs").symlink_to(outside)
    with pytest.raises(UserError, match=r"cache/logs is a symbolic link"):
        weights_and_biases.check_folder(root)
    (root / "wandb" / "cache" / "logs").unlink()
    earlier = root / "wandb" / "run-20261130_121654-0123456789abcdef"
    (earlier / "logs").mkdir(parents=True)
    (earlier / "logs" / "debug-core.log").symlink_to(outside)
    weights_and_biases.check_folder(root)
    (root / "wandb" / "run-20261130_121655-0123456789abcdef").symlink_to(outside)
    with pytest.raises(UserError, match=r"run-20261130_121655-0123456789abcdef is a symbolic link"):
        weights_and_biases.check_folder(root)
    (root / "wandb" / "run-20261130_121655-0123456789abcdef").unlink()
    (root / "wandb" / "settings").write_text(SETTINGS)
    with pytest.raises(UserError, match="wandb/settings could redirect what W&B sends"):
        weights_and_biases.check_folder(root)


@pytest.mark.parametrize("place", [".", "cells", "cells/a", "cells/a/checkpoints"])
def test_wandb_is_not_started_in_a_run_folder_or_a_study(tmp_path: Path, monkeypatch: Any, place: str) -> None:
    folder = make_folder(tmp_path / "study" / "cells" / "a")
    (tmp_path / "study" / "study.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "study")
    (tmp_path / "cell").symlink_to(folder.path)
    for start in (tmp_path / "study", tmp_path / "link"):
        monkeypatch.chdir(start / place)
        for path in (folder.path, tmp_path / "cell", tmp_path / "link" / "cells" / "a"):
            with pytest.raises(UserError, match=r"which is in .*: start the command in another directory"):
                weights_and_biases.check_folder(path)
    monkeypatch.chdir(tmp_path)
    weights_and_biases.check_folder(folder.path)


@pytest.mark.parametrize("identifier", ["", "https://evil", "../../x", "0123456789abcde", "0123456789abcdef\n", 3])
def test_an_invalid_id_is_refused(tmp_path: Path, identifier: Any) -> None:
    path = tmp_path / "metarl-jax.json"
    path.write_text(json.dumps({"id": identifier}))
    with pytest.raises(UserError, match=r"does not hold the id of a run|cannot be read"):
        weights_and_biases._identifier(path)
    path.unlink()
    made = weights_and_biases._identifier(path)
    assert len(made) == 16 and weights_and_biases._identifier(path) == made
