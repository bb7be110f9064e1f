"""Meta-World (Yu et al. 2019, arXiv 1910.10897): a Sawyer arm that reaches, pushes, or picks and places.

Scenes are Meta-World's own, taken from where it is installed, and stepped by MuJoCo; observations, rewards (version 2)
and what counts as success are those of its environments, to rounding. A task is where the object starts and where the
goal is; the goal is not seen, as in ML1. Actions are clipped to the action space.

One thing of the official program is kept that it may not have meant: where picking compares the object's distance from
the gripper's pads with that from the pads as they were at the start, both are the pads as they are now.

Needs the extra ``metarl-jax[metaworld]``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import choice, natural_int, positive_int
from metarl_jax.environments import physics
from metarl_jax.environments.base import Environment
from metarl_jax.environments.physics import Engine, Robot
from metarl_jax.types import Array, Box, EnvFamily, Key, State, TaskDistribution, Transition

INSTALL = "pip install 'metarl-jax[metaworld]'"
HAND_START = (0.0, 0.6, 0.2)
"""Metres: where the hand is pulled before an episode begins."""
HAND_LOW, HAND_HIGH = (-0.5, 0.4, 0.05), (0.5, 1.0, 0.5)
"""Between which it can be pulled."""
SEEN_LOW, SEEN_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)
"""Between which it is seen."""
PULL = 1.0 / 100
"""Metres that an action of 1 pulls the hand by."""
FRAME_SKIP = 5
"""Physics steps of a control step, of 2.5 milliseconds."""
SETTLING = 50
"""Control steps that the hand is pulled to its start for."""
FULL = 10.0
"""The most that a step can pay."""
FRAME = 18
"""Numbers that are seen of a moment: hand, opening of the gripper, and of two objects position and orientation."""


class Scene(NamedTuple):
    """What is measured of a moment, in metres."""

    hand: Array
    """``[3]``."""
    claws: Array
    """``[2, 3]``."""
    object: Array
    """``[3]``."""
    pads: Array
    """``[2, 3]``: left and right."""
    fingers: Array
    """``[2, 3]``: the tips."""
    rotation: Array
    """``[3, 3]``: of the object."""

    @property
    def tip(self) -> Array:
        """``[3]``: between the tips of the fingers."""
        return (self.fingers[0] + self.fingers[1]) / 2

    @property
    def opening(self) -> Array:
        """Of the gripper: 1 if its claws are 0.1 apart or more."""
        return jnp.clip(jnp.linalg.norm(self.claws[0] - self.claws[1]) / 0.1, 0.0, 1.0)


class Start(NamedTuple):
    """What rewards compare with."""

    object: Array
    """``[3]``."""
    tip: Array
    """``[3]``."""
    goal: Array
    """``[3]``."""


class Skill(NamedTuple):
    """What is to be done."""

    name: str
    file: str
    """Of Meta-World's assets."""
    goal_low: tuple[float, float, float]
    goal_high: tuple[float, float, float]
    on_table: bool
    """Whether object and goal are at the height that an object lies at."""
    reward: Callable[[Scene, Array, Start], Array]
    """``(scene, grip, start) -> scalar``, where ``grip`` is how much the gripper is told to close, 0 to 1."""
    reached: Callable[[Array, Transition], Array]
    """``(goal, one step) ->`` whether the step is a success."""


OBJECT_LOW, OBJECT_HIGH = (-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)
"""Metres: where objects start."""
APART = 0.15
"""Metres on the table: the least distance of a goal from the object's start."""

# ---------------------------------------------------------------------------------------------------------------
# Rewards, version 2.


def _near(x: Array, low: float, high: float, margin: Array) -> Array:
    """1 from ``low`` to ``high``; outside, 0.1 at a distance of ``margin``, with a long tail."""
    beyond = jnp.where(x < low, low - x, x - high)
    inside = jnp.logical_and(low <= x, x <= high)
    tail = 1 / ((3 * beyond / jnp.where(margin == 0, 1.0, margin)) ** 2 + 1)
    return jnp.where(inside, 1.0, jnp.where(margin == 0, 0.0, tail))


