"""Imitation of trials by a policy with a memory: the training that in-context learners of behaviour share.

The policy reads a trial step by step and predicts an action at each step, given the steps before it. The loss is the
mean negative log-likelihood of the demonstrated actions. No parameter changes on a task: the policy adapts by its
memory, as in RL².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax.batching import map_tasks
from metarl_jax.family_checks import check_shapes
from metarl_jax.interfaces.imitation import Demonstration, Draw
from metarl_jax.network_checks import check_policy
from metarl_jax.ops.policy_gradients import masked_mean
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.settings import Doc, Fraction, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import (
    Acting,
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
)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of imitation."""

    episodes: Annotated[PositiveInt, Doc("Number of episodes per trial.")] = 10
    iterations: Annotated[PositiveInt, Doc("Number of meta-iterations of a whole run.")] = 2000
    trials: Annotated[PositiveInt, Doc("Number of demonstrations per meta-iteration.")] = 64
    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size at the start of training.")] = 1e-3
    final_learning_rate_fraction: Annotated[
        Fraction, Doc("Step size at the end of training, as a fraction of that at the start; it changes linearly.")
    ] = 0.0
    max_grad_norm: Annotated[
        PositiveFloat, Doc("Largest global norm of a gradient; longer gradients are scaled down to it.")
    ] = 1.0
    deterministic: Annotated[
        bool, Doc("Whether the deployed policy takes the most likely action instead of sampling an action.")
    ] = False


class State(NamedTuple):
    """The state of the algorithm: the parameters of the policy, and the state of the optimiser."""

    params: Params
    optimizer: optax.OptState


def make(family: EnvFamily, policy: Policy, draw: Draw, config: Config) -> Algorithm:
    """Make the training of a policy on demonstrations.

    ``adapt`` plays one trial of ``config.episodes`` episodes, and its scores are the returns of the episodes. The
    learner is the memory at the end. Training has the metrics ``loss`` (nats per step) and ``accuracy``, the share of
    steps whose most likely action is the demonstrated one; actions that are real numbers have no accuracy.

    Args:
        family: the tasks.
        policy: a policy with a memory.
        draw: draws a demonstration of ``config.episodes`` episodes.
        config: the settings.

    Raises:
        ValueError: if the family is wrong (``family_checks``), or if the policy was made for other spaces.
    """
    check_policy(policy, family, check_shapes(family, episodes=config.episodes))
    rate, fraction = config.learning_rate, config.final_learning_rate_fraction
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(optax.linear_schedule(rate, rate * fraction, config.iterations)),
    )
    draw_all = map_tasks(draw, out_axes=1)

    def init(key: Key) -> State:
        params = policy.init(key)
        return State(params, optimizer.init(params))

    def loss(params: Params, batch: Demonstration) -> tuple[Array, Metrics]:
        trials = batch.weight.shape[1]
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), policy.initial_carry(params))
        distribution = policy.unroll(params, carry, batch.inputs)[1].distribution
        log_prob = jnp.where(batch.weight != 0, distribution.log_prob(batch.action), 0.0)
        value = -masked_mean(log_prob, batch.weight)
        metrics = {"loss": value}
        if jnp.issubdtype(batch.action.dtype, jnp.integer):
            same = (distribution.mode() == batch.action).astype(jnp.float32)
            metrics["accuracy"] = masked_mean(same, batch.weight)
        return value, metrics

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        batch = draw_all(jax.random.split(key, config.trials))
        gradient, metrics = jax.grad(loss, has_aux=True)(state.params, batch)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer_state), metrics

    def act(key: Key, params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
        carry, output = policy.step(params, carry, inputs)
        return carry, output.distribution.mode() if config.deterministic else output.distribution.sample(key)

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        def act_now(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
            return *act(key, state.params, carry, inputs), ()

        memory, steps = trial(key, act_now, policy.initial_carry(state.params), family, task, config.episodes)
        success = episode_successes(steps, family, task, config.episodes)
        return Adaptation(episode_returns(steps, config.episodes), memory, success)

    acting = Acting(
        params=lambda state: state.params,
        start=lambda key, params: policy.initial_carry(params),
        act=lambda key, params, carry, inputs, final_obs: (*act(key, params, carry, inputs), ()),
    )
    return Algorithm(init, step, adapt, config.iterations, acting=acting)
