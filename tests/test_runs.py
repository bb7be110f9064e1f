"""The parts of a run: experiments, checkpoints, metrics, cache, report."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import experiments
from metarl_jax.evaluation import Evaluation
from metarl_jax.runs import (
    checkpoints,
    compilation_cache,
    devices,
    evaluate,
    files,
    folder,
    metrics,
    programs,
    report,
    study_folder,
    train,
    watch,
)
from metarl_jax.runs.errors import UserError


class _State(NamedTuple):
    key: jax.Array
    arrays: dict[str, Any]


def _state() -> _State:
    arrays = {"a": jnp.arange(6.0).reshape(2, 3), "empty": jnp.zeros((0, 2)), "n": jnp.int32(7), "b": jnp.bool_(True)}
    return _State(jax.random.split(jax.random.key(3), 2), arrays)


def test_a_checkpoint_gives_back_every_bit(tmp_path: Path) -> None:
    state = _state()
    path = checkpoints.save(tmp_path, state, 5, "hash", {"wall_s": 1.5, "diverged": {}})
    found = checkpoints.load(path, jax.eval_shape(_state), "hash", 5)
    assert (found.iteration, found.extra) == (5, {"wall_s": 1.5, "diverged": {}})
    assert jax.tree.structure(found.state) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(found.state), jax.tree.leaves(state), strict=True):
        assert new.dtype == old.dtype
        data = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (new, old)]
        np.testing.assert_array_equal(data[0], data[1])


def test_only_the_last_three_are_kept(tmp_path: Path) -> None:
    for iteration in (1, 20, 3, 100):
        checkpoints.save(tmp_path, _state(), iteration, "hash", {})
    assert [int(p.name.split(".")[0]) for p in checkpoints.paths(tmp_path)] == [100, 20, 3]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a | {"a": jnp.zeros((3, 2))}, r"arrays/a is float32\[2, 3\], expected float32\[3, 2\]"),
        (lambda a: a | {"n": jnp.float32(0)}, r"arrays/n is int32\[\], expected float32\[\]"),
        (lambda a: a | {"c": jnp.float32(0)}, "arrays/c is missing"),
        (lambda a: {"a": a["a"], "n": a["n"], "b": a["b"]}, "arrays/empty is not expected"),
    ],
)
def test_another_tree_is_refused(tmp_path: Path, change: Any, expected: str) -> None:
    path = checkpoints.save(tmp_path, _state(), 1, "hash", {"wall_s": 0.0, "diverged": {}})
    target = _state()._replace(arrays=change(_state().arrays))
    with pytest.raises(UserError, match=expected):
        checkpoints.load(path, target, "hash", 1)


@pytest.mark.parametrize("size", [0, 1, 64, 65, 66, 200, -1])
def test_any_truncation_is_noticed(tmp_path: Path, size: int) -> None:
    path = checkpoints.save(tmp_path, _state(), 1, "hash", {"wall_s": 0.0, "diverged": {}})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(checkpoints.Unreadable):
        checkpoints.load(path, _state(), "hash", 1)


def test_metrics_drop_lines_that_a_resume_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with metrics.Writer(path, 0) as writer:
        writer.write([{"iteration": i, "loss": [float(i), None]} for i in (1, 2, 3)])
    with open(path, "a") as file:
        file.write('{"iteration": 4, "lo')
    assert [line["iteration"] for line in metrics.read(path)] == [1, 2, 3]
    with metrics.Writer(path, 2) as writer:
        writer.write([{"iteration": 3, "loss": [9.0, None]}])
    assert [line["loss"] for line in metrics.read(path)] == [[1.0, None], [2.0, None], [9.0, None]]


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("METARL_JAX_CACHE_DIR", raising=False)
    assert compilation_cache.folder() == tmp_path / "metarl_jax"
    monkeypatch.setenv("METARL_JAX_CACHE_DIR", str(tmp_path / "own"))
    assert compilation_cache.folder() == tmp_path / "own"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METARL_JAX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert compilation_cache.enable() is False


@pytest.mark.slow
def test_tasks_distributed_over_devices_train_equally(tmp_path: Path) -> None:
    """Two devices agree with one to rounding, and one device resumes a run of two."""
    settings = experiments.get("fomaml-sinusoid").with_overrides({"iterations": 6, "tasks": 4, "adaptation_steps": 1})
    losses = []
    for number in (1, 2):
        config = folder.RunConfig(experiment="fomaml-sinusoid", settings=settings, seed=0, seeds=2, evaluate_every=6)
        run = train.new_run(tmp_path / str(number), config)
        assert train.train(run, train.Options(devices=number)).finished
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        losses.append([[*row["loss"], *row.get("validation_score", [])] for row in rows])
    assert [len(row) for row in losses[0]] == [2] * 5 + [4]
    for one, two in zip(*losses, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4)
    half = folder.RunConfig(experiment="fomaml-sinusoid", settings=settings, seed=0, seeds=2, evaluate_every=3)
    run = train.new_run(tmp_path / "half", half)
    assert not train.train(run, train.Options(devices=2, time_limit=0.0)).finished
    assert 0 < train.load_states(run, train.build(half)).iteration < 6
    assert train.train(run, train.Options(devices=1)).finished
    with pytest.raises(UserError, match=r"there are 2 devices \(cpu\) here, not 3"):
        train.train(train.new_run(tmp_path / "more", half), train.Options(devices=3))


@pytest.mark.slow
def test_seeds_of_robots_are_spread_over_devices(tmp_path: Path) -> None:
    """Callbacks to the host step the robots."""
    sizes = {"iterations": 1, "trials": 2, "episodes": 1, "epochs": 1, "minibatches": 1, "hidden_size": 8}
    settings = experiments.get("rl2-half-cheetah-direction").with_overrides(sizes)
    rewards = []
    for number in (1, 2):
        name = "rl2-half-cheetah-direction"
        config = folder.RunConfig(experiment=name, settings=settings, seed=0, seeds=2, evaluate_every=1)
        run = train.new_run(tmp_path / str(number), config)
        assert train.train(run, train.Options(devices=number)).finished
        rewards.append(json.loads((run.path / "metrics.jsonl").read_text())["trial_reward"])
    assert abs(rewards[0][0] - rewards[0][1]) > 1
    # The two programs round differently, and the dynamics of falling robots amplify the differences.
    np.testing.assert_allclose(rewards[1], rewards[0], atol=0.1)


def test_robots_on_the_host_with_seeds_and_tasks_over_devices_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case needs four devices. JAX refuses the same program on two devices if an axis is left to the compiler."""

    def on_host(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda x: x, jax.typeof(x), x)

    def train_columns(*_: Any) -> Any:
        spec = jax.sharding.PartitionSpec("seeds")
        return jax.shard_map(on_host, in_specs=spec, out_specs=spec, axis_names={"seeds"}, check_vma=False)

    monkeypatch.setattr(programs, "train_columns", train_columns)
    problem: Any = None
    with (
        devices.spread(2, columns=2) as placement,
        pytest.raises(UserError, match="seeds or tasks can be spread over devices, not both: use --devices 2"),
    ):
        train._compile(problem, placement, (placement.put(jnp.zeros(2)),), runs=1)


