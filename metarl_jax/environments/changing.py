"""Changing tasks: bandits whose arms switch or drift, and users whose interests drift, within one trial.

A task is one course of the mean rewards over time, which the learner does not observe. A trial is one episode of
``horizon`` pulls, because another episode of the same task would repeat the course. Every task has a rate of change:

* Switching arms: before each pull, each arm's success probability is re-drawn with a probability of ``rate``, from
  five values with equal probabilities. Rewards are 0 or 1.
* Drifting arms and interests: mean rewards are ``quality + features @ u``. The vector u starts with N(0, 1) numbers,
  and before each pull becomes ``(1 - rate) u`` plus noise that keeps its variance at 1 (an AR(1) process).

The rate is log-uniform between 0.01 and 0.1, and between 0.15 and 0.4 for shifted held-out tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import natural_int, positive_int, positive_number
from metarl_jax.environments.base import Environment
from metarl_jax.environments.drawing import SIZE, Frame, blank
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, Privileged, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image

VALUES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""The success probabilities of switching arms."""
RATES = (0.01, 0.1)
"""The range of the rates of change of training tasks."""
SHIFTED_RATES = (0.15, 0.4)
"""The range of the rates of change of shifted held-out tasks."""


@struct.dataclass
class Course:
    """A task: the course of the mean rewards of K arms over T pulls."""

    means: Array
    """The mean reward of each arm at each pull, ``[T, K]`` float32."""
    rate: Array
    """The rate of change, ``float32``."""
    max_steps_in_episode: int
    """The number T of pulls of an episode."""


@struct.dataclass
class CourseState:
    """The state of an episode."""

    time: Array
    """The number of pulls in this episode, ``int32``."""


class Drift(NamedTuple):
    """The mean rewards ``quality + features @ u`` of K arms, where the vector u has D entries."""

    features: np.ndarray
    """``[K, D]``."""
    quality: np.ndarray
    """The average of the mean reward of each arm over tasks, ``[K]``."""
    noise: float
    """The standard deviation of a reward."""


class ChangingBandit(Environment):
    """A bandit whose arms change, without observations (the observation is a vector of width zero).

    Args:
        arms: the number K of arms.
        drift: the model of drifting arms; None for switching arms.
    """

    caption = "Grey: the mean reward of each arm over time; dots: the pulls so far, green if the arm was the best one."

    def __init__(self, arms: int, drift: Drift | None) -> None:
        self.arms = arms
        self.drift = drift

    def reset_env(self, key: Key, params: Course) -> tuple[Array, CourseState]:
        del key, params
        return jnp.zeros((0,), jnp.float32), CourseState(jnp.int32(0))

    def step_env(
        self, key: Key, state: CourseState, action: Array, params: Course
    ) -> tuple[Array, CourseState, Array, Array, dict[Any, Any]]:
        mean = params.means[state.time, action]
        if self.drift is None:
            reward = (jax.random.uniform(key, dtype=jnp.float32) < mean).astype(jnp.float32)
        else:
            reward = mean + self.drift.noise * jax.random.normal(key, dtype=jnp.float32)
        return jnp.zeros((0,), jnp.float32), CourseState(state.time + 1), reward, jnp.bool_(False), {}

    def action_space(self, params: Course | None = None) -> Discrete:
        del params
        return Discrete(self.arms)

    def observation_space(self, params: Course | None = None) -> Box:
        del params
        return Box(0.0, 1.0, (0,))

    def draw(self, frames: Sequence[Frame], task: Course) -> Image:
        """Draw the mean rewards over time and the pulls so far (``drawing.Drawable``)."""
        means = np.asarray(task.means)
        low, high = float(means.min()), float(means.max())
        picture, canvas = blank()

        def pixel(time: int, arm: int) -> tuple[float, float]:
            height = (float(means[time, arm]) - low) / max(high - low, 1e-6)
            return 8 + (time + 0.5) / len(means) * (SIZE - 16), (SIZE - 16) * (1 - height) + 8

        for arm in range(means.shape[1]):
            canvas.line([pixel(time, arm) for time in range(len(means))], fill="lightgrey", width=2)
        pulled = [int(frame.action) for frame in frames if frame.action is not None]
        for time, arm in enumerate(pulled):
            x, y = pixel(time, arm)
            best = means[time, arm] >= means[time].max()
            canvas.ellipse((x - 5, y - 5, x + 5, y + 5), fill="seagreen" if best else "royalblue")
        return picture


def _minus_regret(task: Course, pulls: Transition, discount: float) -> Array:
    """Compute minus the expected regret of each pull, ``[T]``: its arm's mean reward minus that of the best arm.

    In expectation, the return is the sum of these numbers plus the optimal return. The discount has no effect.
    """
    del discount
    means = jnp.resize(task.means, (len(pulls.reward), task.means.shape[1]))
    return jnp.take_along_axis(means, pulls.action[:, None], axis=1)[:, 0] - jnp.max(means, axis=1)