def _both(a: Array, b: Array) -> Array:
    """Hamacher's product of two numbers from 0 to 1."""
    union = a + b - a * b
    return jnp.where(union > 0, a * b / jnp.where(union > 0, union, 1.0), 0.0)


def _distance(a: Array, b: Array) -> Array:
    return jnp.linalg.norm(a - b)


def _grasp(sides: Array, scene: Scene, grip: Array, start: Start) -> Array:
    """How well the object is held: ``sides [2]`` says how well it is between the pads."""
    across = jnp.array([0, 2])
    margin = _distance(start.object[across], start.tip[across]) - 0.005
    caged = _both(_both(*sides), _near(_distance(scene.tip[across], scene.object[across]), 0.0, 0.005, margin))
    held = _both(caged, jnp.where(caged > 0.97, grip, 0.0))
    return (held + caged) / 2


def _reach_reward(scene: Scene, grip: Array, start: Start) -> Array:
    del grip
    margin = _distance(jnp.asarray(HAND_START), start.goal)
    return FULL * _near(_distance(scene.tip, start.goal), 0.0, 0.05, margin)


def _push_reward(scene: Scene, grip: Array, start: Start) -> Array:
    left = _distance(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.05, _distance(start.object, start.goal))
    pads = scene.pads[:, 1]
    margins = jnp.abs(jnp.abs(pads - start.object[1]) - 0.05)
    reward = 2 * _grasp(_near(jnp.abs(pads - scene.object[1]), 0.015, 0.05, margins), scene, grip, start)
    close = jnp.logical_and(_distance(scene.object, scene.tip) < 0.02, scene.opening > 0)
    reward = jnp.where(close, 2 * reward + 1 + 5 * in_place, reward)
    return jnp.where(left < 0.05, FULL, reward)


def _pick_place_reward(scene: Scene, grip: Array, start: Start) -> Array:
    left = _distance(scene.object, start.goal)
    in_place = _near(left, 0.0, 0.05, _distance(start.object, start.goal))
    beside = (scene.pads[:, 1] - scene.object[1]) * jnp.array([1, -1])
    sides = _near(beside, 0.015, 0.05, jnp.abs(jnp.abs(beside) - 0.05))
    reward = _both(_grasp(sides, scene, grip, start), in_place)
    close = jnp.logical_and(_distance(scene.object, scene.tip) < 0.02, scene.opening > 0)
    lifted = scene.object[2] - 0.01 > start.object[2]
    reward = jnp.where(jnp.logical_and(close, lifted), reward + 1 + 5 * in_place, reward)
    return jnp.where(left < 0.05, FULL, reward)


def _paid_in_full(goal: Array, step: Transition) -> Array:
    # Which is what reaching pays within the radius of success, and nowhere else; the tip is not seen.
    del goal
    return step.reward >= FULL


def _object_within(radius: float) -> Callable[[Array, Transition], Array]:
    return lambda goal, step: _distance(step.final_obs[4:7], goal) <= radius


IN_THE_AIR = ((-0.1, 0.8, 0.05), (0.1, 0.9, 0.3))
REACH = Skill("reach", "sawyer_xyz/sawyer_reach_v3.xml", *IN_THE_AIR, False, _reach_reward, _paid_in_full)
PUSH = Skill(
    "push",
    "sawyer_xyz/sawyer_push_v3.xml",
    (-0.1, 0.8, 0.01),
    (0.1, 0.9, 0.02),
    True,
    _push_reward,
    _object_within(0.05),
)
PICK_PLACE = Skill(
    "pick-place", "sawyer_xyz/sawyer_pick_place_v3.xml", *IN_THE_AIR, False, _pick_place_reward, _object_within(0.07)
)
SKILLS = {skill.name: skill for skill in (REACH, PUSH, PICK_PLACE)}

