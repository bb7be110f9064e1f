"""Experiments that are not part of the package: loading, storage of their source, and later use by reference."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lazy_loader
import pytest

import metarl_jax
from metarl_jax import cli, experiments
from metarl_jax.experiments import registry
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.runs.study_folder import StudyConfig, StudyFolder

EXAMPLE = Path(__file__).parent / "data" / "own_experiment.py"
REPOSITORY = EXAMPLE.parents[2]
REFERENCE = "own_experiment.py:my_experiment"
SMALL = [
    *("--cells", "3", "--episodes", "2", "--trials", "4", "--minibatches", "1", "--epochs", "1", "--units", "4"),
    *("--evaluation-tasks", "4"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]) -> Path:
    """Use a folder that contains only the example as the working directory."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; return its error message of one line."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("metarl-jax: error: ") and captured.err.count("\n") == 1
    return captured.err.removeprefix("metarl-jax: error: ").rstrip("\n")


def write(path: str, text: str) -> None:
    """Write a file of the user with the necessary imports."""
    Path(path).write_text(f"import dataclasses\nfrom metarl_jax import experiments\n{text}\n")


MINE = 'mine = dataclasses.replace(experiments.get("rl2-bandit-10x5"), name="mine")'


# Registering.


def test_an_entry_of_the_user_replaces_the_former_one(forget: Callable[[], None]) -> None:
    first = registry.Family("mine", "first", "metarl_jax.environments.bandits:bernoulli", finite_arms=True)
    experiments.register(first)
    experiments.register(first._replace(title="second"))
    assert registry.family("mine").title == "second"
    experiment = experiments.experiment(name="my-own", description="", algorithm="rl2", family="mine")
    experiments.register(experiment)
    experiments.register(dataclasses.replace(experiment, description="again"))
    assert experiments.get("my-own").description == "again"
    assert experiments.names()[-1] == "my-own"
    assert experiments.source("my-own") is None
    forget()
    with pytest.raises(ValueError, match="there is no experiment 'my-own'"):
        experiments.get("my-own")


