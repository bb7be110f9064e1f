"""Videos of a trained learner on a held-out task: what it sees, where that is images, or where it is."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.experimental import io_callback
from PIL import Image, ImageDraw

from metarl_jax import experiments
from metarl_jax.environments.dark_room import DarkRoom
from metarl_jax.environments.locomotion import Locomotion
from metarl_jax.environments.physics import import_mujoco
from metarl_jax.environments.point_robot import PointRobot, Rules
from metarl_jax.runs import train
from metarl_jax.runs.errors import StorageError, UserError
from metarl_jax.runs.files import write_atomically
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.types import Algorithm, Array, Box, EnvFamily, Key, State, Task

SCALE = 8
"""Pixels of the video along each side of a pixel seen."""
SIZE = 240
"""Pixels along each side of a picture from above."""
CAPTION = 16
"""Rows of the video under what is seen, for words."""
MILLISECONDS = 100
"""Of each frame."""
LAST_MILLISECONDS = 10 * MILLISECONDS
"""Of the last one of an episode."""
CAPSULE = 3
"""MuJoCo's number of the shape that most robots' limbs have."""
_RECORD_TAG = 0x5245434F
"""As ``train._HELDOUT_TAG``: no ``split`` of a training key gives this one."""


class Frame(NamedTuple):
    """One moment of a trial."""

    observation: np.ndarray
    """As the environment gave it."""
    pose: np.ndarray
    """Of a robot: its positions ``[nq]``, as MuJoCo has them. Empty of anything else."""
    episode: int
    step: int
    """Of the episode: 0 at its beginning."""
    total: float
    """The episode's rewards so far."""
    last: bool
    """Whether the episode ends here."""


class _Watched:
    """An environment, every step of which is also told to the host."""

    def __init__(self, family: EnvFamily, episodes: int, frames: list[Frame]) -> None:
        self._env = family.env
        self._episodes = episodes
        self._frames = frames

    def _pose(self, state: State) -> Any:
        return self._env.engine.pose(state.physics) if isinstance(self._env, Locomotion) else ()

    def _keep(self, observation: Any, pose: Any, total: float, step: int, last: bool) -> None:
        ended = sum(frame.last for frame in self._frames)
        self._frames.append(Frame(np.asarray(observation), np.asarray(pose), ended, step, total, last))

    def _began(self, observation: Any, pose: Any) -> None:
        if self._frames and self._frames[-1].step == 0:
            # The step that ended an episode has begun another, and now the learner begins one itself.
            del self._frames[-1]
        self._keep(observation, pose, 0.0, 0, False)

    def _stepped(self, final_observation: Any, reward: Any, done: Any, observation: Any, pose: Any) -> None:
        before = self._frames[-1]
        if before.episode == self._episodes:
            return
        # Where an episode ends, the pose is the next one's already.
        now = before.pose if done else pose
        self._keep(final_observation, now, before.total + float(reward), before.step + 1, bool(done))
        if done:
            self._began(observation, pose)

    def reset(self, key: Key, params: Task) -> tuple[Array, State]:
        obs, state = self._env.reset(key, params)
        io_callback(self._began, None, obs, self._pose(state), ordered=True)
        return obs, state

    def step(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        seen = info["final_observation"], reward, terminated | truncated, obs, self._pose(state)
        io_callback(self._stepped, None, *seen, ordered=True)
        return obs, state, reward, terminated, truncated, info

    def action_space(self, params: Task) -> Any:
        return self._env.action_space(params)

    def observation_space(self, params: Task) -> Any:
        return self._env.observation_space(params)


def watched(family: EnvFamily, episodes: int) -> tuple[EnvFamily, list[Frame]]:
    """A family, and a list that one trial of it fills: the frames of as many episodes, each from its start to its end.

    Args:
        family: the family.
        episodes: of the trial.
    """
    frames: list[Frame] = []
    return family._replace(env=_Watched(family, episodes, frames)), frames


def play(algorithm: Algorithm, frames: list[Frame], key: Key, state: State, task: Task) -> list[Frame]:
    """Let one learner meet one task.

    Args:
        algorithm: on a family that is ``watched``.
        frames: what it fills.
        key: random key.
        state: the learner.
        task: the task.

    Returns:
        The trial's frames.
    """
    jax.block_until_ready(jax.jit(algorithm.adapt)(key, state, task))
    jax.effects_barrier()
    # Where the last episode has ended there is the start of one that is no part of the trial.
    return frames[:-1]


Draw: TypeAlias = Callable[[list[Frame]], Image.Image]
"""Of an episode's frames so far, the picture of the last one."""


def _seen(space: Box) -> Draw:
    """The image that is seen."""
    low, high = (np.asarray(bound, np.float32) for bound in (space.low, space.high))

    def draw(frames: list[Frame]) -> Image.Image:
        image = np.round(255 * (frames[-1].observation.astype(np.float32) - low) / (high - low)).astype(np.uint8)
        image = image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).convert("RGB")

    return draw