# ---------------------------------------------------------------------------------------------------------------
# The environment.


def model_path(skill: Skill) -> Path:
    """Where Meta-World keeps the scene.

    Raises:
        ImportError: without Meta-World.
    """
    found = importlib.util.find_spec("metaworld")
    if found is None or found.origin is None:
        raise ImportError(f"scenes are Meta-World's, which is not installed: {INSTALL}")
    return Path(found.origin).parent / "assets" / skill.file


def load(skill: Skill) -> Any:
    """The scene, an ``mujoco.MjModel``, whose hand is held to where it is pulled as Meta-World holds it.

    Raises:
        ImportError: without MuJoCo or Meta-World.
    """
    model = physics.load_file(model_path(skill))
    # Of the one weld: no displacement, a rotation of none, and how stiff rotation is against translation.
    model.eq_data[0, :11] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]
    return model


def untouchable(model: Any) -> Any:
    """The scene without contacts, for MJX, which knows no collisions of cylinders with boxes.

    The object stays where it is put, the fingers go through everything; an arm that reaches is where it would be.
    """
    model.geom_contype[:] = model.geom_conaffinity[:] = 0
    model.dof_damping[-6:] = 1e6
    # MJX solves elliptic cones only where there is some contact to solve.
    model.opt.cone = 0
    return model


def _body(skill: Skill, model: Any) -> Robot:
    """How the scene is looked at and driven."""
    bodies = np.array([model.body(n).id for n in ("hand", "rightclaw", "leftclaw", "obj", "leftpad", "rightpad")])
    tips = np.array([model.site(name).id for name in ("rightEndEffector", "leftEndEffector")])
    geom = model.geom("objGeom").id

    def observe(xp: Any, model: Any, data: Any) -> Any:
        del model
        parts = data.xpos[bodies], data.site_xpos[tips], data.geom_xmat[geom]
        return xp.concatenate([part.reshape(-1) for part in parts])

    def drive(xp: Any, data: Any, control: Any) -> tuple[Any, Any]:
        pulled = xp.clip(data.mocap_pos + control[:3] * PULL, xp.asarray(HAND_LOW), xp.asarray(HAND_HIGH))
        return pulled, xp.stack([control[3], -control[3]])

    def settle(mujoco: Any, model: Any, data: Any) -> None:
        data.mocap_pos[:], data.mocap_quat[:], data.ctrl[:] = HAND_START, (1, 0, 1, 0), (-1, 1)
        for _ in range(SETTLING):
            mujoco.mj_step(model, data, nstep=FRAME_SKIP)

    return Robot(
        name=skill.name,
        file=skill.file,
        frame_skip=FRAME_SKIP,
        position=lambda xp, model, data: data.xpos[bodies[0], :2],
        observe=observe,
        healthy=None,
        noise=0.0,
        normal_velocity=False,
        drive=drive,
        settle=settle,
        read_afresh=True,
    )


def _scene(numbers: Array) -> Scene:
    """What ``_body`` observes, by name."""
    places = numbers[:24].reshape(8, 3)
    return Scene(places[0], places[1:3], places[3], places[4:6], places[6:8], numbers[24:].reshape(3, 3))


def _quaternion(rotation: Array) -> Array:
    """Of a rotation ``[3, 3]``: ``(x, y, z, w)``, of which the part that is largest is positive."""
    diagonal = jnp.diagonal(rotation)
    trace = jnp.sum(diagonal)
    # Four times the outer product of the quaternion with itself: every row is it, at another scale.
    skew = rotation - rotation.T
    vector = jnp.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    upper = rotation + rotation.T + (1 - trace) * jnp.eye(3)
    rows = jnp.concatenate([jnp.column_stack([upper, vector]), jnp.append(vector, 1 + trace)[None]])
    largest = rows[jnp.argmax(jnp.append(diagonal, trace))]
    return largest / jnp.linalg.norm(largest)


