"""A toy algorithm: REINFORCE on whole trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax.batching import map_tasks
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.settings import Doc, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import (
    Adaptation,
    Algorithm,
    Array,
    Carry,
    EnvFamily,
    Inputs,
    Key,
    Metrics,
    Params,
    Policy,
    Task,
    Transition,
)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of the toy algorithm."""

    iterations: Annotated[PositiveInt, Doc("Meta-iterations of a whole run.")] = 10
    trials: Annotated[PositiveInt, Doc("Trials per meta-iteration.")] = 8
    episodes: Annotated[PositiveInt, Doc("Episodes per trial.")] = 2
    learning_rate: Annotated[PositiveFloat, Doc("The step size of gradient ascent.")] = 0.1


class State(NamedTuple):
    """The state of the outer loop."""

    params: Params
    optimizer: optax.OptState


def make(family: EnvFamily, policy: Policy, config: Config) -> Algorithm:
    """Make REINFORCE on whole trials of a family."""
    optimizer = optax.sgd(config.learning_rate)

    def play(key: Key, params: Params, task: Task) -> tuple[Carry, Transition]:
        def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
            carry, output = policy.step(params, carry, inputs)
            return carry, output.distribution.sample(key), ()

        return trial(key, act, policy.initial_carry(params), family, task, config.episodes)

    def loss(params: Params, trials: Transition) -> Array:
        def one(t: Transition) -> Array:
            log_prob = policy.unroll(params, policy.initial_carry(params), t.inputs)[1].distribution.log_prob(t.action)
            return -jnp.sum(jnp.where(t.valid, log_prob, 0.0)) * jnp.sum(jnp.where(t.valid, t.reward, 0.0))

        return jnp.mean(jax.vmap(one)(trials))

    def init(key: Key) -> State:
        params = policy.init(key)
        return State(params, optimizer.init(params))

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        def collect(key: Key) -> Transition:
            key_task, key_play = jax.random.split(key)
            return play(key_play, state.params, family.tasks.sample(key_task))[1]

        trials = map_tasks(collect)(jax.random.split(key, config.trials))
        value, gradient = jax.value_and_grad(loss)(state.params, trials)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        reward = jnp.mean(jnp.sum(jnp.where(trials.valid, trials.reward, 0.0), axis=1))
        return State(optax.apply_updates(state.params, updates), moments), {"loss": value, "trial_reward": reward}

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        memory, transitions = play(key, state.params, task)
        return Adaptation(episode_returns(transitions, config.episodes), memory)

    return Algorithm(init, step, adapt)
