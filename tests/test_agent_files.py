"""Agents from run folders and files, some of them from strangers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

import metarl_jax as mrl
from metarl_jax import cli, experiments
from metarl_jax.runs import agent_files
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig

TINY: dict[str, dict[str, Any]] = {
    "rl2 bandit": {"iterations": 1, "trials": 4, "minibatches": 1, "hidden_size": 4, "episodes": 2},
    "varibad gridnavi": {"iterations": 1, "trials": 4, "minibatches": 1, "buffer_trials": 4, "model_trials": 2},
    "pearl point-robot-sparse": {"iterations": 1, "gradient_steps": 2, "units": 8, "encoder_units": 8},
    "maml_trpo navigation": {"iterations": 1, "tasks": 2, "units": 8, "episodes": 2},
    "rl2_asymmetric bandit": {"iterations": 1, "trials": 4, "minibatches": 1, "hidden_size": 4, "episodes": 2},
}


def trained(folder: Path, name: str, *, seeds: int = 1) -> Path:
    """A run folder with the first checkpoint in it."""
    from metarl_jax.runs import train

    experiment = experiments.get(name)
    fields = experiment.fields()
    settings = experiment.with_overrides({key: value for key, value in TINY[name].items() if key in fields})
    config = RunConfig(experiment=name, settings=settings, seed=3, seeds=seeds, evaluate_every=1)
    return train.new_run(folder, config).path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("agents") / "run", "rl2 bandit", seeds=2)


@pytest.fixture(scope="module")
def file(run: Path) -> Path:
    return mrl.save(run.parent / "agent.safetensors", mrl.load(run))


@pytest.fixture(scope="module")
def few_shot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learners")
    return mrl.save(folder / "learner.safetensors", mrl.load(few_shot_run(folder / "run", "maml sinusoid")))


def actions(agent: mrl.Agent | mrl.FewShotLearner) -> np.ndarray:
    assert isinstance(agent, mrl.Agent)
    agent.reset(5, batch=40)
    shape = getattr(agent.interface.observation_space, "shape", ())
    dtype = agent.interface.observation_dtype
    return np.asarray(agent.act(np.zeros((40, *shape), dtype)))


@pytest.mark.parametrize("name", TINY)
def test_a_file_acts_as_its_run(tmp_path: Path, name: str) -> None:
    agent = mrl.load(trained(tmp_path / "run", name))
    path = mrl.save(tmp_path / "agent.safetensors", agent)
    again = mrl.load(str(path))
    np.testing.assert_array_equal(actions(again), actions(agent))
    assert isinstance(again, mrl.Agent) and isinstance(agent, mrl.Agent)
    assert again.origin == agent.origin
    jax.tree.map(np.testing.assert_array_equal, again.params, agent.params)
    space = agent.interface.action_space
    assert type(again.interface.action_space) is type(space)
    assert again.interface.horizon == agent.interface.horizon
    # An agent that is saved again gives the same file.
    assert mrl.save(tmp_path / "second.safetensors", again).read_bytes() == path.read_bytes()


def test_seeds_are_chosen(run: Path) -> None:
    first, second = mrl.load(run), mrl.load(run, seed=4)
    assert first.origin is not None and first.origin["seed"] == 3
    assert second.origin is not None and second.origin["seed"] == 4
    differs = jax.tree.map(lambda a, b: bool(np.any(a != b)), first.params, second.params)
    assert any(jax.tree.leaves(differs))
    with pytest.raises(UserError, match="has the seeds 3 to 4, not 0"):
        mrl.load(run, seed=0)
    with pytest.raises(UserError, match="did not keep the state with the best validation score: see train --keep-best"):
        mrl.load(run, best=True)


def test_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.safetensors"
    assert cli.main(["export", str(run), "-o", str(output), "--seed", "4"]) == 0
    assert f"wrote {output}" in capsys.readouterr().out
    loaded = mrl.load(output)
    assert loaded.origin is not None and loaded.origin["seed"] == 4
    assert cli.main(["export", str(run), "--output", str(output)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["export", str(run), "--output", str(output), "--overwrite"]) == 0
    assert mrl.load(output).origin != loaded.origin
    other = tmp_path / "notes.safetensors"
    other.write_text("mine")
    assert cli.main(["export", str(run), "--output", str(other), "--overwrite"]) == 2
    assert other.read_text() == "mine"
    assert cli.main(["export", str(run), "--output", str(tmp_path / "agent.bin")]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err


FEW_SHOT: dict[str, dict[str, Any]] = {
    "maml sinusoid": {"iterations": 1, "tasks": 2, "adaptation_steps": 3},
    "in_context sinusoid": {"iterations": 1, "tasks": 2, "filters": 4, "key_size": 4, "value_size": 4},
    "reptile glyphs": {"iterations": 1, "tasks": 2, "filters": 2, "adaptation_steps": 2},
    "cavia sinusoid": {"iterations": 1, "tasks": 2, "adaptation_steps": 2},
}


def few_shot_run(folder: Path, name: str, **changed: Any) -> Path:
    """A run folder of a few-shot learner with its first checkpoint."""
    from metarl_jax.runs import train

    settings = experiments.get(name).with_overrides({**FEW_SHOT.get(name, {}), **changed})
    config = RunConfig(experiment=name, settings=settings, seed=0, seeds=1, evaluate_every=1)
    return train.new_run(folder, config).path


def predictions(learner: mrl.FewShotLearner) -> np.ndarray:
    rng, shape, number = np.random.default_rng(0), learner.examples.shape, learner.examples.supports[1]
    outputs = learner.examples.outputs
    y = np.arange(number) % outputs if learner.examples.classes else rng.normal(size=(number, outputs))
    learner.adapt(rng.uniform(size=(number, *shape)), y)
    return learner.predict(rng.uniform(size=(6, *shape)))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "maml sinusoid")) for n in FEW_SHOT])
def test_a_file_predicts_as_its_run(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = few_shot_run(tmp_path / "run", name), tmp_path / "learner.safetensors"
    learner = mrl.load(run)
    assert isinstance(learner, mrl.FewShotLearner)
    assert cli.main(["export", str(run), "-o", str(path)]) == 0
    again = mrl.load(path)
    assert isinstance(again, mrl.FewShotLearner)
    assert (again.origin, again.examples) == (learner.origin, learner.examples)
    np.testing.assert_allclose(predictions(again), predictions(learner), rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, again.params, learner.params)
    assert mrl.save(tmp_path / "second.safetensors", again).read_bytes() == path.read_bytes()


def test_a_learner_of_omniglot_needs_no_data(
    tmp_path: Path, omniglot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"iterations": 1, "tasks": 2, "filters": 2, "adaptation_steps": 1, "data_dir": str(omniglot_folder)}
    run = few_shot_run(tmp_path / "run", "maml omniglot", **small)
    monkeypatch.setattr(mrl.datasets.omniglot, "load", lambda _: pytest.fail("the data are read"))
    learner = mrl.load(run)
    again = mrl.load(mrl.save(tmp_path / "learner.safetensors", learner))
    assert isinstance(again, mrl.FewShotLearner)
    assert again.examples == mrl.interfaces.few_shot.Examples((28, 28, 1), 5, True, (5, 5))
    jax.tree.map(np.testing.assert_array_equal, again.params, learner.params)


# ------------------------------------------------------------------------------------------------ files from strangers


def forged(file: Path, to: Path, change: Any = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """Write the file with other tensors, or with another description."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    content = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["metarl_jax"])
    if change is not None:
        change(content)
    found = read_tensors(data) if tensors is None else tensors
    to.write_bytes(write_tensors(found, {"metarl_jax": json.dumps(content)}))
    return to


