"""Pictures of one moment of a trial: what is seen, or where it happens, or what is measured and done."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from metarl_jax.environments.bandits import Bandit
from metarl_jax.environments.dark_room import DarkRoom
from metarl_jax.environments.locomotion import Locomotion
from metarl_jax.environments.physics import import_mujoco
from metarl_jax.environments.point_robot import PointRobot, Rules
from metarl_jax.types import Box, Discrete, EnvFamily, Space, Task

SCALE = 8
"""Pixels of the video along each side of a pixel seen."""
SIZE = 240
"""Pixels along each side of a picture from above."""
CAPSULE = 3
"""MuJoCo's number of the shape that most robots' limbs have."""


class Frame(NamedTuple):
    """One moment of a trial."""

    observation: np.ndarray
    """As the environment gave it."""
    pose: np.ndarray
    """Of a robot: its positions ``[nq]``, as MuJoCo has them. Empty of anything else."""
    action: np.ndarray | None
    """What led here; None at an episode's beginning."""
    episode: int
    step: int
    """Of the episode: 0 at its beginning."""
    total: float
    """The episode's rewards so far."""
    last: bool
    """Whether the episode ends here."""


Draw: TypeAlias = Callable[[list[Frame]], Image.Image]
"""Of a trial's frames so far, the picture of the last one."""


def _of_episode(frames: list[Frame]) -> list[Frame]:
    """Those of the last frame's episode."""
    return frames[len(frames) - 1 - frames[-1].step :]


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
        way = [pixel(frame.observation) for frame in _of_episode(frames)]
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

        cells = [room.place(frame.observation) for frame in _of_episode(frames)]
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


def _arms(means: np.ndarray) -> Draw:
    """A column for each arm: what it pays on average, how often it was pulled, and which one was last."""
    width = SIZE / len(means)
    low, high = min(0.0, float(means.min())), max(1.0, float(means.max()))
    middle, most = 2 * SIZE // 3, SIZE // 3

    def draw(frames: list[Frame]) -> Image.Image:
        picture = Image.new("RGB", (SIZE, SIZE), "white")
        canvas = ImageDraw.Draw(picture)
        pulled = [int(frame.action) for frame in frames if frame.action is not None]
        for arm, mean in enumerate(means):
            left, right = arm * width + width / 8, (arm + 1) * width - width / 8
            height = (float(mean) - low) / (high - low) * (middle - 4)
            canvas.rectangle((left, middle - height, right, middle), fill="palegreen")
            if pulled:
                share = pulled.count(arm) / len(pulled) * (most - 8)
                canvas.rectangle((left, middle + 4, right, middle + 4 + share), fill="royalblue")
        if pulled:
            arm = pulled[-1]
            left, right = arm * width + 1, (arm + 1) * width - 2
            canvas.rectangle((left, 0, right, SIZE - 1), outline="navy", width=2)
        return picture

    return draw


def _cart(furthest: float) -> Draw:
    """From the side: the cart and its pole on a rail; the arrow is the action, whichever way that pushes."""
    scale = SIZE / (2.2 * furthest)
    rail = 0.7 * SIZE

    def draw(frames: list[Frame]) -> Image.Image:
        picture = Image.new("RGB", (SIZE, SIZE), "white")
        canvas = ImageDraw.Draw(picture)
        position, _, angle, _ = map(float, frames[-1].observation)
        x = SIZE / 2 + position * scale
        canvas.line((0, rail, SIZE, rail), fill="silver")
        for end in (-furthest, furthest):
            canvas.line((SIZE / 2 + end * scale, rail - 8, SIZE / 2 + end * scale, rail + 8), fill="silver", width=2)
        length = SIZE / 3
        canvas.line((x, rail - 8, x + length * math.sin(angle), rail - 8 - length * math.cos(angle)), "royalblue", 5)
        canvas.rectangle((x - 20, rail - 16, x + 20, rail), fill="navy")
        if frames[-1].action is not None:
            way = 1 if int(frames[-1].action) else -1
            canvas.line((x, rail + 16, x + 30 * way, rail + 16), fill="green", width=3)
            canvas.ellipse((x + 30 * way - 4, rail + 12, x + 30 * way + 4, rail + 20), fill="green")
        return picture

    return draw


def _numbers(observation: Space, action: Space) -> Draw:
    """What nobody drew a picture for: what is seen, what was done, and what each episode has paid so far."""
    height = SIZE // 3

    def row(canvas: ImageDraw.ImageDraw, top: float, values: np.ndarray, most: float, colour: str) -> None:
        """Columns up and down from a middle line, the largest of them ``most``."""
        middle, width = top + height / 2, SIZE / max(1, len(values))
        canvas.line((0, middle, SIZE, middle), fill="silver")
        for at, value in enumerate(values):
            ends = sorted((middle, middle - float(np.clip(value / most, -1, 1)) * (height / 2 - 4)))
            canvas.rectangle((at * width + 1, ends[0], max(at * width + 1, (at + 1) * width - 2), ends[1]), colour)

    def shown(space: Space, value: np.ndarray) -> np.ndarray:
        return np.eye(space.n)[int(value)] if isinstance(space, Discrete) else np.ravel(value).astype(float)

    def draw(frames: list[Frame]) -> Image.Image:
        picture = Image.new("RGB", (SIZE, SIZE), "white")
        canvas = ImageDraw.Draw(picture)
        seen = np.array([shown(observation, frame.observation) for frame in frames])
        row(canvas, 0, seen[-1], max(1.0, float(np.abs(seen).max(initial=0.0))), "royalblue")
        if (done := frames[-1].action) is not None:
            row(canvas, height, shown(action, done), 1.0, "navy")
        paid = {frame.episode: frame.total for frame in frames}
        row(canvas, 2 * height, np.array(list(paid.values())), max(1e-9, *map(abs, paid.values()), 0.0), "green")
        return picture

    return draw


def scene(family: EnvFamily, task: Task) -> Draw:
    """How to draw what happens on a task."""
    space = family.observation_space
    match family.env:
        case PointRobot(rules=rules):
            return _plane(rules, np.asarray(task.goal))
        case DarkRoom() as room:
            return _grid(room, np.asarray(task.goals))
        case Locomotion() as env:
            return _robot(env, task)
        case Bandit():
            return _arms(np.asarray(task.means))
        case _ if _is_cartpole(family.env):
            return _cart(float(task.x_threshold))
    if isinstance(space, Box) and len(space.shape) == 3:
        return _seen(space)
    return _numbers(space, family.action_space)


def _is_cartpole(env: Any) -> bool:
    """Asked of its name, for gymnax takes seconds to import."""
    return env.name == "CartPole-v1"


def described(family: EnvFamily) -> str:
    """What the picture that ``scene`` draws shows."""
    space = family.observation_space
    match family.env:
        case PointRobot():
            return "From above. Green: the goal, paler where it pays; blue: the way so far in this episode."
        case DarkRoom():
            return "From above. Green: where it pays; dark: the agent; blue: the cells visited in this episode."
        case Locomotion():
            return "The picture follows the robot; the marks on the floor are a metre apart."
        case Bandit():
            return "Green: what each arm pays on average; blue: its share of the pulls so far; framed: the last pull."
        case _ if _is_cartpole(family.env):
            return "From the side. Green: the action, whichever way it pushes on this task."
    if isinstance(space, Box) and len(space.shape) == 3:
        return "What the agent sees."
    return "From top to bottom: what the agent sees, what it did, and what each episode has paid so far."
