"""Meta-World (Yu et al. 2019, arXiv 1910.10897): a Sawyer arm that learns one skill (ML1) or one of many (ML10).

The scenes are the files of the installed Meta-World, and MuJoCo computes the physics. Observations, rewards (version 2)
and successes equal those of Meta-World's environments up to rounding (``manipulation_skills``). A task is a skill with
the initial places of objects and a goal. The observation does not contain the goal or the skill. The learner can infer
the skill only from the object. Actions are clipped to the action space.

Two things belong to every success rate: the horizon and the rule by which episodes are counted. Episodes have 500 steps
in Meta-World, and 150 in Yu et al. (2019); an episode is a success if any of its steps is. Meta-World's own rule counts
the episodes that finish first, which overstates rare success. ``manipulation_evaluation`` computes the success rate by
this rule and that of each goal.

This module needs the extra ``metarl-jax[metaworld]``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import choice, install_command, natural_int, positive_int
from metarl_jax.environments import physics
from metarl_jax.environments.base import Environment
from metarl_jax.environments.manipulation_skills import FULL, ML10_TEST, ML10_TRAIN, REACH, SKILLS, Scene, Skill, Start
from metarl_jax.environments.physics import Engine, Robot
from metarl_jax.types import Array, Box, EnvFamily, Key, Privileged, State, TaskDistribution, Transition

REACHABLE_LOW, REACHABLE_HIGH = (-0.5, 0.4), (0.5, 1.0, 0.5)
"""Bounds of the position to which the hand can be pulled, in metres; ``Skill.lowest`` is the lower bound of z."""
SEEN_LOW, SEEN_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)
"""Bounds of the observed position of the hand, in metres."""
PULL = 1.0 / 100
"""The distance by which an action of 1 pulls the hand, in metres."""
FRAME_SKIP = 5
"""The number of physics steps of a control step. A physics step is 2.5 milliseconds."""
SETTLING = 50
"""The number of control steps for which the hand is pulled to its start before an episode."""
ARM = 9
"""The number of MuJoCo's positions that belong to the arm; those of objects follow them."""
FRAME = 18
"""The size of the observation of one moment: hand, opening of the gripper, and position and orientation of two
objects."""
SkillName: TypeAlias = Literal[
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "sweep",
    "basketball",
    "drawer-open",
    "door-close",
    "shelf-place",
    "sweep-into",
    "lever-pull",
]

# ---------------------------------------------------------------------------------------------------------------
# Scenes.


def model_path(skill: Skill) -> Path:
    """Return the path of the skill's scene in the installed Meta-World.

    Raises:
        ImportError: if Meta-World is not installed.
    """
    found = importlib.util.find_spec("metaworld")
    if found is None or found.origin is None:
        raise ImportError(f"scenes are Meta-World's, which is not installed: {install_command('metaworld')}")
    return Path(found.origin).parent / "assets" / skill.file


def load(skill: Skill) -> Any:
    """Return the skill's scene, a ``mujoco.MjModel``, with the weld that Meta-World sets between hand and mocap body.

    Raises:
        ImportError: if MuJoCo or Meta-World is not installed.
    """
    model = physics.load_file(model_path(skill))
    # The data of the only weld: no displacement, no rotation, and the stiffness of rotation relative to translation.
    model.eq_data[0, :11] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]
    return model


def untouchable(model: Any) -> Any:
    """Remove all contacts from the scene, for MJX, which does not support collisions of cylinders with boxes.

    The object then stays at its initial place, and the fingers pass through everything. The motion of an arm that
    touches nothing is the same as with contacts.
    """
    model.geom_contype[:] = model.geom_conaffinity[:] = 0
    model.dof_damping[-6:] = 1e6
    # MJX supports elliptic cones only if the model has contacts.
    model.opt.cone = 0
    return model


