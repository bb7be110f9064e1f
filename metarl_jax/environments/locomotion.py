"""Robots that walk, after Gymnasium's v5 bodies: what they are to do, or what they are made of, is the task.

Each paper's tasks are here under what it calls them, with its costs, bonuses and horizons; the bodies are Gymnasium's,
so that returns compare with those of whoever uses the same bodies, and not with rllab's. Actions are clipped to the
action space before they cost anything. Needs the extra ``metarl-jax[mujoco]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import choice, positive_int, real
from metarl_jax.environments import physics
from metarl_jax.environments.base import Environment, random_signs
from metarl_jax.environments.drawing import SIZE, Frame, blank
from metarl_jax.environments.physics import Engine, EngineName, Readings, Robot
from metarl_jax.types import Array, Box, EnvFamily, Key, State, TaskDistribution

if TYPE_CHECKING:
    from PIL.Image import Image

CAPSULE = 3
"""MuJoCo's number of the shape that most robots' limbs have."""

# ---------------------------------------------------------------------------------------------------------------
# The robots, as Gymnasium's v5 environments look at them.


def _along(xp: Any, model: Any, data: Any) -> Any:
    """Of a robot in a plane."""
    del model
    return xp.stack([data.qpos[0], 0.0 * data.qpos[0]])


def _torso(xp: Any, model: Any, data: Any) -> Any:
    del xp, model
    return data.xpos[1, :2]


def _mass_centre(xp: Any, model: Any, data: Any) -> Any:
    return (xp.einsum("b,bj->j", model.body_mass, data.xipos) / model.body_mass.sum())[:2]


def _cheetah_sees(xp: Any, model: Any, data: Any) -> Any:
    del model
    return xp.concatenate([data.qpos[1:], data.qvel])


def _walker_sees(xp: Any, model: Any, data: Any) -> Any:
    del model
    return xp.concatenate([data.qpos[1:], xp.clip(data.qvel, -10, 10)])


def _ant_sees(xp: Any, model: Any, data: Any) -> Any:
    del model
    return xp.concatenate([data.qpos[2:], data.qvel, xp.clip(data.cfrc_ext[1:], -1, 1).reshape(-1)])


def _humanoid_sees(xp: Any, model: Any, data: Any) -> Any:
    del model
    parts = (data.cinert[1:], data.cvel[1:], data.qfrc_actuator[6:], data.cfrc_ext[1:])
    return xp.concatenate([data.qpos[2:], data.qvel, *(part.reshape(-1) for part in parts)])


def _hopper_stands(xp: Any, data: Any) -> Any:
    state = xp.concatenate([data.qpos[2:], data.qvel])
    upright = (data.qpos[1] > 0.7) & (abs(data.qpos[2]) < 0.2)
    return upright & xp.all(abs(state) < 100)


def _walker_stands(xp: Any, data: Any) -> Any:
    del xp
    return (data.qpos[1] > 0.8) & (data.qpos[1] < 2.0) & (abs(data.qpos[2]) < 1.0)


def _ant_stands(xp: Any, data: Any) -> Any:
    finite = xp.all(xp.isfinite(data.qpos)) & xp.all(xp.isfinite(data.qvel))
    return finite & (data.qpos[2] >= 0.2) & (data.qpos[2] <= 1.0)


def _humanoid_stands(xp: Any, data: Any) -> Any:
    del xp
    return (data.qpos[2] > 1.0) & (data.qpos[2] < 2.0)


HALF_CHEETAH = Robot("half cheetah", "half_cheetah.xml", 5, _along, _cheetah_sees, None, 0.1, normal_velocity=True)
HOPPER = Robot("hopper", "hopper.xml", 4, _along, _walker_sees, _hopper_stands, 5e-3, normal_velocity=False)
WALKER = Robot("walker", "walker2d_v5.xml", 4, _along, _walker_sees, _walker_stands, 5e-3, normal_velocity=False)
ANT = Robot(
    "ant",
    "ant.xml",
    5,
    _torso,
    _ant_sees,
    _ant_stands,
    0.1,
    normal_velocity=True,
    from_above=True,
    impact=lambda xp, data: xp.sum(xp.clip(data.cfrc_ext, -1, 1) ** 2),
)
HUMANOID = Robot(
    "humanoid",
    "humanoid.xml",
    5,
    _mass_centre,
    _humanoid_sees,
    _humanoid_stands,
    1e-2,
    normal_velocity=False,
    impact=lambda xp, data: xp.sum(data.cfrc_ext**2),
)

# ---------------------------------------------------------------------------------------------------------------
# The environment.


@struct.dataclass
class LocomotionParams:
    """A task."""

    target: Array
    """What the reward asks for: a direction, a speed or a goal, of the shape that the family says."""
    model: Array
    """Which of the family's bodies, ``int32``."""
    max_steps_in_episode: int


