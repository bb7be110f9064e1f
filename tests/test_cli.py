"""The command line: its commands, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import metarl_jax
from metarl_jax import cli, experiments
from metarl_jax.experiments import registry
from metarl_jax.runs.folder import RunConfig

NAME = "rl2-bandit-10x5"


def _said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail, and return its message on standard error, as one line without the frame."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", captured.err).split())


def _error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail, and return its error message of one line."""
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
        (["train", "--learning-rate", "0.1", NAME], "name of an experiment"),
        (["train", "rl2-bandit-10x6"], "did you mean rl2-bandit-10x5"),
        (["train", "rl2", "bandid"], "there is no family of tasks 'bandid' (did you mean bandit"),
        (["train", "rl4", "bandit"], "there is no algorithm 'rl4' (did you mean rl3 or rl2"),
        (["train", "rl2", "bandit", "--memory", "snial"], "no network 'snial' (did you mean snail?)"),
        (["train", "promp", "sinusoid"], "promp does not apply to sinusoid: it needs a policy"),
        (["train", "rl2", "bandit", "extra"], "unexpected argument 'extra'"),
        (["train", NAME, "--hidden-size", "0"], "hidden_size must be a positive whole number, not 0"),
        (["train", NAME, "--hidden-size", "-3"], "hidden_size must be a positive whole number, not -3"),
        (["train", NAME, "--embedding-size", "0"], "embedding_size must be a positive whole number or None, not 0"),
        (["train", NAME, "--readout-size", "-1"], "readout_size must be a positive whole number or None, not -1"),
        (["train", NAME, "--arms", "0"], "arms must be a positive whole number, not 0"),
        (["train", NAME, "--trials", "0"], "trials must be a positive whole number, not 0"),
        (["train", NAME, "--iterations", "0"], "iterations must be a positive whole number, not 0"),
        (["train", NAME, "--minibatches", "5", "--trials", "8"], "trials (8) must be a multiple of minibatches (5)"),
        (["train", NAME, "--learning-rate", "nan"], "learning_rate must be a finite number above 0, not nan"),
        (["train", NAME, "--learning-rate", "inf"], "learning_rate must be a finite number above 0, not inf"),
        (["train", NAME, "--learning-rate", "1e999"], "learning_rate must be a finite number above 0, not inf"),
        (["train", NAME, "--learning-rate", "-1"], "learning_rate must be a finite number above 0, not -1.0"),
        (["train", NAME, "--discount", "1.5"], "discount must be a finite number at least 0 and at most 1, not 1.5"),
        (
            ["train", NAME, "--seed", "4294967295", "--seeds", "2"],
            "seeds 4294967295 .. 4294967296 are not all from 0 to",
        ),
        (["study", NAME, "--seed", "4294967292"], "seeds 4294967292 .. 4294967296 are not all from 0 to 4294967295"),
        (["train", "maml-omniglot-5x1"], "there is no Omniglot at data/omniglot.npz: copy omniglot.npz there, or"),
        (["train", "maml-omniglot-5x1", "--data-dir", "over/there"], "there is no Omniglot at over/there/omniglot.npz"),
        (["train", "maml-glyphs-5x1", "--ways", "0"], "ways must be a positive whole number, not 0"),
        (["train", NAME, "bandit"], "unexpected argument 'bandit'"),
        (["resume"], "resume needs the folder of a run"),
        (["resume", "nowhere"], "there is no run folder nowhere"),
        (["resume", "."], "is not a run folder: it has no config.json"),
        (["evaluate"], "evaluate needs the folder of a run"),
        (["evaluate", "nowhere"], "there is no run folder nowhere"),
        (["evaluate", "."], "is not a run folder"),
        (["report"], "report needs the folder of a run"),
        (["report", "nowhere"], "there is no run folder nowhere"),
        (["report", "."], "is not a run folder"),
        (["list", "nonsense"], "nothing is called 'nonsense'"),
    ],
)
def test_mistakes_print_one_line_and_write_no_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    assert expected in _error(capsys, arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", NAME, "--learnin-rate", "0.1"], ["--learnin-rate", "Perhaps you meant: --learning-rate FLOAT"]),
        (["train", NAME, "--learning-rate", "fast"], ["--learning-rate", "could not convert string to float: 'fast'"]),
        (["train", NAME, "--learning-rate"], ["Missing value for argument '--learning-rate'"]),
        (["train", NAME, "--trials", "3.5"], ["--trials", "'3.5'", "--trials INT"]),
        (["train", NAME, "--cell", "gruu"], ["'gruu'", "--cell", "('gru', 'lstm')"]),
        (["train", NAME, "--seed", "-1"], ["seed must be a whole number of at least 0 and at most 4294967295", "-1"]),
        (["train", NAME, "--seeds", "0"], ["seeds must be a positive whole number or None, not 0"]),
        (["train", NAME, "--evaluate-every", "0"], ["evaluate_every must be a positive whole number or None, not 0"]),
        (["train", NAME, "--checkpoint-every", "x"], ["--checkpoint-every", "'x'", "--checkpoint-every {None}|INT"]),
        (["train", NAME, "--evaluation-tasks", "1"], ["evaluation_tasks must be a whole number of at least 2"]),
        (["train", NAME, "--time-limit", "nan"], ["time_limit must be a finite number above 0 or None, not nan"]),
        (["train", "maml-glyphs-5x1", "--features", "averag"], ["'averag'", "--features", "('average', 'all')"]),
        (["list", "--all"], ["--all"]),
        (["resume", ".", "--seed", "1"], ["Unrecognized options: --seed"]),
        (["train", "pearl-point-robot-dense", "--episodes", "8"], ["--episodes", "--prior-episodes"]),
        (["train", "varibad-gridnavi", "--kl", "0"], ["--kl", "Perhaps you meant: --kl-weight FLOAT"]),
        (["study", NAME, "--vary", "hidden_size=3,x"], ["--hidden-size", "'x'"]),
    ],
)
def test_mistakes_in_options_name_option_value_and_what_is_valid(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], expected: list[str]
) -> None:
    said = _said(capsys, arguments)
    assert all(text in said for text in expected), said
    assert not list(tmp_path.iterdir())


