"""Families of Gymnasium environments: translation, trajectories, batches, states, faults and processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from toys import gymnasium_envs as toys

import metarl_jax as mrl
from metarl_jax import batching, experiments, host_calls
from metarl_jax.environments import from_gymnasium, gymnasium_host, gymnasium_spaces
from metarl_jax.environments.gymnasium_family import GymnasiumEnvironment, GymnasiumState
from metarl_jax.family_checks import check_family
from metarl_jax.host_calls import HostError
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Box, Carry, Discrete, EnvFamily, Inputs, Key, TaskDistribution, Transition

TESTS = Path(__file__).resolve().parent
CARTPOLE = TESTS / "data" / "gymnasium_cartpole.py"
HORIZON = 7
PATH = os.pathsep.join([str(TESTS.parent), str(TESTS)])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH}


def sampler(fault: str = "") -> Callable[[Key], toys.Task]:
    def sample(key: Key) -> toys.Task:
        return toys.Task(jax.random.randint(key, (), 1, 4, jnp.int32), jnp.int32(toys.FAULTS.index(fault)))

    return sample


OPENED: list[Any] = []


def lines(fault: str = "", *, heldout_fault: str | None = None, **options: Any) -> EnvFamily:
    """Make a family of lines, whose environments are closed at the end of the test."""
    heldout = sampler(fault if heldout_fault is None else heldout_fault)
    options = {"make_env": toys.line, "horizon": HORIZON, "set_task": toys.set_task, **options}
    family = from_gymnasium(tasks=TaskDistribution(sampler(fault), heldout), **options)
    OPENED.append(family.env)
    return family


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def pool_of(family: EnvFamily) -> Any:
    assert isinstance(family.env, GymnasiumEnvironment)
    return family.env._pool


def at_random(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
    del inputs
    return carry, jax.random.randint(key, (), 0, 2, jnp.int32), ()


def play(family: EnvFamily, tasks: int, episodes: int, seed: int = 0) -> tuple[Any, Transition]:
    """Play trials at random; return the tasks, and the transitions ``[tasks, T, ...]``."""

    @jax.jit
    @jax.vmap
    def one(key: Key) -> tuple[Any, Transition]:
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        return task, trial(key_trial, at_random, (), family, task, episodes)[1]

    return jax.tree.map(np.asarray, one(jax.random.split(jax.random.key(seed), tasks)))


# Spaces.

IMAGE = spaces.Box(0, 255, (4, 5, 3), np.uint8)
BOX = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64)
BOTH = spaces.Dict({"a": spaces.Discrete(3, start=5), "b": spaces.Tuple([BOX, spaces.MultiDiscrete([2, 2])])})


@pytest.mark.parametrize(
    ("space", "shape", "value", "expected"),
    [
        (spaces.Discrete(4, start=2), None, 5, 3),
        (BOX, (2,), [0.5, 3.0], [0.5, 3.0]),
        (IMAGE, (4, 5, 3), np.full((4, 5, 3), 200), np.full((4, 5, 3), 200)),
        (spaces.Box(0, 255, (4, 5), np.uint8), (4, 5, 1), np.full((4, 5), 7), np.full((4, 5, 1), 7)),
        (spaces.MultiDiscrete([2, 3]), (5,), np.array([1, 2]), [0, 1, 0, 0, 1]),
        (spaces.MultiBinary(3), (3,), np.array([1, 0, 1], np.int8), [1, 0, 1]),
        (BOTH, (9,), {"a": 6, "b": (np.array([0.5, 3.0]), np.array([1, 0]))}, [0, 1, 0, 0.5, 3, 0, 1, 1, 0]),
    ],
    ids=["discrete", "box", "image", "grey image", "multi-discrete", "multi-binary", "both"],
)
def test_observations_are_translated(space: Any, shape: Any, value: Any, expected: Any) -> None:
    found = gymnasium_spaces.observations(space)
    space = found.numbers.space()
    assert space == Discrete(4) if shape is None else isinstance(space, Box) and space.shape == shape
    np.testing.assert_array_equal(found.encode(value), expected)
    assert found.dtype == (np.int32 if shape is None else np.uint8 if len(shape) == 3 else np.float32)


def test_bounds_are_translated() -> None:
    box = gymnasium_spaces.observations(BOX).numbers.space()
    assert isinstance(box, Box)
    np.testing.assert_array_equal(box.low, [-1, 0])
    np.testing.assert_array_equal(box.high, [1, np.inf])
    assert gymnasium_spaces.observations(IMAGE).numbers.space() == Box(0, 255, (4, 5, 3))
    assert gymnasium_spaces.actions(spaces.Box(-2, 2, (3,))).numbers.space() == Box(-2.0, 2.0, (3,))


@pytest.mark.parametrize(
    ("space", "number"),
    [
        (spaces.Discrete(4, start=-1), 4),
        (spaces.MultiDiscrete([2, 3]), 6),
        (spaces.MultiDiscrete([2, 3], start=[1, 1]), 6),
        (spaces.MultiBinary(3), 8),
        (spaces.Dict({"a": spaces.Discrete(3, start=5), "b": spaces.Tuple([spaces.MultiBinary([1, 2])])}), 12),
    ],
    ids=str,
)
def test_every_discrete_action_is_translated(space: Any, number: int) -> None:
    found = gymnasium_spaces.actions(space)
    assert found.numbers.space() == Discrete(number)
    decoded = [found.decode(np.asarray(action, np.int32)) for action in range(number)]
    assert all(space.contains(action) for action in decoded)
    assert len({str(action) for action in decoded}) == number


def test_continuous_actions_are_translated() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Tuple([spaces.Box(0, 5, (1, 2))])})
    found = gymnasium_spaces.actions(space)
    box = found.numbers.space()
    assert isinstance(box, Box) and box.shape == (4,)
    np.testing.assert_array_equal(box.high, [1, 1, 5, 5])
    action = found.decode(np.array([0.5, -0.5, 2, 3], np.float32))
    assert space.contains(action)
    np.testing.assert_array_equal(action["b"][0], [[2, 3]])


@pytest.mark.parametrize(
    ("translate", "space", "message"),
    [
        ("observations", spaces.Text(3), "the observation space must consist of Box.*not of Text"),
        ("observations", spaces.Dict({"a": spaces.Sequence(BOX)}), "not of Sequence"),
        ("actions", spaces.Tuple([BOX, spaces.Discrete(2)]), "must not have both continuous and discrete parts"),
        ("actions", spaces.MultiBinary(13), "at most 4096 combinations of discrete actions, but .* has 8192"),
    ],
)
def test_spaces_that_are_refused(translate: str, space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(gymnasium_spaces, translate)(space)


def test_actions_are_clipped_and_images_stay_bytes() -> None:
    made: list[toys.Spaces] = []

    def make_env(task: Any) -> toys.Spaces:
        made.append(toys.Spaces(IMAGE, spaces.Box(-1, 2, (2,))))
        return made[-1]

    tasks = TaskDistribution(lambda key: jnp.int32(0), lambda key: jnp.int32(0))
    family = from_gymnasium(make_env, tasks, horizon=3)
    obs, state = family.env.reset(jax.random.key(0), jnp.int32(0))
    assert obs.dtype == jnp.uint8 and obs.shape == (4, 5, 3)
    family.env.step(jax.random.key(1), state, jnp.array([5.0, -7.0]), jnp.int32(0))
    np.testing.assert_array_equal(made[-1].got, [[2, -1]])
    check_family(family)


# Trajectories.


def seed_of(key: Key) -> int:
    """Compute the documented seed of a reset: the words of the key as one number."""
    first, second = (int(word) for word in np.asarray(jax.random.key_data(key)))
    return first * 2**32 + second


def by_hand(env: toys.Line, key: Key, episodes: int) -> list[tuple[Any, ...]]:
    """Play the same trial as ``rollout.trial`` with Gymnasium alone, until the last episode ends."""
    key_steps, key_reset = jax.random.split(key)
    keys = jax.random.split(key_steps, (episodes * HORIZON, 2))
    obs, _ = env.reset(seed=seed_of(key_reset))
    rows: list[tuple[Any, ...]] = []
    episode = elapsed = 0
    for key_act, key_env in keys:
        action = np.int64(at_random(key_act, (), Inputs(*[()] * 5))[1])  # pyright: ignore[reportArgumentType]
        final, reward, terminated, truncated, _ = env.step(action)
        elapsed += 1
        truncated = truncated or elapsed == HORIZON
        rows.append((obs, int(action), np.float32(reward), terminated, truncated, final, episode))
        obs = final
        if terminated or truncated:
            obs, _ = env.reset(seed=seed_of(key_env))
            episode, elapsed = episode + 1, 0
            if episode == episodes:
                break
    return rows


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("episodes", [1, 3])
def test_a_trial_is_what_gymnasium_plays(workers: int, episodes: int) -> None:
    tasks, played = play(lines(workers=workers), 5, episodes)
    ends = set()
    for row, key in enumerate(jax.random.split(jax.random.key(0), 5)):
        env = toys.Line(jax.tree.map(lambda x, row=row: x[row], tasks))
        expected = by_hand(env, jax.random.split(key)[1], episodes)
        steps = len(expected)
        t = jax.tree.map(lambda x, row=row: x[row], played)
        assert t.valid.sum() == steps and not t.valid[steps:].any()
        got = (t.inputs.obs, t.action, t.reward, t.terminated, t.truncated, t.final_obs, t.episode)
        for ours, theirs in zip(got, zip(*expected, strict=True), strict=True):
            np.testing.assert_array_equal(ours[:steps], np.asarray(theirs))
        ends |= {(bool(a), bool(b)) for a, b in zip(t.terminated[:steps], t.truncated[:steps], strict=True)}
    assert {(True, False), (False, True)} <= ends


def test_check_family_holds() -> None:
    check_family(lines())
    check_family(lines(workers=1))
    check_family(lines(make_env=toys.drawn_line))


def test_set_task_or_new_environments() -> None:
    """Without ``set_task``, an environment is made for each new task, and kept where the task is the same."""
    made: list[toys.Line] = []

    def make_env(task: toys.Task) -> toys.Line:
        made.append(toys.Line(task))
        return made[-1]

    family = lines(make_env=make_env, set_task=None)
    made.clear()
    first = play(family, 4, 1)
    assert len(made) == 4
    play(family, 4, 1)
    assert len(made) == 4
    play(family, 4, 1, seed=1)
    assert 4 < len(made) <= 8
    changed = lines(make_env=make_env)
    made.clear()
    second = play(changed, 4, 1)
    play(changed, 4, 1, seed=1)
    assert len(made) == 4
    jax.tree.map(np.testing.assert_array_equal, first, second)


# Batches.


def test_a_step_of_a_batch_is_one_call() -> None:
    family = lines()
    pool = pool_of(family)
    play(family, 6, 2)
    # A reset, two episodes of seven steps, and the end of the trials.
    assert pool._calls == 1 + 2 * HORIZON + 1
    assert len(pool._lease) == 6 and not pool._lease.any()
    keys = jax.random.split(jax.random.key(0), (3, 2))
    tasks = jax.vmap(jax.vmap(family.tasks.sample))(keys)
    obs, state = jax.jit(jax.vmap(jax.vmap(family.env.reset)))(keys, tasks)
    assert obs.shape == (3, 2, 2) and sorted(np.ravel(state.slot)) == list(range(6))
    # One task for all.
    one = jax.tree.map(lambda x: x[0, 0], tasks)
    obs, state = jax.jit(jax.vmap(family.env.reset, (0, None)))(keys[0], one)
    assert obs.shape == (2, 2) and pool._calls == 1 + 2 * HORIZON + 3


def rl2(family: EnvFamily, **settings: Any) -> mrl.types.Algorithm:
    policy = mrl.networks.recurrent.make(family, mrl.networks.recurrent.Settings(hidden_size=8))
    settings = {"episodes": 2, "trials": 8, "iterations": 3, "minibatches": 1, "epochs": 1, **settings}
    return mrl.algorithms.rl2.make(family, policy, mrl.algorithms.rl2.Config(**settings))


@pytest.mark.slow
def test_training_and_evaluation_step_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    family = lines()
    algorithm, pool = rl2(family), pool_of(family)
    # The memories of vectorised trials do not fit into a cache.
    monkeypatch.setattr(batching, "CACHED_CARRIES", 1)
    monkeypatch.setattr(batching, "LEAST_AT_ONCE", 2)
    run = mrl.train(jax.random.key(0), algorithm, seeds=2)
    calls = 1 + 2 * HORIZON + 1
    assert pool._calls == 2 * 3 * calls and len(pool._lease) == 8
    scores = mrl.evaluate(jax.random.key(1), algorithm, run.state, family, num_tasks=12)
    assert pool._calls == (2 * 3 + 2) * calls and len(pool._lease) == 12
    assert np.isfinite(scores.score).all()
    again = mrl.train(jax.random.key(0), algorithm, seeds=2)
    jax.tree.map(np.testing.assert_array_equal, run.metrics, again.metrics)


def test_seeds_that_call_the_host_are_trained_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator, seeds are vectorised otherwise, which JAX refuses for calls of the host."""
    algorithm = rl2(lines())
    monkeypatch.setattr(batching, "vectorised_seeds", lambda seeds: seeds)
    run = mrl.train(jax.random.key(0), algorithm, seeds=2)
    assert np.isfinite(np.asarray(run.metrics["loss"])).all()


