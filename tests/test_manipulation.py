"""Meta-World's scenes: observations, rewards and successes equal those of Meta-World's own environments."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import double_precision

from metarl_jax import experiments, training
from metarl_jax.environments import manipulation, physics
from metarl_jax.environments.manipulation import ML10_TEST, ML10_TRAIN, SKILLS, Manipulation, ManipulationParams
from metarl_jax.evaluation import Evaluation, meta_test
from metarl_jax.types import Array, EnvFamily, Inputs, Key, State, Transition

metaworld: Any = importlib.import_module("metaworld")
policies: Any = importlib.import_module("metaworld.policies")
mujoco: Any = importlib.import_module("mujoco")
sawyer: Any = importlib.import_module("metaworld.sawyer_xyz_env")

SEED, GOALS, SCENES = 7, 2, 300
# The tests' programs run once, so the compiler's optimisations are not worth their time.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(scope="module", autouse=True)
def meta_world() -> Iterator[None]:
    """Patch Meta-World 3.0 to write the numbers of a weld in MuJoCo's current size, and to draw few goals."""

    def reset_mocap_welds(self: Any) -> None:
        self.model.eq_data[0, :11] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sawyer.SawyerMocapBase, "reset_mocap_welds", reset_mocap_welds)
        patch.setattr(metaworld, "_N_GOALS", GOALS)
        yield


@pytest.fixture
def double() -> Iterator[None]:
    with double_precision():
        yield


def scene(family: EnvFamily) -> Manipulation:
    assert isinstance(family.env, Manipulation)
    return family.env


def places(tasks: list[Any], skill: str) -> np.ndarray:
    """Return the data of one of Meta-World's tasks, which Meta-World itself has just pickled."""
    return np.array([pickle.loads(task.data)["rand_vec"] for task in tasks if task.env_name == f"{skill}-v3"])


class ML10(NamedTuple):
    """Meta-World's functions, and ours in double precision, compiled once for all skills."""

    official: Any
    tasks: list[ManipulationParams]
    """All of our tasks, training and held-out tasks."""
    reset: Callable[[ManipulationParams], tuple[Array, State]]
    step: Callable[[State, Array, ManipulationParams], tuple[Array, State, Array, Array, Array]]
    """A step, which returns ``(observation, state, reward, over, success)``."""
    judge: Callable[[Array, Array, ManipulationParams], tuple[Array, Array]]
    """``(the engine's observations [SCENES, *], actions [SCENES, 4], task) -> rewards, successes``."""


@pytest.fixture(scope="module")
def ml10(meta_world: None) -> ML10:
    with double_precision():
        family = manipulation.ml10(tasks=GOALS, heldout_tasks=GOALS, seed=SEED)
        env, success, key = scene(family), family.success, jax.random.key(0)
        assert success is not None
        keys = jax.random.split(key, 400)
        drawn = [jax.vmap(sample)(keys) for sample in (family.tasks.sample, family.tasks.sample_heldout)]
        numbers = [[jax.tree.map(lambda x, i=i: x[i], tasks) for i in range(len(keys))] for tasks in drawn]
        tasks = {tuple(task.object.tolist() + task.goal.tolist()): task for part in numbers for task in part}

        def succeeds(task: Any, obs: Array, action: Array, reward: Array) -> Array:
            zero = jnp.zeros(())
            inputs = Inputs(obs, *(zero,) * 4)
            return success(task, Transition(inputs, action, reward, zero, zero, obs, zero, zero, ()))

        def step(state: State, action: Array, task: Any) -> tuple[Array, State, Array, Array, Array]:
            obs, state, reward, terminated, truncated, info = env.step(key, state, action, task)
            over = terminated | truncated
            return obs, state, reward, over, succeeds(task, info["final_observation"], action, reward)

        def judge(numbers: Array, actions: Array, task: Any) -> tuple[Array, Array]:
            def one(numbers: Array, action: Array) -> tuple[Array, Array]:
                reward = env._judge(numbers, action, task)
                return reward, succeeds(task, env._frame(numbers, task), action, reward)

            return jax.vmap(one)(numbers, actions)

        task = next(iter(tasks.values()))
        reset = jax.jit(lambda task: env.reset(key, task)).lower(task).compile(QUICK)
        _, state = reset(task)
        programs = (
            jax.jit(step).lower(state, jnp.zeros(4), task).compile(QUICK),
            jax.jit(judge).lower(jnp.zeros((SCENES, 34)), jnp.zeros((SCENES, 4)), task).compile(QUICK),
        )
    return ML10(metaworld.ML10(seed=SEED), list(tasks.values()), reset, *programs)


