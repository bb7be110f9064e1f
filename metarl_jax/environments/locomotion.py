"""Walking robots with the bodies of Gymnasium's v5 environments; a task is a goal of the reward or a changed body.

Each paper's tasks have the paper's name, costs, bonuses and horizons. The bodies are Gymnasium's. Returns can therefore
be compared with results for the same bodies, but not with results for the bodies of rllab. Actions are clipped to the
action space before their cost is computed. This module needs the extra ``metarl-jax[mujoco]``.
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
"""MuJoCo's number of the geom type "capsule", which is the shape of most limbs."""

# ---------------------------------------------------------------------------------------------------------------
# The robots, with the observations and healthy states of Gymnasium's v5 environments.


def _along(xp: Any, model: Any, data: Any) -> Any:
    """Return the position of a robot that moves in a vertical plane: (x, 0)."""
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
    """A task: the target of the reward, and the body."""

    target: Array
    """The target of the reward: a direction, a speed or a goal. Its shape depends on the family."""
    model: Array
    """The index of the body among the family's bodies, ``int32``."""
    max_steps_in_episode: int
    """The largest number of control steps of an episode."""


@struct.dataclass
class LocomotionState:
    """The state of an episode."""

    physics: Any
    """The state of the physics engine."""
    time: Array
    """The number of control steps in this episode, ``int32``."""