@pytest.mark.parametrize("shards", ["tasks", "seeds"])
def test_two_devices(shards: str) -> None:
    family = lines()
    keys = jax.random.split(jax.random.key(0), 4)

    def one(key: Key) -> Transition:
        key_task, key_trial = jax.random.split(key)
        return trial(key_trial, at_random, (), family, family.tasks.sample(key_task), 2)[1]

    alone = jax.jit(jax.vmap(one))(keys)
    mesh = jax.make_mesh((2,), (shards,), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        if shards == "tasks":
            spread = jax.jit(lambda keys: batching.map_tasks(one)(keys))(keys)
        else:
            spec = jax.sharding.PartitionSpec(shards)
            spread = jax.jit(jax.shard_map(jax.vmap(one), in_specs=spec, out_specs=spec, check_vma=False))(keys)
    jax.effects_barrier()
    assert not pool_of(family)._lease.any()
    valid = np.asarray(alone.valid)
    for ours, theirs in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(np.asarray(ours)[valid], np.asarray(theirs)[valid])


# States.


def begun(family: EnvFamily, number: int = 1) -> tuple[Any, GymnasiumState]:
    keys = jax.random.split(jax.random.key(3), number)
    tasks = jax.vmap(family.tasks.sample)(keys)
    return tasks, jax.vmap(family.env.reset)(keys, tasks)[1]


def step(family: EnvFamily, state: GymnasiumState, tasks: Any) -> GymnasiumState:
    keys = jax.random.split(jax.random.key(4), len(state.slot))
    return jax.block_until_ready(jax.vmap(family.env.step)(keys, state, jnp.ones(len(keys), jnp.int32), tasks)[1])


def test_a_state_is_used_once() -> None:
    family = lines()
    tasks, state = begun(family)
    step(family, state, tasks)
    with pytest.raises(Exception, match="two steps were taken from the same state"):
        step(family, state, tasks)
    # All environments are closed after an error, and others begin.
    tasks, other = begun(family)
    step(family, other, tasks)
    with pytest.raises(Exception, match="a step was taken from a state whose trial has ended"):
        step(family, state, tasks)


def test_one_state_for_several_steps_is_refused() -> None:
    family = lines()
    tasks, state = begun(family)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), state)
    with pytest.raises(Exception, match="two steps were taken from the same state"):
        step(family, twice, jax.tree.map(lambda x: jnp.concatenate([x, x]), tasks))


