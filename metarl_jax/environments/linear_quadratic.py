"""Adaptive control: linear-quadratic plants with unknown dynamics.

A task is a plant, whose state x follows x' = A x + B u + noise. The controller observes the state and chooses the input
u. The cost of a step is ``(|x'|^2 + effort |u|^2) / 10``, and the reward is minus the cost. The entries of A and B are
drawn from normal distributions around a nominal plant. Many plants are unstable without control, and an input may act
in the opposite direction of the nominal one, so that a controller for the nominal plant can make a plant unstable.

Inputs are clipped to [-5, 5]. The coordinates of the state have stops at -5 and 5, which keep returns finite. An
optimal controller rarely reaches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import positive_int, positive_number
from metarl_jax.environments.base import Environment
from metarl_jax.environments.drawing import SIZE, Frame, blank, of_episode
from metarl_jax.types import Array, Box, EnvFamily, Key, Privileged, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT = 5.0
"""The largest absolute value of an input, and of a coordinate of the state."""
WEIGHT = 0.1
"""The weight of the squared state in the cost, by which rewards are of unit size."""
SHIFT = 2.0
"""The difference between the nominal plants of shifted tasks and of training tasks, in standard deviations."""


@struct.dataclass
class Plant:
    """A task: the dynamics of a plant with N state coordinates and M inputs."""

    dynamics: Array
    """The matrix A, ``[N, N]`` float32."""
    gains: Array
    """The matrix B, ``[N, M]`` float32."""
    max_steps_in_episode: int
    """The number of steps of an episode."""


@struct.dataclass
class PlantState:
    """The state of an episode."""

    position: Array
    """The state x of the plant, ``[N]``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class Prior(NamedTuple):
    """The distribution of training plants: all entries of A and B are independent and normally distributed."""

    dynamics: np.ndarray
    """The mean of A, ``[N, N]``, which is the A of the nominal plant."""
    gains: np.ndarray
    """The mean of B, ``[N, M]``."""
    dynamics_spread: float
    """The standard deviation of an entry of A."""
    gains_spread: float
    """The standard deviation of an entry of B."""


class Riccati(NamedTuple):
    """The solution of a finite-horizon linear-quadratic problem of T steps."""

    gains: Array
    """The optimal controller ``u = -gains[t] x`` at each step, ``[T, M, N]``."""
    curvatures: Array
    """``[T, M, M]``: the expected cost of an input that differs by e from the optimal one at step t, and is followed by
    optimal ones, is ``e' curvatures[t] e`` above the optimal cost."""
    costs: Array
    """``[T + 1, N, N]``: the expected cost from step t on is ``x' costs[t] x``, plus a cost of the noise."""


def riccati(dynamics: Array, gains: Array, effort: float, horizon: int) -> Riccati:
    """Solve the problem of a known plant by dynamic programming (the Riccati recursion).

    Args:
        dynamics: the matrix A, ``[N, N]``.
        gains: the matrix B, ``[N, M]``.
        effort: the weight of the squared input in the cost ``(|x'|^2 + effort |u|^2) / 10`` of a step.
        horizon: the number T of steps.
    """
    states, inputs = gains.shape

    def backup(cost: Array, _: None) -> tuple[Array, tuple[Array, Array, Array]]:
        # The state after the step is paid for, and so are the steps after it.
        after = WEIGHT * jnp.eye(states, dtype=jnp.float32) + cost
        curvature = WEIGHT * effort * jnp.eye(inputs, dtype=jnp.float32) + gains.T @ after @ gains
        gain = jnp.linalg.solve(curvature, gains.T @ after @ dynamics)
        cost = dynamics.T @ after @ (dynamics - gains @ gain)
        # Rounding errors would otherwise make the matrix asymmetric.
        cost = 0.5 * (cost + cost.T)
        return cost, (gain, curvature, cost)

    last = jnp.zeros((states, states), jnp.float32)
    _, (controller, curvatures, costs) = jax.lax.scan(backup, last, None, length=horizon, reverse=True)
    return Riccati(controller, curvatures, jnp.concatenate([costs, last[None]]))


class LinearQuadratic(Environment):
    """The control of a linear plant with a quadratic cost.

    Args:
        prior: the distribution of training plants.
        noise: the standard deviation of the noise of each coordinate of the state.
        effort: the weight of the squared input, relative to that of the squared state.
    """

    caption = "Above: the coordinates of the state over time; below: the inputs. The goal is the line of zero."

    def __init__(self, prior: Prior, noise: float, effort: float) -> None:
        self.prior = prior
        self.noise = noise
        self.effort = effort
        self.states, self.inputs = prior.gains.shape

    def reset_env(self, key: Key, params: Plant) -> tuple[Array, PlantState]:
        del params
        position = jax.random.uniform(key, (self.states,), jnp.float32, -1.0, 1.0)
        return position, PlantState(position, jnp.int32(0))

    def step_env(
        self, key: Key, state: PlantState, action: Array, params: Plant
    ) -> tuple[Array, PlantState, Array, Array, dict[Any, Any]]:
        control = jnp.clip(action, -LIMIT, LIMIT)
        noise = self.noise * jax.random.normal(key, (self.states,), jnp.float32)
        position = jnp.clip(params.dynamics @ state.position + params.gains @ control + noise, -LIMIT, LIMIT)
        reward = -WEIGHT * (jnp.sum(position**2) + self.effort * jnp.sum(control**2))
        return position, PlantState(position, state.time + 1), reward, jnp.bool_(False), {}

    def action_space(self, params: Plant | None = None) -> Box:
        del params
        return Box(-LIMIT, LIMIT, (self.inputs,))

    def observation_space(self, params: Plant | None = None) -> Box:
        del params
        return Box(-LIMIT, LIMIT, (self.states,))

    def draw(self, frames: Sequence[Frame], task: Plant) -> Image:
        """Draw the state and the inputs of the episode over time (``drawing.Drawable``)."""
        horizon, colours = int(task.max_steps_in_episode), ("royalblue", "darkorange", "seagreen", "firebrick")
        picture, canvas = blank()
        episode = of_episode(frames)
        controls = [frame.action for frame in episode if frame.action is not None]
        parts = (
            (SIZE / 3, SIZE / 3, [frame.observation for frame in episode], 0),
            (5 * SIZE / 6, SIZE / 6, controls, 1),
        )
        for zero, height, values, start in parts:
            canvas.line((0, zero, SIZE, zero), fill="lightgrey", width=2)
            for i, line in enumerate(zip(*values, strict=True)):
                colour = colours[i % len(colours)]
                points = [
                    ((start + step) / horizon * (SIZE - 12) + 6, zero - 0.95 * height * np.clip(value / LIMIT, -1, 1))
                    for step, value in enumerate(line)
                ]
                if len(points) > 1:
                    canvas.line(points, fill=colour, width=4)
                x, y = points[-1]
                canvas.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour)
        return picture