def _store(folder: Path, name: str, **changes: Any) -> None:
    """Create a run folder that has only a configuration."""
    settings = experiments.get(name).with_overrides({})
    config = RunConfig(experiment=name, settings=settings, seed=0, seeds=1, evaluate_every=5)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.stored() | changes))


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("varibad-gridnavi", "--episodes", "--episodes is a setting of training: to evaluate another number"),
    ],
)
def test_evaluate_names_the_setting_that_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, option: str, expected: str
) -> None:
    _store(tmp_path / "run", name)
    said = _error(capsys, ["evaluate", "run", option, "8"])
    assert said == f"metarl-jax: error: {expected} of episodes, use --adaptation-episodes\n"


def test_stored_seeds_out_of_range_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _store(tmp_path / "run", NAME, seed=2**32 - 1, seeds=2)
    for command in (["resume"], ["evaluate"], ["report"], ["watch"]):
        said = _error(capsys, [*command, "run"])
        assert "config.json cannot be read: seeds 4294967295 .. 4294967296 are not all from 0 to 4294967295" in said


def test_more_devices_than_cores_are_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    for command in ("train", "study"):
        assert "there are 2 devices (CPU cores) here, not 9" in _error(capsys, [command, NAME, "--devices", "9"])
    # JAX has two devices in these tests, and there may be fewer cores.
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
def test_a_missing_device_is_a_one_line_error(
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


def test_a_missing_platform_ends_a_real_process(tmp_path: Path) -> None:
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


def test_a_file_is_not_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "there is no run folder" in _error(capsys, ["report", "file"])
    assert "exists already" in _error(capsys, ["train", NAME, "--run-dir", "file"])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}', '{"schema": 1, "experiment": 3, "x": 2}'])
def test_a_broken_config_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for command in (["resume", "."], ["evaluate", "."], ["report", "."]):
        assert "config.json" in _error(capsys, command)


def test_list_shows_valid_combinations_and_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in experiments.names())
    (row,) = (line for line in printed.splitlines() if line.startswith("sinusoid "))
    marks = dict(zip([one.name for one in registry.algorithms()], row.split()[1:], strict=False))
    assert (marks["rl2"], marks["maml"], marks["anil"], marks["imaml"], marks["promp"]) == (".", "T", "T", "+", ".")
    assert "promp: it needs a policy, and few-shot tasks have no actions (sinusoid" in printed


def test_list_filters_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "bandit"]) == 0
    printed = capsys.readouterr().out
    assert "rl2-snail-bandit-100x5" in printed
    assert "gaussian-bandit" in printed
    assert "half-cheetah" not in printed


def test_list_is_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["presets"]] == experiments.names()
    pairs = {(one["algorithm"], one["family"]): one for one in found["combinations"]}
    assert len(pairs) == len(registry.algorithms()) * len(registry.families())
    assert "snail" in pairs["rl2", "gridnavi"]["networks"]
    assert "rl2-gridnavi" in pairs["rl2", "gridnavi"]["presets"]
    assert pairs["promp", "glyphs"]["does_not_apply"] == "it needs a policy, and few-shot tasks have no actions"


def test_list_and_the_package_import_nothing_heavy() -> None:
    program = "import sys, metarl_jax.cli as c; c.main(['list']); print('jax' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False False"


def test_help_describes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", NAME, "--help"]) == 0
    printed = capsys.readouterr().out
    for name, field in experiments.get(NAME).fields().items():
        assert f"--{name.replace('_', '-')}" in printed
        assert field.doc


def test_python_m_works() -> None:
    result = subprocess.run([sys.executable, "-m", "metarl_jax", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, metarl_jax.__version__)