def test_unknown_experiments_name_near_ones() -> None:
    with pytest.raises(ValueError, match="did you mean rl2-tabular-mdp-10"):
        experiments.get("rl2-tabular-mdp-11")


def test_unknown_settings_name_near_ones() -> None:
    with pytest.raises(ValueError, match=r"has no setting 'hiden_size' \(did you mean hidden_size"):
        experiments.get("rl2-bandit-10x5").with_overrides({"hiden_size": 3})


def test_a_mean_that_is_not_finite_is_reported_as_diverged() -> None:
    assert files.finite({"a": [1.0, float("nan")], "b": float("inf"), "c": 3}) == {"a": [1.0, None], "b": None, "c": 3}
    measure = experiments.get("maml-sinusoid").measure._asdict()

    def learner(name: str, scores: list[float | None]) -> dict[str, Any]:
        return {"name": name, "score": scores[-1], "ci95": [scores[-1], scores[-1]], "score_by_stage": scores}

    evaluation = {
        "experiment": "e",
        "iteration": 3,
        "tasks": 5,
        "stages": 2,
        "measure": measure,
        "training_seeds": 1,
        "ours": learner("ours", [3.0, 0.5, None]),
        "oracles": [learner("scratch", [4.0, 3.5, 3.0])],
        "changes": {"inner_rate": 9.0},
        "gains": [{"over": "scratch", "mean": None, "ci95": [None, None]}],
        "paper": {},
        "paper_by_stage": {"MAML": {"1": 0.67}},
        "optimum": None,
    }
    # For errors, the smallest comes first, and a learner that diverged comes last.
    assert report.rows(evaluation) == [("scratch", "3.000", "3.000 to 3.000"), ("ours", "diverged", "")]
    stages, rows = report.stage_rows(evaluation)
    assert stages == [0, 1, 2]
    assert rows == [
        ("ours", ["3.000", "0.500", "diverged"]),
        ("scratch", ["4.000", "3.500", "3.000"]),
        ("MAML", ["", "0.67", ""]),
    ]
    assert "| ours | 3.000 | 0.500 | diverged |" in report.markdown(evaluation)
    assert "| scratch | diverged |  |" in report.markdown(evaluation)
    assert report.markdown(evaluation).startswith("e, inner_rate 9.0: mean")


