"""XLand-MiniGrid as a task family: xminigrid's own steps and rewards, and rulesets as tasks."""

from __future__ import annotations

import bz2
import importlib
import itertools
import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xminigrid import benchmarks
from xminigrid.benchmarks import Benchmark
from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles
from xminigrid.core.goals import AgentHoldGoal
from xminigrid.core.rules import EmptyRule
from xminigrid.registration import make
from xminigrid.types import RuleSet

from metarl_jax import cli
from metarl_jax.environments import xland
from metarl_jax.types import Box

ENVIRONMENT = "XLand-MiniGrid-R1-9x9"
NUMBER = 10


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    """Return a benchmark of rulesets whose goals are to pick up a ball, in ten colours."""
    balls = [TILES_REGISTRY[Tiles.BALL, colour] for colour in range(Colors.RED, Colors.RED + NUMBER)]
    goals = jnp.stack([AgentHoldGoal(ball).encode() for ball in balls])
    rules = jnp.broadcast_to(EmptyRule().encode(), (NUMBER, 1, *EmptyRule().encode().shape))
    return Benchmark(goals, rules, jnp.stack(balls)[:, None], jnp.zeros(NUMBER, jnp.int32))


@pytest.mark.slow
def test_steps_are_xminigrids(benchmark: Benchmark) -> None:
    """Grids, views, rewards and terminations equal those of xminigrid's environment with the same ruleset."""
    horizon = 60
    family = xland.make(benchmark, ENVIRONMENT, horizon=horizon)
    assert family.horizon == horizon
    assert isinstance(family.observation_space, Box)
    env, params = make(ENVIRONMENT)
    task = family.tasks.sample(jax.random.key(1))
    params = params.replace(ruleset=task.ruleset, max_steps=horizon)
    first, reset, after = jax.jit(env.reset), jax.jit(family.env.reset), jax.jit(env.step)
    step = jax.jit(family.env.step)
    ended = 0
    for seed in range(12):
        timestep = first(params, jax.random.key(seed))
        seen, state = reset(jax.random.key(seed), task)
        actions = np.random.default_rng(seed).choice(6, horizon, p=[0.5, 0.1, 0.1, 0.3, 0.0, 0.0])
        for count, action in enumerate(actions, start=1):
            np.testing.assert_array_equal(state.grid, timestep.state.grid)
            tiles, colours, looks = np.split(np.asarray(seen), [25 * 13, 25 * 25])
            view = np.asarray(timestep.observation)
            np.testing.assert_array_equal(tiles.reshape(5, 5, 13).argmax(axis=-1), view[..., 0])
            np.testing.assert_array_equal(colours.reshape(5, 5, 12).argmax(axis=-1), view[..., 1])
            assert seen.sum() == 2 * 25 + 1
            assert looks.argmax() == timestep.state.agent.direction
            timestep = after(params, timestep, jnp.int32(action))
            seen, state, reward, terminated, truncated, _ = step(jax.random.key(0), state, jnp.int32(action), task)
            assert reward == timestep.reward
            assert bool(terminated) == (bool(timestep.last()) and float(timestep.discount) == 0)
            assert bool(truncated) == (count == horizon)
            if terminated or truncated:
                ended += bool(terminated)
                break
    assert ended


