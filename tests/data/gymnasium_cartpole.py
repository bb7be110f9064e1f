"""An experiment on your own Gymnasium environment in one file: CartPoles that differ in the direction of the force.

metarl-jax train gymnasium_cartpole.py:cartpole
metarl-jax train gymnasium_cartpole.py:cartpole --workers 2 --bodies
metarl-jax record runs/gymnasium-cartpole-... --experiment gymnasium_cartpole.py:cartpole
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from PIL import Image, ImageDraw

from metarl_jax import environments, experiments, types
from metarl_jax.settings import Doc, NonNegativeInt, PositiveInt


class Task(NamedTuple):
    """One CartPole."""

    direction: Any
    """1, or -1 where the action 1 pushes to the left."""
    masspole: Any
    """The mass of the pole in kilograms."""
    length: Any
    """Half of the length of the pole in metres."""


class CartPole(CartPoleEnv):
    """Gymnasium's CartPole with the numbers of a task, and with pictures that do not need pygame."""

    def __init__(self, task: Task) -> None:
        super().__init__(render_mode="rgb_array")
        self.set_task(task)

    def set_task(self, task: Task) -> None:
        """Change the task."""
        self.force_mag = 10.0 * float(task.direction)
        self.masspole, self.length = float(task.masspole), float(task.length)
        # Gymnasium computes these numbers when an environment is made. They would still be those of another pole.
        self.total_mass = self.masspole + self.masscart
        self.polemass_length = self.masspole * self.length

    def render(self) -> np.ndarray:
        """Draw cart and pole."""
        picture = Image.new("RGB", (240, 160), "white")
        canvas = ImageDraw.Draw(picture)
        assert self.state is not None
        x, angle = 120 + 40 * float(self.state[0]), float(self.state[2])
        reach = 100 * self.length
        canvas.line((0, 128, 240, 128), fill="silver")
        canvas.line((x, 120, x + reach * math.sin(angle), 120 - reach * math.cos(angle)), "royalblue", 5)
        canvas.rectangle((x - 20, 112, x + 20, 128), fill="navy")
        return np.asarray(picture)


def make_env(task: Task) -> CartPole:
    """Make the environment of a task."""
    return CartPole(task)


def set_task(env: CartPole, task: Task) -> None:
    """Give a new task to an environment."""
    env.set_task(task)


def family(
    bodies: Annotated[bool, Doc("Whether the mass and the length of the pole differ between tasks, too.")] = False,
    steps: Annotated[PositiveInt, Doc("The largest number of steps of an episode.")] = 200,
    workers: Annotated[NonNegativeInt, Doc("Processes that run environments; 0 for the process that trains.")] = 0,
) -> types.EnvFamily:
    """Make the family. Its parameters that have defaults are settings of a run."""

    def sample(key: types.Key) -> Task:
        of_direction, of_mass, of_length = jax.random.split(key, 3)
        direction = 2.0 * jax.random.bernoulli(of_direction, jnp.float32(0.5)).astype(jnp.float32) - 1.0
        if not bodies:
            return Task(direction, jnp.float32(0.1), jnp.float32(0.5))
        mass = jax.random.uniform(of_mass, (), jnp.float32, 0.05, 0.5)
        return Task(direction, mass, jax.random.uniform(of_length, (), jnp.float32, 0.25, 1.0))

    tasks = types.TaskDistribution(sample, sample)
    return environments.from_gymnasium(make_env, tasks, horizon=steps, set_task=set_task, workers=workers)


experiments.register(experiments.Family("gymnasium_cartpole", "CartPoles of Gymnasium", family))
cartpole = experiments.experiment(
    name="gymnasium-cartpole",
    description="Gymnasium's CartPole with a force of unknown direction",
    algorithm="rl2",
    family="gymnasium_cartpole",
    settings={"episodes": 2, "trials": 64, "iterations": 100, "learning_rate": 1e-3},
)