@pytest.mark.usefixtures("forget")
def test_invalid_entries_cannot_be_registered() -> None:
    known = experiments.get("rl2-bandit-10x5")
    maml_trpo = registry.algorithm("maml_trpo")
    for entry, message in (
        (registry.family("bandit"), "there is already a family 'bandit', which is a part of metarl_jax"),
        (maml_trpo._replace(name="maml-trpo"), "there is already an algorithm 'maml-trpo'"),
        (
            registry.Network("gru", "", "x", "policy")._replace(name="recurrent"),
            "there is already a network 'recurrent'",
        ),
        (known, "there is already an experiment 'rl2-bandit-10x5'"),
        (dataclasses.replace(known, name="rl2 gridnavi"), "there is already an experiment 'rl2 gridnavi'"),
        (dataclasses.replace(known, name="rl2 gridnavi snail"), "there is already an experiment 'rl2 gridnavi snail'"),
        (dataclasses.replace(known, name="my/own"), "a name must consist of letters, digits"),
        (registry.family("bandit")._replace(name="my family"), "a name must consist of letters, digits"),
        (dataclasses.replace(known, name="own", family="bandid"), r"no family of tasks 'bandid' \(did you mean bandit"),
        (
            dataclasses.replace(known, name="own", algorithm="promp", network="mlp", family="sinusoid"),
            "promp does not apply to sinusoid: it needs a policy",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            experiments.register(entry)
    assert experiments.presets()[-1].name == experiments.names()[-1] != "own"


def test_the_list_contains_loaded_experiments(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    before = capsys.readouterr().out
    assert "my-experiment" not in before and "slow_rl2" not in before
    experiments.load(REFERENCE)
    assert cli.main(["list"]) == 0
    after = capsys.readouterr().out
    assert "my-experiment" in after and "slow_rl2" in after


# Loading.


def test_a_file_a_module_and_an_installed_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = experiments.load(REFERENCE)
    assert (loaded.name, loaded.algorithm, loaded.network) == ("my-experiment", "slow_rl2", "elman")
    assert experiments.get("my-experiment") is loaded
    source = experiments.source("my-experiment")
    assert source is not None and source.reference == REFERENCE and len(str(source.sha256)) == 64

    installed = here / "installed"
    (installed / "plugin-1.0.dist-info").mkdir(parents=True)
    (installed / "plugin-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    entry_points = "[metarl_jax.experiments]\nplugged = own_plugin:make\n"
    (installed / "plugin-1.0.dist-info" / "entry_points.txt").write_text(entry_points)
    write("installed/own_plugin.py", f"{MINE}\ndef make(): return mine")
    monkeypatch.syspath_prepend(installed)
    for reference in ("own_plugin:mine", "own_plugin:make", "plugged"):
        assert experiments.find(reference).name == "mine"
        assert experiments.source("mine") == (reference, None)
    with pytest.raises(ValueError, match=r"there is no experiment 'plugge'"):
        experiments.find("plugge")
    with pytest.raises(ValueError, match=r"'plugge' is not a reference.*did you mean plugged"):
        experiments.load("plugge")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine = 3", "mine.py:mine must be an Experiment, or a function without parameters that returns one, not of"),
        ("def mine(): return 3", "not of the type int"),
        ("def mine(): return {}[3]", "mine.py:mine cannot be used: KeyError: 3"),
        ("def mine(x): pass", "mine.py:mine cannot be used: TypeError: mine() missing 1 required positional argument"),
        (
            MINE + '\nmine = dataclasses.replace(mine, settings={"trails": 3})',
            "mine has no setting 'trails' (did you mean",
        ),
        (
            MINE + '\nmine = dataclasses.replace(mine, name="rl2-gridnavi")',
            "there is already an experiment 'rl2-gridnavi'",
        ),
        (MINE + '\nmine = dataclasses.replace(mine, algorithm="rl4")', "there is no algorithm 'rl4'"),
        ("raise SystemExit('no')", "mine.py:mine cannot be loaded: SystemExit: no"),
        (
            "import nowhere",
            "mine.py:mine cannot be loaded: ModuleNotFoundError: No module named 'nowhere' (the file's",
        ),
        (
            'experiments.register(experiments.Family("mine", "", twice))',
            "two parts of twice have a setting 'hidden_size': one needs another name",
        ),
    ],
)
def test_an_experiment_that_cannot_be_loaded_is_a_one_line_error(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    if "twice" in text:
        text = (
            "from metarl_jax.environments import bandits\n"
            "def twice(hidden_size: int = 3): return bandits.bernoulli(hidden_size)\n"
            f"{text}\n"
            'mine = experiments.experiment(name="twice", description="", algorithm="rl2", family="mine")'
        )
    write("mine.py", text)
    before = sorted(here.iterdir())
    for command in ("train", "study"):
        assert message in error(capsys, command, "mine.py:mine")
    assert sorted(here.iterdir()) == before


def test_two_files_with_parts_of_the_same_name(here: Path) -> None:
    """An experiment never uses the parts of another one."""
    text = EXAMPLE.read_text()
    Path("other.py").write_text(text.replace("rings with a hidden goal", "others").replace("my-experiment", "other"))
    mine = experiments.load(REFERENCE)
    other = experiments.load("other.py:my_experiment")
    assert experiments.get("other") is other and registry.family("ring").title == "others"
    with pytest.raises(ValueError, match="other code has replaced the algorithm, the family or the network of my-exp"):
        experiments.get("my-experiment")
    assert experiments.load(REFERENCE) is mine is experiments.get("my-experiment")
    assert registry.family("ring").title == "rings with a hidden goal"
    with pytest.raises(ValueError, match="other code has replaced the algorithm"):
        experiments.get("other")


# Folders.


def store(path: Path, source: experiments.Source | None, name: str = "mine") -> RunConfig:
    """Make a run folder that contains only its configuration. The experiment need not be known afterwards."""
    known = experiments.get("rl2-bandit-10x5")
    config = RunConfig(
        experiment=known.name, settings=known.with_overrides({}), seed=0, seeds=1, evaluate_every=5, source=source
    )
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**config.stored(), "experiment": name}))
    return config