def _body(skill: Skill, model: Any) -> Robot:
    """Return a ``Robot`` with the scene's observations, control, and start of episodes."""
    bodies = np.array([model.body(n).id for n in ("hand", "rightclaw", "leftclaw", "leftpad", "rightpad")])
    tips = np.array([model.site(name).id for name in ("rightEndEffector", "leftEndEffector")])
    low, high, both = np.array([*REACHABLE_LOW, skill.lowest]), np.array(REACHABLE_HIGH), np.array([1.0, -1.0])

    def of(thing: tuple[str, str], what: str) -> Callable[[Any], Any]:
        """Return a function of MuJoCo's data that returns the field ``what`` of a named thing as a vector."""
        which = getattr(model, thing[0])(thing[1]).id
        return lambda data: getattr(data, what)[which].reshape(-1)

    where = of(skill.seen, {"body": "xpos", "geom": "geom_xpos", "site": "site_xpos"}[skill.seen[0]])
    beside, none = np.array(skill.beside), np.zeros(9)
    looks = [(lambda data: where(data) + beside) if beside.any() else where]
    if skill.turned is None:
        looks += [lambda data: none]
    elif skill.turned[0] == "body":
        looks += [of(skill.turned, "xquat"), lambda data: none[:5]]
    else:
        looks += [of(skill.turned, f"{skill.turned[0]}_xmat")]

    def observe(xp: Any, model: Any, data: Any) -> Any:
        del model
        arm = data.xpos[bodies].reshape(-1), data.site_xpos[tips].reshape(-1)
        return xp.concatenate([*arm, *[look(data) for look in looks], data.qpos[ARM : ARM + 1]])

    def drive(xp: Any, data: Any, control: Any) -> tuple[Any, Any]:
        pulled = xp.minimum(xp.maximum(data.mocap_pos + control[:3] * PULL, low), high)
        return pulled, control[3] * both

    def settle(mujoco: Any, model: Any, data: Any) -> None:
        data.mocap_pos[:], data.mocap_quat[:], data.ctrl[:] = skill.hand, (1, 0, 1, 0), (-1, 1)
        mujoco.mj_step(model, data, nstep=SETTLING * FRAME_SKIP - 1)

    def begin(xp: Any, data: Any, object: Any, place: Any) -> tuple[Any, Any]:
        del place
        qpos, qvel, after = data.qpos, data.qvel, ARM + 3
        if skill.free:
            still = xp.zeros(model.nv - ARM)
            return xp.concatenate([qpos[:ARM], object, qpos[after:]]), xp.concatenate([qvel[:ARM], still])
        if skill.joint is None:
            return qpos, qvel
        return xp.append(qpos[:ARM], skill.joint), xp.append(qvel[:ARM], 0.0)

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
        begin=begin,
        moves=None if skill.moves is None else model.body(skill.moves).id,
        read_afresh=True,
        begun_afresh=skill.begun_afresh,
    )


def _scene(numbers: Array) -> Scene:
    """Return the numbers that ``_body`` observes by name; the hand's position is clipped to its observed bounds."""
    places = numbers[:24].reshape(8, 3)
    hand = jnp.clip(places[0], jnp.asarray(SEEN_LOW), jnp.asarray(SEEN_HIGH))
    rotation = numbers[24:33].reshape(3, 3)
    return Scene(hand, places[1:3], places[3:5], places[5:7], places[7], rotation, numbers[33])


def _quaternion(rotation: Array) -> Array:
    """Return the quaternion ``(x, y, z, w)`` of a rotation ``[3, 3]``; its largest component is positive."""
    diagonal = jnp.diagonal(rotation)
    trace = jnp.sum(diagonal)
    # The rows are four times the outer product of the quaternion with itself: each is a multiple of the quaternion.
    skew = rotation - rotation.T
    vector = jnp.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    upper = rotation + rotation.T + (1 - trace) * jnp.eye(3)
    rows = jnp.concatenate([jnp.column_stack([upper, vector]), jnp.append(vector, 1 + trace)[None]])
    largest = rows[jnp.argmax(jnp.append(diagonal, trace))]
    return largest / jnp.linalg.norm(largest)


def _frame(scene: Scene, as_it_is: Array) -> Array:
    """Return the observation of one moment, ``[18]``; the second object is zeros.

    ``as_it_is`` says whether ``scene.rotation`` holds MuJoCo's quaternion, which is then observed unchanged.
    """
    turned = jnp.where(as_it_is, scene.rotation.reshape(-1)[:4], _quaternion(scene.rotation))
    seen = jnp.concatenate([scene.hand, scene.opening[None], scene.object, turned])
    return jnp.pad(seen, (0, FRAME - seen.size))


