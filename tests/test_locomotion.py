"""Robots: the physics equals Gymnasium's with both engines; rewards and terminations equal those of each paper."""

from __future__ import annotations

import contextlib
import importlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import double_precision

from metarl_jax import experiments
from metarl_jax.environments import locomotion, physics
from metarl_jax.environments.locomotion import ANT, HALF_CHEETAH, HOPPER, HUMANOID, WALKER, Locomotion, LocomotionParams
from metarl_jax.environments.physics import CEngine, Engine, MJXEngine, Robot
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key

# MuJoCo defines its functions at import time, where type checkers do not find them.
mujoco: Any = importlib.import_module("mujoco")

GYMNASIUM = {
    "HalfCheetah-v5": HALF_CHEETAH,
    "Hopper-v5": HOPPER,
    "Walker2d-v5": WALKER,
    "Ant-v5": ANT,
    "Humanoid-v5": HUMANOID,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a temporary folder, because Gymnasium lets MuJoCo write warnings into a file in the working directory."""
    monkeypatch.chdir(tmp_path)


def robots(family: EnvFamily) -> Locomotion:
    assert isinstance(family.env, Locomotion)
    return family.env


def reference(name: str, model: Any = None) -> Any:
    """Return Gymnasium's environment, with another model if one is given."""
    env: Any = gymnasium.make(name).unwrapped
    if model is not None:
        env.model, env.data = model, mujoco.MjData(model)
    return env


def begin(env: Any, qpos: np.ndarray, qvel: np.ndarray) -> None:
    mujoco.mj_resetData(env.model, env.data)
    env.set_state(qpos, qvel)


def beginning(robot: Robot, model: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (
        model.qpos0 + random.uniform(-robot.noise, robot.noise, model.nq),
        random.uniform(-robot.noise, robot.noise, model.nv),
    )


def controls(model: Any, steps: int, seed: int) -> np.ndarray:
    low, high = model.actuator_ctrlrange.T
    return np.random.default_rng(seed).uniform(low, high, (steps, model.nu))


@pytest.mark.parametrize("randomised", [False, True])
@pytest.mark.parametrize("name", list(GYMNASIUM))
def test_the_c_engine_is_gymnasium(name: str, randomised: bool) -> None:
    """200 control steps from one state agree: observations bit for bit, velocities, impacts and falls."""
    robot = GYMNASIUM[name]
    model = locomotion.randomised(robot, np.random.default_rng(1)) if randomised else physics.load(robot)
    env = reference(name, model if randomised else None)
    with double_precision():
        engine = CEngine(robot, [model])
        start = beginning(robot, model, 0)
        begin(env, *start)
        state, readings = engine.reset(jnp.int32(0), *map(jnp.asarray, start))
        np.testing.assert_array_equal(readings.observation, env._get_obs())
        step = jax.jit(engine.step)
        for control in controls(model, 200, 1):
            state, readings = step(jnp.int32(0), state, jnp.asarray(control))
            observation, _, terminated, _, info = env.step(control)
            np.testing.assert_array_equal(readings.observation, observation)
            velocity = [info["x_velocity"], info.get("y_velocity", 0.0)]
            np.testing.assert_allclose(readings.velocity, velocity, rtol=0, atol=1e-9)
            assert bool(readings.healthy) == (not terminated)
            if name == "Ant-v5":
                np.testing.assert_allclose(-5e-4 * readings.impact, info["reward_contact"], rtol=0, atol=1e-9)
            if name == "Humanoid-v5":
                cost = min(5e-7 * float(readings.impact), 10.0)
                np.testing.assert_allclose(-cost, info["reward_contact"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "family", "target"),
    [
        ("HalfCheetah-v5", locomotion.half_cheetah_direction, 1.0),
        ("Ant-v5", locomotion.ant_direction, [1.0, 0.0]),
        ("Humanoid-v5", locomotion.humanoid_direction, [1.0, 0.0]),
        ("Walker2d-v5", locomotion.walker_parameters, 0.0),
        ("Hopper-v5", locomotion.hopper_parameters, 0.0),
    ],
)
def test_rewards_are_gymnasiums_up_to_the_task(name: str, family: Any, target: Any) -> None:
    """Rewards for running forwards equal Gymnasium's, up to differences of the papers.

    The half cheetah's cost of actions is half of Gymnasium's. Gymnasium gives the papers' bonus only while the robot is
    healthy.
    """
    made = family(engine="c", **({"tasks": 1, "heldout_tasks": 1} if "parameters" in family.__name__ else {}))
    robot = made.env.robot
    model = physics.load(robot)
    env = reference(name)
    with double_precision():
        engine = CEngine(robot, [model])
        start = beginning(robot, model, 0)
        begin(env, *start)
        state, _ = engine.reset(jnp.int32(0), *map(jnp.asarray, start))
        for i, control in enumerate(controls(model, 20, 1)):
            state, readings = engine.step(jnp.int32(0), state, jnp.asarray(control))
            _, expected, terminated, _, info = env.step(control)
            if terminated:
                assert i > 5
                break
            if name == "HalfCheetah-v5":
                expected -= 0.5 * info["reward_ctrl"]
            got = made.env.reward(readings, jnp.asarray(control), jnp.asarray(target))
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_single_precision_leaves_the_physics_as_they_are() -> None:
    """Observations in single precision are the rounded observations of the same trajectory in double precision."""
    robot, model = HALF_CHEETAH, physics.load(HALF_CHEETAH)
    start = np.float32(model.qpos0), np.zeros(model.nv, np.float32)
    actions = np.float32(controls(model, 200, 3))

    def observations() -> np.ndarray:
        engine = CEngine(robot, [model])

        def step(state: Array, control: Array) -> tuple[Array, Array]:
            state, readings = engine.step(jnp.int32(0), state, control)
            return state, readings.observation

        state, _ = engine.reset(jnp.int32(0), *map(jnp.asarray, start))
        return np.asarray(jax.jit(lambda state, actions: jax.lax.scan(step, state, actions)[1])(state, actions))

    single = observations()
    with double_precision():
        double = observations()
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    np.testing.assert_array_equal(single, np.float32(double))


def test_threads_keep_robots_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many robots with different bodies, divided among threads, have the same trajectories as each alone."""
    monkeypatch.setattr(physics, "_cores", lambda: 4)
    monkeypatch.setattr(physics, "_POOL", None)
    models = [locomotion.randomised(HOPPER, np.random.default_rng(seed)) for seed in range(3)]
    engine = CEngine(HOPPER, models)
    number = 8 * physics.ROBOTS_OF_A_THREAD
    which = jnp.arange(number) % 3
    qpos, qvel = (jnp.stack(x) for x in zip(*(beginning(HOPPER, models[0], i) for i in range(number)), strict=True))
    actions = jnp.asarray(controls(models[0], number, 5))
    states, _ = jax.vmap(engine.reset)(which, qpos, qvel)
    _, together = jax.jit(jax.vmap(engine.step))(which, states, actions)
    for i in range(number):
        state, _ = engine.reset(which[i], qpos[i], qvel[i])
        _, alone = engine.step(which[i], state, actions[i])
        np.testing.assert_array_equal(together.observation[i], alone.observation)
    same_start = [engine.reset(jnp.int32(m), qpos[0], qvel[0])[0] for m in range(3)]
    seen = [engine.step(jnp.int32(m), same_start[m], actions[0])[1].observation for m in range(3)]
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[1], seen[2])


def test_programs_that_step_at_the_same_time_do_not_mix_robots_up() -> None:
    engine, model = CEngine(ANT, [physics.load(ANT)]), physics.load(ANT)
    step = jax.jit(jax.vmap(engine.step, (None, 0, 0)))

    def play(seed: int) -> np.ndarray:
        qpos, qvel = (jnp.stack(x) for x in zip(*(beginning(ANT, model, seed + i) for i in range(20)), strict=True))
        states, readings = jax.vmap(engine.reset, (None, 0, 0))(jnp.int32(0), qpos, qvel)
        for control in controls(model, 30, seed):
            states, readings = step(jnp.int32(0), states, jnp.broadcast_to(jnp.asarray(control), (20, 8)))
        return np.asarray(readings.observation)

    alone = [play(100 * i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(play, [100 * i for i in range(4)]))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("make", [CEngine, pytest.param(MJXEngine, marks=pytest.mark.slow)])
def test_a_pose_is_where_all_of_it_is(make: Any) -> None:
    engine, model = make(HALF_CHEETAH, [physics.load(HALF_CHEETAH)]), physics.load(HALF_CHEETAH)
    qpos, qvel = (jnp.stack(x) for x in zip(*(beginning(HALF_CHEETAH, model, i) for i in range(3)), strict=True))
    states, readings = jax.jit(jax.vmap(engine.reset, (None, 0, 0)))(jnp.int32(0), qpos, qvel)
    poses = jax.jit(jax.vmap(engine.pose))(states)
    np.testing.assert_allclose(poses, qpos, rtol=1e-6)
    np.testing.assert_array_equal(poses[:, 1:], readings.observation[:, :8])


def test_a_fall_or_the_time_limit_resets_the_episode() -> None:
    family = locomotion.hopper_parameters(tasks=2, heldout_tasks=1, horizon=100)
    env = family.env
    step, task = jax.jit(env.step), family.tasks.sample(jax.random.key(0))
    obs, state = env.reset(jax.random.key(1), task)
    ends = 0
    for i in range(120):
        key = jax.random.key(i)
        obs, state, _, terminated, truncated, info = step(key, state, jnp.ones(3), task)
        if bool(terminated | truncated):
            ends += int(terminated)
            first, begun = env.reset(jax.random.split(key)[1], task)
            np.testing.assert_array_equal(obs, first)
            np.testing.assert_array_equal(state.physics, begun.physics)
            assert int(state.time) == 0
            assert not np.array_equal(obs, info["final_observation"])
            height, angle = info["final_observation"][:2]
            assert bool(truncated) or height <= 0.7 or abs(angle) >= 0.2
        else:
            np.testing.assert_array_equal(obs, info["final_observation"])
    assert ends > 1


def test_random_parameters_have_constants_of_their_own() -> None:
    """The constants that MuJoCo derives from masses and inertias agree with the mass matrix of the changed body."""
    model, usual = locomotion.randomised(WALKER, np.random.default_rng(3)), physics.load(WALKER)
    data, matrix = mujoco.MjData(model), np.zeros((model.nv, model.nv))
    mujoco.mj_forward(model, data)
    for row, unit in zip(matrix, np.eye(model.nv), strict=True):
        mujoco.mj_mulM(model, data, row, unit)
    inverse = np.linalg.inv(matrix)
    weights = np.zeros((model.nbody, 2))
    for body in range(1, model.nbody):
        there, about = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacBodyCom(model, data, there, about, body)
        weights[body] = [np.trace(jacobian @ inverse @ jacobian.T) / 3 for jacobian in (there, about)]
    masses = np.array(model.body_mass)
    for body in range(model.nbody - 1, 0, -1):
        masses[model.body_parentid[body]] += masses[body]
    expected = {
        "dof_M0": np.diag(matrix),
        "dof_invweight0": np.diag(inverse),
        "body_invweight0": weights,
        "body_subtreemass": masses,
    }
    for derived, value in expected.items():
        np.testing.assert_allclose(getattr(model, derived), value, rtol=1e-6, atol=1e-12, err_msg=derived)
        assert not np.allclose(getattr(usual, derived), value, rtol=1e-2), derived
    for changed, base in (("body_mass", 1.5), ("body_inertia", 1.5), ("dof_damping", 1.3), ("geom_friction", 1.5)):
        there = np.asarray(getattr(usual, changed)) > 0
        factors = np.asarray(getattr(model, changed))[there] / np.asarray(getattr(usual, changed))[there]
        assert len(np.unique(factors)) == factors.size, "each element must have a factor of its own"
        assert np.all(np.abs(np.log(factors)) <= 3 * np.log(base) + 1e-9)


def test_bodies_differ_between_splits() -> None:
    family = locomotion.walker_parameters(tasks=3, heldout_tasks=2, seed=5)

    def bodies(sample: Any) -> set[int]:
        return {int(sample(jax.random.key(i)).model) for i in range(50)}

    assert bodies(family.tasks.sample) == {0, 1, 2}
    assert bodies(family.tasks.sample_heldout) == {3, 4}
    assert bodies(family.tasks.validation) == {5, 6}
    masses = [model.body_mass.tobytes() for model in robots(family).models]
    assert len(set(masses)) == 7
    # Bodies of training tasks come first, then held-out ones. They do not depend on those of validation tasks.
    random = np.random.default_rng(5)
    assert masses[:5] == [locomotion.randomised(locomotion.WALKER, random).body_mass.tobytes() for _ in range(5)]


# The tolerance is for 50 control steps. Rounding errors grow tenfold in about five steps: trajectories of the same
# physics agree for about twenty steps in single precision, and for all steps in double precision.
MJX_TOLERANCE = 1e-4


@pytest.mark.slow
def test_mjx_is_the_same_physics() -> None:
    """50 control steps of the half cheetah agree, with contacts of the ground, and with two bodies.

    ``benchmarks/physics_speed.py`` compares the other robots, each of which takes a minute to compile.
    """
    models = [physics.load(HALF_CHEETAH), locomotion.randomised(HALF_CHEETAH, np.random.default_rng(0))]

    def observations(engine: Engine) -> np.ndarray:
        actions = jnp.asarray(controls(models[0], 50, 2))
        qpos, qvel = map(jnp.asarray, beginning(HALF_CHEETAH, models[0], 0))

        @jax.jit
        def run(model: Array) -> tuple[Array, Array]:
            def step(state: Any, control: Array) -> tuple[Any, Array]:
                state, readings = engine.step(model, state, control)
                return state, jnp.concatenate([readings.observation, readings.position, readings.velocity])

            state, first = engine.reset(model, qpos, qvel)
            return first.observation, jax.lax.scan(step, state, actions)[1]

        return np.stack([np.concatenate([x.ravel() for x in run(jnp.int32(model))]) for model in range(2)])

    with double_precision():
        expected = observations(CEngine(HALF_CHEETAH, models))
        got = observations(MJXEngine(HALF_CHEETAH, models))
    np.testing.assert_allclose(got, expected, rtol=0, atol=MJX_TOLERANCE)
    assert np.max(np.abs(expected[0] - expected[1])) > 1, "the trajectories of the two bodies must differ"


@pytest.mark.slow
def test_mjx_multiplies_in_full_precision_and_stops_converged_searches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Matrix products have full precision, and line searches end when they have converged.

    By default, accelerators round the factors of a product to ten bits, and MJX's line searches have 50 steps.
    """
    model = physics.load(HALF_CHEETAH)
    engine = MJXEngine(HALF_CHEETAH, [model])
    start = jnp.zeros(model.nq), jnp.zeros(model.nv)
    state = engine.reset(jnp.int32(0), *start)[0]
    # Under ``vmap``, products of vectors with matrices become products of matrices.
    states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    traced = jax.jit(jax.vmap(engine.step, (None, 0, 0))).trace(jnp.int32(0), states, jnp.zeros((2, model.nu)))
    products = [line for line in traced.lower().as_text().splitlines() if "dot_general" in line]
    assert len(products) > 5
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    longest = f"length={model.opt.ls_iterations}"
    assert longest not in str(traced.jaxpr)
    monkeypatch.setattr(physics, "_searches_that_end", contextlib.nullcontext)
    # An engine caches its trace, so a new engine is needed.
    engine = MJXEngine(HALF_CHEETAH, [model])
    assert longest in str(jax.make_jaxpr(engine.step)(jnp.int32(0), state, jnp.zeros(model.nu)))


@pytest.mark.slow
@pytest.mark.parametrize("lean", [0.0, 0.05, 2.0])
def test_a_leg_on_the_ground_has_the_same_friction_in_both_engines(lean: float) -> None:
    """A leg that is upright, steeper than 60 degrees, or flatter has the same friction in both engines.

    The contact frames of MJX itself equal those of C MuJoCo in the last case only.
    """
    mujoco = physics.import_mujoco()
    model = mujoco.MjModel.from_xml_string(
        f"""
        <mujoco>
          <option timestep="0.01" solver="Newton"/>
          <worldbody>
            <geom type="plane" size="5 5 1" friction="0.3"/>
            <body pos="0 0 0.29">
              <freejoint/>
              <geom type="capsule" fromto="{-lean} {-lean / 2} -0.2 {lean} {lean / 2} 0.2" size="0.1" friction="0.3"/>
              <body><joint name="wheel"/><geom type="sphere" size="0.01" contype="0" conaffinity="0"/></body>
            </body>
          </worldbody>
          <actuator><motor joint="wheel"/></actuator>
        </mujoco>
        """
    )
    leg = HALF_CHEETAH._replace(observe=lambda xp, model, data: data.qvel, frame_skip=1)

    def after(engine: Engine) -> np.ndarray:
        @jax.jit
        def run() -> Array:
            state, _ = engine.reset(jnp.int32(0), qpos, qvel)
            return engine.step(jnp.int32(0), state, jnp.zeros(1))[1].observation

        return np.asarray(run())

    with double_precision():
        # The velocity along the ground is so high that friction is at its limit, where the pyramid's corners matter.
        falling = np.random.default_rng(0).normal(size=model.nv) + np.array([5, 2, -2, 0, 0, 0, 0])
        qpos, qvel = jnp.asarray(model.qpos0), jnp.asarray(falling)
        expected, got = after(CEngine(leg, [model])), after(MJXEngine(leg, [model]))
    assert np.max(np.abs(expected - np.asarray(qvel))) > 0.5, "the leg must touch the ground"
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_both_engines_reset_finished_episodes() -> None:
    model = physics.load(HALF_CHEETAH)
    actions, over = jnp.asarray(controls(model, 2, 4)), jnp.array([False, True])

    def after(engine: Engine) -> tuple[np.ndarray, ...]:
        starts = [tuple(map(jnp.asarray, beginning(HALF_CHEETAH, model, seed))) for seed in (0, 1)]

        @jax.jit
        @jax.vmap
        def run(control: Array, over: Array) -> tuple[Array, Array, Array]:
            state, _ = engine.reset(jnp.int32(0), *starts[0])
            state, readings, seen = engine.step_or_reset(jnp.int32(0), state, control, over, *starts[1])
            return readings.observation, seen, engine.pose(state)

        return tuple(map(np.asarray, run(actions, over)))

    with double_precision():
        expected, got = after(CEngine(HALF_CHEETAH, [model])), after(MJXEngine(HALF_CHEETAH, [model]))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    observed, seen, pose = expected
    np.testing.assert_array_equal(seen[0], observed[0])
    np.testing.assert_allclose(seen[1, :8], beginning(HALF_CHEETAH, model, 1)[0][1:], rtol=1e-12)
    np.testing.assert_allclose(pose[1], beginning(HALF_CHEETAH, model, 1)[0], rtol=1e-12)


def test_a_branch_that_no_element_needs_is_not_computed() -> None:
    calls: list[int] = []

    def begin(x: Array, y: Array) -> dict[str, Array]:
        def host(x: Any) -> np.ndarray:
            calls.append(np.size(x))
            return np.asarray(-x)

        return {"x": jax.pure_callback(host, x, x, vmap_method="broadcast_all"), "y": jnp.stack([y, y])}

    def one(due: Array, x: Array, y: Array) -> dict[str, Array]:
        return physics.where_due(due, begin, (x, y), {"x": 10 * x, "y": jnp.stack([y, x])})

    # The batch has two axes (seeds and tasks). ``y`` is mapped over the first axis only.
    x, y = jnp.arange(1.0, 7.0).reshape(2, 3), jnp.array([8.0, 9.0])
    both = jax.jit(jax.vmap(jax.vmap(one, (0, 0, None))))
    for due in (np.zeros((2, 3), bool), np.eye(2, 3, 1, dtype=bool), np.ones((2, 3), bool)):
        calls.clear()
        found = jax.tree.map(np.asarray, both(due, x, y))
        assert sum(calls) == (6 if due.any() else 0)
        np.testing.assert_array_equal(found["x"], np.where(due, -x, 10 * x))
        ys = np.broadcast_to(y[:, None], (2, 3))
        np.testing.assert_array_equal(found["y"], np.stack([ys, np.where(due, ys, x)], axis=-1))
    assert float(jax.jit(one)(True, 2.0, 3.0)["x"]) == -2
    assert float(jax.jit(one)(False, 2.0, 3.0)["x"]) == 20


def test_tasks_are_as_published() -> None:
    def targets(family: Any) -> np.ndarray:
        return np.asarray(jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 2000)).target)

    assert set(targets(locomotion.half_cheetah_direction())) == {-1.0, 1.0}
    speeds = targets(locomotion.half_cheetah_velocity(2.0))
    assert (speeds.min() >= 0) & (speeds.max() <= 2)
    assert abs(speeds.mean() - 1) < 0.05
    assert set(map(tuple, targets(locomotion.ant_direction()))) == {(-1.0, 0.0), (1.0, 0.0)}
    for planar in (targets(locomotion.ant_direction(planar=True)), targets(locomotion.humanoid_direction())):
        np.testing.assert_allclose(np.linalg.norm(planar, axis=1), 1, rtol=1e-5)
        assert np.all(np.abs(planar.mean(axis=0)) < 0.06)
    distance = np.linalg.norm(targets(locomotion.ant_goal()), axis=1)
    assert distance.max() <= 3
    # Goals are uniform on the disc: the square of the distance is uniform.
    assert abs(np.mean(distance**2) - 4.5) < 0.2


