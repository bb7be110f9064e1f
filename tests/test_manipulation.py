"""Meta-World's scenes: what is seen, what is paid and what is a success are what its own environments say."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import experiments, training
from metarl_jax.environments import manipulation
from metarl_jax.environments.manipulation import SKILLS, Manipulation, ManipulationParams
from metarl_jax.evaluation import Evaluation, meta_test
from metarl_jax.experiments import manipulation as presets
from metarl_jax.types import EnvFamily, Inputs, Key, Transition

metaworld: Any = importlib.import_module("metaworld")
policies: Any = importlib.import_module("metaworld.policies")
sawyer: Any = importlib.import_module("metaworld.sawyer_xyz_env")

POLICIES = {"reach": "SawyerReachV3Policy", "push": "SawyerPushV3Policy", "pick-place": "SawyerPickPlaceV3Policy"}
SEED = 7
# Of programs that run once: the compiler's optimisations do not pay.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(autouse=True)
def meta_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-World 3.0 writes all numbers of a weld, of which MuJoCo now has one more; and few goals are asked for."""

    def reset_mocap_welds(self: Any) -> None:
        self.model.eq_data[0, :11] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]

    monkeypatch.setattr(sawyer.SawyerMocapBase, "reset_mocap_welds", reset_mocap_welds)
    monkeypatch.setattr(metaworld, "_N_GOALS", 2)


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def scene(family: EnvFamily) -> Manipulation:
    assert isinstance(family.env, Manipulation)
    return family.env


def places(tasks: list[Any]) -> np.ndarray:
    """Of Meta-World's own tasks, just made by it: it keeps them pickled."""
    return np.array([pickle.loads(task.data)["rand_vec"] for task in tasks])