def set_setting(part: str, name: str, value: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        content[part]["settings"][name] = value

    return change


def test_a_file_that_is_older_than_a_setting_acts_as_before(file: Path, tmp_path: Path) -> None:
    def older(content: dict[str, Any]) -> None:
        del content["network"]["settings"]["previous_observation"], content["algorithm"]["settings"]["accumulation"]

    learner = mrl.load(forged(file, tmp_path / "agent.safetensors", older))
    np.testing.assert_array_equal(actions(learner), actions(mrl.load(file)))
    # The default of a new setting changes nothing; that of a preset may.
    preset = experiments.get("rl2-gridnavi")
    assert preset.with_overrides({})["previous_observation"] is True
    assert agent_files.with_newer_settings(preset, {"hidden_size": 5})["previous_observation"] is False
    assert agent_files.with_newer_settings(preset, {"hidden_size": 5})["hidden_size"] == 5


def test_damaged_files_are_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    target = tmp_path / "agent.safetensors"
    for content in (b"", b"\x00" * 8, data[:100], data[:-1], b"\xff" * 8 + data[8:], b"\x00" * len(data)):
        target.write_bytes(content)
        with pytest.raises(UserError, match="is not the file of an agent"):
            mrl.load(target)
    target.write_bytes(write_tensors({"x": np.zeros(3)}))
    with pytest.raises(UserError, match="its metadata has no entry metarl_jax"):
        mrl.load(target)
    target.unlink()
    target.symlink_to(file)
    with pytest.raises(UserError, match="it is a symbolic link, which is not followed"):
        mrl.load(target)
    with pytest.raises(UserError, match="there is no run folder and no file"):
        mrl.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=9), "it has schema 9, this program has 1"),
        (lambda c: c.update(experiment="nothing"), "there is no experiment 'nothing'"),
        (lambda c: c.update(experiment="evil.py:evil"), "there is no experiment"),
        (lambda c: c.update(extra=1), "it has the unknown entry extra"),
        (lambda c: c["algorithm"].update(name="os"), "there is no algorithm 'os'"),
        (set_setting("algorithm", "discount", 7.0), "discount must be"),
        (set_setting("algorithm", "discont", 0.9), "has no setting 'discont'"),
        (set_setting("network", "hidden_size", 5), r"expected float32\["),
        (set_setting("network", "hidden_size", 10**9), "hidden_size 1000000000 is out of proportion"),
        (set_setting("family", "arms", 10**9), "sizes of the tasks are out of proportion"),
        (set_setting("family", "arms", 10**5), "interface.action_space is not that of its experiment"),
        (lambda c: c["interface"].update(horizon=2**31 - 1), "interface.horizon is not that of its experiment"),
        (lambda c: c["interface"].update(observation_dtype="uint8"), "interface.observation_dtype is not that"),
        (lambda c: c["interface"].update(observation_space={"discrete": 3}), "interface.observation_space is not that"),
        (set_setting("network", "cell", "lstm"), "tensor .* is (missing|not expected)|expected float32"),
        (lambda c: c["interface"].update(horizon=0), "interface.horizon is 0"),
        (lambda c: c["interface"].update(horizon=True), "interface.horizon is True"),
        (lambda c: c["interface"].update(observation_dtype="object"), "interface.observation_dtype is 'object'"),
        (lambda c: c["interface"].update(observation_space={}), "interface.observation_space"),
        (lambda c: c["interface"].update(observation_space={"box": [10**9], "low": [0], "high": [1]}), "has the shape"),
    ],
)
def test_forged_descriptions_are_refused(file: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mrl.load(forged(file, tmp_path / "agent.safetensors", change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["interface"].update(outputs=2), "interface is not that of its experiment"),
        (lambda c: c["interface"].update(shape=[10**9]), "interface is not that of its experiment"),
        (lambda c: c["interface"].update(classes=1), "interface.classes is of another type than bool"),
        (lambda c: c["interface"].pop("supports"), "interface.observation_dtype is None"),
        (lambda c: c.update(experiment="rl2 bandit"), "cannot be loaded"),
        (set_setting("algorithm", "adaptation_steps", 10**9), "adaptation_steps 1000000000 is out of proportion"),
        (set_setting("family", "heldout_shots", 10**9), "sizes of the tasks are out of proportion"),
        (set_setting("network", "units", 10**9), "units 1000000000 is out of proportion"),
    ],
)
def test_forged_descriptions_of_few_shot_learners_are_refused(
    few_shot_file: Path, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        mrl.load(forged(few_shot_file, tmp_path / "learner.safetensors", change))


def test_an_interface_of_the_other_kind_is_refused(file: Path, few_shot_file: Path, tmp_path: Path) -> None:
    stored: list[Any] = []
    forged(file, tmp_path / "1.safetensors", lambda content: stored.append(content["interface"]))
    forged(few_shot_file, tmp_path / "2.safetensors", lambda content: stored.append(content["interface"]))
    for one, interface in ((file, stored[1]), (few_shot_file, stored[0])):
        path = forged(one, tmp_path / "other.safetensors", lambda content, new=interface: content.update(interface=new))
        with pytest.raises(UserError, match="interface is not that of its experiment"):
            mrl.load(path)


def test_forged_tensors_are_refused(file: Path, tmp_path: Path) -> None:
    tensors = read_tensors(file.read_bytes())
    name = sorted(tensors)[0]
    target = tmp_path / "agent.safetensors"
    for changed, message in (
        ({k: v for k, v in tensors.items() if k != name}, "is missing"),
        ({**tensors, "more": np.zeros(2, np.float32)}, "the tensor more is not expected"),
        ({**tensors, name: tensors[name].astype(np.float64)}, "float64"),
        ({**tensors, name: tensors[name][..., None]}, "expected float32"),
        ({**tensors, name: np.full_like(tensors[name], np.nan)}, "has numbers that are not finite"),
    ):
        with pytest.raises(UserError, match=message):
            mrl.load(forged(file, target, tensors=changed))
    # A tensor without numbers has sizes that cost nothing.
    empty = {**tensors, "more": np.zeros((0, 10**9), np.float32)}
    with pytest.raises(UserError, match="hidden_size 1000000000 is out of proportion"):
        mrl.load(forged(file, target, set_setting("network", "hidden_size", 10**9), empty))


BOUNDED = """
import resource, sys
import jax
resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)
jax.random.key(0)
import metarl_jax as mrl
from metarl_jax.runs.errors import UserError
mrl.load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        mrl.load(path)
        print("loaded", path)
    except UserError as error:
        print("refused", path, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["rl2 bandit", "rl2 tabular-mdp", "rl2 gridnavi", "pearl half-circle", "maml_trpo cartpole", "maml glyphs"],
)
def test_no_size_in_a_file_makes_large_arrays(tmp_path: Path, name: str) -> None:
    """Each integer among the settings is replaced by an enormous number, one at a time."""
    from metarl_jax.runs import train

    experiment = experiments.get(name)
    small = {"iterations": 1, "trials": 4, "hidden_size": 4, "units": 8, "encoder_units": 8, "gradient_steps": 2}
    fields = experiment.fields()
    settings = experiment.with_overrides({key: value for key, value in small.items() if key in fields})
    config = RunConfig(experiment=name, settings=settings, seed=0, seeds=1, evaluate_every=1)
    agent = mrl.load(train.new_run(tmp_path / "run", config).path)
    file = mrl.save(tmp_path / "agent.safetensors", agent)
    forgeries = []
    for part, fields in experiment.parts()._asdict().items():
        for setting, field in fields.items():
            if field.type is int:
                path = tmp_path / f"{part}-{setting}.safetensors"
                forgeries.append(str(forged(file, path, set_setting(part, setting, 10**8))))

    arguments = [sys.executable, "-c", BOUNDED, str(file), *forgeries]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, megabytes = done.stdout.splitlines()
    assert len(lines) == len(forgeries)
    assert int(megabytes) < 300