def test_an_ant_on_its_way_to_a_goal_never_ends() -> None:
    family = locomotion.ant_goal(horizon=10)
    task = family.tasks.sample(jax.random.key(0))
    _, state = family.env.reset(jax.random.key(1), task)
    low = jnp.asarray(physics.load(ANT).qpos0).at[2].set(0.1)
    physics_state, readings = robots(family).engine.reset(jnp.int32(0), low, jnp.zeros(14))
    assert bool(readings.healthy)
    state = state.replace(physics=physics_state)
    assert not bool(family.env.step(jax.random.key(2), state, jnp.zeros(8), task)[3])
    assert not bool(robots(locomotion.ant_direction()).engine.reset(jnp.int32(0), low, jnp.zeros(14))[1].healthy)


def test_actions_out_of_range_are_clipped_before_they_cost_anything() -> None:
    family = locomotion.half_cheetah_direction()
    task = family.tasks.sample(jax.random.key(0))
    _, state = family.env.reset(jax.random.key(1), task)
    far, near = (family.env.step(jax.random.key(2), state, x * jnp.ones(6), task) for x in (50.0, 1.0))
    for a, b in zip(jax.tree.leaves(far), jax.tree.leaves(near), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("asked", "made"), [("auto", CEngine), ("c", CEngine), ("mjx", MJXEngine)])