def test_steins_number_of_tasks_gives_the_precision_in_95_percent_of_pilots() -> None:
    pilots = np.random.default_rng(0).normal(3.0, 2.0, (4000, 2, 40))
    numbers = [evaluate.tasks_for(0.25, pilot) for pilot in pilots]
    # The mean over two seeds has the standard deviation sqrt(2), and so many tasks would do if this were known.
    assert np.mean(np.array(numbers, float)) == pytest.approx((2.0227 / 0.25) ** 2 * 2, rel=0.02)
    errors = np.random.default_rng(1).normal(0.0, math.sqrt(2), len(numbers)) / np.sqrt(np.array(numbers, float))
    assert np.mean(np.abs(errors) <= 0.25) == pytest.approx(0.95, abs=0.012)
    assert evaluate.tasks_for(1e6, pilots[0]) == evaluate.tasks_for(0.1, np.zeros((1, 40))) == 40
    assert evaluate.tasks_for(0.25, np.array([[1.0, np.nan]])) is None


def test_an_evaluation_stops_at_a_precision(tmp_path: Path) -> None:
    settings = experiments.get("rl2-bandit-10x5").with_overrides({"iterations": 1, "trials": 4, "hidden_size": 4})
    config = folder.RunConfig(experiment="rl2-bandit-10x5", settings=settings, seed=0, seeds=1, evaluate_every=1)
    run = train.new_run(tmp_path / "run", config)
    assert train.train(run, train.Options()).finished
    said: list[str] = []
    enough = evaluate.evaluate(run, None, {}, 0, said.append, precision=0.2)
    low, high = enough["ours"]["ci95"]
    assert (high - low) / 2 == pytest.approx(0.2, rel=0.2)
    assert enough["tasks"] < experiments.get("rl2-bandit-10x5").heldout_tasks
    # It is the evaluation of so many tasks.
    assert evaluate.evaluate(run, enough["tasks"], {}, 0, said.append) == enough
    bounded = evaluate.evaluate(run, 300, {}, 0, said.append, precision=0.01)
    assert bounded["tasks"] == 300
    assert any("a 95 % interval of +-0.01 needs " in line and line.endswith("300 are measured") for line in said)


def test_the_table_is_ordered_and_marks_ours() -> None:
    def learner(name: str, reward: float) -> dict[str, Any]:
        return {"name": name, "score": reward, "ci95": [reward - 1, reward + 1]}

    evaluation = {
        "experiment": "e",
        "iteration": 3,
        "tasks": 5,
        "stages": 2,
        "measure": experiments.get("rl2-bandit-10x5").measure._asdict(),
        "training_seeds": 1,
        "ours": learner("ours", 2.0),
        "oracles": [learner("random", 1.0)],
        "changes": {},
        "gains": [{"over": "random", "mean": 1.0, "ci95": [0.5, 1.5]}],
        "paper": {"RL² (somewhere)": 2.5},
        "optimum": 3.0,
    }
    assert [row[0] for row in report.rows(evaluation)] == [
        "exact optimum (dynamic programming)",
        "RL² (somewhere)",
        "ours",
        "random",
    ]
    text = report.markdown(json.loads(json.dumps(evaluation)))
    assert "| **ours** | **2.000** | 1.000 to 3.000 |" in text
    assert "| random | 1.000 | 0.500 to 1.500 |" in text