# ---------------------------------------------------------------------------------------------------------------
# The environment.


@struct.dataclass
class ManipulationParams:
    """A task: a skill with the initial places of objects and a goal."""

    skill: Array
    """The index of the skill among the environment's ``skills``, ``int32``."""
    object: Array
    """The initial position of the object, in metres, ``[3]``."""
    place: Array
    """The position of the body that the skill's tasks move, in metres, ``[3]``; zeros if there is no such body."""
    goal: Array
    """The position of the goal, in metres, ``[3]``."""
    max_steps_in_episode: int
    """The number of control steps of an episode."""


@struct.dataclass
class ManipulationState:
    """The state of an episode."""

    physics: Any
    """The state of the physics engine."""
    frame: Array
    """The observation of the last moment, ``[18]``."""
    time: Array
    """The number of control steps in this episode, ``int32``."""


class Manipulation(Environment):
    """A Sawyer arm and the scenes of some skills; a task has one skill. Episodes never end before their horizon.

    An observation has 39 numbers: the observation of the current moment, that of the previous step, and three zeros in
    the place of the goal.

    Args:
        skills: the skills, at least one.
        engine: the name of the physics engine.

    Raises:
        ValueError: if the engine is unknown, or does not support a skill.
    """

    def __init__(self, skills: Sequence[Skill], engine: Literal["c", "mjx"]) -> None:
        choice("c", "mjx")("engine", engine)
        other = [skill.name for skill in skills if skill is not REACH]
        if engine == "mjx" and other:
            raise ValueError(
                f"engine 'mjx' has no contacts and only supports the skill reach, not {', '.join(other)}: use 'c'"
            )
        self.skills = tuple(skills)
        models = [load(skill) for skill in skills]
        bodies = [_body(skill, model) for skill, model in zip(skills, models, strict=True)]
        settled = [physics.settled(body, model) for body, model in zip(bodies, models, strict=True)]
        numbers = [body.observe(np, *pair) for body, *pair in zip(bodies, models, settled, strict=True)]
        self.heights = [float(of_one[23]) for of_one in numbers]
        self._settled = jnp.asarray(np.stack(numbers))
        self._as_it_is = jnp.array([skill.turned is None or skill.turned[0] == "body" for skill in skills])
        self.engine: Engine
        if engine == "c":
            self.engine = physics.make(bodies, models, "c")
        else:
            self.engine = physics.make(bodies[0], [untouchable(models[0])], "mjx")
        frame = [*SEEN_LOW, 0.0, *[-np.inf] * 14], [*SEEN_HIGH, 1.0, *[np.inf] * 14]
        low, high = (jnp.asarray([*part, *part, 0.0, 0.0, 0.0], jnp.float32) for part in frame)
        self._observations = Box(low, high, (2 * FRAME + 3,))

    def _frame(self, numbers: Array, params: ManipulationParams) -> Array:
        return _frame(_scene(numbers), self._as_it_is[params.skill])

    @staticmethod
    def _seen(frame: Array, before: Array) -> Array:
        return jnp.concatenate([frame, before, jnp.zeros(3, frame.dtype)])

    def reset_env(self, key: Key, params: ManipulationParams) -> tuple[Array, ManipulationState]:
        del key
        state, readings = self.engine.reset(params.skill, params.object, params.place)
        frame = self._frame(readings.observation, params)
        return self._seen(frame, frame), ManipulationState(state, frame, jnp.int32(0))

    def _judge(self, numbers: Array, action: Array, params: ManipulationParams) -> Array:
        start = Start(params.object, params.goal, _scene(self._settled[params.skill]))
        rewards = [skill.reward for skill in self.skills]
        return jax.lax.switch(params.skill, rewards, _scene(numbers), action[3], start)

    def step_env(
        self, key: Key, state: ManipulationState, action: Array, params: ManipulationParams
    ) -> tuple[Array, ManipulationState, Array, Array, dict[Any, Any]]:
        del key
        action = jnp.clip(action, -1.0, 1.0)
        after, readings = self.engine.step(params.skill, state.physics, action)
        frame, reward = self._frame(readings.observation, params), self._judge(readings.observation, action, params)
        next_state = ManipulationState(after, frame, state.time + 1)
        return self._seen(frame, state.frame), next_state, reward, jnp.bool_(False), {}

    def step(
        self, key: Key, state: State, action: Array, params: ManipulationParams
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        """Take one step, and reset only if the episode ends, because resets take time of the engine."""
        del key
        action, time, terminated = jnp.clip(action, -1.0, 1.0), state.time + 1, jnp.bool_(False)
        over = time >= params.max_steps_in_episode
        after, readings, following = self.engine.step_or_reset(
            params.skill, state.physics, action, over, params.object, params.place
        )
        last = self._seen(self._frame(readings.observation, params), state.frame)
        reward, frame = self._judge(readings.observation, action, params), self._frame(following, params)
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


def drawn(skills: Sequence[Skill], number: int, seed: int) -> list[np.ndarray]:
    """Draw the random numbers of tasks as Meta-World's benchmarks do, with the same seed and number of goals.

    Args:
        skills: the skills, in the benchmark's order.
        number: the number of tasks of each skill.
        seed: the seed of NumPy's ``RandomState``.

    Returns:
        For each skill ``[number, 3 or 6]``, in metres: see ``Skill.low`` and ``Skill.lay``.
    """
    random = np.random.RandomState(seed)

    def draw(skill: Skill) -> np.ndarray:
        while True:
            places = random.uniform(skill.low, skill.high)
            if skill.far(places):
                return places

    # Meta-World's environments reset twice for each task, and draw both times. The second draw counts.
    return [np.array([[draw(skill), draw(skill)][1] for _ in range(number)]) for skill in skills]


@dataclass(frozen=True, eq=False)
class Goals:
    """The tasks of one split. A call ``goals(key)`` draws one of them with equal probability.

    The N tasks are those of the first skill, followed by those of the second one, and so on. Each skill has as many.
    """

    skill: Array
    """``[N]`` int32: the index of each task's skill among the environment's ``skills``."""
    places: Array
    """``[N, 3, 3]``: for each task ``object``, ``place`` and ``goal`` of ``ManipulationParams``, in metres."""
    horizon: int
    """The number of control steps of an episode."""

    def __call__(self, key: Key) -> ManipulationParams:
        row = jax.random.randint(key, (), 0, len(self.places), jnp.int32)
        object, place, goal = self.places[row]
        return ManipulationParams(self.skill[row], object, place, goal, self.horizon)

    @property
    def tasks(self) -> ManipulationParams:
        """Return all tasks; every leaf has a leading axis ``[N]``."""
        steps = jnp.full(len(self.places), self.horizon, jnp.int32)
        objects, places, goals = jnp.moveaxis(self.places, 1, 0)
        return ManipulationParams(self.skill, objects, places, goals, steps)  # pyright: ignore[reportArgumentType]


def _goals(env: Manipulation, skills: Sequence[Skill], number: int, seed: int, steps: int) -> Goals:
    """Return ``number`` tasks of each skill."""
    indices = [env.skills.index(skill) for skill in skills]
    rows = [
        env.skills[index].lay(row, env.heights[index])
        for index, places in zip(indices, drawn(skills, number, seed), strict=True)
        for row in places
    ]
    return Goals(jnp.repeat(jnp.array(indices, jnp.int32), number), jnp.asarray(np.array(rows)), steps)


def _family(env: Manipulation, steps: int, tasks: TaskDistribution) -> EnvFamily:
    def success(task: ManipulationParams, step: Transition) -> Array:
        return jax.lax.switch(task.skill, [skill.reached for skill in env.skills], task.goal, step)

    def training_reward(task: ManipulationParams, t: Transition, discount: float) -> Array:
        """Compute the mean of the reward and of ``FULL`` times success.

        The reward alone is often only a hundredth larger at a success than just outside of its radius.
        """
        del discount
        return (t.reward + FULL * jax.vmap(success, (None, 0))(task, t)) / 2

    return EnvFamily(
        env=env,
        tasks=tasks,
        horizon=steps,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        privileged=Privileged(training_reward=training_reward),
        success=success,
    )


_VALIDATION_SEED = 2
"""The number that is added to a family's seed for its validation tasks. Meta-World draws training tasks with the seed
itself, and the test tasks of ML1 with the next one."""


def _checked(horizon: int, tasks: int, heldout_tasks: int, seed: int) -> int:
    positive_int("tasks", tasks)
    positive_int("heldout_tasks", heldout_tasks)
    natural_int("seed", seed)
    return positive_int("horizon", horizon)


def ml1(
    skill: SkillName,
    horizon: int = 500,
    tasks: int = 50,
    heldout_tasks: int = 50,
    engine: Literal["c", "mjx"] = "c",
    seed: int = 0,
) -> EnvFamily:
    """Make Meta-World's ML1: one skill, with goals that are not observed.

    * "reach": bring the fingertips within 5 centimetres of a goal in the air;
    * "push": bring a puck within 5 centimetres of a goal on the table;
    * "pick-place": bring a puck within 7 centimetres of a goal in the air;
    * or any other skill of ML10.

    Args:
        skill: The name of the skill.
        horizon: The number of control steps of an episode: 500 (Meta-World), or 150 (Yu et al. 2019).
        tasks: The number of training tasks, which are those of ``metaworld.ML1`` with this seed.
        heldout_tasks: The number of held-out tasks, which are the test tasks of ``metaworld.ML1`` with this seed. There
            are as many validation tasks. Their goals are drawn from the same box with another seed, so that they are
            different from training and held-out tasks.
        engine: The physics engine: "c", or, for the skill "reach", "mjx" without contacts (``untouchable``).
        seed: The seed of the tasks.

    Raises:
        ValueError: if the skill or the engine is unknown, the engine does not support the skill, ``horizon``, ``tasks``
            or ``heldout_tasks`` is not a positive whole number, or ``seed`` is not a whole number of at least 0.
        ImportError: if the engine or Meta-World is not installed.
    """
    choice(*SKILLS)("skill", skill)
    steps, skills = _checked(horizon, tasks, heldout_tasks, seed), [SKILLS[skill]]
    env = Manipulation(skills, engine)
    train, test, validation = (
        _goals(env, skills, number, drawn_with, steps)
        for number, drawn_with in ((tasks, seed), (heldout_tasks, seed + 1), (heldout_tasks, seed + _VALIDATION_SEED))
    )
    return _family(env, steps, TaskDistribution(train, test, validation, train.tasks))


def ml10(horizon: int = 500, tasks: int = 50, heldout_tasks: int = 50, seed: int = 0) -> EnvFamily:
    """Make Meta-World's ML10: training tasks have one of ten skills, and held-out tasks have one of five other skills.

    The name of a task's skill is ``family.env.skills[task.skill].name``.

    Args:
        horizon: The number of control steps of an episode: 500 (Meta-World), or 150 (Yu et al. 2019).
        tasks: The number of training tasks of each skill, which are those of ``metaworld.ML10`` with this seed and
            number of goals.
        heldout_tasks: The number of tasks of each held-out skill, which are the test tasks of ``metaworld.ML10`` with
            this seed and number of goals. Validation tasks have the training skills, with as many goals of each skill
            as there are held-out tasks of a skill; training does not draw these goals.
        seed: The seed of the tasks.

    Raises:
        ValueError: if ``horizon``, ``tasks`` or ``heldout_tasks`` is not a positive whole number, or ``seed`` is not a
            whole number of at least 0.
        ImportError: if MuJoCo or Meta-World is not installed.
    """
    steps = _checked(horizon, tasks, heldout_tasks, seed)
    env = Manipulation((*ML10_TRAIN, *ML10_TEST), "c")
    train, test, validation = (
        _goals(env, skills, number, drawn_with, steps)
        for skills, number, drawn_with in (
            (ML10_TRAIN, tasks, seed),
            (ML10_TEST, heldout_tasks, seed),
            (ML10_TRAIN, heldout_tasks, seed + _VALIDATION_SEED),
        )
    )
    return _family(env, steps, TaskDistribution(train, test, validation, train.tasks))