@pytest.mark.parametrize("how", ["release", "mark_over"])
def test_a_trial_that_is_over_gives_back_its_slot(how: str) -> None:
    family = lines()
    assert isinstance(family.env, GymnasiumEnvironment)
    tasks, state = begun(family, 2)
    if how == "release":
        jax.vmap(family.env.release)(state)
        with pytest.raises(Exception, match="whose trial has ended"):
            step(family, state, tasks)
        return
    over = jax.vmap(family.env.mark_over)(state, jnp.array([True, False]))
    after = step(family, over, tasks)
    assert list(pool_of(family)._lease > 0) == [False, True]
    step(family, after, tasks)


def test_most_environments() -> None:
    family = lines(max_environments=4)
    tasks, first = begun(family, 3)
    _, second = begun(family, 3)
    # Two of the first three slots were taken, those that were used least recently.
    assert len(pool_of(family)._lease) == 4
    step(family, second, tasks)
    with pytest.raises(Exception, match=r"more than max_environments \(4\) trials ran at the same time"):
        step(family, first, tasks)
    with pytest.raises(HostError, match="5 environments would run at the same time, but max_environments is 4"):
        mrl.evaluate(jax.random.key(1), (a := rl2(family)), a.init(jax.random.key(0)), family, num_tasks=5)