# Its policies pull harder than actions can.
@pytest.mark.filterwarnings("ignore:Constant:UserWarning")
@pytest.mark.parametrize("skill", list(SKILLS))
def test_scenes_are_meta_worlds(skill: str, double: None) -> None:
    """From one state, 200 steps: its own scripted policy with some noise up to success and beyond, then at random.

    The policy grasps and lifts, so that all that a reward depends on is met.
    """
    benchmark = metaworld.ML1(f"{skill}-v3", seed=SEED)
    for tasks, seed in ((benchmark.train_tasks, SEED), (benchmark.test_tasks, SEED + 1)):
        np.testing.assert_array_equal(manipulation.drawn(SKILLS[skill], 2, seed), places(tasks))
    env = benchmark.train_classes[f"{skill}-v3"]()
    env.set_task(benchmark.train_tasks[1])
    family: EnvFamily = manipulation.ml1(skill, tasks=2, engine="c", seed=SEED)  # pyright: ignore[reportArgumentType]
    ours, success = scene(family), family.success
    assert success is not None
    policy, random = getattr(policies, POLICIES[skill])(), np.random.default_rng(0)
    expected, _ = env.reset()
    task = next(
        task
        for task in map(family.tasks.sample, jax.random.split(jax.random.key(0), 20))
        if np.allclose(task.goal, env._target_pos)
    )
    np.testing.assert_allclose(task.goal, env._target_pos, rtol=0, atol=1e-12)
    np.testing.assert_allclose(task.object, env.obj_init_pos, rtol=0, atol=1e-12)
    step = jax.jit(ours.step)
    obs, state = jax.jit(ours.reset)(jax.random.key(0), task)
    np.testing.assert_allclose(obs, expected, rtol=0, atol=1e-9)
    met: list[tuple[float, bool, float]] = []
    for i in range(200):
        action = random.uniform(-1.2, 1.2, 4)
        if i < 140:
            knowing = np.concatenate([expected[:-3], env._target_pos])
            action = policy.get_action(knowing) + 0.1 * action
        before = obs
        expected, paid, *_, info = env.step(action)
        obs, state, reward, terminated, truncated, more = step(jax.random.key(0), state, jnp.asarray(action), task)
        np.testing.assert_allclose(obs, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(reward, paid, rtol=0, atol=1e-6)
        assert not bool(terminated | truncated)
        inputs = Inputs(before, *(jnp.zeros(()),) * 4)
        final = more["final_observation"]
        zero = jnp.zeros(())
        transition = Transition(inputs, jnp.asarray(action), reward, zero, zero, final, zero, zero, ())
        assert bool(success(task, transition)) == bool(info["success"])
        met.append((float(paid), bool(info["success"]), float(info["grasp_reward"])))
    paid, succeeded, grasp = map(np.array, zip(*met, strict=True))
    assert succeeded.any()
    assert not succeeded.all()
    assert paid.max() == 10
    if skill != "reach":
        assert grasp.max() > 0.9, "the object is held"
        assert np.any((paid > 2.5) & (paid < 9)), "and on its way"


def test_an_episode_that_is_over_begins_anew() -> None:
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
        assert final[0] > before[0], "it is pulled"
        if truncated:
            np.testing.assert_array_equal(obs, first)
            for now, then in zip(jax.tree.leaves(state), jax.tree.leaves(begun), strict=True):
                np.testing.assert_array_equal(now, then)
        else:
            np.testing.assert_array_equal(obs, final)


def test_goals_are_out_of_reach_at_first_and_heldout_ones_are_others() -> None:
    for skill in SKILLS.values():
        train, heldout = manipulation.drawn(skill, 200, 0), manipulation.drawn(skill, 200, 1)
        assert not {*map(tuple, train)} & {*map(tuple, heldout)}
        for start, goal in (x.reshape(2, 3) for x in np.concatenate([train, heldout])):
            assert np.linalg.norm(start[:2] - goal[:2]) >= 0.15
            assert np.all((np.array(skill.goal_low) <= goal) & (goal <= skill.goal_high))
            assert np.all((np.array(manipulation.OBJECT_LOW) <= start) & (start <= manipulation.OBJECT_HIGH))
    family = manipulation.ml1("push", tasks=3, heldout_tasks=2, engine="c")
    lies = scene(family).lies

    def goals(sample: Any) -> set[tuple[float, ...]]:
        tasks: ManipulationParams = jax.vmap(sample)(jax.random.split(jax.random.key(0), 40))
        # What is pushed stays on the table.
        np.testing.assert_allclose(tasks.goal[:, 2], lies, rtol=1e-6)
        np.testing.assert_allclose(tasks.object[:, 2], lies, rtol=1e-6)
        return {*map(tuple, np.asarray(tasks.goal).tolist())}

    train, heldout = goals(family.tasks.sample), goals(family.tasks.sample_heldout)
    assert (len(train), len(heldout)) == (3, 2)
    assert not train & heldout


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
    # Within the horizon an untrained hand is paid for being somewhere, and never in full.
    assert np.all((found.score > 0) & (found.score < 10 * presets.HORIZON))


def test_reaching_traces_on_mjx() -> None:
    """How far MJX lies from C, which takes a minute to compile, is in ``benchmarks/physics_speed.py``."""

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
        ValueError, match=r"skill must be one of reach, push, pick-place, not 'pick_place' \(did you mean"
    ):
        manipulation.ml1("pick_place")  # pyright: ignore[reportArgumentType]
    for name in ("horizon", "tasks", "heldout_tasks"):
        with pytest.raises(ValueError, match=f"{name} must be a positive whole number"):
            manipulation.ml1("reach", **{name: 0})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="seed"):
        manipulation.ml1("reach", seed=-1)
    with pytest.raises(ValueError, match="engine must be one of"):
        manipulation.ml1("reach", engine="warp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="engine 'mjx' has no collisions of cylinders with boxes, which push needs"):
        manipulation.ml1("push", engine="mjx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"Meta-World's, which is not installed: pip install 'metarl-jax\[metaworld\]'"
    ):
        manipulation.ml1("reach")
