"""Reinforcement learning on a learned belief about the task: the training that VariBAD and HyperX share.

At every step, an encoder maps the trial so far to a belief, a Gaussian over latent variables m. A decoder predicts a
trial given m. Both are trained with a variational bound: at every step the belief must explain the whole trial, past
and future, at the cost of its divergence from the belief before. The belief at a step therefore approximates the
posterior over tasks given the trial so far.

The policy observes the observation and the belief, and PPO trains it for the return of the whole trial. Beliefs are
data for the policy: none of its gradients reaches the encoder. Encoder and decoder have an optimiser of their own, and
a buffer of trials that earlier policies played.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, cast

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
    """Settings of learning on a belief: those of PPO, and those of the belief.

    Defaults of the latter are those of Zintgraf et al. (2020) on GridNavi.
    """

    adaptation_episodes: Annotated[PositiveInt, Doc("Number of episodes per trial on a held-out task.")] = 4
    model_updates: Annotated[
        PositiveInt, Doc("Number of gradient steps of encoder and decoder per meta-iteration.")
    ] = 3
    model_trials: Annotated[
        PositiveInt, Doc("Number of trials in each of these gradient steps (``model_updates``), drawn from the buffer.")
    ] = 25
    buffer_trials: Annotated[
        PositiveInt,
        Doc(
            "Number of trials in the buffer, which keeps the newest ones; a multiple of ``trials`` (100,000 as "
            "published)."
        ),
    ] = 8192
    model_learning_rate: Annotated[
        PositiveFloat,
        Doc(
            "Adam's step size of encoder and decoder at the start of training; its schedule is that of "
            "``learning_rate``."
        ),
    ] = 1e-3
    bound_steps: Annotated[
        PositiveInt | None,
        Doc(
            "Number of valid steps of a trial at which the bound is computed, drawn at random without replacement "
            "(50 as published, on MuJoCo). None, or at least as many as there are: all valid steps. The whole trial "
            "is decoded at each of these steps."
        ),
    ] = None
    kl_weight: Annotated[
        NonNegativeFloat,
        Doc(
            "Weight of the divergence of a belief from the belief before it, relative to the log-likelihood of "
            "a whole trial."
        ),
    ] = 0.01

    def check_relations(self) -> None:
        super().check_relations()
        if self.buffer_trials % self.trials:
            raise ValueError(f"buffer_trials ({self.buffer_trials}) must be a multiple of trials ({self.trials})")


class Model(NamedTuple):
    """The parameters of the model of beliefs."""

    encoder: Params
    decoder: Params


class State(NamedTuple):
    """The state of the outer loop."""

    policy: Params
    policy_optimizer: optax.OptState
    model: Model
    model_optimizer: optax.OptState
    buffer: Transition
    """``[buffer_trials, T, ...]``: a ring buffer of trials. Iteration i writes from index ``i * trials`` modulo its
    size on."""
    iteration: Array
    """The number of completed meta-iterations, ``int32``."""
    bonus: Any = ()
    """The state of the exploration bonus, if there is one."""


class Bonus(NamedTuple):
    """A bonus that is added to the rewards from which the policy learns, and to no others."""

    init: Callable[[Key], Any]
    """``key ->`` the state of the bonus."""
    reward: Callable[[Key, Any, Model, Transition, Any, Array], tuple[Array, Any]]
    """``(key, state, model, trial [T, ...], belief after each step [T, ...], iteration) -> (bonus [T], record)``."""
    update: Callable[[Key, Any, Any, Array], tuple[Any, Metrics]]
    """``(key, state, records of the trials [B, ...], iteration) -> (state, metrics)``. It is called once per
    meta-iteration."""


BONUS_KEY = 0x626F6E75
"""The number that is folded into the keys of a bonus, so that no other random number depends on whether there is a
bonus."""


class Deployed(NamedTuple):
    """The parameters that act."""

    policy: Params
    encoder: Params


class Played(NamedTuple):
    """The record of a step: the policy's observation, and the values that PPO needs."""

    shown: Array
    record: ppo.Record
    belief: Any = ()
    """The belief at this step, if there is a bonus."""


