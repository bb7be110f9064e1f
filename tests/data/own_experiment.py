"""An experiment of your own in one file: a family of tasks, an algorithm, and a network with a memory.

metarl-jax train own_experiment.py:my_experiment
metarl-jax report runs/my-experiment-... --experiment own_experiment.py:my_experiment
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import experiments, ppo, settings, types
from metarl_jax.algorithms import rl2
from metarl_jax.environments import base, drawing
from metarl_jax.networks import heads
from metarl_jax.ops.policy_gradients import weighted_sum
from metarl_jax.settings import Doc, NonNegativeFloat, PositiveInt
from metarl_jax.types import Array

# The family of tasks: one cell of a ring is rewarded, and observations do not show which one.


class Task(NamedTuple):
    """The parameters of the environment."""

    goal: Array
    max_steps_in_episode: int


class State(NamedTuple):
    """The state of an episode."""

    cell: Array
    time: Array


class Ring(base.Environment):
    """A ring of cells. The actions are a step back, no step, and a step forward."""

    caption = "Green: the cell that pays; blue: the agent."

    def __init__(self, cells: int) -> None:
        self.cells = cells

    def reset_env(self, key: types.Key, params: Task) -> tuple[Array, State]:
        return jnp.int32(0), State(jnp.int32(0), jnp.int32(0))

    def step_env(self, key: types.Key, state: State, action: Array, params: Task) -> tuple[Any, ...]:
        cell = ((state.cell + action - 1) % self.cells).astype(jnp.int32)
        reward = (cell == params.goal).astype(jnp.float32)
        return cell, State(cell, state.time + 1), reward, jnp.bool_(False), {}

    def action_space(self, params: Task) -> types.Discrete:
        return types.Discrete(3)

    def observation_space(self, params: Task) -> types.Discrete:
        return types.Discrete(self.cells)

    def draw(self, frames: Sequence[drawing.Frame], task: Task) -> Any:
        """Optional: draw the last of the frames, for videos and reports."""
        picture, canvas = drawing.blank(30 * self.cells, 30)
        for cell in range(self.cells):
            colour = "blue" if cell == frames[-1].observation else "green" if cell == task.goal else "white"
            canvas.rectangle((30 * cell, 0, 30 * cell + 29, 29), fill=colour, outline="grey")
        return picture


def ring(cells: Annotated[PositiveInt, Doc("Cells of the ring, and steps of an episode.")] = 8) -> types.EnvFamily:
    """Make the family. Its parameters that have defaults are settings of a run."""

    def sample(key: types.Key) -> Task:
        return Task(jax.random.randint(key, (), 0, cells, jnp.int32), cells)

    tasks = types.TaskDistribution(sample, sample)
    return types.EnvFamily(Ring(cells), tasks, cells, types.Discrete(cells), types.Discrete(3))


# The algorithm: RL² with an auxiliary loss that penalises fast changes of the memory.


@dataclass(frozen=True, kw_only=True)
class Config(rl2.Config):
    """Settings of the algorithm: those of RL², and one further setting."""

    slowness: Annotated[NonNegativeFloat, Doc("The weight of the squared changes of the memory.")] = 0.01


def make(family: types.EnvFamily, policy: types.Policy, config: Config) -> types.Algorithm:
    """Make the algorithm."""

    def loss(params: ppo.WithAuxiliary, output: types.Output, batch: ppo.Batch) -> tuple[Array, types.Metrics]:
        assert output.features is not None
        change = jnp.sum(jnp.square(output.features[1:] - output.features[:-1]), axis=-1)
        mean = weighted_sum(change, batch.weight[1:])
        return config.slowness * mean, {"memory_change": mean}

    return rl2.make(family, policy, config, auxiliary=ppo.Auxiliary(loss))


# The network: an Elman network, whose memory is its hidden layer.


@dataclass(frozen=True, kw_only=True)
class Sizes(settings.Settings):
    """Settings of the network."""

    units: Annotated[PositiveInt, Doc("Units of the hidden layer.")] = 32


class Elman(nn.Module):
    """A recurrent network. A call is one step; ``unroll`` takes the steps of whole trials, ``[T, B, ...]``."""

    spaces: types.Spaces
    units: int
    critic: bool

    @nn.compact
    def __call__(self, carry: Array, inputs: types.Inputs) -> tuple[Array, types.Output]:
        observation = heads.ObservationEncoder(self.spaces.observation_space)(inputs.obs)
        encoded = heads.encode_inputs(observation, self.spaces.action_space, inputs)
        carry = jnp.tanh(nn.Dense(self.units)(jnp.concatenate([encoded, carry], axis=-1)))
        return carry, heads.ActorCriticHead(self.spaces.action_space, self.critic)(carry)

    def unroll(self, carry: Array, inputs: types.Inputs) -> tuple[Array, types.Output]:
        step = nn.scan(Elman.__call__, variable_broadcast="params", split_rngs={"params": False})
        return step(self, carry, inputs)


def elman(family: types.HasSpaces, sizes: Sizes, *, critic: bool = True) -> types.Policy:
    """Make the network as an actor-critic."""
    spaces = types.Spaces(family.observation_space, family.action_space)
    return heads.remembering_policy(
        Elman(spaces, sizes.units, critic), lambda: jnp.zeros(sizes.units, jnp.float32), *spaces, critic
    )


# The names under which the parts are known. Each part also combines with parts of the package.

HERE = sys.modules[__name__]
experiments.register(
    experiments.Family("ring", "rings with a hidden goal", ring),
    experiments.Algorithm("slow_rl2", "RL² with a slow memory", HERE, "policy", experiments.REWARD_OF_TRIAL),
    experiments.Network("elman", "an Elman network", HERE, "policy", settings="Sizes", make="elman"),
)
my_experiment = experiments.experiment(
    name="my-experiment",
    description="an experiment of your own",
    algorithm="slow_rl2",
    family="ring",
    network="elman",
    settings={"episodes": 4, "trials": 64, "iterations": 300, "learning_rate": 3e-3},
)