@struct.dataclass
class LocomotionState:
    physics: Any
    """The engine's own."""
    time: Array
    """Control steps in this episode, ``int32``."""


class Locomotion(Environment):
    """A robot with a reward; an episode ends by itself where the robot falls, if it can.

    Args:
        robot: the body.
        models: ``mujoco.MjModel``, at least one; a task has one of them.
        engine: which engine.
        reward: ``(readings, control [nu], target) -> scalar``.
    """

    caption = "The picture follows the robot; the marks on the floor are a metre apart."

    def __init__(
        self,
        robot: Robot,
        models: list[Any],
        engine: EngineName,
        reward: Callable[[Readings, Array, Array], Array],
    ) -> None:
        self.robot, self.models, self.reward = robot, models, reward
        self.engine: Engine = physics.make(robot, models, engine)
        model = models[0]
        self._qpos, self._nv = jnp.asarray(model.qpos0), int(model.nv)
        low, high = np.array(model.actuator_ctrlrange, np.float32).T
        self._actions = Box(jnp.asarray(low), jnp.asarray(high), (int(model.nu),))
        task = LocomotionParams(jnp.zeros(2, jnp.float32), jnp.int32(0), 1)
        seen = jax.eval_shape(self.reset, jax.random.key(0), task)[0]
        self._observations = Box(-jnp.inf, jnp.inf, seen.shape)

    def _start(self, key: Key) -> tuple[Array, Array]:
        """Positions and velocities of a new episode."""
        key_qpos, key_qvel = jax.random.split(key)
        noise = self.robot.noise
        qpos = self._qpos + jax.random.uniform(key_qpos, self._qpos.shape, jnp.float32, -noise, noise)
        if self.robot.normal_velocity:
            return qpos, noise * jax.random.normal(key_qvel, (self._nv,), jnp.float32)
        return qpos, jax.random.uniform(key_qvel, (self._nv,), jnp.float32, -noise, noise)

    def reset_env(self, key: Key, params: LocomotionParams) -> tuple[Array, LocomotionState]:
        state, readings = self.engine.reset(params.model, *self._start(key))
        return readings.observation, LocomotionState(state, jnp.int32(0))

    def _control(self, action: Array) -> Array:
        return jnp.clip(action, self._actions.low, self._actions.high)

    def step_env(
        self, key: Key, state: LocomotionState, action: Array, params: LocomotionParams
    ) -> tuple[Array, LocomotionState, Array, Array, dict[Any, Any]]:
        del key
        control = self._control(action)
        after, readings = self.engine.step(params.model, state.physics, control)
        reward = self.reward(readings, control, params.target)
        return readings.observation, LocomotionState(after, state.time + 1), reward, ~readings.healthy, {}

    def step(
        self, key: Key, state: State, action: Array, params: LocomotionParams
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        """As the base class's, but what has not ended is not reset, which takes an engine's time."""
        _, key_reset = jax.random.split(key)
        control, time = self._control(action), state.time + 1
        truncated = time >= params.max_steps_in_episode
        after, readings, obs = self.engine.step_or_reset(
            params.model, state.physics, control, truncated, *self._start(key_reset)
        )
        terminated = ~readings.healthy
        reward = self.reward(readings, control, params.target)
        time = jnp.where(jnp.logical_or(terminated, truncated), 0, time)
        info = {"terminated": terminated, "truncated": truncated, "final_observation": readings.observation}
        return obs, LocomotionState(after, time), reward, terminated, truncated, info

    def action_space(self, params: LocomotionParams | None = None) -> Box:
        del params
        return self._actions

    def observation_space(self, params: LocomotionParams | None = None) -> Box:
        del params
        return self._observations

    def drawn_state(self, state: LocomotionState) -> Array:
        """MuJoCo's positions ``[nq]``, which are all that ``draw`` needs of a state."""
        return self.engine.pose(state.physics)

    def draw(self, frames: Sequence[Frame], task: LocomotionParams) -> Image:
        """The robot from the side or from above (``drawing.Drawable``): its geoms as thick lines on a marked floor.

        The picture follows the robot, as large as makes the picture of its initial pose 2.5 robots wide.
        """
        mujoco, model = physics.import_mujoco(), self.models[int(task.model)]
        data, above = mujoco.MjData(model), self.robot.from_above
        mujoco.mj_kinematics(model, data)
        limbs = np.flatnonzero(model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE)
        metres = 2.5 * float(np.ptp(data.geom_xpos[limbs], axis=0).max())
        scale = SIZE / metres
        data.qpos[:] = frames[-1].state
        mujoco.mj_kinematics(model, data)
        middle = np.array(data.xpos[1])
        across = (0, 1) if above else (0, 2)
        # The camera looks along the third axis.
        lowest = middle[1] - metres / 2 if above else -0.2 * metres

        def pixel(place: np.ndarray) -> tuple[float, float]:
            x, y = place[list(across)]
            return (x - middle[0] + metres / 2) * scale, SIZE - (y - lowest) * scale

        picture, canvas = blank()
        top = 0.0 if above else pixel(np.zeros(3))[1]
        canvas.rectangle((0, top, SIZE, SIZE), fill="whitesmoke")
        # A mark at every metre; along both axes if the picture is from above.
        first = math.floor(middle[0] - metres / 2)
        for mark in range(first, first + math.ceil(metres) + 2):
            x = pixel(np.array([mark, 0.0, 0.0]))[0]
            canvas.line((x, top, x, SIZE), fill="silver")
        if above:
            first = math.floor(lowest)
            for mark in range(first, first + math.ceil(metres) + 2):
                y = pixel(np.array([0.0, mark, 0.0]))[1]
                canvas.line((0, y, SIZE, y), fill="silver")
        # Nearer geoms cover those that are farther away.
        nearer = data.geom_xpos[limbs, 2] if above else -data.geom_xpos[limbs, 1]
        for geom in limbs[np.argsort(nearer)]:
            kind, size = model.geom_type[geom], model.geom_size[geom]
            along = np.array(data.geom_xmat[geom]).reshape(3, 3)[:, 2] * (size[1] if kind == CAPSULE else 0.0)
            ends = [pixel(data.geom_xpos[geom] + sign * along) for sign in (-1, 1)]
            radius = max(1.0, float(size[0]) * scale)
            colour = "navy" if model.geom_bodyid[geom] == 1 else "royalblue"
            canvas.line((*ends[0], *ends[1]), fill=colour, width=round(2 * radius))
            for x, y in ends:
                canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        return picture


def make(
    robot: Robot,
    horizon: int,
    engine: EngineName,
    reward: Callable[[Readings, Array, Array], Array],
    target: Callable[[Key], Array],
    *,
    models: list[Any] | None = None,
    heldout_models: int = 0,
    validation_models: int = 0,
) -> EnvFamily:
    """A family of tasks of a robot: one of the papers' below, or your own.

    Args:
        robot: the body.
        horizon: control steps of an episode.
        engine: "c", "mjx", or "auto": by the platform.
        reward: ``(readings, control [nu], target) -> scalar``.
        target: draws what a task asks for.
        models: ``mujoco.MjModel`` that differ in numbers only, of which a task has one; the robot's own if None.
        heldout_models: how many of them, those that follow the training tasks' ones, belong to held-out tasks; 0:
            held-out tasks have the training tasks' models.
        validation_models: how many of them, the last ones, belong to validation tasks; 0: validation tasks have the
            training tasks' models.

    Raises:
        ValueError: for a horizon that is not a positive whole number, an unknown engine, or no models to train on.
        ImportError: without the engine or Gymnasium.
    """
    steps = positive_int("horizon", horizon)
    models = [physics.load(robot)] if models is None else models
    training_models = len(models) - heldout_models - validation_models
    if training_models <= 0:
        raise ValueError(
            f"heldout_models ({heldout_models}) and validation_models ({validation_models}) must leave some of the "
            f"{len(models)} models to train on"
        )
    env = Locomotion(robot, models, engine, reward)

    def sampler(low: int, high: int) -> Callable[[Key], LocomotionParams]:
        def sample(key: Key) -> LocomotionParams:
            key_target, key_model = jax.random.split(key)
            return LocomotionParams(target(key_target), jax.random.randint(key_model, (), low, high, jnp.int32), steps)

        return sample

    train, heldout_end = sampler(0, training_models), training_models + heldout_models
    return EnvFamily(
        env=env,
        tasks=TaskDistribution(
            train,
            sampler(training_models, heldout_end) if heldout_models else train,
            sampler(heldout_end, len(models)) if validation_models else None,
        ),
        horizon=steps,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
    )


def _forth_or_back(key: Key) -> Array:
    return random_signs(key, ())


def _on_circle(angle: Array) -> Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _all_around(key: Key) -> Array:
    return _on_circle(jax.random.uniform(key, (), jnp.float32, maxval=2 * math.pi))


# ---------------------------------------------------------------------------------------------------------------
# The families.


def half_cheetah_direction(horizon: int = 200, engine: EngineName = "auto") -> EnvFamily:
    """A half cheetah that is to run forth or back (Finn et al. 2017, section 5.3.2, and everyone since).

    Reward: velocity along the direction, +1 or -1, less 0.05 times the squared action. Held-out and validation tasks
    are the same two: there are no others.

    Args:
        horizon: control steps of an episode: 200 (Finn et al.; Rakelly et al. 2019; Zintgraf et al. 2020), or 100
            (Rothfuss et al. 2019).
        engine: "c", "mjx", or by the platform.

    Raises:
        ValueError: for a horizon that is not a positive whole number, or an unknown engine.
        ImportError: without the engine or Gymnasium.
    """

    def reward(readings: Readings, control: Array, direction: Array) -> Array:
        return direction * readings.velocity[0] - 0.05 * jnp.sum(control**2)

    return make(HALF_CHEETAH, horizon, engine, reward, _forth_or_back)


def half_cheetah_velocity(fastest: float = 3.0, horizon: int = 200, engine: EngineName = "auto") -> EnvFamily:
    """A half cheetah that is to run at a speed, uniform from 0 to ``fastest``.

    Reward: minus the difference from that speed, less 0.05 times the squared action.

    Args:
        fastest: metres a second: 3 (Rothfuss et al. 2019, Rakelly et al. 2019 and Zintgraf et al. 2020, in their code),
            or 2 (Finn et al. 2017).
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform.

    Raises:
        ValueError: for a speed that is not positive; else as ``half_cheetah_direction``.
        ImportError: as there.
    """
    real(above=0)("fastest", fastest)

    def reward(readings: Readings, control: Array, speed: Array) -> Array:
        return -jnp.abs(readings.velocity[0] - speed) - 0.05 * jnp.sum(control**2)

    return make(
        HALF_CHEETAH, horizon, engine, reward, lambda key: jax.random.uniform(key, (), jnp.float32, maxval=fastest)
    )


def ant_direction(planar: bool = False, horizon: int = 200, engine: EngineName = "auto") -> EnvFamily:
    """An ant that is to walk forth or back, or anywhere in the plane (Rakelly et al. 2019; Zintgraf et al. 2020).

    Reward: velocity along the direction + 1, less 0.5 times the squared action and 0.0005 times the squared impacts. It
    ends where the torso leaves heights of 0.2 to 1. (VariBAD's code hands +1 and -1 to sine and cosine as radians,
    which makes its directions 57 degrees apart from the axis; not so here.)

    Args:
        planar: whether directions are uniform on the circle. Otherwise there are two, for training, validation and
            held-out tasks alike.
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform.

    Raises:
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform ("auto").
    """

    def reward(readings: Readings, control: Array, direction: Array) -> Array:
        costs = 0.5 * jnp.sum(control**2) + 0.5e-3 * readings.impact
        return jnp.sum(readings.velocity * direction) + 1.0 - costs

    def forth_or_back(key: Key) -> Array:
        return jnp.stack([_forth_or_back(key), jnp.float32(0)])

    return make(ANT, horizon, engine, reward, _all_around if planar else forth_or_back)


def ant_goal(horizon: int = 200, engine: EngineName = "auto") -> EnvFamily:
    """An ant that is to reach a place within 3 metres of where it starts (Rakelly et al. 2019, code).

    Goals at a distance of 3 times the square root of a uniform number, in any direction. Reward: minus the sum of both
    coordinates' distances, less 0.1 times the squared action and 0.0005 times the squared impacts; it never ends.

    Args:
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform.

    Raises:
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform ("auto").
    """

    def reward(readings: Readings, control: Array, goal: Array) -> Array:
        costs = 0.1 * jnp.sum(control**2) + 0.5e-3 * readings.impact
        return -jnp.sum(jnp.abs(readings.position - goal)) - costs

    def goal(key: Key) -> Array:
        key_angle, key_distance = jax.random.split(key)
        return 3.0 * jnp.sqrt(jax.random.uniform(key_distance, dtype=jnp.float32)) * _all_around(key_angle)

    return make(ANT._replace(healthy=None), horizon, engine, reward, goal)


def humanoid_direction(horizon: int = 200, engine: EngineName = "auto") -> EnvFamily:
    """A humanoid that is to walk in some direction of the plane (Rothfuss et al. 2019; Rakelly et al. 2019).

    Reward: 1.25 times the velocity of the mass centre along the direction (a quarter of its displacement by physics
    steps' seconds, as published) + 5, less 0.1 times the squared action and the squared impacts times 5e-7, at most 10.
    It ends where the torso leaves heights of 1 to 2.

    Args:
        horizon: control steps of an episode.
        engine: "c", "mjx" (which solves contacts by another method than Gymnasium's), or by the platform.

    Raises:
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform ("auto").
    """

    def reward(readings: Readings, control: Array, direction: Array) -> Array:
        costs = 0.1 * jnp.sum(control**2) + jnp.minimum(5e-7 * readings.impact, 10.0)
        return 1.25 * jnp.sum(readings.velocity * direction) + 5.0 - costs

    return make(HUMANOID, horizon, engine, reward, _all_around)


def hopper_parameters(
    tasks: int = 40, heldout_tasks: int = 10, horizon: int = 200, engine: EngineName = "auto", seed: int = 0
) -> EnvFamily:
    """A hopper whose masses, inertias, damping and friction are the task (Rakelly et al. 2019, code).

    Args:
        tasks: bodies of training tasks.
        heldout_tasks: bodies of held-out tasks.
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform ("auto").
        seed: of the bodies.

    Raises:
        ValueError, ImportError: as ``walker_parameters``.
    """
    return _with_parameters(HOPPER, tasks, heldout_tasks, horizon, engine, seed)


def walker_parameters(
    tasks: int = 40, heldout_tasks: int = 10, horizon: int = 200, engine: EngineName = "auto", seed: int = 0
) -> EnvFamily:
    """A walker whose masses, inertias, damping and friction are the task (Rakelly et al. 2019, code).

    Every element of them is multiplied by 1.5 (damping: 1.3) to the power of a uniform number from -3 to 3, and what
    MuJoCo derives from them is computed anew. Reward: velocity + 1, less 0.001 times the squared action; it ends where
    the robot falls.

    Args:
        tasks: bodies of training tasks.
        heldout_tasks: bodies of held-out tasks. Validation tasks have as many bodies of their own.
        horizon: control steps of an episode.
        engine: "c", "mjx", or by the platform.
        seed: of the bodies.

    Raises:
        ValueError: for a number of tasks that is not a positive whole number; else as ``half_cheetah_direction``.
        ImportError: as there.
    """
    return _with_parameters(WALKER, tasks, heldout_tasks, horizon, engine, seed)


def _with_parameters(
    robot: Robot, tasks: int, heldout_tasks: int, horizon: int, engine: EngineName, seed: int
) -> EnvFamily:
    tasks, heldout_tasks = positive_int("tasks", tasks), positive_int("heldout_tasks", heldout_tasks)
    choice("auto", "c", "mjx")("engine", engine)
    random = np.random.default_rng(seed)

    def reward(readings: Readings, control: Array, target: Array) -> Array:
        del target
        return readings.velocity[0] + 1.0 - 1e-3 * jnp.sum(control**2)

    # The bodies of validation tasks come last, so that the others are those that the seed has always given.
    return make(
        robot,
        horizon,
        engine,
        reward,
        lambda key: jnp.float32(0),
        models=[randomised(robot, random) for _ in range(tasks + 2 * heldout_tasks)],
        heldout_models=heldout_tasks,
        validation_models=heldout_tasks,
    )


def randomised(robot: Robot, random: np.random.Generator) -> Any:
    """The robot's model with other masses, inertias, damping and friction.

    Args:
        robot: whose model.
        random: draws the factors.

    Returns:
        An ``mujoco.MjModel``, with what MuJoCo derives from these (``mj_setConst``) computed anew: changing masses
        alone would leave the inverse inertias, which contacts are solved with, those of the old body.
    """
    mujoco, model = physics.import_mujoco(), physics.load(robot)
    for field, base in (("body_mass", 1.5), ("body_inertia", 1.5), ("dof_damping", 1.3), ("geom_friction", 1.5)):
        values = getattr(model, field)
        values *= base ** random.uniform(-3, 3, values.shape)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