def make(
    family: EnvFamily,
    networks: BeliefNetworks,
    config: Config,
    *,
    auxiliary: ppo.Auxiliary | None = None,
    bonus: Bonus | None = None,
) -> Algorithm:
    """Make an algorithm whose policy acts on a learned belief.

    ``adapt`` plays one trial of ``config.adaptation_episodes`` episodes, and its scores are the returns of the
    episodes. Actions are sampled as in training, or they are the most likely ones if ``config.deterministic`` is true.
    The learner is the encoder's memory at the end.

    Args:
        family: the tasks.
        networks: encoder, decoder and policy.
        config: the settings.
        auxiliary: a loss to add to the policy's loss; ``State.policy`` is then ``ppo.WithAuxiliary``. Its gradient,
            like that of the policy's loss, does not reach the encoder.
        bonus: a bonus for exploration, or None.

    Raises:
        ValueError: if the configuration has a training reward that the family does not have, if the family is wrong
            (``family_checks``), or if the networks do not fit the family or each other.
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
        key: Key,
        params: Params,
        encoder_params: Params,
        carry: tuple[Carry, Carry],
        inputs: Inputs,
        deterministic: bool,
    ) -> tuple[tuple[Carry, Carry], Array, Played]:
        memory, policy_memory = carry
        memory, belief = encoder.step(encoder_params, memory, inputs)
        shown = networks.show(inputs.obs, belief)
        policy_memory, output = policy.step(params, policy_memory, inputs._replace(obs=shown))
        action = output.distribution.mode() if deterministic else output.distribution.sample(key)
        kept = () if bonus is None else belief
        return (memory, policy_memory), action, Played(shown, ppo.record(output, action), kept)

    def play(
        key: Key, params: Params, encoder_params: Params, task: Task, episodes: int, deterministic: bool
    ) -> tuple[Carry, Transition]:
        def act_now(key: Key, carry: tuple[Carry, Carry], inputs: Inputs) -> tuple[tuple[Carry, Carry], Array, Played]:
            return act(key, params, encoder_params, carry, inputs, deterministic)

        carry = initial_carry(params, encoder_params)
        (memory, _), transitions = trial(key, act_now, carry, family, task, episodes)
        return memory, transitions

    def with_bonus(
        key: Key, made: Bonus, state: Any, model: Model, memory: Carry, t: Transition, rewarded: Transition, now: Array
    ) -> tuple[Transition, Any]:
        """Return the trial with the bonus in its rewards, and the record of the bonus.

        Args:
            key: random key.
            made: the bonus.
            state: its state.
            model: the model of beliefs.
            memory: the encoder's memory after its last step.
            t: the trial.
            rewarded: the trial with the rewards from which the policy learns.
            now: the iteration.
        """
        last = jax.tree.map(lambda x: x[-1], t)
        done = jnp.logical_or(last.terminated, last.truncated).astype(jnp.float32)
        inputs = Inputs(last.final_obs, last.action, last.reward, done, jnp.bool_(False))
        final = encoder.step(model.encoder, memory, inputs)[1]
        after = jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y[None]]), t.output.belief, final)
        added, record = made.reward(key, state, model, t._replace(output=()), after, now)
        return rewarded._replace(reward=rewarded.reward + added), record

    def collect(
        key: Key, params: Params, model: Model, bonus_state: Any, iteration: Array
    ) -> tuple[ppo.Batch, Transition, Array, Any]:
        """Play one trial on a newly drawn task.

        Returns:
            The trial for the policy; the trial for the buffer; its total reward; and the record of the bonus.
        """
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        memory, t = play(key_trial, params, model.encoder, task, config.episodes, deterministic=False)
        shown = t.inputs._replace(obs=t.output.shown)
        rewarded, record = with_training_reward(task, t), ()
        if bonus is not None:
            key_bonus = jax.random.fold_in(key, BONUS_KEY)
            rewarded, record = with_bonus(key_bonus, bonus, bonus_state, model, memory, t, rewarded, iteration)
        batch = learning.prepare(shown, rewarded, t.output.record, iteration)
        return batch, t._replace(output=()), jnp.sum(jnp.where(t.valid, t.reward, 0.0)), record

    collect_trials = map_tasks(
        collect,
        in_axes=(0, None, None, None, None),
        out_axes=(1, 0, 0, 0),
        carry_of=lambda key, params, model, bonus_state, iteration: initial_carry(params, model.encoder),
    )

    def model_loss(model: Model, key: Key, trials: Transition) -> tuple[Array, Metrics]:
        """Return minus the mean bound of trials ``[T, B, ...]``."""
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
            # In expectation, all valid steps of a batch have equal weights, in short and in long trials. A step that is
            # drawn from a trial without padding has the weight 1.
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
        bonus_state = () if bonus is None else bonus.init(jax.random.fold_in(key, BONUS_KEY))
        shapes = jax.eval_shape(lambda: collect(key, params, model, bonus_state, iteration)[1])
        buffer = jax.tree.map(lambda x: jnp.zeros((config.buffer_trials, *x.shape), x.dtype), shapes)
        model_optimizer = ppo.adam(config.model_learning_rate, config)
        return State(params, learning.init(params), model, model_optimizer.init(model), buffer, iteration, bonus_state)

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        key_collect, key_policy, key_model = jax.random.split(key, 3)
        iteration = state.iteration
        keys = jax.random.split(key_collect, config.trials)
        batch, trials, trial_reward, records = collect_trials(keys, state.policy, state.model, state.bonus, iteration)
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
        bonus_state, bonus_metrics = state.bonus, {}
        if bonus is not None:
            key_bonus = jax.random.fold_in(key, BONUS_KEY)
            bonus_state, bonus_metrics = bonus.update(key_bonus, bonus_state, records, iteration)
        after = State(params, policy_optimizer, model, optimizer_state, buffer, iteration + 1, bonus_state)
        return after, {**metrics, **model_metrics, **bonus_metrics, "trial_reward": jnp.mean(trial_reward)}

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        episodes, encoder_params = config.adaptation_episodes, state.model.encoder
        memory, transitions = play(key, state.policy, encoder_params, task, episodes, config.deterministic)
        success = episode_successes(transitions, family, task, episodes)
        return Adaptation(episode_returns(transitions, episodes), memory, success)

    def act_deployed(
        key: Key, params: Deployed, carry: tuple[Carry, Carry], inputs: Inputs, final_obs: Array
    ) -> tuple[tuple[Carry, Carry], Array, tuple[()]]:
        del final_obs
        return *act(key, params.policy, params.encoder, carry, inputs, config.deterministic)[:2], ()

    acting = Acting(
        params=lambda state: Deployed(state.policy, state.model.encoder),
        start=lambda key, params: initial_carry(params.policy, params.encoder),
        act=act_deployed,
    )
    return Algorithm(init, step, adapt, config.iterations, acting=acting)