def make(
    states: int = 2,
    inputs: int = 2,
    horizon: int = 20,
    *,
    dynamics_spread: float = 0.08,
    gains_spread: float = 0.4,
    noise: float = 0.3,
    effort: float = 0.1,
    shifted: bool = False,
) -> EnvFamily:
    """Make linear-quadratic plants around a nominal plant.

    In the nominal plant, each coordinate of the state decays by a factor of 0.9 a step, and gets 0.2 times the next
    coordinate. Each of the last ``inputs`` coordinates gets 0.5 times an input. The initial state is uniform in [-1, 1]
    along each axis. With the default settings, about a third of the plants are unstable without control.

    The optimal return is that of a plant without stops and without limits of the inputs. On most plants it hardly
    differs from the best return with them. On very unstable plants, it can be exceeded, because the stops cap the cost.
    For the second worst of 20,000 plants, the optimal return is -23.3, but the controller that is optimal without stops
    gets -15.9 with them.

    The rewards that are computed from the task (``Privileged.training_reward``) are minus the expected regret of each
    input: how much more it costs than the optimal one, if optimal inputs follow. In expectation, the return of an
    episode is the sum of these numbers plus the optimal return, if no stop and no limit of the inputs is reached. The
    discount has no effect on them.

    Args:
        states: The number N of coordinates of the state.
        inputs: The number M of inputs, at most ``states``.
        horizon: The number of steps of an episode.
        dynamics_spread: The standard deviation of the entries of A between plants.
        gains_spread: The standard deviation of the entries of B between plants.
        noise: The standard deviation of the noise of each coordinate of the state.
        effort: The weight of the squared input, relative to that of the squared state.
        shifted: Whether held-out tasks come from another distribution than training tasks. Its nominal plant differs
            by two standard deviations: it has less damping (larger diagonal entries of A) and larger gains. The two
            distributions overlap.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.linear_quadratic.make(states=3, inputs=1)
        >>> family.tasks.sample(jax.random.key(0)).gains.shape
        (3, 1)
    """
    states, inputs = positive_int("states", states), positive_int("inputs", inputs)
    horizon = positive_int("horizon", horizon)
    dynamics_spread = positive_number("dynamics_spread", dynamics_spread)
    gains_spread = positive_number("gains_spread", gains_spread)
    noise, effort = positive_number("noise", noise), positive_number("effort", effort)
    if inputs > states:
        raise ValueError(f"inputs must be at most states ({states}), not {inputs}")
    driven = np.eye(states)[:, states - inputs :]
    prior = Prior(0.9 * np.eye(states) + 0.2 * np.eye(states, k=1), 0.5 * driven, dynamics_spread, gains_spread)
    env = LinearQuadratic(prior, noise, effort)

    def sampler(shift: float) -> Any:
        dynamics = jnp.asarray(prior.dynamics + shift * dynamics_spread * np.eye(states), jnp.float32)
        gains = jnp.asarray(prior.gains + shift * gains_spread * driven, jnp.float32)

        def sample(key: Key) -> Plant:
            key_dynamics, key_gains = jax.random.split(key)
            return Plant(
                dynamics + dynamics_spread * jax.random.normal(key_dynamics, dynamics.shape, jnp.float32),
                gains + gains_spread * jax.random.normal(key_gains, gains.shape, jnp.float32),
                horizon,
            )

        return sample

    def optimal_return(plant: Plant) -> Array:
        costs = riccati(plant.dynamics, plant.gains, effort, horizon).costs
        traces = jnp.trace(costs, axis1=1, axis2=2)
        # A coordinate of the initial state has the variance 1/3. The noise of a step is paid for itself and through
        # the cost of the steps after it.
        return -traces[0] / 3 - noise**2 * jnp.sum(WEIGHT * states + traces[1:])

    def minus_regret(plant: Plant, steps: Transition, discount: float) -> Array:
        del discount
        solution = riccati(plant.dynamics, plant.gains, effort, horizon)
        # All episodes have as many steps.
        time = jnp.arange(len(steps.reward)) % horizon
        best = -jnp.einsum("tmn,tn->tm", solution.gains[time], steps.inputs.obs)
        excess = jnp.clip(steps.action, -LIMIT, LIMIT) - best
        return -jnp.einsum("tm,tmk,tk->t", excess, solution.curvatures[time], excess)

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sampler(0.0), sampler(SHIFT if shifted else 0.0)),
        horizon=horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=optimal_return,
        privileged=Privileged(training_reward=minus_regret),
    )