# Arguments.


def not_an_env(task: Any) -> Any:
    return 3


def fails(task: Any) -> Any:
    raise ImportError("no simulator")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"make_env": 3}, TypeError, "make_env must be a function of a task, not 3"),
        ({"set_task": 3}, TypeError, "set_task must be a function of an environment and a task, or None, not 3"),
        ({"horizon": 0}, ValueError, "horizon must be a positive whole number"),
        ({"workers": -1}, ValueError, "workers must be a whole number"),
        ({"step_timeout": 0.0}, ValueError, "step_timeout must be a finite number above 0"),
        ({"max_environments": 0}, ValueError, "max_environments must be a positive whole number"),
        ({"make_env": not_an_env}, ValueError, "make_env must return a gymnasium.Env, not builtins.int"),
        ({"make_env": fails}, ValueError, "make_env raised ImportError: no simulator"),
        ({"make_env": lambda task: toys.line(task), "workers": 1}, ValueError, "with workers, make_env and set_task"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        lines(**options)


def test_a_family_can_be_made_while_a_function_is_traced() -> None:
    """An agent's file is loaded so."""
    assert jax.eval_shape(lambda: (lines(), jnp.zeros(3))[1]).shape == (3,)


def test_tasks_must_be_a_distribution() -> None:
    with pytest.raises(TypeError, match=r"tasks must be a metarl_jax.types.TaskDistribution, not function"):
        from_gymnasium(toys.line, sampler(), horizon=3)  # pyright: ignore[reportArgumentType]


def test_without_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"from_gymnasium needs Gymnasium.*pip install '\.\[gymnasium\]'"):
        lines()


