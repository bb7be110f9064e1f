"""The command line: what it offers, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import metarl_jax
from metarl_jax import cli, experiments

NAME = "rl2-bandit-10x5"


def _error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail; return its one line of complaint."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("metarl-jax: error: ")
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    return captured.err


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "did you mean train?"),
        (["train"], "name of an experiment"),
        (["train", "rl2-bandit-10x6"], "did you mean rl2-bandit-10x5"),
        (["train", NAME, "--learnin-rate", "0.1"], "did you mean --learning-rate"),
        (["train", "--learning-rte", "0.1", NAME], "did you mean --learning-rate"),
        (["train", NAME, "--learning-rate", "fast"], "--learning-rate: must be a number, not 'fast'"),
        (["train", NAME, "--learning-rate"], "--learning-rate: expected one argument"),
        (["train", NAME, "--trials", "3.5"], "--trials: must be a whole number, not '3.5'"),
        (["train", NAME, "--normalise-advantages", "perhaps"], "must be true or false, not 'perhaps'"),
        (["train", NAME, "--cell", "gruu"], "did you mean gru?"),
        (["train", NAME, "--hidden-size", "0"], "hidden_size must be a positive whole number, not 0"),
        (["train", NAME, "--hidden-size", "-3"], "hidden_size must be a positive whole number, not -3"),
        (["train", NAME, "--embedding-size", "-1"], "embedding_size must be a whole number of at least 0, not -1"),
        (["train", NAME, "--readout-size", "-1"], "readout_size must be a whole number of at least 0, not -1"),
        (["train", NAME, "--trials", "0"], "trials must be a positive whole number, not 0"),
        (["train", NAME, "--iterations", "0"], "iterations must be a positive whole number, not 0"),
        (["train", NAME, "--minibatches", "5", "--trials", "8"], "trials (8) must be a multiple of minibatches (5)"),
        (["train", NAME, "--learning-rate", "nan"], "learning_rate must be a finite number above 0, not nan"),
        (["train", NAME, "--learning-rate", "inf"], "learning_rate must be a finite number above 0, not inf"),
        (["train", NAME, "--learning-rate", "1e999"], "learning_rate must be a finite number above 0, not inf"),
        (["train", NAME, "--learning-rate", "-1"], "learning_rate must be a finite number above 0, not -1.0"),
        (["train", NAME, "--discount", "1.5"], "discount must be a finite number at least 0 and at most 1, not 1.5"),
        (["train", NAME, "--seed", "-1"], "--seed: must be a whole number from 0 to 4294967295, not '-1'"),
        (
            ["train", NAME, "--seed", "4294967295", "--seeds", "2"],
            "seeds 4294967295 .. 4294967296 are not all from 0 to",
        ),
        (["study", NAME, "--seed", "4294967292"], "seeds 4294967292 .. 4294967296 are not all from 0 to 4294967295"),
        (["train", NAME, "--seeds", "0"], "--seeds: must be a whole number at least 1, not '0'"),
        (["train", NAME, "--evaluate-every", "0"], "--evaluate-every: must be a whole number at least 1, not '0'"),
        (["train", NAME, "--checkpoint-every", "x"], "--checkpoint-every: must be a whole number, not 'x'"),
        (["train", NAME, "--evaluation-tasks", "1"], "--evaluation-tasks: must be a whole number at least 2"),
        (["train", NAME, "--time-limit", "nan"], "--time-limit: must be a finite number of minutes above 0"),
        (["train", "maml-omniglot-5x1"], "there is no Omniglot at data/omniglot.npz: copy an omniglot.npz there, or"),
        (["train", "maml-omniglot-5x1", "--data-dir", "over/there"], "there is no Omniglot at over/there/omniglot.npz"),
        (["train", "maml-glyphs-5x1", "--ways", "0"], "ways must be a positive whole number, not 0"),
        (["train", "maml-glyphs-5x1", "--architecture", "convolution"], "did you mean convolutional?"),
        (["train", NAME, "extra"], "unexpected argument 'extra'"),
        (["train", "--resume", "nowhere"], "there is no run folder nowhere"),
        (["train", "--resume", "."], "is no run folder: it has no config.json"),
        (["evaluate"], "evaluate needs a run folder"),
        (["evaluate", "nowhere"], "there is no run folder nowhere"),
        (["evaluate", "."], "is no run folder"),
        (["report", "nowhere"], "there is no run folder nowhere"),
        (["report", "."], "is no run folder"),
        (["list", "--all"], "unknown option --all"),
        (["train", "pearl-point-robot-dense", "--episodes", "8"], "that are measured is --adaptation-episodes"),
        (["train", "maml-sinusoid", "--gradient-steps", "8"], "gradient steps that are measured is --adaptation-steps"),
        (["train", "varibad-gridnavi", "--kl", "0"], "unknown option --kl (did you mean --kl-weight?)"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    assert expected in _error(capsys, arguments)
    assert not list(tmp_path.iterdir())


def _store(folder: Path, name: str, **changes: Any) -> None:
    """A run folder with nothing but its configuration."""
    settings = experiments.get(name).with_overrides({})
    stored = {"schema": 1, "experiment": name, "settings": settings, "seed": 0, "seeds": 1, "evaluate_every": 5}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(stored | changes))


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("varibad-gridnavi", "--episodes", "--episodes is a setting of training: the number of episodes"),
        ("pearl-point-robot-dense", "--episodes", "unknown option --episodes: the number of episodes"),
    ],
)
def test_evaluate_names_the_setting_that_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, option: str, expected: str
) -> None:
    _store(tmp_path / "run", name)
    said = _error(capsys, ["evaluate", "run", option, "8"])
    assert said == f"metarl-jax: error: {expected} that are measured is --adaptation-episodes\n"


def test_stored_seeds_out_of_range_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _store(tmp_path / "run", NAME, seed=2**32 - 1, seeds=2)
    for command in (["train", "--resume"], ["evaluate"], ["report"], ["watch"]):
        said = _error(capsys, [*command, "run"])
        assert "config.json cannot be read: seeds 4294967295 .. 4294967296 are not all from 0 to 4294967295" in said


def test_more_devices_than_cores_are_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    for command in ("train", "study"):
        assert "there are 2 devices (CPU cores) here, not 9" in _error(capsys, [command, NAME, "--devices", "9"])
    # JAX has two devices in these tests, which need not be cores.
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert "there are 2 devices (cpu) here, not 9" in _error(capsys, ["train", NAME, "--devices", "9"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            AssertionError(),
            "JAX_PLATFORMS=cuda names no device that JAX finds here; NVIDIA GPUs need: pip install '.[cuda]'",
        ),
        (RuntimeError("no such\nbackend"), "JAX_PLATFORMS=cuda names no device that JAX finds here: no such backend; "),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    _store(tmp_path / "run", NAME)

    def none(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(jax, "local_devices", none)
    monkeypatch.setattr(type(jax.config), "jax_platforms", "cuda")
    for command in (["train", NAME], ["study", NAME], ["evaluate", "run"], ["report", "run"], ["record", "run"]):
        assert expected in _error(capsys, command)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "config.json"]


def test_a_platform_that_is_not_there_ends_a_real_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metarl_jax", "train", NAME]
    environment = {**os.environ, "JAX_PLATFORMS": "nonsense", "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("metarl-jax: error: JAX_PLATFORMS=nonsense names no device that JAX finds here: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert "exists already" in _error(capsys, ["train", NAME, "--run-dir", "mine"])
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.tex"]
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_file_is_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "there is no run folder" in _error(capsys, ["report", "file"])
    assert "exists already" in _error(capsys, ["train", NAME, "--run-dir", "file"])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}', '{"schema": 1, "experiment": 3, "x": 2}'])
def test_a_broken_config_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for command in (["train", "--resume", "."], ["evaluate", "."], ["report", "."]):
        assert "config.json" in _error(capsys, command)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--seed", "1"], "--seed 1 contradicts the run in run: it has 0"),
        (["--seeds", "2"], "--seeds 2 contradicts the run in run: it has 1"),
        (["--learning-rate", "0.5"], "--learning-rate 0.5 contradicts the run in run"),
        (["--cell", "lstm"], "--cell lstm contradicts the run in run: it has gru"),
        (["--evaluate-every", "3"], "--evaluate-every 3 contradicts the run in run: it has 5"),
        (["rl2-bandit-10x10"], "run is a run of rl2-bandit-10x5, not of rl2-bandit-10x10"),
        (["--run-dir", "other"], "--run-dir is for new runs"),
    ],
)
def test_a_resume_refuses_contradictions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], expected: str
) -> None:
    settings = experiments.get(NAME).with_overrides({})
    stored = {"schema": 1, "experiment": NAME, "settings": settings, "seed": 0, "seeds": 1, "evaluate_every": 5}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    assert expected in _error(capsys, ["train", "--resume", "run", *options])


def test_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in experiments.names())


def test_list_and_the_package_import_nothing_heavy() -> None:
    program = "import sys, metarl_jax.cli as c; c.main(['list']); print('jax' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False False"


def test_help_describes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", NAME, "--help"]) == 0
    printed = capsys.readouterr().out
    for name, field in experiments.get(NAME).fields().items():
        assert f"--{name.replace('_', '-')}" in printed
        assert field.description


def test_python_m_works() -> None:
    result = subprocess.run([sys.executable, "-m", "metarl_jax", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, metarl_jax.__version__)