def _frame(scene: Scene) -> Array:
    """What is seen of a moment, ``[18]``; the second object is not there."""
    hand = jnp.clip(scene.hand, jnp.asarray(SEEN_LOW), jnp.asarray(SEEN_HIGH))
    seen = jnp.concatenate([hand, scene.opening[None], scene.object, _quaternion(scene.rotation)])
    return jnp.pad(seen, (0, FRAME - seen.size))


@struct.dataclass
class ManipulationParams:
    """A task, in metres."""

    object: Array
    """``[3]``: where the object starts."""
    goal: Array
    """``[3]``."""
    max_steps_in_episode: int


@struct.dataclass
class ManipulationState:
    physics: Any
    """The engine's own."""
    frame: Array
    """``[18]``: what was seen last."""
    time: Array
    """Control steps in this episode, ``int32``."""


class Manipulation(Environment):
    """One skill; an episode ends with its time and not before.

    An observation has 39 numbers: what is seen now, what was seen a step before, and three zeros instead of the goal.

    Args:
        skill: what is to be done.
        engine: which engine.
    """

    def __init__(self, skill: Skill, engine: Literal["c", "mjx"]) -> None:
        choice("c", "mjx")("engine", engine)
        if engine == "mjx" and skill is not REACH:
            raise ValueError(
                f"engine 'mjx' has no collisions of cylinders with boxes, which {skill.name} needs: use 'c'"
            )
        self.skill, self.model = skill, load(skill)
        body = _body(skill, self.model)
        stepped = self.model if engine == "c" else untouchable(load(skill))
        self.engine: Engine = physics.make(body, [stepped], engine)
        data = physics.settled(body, self.model)
        begun = _scene(np.asarray(body.observe(np, self.model, data)))  # pyright: ignore[reportArgumentType]
        self._tip, self.lies = jnp.asarray(begun.tip), float(begun.object[2])
        # The object is a body that is free: the last 7 positions and 6 velocities.
        self._qpos, self._qvel = jnp.array(data.qpos), jnp.array(data.qvel).at[-6:].set(0.0)
        frame = [*SEEN_LOW, 0.0, *[-np.inf] * 14], [*SEEN_HIGH, 1.0, *[np.inf] * 14]
        low, high = (jnp.asarray([*part, *part, 0.0, 0.0, 0.0], jnp.float32) for part in frame)
        self._observations = Box(low, high, (2 * FRAME + 3,))

    def _start(self, params: ManipulationParams) -> tuple[Array, Array]:
        """Positions and velocities of a new episode."""
        return self._qpos.at[-7:-4].set(params.object), self._qvel

    @staticmethod
    def _seen(frame: Array, before: Array) -> Array:
        return jnp.concatenate([frame, before, jnp.zeros(3, frame.dtype)])

    def reset_env(self, key: Key, params: ManipulationParams) -> tuple[Array, ManipulationState]:
        del key
        state, readings = self.engine.reset(jnp.int32(0), *self._start(params))
        frame = _frame(_scene(readings.observation))
        return self._seen(frame, frame), ManipulationState(state, frame, jnp.int32(0))

    def _judge(self, scene: Scene, action: Array, params: ManipulationParams) -> Array:
        return self.skill.reward(scene, jnp.maximum(action[3], 0), Start(params.object, self._tip, params.goal))

    def step_env(
        self, key: Key, state: ManipulationState, action: Array, params: ManipulationParams
    ) -> tuple[Array, ManipulationState, Array, Array, dict[Any, Any]]:
        del key
        action = jnp.clip(action, -1.0, 1.0)
        after, readings = self.engine.step(jnp.int32(0), state.physics, action)
        scene = _scene(readings.observation)
        frame, reward = _frame(scene), self._judge(scene, action, params)
        next_state = ManipulationState(after, frame, state.time + 1)
        return self._seen(frame, state.frame), next_state, reward, jnp.bool_(False), {}

    def step(
        self, key: Key, state: State, action: Array, params: ManipulationParams
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        """As the base class's, but what has not ended is not reset, which takes an engine's time."""
        del key
        action, time, terminated = jnp.clip(action, -1.0, 1.0), state.time + 1, jnp.bool_(False)
        over = time >= params.max_steps_in_episode
        after, readings, following = self.engine.step_or_reset(
            jnp.int32(0), state.physics, action, over, *self._start(params)
        )
        scene = _scene(readings.observation)
        last, reward = self._seen(_frame(scene), state.frame), self._judge(scene, action, params)
        frame = _frame(_scene(following))
        obs = self._seen(frame, jnp.where(over, frame, state.frame))
        info = {"terminated": terminated, "truncated": over, "final_observation": last}
        return obs, ManipulationState(after, frame, jnp.where(over, 0, time)), reward, terminated, over, info

    def action_space(self, params: ManipulationParams | None = None) -> Box:
        del params
        return Box(-1.0, 1.0, (4,))

    def observation_space(self, params: ManipulationParams | None = None) -> Box:
        del params
        return self._observations


# ---------------------------------------------------------------------------------------------------------------
# The tasks.


def drawn(skill: Skill, number: int, seed: int) -> np.ndarray:
    """Tasks as ``metaworld.ML1`` draws them with that seed.

    Args:
        skill: whose goals.
        number: of tasks.
        seed: of NumPy's generator of old.

    Returns:
        ``[number, 6]``, metres: the object's start, and the goal.
    """
    random = np.random.RandomState(seed)
    low, high = (*OBJECT_LOW, *skill.goal_low), (*OBJECT_HIGH, *skill.goal_high)

    def draw() -> np.ndarray:
        while True:
            places = random.uniform(low, high, 6)
            if np.linalg.norm(places[:2] - places[3:5]) >= APART:
                return places

    # Its environments begin twice whenever they begin, and draw both times.
    return np.array([[draw(), draw()][1] for _ in range(number)])


def ml1(
    skill: Literal["reach", "push", "pick-place"],
    horizon: int = 500,
    tasks: int = 50,
    heldout_tasks: int = 50,
    engine: Literal["c", "mjx"] = "c",
    seed: int = 0,
) -> EnvFamily:
    """Meta-World's ML1: one skill, with goals that are not seen.

    * "reach": bring the fingertips within 5 centimetres of a goal in the air;
    * "push": bring a puck within 5 centimetres of a goal on the table;
    * "pick-place": bring a puck within 7 centimetres of a goal in the air.

    Args:
        skill: which.
        horizon: control steps of an episode: 500 (Meta-World), or 150 (Yu et al. 2019).
        tasks: training tasks, ``metaworld.ML1``'s with that seed.
        heldout_tasks: held-out tasks, its test tasks with that seed, which are others.
        engine: "c", or, to reach, "mjx", without contacts (``untouchable``).
        seed: of the tasks.

    Raises:
        ValueError: for an unknown skill or engine, an engine that cannot do it, or a number that is no positive whole
            number (of the seed: or 0).
        ImportError: without the engine or Meta-World.
    """
    choice(*SKILLS)("skill", skill)
    what, steps = SKILLS[skill], positive_int("horizon", horizon)
    positive_int("tasks", tasks)
    positive_int("heldout_tasks", heldout_tasks)
    natural_int("seed", seed)
    env = Manipulation(what, engine)

    def sampler(number: int, seed: int) -> Callable[[Key], ManipulationParams]:
        places = drawn(what, number, seed).reshape(number, 2, 3)
        if what.on_table:
            places[:, :, 2] = env.lies
        table = jnp.asarray(places)

        def sample(key: Key) -> ManipulationParams:
            start, goal = table[jax.random.randint(key, (), 0, number)]
            return ManipulationParams(start, goal, steps)

        return sample

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sampler(tasks, seed), sampler(heldout_tasks, seed + 1)),
        horizon=steps,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        success=lambda task, step: what.reached(task.goal, step),
    )