def _plane(rules: Rules, goal: np.ndarray) -> Draw:
    """From above: the goal, with the circle inside which it pays, if it is such a one, and the way so far."""
    reach = 1.25 * max(1.0, float(np.abs(goal).max()))

    def pixel(place: np.ndarray) -> tuple[float, float]:
        x, y = (np.asarray(place, float) / reach + 1) / 2 * SIZE
        return x, SIZE - y

    def circle(canvas: ImageDraw.ImageDraw, place: np.ndarray, radius: float, colour: str) -> None:
        x, y = pixel(place)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def draw(frames: list[Frame]) -> Image.Image:
        picture = Image.new("RGB", (SIZE, SIZE), "white")
        canvas = ImageDraw.Draw(picture)
        if rules.reward == "near":
            circle(canvas, goal, rules.radius / reach / 2 * SIZE, "palegreen")
        circle(canvas, goal, 4, "green")
        way = [pixel(frame.observation) for frame in frames]
        if len(way) > 1:
            canvas.line(way, fill="royalblue", width=2)
        circle(canvas, frames[-1].observation, 5, "navy")
        return picture

    return draw


def _grid(room: DarkRoom, goals: np.ndarray) -> Draw:
    """From above: the goals, the cells that were visited in this episode, and the walker."""
    size = room.size
    side = SIZE // size

    def draw(frames: list[Frame]) -> Image.Image:
        picture = Image.new("RGB", (side * size, side * size), "white")
        canvas = ImageDraw.Draw(picture)

        def fill(cell: tuple[int, int], colour: str, margin: int) -> None:
            left, top = cell[0] * side + margin, (size - 1 - cell[1]) * side + margin
            right, bottom = left + side - 1 - 2 * margin, top + side - 1 - 2 * margin
            canvas.rectangle((left, top, right, bottom), fill=colour, outline="lightgrey")

        cells = [room.place(frame.observation) for frame in frames]
        for x, y in itertools.product(range(size), repeat=2):
            fill((x, y), "lightsteelblue" if (x, y) in cells else "white", 0)
        for place in goals:
            fill((int(place[0]), int(place[1])), "green", side // 5)
        fill(cells[-1], "navy", side // 3)
        return picture

    return draw


def _robot(env: Locomotion, task: Any) -> Draw:
    """From the side or from above: MuJoCo's shapes as thick lines, on a floor that goes by."""
    mujoco, model = import_mujoco(), env.models[int(task.model)]
    data, above = mujoco.MjData(model), env.robot.from_above
    mujoco.mj_kinematics(model, data)
    limbs = np.flatnonzero(model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE)
    metres = 2.5 * float(np.ptp(data.geom_xpos[limbs], axis=0).max())
    scale = SIZE / metres

    def draw(frames: list[Frame]) -> Image.Image:
        data.qpos[:] = frames[-1].pose
        mujoco.mj_kinematics(model, data)
        middle = np.array(data.xpos[1])
        across = (0, 1) if above else (0, 2)
        # The picture follows the robot; what it looks down on, or along, is the third axis.
        lowest = middle[1] - metres / 2 if above else -0.2 * metres

        def pixel(place: np.ndarray) -> tuple[float, float]:
            x, y = place[list(across)]
            return (x - middle[0] + metres / 2) * scale, SIZE - (y - lowest) * scale

        picture = Image.new("RGB", (SIZE, SIZE), "white")
        canvas = ImageDraw.Draw(picture)
        top = 0.0 if above else pixel(np.zeros(3))[1]
        canvas.rectangle((0, top, SIZE, SIZE), fill="whitesmoke")
        # A mark for every metre, in the plane along both axes.
        first = math.floor(middle[0] - metres / 2)
        for mark in range(first, first + math.ceil(metres) + 2):
            x = pixel(np.array([mark, 0.0, 0.0]))[0]
            canvas.line((x, top, x, SIZE), fill="silver")
        if above:
            first = math.floor(lowest)
            for mark in range(first, first + math.ceil(metres) + 2):
                y = pixel(np.array([0.0, mark, 0.0]))[1]
                canvas.line((0, y, SIZE, y), fill="silver")
        # What is nearer covers what is farther away.
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

    return draw


def scene(family: EnvFamily, task: Task) -> Draw | None:
    """How to draw what happens on a task; None if nobody knows."""
    space = family.observation_space
    match family.env:
        case PointRobot(rules=rules):
            return _plane(rules, np.asarray(task.goal))
        case DarkRoom() as room:
            return _grid(room, np.asarray(task.goals))
        case Locomotion() as env:
            return _robot(env, task)
    return _seen(space) if isinstance(space, Box) and len(space.shape) == 3 else None


def described(env: Any) -> str:
    """What the picture that ``scene`` draws shows."""
    match env:
        case PointRobot():
            return "From above. Green: the goal, paler where it pays; blue: the way so far in this episode."
        case DarkRoom():
            return "From above. Green: where it pays; dark: the agent; blue: the cells visited in this episode."
        case Locomotion():
            return "The picture follows the robot; the marks on the floor are a metre apart."
    return "What the agent sees."


def gif(frames: list[Frame], draw: Draw) -> bytes:
    """The video, with a caption under every frame."""
    pictures = []
    for at, frame in enumerate(frames):
        seen = draw(frames[at - frame.step : at + 1])
        picture = Image.new("RGB", (seen.width, seen.height + CAPTION))
        picture.paste(seen)
        words = f"episode {frame.episode + 1}, step {frame.step}, reward {frame.total:.2f}"
        ImageDraw.Draw(picture).text((4, seen.height + 2), words, fill="white")
        pictures.append(picture)
    buffer = io.BytesIO()
    durations = [LAST_MILLISECONDS if frame.last else MILLISECONDS for frame in frames]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


class Video(NamedTuple):
    """A trial, drawn."""

    iteration: int
    """Of the checkpoint."""
    content: bytes
    """A GIF."""


def can_draw(config: RunConfig) -> bool:
    """Whether ``scene`` knows how to draw the tasks of a run, and its learner plays them."""
    family = experiments.get(config.experiment).family()
    if not isinstance(family, EnvFamily) or train.build(config).inner_problem is not None:
        return False
    space = family.observation_space
    seen = isinstance(space, Box) and len(space.shape) == 3
    return seen or isinstance(family.env, PointRobot | DarkRoom | Locomotion)


def render(folder: RunFolder, seed: int) -> Video:
    """The newest checkpoint's first seed on a held-out task.

    Args:
        folder: the run.
        seed: of the task and of the learner's randomness.

    Raises:
        UserError: if the run's learner plays no trials that can be drawn, or no checkpoint can be used.
    """
    config = folder.config
    experiment = experiments.get(config.experiment)
    family, built = experiment.family(), train.build(config)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), _RECORD_TAG), seed)
    key_task, key_play = jax.random.split(key)
    if not isinstance(family, EnvFamily) or built.inner_problem is not None:
        raise UserError(f"{folder.path} is a run of {config.experiment}, whose learner plays no trials")
    task = family.tasks.sample_heldout(key_task)
    draw = scene(family, task)
    if draw is None:
        raise UserError(
            f"{folder.path} is a run of {config.experiment}: "
            "there are pictures of images seen, points, rooms and robots only"
        )
    family, frames = watched(family, built.stages)
    problem = dataclasses.replace(experiment, family=lambda: family).build(config.settings)
    checkpoint = train.load_states(folder, built)
    state = jax.tree.map(lambda x: x[0], checkpoint.state.algorithm)
    return Video(checkpoint.iteration, gif(play(problem.algorithm, frames, key_play, state, task), draw))


def save(folder: RunFolder, video: Video, seed: int) -> Path:
    """Write ``trial-iterationI-seedS.gif``.

    Raises:
        StorageError: if it cannot be written.
    """
    path = folder.path / f"trial-iteration{video.iteration}-seed{seed}.gif"
    try:
        write_atomically(path, video.content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return path