def official(ml10: ML10, skill: str) -> tuple[Any, np.ndarray, ManipulationParams]:
    """Return Meta-World's environment of the second of two tasks, its first observation, and our task."""
    part = "train" if SKILLS[skill] in ML10_TRAIN else "test"
    classes, tasks = (getattr(ml10.official, f"{part}_{kind}") for kind in ("classes", "tasks"))
    env = classes[f"{skill}-v3"]()
    env.set_task([task for task in tasks if task.env_name == f"{skill}-v3"][1])
    expected, _ = env.reset()
    (task,) = (
        task
        for task in ml10.tasks
        if task.skill == [*SKILLS].index(skill)
        and np.allclose(task.goal, env._target_pos, rtol=0, atol=1e-12)
        and np.allclose(task.object, env.obj_init_pos, rtol=0, atol=1e-12)
    )
    return env, expected, task


# Meta-World's policies return actions beyond the action space.
@pytest.mark.filterwarnings("ignore:Constant:UserWarning")
@pytest.mark.parametrize("skill", SKILLS)
def test_scenes_are_meta_worlds(skill: str, ml10: ML10, double: None) -> None:
    """200 steps from one state agree: first Meta-World's scripted policy with noise, and then random actions.

    The policy grasps and lifts, opens and closes, so that all parts of the rewards have an effect.
    """
    env, expected, task = official(ml10, skill)
    name = "PegInsertionSide" if skill == "peg-insert-side" else skill.title().replace("-", "")
    policy, random = getattr(policies, f"Sawyer{name}V3Policy")(), np.random.default_rng(0)
    obs, state = ml10.reset(task)
    np.testing.assert_allclose(obs, expected, rtol=0, atol=1e-9)
    met: list[tuple[float, bool, float]] = []
    for i in range(200):
        action = random.uniform(-1.2, 1.2, 4)
        if i < 140:
            knowing = np.concatenate([expected[:-3], env._target_pos])
            action = policy.get_action(knowing) + 0.1 * action
        expected, paid, *_, info = env.step(action)
        obs, state, reward, over, succeeds = ml10.step(state, jnp.asarray(action), task)
        np.testing.assert_allclose(obs, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(reward, paid, rtol=0, atol=1e-6)
        assert not bool(over)
        assert bool(succeeds) == bool(info["success"])
        met.append((float(paid), bool(info["success"]), float(info["grasp_reward"])))
    paid, succeeded, grasp = map(np.array, zip(*met, strict=True))
    assert succeeded.any()
    assert not succeeded.all()
    if skill not in ("button-press-topdown", "window-open", "drawer-open", "lever-pull"):
        assert paid.max() == 10
    if skill not in ("reach", "drawer-close"):
        assert np.any((paid > 2.5) & (paid < 9)), "some rewards are between those of the start and of success"
    if skill in ("push", "pick-place", "peg-insert-side", "sweep", "basketball", "shelf-place", "sweep-into"):
        assert grasp.max() > 0.9, "the object is held"


@pytest.mark.parametrize("skill", SKILLS)
def test_rewards_are_meta_worlds_for_all_positions(skill: str, ml10: ML10, double: None) -> None:
    """Random scenes agree: any pose of the arm and the fingers, and an object near its start, the goal or the hand."""
    env, _, task = official(ml10, skill)
    model, data, random = env.model, env.data, np.random.default_rng(0)
    body = manipulation._body(SKILLS[skill], model)
    home, turns = data.qpos.copy(), random.normal(size=(SCENES, 4)) * 0.2 + np.array([1, 0, 0, 0])
    numbers, actions, paid, succeeded = [], random.uniform(-1.2, 1.2, (SCENES, 4)), [], []
    for action, turn in zip(actions, turns, strict=True):
        data.qpos[:] = home
        data.qpos[:7] += random.normal(size=7) * random.choice([0.02, 0.3])
        data.qpos[7:9] = random.uniform(-0.03, 0.04, 2)
        mujoco.mj_forward(model, data)
        if SKILLS[skill].free:
            near = (env.obj_init_pos, env._target_pos, env.tcp_center)[random.integers(3)]
            data.qpos[9:12] = near + random.normal(size=3) * random.choice([0.01, 0.05, 0.15])
            data.qpos[12:16] = turn / np.linalg.norm(turn)
        else:
            data.qpos[9] = random.uniform(-1.2, 1.2) * np.max(np.abs(model.jnt_range[-1]))
        mujoco.mj_forward(model, data)
        space = env.sawyer_observation_space
        reward, info = env.evaluate_state(np.clip(env._get_obs(), space.low, space.high), action)
        numbers.append(body.observe(np, model, data))
        paid.append(reward)
        succeeded.append(bool(info["success"]))
    rewards, successes = ml10.judge(jnp.asarray(np.stack(numbers)), jnp.clip(actions, -1, 1), task)
    np.testing.assert_allclose(rewards, paid, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(successes, succeeded)
    # Random scenes do not reach a goal in the air.
    assert (skill != "reach") == any(succeeded)
    assert not all(succeeded)


def test_tasks_are_meta_worlds(ml10: ML10) -> None:
    for skill in SKILLS.values():
        alone = metaworld.ML1(f"{skill.name}-v3", seed=SEED)
        for tasks, seed in ((alone.train_tasks, SEED), (alone.test_tasks, SEED + 1)):
            np.testing.assert_array_equal(manipulation.drawn([skill], GOALS, seed)[0], places(tasks, skill.name))
    for skills, tasks in ((ML10_TRAIN, ml10.official.train_tasks), (ML10_TEST, ml10.official.test_tasks)):
        assert [task.env_name for task in tasks[::GOALS]] == [f"{skill.name}-v3" for skill in skills]
        for skill, ours in zip(skills, manipulation.drawn(skills, GOALS, SEED), strict=True):
            np.testing.assert_array_equal(ours, places(tasks, skill.name))
    found = [int(task.skill) for task in ml10.tasks]
    assert sorted(found) == sorted([*range(len(SKILLS))] * GOALS)


def test_skills_are_drawn_uniformly_and_held_out_skills_differ() -> None:
    family = manipulation.ml10(tasks=3, heldout_tasks=2)
    keys = jax.random.split(jax.random.key(0), 3000)
    tasks = family.tasks
    for sample, skills in (
        (tasks.sample, ML10_TRAIN),
        (tasks.sample_heldout, ML10_TEST),
        (tasks.validation, ML10_TRAIN),
    ):
        drawn = np.asarray(jax.vmap(sample)(keys).skill)
        names = [scene(family).skills[index].name for index in range(len(SKILLS))]
        counts = np.array([np.sum(drawn == names.index(skill.name)) for skill in skills])
        share = 1 / len(skills)
        assert counts.sum() == len(keys)
        # The tolerance is five standard deviations.
        assert np.all(np.abs(counts - share * len(keys)) < 5 * np.sqrt(len(keys) * share * (1 - share)))


@pytest.mark.slow
def test_a_batch_of_skills_equals_single_skills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch on several threads equals single episodes, even if other tasks used the scenes before.

    There are three steps. After the second one, every other episode is reset.
    """
    monkeypatch.setattr(physics, "_cores", lambda: 3)
    monkeypatch.setattr(physics, "_POOL", None)
    family = manipulation.ml10(tasks=2, heldout_tasks=2)
    samplers, keys = (family.tasks.sample, family.tasks.sample_heldout), jax.random.split(jax.random.key(1), 12)
    tasks: Any = jax.tree.map(lambda *x: jnp.concatenate(x), *(jax.vmap(sample)(keys) for sample in samplers))
    engine, number = scene(family).engine, 2 * len(keys)
    actions = jax.random.uniform(jax.random.key(2), (3, number, 4), minval=-1)
    ends = jnp.zeros((3, number), bool).at[1, ::2].set(True)
    start = tasks.object, tasks.place
    states, readings = jax.vmap(engine.reset)(tasks.skill, *start)
    shown = [readings.observation]
    for action, over in zip(actions, ends, strict=True):
        states, readings, following = jax.vmap(engine.step_or_reset)(tasks.skill, states, action, over, *start)
        shown += [readings.observation, following]
    names = [scene(family).skills[index].name for index in tasks.skill]
    alone = {name: scene(manipulation.ml1(name, tasks=1)).engine for name in set(names)}  # pyright: ignore[reportArgumentType]
    assert len(alone) > 10
    for i, name in enumerate(names):
        start = tasks.object[i], tasks.place[i]
        state, readings = alone[name].reset(jnp.int32(0), *start)
        expected = [readings.observation]
        for action, over in zip(actions[:, i], ends[:, i], strict=True):
            state, readings, following = alone[name].step_or_reset(jnp.int32(0), state, action, over, *start)
            expected += [readings.observation, following]
        np.testing.assert_array_equal([part[i] for part in shown], expected)


def test_an_episode_that_has_ended_is_reset() -> None:
    family = manipulation.ml1("push", horizon=3, engine="c")
    step, task = jax.jit(family.env.step), family.tasks.sample(jax.random.key(0))
    first, begun = jax.jit(family.env.reset)(jax.random.key(1), task)
    np.testing.assert_array_equal(first[:18], first[18:36])
    obs, state = first, begun
    for i in range(6):
        before = obs
        obs, state, _, terminated, truncated, info = step(jax.random.key(2), state, jnp.ones(4), task)
        final = info["final_observation"]
        assert bool(truncated) == (i % 3 == 2)
        assert not bool(terminated)
        np.testing.assert_array_equal(final[18:36], before[:18])
        np.testing.assert_array_equal(final[36:], 0)
        assert final[0] > before[0], "the hand is pulled"
        if truncated:
            np.testing.assert_array_equal(obs, first)
            for now, then in zip(jax.tree.leaves(state), jax.tree.leaves(begun), strict=True):
                np.testing.assert_array_equal(now, then)
        else:
            np.testing.assert_array_equal(obs, final)


def test_goals_are_out_of_reach_at_first_and_differ_between_splits() -> None:
    for skill in SKILLS.values():
        train, heldout = (manipulation.drawn([skill], 200, seed)[0] for seed in (0, 1))
        assert not {*map(tuple, train)} & {*map(tuple, heldout)}
        for row in np.concatenate([train, heldout]):
            assert np.all((np.array(skill.low) <= row) & (row <= skill.high))
            assert len(row) == 3 or skill.name == "sweep-into" or np.linalg.norm(row[:2] - row[3:5]) >= 0.1
            assert skill.name != "sweep-into" or np.linalg.norm(row[:2] - np.array([0.0, 0.84])) >= 0.15
    family = manipulation.ml1("push", tasks=3, heldout_tasks=2, engine="c")
    (lies,) = scene(family).heights

    def goals(sample: Any) -> set[tuple[float, ...]]:
        tasks: ManipulationParams = jax.vmap(sample)(jax.random.split(jax.random.key(0), 40))
        # An object that is pushed stays on the table.
        np.testing.assert_allclose(tasks.goal[:, 2], lies, rtol=1e-6)
        np.testing.assert_allclose(tasks.object[:, 2], lies, rtol=1e-6)
        return {*map(tuple, np.asarray(tasks.goal).tolist())}

    train, heldout = goals(family.tasks.sample), goals(family.tasks.sample_heldout)
    validation = goals(family.tasks.validation)
    assert (len(train), len(heldout), len(validation)) == (3, 2, 2)
    assert len(train | heldout | validation) == 7


def test_the_training_reward_halves_rewards_of_steps_without_success() -> None:
    family = manipulation.ml1("reach", horizon=2, tasks=1, heldout_tasks=1, engine="c")
    assert family.privileged is not None
    training_reward = family.privileged.training_reward
    assert training_reward is not None
    task = family.tasks.sample(jax.random.key(0))
    zeros = jax.tree.map(lambda x: jnp.zeros((4, *x.shape)), family.env.reset(jax.random.key(0), task)[0])
    paid, none = jnp.array([0.0, 4.0, 9.99, 10.0]), jnp.zeros(4)
    inputs = Inputs(zeros, jnp.zeros((4, 4)), none, none, none)
    t = Transition(inputs, jnp.zeros((4, 4)), paid, none, none, zeros, none, none, ())
    np.testing.assert_allclose(training_reward(task, t, 0.9), [0.0, 2.0, 4.995, 10.0], rtol=1e-6)


@pytest.mark.slow
def test_a_preset_trains_and_its_successes_are_counted() -> None:
    experiment = experiments.get("rl2-ml1-reach")
    small = {"trials": 4, "epochs": 1, "minibatches": 2, "iterations": 2, "hidden_size": 4, "embedding_size": 3}
    problem = experiment.build(experiment.with_overrides(small))

    def run(key: Key) -> tuple[training.Chunk, Evaluation]:
        chunk = training.run(problem.algorithm, training.start(problem.algorithm, key), 2, capacity=2)
        states = jax.tree.map(lambda x: x[None], chunk.state.algorithm)
        return chunk, meta_test(key, problem.algorithm.adapt, states, problem.tasks, num_tasks=3)

    key = jax.random.key(0)
    chunk, found = jax.jit(run).lower(key).compile(QUICK)(key)
    assert not bool(chunk.diverged)
    assert found.success is not None
    assert found.success.shape == found.score.shape == (1, 3, 2)
    assert set(np.unique(found.success)) <= {0.0, 1.0}
    # Within the horizon, an untrained policy has positive rewards, but never the full reward.
    assert np.all((found.score > 0) & (found.score < 10 * 150))


@pytest.mark.slow
def test_reaching_traces_on_mjx() -> None:
    """MJX runs; ``benchmarks/physics_speed.py`` measures its difference from C, which takes a minute to compile."""

    def shapes(engine: Any) -> Any:
        family = manipulation.ml1("reach", engine=engine)
        env, key, task = scene(family), jax.random.key(0), family.tasks.sample(jax.random.key(0))
        obs, state = jax.eval_shape(env.reset, key, task)
        next_obs, next_state, reward, *_ = jax.eval_shape(env.step_env, key, state, jnp.zeros(4), task)
        assert next_state == state
        return obs, next_obs, reward

    assert shapes("mjx") == shapes("c")


def test_bad_arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"skill must be one of reach, push, pick-place, .*, not 'pick_place' \(did you mean"
    ):
        manipulation.ml1("pick_place")  # pyright: ignore[reportArgumentType]
    for name in ("horizon", "tasks", "heldout_tasks"):
        with pytest.raises(ValueError, match=f"{name} must be a positive whole number"):
            manipulation.ml1("reach", **{name: 0})  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=f"{name} must be a positive whole number"):
            manipulation.ml10(**{name: 0})
    with pytest.raises(ValueError, match="seed"):
        manipulation.ml1("reach", seed=-1)
    with pytest.raises(ValueError, match="engine must be one of"):
        manipulation.ml1("reach", engine="warp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'mjx' has no contacts and only supports the skill reach, not push: use 'c'"):
        manipulation.ml1("push", engine="mjx")
    env = scene(manipulation.ml1("push", tasks=1))
    robot, model = manipulation._body(env.skills[0], manipulation.load(env.skills[0])), manipulation.load(env.skills[0])
    with pytest.raises(ValueError, match="engine 'mjx' supports one robot, not 2: use 'c'"):
        physics.make([robot, robot], [model, model], "mjx")
    with pytest.raises(ValueError, match="there are 2 robots and 1 models"):
        physics.make([robot, robot], [model], "c")
    shorter = robot._replace(observe=lambda xp, model, data: data.qpos)
    with pytest.raises(ValueError, match=r"observations of all robots must have the same size, not \[16, 34\]"):
        physics.make([robot, shorter], [model, model], "c")
    with pytest.raises(ValueError, match="a robot whose tasks move a body must have one model, not 2"):
        physics.make(robot._replace(moves=1), [model, model], "c")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"Meta-World's, which is not installed: pip install '.\[metaworld\]'"):
        manipulation.ml1("reach")