def test_success_rates_are_reported_by_stage() -> None:
    measure = experiments.get("rl2-bandit-10x5").measure
    # The scores are of two seeds, three tasks and two episodes.
    success = np.array([[[0, 1], [0, 1], [0, 1]], [[0, 1], [1, 1], [0, 0]]])
    ours = evaluate._summary("ours", Evaluation(10.0 * success, None, success), measure)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(ours["success_by_stage"], [1 / 6, 5 / 6])
    assert ours["per_seed_success_by_stage"] == [[0, 1], pytest.approx([1 / 3, 2 / 3])]
    # The interval is over tasks. Their means over two seeds are 1, 1 and 0.5, and Student's t is 4.3027 for two degrees
    # of freedom.
    margin = 4.30265 * math.sqrt(1 / 12 / 3)
    np.testing.assert_allclose(ours["success_ci95_by_stage"][1], [5 / 6 - margin, 5 / 6 + margin], rtol=1e-5)
    other = evaluate._summary("random", Evaluation(success, None), measure)  # pyright: ignore[reportArgumentType]
    assert not any("success" in name for name in other)
    evaluation = {
        "experiment": "e",
        "iteration": 3,
        "tasks": 3,
        "stages": 2,
        "measure": measure._asdict(),
        "training_seeds": 2,
        "ours": ours,
        "oracles": [other],
        "changes": {},
        "gains": [],
        "paper": {},
        "paper_by_stage": {},
        "optimum": None,
    }
    assert report.success_rows(evaluation) == ([1, 2], [("ours", ["16.7%", "83.3%"])])
    assert "| success by episode | 1 | 2 |\n|---|---:|---:|\n| ours | 16.7% | 83.3% |" in report.markdown(evaluation)
    assert report.success_rows({**evaluation, "ours": other}) == ([], [])


@pytest.mark.parametrize("better", [1, -1])
def test_a_gain_is_of_the_same_tasks_and_positive_where_ours_is_better(better: int) -> None:
    measure = experiments.get("maml-sinusoid").measure._replace(higher_is_better=better > 0)
    luck = np.linspace(-50, 50, 11)
    ours = np.stack([luck + better * 2.0, luck + better * 4.0])
    gain = evaluate.gain("another", ours, luck[None], measure)
    assert gain["over"] == "another"
    assert gain["mean"] == pytest.approx(3.0)
    np.testing.assert_allclose(gain["ci95"], 3.0)
    np.testing.assert_allclose(gain["per_seed"], [2.0, 4.0])


