"""Navigation of a point in the plane to a hidden goal.

Five papers have tasks of this name, which are not comparable: goals, starts, rewards, terminations and horizons differ.
In this module each variant has the name of its paper's algorithm. In all of them the observation is the position. An
action consists of two numbers, which are clipped to [-1, 1], and moves the point by this multiple of ``reach``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import positive_int
from metarl_jax.environments.base import Environment, random_signs
from metarl_jax.environments.drawing import SIZE, Frame, blank, of_episode
from metarl_jax.types import Array, Box, EnvFamily, Key, Privileged, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image


@struct.dataclass
class PointParams:
    """A task: a goal in the plane."""

    goal: Array
    """The position (x, y) of the goal, ``[2]``."""
    max_steps_in_episode: int
    """The largest number of steps of an episode."""


@struct.dataclass
class PointState:
    """The state of an episode."""

    position: Array
    """The position (x, y) of the point, ``[2]``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class Rules(NamedTuple):
    """The rules of one variant, except for the distribution of its goals."""

    reward: Literal["distance", "near", "corner"]
    """The kind of reward. "distance" is minus the distance to the goal after the move. "near" is 1 - distance within
    ``radius`` of the goal, else 0. "corner" is the decrease of the distance to the goal; it is 0 where |x| + |y| is
    less than ``radius``, and where another of the four corners is nearer than the goal."""
    radius: float = 0.0
    """The radius of the rewards "near" and "corner"."""
    reach: float = 0.1
    """The largest displacement of one step along an axis."""
    start: float = 0.0
    """Episodes start uniformly in the square from -start to start."""
    tolerance: float = 0.0
    """The episode terminates if the point is nearer to the goal than this along both axes. With 0 it never does."""


class PointRobot(Environment):
    """A point in the plane, with the rules of one paper.

    Args:
        rules: the reward, the start, the size of steps, and the termination.
    """

    caption = "From above. Dark green: the goal; pale green: the rewarded area; blue: the path in this episode."

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def reset_env(self, key: Key, params: PointParams) -> tuple[Array, PointState]:
        del params
        position = jax.random.uniform(key, (2,), jnp.float32, -self.rules.start, self.rules.start)
        return position, PointState(position, jnp.int32(0))

    def step_env(
        self, key: Key, state: PointState, action: Array, params: PointParams
    ) -> tuple[Array, PointState, Array, Array, dict[Any, Any]]:
        del key
        rules = self.rules
        position = state.position + rules.reach * jnp.clip(action, -1.0, 1.0)
        distance = jnp.linalg.norm(position - params.goal)
        match rules.reward:
            case "distance":
                reward = -distance
            case "near":
                reward = jnp.where(distance <= rules.radius, 1 - distance, 0.0)
            case "corner":
                # Corners are symmetric: the nearest one is that of the position's quadrant.
                nearest = jnp.all(position * params.goal >= 0)
                paid = jnp.logical_and(jnp.sum(jnp.abs(position)) >= rules.radius, nearest)
                reward = jnp.where(paid, jnp.linalg.norm(state.position - params.goal) - distance, 0.0)
        arrived = jnp.all(jnp.abs(position - params.goal) < rules.tolerance)
        return position, PointState(position, state.time + 1), reward, arrived, {}

    def action_space(self, params: PointParams | None = None) -> Box:
        del params
        return Box(-1.0, 1.0, (2,))

    def observation_space(self, params: PointParams | None = None) -> Box:
        del params
        return Box(-jnp.inf, jnp.inf, (2,))

    def draw(self, frames: Sequence[Frame], task: PointParams) -> Image:
        """Draw the plane from above (``drawing.Drawable``): the goal, the rewarded circle, and the path so far."""
        goal = np.asarray(task.goal)
        reach = 1.25 * max(1.0, float(np.abs(goal).max()))
        picture, canvas = blank()

        def pixel(place: np.ndarray) -> tuple[float, float]:
            x, y = (np.asarray(place, float) / reach + 1) / 2 * SIZE
            return x, SIZE - y

        def circle(place: np.ndarray, radius: float, colour: str) -> None:
            x, y = pixel(place)
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

        if self.rules.reward == "near":
            circle(goal, self.rules.radius / reach / 2 * SIZE, "palegreen")
        circle(goal, 8, "green")
        path = [pixel(frame.observation) for frame in of_episode(frames)]
        if len(path) > 1:
            canvas.line(path, fill="royalblue", width=4)
        circle(frames[-1].observation, 10, "navy")
        return picture