def _family(env: ChangingBandit, horizon: int, shifted: bool, course: Callable[[Key, Array], Array]) -> EnvFamily:
    """Make a family; ``course(key, rate)`` draws the mean rewards ``[horizon, K]``."""

    def sampler(low: float, high: float) -> Callable[[Key], Course]:
        def sample(key: Key) -> Course:
            key_rate, key_course = jax.random.split(key)
            rate = jnp.exp(jax.random.uniform(key_rate, (), jnp.float32, np.log(low), np.log(high)))
            return Course(course(key_course, rate), rate, horizon)

        return sample

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sampler(*RATES), sampler(*(SHIFTED_RATES if shifted else RATES))),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda task: jnp.sum(jnp.max(task.means, axis=1)),
        privileged=Privileged(training_reward=_minus_regret),
    )


def switching(arms: int = 5, horizon: int = 60, *, shifted: bool = False) -> EnvFamily:
    """Make Bernoulli bandits whose arms switch to other success probabilities.

    Args:
        arms: The number of arms of a bandit.
        horizon: The number of pulls of a trial, which is one episode.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks: they change faster.

    Raises:
        ValueError: if a number is not a positive whole number.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.changing.switching(arms=3, horizon=40)
        >>> family.tasks.sample(jax.random.key(0)).means.shape
        (40, 3)
    """
    arms, horizon = positive_int("arms", arms), positive_int("horizon", horizon)
    values = jnp.asarray(VALUES, jnp.float32)

    def course(key: Key, rate: Array) -> Array:
        key_value, key_switch = jax.random.split(key)
        fresh = values[jax.random.randint(key_value, (horizon, arms), 0, len(VALUES), jnp.int32)]
        switches = jax.random.uniform(key_switch, (horizon, arms), jnp.float32) < rate

        def following(means: Array, drawn: tuple[Array, Array]) -> tuple[Array, Array]:
            means = jnp.where(drawn[1], drawn[0], means)
            return means, means

        return jax.lax.scan(following, fresh[0], (fresh, switches))[1]

    return _family(ChangingBandit(arms, None), horizon, shifted, course)


def _drifting(drift: Drift, horizon: int, shifted: bool) -> EnvFamily:
    features, quality = jnp.asarray(drift.features, jnp.float32), jnp.asarray(drift.quality, jnp.float32)
    arms, size = drift.features.shape

    def course(key: Key, rate: Array) -> Array:
        normal = jax.random.normal(key, (horizon, size), jnp.float32)
        fresh = jnp.sqrt(1 - (1 - rate) ** 2)

        def following(vector: Array, noise: Array) -> tuple[Array, Array]:
            vector = (1 - rate) * vector + fresh * noise
            return vector, vector

        vectors = jax.lax.scan(following, normal[0], normal[1:])[1]
        return quality + jnp.concatenate([normal[:1], vectors]) @ features.T

    return _family(ChangingBandit(arms, drift), horizon, shifted, course)


def drifting(arms: int = 5, horizon: int = 60, *, noise: float = 0.5, shifted: bool = False) -> EnvFamily:
    """Make Gaussian bandits whose arms drift independently, each with a mean reward that is N(0, 1) at any time.

    Args:
        arms: The number of arms of a bandit.
        horizon: The number of pulls of a trial, which is one episode.
        noise: The standard deviation of a reward.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks: they change faster.

    Raises:
        ValueError: if a setting is out of range.
    """
    arms, horizon = positive_int("arms", arms), positive_int("horizon", horizon)
    return _drifting(Drift(np.eye(arms), np.zeros(arms), positive_number("noise", noise)), horizon, shifted)


def interests(
    items: int = 20, rank: int = 3, horizon: int = 60, *, noise: float = 0.5, seed: int = 0, shifted: bool = False
) -> EnvFamily:
    """Make recommendations to users whose interests drift.

    An interaction recommends one item of a catalogue, which is drawn once from ``seed``. An item has a vector of
    ``rank`` features, a random direction of length 1, and a quality ~ N(0, 0.3^2). The reward is the quality plus the
    inner product of the features and the user's interests u, plus noise. A few rewards are therefore informative
    about all items, but not for long.

    Args:
        items: The number of items of the catalogue.
        rank: The number of features of an item.
        horizon: The number of interactions of a trial, which is one episode.
        noise: The standard deviation of a reward.
        seed: The seed of the catalogue.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks: they change faster.

    Raises:
        ValueError: if a setting is out of range.
    """
    items, rank, horizon = positive_int("items", items), positive_int("rank", rank), positive_int("horizon", horizon)
    noise, random = positive_number("noise", noise), np.random.default_rng(natural_int("seed", seed))
    features = random.normal(size=(items, rank))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return _drifting(Drift(features, 0.3 * random.normal(size=items), noise), horizon, shifted)