def test_the_best_state_is_kept_in_addition_to_the_last_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation errors are 3, 1, 2, ... The state of the second validation is kept, also after a resume."""
    settings = experiments.get("fomaml-sinusoid").with_overrides({"iterations": 4, "tasks": 4, "adaptation_steps": 1})
    config = folder.RunConfig(experiment="fomaml-sinusoid", settings=settings, seed=0, seeds=1, evaluate_every=1)
    told = iter([3.0, 1.0, 2.0, float("nan")])
    monkeypatch.setattr(train, "_validation", lambda *_: lambda states, key, values: jnp.float32([[next(told)]]))
    monkeypatch.setattr("metarl_jax.runs.devices.Placement.jit_whole", lambda self, function: function)
    run = train.new_run(tmp_path / "run", config)
    options = train.Options(checkpoint_every=1, keep=2, keep_best=True)
    assert not train.train(run, dataclasses.replace(options, time_limit=0.0)).finished
    assert train.train(run, options).finished
    assert [path.name[:9] for path in checkpoints.paths(run.checkpoints)] == ["000000004", "000000003"]
    problem = train.build(config)
    assert train.load_states(run, problem, best=True).iteration == 2
    assert train.load_states(run, problem).extra["best_validation_score"] == 1.0
    assert [line["validation_score"] for line in metrics.read(run.metrics) if "validation_score" in line][-1] == [None]
    (tmp_path / "run" / "best.checkpoint").unlink()
    with pytest.raises(UserError, match=r"did not keep the state with the best validation score"):
        train.load_states(run, problem, best=True)


def test_damaged_metrics_are_left_out_of_watch(tmp_path: Path) -> None:
    settings = {**experiments.get("rl2-bandit-10x5").with_overrides({}), "iterations": 4}
    config = folder.RunConfig(experiment="rl2-bandit-10x5", settings=settings, seed=0, seeds=2, evaluate_every=2)
    path, follower = tmp_path / "metrics.jsonl", watch.Follower(tmp_path, config)
    garbage = [
        *(b"\xff\xfe\x00", b"3", b"null", b"[]", b"{}", b'"x"', b"{", b"[" * 100_000, b'{"iteration": "1"}'),
        *(
            b'{"iteration": 1}',
            b'{"iteration": 0, "steps": 1, "wall_s": 1}',
            b'{"iteration": 1, "steps": 1, "wall_s": 1e99}',
        ),
        b'{"iteration": NaN, "steps": 1, "wall_s": 1}',
    ]
    path.write_bytes(b"\n".join(garbage) + b"\n")
    assert follower.status() == ("nothing written yet", False)
    lines = [{"iteration": i, "steps": 10 * i, "wall_s": 0.5 * i} for i in (1, 2)]
    more: list[dict[str, Any]] = [{"trial_reward": 3, "heldout_score": "x"}, {"trial_reward": [None, "x", 7.0]}]
    with open(path, "ab") as file:
        for line, other in zip(lines, more, strict=True):
            file.write(json.dumps(line | other).encode() + b"\n")
    assert follower.status().text.startswith(
        "iteration 2/4, 40 environment steps/s, 0:01 to go, reward of a trial 7.000;"
    )
    with open(path, "ab") as file:
        file.write(b"\x00\n" + json.dumps(lines[1] | {"iteration": 3}).encode() + b"\n")
    assert follower.status().text.startswith("iteration 3/4, ")
    path.unlink()
    path.mkdir()
    assert not follower.status().finished
    with pytest.raises(UserError, match="does not say how many iterations there are"):
        watch.Follower(tmp_path, dataclasses.replace(config, settings={}))


def test_states_of_seeds_that_would_be_others_are_refused() -> None:
    settings = experiments.get("fomaml-sinusoid").with_overrides({"units": 4})
    config = folder.RunConfig(experiment="fomaml-sinusoid", settings=settings, seed=0, seeds=1, evaluate_every=1)
    problem, last = train.build(config), 2**32 - 1
    for seed in (last, jnp.uint32(last)):
        with pytest.raises(ValueError, match=r"seeds 4294967295 \.\. 4294967296 are not all from 0 to 4294967295"):
            programs.start_states(problem, {}, seed, 2)
    two = programs.start_states(problem, {}, last - 1, 2)
    one = jax.jit(lambda seed: programs.start_states(problem, {}, seed, 1))(jnp.uint32(last))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y[0]), two.algorithm, one.algorithm)
    with pytest.raises(ValueError, match="are not all from 0 to 4294967295"):
        dataclasses.replace(config, seed=last, seeds=2)
    asked = {"experiment": "fomaml-sinusoid", "settings": settings, "vary": {}, "seed": last, "seeds": 2}
    with pytest.raises(ValueError, match="are not all from 0 to 4294967295"):
        study_folder.StudyConfig(**asked)


def test_watch_reads_the_files_of_a_run(tmp_path: Path) -> None:
    """No lock is taken. Incomplete lines do not count, and lines that a resume removes are forgotten."""
    settings = {**experiments.get("rl2-bandit-10x5").with_overrides({}), "iterations": 4}
    config = folder.RunConfig(experiment="rl2-bandit-10x5", settings=settings, seed=0, seeds=2, evaluate_every=2)

    def written(iteration: int, **more: Any) -> str:
        line = {"iteration": iteration, "steps": 10 * iteration, "wall_s": 0.5 * iteration, "trial_reward": [1.0, 3.0]}
        return json.dumps({**line, **more}) + "\n"

    follower = watch.Follower(tmp_path, config)
    assert follower.status() == ("nothing written yet", False)
    path = tmp_path / "metrics.jsonl"
    path.write_text(written(1) + written(2, validation_score=[5.0, 6.0]) + written(3) + '{"iteration": 4, "st')
    status = follower.status()
    expected = (
        "iteration 3/4, 40 environment steps/s, 0:00 to go, reward of a trial 2.000, validation 5.500; written 0:0"
    )
    assert status.text.startswith(expected)
    assert not status.finished
    path.write_text(written(1))
    assert "validation" not in follower.status().text
    path.write_text("".join(written(i, trial_reward=[None, 7.0]) for i in (1, 2, 3, 4)))
    assert follower.status() == ("iteration 4/4, finished, reward of a trial 7.000", True)
    # An older version wrote this form.
    path.write_text("".join(written(i, heldout_score=[5.0, 6.0]) for i in (1, 2, 3, 4)))
    follower = watch.Follower(tmp_path, config)
    assert follower.status() == ("iteration 4/4, finished, reward of a trial 2.000, validation 5.500", True)