class Locomotion(Environment):
    """A robot with a reward. An episode terminates if the robot is not healthy, that is, falls.

    Args:
        robot: the robot.
        models: instances of ``mujoco.MjModel``, at least one; a task has one of them.
        engine: the name of the physics engine.
        reward: a function ``(readings, control [nu], target) -> scalar``.
        shown_target: the shape of the target if it is appended to the observation; None if it is hidden.
    """

    caption = "The picture follows the robot. The distance between two marks on the floor is one metre."

    def __init__(
        self,
        robot: Robot,
        models: list[Any],
        engine: EngineName,
        reward: Callable[[Readings, Array, Array], Array],
        shown_target: tuple[int, ...] | None = None,
    ) -> None:
        self.robot, self.models, self.reward = robot, models, reward
        self._shows = shown_target is not None
        self.engine: Engine = physics.make(robot, models, engine)
        model = models[0]
        self._qpos, self._nv = jnp.asarray(model.qpos0), int(model.nv)
        low, high = np.array(model.actuator_ctrlrange, np.float32).T
        self._actions = Box(jnp.asarray(low), jnp.asarray(high), (int(model.nu),))
        task = LocomotionParams(jnp.zeros((2,) if shown_target is None else shown_target, jnp.float32), jnp.int32(0), 1)
        seen = jax.eval_shape(self.reset, jax.random.key(0), task)[0]
        self._observations = Box(-jnp.inf, jnp.inf, seen.shape)

    def _start(self, key: Key) -> tuple[Array, Array]:
        """Draw the positions and velocities at the start of an episode."""
        key_qpos, key_qvel = jax.random.split(key)
        noise = self.robot.noise
        qpos = self._qpos + jax.random.uniform(key_qpos, self._qpos.shape, jnp.float32, -noise, noise)
        if self.robot.normal_velocity:
            return qpos, noise * jax.random.normal(key_qvel, (self._nv,), jnp.float32)
        return qpos, jax.random.uniform(key_qvel, (self._nv,), jnp.float32, -noise, noise)

    def reset_env(self, key: Key, params: LocomotionParams) -> tuple[Array, LocomotionState]:
        state, readings = self.engine.reset(params.model, *self._start(key))
        return self._observation(readings.observation, params), LocomotionState(state, jnp.int32(0))

    def _observation(self, robot: Array, params: LocomotionParams) -> Array:
        """Return the observation, given that of the robot."""
        return jnp.concatenate([robot, jnp.ravel(params.target).astype(robot.dtype)]) if self._shows else robot

    def _control(self, action: Array) -> Array:
        return jnp.clip(action, self._actions.low, self._actions.high)

    def step_env(
        self, key: Key, state: LocomotionState, action: Array, params: LocomotionParams
    ) -> tuple[Array, LocomotionState, Array, Array, dict[Any, Any]]:
        del key
        control = self._control(action)
        after, readings = self.engine.step(params.model, state.physics, control)
        reward = self.reward(readings, control, params.target)
        observation = self._observation(readings.observation, params)
        return observation, LocomotionState(after, state.time + 1), reward, ~readings.healthy, {}

    def step(
        self, key: Key, state: State, action: Array, params: LocomotionParams
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        """Take one step, and reset only if the episode ends, because resets take time of the engine."""
        _, key_reset = jax.random.split(key)
        control, time = self._control(action), state.time + 1
        truncated = time >= params.max_steps_in_episode
        after, readings, obs = self.engine.step_or_reset(
            params.model, state.physics, control, truncated, *self._start(key_reset)
        )
        terminated = ~readings.healthy
        reward = self.reward(readings, control, params.target)
        time = jnp.where(jnp.logical_or(terminated, truncated), 0, time)
        final = self._observation(readings.observation, params)
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final}
        return self._observation(obs, params), LocomotionState(after, time), reward, terminated, truncated, info

    def action_space(self, params: LocomotionParams | None = None) -> Box:
        del params
        return self._actions

    def observation_space(self, params: LocomotionParams | None = None) -> Box:
        del params
        return self._observations

    def drawn_state(self, state: LocomotionState) -> Array:
        """Return MuJoCo's positions ``[nq]``, the part of a state that ``draw`` needs."""
        return self.engine.pose(state.physics)

    def draw(self, frames: Sequence[Frame], task: LocomotionParams) -> Image:
        """Draw the robot from the side or from above (``drawing.Drawable``).

        The geoms are thick lines on a floor with marks. The picture follows the robot. Its width is 2.5 times the size
        of the robot in its initial pose.
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
        # There is a mark at every metre, along both axes if the picture is from above.
        first = math.floor(middle[0] - metres / 2)
        for mark in range(first, first + math.ceil(metres) + 2):
            x = pixel(np.array([mark, 0.0, 0.0]))[0]
            canvas.line((x, top, x, SIZE), fill="silver", width=2)
        if above:
            first = math.floor(lowest)
            for mark in range(first, first + math.ceil(metres) + 2):
                y = pixel(np.array([0.0, mark, 0.0]))[1]
                canvas.line((0, y, SIZE, y), fill="silver", width=2)
        # Nearer geoms cover those that are farther away.
        nearer = data.geom_xpos[limbs, 2] if above else -data.geom_xpos[limbs, 1]
        for geom in limbs[np.argsort(nearer)]:
            kind, size = model.geom_type[geom], model.geom_size[geom]
            along = np.array(data.geom_xmat[geom]).reshape(3, 3)[:, 2] * (size[1] if kind == CAPSULE else 0.0)
            ends = [pixel(data.geom_xpos[geom] + sign * along) for sign in (-1, 1)]
            radius = max(2.0, float(size[0]) * scale)
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
    observe_task: bool = False,
) -> EnvFamily:
    """Make a family of tasks of a robot: one of the papers' families below, or your own.

    Args:
        robot: The robot.
        horizon: The number of control steps of an episode.
        engine: The physics engine: "c", "mjx", or "auto" (by the platform).
        reward: A function ``(readings, control [nu], target) -> scalar``.
        target: A function that draws the target of a task from a key.
        models: Instances of ``mujoco.MjModel`` that differ in numbers only, of which a task has one; the robot's own
            model if None. The models of training tasks come first, then those of held-out tasks, then those of
            validation tasks.
        heldout_models: The number of models of held-out tasks; with 0, held-out tasks have the models of training
            tasks.
        validation_models: The number of models of validation tasks; with 0, validation tasks have the models of
            training tasks.
        observe_task: Whether the observation contains the target, for reference learners that know the task.

    Raises:
        ValueError: if ``horizon`` is not a positive whole number, the engine is unknown, or there is no model for
            training tasks.
        ImportError: if the engine or Gymnasium is not installed.
    """
    steps = positive_int("horizon", horizon)
    models = [physics.load(robot)] if models is None else models
    training_models = len(models) - heldout_models - validation_models
    if training_models <= 0:
        raise ValueError(
            f"heldout_models ({heldout_models}) and validation_models ({validation_models}) must leave some of the "
            f"{len(models)} models for training"
        )
    shown = jax.eval_shape(target, jax.random.key(0)).shape if observe_task else None
    env = Locomotion(robot, models, engine, reward, shown)

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


def half_cheetah_direction(horizon: int = 200, engine: EngineName = "auto", observe_task: bool = False) -> EnvFamily:
    """Make the tasks in which a half cheetah must run forwards or backwards (Finn et al. 2017, section 5.3.2).

    The reward is the velocity along the direction (+1 or -1) minus 0.05 times the squared action. There are only two
    tasks, so training, validation and held-out tasks are the same.

    Args:
        horizon: The number of control steps of an episode: 200 (Finn et al.; Rakelly et al. 2019; Zintgraf et al.
            2020), or 100 (Rothfuss et al. 2019).
        engine: The physics engine: "c", "mjx", or "auto" (by the platform).
        observe_task: Whether the observation contains the direction, for reference learners that know the task.

    Raises:
        ValueError: if ``horizon`` is not a positive whole number, or the engine is unknown.
        ImportError: if the engine or Gymnasium is not installed.
    """

    def reward(readings: Readings, control: Array, direction: Array) -> Array:
        return direction * readings.velocity[0] - 0.05 * jnp.sum(control**2)

    return make(HALF_CHEETAH, horizon, engine, reward, _forth_or_back, observe_task=observe_task)


def half_cheetah_velocity(
    fastest: float = 3.0, horizon: int = 200, engine: EngineName = "auto", observe_task: bool = False
) -> EnvFamily:
    """Make the tasks in which a half cheetah must run at a given speed, uniform from 0 to ``fastest``.

    The reward is minus the absolute difference from this speed, minus 0.05 times the squared action.

    Args:
        fastest: The largest speed in metres per second: 3 (Rothfuss et al. 2019, Rakelly et al. 2019 and Zintgraf et
            al. 2020, in their code), or 2 (Finn et al. 2017).
        horizon: The number of control steps of an episode.
        engine: The physics engine: "c", "mjx", or "auto" (by the platform).
        observe_task: Whether the observation contains the speed, for reference learners that know the task.

    Raises:
        ValueError: if ``fastest`` is not positive, ``horizon`` is not a positive whole number, or the engine is
            unknown.
        ImportError: if the engine or Gymnasium is not installed.
    """
    real(above=0)("fastest", fastest)

    def reward(readings: Readings, control: Array, wanted: Array) -> Array:
        return -jnp.abs(readings.velocity[0] - wanted) - 0.05 * jnp.sum(control**2)

    def speed(key: Key) -> Array:
        return jax.random.uniform(key, (), jnp.float32, maxval=fastest)

    return make(HALF_CHEETAH, horizon, engine, reward, speed, observe_task=observe_task)


def ant_direction(
    planar: bool = False, horizon: int = 200, engine: EngineName = "auto", observe_task: bool = False
) -> EnvFamily:
    """Make the tasks in which an ant must walk in a given direction (Rakelly et al. 2019; Zintgraf et al. 2020).

    The reward is the velocity along the direction + 1, minus 0.5 times the squared action and 0.0005 times the squared
    impacts. An episode terminates if the height of the torso leaves 0.2 to 1 metres. (VariBAD's code passes +1 and -1
    to sine and cosine as radians, so that its directions are 57 degrees from the axis. Here they are along the axis.)

    Args:
        planar: Whether directions are uniform on the circle. Otherwise there are two directions, forwards and
            backwards, which training, validation and held-out tasks share.
        horizon: The number of control steps of an episode.
        engine: The physics engine: "c", "mjx", or "auto" (by the platform).
        observe_task: Whether the observation contains the direction, for reference learners that know the task.

    Raises:
        ValueError: if ``horizon`` is not a positive whole number, or the engine is unknown.
        ImportError: if the engine or Gymnasium is not installed.
    """

    def reward(readings: Readings, control: Array, direction: Array) -> Array:
        costs = 0.5 * jnp.sum(control**2) + 0.5e-3 * readings.impact
        return jnp.sum(readings.velocity * direction) + 1.0 - costs

    def forth_or_back(key: Key) -> Array:
        return jnp.stack([_forth_or_back(key), jnp.float32(0)])

    return make(ANT, horizon, engine, reward, _all_around if planar else forth_or_back, observe_task=observe_task)


def ant_goal(horizon: int = 200, engine: EngineName = "auto") -> EnvFamily:
    """Make the tasks in which an ant must reach a goal within 3 metres of its start (Rakelly et al. 2019, code).

    The distance of the goal is 3 times the square root of a uniform number, and its direction is uniform. The reward is
    minus the sum of the distances along both axes, minus 0.1 times the squared action and 0.0005 times the squared
    impacts. Episodes never terminate before their horizon.

    Args:
        horizon: The number of control steps of an episode.
        engine: The physics engine: "c", "mjx", or "auto" (by the platform).

    Raises:
        ValueError: if ``horizon`` is not a positive whole number, or the engine is unknown.
        ImportError: if the engine or Gymnasium is not installed.
    """

    def reward(readings: Readings, control: Array, goal: Array) -> Array:
        costs = 0.1 * jnp.sum(control**2) + 0.5e-3 * readings.impact
        return -jnp.sum(jnp.abs(readings.position - goal)) - costs

    def goal(key: Key) -> Array:
        key_angle, key_distance = jax.random.split(key)
        return 3.0 * jnp.sqrt(jax.random.uniform(key_distance, dtype=jnp.float32)) * _all_around(key_angle)

    return make(ANT._replace(healthy=None), horizon, engine, reward, goal)


def humanoid_direction(horizon: int = 200, engine: EngineName = "auto") -> EnvFamily:
    """Make the tasks in which a humanoid must walk in a given direction (Rothfuss et al. 2019; Rakelly et al. 2019).

    Directions are uniform on the circle. The reward is 1.25 times the velocity of the centre of mass along the
    direction + 5, minus 0.1 times the squared action, and minus 5e-7 times the squared impacts but at most 10. (The
    published reward is a quarter of the displacement divided by the seconds of one physics step, which is the same.)
    An episode terminates if the height of the torso leaves 1 to 2 metres.

    Args:
        horizon: The number of control steps of an episode.
        engine: The physics engine: "c", "mjx" (whose method for contacts is not Gymnasium's), or "auto" (by the
            platform).

    Raises:
        ValueError: if ``horizon`` is not a positive whole number, or the engine is unknown.
        ImportError: if the engine or Gymnasium is not installed.
    """

    def reward(readings: Readings, control: Array, direction: Array) -> Array:
        costs = 0.1 * jnp.sum(control**2) + jnp.minimum(5e-7 * readings.impact, 10.0)
        return 1.25 * jnp.sum(readings.velocity * direction) + 5.0 - costs

    return make(HUMANOID, horizon, engine, reward, _all_around)


def hopper_parameters(
    tasks: int = 40, heldout_tasks: int = 10, horizon: int = 200, engine: EngineName = "auto", seed: int = 0
) -> EnvFamily:
    """Make hopper tasks that differ in masses, inertias, damping and friction (Rakelly et al. 2019, code).

    The bodies and the reward are defined as for ``walker_parameters``.

    Args:
        tasks: The number of bodies of training tasks.
        heldout_tasks: The number of bodies of held-out tasks. Validation tasks have as many bodies of their own.
        horizon: The number of control steps of an episode.
        engine: The physics engine: "c", "mjx", or "auto" (by the platform).
        seed: The seed of the bodies.

    Raises:
        ValueError: if ``tasks``, ``heldout_tasks`` or ``horizon`` is not a positive whole number, or the engine is
            unknown.
        ImportError: if the engine or Gymnasium is not installed.
    """
    return _with_parameters(HOPPER, tasks, heldout_tasks, horizon, engine, seed)


def walker_parameters(
    tasks: int = 40, heldout_tasks: int = 10, horizon: int = 200, engine: EngineName = "auto", seed: int = 0
) -> EnvFamily:
    """Make walker tasks that differ in masses, inertias, damping and friction (Rakelly et al. 2019, code).

    Every element of these arrays is multiplied by 1.5 (damping: 1.3) to the power of a uniform number from -3 to 3, and
    the constants that MuJoCo derives from them are computed anew. The reward is the velocity + 1, minus 0.001 times the
    squared action. An episode terminates if the robot falls.

    Args:
        tasks: The number of bodies of training tasks.
        heldout_tasks: The number of bodies of held-out tasks. Validation tasks have as many bodies of their own.
        horizon: The number of control steps of an episode.
        engine: The physics engine: "c", "mjx", or "auto" (by the platform).
        seed: The seed of the bodies.

    Raises:
        ValueError: if ``tasks``, ``heldout_tasks`` or ``horizon`` is not a positive whole number, or the engine is
            unknown.
        ImportError: if the engine or Gymnasium is not installed.
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

    # The bodies of validation tasks are drawn last, so that the bodies of other tasks do not depend on them.
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
    """Return the robot's model with randomised masses, inertias, damping and friction.

    Args:
        robot: the robot.
        random: the generator of the random factors.

    Returns:
        A ``mujoco.MjModel``, whose derived constants are computed anew (``mj_setConst``). Otherwise the inverse
        inertias, with which contacts are solved, would be those of the original body.
    """
    mujoco, model = physics.import_mujoco(), physics.load(robot)
    for field, base in (("body_mass", 1.5), ("body_inertia", 1.5), ("dof_damping", 1.3), ("geom_friction", 1.5)):
        values = getattr(model, field)
        values *= base ** random.uniform(-3, 3, values.shape)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