def test_the_engine_is_a_setting_of_presets(asked: str, made: type) -> None:
    experiment = experiments.get("rl2-half-cheetah-direction")
    env: Any = experiment.make_family(experiment.with_overrides({"engine": asked})).env
    assert isinstance(env.engine, made)
    with pytest.raises(ValueError, match="engine must be one of"):
        experiment.build(experiment.with_overrides({"engine": "warp"}))


def test_an_engine_that_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco.mjx", None)
    monkeypatch.delattr(mujoco, "mjx", raising=False)
    with pytest.raises(ImportError, match=r"mujoco-mjx, which is not installed: pip install '.\[mujoco\]'"):
        locomotion.half_cheetah_direction(engine="mjx")
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"robots need MuJoCo, .*pip install '.\[mujoco\]'"):
        locomotion.half_cheetah_direction()


def test_bad_arguments_are_named() -> None:
    for family in (locomotion.half_cheetah_direction, locomotion.walker_parameters):
        with pytest.raises(ValueError, match="engine must be one of"):
            family(engine="warp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="horizon"):
        locomotion.ant_goal(horizon=0)
    with pytest.raises(ValueError, match="fastest"):
        locomotion.half_cheetah_velocity(-1.0)
    with pytest.raises(ValueError, match="heldout_tasks"):
        locomotion.hopper_parameters(heldout_tasks=0)
    zero: tuple[Any, Any] = (lambda *_: jnp.zeros(()), lambda _: jnp.zeros(()))
    with pytest.raises(ValueError, match="must leave some of the 1 models"):
        locomotion.make(HOPPER, 5, "c", *zero, models=[0], heldout_models=1)
    with pytest.raises(ValueError, match=r"heldout_models \(1\) and validation_models \(1\) must leave some of the 2 "):
        locomotion.make(HOPPER, 5, "c", *zero, models=[0, 0], heldout_models=1, validation_models=1)
    with pytest.raises(ValueError, match="at least one"):
        physics.make(HOPPER, [], "c")
    with pytest.raises(ValueError, match="numbers only"):
        CEngine(HOPPER, [physics.load(HOPPER), physics.load(ANT)])


ENDLESS = """
import signal
import jax
from metarl_jax.environments import locomotion

# Who starts tests in the background may have had interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
env = locomotion.half_cheetah_direction(engine="c").env
task = locomotion.LocomotionParams(jax.numpy.ones(()), jax.numpy.int32(0), 200)

@jax.jit
@jax.vmap
def run(key):
    obs, state = env.reset(key, task)
    def step(state, key):
        obs, state, reward, *_ = env.step(key, state, jax.random.uniform(key, (6,)), task)
        return state, reward
    return jax.lax.scan(step, state, jax.random.split(key, 50))[1].sum()

print("begun", flush=True)
for i in range(1_000_000):
    run(jax.random.split(jax.random.key(i), 64)).block_until_ready()
    if i == 0:
        print("running", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends(which: signal.Signals) -> None:
    """A running program, which continues after its caller was interrupted, does not block or abort the process."""
    process = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines == [b"begun\n", b"running\n"]
        process.send_signal(which)
        process.wait(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -which


@pytest.mark.slow
def test_thousands_of_robots_at_once_do_not_lock() -> None:
    """Host callbacks do not call JAX, which would wait for the program that waits for the callback."""
    family = locomotion.half_cheetah_direction(horizon=2)

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.uniform(key, (6,), minval=-1, maxval=1), ()

    @jax.jit
    @jax.vmap
    def play(key: Key) -> Array:
        task = LocomotionParams(jnp.ones(()), jnp.int32(0), 2)
        return jnp.sum(trial(key, act, (), family, task, 2)[1].reward)

    assert bool(jnp.all(jnp.isfinite(play(jax.random.split(jax.random.key(0), 4096)))))


@pytest.mark.parametrize(
    ("make", "size"),
    [(locomotion.half_cheetah_direction, 1), (locomotion.half_cheetah_velocity, 1), (locomotion.ant_direction, 2)],
)
def test_a_shown_task_is_the_end_of_every_observation(make: Any, size: int) -> None:
    """The rest of the trial is that of the family with a hidden task, also where an episode ends and begins."""

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        return carry, jax.random.uniform(key, (family.action_space.shape[0],), jnp.float32, -1, 1), ()

    trials = []
    for family in (make(horizon=3, engine="c"), make(horizon=3, engine="c", observe_task=True)):
        task = family.tasks.sample(jax.random.key(1))
        trials.append(trial(jax.random.key(0), act, (), family, task, 2)[1])
        assert trials[-1].inputs.obs.shape[1:] == family.observation_space.shape
    hidden, shown = trials
    for before, after in ((hidden.inputs.obs, shown.inputs.obs), (hidden.final_obs, shown.final_obs)):
        np.testing.assert_array_equal(after[:, :-size], before)
        np.testing.assert_array_equal(after[:, -size:], np.broadcast_to(np.ravel(task.target), (6, size)))
    np.testing.assert_array_equal(shown.reward, hidden.reward)