def of_other_spaces(task: toys.Task) -> Any:
    return toys.line(task) if int(task.goal) == 2 else toys.Spaces(BOX, spaces.Discrete(3))


def test_tasks_of_other_spaces_are_refused() -> None:
    family = lines(make_env=of_other_spaces, set_task=None)
    with pytest.raises(Exception, match="all tasks of a family must have the same spaces, but make_env returned"):
        play(family, 8, 1)


# Faults.

IN_PROCESS = {
    "raise": r"the environment in slot \d(?P<who>) raised KeyError: .a wheel.nfell off. in step 3 of an episode",
    "nan": r"slot \d(?P<who>) returned an observation that is not finite \(NaN or infinite\) in step 3",
    "nan reward": r"slot \d(?P<who>) returned a reward that is not finite",
    "shape": r"returned an observation of shape \(1,\), not \(2,\) as its space says, in step 3 of an episode",
    "raise in reset": r"the environment in slot \d(?P<who>) raised OSError: the simulator is off in a reset",
}
OF_WORKERS = {
    **{fault: message.replace("(?P<who>)", r" of worker \d") for fault, message in IN_PROCESS.items()},
    "hang": r"worker \d did not answer within 1 s, in step 3 of the trial in slot \d",
    "exit": r"worker \d ended with exit code 7, in step 3 of the trial in slot \d",
    "killed": r"worker \d ended by signal 9, in step 3 of the trial in slot \d",
}


