"""Multi-armed bandits: every pull is an episode of one step, so a trial of N pulls is N episodes.

Bernoulli: the setting of RL² (Duan et al. 2016, section 3.1): K arms, success probabilities uniform on [0, 1].
Gaussian: arm means uniform on [0, 1], reward noise of a fixed standard deviation (0.3 in the code of the
Decision-Pretrained Transformer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import positive_int, positive_number
from metarl_jax.environments.base import Environment
from metarl_jax.environments.drawing import SIZE, Frame, blank
from metarl_jax.types import (
    Arm,
    Array,
    Box,
    Discrete,
    EnvFamily,
    Key,
    Outcomes,
    Privileged,
    TaskDistribution,
    Transition,
)

if TYPE_CHECKING:
    from PIL.Image import Image


@struct.dataclass
class BanditParams:
    """A bandit task."""

    means: Array
    """The expected reward of each arm, ``[K]`` float32."""
    max_steps_in_episode: int = 1
    """The number of steps of an episode."""


@struct.dataclass
class BanditState:
    """The state of an episode."""

    time: Array
    """The number of pulls in this episode, ``int32``."""


class Bandit(Environment):
    """A bandit with K arms and no observation (the observation is a vector of width zero).

    Args:
        arms: the number K of arms.
        noise: the standard deviation of Gaussian rewards, or None for Bernoulli rewards.
    """

    caption = "Green: the mean reward of each arm; blue: its share of the pulls so far; framed: the last pull."

    def __init__(self, arms: int, noise: float | None = None) -> None:
        self.arms = arms
        self.noise = noise

    def reset_env(self, key: Key, params: BanditParams) -> tuple[Array, BanditState]:
        del key, params
        return jnp.zeros((0,), jnp.float32), BanditState(time=jnp.int32(0))

    def step_env(
        self, key: Key, state: BanditState, action: Array, params: BanditParams
    ) -> tuple[Array, BanditState, Array, Array, dict[Any, Any]]:
        mean = params.means[action]
        if self.noise is None:
            reward = (jax.random.uniform(key, dtype=jnp.float32) < mean).astype(jnp.float32)
        else:
            reward = mean + self.noise * jax.random.normal(key, dtype=jnp.float32)
        state = BanditState(time=state.time + 1)
        return jnp.zeros((0,), jnp.float32), state, reward, jnp.bool_(True), {}

    def action_space(self, params: BanditParams | None = None) -> Discrete:
        return Discrete(self.arms if params is None else params.means.shape[-1])

    def observation_space(self, params: BanditParams | None = None) -> Box:
        return Box(0.0, 1.0, (0,))

    def draw(self, frames: Sequence[Frame], task: BanditParams) -> Image:
        """Draw a column for each arm (``drawing.Drawable``): its mean reward, its share of the pulls, the last pull."""
        means = np.asarray(task.means)
        width = SIZE / len(means)
        low, high = min(0.0, float(means.min())), max(1.0, float(means.max()))
        middle, most = 2 * SIZE // 3, SIZE // 3
        picture, canvas = blank()
        pulled = [int(frame.action) for frame in frames if frame.action is not None]
        for arm, mean in enumerate(means):
            left, right = arm * width + width / 8, (arm + 1) * width - width / 8
            height = (float(mean) - low) / (high - low) * (middle - 8)
            canvas.rectangle((left, middle - height, right, middle), fill="palegreen")
            if pulled:
                share = pulled.count(arm) / len(pulled) * (most - 16)
                canvas.rectangle((left, middle + 8, right, middle + 8 + share), fill="royalblue")
        if pulled:
            arm = pulled[-1]
            left, right = arm * width + 1, (arm + 1) * width - 2
            canvas.rectangle((left, 0, right, SIZE - 1), outline="navy", width=4)
        return picture


def _minus_regret(task: BanditParams, pulls: Transition, discount: float) -> Array:
    """Compute minus the expected regret of each pull, ``[T]``: its arm's mean reward minus that of the best arm.

    In expectation, a policy's return in a trial is the sum of these numbers plus the return of the best arm. The latter
    depends on the task alone. Policy gradients therefore have the same expectation, but not the variance that is due to
    the noise of rewards and to the differences between tasks. The discount has no effect.
    """
    del discount
    return task.means[pulls.action] - jnp.max(task.means)


CELLS = 128
"""The number of cells of the discretised prior. They are narrower than the posterior of a Bernoulli arm, or of an arm
with a noise of 0.3, after a thousand pulls."""


class _Belief(NamedTuple):
    """The posterior over the mean reward of each arm."""

    log_weight: Array
    """The log-probability of each cell, up to a constant of the arm, ``[K, CELLS]``."""
    cumulative: Array
    """The probability that the mean is in this cell or in one below, ``[K, CELLS]``."""
    mean: Array
    """The posterior mean, ``[K]``."""


def _minus_expected_regret(arms: int, noise: float | None) -> Callable[[Transition, float], Array]:
    """Return a function that computes the expectation of minus the regret of each pull, given the pulls before it.

    The expectation is exact, except that the prior is discretised into cells. For a policy whose only information is
    the previous pulls, these numbers have the same expectation as ``_minus_regret``, but not the variance that is due
    to the task. The remaining variance is that of the changes of the belief.
    """
    cells = (jnp.arange(CELLS, dtype=jnp.float32) + 0.5) / CELLS

    def log_likelihood(reward: Array) -> Array:
        if noise is None:
            return jnp.where(reward > 0.5, jnp.log(cells), jnp.log1p(-cells))
        return -0.5 * ((reward - cells) / noise) ** 2

    def pull(belief: _Belief, pulled: tuple[Array, Array]) -> tuple[_Belief, Array]:
        arm, reward = pulled
        # Arms are independent: the best mean is in a cell or below it if all means are.
        best = jnp.sum(cells * jnp.diff(jnp.prod(belief.cumulative, axis=0), prepend=0.0))
        minus_regret = belief.mean[arm] - best
        log_weight = belief.log_weight[arm] + log_likelihood(reward)
        probability = jax.nn.softmax(log_weight)
        belief = _Belief(
            log_weight=belief.log_weight.at[arm].set(log_weight - jnp.max(log_weight)),
            cumulative=belief.cumulative.at[arm].set(jnp.cumsum(probability)),
            mean=belief.mean.at[arm].set(jnp.sum(probability * cells)),
        )
        return belief, minus_regret

    def belief_reward(pulls: Transition, discount: float) -> Array:
        del discount
        uniform = jnp.tile(jnp.arange(1, CELLS + 1, dtype=jnp.float32) / CELLS, (arms, 1))
        prior = _Belief(jnp.zeros((arms, CELLS), jnp.float32), uniform, jnp.full(arms, 0.5, jnp.float32))
        return jax.lax.scan(pull, prior, (pulls.action, pulls.reward))[1]

    return belief_reward


class BernoulliBelief(NamedTuple):
    """The sufficient statistics of the posterior of an arm whose reward is 0 or 1."""

    pulls: Array
    """The number of pulls of the arm."""
    successes: Array
    """The number of pulls whose reward was 1."""


def bernoulli_arm() -> Arm:
    """Return an arm whose success probability is uniform on [0, 1]; its posterior is a beta distribution."""

    def mean(belief: BernoulliBelief) -> Array:
        return (1 + belief.successes) / (2 + belief.pulls)

    def observe(belief: BernoulliBelief, reward: Array) -> BernoulliBelief:
        return BernoulliBelief(belief.pulls + 1, belief.successes + reward)

    def outcomes(belief: BernoulliBelief) -> Outcomes:
        return Outcomes(jnp.array([0.0, 1.0], jnp.float32), jnp.stack([1 - mean(belief), mean(belief)]))

    def features(belief: BernoulliBelief) -> Array:
        m, pulls = mean(belief), belief.pulls
        deviation = jnp.sqrt(m * (1 - m) / (3 + pulls))
        return jnp.stack([m - 0.5, 2 * deviation, jax.lax.rsqrt(2 + pulls), jnp.log1p(pulls) / 5])

    return Arm(BernoulliBelief(jnp.float32(0), jnp.float32(0)), observe, outcomes, features)


def _family(env: Bandit) -> EnvFamily:
    def sample(key: Key) -> BanditParams:
        return BanditParams(means=jax.random.uniform(key, (env.arms,), jnp.float32))

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, sample),
        horizon=1,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda task: jnp.max(task.means),
        privileged=Privileged(
            training_reward=_minus_regret,
            belief_reward=_minus_expected_regret(env.arms, env.noise),
            optimal_action=lambda task, pulls: jnp.full(pulls.reward.shape, jnp.argmax(task.means), jnp.int32),
            arm=bernoulli_arm() if env.noise is None else None,
        ),
    )


def bernoulli(arms: int = 5) -> EnvFamily:
    """Make a family of Bernoulli bandits with success probabilities ~ U[0, 1] (Duan et al. 2016, section 3.1).

    Args:
        arms: The number of arms of a bandit.

    Raises:
        ValueError: if ``arms`` is not a positive whole number.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=3)
        >>> family.tasks.sample(jax.random.key(0)).means.shape
        (3,)
    """
    return _family(Bandit(positive_int("arms", arms)))


def gaussian(arms: int = 5, noise: float = 0.3) -> EnvFamily:
    """Make a family of Gaussian bandits with means ~ U[0, 1].

    Args:
        arms: The number of arms of a bandit.
        noise: The standard deviation of a reward.

    Raises:
        ValueError: if ``arms`` is not a positive whole number, or ``noise`` is not a positive finite number.
    """
    return _family(Bandit(positive_int("arms", arms), positive_number("noise", noise)))