def _family(
    rules: Rules,
    horizon: int,
    goal: Callable[[Key], Array],
    *,
    heldout_goal: Callable[[Key], Array] | None = None,
    validation_goal: Callable[[Key], Array] | None = None,
    training_goals: Array | None = None,
    privileged: Privileged | None = None,
) -> EnvFamily:
    env = PointRobot(rules)

    def sampler(goal: Callable[[Key], Array]) -> Callable[[Key], PointParams]:
        return lambda key: PointParams(goal(key), horizon)

    def optimal_return(task: PointParams) -> Array:
        """Compute the return of full speed along both axes from the origin.

        No other path is nearer to the goal at any time.
        """
        time = jnp.arange(1, horizon + 1, dtype=jnp.float32)[:, None]
        left = jnp.maximum(jnp.abs(task.goal) - rules.reach * time, 0.0)
        distance = jnp.linalg.norm(left, axis=-1)
        if rules.reward == "distance":
            return -jnp.sum(distance)
        return jnp.sum(jnp.where(distance <= rules.radius, 1 - distance, 0.0))

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(
            sampler(goal),
            sampler(goal if heldout_goal is None else heldout_goal),
            None if validation_goal is None else sampler(validation_goal),
            None
            if training_goals is None
            else PointParams(training_goals, jnp.full(len(training_goals), horizon, jnp.int32)),  # pyright: ignore
        ),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=None if rules.start else optimal_return,
        privileged=privileged,
        # Only the neighbourhood of the goal has a reward.
        success=(lambda task, step: step.reward > 0) if rules.reward == "near" else None,
    )


def _in_square(size: float) -> Callable[[Key], Array]:
    return lambda key: jax.random.uniform(key, (2,), jnp.float32, -size, size)


def _on_circle(angle: Array) -> Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _on_half_circle(key: Key) -> Array:
    return _on_circle(jax.random.uniform(key, (), jnp.float32, maxval=math.pi))


def maml() -> EnvFamily:
    """Make the navigation tasks of Finn et al. (2017, section 5.3.1), as in their code.

    Goals are uniform in the square from -0.5 to 0.5. Episodes start at the origin, and terminate within 0.01 of the
    goal along both axes or after 100 steps. The reward is minus the distance to the goal.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.point_robot.maml()
        >>> family.action_space.shape, family.horizon
        ((2,), 100)
    """
    return _family(Rules("distance", tolerance=0.01), 100, _in_square(0.5))


def promp() -> EnvFamily:
    """Make the four corners of Rothfuss et al. (2019, section 6.2), as in their code, which require exploration.

    There are only four tasks, with goals (+-2, +-2): training, validation and held-out tasks are the same. Episodes
    start within 0.2 of the origin along both axes, and have 100 steps, each of at most 0.2 along an axis. The reward is
    the decrease of the distance to the goal; it is 0 for |x| + |y| < 0.5, and in the quadrants of the other corners.
    """

    def corner(key: Key) -> Array:
        return 2.0 * random_signs(key, (2,))

    return _family(Rules("corner", radius=0.5, reach=0.2, start=0.2), 100, corner)


def pearl_dense() -> EnvFamily:
    """Make the dense tasks of the code of Rakelly et al. (2019).

    Goals and starts are uniform in the square from -1 to 1. The reward is minus the distance to the goal. Episodes have
    20 steps.
    """
    return _family(Rules("distance", start=1.0), 20, _in_square(1.0))


def pearl_sparse() -> EnvFamily:
    """Make the sparse tasks of Rakelly et al. (2019, section 6.3): 100 goals on the unit half-circle.

    There are 80 goals for training and 20 held-out goals; a fixed seed decides which ones. Goals of validation tasks
    are uniform on the half-circle and therefore none of the 100. Episodes start at the origin and have 20 steps. The
    reward is 1 - distance within 0.2 of the goal, else 0. On training tasks, critics may learn from minus the distance,
    as in the paper (``EnvFamily.privileged``).
    """
    order = np.random.default_rng(0).permutation(100)
    angles = jnp.asarray(np.linspace(0, math.pi, 100)[order], jnp.float32)

    def among(angles: Array) -> Callable[[Key], Array]:
        return lambda key: _on_circle(angles[jax.random.randint(key, (), 0, len(angles), jnp.int32)])

    def minus_distance(task: PointParams, t: Transition, discount: float) -> Array:
        del discount
        return -jnp.linalg.norm(t.final_obs - task.goal, axis=-1)

    return _family(
        Rules("near", radius=0.2),
        20,
        among(angles[:80]),
        heldout_goal=among(angles[80:]),
        validation_goal=_on_half_circle,
        training_goals=jax.vmap(_on_circle)(angles[:80]),
        privileged=Privileged(training_reward=minus_distance),
    )


def varibad(horizon: int = 100) -> EnvFamily:
    """Make the tasks of the code of Zintgraf et al. (2020).

    Goals are uniform on the unit half-circle. Episodes start at the origin. The reward is 1 - distance within 0.2 of
    the goal, else 0.

    Args:
        horizon: The number of steps of an episode (60 in Ni et al. 2022).

    Raises:
        ValueError: if ``horizon`` is not a positive whole number.
    """
    return _family(Rules("near", radius=0.2), positive_int("horizon", horizon), _on_half_circle)