@pytest.mark.parametrize(("workers", "fault"), [(0, f) for f in IN_PROCESS] + [(2, f) for f in OF_WORKERS])
def test_a_fault_is_one_clear_error(workers: int, fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    family = lines(heldout_fault=fault, workers=workers, step_timeout=1.0 if fault == "hang" else 60.0)

    @jax.jit
    @jax.vmap
    def one(key: Key, broken: Array) -> Transition:
        training, heldout = family.tasks.sample(key), family.tasks.sample_heldout(key)
        task = jax.tree.map(lambda a, b: jnp.where(broken, b, a), training, heldout)
        return trial(key, at_random, (), family, task, 2)[1]

    keys, broken = jax.random.split(jax.random.key(0), 8), jnp.arange(8) >= 4
    first = jax.block_until_ready(one(keys, broken & False))
    before = set(psutil.Process().children())
    message = (OF_WORKERS if workers else IN_PROCESS)[fault]
    with pytest.raises(HostError, match=message) as found, host_calls.clear_errors():
        jax.block_until_ready(one(keys, broken))
    assert "\n" not in str(found.value)
    # The processes have ended, nothing is logged, and the program goes on with new environments.
    assert len(before - set(psutil.Process().children())) == workers
    jax.tree.map(np.testing.assert_array_equal, first, one(keys, broken & False))
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_training_and_evaluation_raise_the_error_of_the_environment() -> None:
    family = lines("raise")
    algorithm = rl2(family, iterations=1)
    with pytest.raises(HostError, match="raised KeyError"):
        mrl.train(jax.random.key(0), algorithm)
    with pytest.raises(HostError, match="raised KeyError"):
        mrl.evaluate(jax.random.key(0), algorithm, algorithm.init(jax.random.key(0)), family, num_tasks=4)


def test_a_fault_in_a_check_names_its_cause() -> None:
    with pytest.raises(ValueError, match="playing random episodes fails: the environment in slot 0 raised KeyError"):
        check_family(lines("raise"))


# Processes.

SCRIPT = """
import sys, jax, psutil
from toys import gymnasium_envs as toys
from test_from_gymnasium import lines, play

if __name__ == "__main__":
    family = lines(workers=2, step_timeout=1000.0)
    play(family, 4, 1)
    print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)
    play(lines("hang", workers=2, step_timeout=1000.0) if sys.argv[1] == "hang" else family, 4, 100_000)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "doing"),
    [(signal.SIGKILL, "hang"), (signal.SIGKILL, "steps"), (signal.SIGINT, "hang"), (signal.SIGTERM, "steps")],
)
def test_no_process_is_left_behind(tmp_path: Path, number: signal.Signals, doing: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), doing]
    parent = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        children = [psutil.Process(int(word)) for word in parent.stdout.readline().split()]
    assert len(children) >= 2
    time.sleep(2)
    assert parent.poll() is None
    everyone = {*children, *psutil.Process(parent.pid).children(recursive=True)}
    if number == signal.SIGINT:
        # Ctrl-C reaches the whole group. Python's second one ends a program that waits for XLA.
        for _ in range(40):
            if parent.poll() is None:
                os.killpg(parent.pid, number)
                time.sleep(0.25)
        if parent.poll() is None:
            parent.kill()
    else:
        parent.send_signal(number)
    parent.wait(60)
    _, alive = psutil.wait_procs(everyone, timeout=20)
    assert not alive


def test_worker_processes_do_not_import_jax() -> None:
    code = (
        "import sys, gymnasium; from metarl_jax.environments import gymnasium_host, gymnasium_spaces\n"
        "gymnasium_spaces.actions(gymnasium.spaces.Discrete(2)); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    text = textwrap.dedent(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, str(tmp_path / "script.py"), "steps"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)
    assert done.returncode != 0
    assert "ended with exit code 1, while it started (a script that is run needs the line `if __name__" in done.stderr


def test_a_notebook_is_told_that_workers_need_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_env(task: toys.Task) -> toys.Line:
        return toys.line(task)

    make_env.__module__, make_env.__qualname__ = "__main__", "make_env"
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(ValueError, match=r"at the top level of a module or a file.*not functions of a notebook"):
        lines(make_env=make_env, workers=1)


# CartPole.


@pytest.fixture
def cartpole(forget: Callable[[], None]) -> Any:
    """Return the module of the example."""
    experiment = experiments.load(f"{CARTPOLE}:cartpole")
    return sys.modules[next(name for name in sys.modules if name.startswith("metarl_jax_user_gymnasium_cartpole"))], (
        experiment
    )


def accelerations(env: CartPoleEnv, state: np.ndarray, force: float, mass: float, length: float) -> np.ndarray:
    """Return the accelerations of cart and pole by the equations of motion (Barto, Sutton and Anderson 1983)."""
    _, _, angle, speed = state
    total, sine, cosine = env.masscart + mass, np.sin(angle), np.cos(angle)
    # The two equations of motion, linear in the two accelerations.
    matrix = np.array([[total, mass * length * cosine], [cosine, 4 / 3 * length]])
    right = np.array([force + mass * length * speed**2 * sine, env.gravity * sine])
    return np.linalg.solve(matrix, right)


def stepped(env: CartPoleEnv, state: np.ndarray) -> np.ndarray:
    """Return the accelerations that a step of the environment applied."""
    env.reset(seed=0)
    env.state = state.copy()
    env.step(1)
    assert env.state is not None
    return (np.asarray(env.state)[[1, 3]] - state[[1, 3]]) / env.tau


def test_a_changed_mass_alone_would_be_wrong_physics(cartpole: Any) -> None:
    """The example recomputes what depends on mass and length. Gymnasium's class alone does not."""
    module, _ = cartpole
    state = np.array([0.1, -0.3, 0.1, 0.5])
    for direction, mass, length in ((1.0, 0.5, 0.5), (-1.0, 0.05, 1.0)):
        expected = accelerations(CartPoleEnv(), state, 10 * direction, mass, length)
        ours = module.make_env(module.Task(direction, mass, length))
        np.testing.assert_allclose(stepped(ours, state), expected, rtol=1e-9)
        module.set_task(ours, module.Task(1.0, 0.1, 0.5))
        np.testing.assert_allclose(stepped(ours, state), stepped(CartPoleEnv(), state), rtol=1e-9)
        naive = CartPoleEnv()
        naive.force_mag, naive.masspole, naive.length = 10 * direction, mass, length
        assert np.abs(stepped(naive, state) - expected).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rl2", "varibad", "pearl", "maml_trpo", "promp"])
def test_every_kind_of_learner(cartpole: Any, name: str) -> None:
    from metarl_jax.runs.folder import RunConfig  # noqa: F401  (the registry of the package is complete)

    experiment = experiments.combination(name, "gymnasium_cartpole")
    small = {
        **{"steps": 8, "iterations": 2, "episodes": 2, "trials": 4, "tasks": 4, "meta_batch": 4, "hidden_size": 8},
        **{"gradient_steps": 2, "batch_size": 8, "minibatches": 1, "epochs": 1, "training_tasks": 4},
    }
    fields = experiment.fields()
    problem = experiment.build(experiment.with_overrides({k: v for k, v in small.items() if k in fields}))
    run = mrl.train(jax.random.key(0), problem.algorithm)
    assert int(run.state.step) == 2 and not bool(run.diverged)
    scores = mrl.evaluate(jax.random.key(1), problem.algorithm, run.state, problem, num_tasks=4)
    assert np.all(scores.score >= 1) and np.all(scores.score <= 8)
    pool = pool_of(problem.family)
    assert not pool._lease.any()
    OPENED.append(problem.family.env)


def test_a_recording_has_the_frames_of_render() -> None:
    from metarl_jax.runs import record, scenes

    family = lines(make_env=toys.drawn_line)
    shown, frames = record.watched(family, 2)
    algorithm = rl2(shown)
    task = sampler()(jax.random.key(0))
    record.play(algorithm, frames, jax.random.key(1), algorithm.init(jax.random.key(2)), task)
    draw = scenes.scene(family, task)
    assert scenes.described(family) == "The environment, as its render() draws it."
    played = frames[:-1]
    assert [frame.episode for frame in played if frame.last] == [0, 1]
    for at, frame in enumerate(played):
        pixel = np.asarray(draw(played[: at + 1]))[0, 0]
        # The last frame of an episode is that of the step before.
        before = played[at - 1] if frame.last else frame
        assert tuple(pixel) == (int(before.observation[1]), int(before.observation[0]) + 100, 0)
    assert not pool_of(family)._lease.any()


def test_pools_without_workers_start_no_process() -> None:
    before = psutil.Process().children()
    family = lines()
    play(family, 2, 1)
    assert psutil.Process().children() == before
    assert isinstance(pool_of(family)._held, gymnasium_host.Slots)


# The command line.

PROGRAM = [sys.executable, "-m", "metarl_jax"]
REFERENCE = "gymnasium_cartpole.py:cartpole"
NAMED = ["--experiment", REFERENCE]
SMALL = [
    *("--steps", "10", "--trials", "4", "--minibatches", "1", "--epochs", "1", "--hidden-size", "8"),
    *("--evaluation-tasks", "4", "--checkpoint-every", "2", "--run-dir", "run"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a folder that contains only the example as the working directory. There, a file breaks environments."""
    text = CARTPOLE.read_text()
    begin = "    return CartPole(task)\n"
    assert begin in text
    (tmp_path / CARTPOLE.name).write_text(text.replace(begin, BREAKING))
    monkeypatch.chdir(tmp_path)
    return tmp_path


BREAKING = """
    from pathlib import Path

    class Breaking(CartPole):
        def step(self, action):
            if Path("broken").exists():
                raise RuntimeError("the pole broke")
            return super().step(action)

    return Breaking(task)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [*PROGRAM, *arguments]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def run(*arguments: str) -> str:
    """Run a command in a new process, and return its output."""
    done = subprocess.run([*PROGRAM, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for_iteration(training: subprocess.Popen[str], iteration: int) -> None:
    """Wait until a checkpoint of a later iteration is stored."""
    saved, deadline = Path("run/checkpoints"), time.monotonic() + 200
    while not (saved.exists() and max(path.name for path in saved.iterdir()) > f"{iteration:09}"):
        assert training.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_whole_life_of_a_family() -> None:
    """Train in worker processes, break an environment, go on, interrupt, kill, go on, and use the results."""
    training = start("train", REFERENCE, *SMALL, "--iterations", "100000", "--workers", "2")
    wait_for_iteration(training, 4)
    Path("broken").touch()
    _, errors = training.communicate(timeout=100)
    assert training.returncode == 2
    begin = "metarl-jax: error: the environment in slot "
    end = f" of an episode; go on with: metarl-jax resume run --experiment {REFERENCE}\n"
    assert errors.startswith(begin) and errors.endswith(end) and errors.count("\n") == 1
    assert "raised RuntimeError: the pole broke in step" in errors
    Path("broken").unlink()

    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        before = max(int(path.stem) for path in Path("run/checkpoints").iterdir())
        training = start("resume", "run", *NAMED, "--checkpoint-every", "2")
        wait_for_iteration(training, before + 4)
        workers = psutil.Process(training.pid).children(recursive=True)
        assert len(workers) >= 2
        os.killpg(training.pid, number) if number == signal.SIGINT else training.send_signal(number)
        _, errors = training.communicate(timeout=100)
        assert training.returncode == code, errors
        assert not psutil.wait_procs(workers, timeout=20)[1]
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 10

    assert "saved at iteration" in run("resume", "run", *NAMED, "--time-limit", "1e-6")
    assert "6 held-out tasks" in run("evaluate", "run", *NAMED, "--evaluation-tasks", "6")
    assert "-seed1.gif" in run("record", "run", *NAMED, "--seed", "1")
    assert "wrote run/report.html" in run("report", "run", *NAMED)
    assert "as its render() draws it" in Path("run/report.html").read_text()
    assert "wrote agent.safetensors" in run("export", "run", *NAMED, "--output", "agent.safetensors")
    acting = (
        "import metarl_jax as mrl, gymnasium\n"
        f"agent = mrl.load('agent.safetensors', experiment='{REFERENCE}')\n"
        "env = gymnasium.make('CartPole-v1')\n"
        "observation, _ = env.reset(seed=0)\n"
        "print(agent.act(observation))\n"
    )
    done = subprocess.run([sys.executable, "-c", acting], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("0", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_resumed_run_equals_an_uninterrupted_one() -> None:
    run("train", REFERENCE, *SMALL, "--iterations", "6")
    run("train", REFERENCE, *SMALL[:-1], "parts", "--iterations", "6", "--time-limit", "1e-9")
    run("resume", "parts", *NAMED)

    def stored(name: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key != "wall_s"} for row in rows]

    assert stored("run") == stored("parts") and len(stored("run")) == 6