def test_a_source_is_stored_and_is_not_part_of_the_hash(here: Path) -> None:
    source = experiments.Source("mine.py:mine", "0" * 64)
    config = store(here / "run", source)
    assert json.loads((here / "run" / "config.json").read_text())["source"] == source._asdict()
    assert RunFolder(here / "run").config.source == source
    assert config.hash() == dataclasses.replace(config, source=None).hash()
    assert "source" not in dataclasses.replace(config, source=None).stored()
    settings: dict[str, Any] = {"experiment": config.experiment, "settings": config.settings, "seed": 0, "seeds": 1}
    study = StudyConfig(**settings, source=source, vary={"trials": [8, 16]})
    (here / "study").mkdir()
    (here / "study" / "study.json").write_text(json.dumps(study.stored()))
    opened = StudyFolder(here / "study")
    assert [cell.config.source for cell in opened.cells] == [source, source]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "source is not a JSON object with reference and sha256"),
        ({"reference": "mine.py:mine"}, "source is not a JSON object with reference and sha256"),
        ({"reference": 3, "sha256": None}, "the reference of source is of another type than str"),
        ({"reference": "x" * 5000, "sha256": None}, "a reference must be printable text of at most 4096 characters"),
        ({"reference": "--help", "sha256": None}, "without a dash at its beginning, not '--help'"),
        ({"reference": "a\u202eb", "sha256": None}, "contains control characters"),
        ({"reference": "mine.py:mine", "sha256": "0" * 63}, "the sha256 of source is not a SHA-256 in hexadecimal"),
        ({"reference": "mine.py:mine", "sha256": 3}, "the sha256 of source is not a SHA-256 in hexadecimal"),
    ],
)
def test_a_source_of_other_types_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], source: Any, message: str
) -> None:
    store(here / "run", None)
    file = here / "run" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "source": source}))
    assert message in error(capsys, "watch", "run")


