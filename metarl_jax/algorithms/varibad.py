"""VariBAD (Zintgraf et al. 2020, arXiv 1910.08348): act on a learnt belief about the task.

An encoder turns what was seen of a trial into a belief, a Gaussian over latent variables m, at every step. A decoder
says what m makes of a trial. Both are learnt with a variational bound: at every step the belief must explain the
whole trial, what is past and what is still to come, at the cost of its divergence from the belief before. So the belief
at a step comes to hold what can then be known about the task. The policy sees the observation and the belief, and
is trained with PPO for the return of the whole trial; beliefs are data to it, and no gradient of the policy reaches
the encoder. Encoder and decoder have an optimiser and a buffer of their own, of trials that policies played before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from metarl_jax import ppo
from metarl_jax.batching import map_tasks
from metarl_jax.family_checks import check_shapes
from metarl_jax.interfaces.belief import BeliefNetworks
from metarl_jax.network_checks import check_belief_networks
from metarl_jax.ops.draws import steps_without_replacement
from metarl_jax.ops.gaussians import sequential_elbo, standard
from metarl_jax.ops.policy_gradients import weighted_sum
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.settings import Doc, NonNegativeFloat, PositiveFloat, PositiveInt
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
    Task,
    Transition,
)


@dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    """Settings of VariBAD: those of PPO, and of learning the belief (defaults: Zintgraf et al. 2020 on GridNavi)."""

    adaptation_episodes: Annotated[PositiveInt, Doc("Episodes per trial on a held-out task.")] = 4
    model_updates: Annotated[PositiveInt, Doc("Gradient steps of encoder and decoder per meta-iteration.")] = 3
    model_trials: Annotated[PositiveInt, Doc("Trials, drawn from the buffer, that each of them sees.")] = 25
    buffer_trials: Annotated[
        PositiveInt, Doc("Trials kept, the newest ones; a multiple of ``trials`` (100,000 as published).")
    ] = 8192
    model_learning_rate: Annotated[
        PositiveFloat, Doc("Adam's step size for encoder and decoder; its schedule is that of ``learning_rate``.")
    ] = 1e-3
    bound_steps: Annotated[
        PositiveInt | None,
        Doc(
            "Valid steps of a trial, drawn at random without replacement, at which the bound is taken (50 as "
            "published, on MuJoCo); None, or no fewer than there are: all of them. At each the whole trial is "
            "decoded."
        ),
    ] = None
    kl_weight: Annotated[
        NonNegativeFloat,
        Doc("Weight of a belief's divergence from the one before it, against the log-likelihood of a whole trial."),
    ] = 0.01

    def check_relations(self) -> None:
        super().check_relations()
        if self.buffer_trials % self.trials:
            raise ValueError(f"buffer_trials ({self.buffer_trials}) must be a multiple of trials ({self.trials})")


class Model(NamedTuple):
    """What the belief is learnt with."""

    encoder: Params
    decoder: Params


class State(NamedTuple):
    """The slow learner."""

    policy: Params
    policy_optimizer: optax.OptState
    model: Model
    model_optimizer: optax.OptState
    buffer: Transition
    """``[buffer_trials, T, ...]``, a ring: iteration i wrote where ``i * trials`` modulo its size begins."""
    iteration: Array
    """Meta-iterations done, ``int32``."""


class Deployed(NamedTuple):
    """The parameters that act."""

    policy: Params
    encoder: Params


class Played(NamedTuple):
    """What acting leaves behind: what the policy was shown, and what PPO asks for."""

    shown: Array
    record: ppo.Record


def make(
    family: EnvFamily, networks: BeliefNetworks, config: Config, *, auxiliary: ppo.Auxiliary | None = None
) -> Algorithm:
    """VariBAD on a family of tasks.

    ``adapt`` plays one trial of ``config.adaptation_episodes`` episodes, sampling actions as in training, and returns
    the return of each; the learner is the encoder's memory at the end.

    Args:
        family: the tasks.
        networks: encoder, decoder and policy.
        config: the settings.
        auxiliary: a loss to add to the policy's; ``State.policy`` is then ``ppo.WithAuxiliary``. Like the policy's, its
            gradient does not reach the encoder.

    Raises:
        ValueError: if the configuration is out of range, or asks for a training reward that the family does not have;
            or if the family is wrong (``family_checks``), or the networks do not fit it or each other.
    """
    shapes = check_shapes(family, episodes=config.episodes, discount=config.discount)
    check_belief_networks(networks, family, shapes)
    encoder, decoder = networks.encoder, networks.decoder
    learning = ppo.make(networks.policy, networks.shown, config.episodes * family.horizon, config, auxiliary)
    policy, with_training_reward = learning.policy, ppo.with_training_reward(family, config)
    model_learning_rate_at = ppo.learning_rates(config.model_learning_rate, config)

    def initial_carry(params: Params, encoder_params: Params) -> tuple[Carry, Carry]:
        return encoder.initial_carry(encoder_params), policy.initial_carry(params)

    def act(
        key: Key, params: Params, encoder_params: Params, carry: tuple[Carry, Carry], inputs: Inputs
    ) -> tuple[tuple[Carry, Carry], Array, Played]:
        memory, policy_memory = carry
        memory, belief = encoder.step(encoder_params, memory, inputs)
        shown = networks.show(inputs.obs, belief)
        policy_memory, output = policy.step(params, policy_memory, inputs._replace(obs=shown))
        action = output.distribution.sample(key)
        return (memory, policy_memory), action, Played(shown, ppo.record(output, action))

    def play(key: Key, params: Params, encoder_params: Params, task: Task, episodes: int) -> tuple[Carry, Transition]:
        def act_now(key: Key, carry: tuple[Carry, Carry], inputs: Inputs) -> tuple[tuple[Carry, Carry], Array, Played]:
            return act(key, params, encoder_params, carry, inputs)

        carry = initial_carry(params, encoder_params)
        (memory, _), transitions = trial(key, act_now, carry, family, task, episodes)
        return memory, transitions

    def collect(
        key: Key, params: Params, encoder_params: Params, iteration: Array
    ) -> tuple[ppo.Batch, Transition, Array]:
        """One trial of a fresh task, for the policy and for the buffer, and its total reward."""
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        _, t = play(key_trial, params, encoder_params, task, config.episodes)
        shown = t.inputs._replace(obs=t.output.shown)
        batch = learning.prepare(shown, with_training_reward(task, t), t.output.record, iteration)
        return batch, t._replace(output=()), jnp.sum(jnp.where(t.valid, t.reward, 0.0))

    collect_trials = map_tasks(
        collect,
        in_axes=(0, None, None, None),
        out_axes=(1, 0, 0),
        carry_of=lambda key, params, encoder_params, iteration: initial_carry(params, encoder_params),
    )

    def model_loss(model: Model, key: Key, trials: Transition) -> tuple[Array, Metrics]:
        """Minus the mean bound of trials ``[T, B, ...]``."""
        number = trials.reward.shape[1]
        memory = encoder.initial_carry(model.encoder)
        memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), memory)
        beliefs = encoder.unroll(model.encoder, memory, trials.inputs)[1]

        def log_likelihood(latent: Array) -> Array:
            return decoder.log_likelihood(model.decoder, latent, trials)

        prior = standard((number, networks.latent_size))
        key_steps, key_bound = jax.random.split(key)
        steps = trials.reward.shape[0]
        chosen, weight = None, trials.valid.astype(jnp.float32)
        if config.bound_steps is not None and config.bound_steps < steps:
            chosen = steps_without_replacement(key_steps, trials.valid, config.bound_steps)
            drawn = jnp.take_along_axis(weight, chosen, axis=0)
            # The valid steps of a batch count alike in expectation, in short trials and in long ones. In units in which
            # a step drawn from a trial without padding counts 1.
            share = jnp.sum(weight, axis=0) / steps / (jnp.maximum(jnp.sum(drawn, axis=0), 1) / config.bound_steps)
            weight = drawn * share
        expected, bound = sequential_elbo(key_bound, beliefs, log_likelihood, prior, config.kl_weight, chosen)
        total = jnp.sum(weight)
        weight = weight / jnp.where(total > 0, total, 1.0)
        loss = -weighted_sum(bound, weight)
        decoded = weighted_sum(expected, weight)
        return loss, {"model_loss": loss, "log_likelihood": decoded}

    def update_model(
        key: Key, model: Model, optimizer_state: optax.OptState, buffer: Transition, iteration: Array
    ) -> tuple[Model, optax.OptState, Metrics]:
        filled = jnp.minimum((iteration + 1) * config.trials, config.buffer_trials)
        model_optimizer = ppo.adam(model_learning_rate_at(iteration), config)

        def gradient_step(
            carry: tuple[Model, optax.OptState], key: Key
        ) -> tuple[tuple[Model, optax.OptState], Metrics]:
            model, optimizer_state = carry
            key_draw, key_loss = jax.random.split(key)
            which = jax.random.randint(key_draw, (config.model_trials,), 0, filled, jnp.int32)
            trials = jax.tree.map(lambda x: jnp.moveaxis(x[which], 0, 1), buffer)
            gradient, metrics = jax.grad(model_loss, has_aux=True)(model, key_loss, trials)
            updates, optimizer_state = model_optimizer.update(gradient, optimizer_state, model)
            return (cast("Model", optax.apply_updates(model, updates)), optimizer_state), metrics

        keys = jax.random.split(key, config.model_updates)
        (model, optimizer_state), metrics = jax.lax.scan(gradient_step, (model, optimizer_state), keys)
        return model, optimizer_state, jax.tree.map(jnp.mean, metrics)

    def init(key: Key) -> State:
        key_policy, key_encoder, key_decoder = jax.random.split(key, 3)
        params, iteration = policy.init(key_policy), jnp.int32(0)
        model = Model(encoder.init(key_encoder), decoder.init(key_decoder))
        shapes = jax.eval_shape(lambda: collect(key, params, model.encoder, iteration)[1])
        buffer = jax.tree.map(lambda x: jnp.zeros((config.buffer_trials, *x.shape), x.dtype), shapes)
        model_optimizer = ppo.adam(config.model_learning_rate, config)
        return State(params, learning.init(params), model, model_optimizer.init(model), buffer, iteration)

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        key_collect, key_policy, key_model = jax.random.split(key, 3)
        iteration = state.iteration
        keys = jax.random.split(key_collect, config.trials)
        batch, trials, trial_reward = collect_trials(keys, state.policy, state.model.encoder, iteration)
        params, policy_optimizer, metrics = learning.update(
            key_policy, state.policy, state.policy_optimizer, batch, iteration
        )
        place = iteration * config.trials % config.buffer_trials
        buffer = jax.tree.map(
            lambda ring, new: jax.lax.dynamic_update_slice_in_dim(ring, new, place, axis=0), state.buffer, trials
        )
        model, optimizer_state, model_metrics = update_model(
            key_model, state.model, state.model_optimizer, buffer, iteration
        )
        after = State(params, policy_optimizer, model, optimizer_state, buffer, iteration + 1)
        return after, {**metrics, **model_metrics, "trial_reward": jnp.mean(trial_reward)}

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        memory, transitions = play(key, state.policy, state.model.encoder, task, config.adaptation_episodes)
        success = episode_successes(transitions, family, task, config.adaptation_episodes)
        return Adaptation(episode_returns(transitions, config.adaptation_episodes), memory, success)

    def act_deployed(
        key: Key, params: Deployed, carry: tuple[Carry, Carry], inputs: Inputs, final_obs: Array
    ) -> tuple[tuple[Carry, Carry], Array, tuple[()]]:
        del final_obs
        return *act(key, params.policy, params.encoder, carry, inputs)[:2], ()

    acting = Acting(
        params=lambda state: Deployed(state.policy, state.model.encoder),
        start=lambda key, params: initial_carry(params.policy, params.encoder),
        act=act_deployed,
    )
    return Algorithm(init, step, adapt, config.iterations, acting=acting)