def test_a_share_of_the_rulesets_is_held_out(benchmark: Benchmark) -> None:
    def drawn(sample: Any) -> set[bytes]:
        goals = jax.jit(jax.vmap(lambda key: sample(key).ruleset.goal))(jax.random.split(jax.random.key(0), 200))
        return {goal.tobytes() for goal in np.asarray(goals)}

    tasks = xland.make(benchmark, ENVIRONMENT, heldout_share=0.3).tasks
    assert (len(drawn(tasks.sample)), len(drawn(tasks.sample_heldout))) == (7, 3)
    assert not drawn(tasks.sample) & drawn(tasks.sample_heldout)
    few = RuleSet(benchmark.goals[:2], benchmark.rules[:2], benchmark.init_tiles[:2])
    tasks = xland.make(benchmark, ENVIRONMENT, heldout=few).tasks
    assert (len(drawn(tasks.sample)), len(drawn(tasks.sample_heldout))) == (10, 2)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (["XLand-MiniGrid-R1-9x8"], {}, ValueError, "did you mean XLand-MiniGrid-R1-9x9"),
        (["MiniGrid-Empty-8x8"], {}, ValueError, "no environment with rulesets"),
        ([], {"horizon": 0}, ValueError, "horizon must be a positive whole number"),
        ([], {"heldout_share": 0.01}, ValueError, "at least one of the 10 rulesets for training"),
        ([], {"heldout_share": 1.0}, ValueError, "heldout_share must be a finite number above 0 and below 1"),
        ([], {"heldout": "trivial-21k"}, TypeError, "heldout must be a Benchmark, or a RuleSet"),
    ],
)
def test_mistakes_are_named(
    benchmark: Benchmark, arguments: list[str], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        xland.make(benchmark, *arguments, **settings)


def test_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xminigrid", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[xland\]'"):
        xland.make(None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[xland\]'"):
        xland.made_up()
    with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[xland\]'"):
        xland.load("trivial-21k")


def test_made_up_rulesets_contain_every_combination_once() -> None:
    made_up = jax.tree.map(np.asarray, xland.made_up())
    kinds, counts = np.unique(made_up.goal[:, 0], return_counts=True)
    # There are two kinds of goals, 18 objects of the goal, and 17 * 16 / 2 pairs of other objects.
    np.testing.assert_array_equal(kinds, [1, 3])
    np.testing.assert_array_equal(counts, [18 * 136] * 2)
    np.testing.assert_array_equal(made_up.goal[:, 1:3], made_up.init_tiles[:, 0])
    assert not made_up.goal[:, 3:].any()
    assert not made_up.rules.any()
    objects = [[tuple(tile) for tile in tiles] for tiles in made_up.init_tiles.tolist()]
    assert all(len(set(tiles)) == 3 for tiles in objects)
    choices = {(kind, tiles[0], frozenset(tiles)) for kind, tiles in zip(made_up.goal[:, 0], objects, strict=True)}
    assert len(choices) == 2 * 18 * 136


def test_a_downloaded_benchmark_is_read(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "DATA_PATH", str(tmp_path))
    content = {name: getattr(benchmark, name) for name in ("goals", "rules", "init_tiles", "num_rules")}
    benchmarks.save_bz2_pickle(content, str(tmp_path / "trivial_21k"))
    loaded = xland.load("trivial-21k")
    jax.tree.map(np.testing.assert_array_equal, loaded, benchmark)
    for protocol in (2, 5):
        some = jax.tree.map(np.asarray, content)
        benchmarks.save_bz2_pickle(some, str(tmp_path / "trivial_21k"), protocol)
        jax.tree.map(np.testing.assert_array_equal, xland.load("trivial-21k"), benchmark)
    assert xland.make(loaded, ENVIRONMENT).horizon == 3 * 9 * 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "Invalid data stream"),
        (bz2.compress(pickle.dumps("a benchmark"))[:20], "ended before"),
        (bz2.compress(b""), "Ran out of input"),
        (bz2.compress(b"no pickle"), "invalid load key"),
        (bz2.compress(pickle.dumps({"goals": 1})), "it has no 'rules'"),
        (bz2.compress(pickle.dumps(1)), "not subscriptable"),
        (bz2.compress(pickle.dumps({"goals": print})), "it holds builtins.print, where only arrays are allowed"),
    ],
    ids=["other file", "truncated", "empty", "other archive", "incomplete", "other content", "a program"],
)
def test_a_damaged_benchmark_is_one_clear_error(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "DATA_PATH", str(tmp_path))
    (tmp_path / "trivial_21k").write_bytes(content)
    with pytest.raises(ValueError, match=f"trivial_21k cannot be read as a benchmark: .*{message}"):
        xland.load("trivial-21k")


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(ValueError, match=r"no benchmark named 'trivial-21' \(did you mean trivial-21k\?\)"):
        xland.load("trivial-21")


def test_training_names_the_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command fails with a one-line message and writes nothing, without the benchmark or without the extra."""
    monkeypatch.setattr(benchmarks, "DATA_PATH", str(tmp_path))
    command = ["train", "rl2-xland-trivial-21k", "--run-dir", str(tmp_path / "run")]
    assert cli.main(command) == 2
    monkeypatch.setitem(sys.modules, "xminigrid", None)
    assert cli.main(command) == 2
    benchmark, extra = capsys.readouterr().err.splitlines()
    assert "fetch it with" in benchmark
    assert str(tmp_path / "trivial_21k") in benchmark
    assert "pip install '.[xland]'" in extra
    assert not list(tmp_path.iterdir())


def test_the_benchmarks_filters_are_xminigrids(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``benchmarks/xland_speed.py`` merges xminigrid's embeddings of tile and colour with the filters on them."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    tiles, colours, looks = rng.integers(0, 13, (3, 5, 5)), rng.integers(0, 12, (3, 5, 5)), np.eye(4)[[0, 2, 3]]
    embeddings, channels = (draw(13, 4), draw(12, 4)), (8, 16, 32, 64)
    filters = [draw(2, 2, *sizes) for sizes in itertools.pairwise(channels)]
    x = jnp.concatenate([embeddings[0][tiles], embeddings[1][colours]], axis=-1)
    for layer in map(jnp.asarray, filters):
        x = jax.lax.conv_general_dilated(x, layer, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jnp.maximum(x + 0.1, 0)

    both = np.zeros((25, 8), np.float32)
    both[:13, :4], both[13:, 4:] = embeddings
    kernels = [(both @ filters[0]).reshape(-1, 16), *(layer.reshape(-1, layer.shape[-1]) for layer in filters[1:])]
    layers = {f"Dense_{i}": {"kernel": k, "bias": np.full(k.shape[1], 0.1)} for i, k in enumerate(kernels)}
    seen = np.concatenate([np.eye(13)[tiles].reshape(3, -1), np.eye(12)[colours].reshape(3, -1), looks], axis=-1)
    view = importlib.import_module("xland_speed").View(5, (13, 12))
    got = view.apply({"params": layers}, jnp.asarray(seen, jnp.uint8))
    np.testing.assert_allclose(got, np.concatenate([x.reshape(3, -1), looks], axis=-1), rtol=1e-4, atol=1e-4)