def test_the_user_names_the_code_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.py", MINE)
    write("other.py", MINE.replace('"mine"', '"other"'))
    store(here / "run", experiments.Source("mine.py:mine", "0" * 64))
    store(here / "named", experiments.Source("my code.py:mine", None))
    store(here / "unnamed", None)
    trust = "which is not part of metarl_jax; if you trust that code, name it again: "
    for command in ("resume", "evaluate", "watch", "report", "record"):
        assert error(capsys, command, "run") == (
            f"run was trained with mine.py:mine, {trust}metarl-jax {command} run --experiment mine.py:mine"
        )
    assert error(capsys, "report", "run", "named").endswith(
        "metarl-jax report run named --experiment mine.py:mine --experiment 'my code.py:mine'"
    )
    unknown = "unnamed cannot be used by this version of metarl_jax: there is no experiment 'mine'"
    assert error(capsys, "watch", "unnamed").startswith(unknown)
    assert error(capsys, "watch", "run", "--experiment", "other.py:mine") == (
        "other.py:mine is the experiment 'other', but run is of the experiment 'mine'"
    )
    assert error(capsys, "watch", "run", "--experiment", "none.py:mine").startswith(
        "--experiment: none.py:mine: none.py "
    )
    assert error(capsys, "watch", "run", "--experiment", "mine").startswith(
        "--experiment: 'mine' is not a reference: it must"
    )
    both = ("--experiment", "mine.py:mine", "--experiment", "./mine.py:mine")
    assert error(capsys, "watch", "run", *both).startswith(
        "mine.py:mine and ./mine.py:mine are both experiments of the"
    )
    # The option may come first, and the file differs from that of the training.
    assert cli.main(["watch", "--experiment", "mine.py:mine", "run", "--once"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "nothing written yet\n"
    assert captured.err == (
        "metarl-jax: warning: mine.py is not the version that run was trained with: its SHA-256 is another one\n"
    )


@pytest.mark.usefixtures("here")
def test_help_explains_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("resume", "evaluate", "watch", "report", "record"):
        assert cli.main([command, "--help"]) == 0
        said = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "--experiment STR The experiment of the folder, if it is your own: FILE.py:NAME" in said
    for command in ("train", "study"):
        assert cli.main([command, "--help"]) == 0
        assert "FILE.py:NAME" in capsys.readouterr().out
    assert cli.main(["train", REFERENCE, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--slowness", "--units", "--cells"))


@pytest.mark.usefixtures("here")
def test_mistakes_with_a_reference(capsys: pytest.CaptureFixture[str]) -> None:
    Path("named.py").write_text(EXAMPLE.read_text().replace("cells", "keep"))
    expected = "my-experiment has a setting 'keep', which is the name of an option: rename it"
    assert error(capsys, "train", "named.py:my_experiment") == expected
    assert "own_experiment.py has no 'my_experimen' (did you mean" in error(capsys, "train", REFERENCE[:-1])
    assert error(capsys, "train", REFERENCE, "bandit") == "unexpected argument 'bandit'"
    assert error(capsys, "train", REFERENCE, "--cells", "0").startswith("cells must be a positive whole number")


# The example.


def test_the_example_in_this_process(
    here: Path, forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--experiment", REFERENCE]
    # There is no time left.
    small = [*SMALL, "--iterations", "4", "--run-dir", "run", "--time-limit", "1e-9"]
    assert cli.main(["train", REFERENCE, *small]) == 0
    again = f"metarl-jax resume run --experiment {REFERENCE}"
    assert f"go on with: {again}\n" in capsys.readouterr().out
    assert error(capsys, "train", REFERENCE, *small) == (
        f"run exists already; choose another --run-dir, or go on with: {again}"
    )
    assert cli.main(["report", "run", "--no-record", *named]) == 0
    assert f"not evaluated yet: metarl-jax evaluate run --experiment {REFERENCE}\n" in capsys.readouterr().out
    forget()
    assert again in error(capsys, "resume", "run")
    assert cli.main(["resume", "run", *named]) == 0
    assert "my-experiment: mean" in (printed := capsys.readouterr().out) and "(ours)" in printed
    assert [json.loads(line)["iteration"] for line in Path("run/metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]
    assert "memory_change" in Path("run/metrics.jsonl").read_text()
    page = re.sub("</?span>", "", Path("run/report.html").read_text())
    assert f"metarl-jax train {REFERENCE} --" in page and Path("run/trial-iteration4-seed0.gif").exists()

    # The agent is exported, and loaded where its experiment is not known.
    assert cli.main(["export", "run", "--output", "agent.safetensors", *named]) == 0
    forget()
    for path in ("run", "agent.safetensors"):
        with pytest.raises(UserError, match=f"if you trust that code, name it: load.*experiment='{REFERENCE}'"):
            metarl_jax.load(path)
        forget()
        agent = metarl_jax.load(path, experiment=REFERENCE)
        assert isinstance(agent, metarl_jax.Agent)
        assert agent.act(0) in range(3)
        forget()


def run(*arguments: str) -> str:
    """Run a command in a new process, and return its output."""
    done = subprocess.run([*PROGRAM, *arguments], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


PROGRAM = [sys.executable, "-m", "metarl_jax"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.slow
def test_one_file_from_training_to_the_video(here: Path) -> None:
    """The real command line runs with one process per command, and the first process is killed."""
    named = ["--experiment", REFERENCE]
    small = [*SMALL, "--iterations", "2000", "--checkpoint-every", "5", "--run-dir", "run"]
    training = subprocess.Popen([*PROGRAM, "train", REFERENCE, *small], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    saved = Path("run/checkpoints")
    deadline = time.monotonic() + 120
    while not (saved.exists() and max(path.name for path in saved.iterdir()) > "000000050"):
        assert training.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    training.send_signal(signal.SIGKILL)
    training.wait()
    assert not Path("run/summary.json").exists()
    source = json.loads(Path("run/config.json").read_text())["source"]
    assert source["reference"] == REFERENCE and len(source["sha256"]) == 64

    assert "(ours)" in run("resume", "run", *named)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 2001))
    assert "finished" in run("watch", "run", *named)
    assert "6 held-out tasks" in run("evaluate", "run", *named, "--evaluation-tasks", "6", "--episodes", "3")
    assert "wrote run/trial-iteration2000-seed1.gif" in run("record", "run", *named, "--seed", "1")
    assert "wrote run/report.html" in run("report", "run", *named)
    assert "wrote agent.safetensors" in run("export", "run", *named, "--output", "agent.safetensors")
    acting = (
        "import metarl_jax as mrl\n"
        f"agent = mrl.load('agent.safetensors', experiment='{REFERENCE}')\n"
        "print(agent.act(0), agent.act(1, 0.0, False), agent.origin['iteration'])\n"
    )
    done = subprocess.run([sys.executable, "-c", acting], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[2] == "2000" and {"0", "1", "2"} >= set(done.stdout.split()[:2])

    vary = ["--vary", "slowness=0.0,0.1", "--seeds", "2", "--iterations", "2", "--run-dir", "study"]
    assert "2 cells" in run("study", REFERENCE, *SMALL, *vary)
    assert "2 cells" in run("resume", "study", *named)
    assert "wrote study/table.md" in run("report", "study", *named)
    assert "slowness=0.1: iteration 2/2, finished" in run("watch", "study", *named)
    cells = ["study/cells/slowness=0", "study/cells/slowness=0.1"]
    assert "wrote report.html" in run("report", *cells, *named, "--no-record")
    names = {path.name for path in here.iterdir()}
    assert names == {"agent.safetensors", "own_experiment.py", "run", "study", "report.html"}


# No code in a folder is executed.

TRAP = "from pathlib import Path\nPath(__file__).with_name('marker').write_text(__name__)\nevil = None\n"
FORGED = {"direct": ("evil.py:evil", None), "source": ("evil", experiments.Source("evil.py:evil", "0" * 64))}


@pytest.fixture(params=FORGED)
def trap(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Make a run folder and a study folder with modules of common names, and a file that the configuration names."""
    name, source = FORGED[request.param]
    folder = tmp_path / "trap"
    store(folder, source, name)
    config = json.loads((folder / "config.json").read_text())
    del config["evaluate_every"]
    (folder / "study").mkdir()
    (folder / "study" / "study.json").write_text(json.dumps({**config, "vary": {}}))
    for place in (folder, folder / "study"):
        for module in ("jax", "tyro", "numpy", "rich", "signal", "evil"):
            (place / f"{module}.py").write_text(TRAP)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["resume", "."],
        ["watch", "."],
        ["report", "study"],
        *(
            pytest.param(arguments, marks=pytest.mark.slow)
            for arguments in (
                ["train", "rl2-bandit-10x5", "--trials", "0"],
                ["study", "rl2-bandit-10x5", "--vary", "trials=0"],
                ["evaluate", "."],
                ["report", "."],
                ["record", "."],
                ["resume", "study"],
                ["watch", "study"],
            )
        ),
    ],
    ids=" ".join,
)
def test_no_code_in_a_folder_is_executed(trap: Path, arguments: list[str]) -> None:
    done = subprocess.run([*PROGRAM, *arguments], cwd=trap, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == (0 if arguments == ["list"] else 2), done.stderr
    assert not list(trap.rglob("marker")), done.stderr
    if arguments[0] in ("resume", "watch", "evaluate", "report", "record"):
        assert "evil" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_training_in_a_folder_executes_no_code_of_it(trap: Path) -> None:
    small = [
        "--iterations",
        "1",
        "--trials",
        "4",
        "--minibatches",
        "1",
        "--hidden-size",
        "4",
        "--evaluation-tasks",
        "4",
    ]
    command = [*PROGRAM, "train", "rl2-bandit-10x5", *small, "--run-dir", "new"]
    done = subprocess.run(command, cwd=trap, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (trap / "new" / "report.html").exists() and not list(trap.rglob("marker"))


def test_the_trap_works(trap: Path) -> None:
    """Other programs that ``python -m`` starts in the folder do execute code in it."""
    subprocess.run([sys.executable, "-m", "tyro"], cwd=trap, env=ENVIRONMENT, check=True)
    assert (trap / "marker").exists()


def test_the_package_works_in_its_place(tmp_path: Path) -> None:
    """The program runs from its folder without an installation, and with no other package than ``lazy_loader``."""
    (tmp_path / "metarl_jax").symlink_to(REPOSITORY / "metarl_jax")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "lazy_loader").symlink_to(Path(lazy_loader.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "packages")}
    command = [sys.executable, "-S", "-m", "metarl_jax", "list", "bandit"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rl2-bandit-10x5" in done.stdout
