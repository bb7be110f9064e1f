"""Proximal policy optimisation of whole trials (Schulman et al. 2017), for learners that act with one policy.

A trial is one trajectory: discounting and advantage estimation continue across the ends of its episodes, and stop only
at the end of the trial. The algorithm that uses this module decides which inputs the policy gets, and which network
carries a memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from metarl_jax.batching import sequential_sum
from metarl_jax.ops.policy_gradients import approximate_kl, clipped_surrogate, masked_mean, weighted_sum
from metarl_jax.ops.returns import generalised_advantages, remaining_horizon
from metarl_jax.ops.running_statistics import RunningStatistics, initial_statistics, normalise, observe
from metarl_jax.settings import Doc, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import (
    Array,
    Box,
    Carry,
    EnvFamily,
    Inputs,
    Key,
    Metrics,
    Output,
    Params,
    Policy,
    Privileged,
    Space,
    Task,
    Transition,
)


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig(Settings):
    """Settings of the optimisation of PPO's objective on minibatches of trials. They do not depend on how advantages
    are estimated.

    Defaults without a source were chosen for this package, on tasks that no reported result uses.
    """

    episodes: Annotated[PositiveInt, Doc("Number of episodes per trial.")] = 10
    iterations: Annotated[
        PositiveInt,
        Doc("Number of meta-iterations of a whole run, over which the schedule of the learning rate extends."),
    ] = 600
    trials: Annotated[
        PositiveInt, Doc("Number of trials that are collected per meta-iteration, each on a task of its own.")
    ] = 512
    epochs: Annotated[PositiveInt, Doc("Number of passes over the collected trials.")] = 2
    minibatches: Annotated[
        PositiveInt, Doc("Number of gradient steps per pass; each uses trials / minibatches whole trials.")
    ] = 4
    accumulation: Annotated[
        PositiveInt,
        Doc(
            "Number of parts of a minibatch whose gradients are computed sequentially and added. The gradient is "
            "the same, and takes less memory; on a CPU it is faster if a part fits into the cache and the whole "
            "minibatch does not."
        ),
    ] = 1
    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size at the start of training.")] = 3e-3
    learning_rate_schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        Doc("The schedule by which the step size changes to ``final_learning_rate_fraction`` of that at the start."),
    ] = "linear"
    final_learning_rate_fraction: Annotated[
        Fraction, Doc("Step size at the end of training, as a fraction of that at the start.")
    ] = 0.0
    adam_epsilon: Annotated[PositiveFloat, Doc("Adam's epsilon.")] = 1e-5
    max_grad_norm: Annotated[
        PositiveFloat, Doc("Largest global norm of a gradient; longer gradients are scaled down to it.")
    ] = 1.0
    discount: Annotated[
        Fraction,
        Doc(
            "Discount per step, also across the ends of episodes. The default is 1 because trials are finite and "
            "scored by their undiscounted return (0.99 in Duan et al. 2016)."
        ),
    ] = 1.0
    clip: Annotated[PositiveFloat, Doc("PPO's clipping radius of the probability ratio.")] = 0.2
    entropy_coefficient: Annotated[
        NonNegativeFloat,
        Doc("Weight of the entropy bonus (in nats per step) at the start of training; it decays linearly to zero."),
    ] = 0.05
    entropy_decay: Annotated[
        PositiveFloat,
        Doc(
            "Share of training after which the entropy bonus is zero. A policy does not become deterministic while "
            "the bonus is large, and cannot become so once the step size is near zero. Above 1: a part of the bonus "
            "remains at the end."
        ),
    ] = 1.0

    def check_relations(self) -> None:
        super().check_relations()
        if self.trials % self.minibatches:
            raise ValueError(f"trials ({self.trials}) must be a multiple of minibatches ({self.minibatches})")
        minibatch = self.trials // self.minibatches
        if minibatch % self.accumulation:
            raise ValueError(
                f"the trials of a minibatch ({minibatch}) must be a multiple of accumulation ({self.accumulation})"
            )


@dataclass(frozen=True, kw_only=True)
class Config(OptimizationConfig):
    """Settings of PPO, with a critic that shares the policy's memory."""

    gae_lambda: Annotated[
        Fraction, Doc("Lambda of generalised advantage estimation at the start of training (0.3 in Duan et al. 2016).")
    ] = 0.6
    gae_lambda_rise: Annotated[
        Fraction,
        Doc(
            "Fraction of 1 - ``gae_lambda`` that lambda gains linearly until the end of training. With a small "
            "lambda the critic's errors bias the advantages. Early in training the lower variance matters more; "
            "late in training the bias keeps the policy from the optimum."
        ),
    ] = 0.0
    value_coefficient: Annotated[
        NonNegativeFloat,
        Doc(
            "Weight of the critic's loss. The mean reward per step differs by about 0.1 between histories, and its "
            'square by 0.01; the weight should therefore be well above 1 if ``value_unit`` is "remaining_horizon".'
        ),
    ] = 50.0
    value_unit: Annotated[
        Literal["remaining_horizon", "reward"],
        Doc(
            'Unit of the critic\'s output. "reward": the return itself. "remaining_horizon": the return divided by '
            "the discounted number of remaining steps of the trial, that is, a mean reward per step. With this "
            "unit, the critic's loss on long trials does not dominate the policy's gradient, and the critic need "
            "not learn how many steps remain."
        ),
    ] = "remaining_horizon"
    normalise_advantages: Annotated[
        bool, Doc("Whether advantages are scaled to mean 0 and variance 1 over the batch of trials.")
    ] = True
    normalise_observations: Annotated[
        bool,
        Doc(
            "Whether the policy's observations are scaled to mean 0 and variance 1 over all earlier iterations "
            "(Zintgraf et al. 2020 scale observations and beliefs on MuJoCo)."
        ),
    ] = False
    training_reward: Annotated[
        Literal["paid", "task", "belief"],
        Doc(
            'The rewards that the policy is trained on. "paid": the rewards of the environment. "task": those of '
            'the family\'s ``privileged.training_reward``, which are computed from the task. "belief": those of its '
            "``privileged.belief_reward``, which are expectations given the earlier steps of the trial. The policy "
            "always observes the rewards of the environment, and these are reported."
        ),
    ] = "paid"
    deterministic: Annotated[
        bool,
        Doc(
            "Whether actions on a held-out task are the most likely ones instead of samples. Actions in training are "
            "always samples."
        ),
    ] = False


def with_training_reward(family: EnvFamily, config: Config) -> Callable[[Task, Transition], Transition]:
    """Make a function of a task and a trial on it, ``[T, ...]``, that returns the trial with the rewards to train on.

    Raises:
        ValueError: if the family does not have the training reward.
    """
    if config.training_reward == "paid":
        return lambda task, t: t
    privileged = family.privileged or Privileged()
    of_task, of_belief = privileged.training_reward, privileged.belief_reward
    rewards = {
        "task": of_task,
        "belief": None if of_belief is None else lambda task, t, discount: of_belief(t, discount),
    }
    reward = rewards[config.training_reward]
    if reward is None:
        valid = " or ".join(f'"{name}"' for name in ("paid", *(name for name in rewards if rewards[name])))
        member = {"task": "training_reward", "belief": "belief_reward"}[config.training_reward]
        raise ValueError(
            f'training_reward "{config.training_reward}" needs a family with EnvFamily.privileged.{member}, which '
            f"this family does not have: use {valid}"
        )

    def instead(task: Task, t: Transition) -> Transition:
        learnt = reward(task, t, config.discount)
        return t._replace(reward=jnp.where(t.valid, learnt, 0.0).astype(jnp.float32))

    return instead


class MinibatchOptimizer(NamedTuple):
    """An optimiser that improves an objective on minibatches of trials."""

    init: Callable[[Params], optax.OptState]
    """``params ->`` the state of the optimiser."""
    update: Callable[[Key, Params, optax.OptState, Any, Array], tuple[Params, optax.OptState, Metrics]]
    """``(key, params, optimiser's state, batch [T, B, ...], iteration) -> (params, optimiser's state, metrics)``."""


def learning_rates(learning_rate: float | Array, config: OptimizationConfig) -> Callable[[Array], Array]:
    """Make the schedule of a learning rate over meta-iterations, not gradient steps: ``iteration -> float32``.

    Args:
        learning_rate: the learning rate at the start of training.
        config: valid settings, which define how the learning rate changes, and over how many iterations.
    """
    match config.learning_rate_schedule:
        case "constant":
            schedule = optax.constant_schedule(learning_rate)
        case "linear":
            end = learning_rate * config.final_learning_rate_fraction
            schedule = optax.linear_schedule(learning_rate, end, config.iterations)
        case "cosine":
            fraction = config.final_learning_rate_fraction
            schedule = optax.cosine_decay_schedule(learning_rate, config.iterations, fraction)
    return lambda iteration: jnp.asarray(schedule(iteration), jnp.float32)


def adam(learning_rate: float | Array, config: OptimizationConfig) -> optax.GradientTransformation:
    """Make Adam on gradients that are scaled down to ``config.max_grad_norm``.

    The learning rate may be a tracer, and differ between meta-iterations, because the optimiser's state does not depend
    on it. A schedule within the chain would count gradient steps instead of meta-iterations.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(eps=config.adam_epsilon),
        optax.scale_by_learning_rate(learning_rate),
    )


def minibatch_optimizer(
    loss: Callable[[Params, Any, Array], tuple[Array, Metrics]], steps: int, config: OptimizationConfig
) -> MinibatchOptimizer:
    """Make an optimiser that runs Adam on minibatches of whole trials.

    Args:
        loss: ``(params, batch, coefficient of entropy) -> (loss, metrics)``. The loss is a weighted sum over the
            batch's steps, so that the losses of parts of a batch add up. A batch is a named tuple with leaves
            ``[T, B, ...]``, whose leaf ``weight`` holds the weight of each step.
        steps: the number T of steps of a trial.
        config: valid settings.
    """
    trials_per_minibatch = config.trials // config.minibatches
    learning_rate_at = learning_rates(config.learning_rate, config)

    def entropy_coefficient_at(iteration: Array) -> Array:
        progress = jnp.clip(iteration / config.iterations, 0, 1)
        return config.entropy_coefficient * jnp.maximum(0, 1 - progress / config.entropy_decay)

    def loss_gradient(params: Params, batch: Any, entropy_coefficient: Array) -> tuple[Params, Metrics]:
        batch = batch._replace(weight=batch.weight / jnp.maximum(jnp.sum(batch.weight), 1))
        gradient = jax.grad(loss, has_aux=True)
        if config.accumulation == 1:
            return gradient(params, batch, entropy_coefficient)

        def split(x: Array) -> Array:
            size = trials_per_minibatch // config.accumulation
            return jnp.moveaxis(x.reshape(steps, config.accumulation, size, *x.shape[2:]), 1, 0)

        return sequential_sum(lambda part: gradient(params, part, entropy_coefficient), jax.tree.map(split, batch))

    def update(
        key: Key, params: Params, optimizer_state: optax.OptState, batch: Any, iteration: Array
    ) -> tuple[Params, optax.OptState, Metrics]:
        learning_rate, entropy_coefficient = learning_rate_at(iteration), entropy_coefficient_at(iteration)
        optimizer = adam(learning_rate, config)

        def gradient_step(
            carry: tuple[Params, optax.OptState], indices: Array
        ) -> tuple[tuple[Params, optax.OptState], Metrics]:
            params, optimizer_state = carry
            minibatch = jax.tree.map(lambda x: jnp.take(x, indices, axis=1), batch)
            gradient, metrics = loss_gradient(params, minibatch, entropy_coefficient)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            params = optax.apply_updates(params, updates)
            return (params, optimizer_state), {**metrics, "gradient_norm": optax.tree.norm(gradient)}

        # Every epoch uses each trial once.
        orders = jax.vmap(lambda k: jax.random.permutation(k, config.trials))(jax.random.split(key, config.epochs))
        (params, optimizer_state), metrics = jax.lax.scan(
            gradient_step, (params, optimizer_state), orders.reshape(-1, trials_per_minibatch)
        )
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        return params, optimizer_state, {**metrics, "learning_rate": learning_rate}

    return MinibatchOptimizer(adam(config.learning_rate, config).init, update)


class Record(NamedTuple):
    """The values of a step that acting records for learning."""

    log_prob: Array
    value: Array


def record(output: Output, action: Array) -> Record:
    """Return the record of a step, from the policy's output and the sampled action."""
    return Record(output.distribution.log_prob(action), output.value)


class Batch(NamedTuple):
    """Trials with all values that PPO's loss needs. Every leaf is ``[T, B, ...]``."""

    inputs: Inputs
    action: Array
    log_prob: Array
    advantage: Array
    value_target: Array
    """The critic's targets, in the critic's unit."""
    weight: Array
    """The weight of each step in a mean over the batch: 0 after the end of the trial."""


class Normalised(NamedTuple):
    """Parameters of a policy whose observations are normalised. Only those of the network get gradients."""

    network: Params
    seen: RunningStatistics


class Auxiliary(NamedTuple):
    """A loss that is added to PPO's, such as the prediction of rewards from a memory's features.

    The gradient of the sum trains the policy together with the parameters of the auxiliary loss.
    """

    loss: Callable[[WithAuxiliary, Output, Batch], tuple[Array, Metrics]]
    """``(parameters, outputs of the policy's unroll [T, B, ...], minibatch [T, B, ...]) -> (scalar, metrics)``. The
    scalar is a sum over steps weighted by ``batch.weight`` (``ops.policy_gradients.weighted_sum``). The weights add up
    to 1 over a minibatch and are 0 after a trial's end, so that gradients of parts of a minibatch add up."""
    init: Callable[[Key], Params] = lambda key: ()
    """``key ->`` the parameters of the auxiliary loss. None by default."""


class WithAuxiliary(NamedTuple):
    """Parameters of a policy that is trained with an auxiliary loss."""

    policy: Params
    auxiliary: Params
    """The parameters of the auxiliary loss (``Auxiliary.init``)."""


AUXILIARY_KEY = 0x61757869
"""The number that is folded into the key of auxiliary parameters, so that the policy's parameters do not depend on
whether there is an auxiliary loss."""


def with_auxiliary(policy: Policy, auxiliary: Auxiliary) -> Policy:
    """Return the same policy with parameters of the type ``WithAuxiliary``."""

    def init(key: Key) -> WithAuxiliary:
        return WithAuxiliary(policy.init(key), auxiliary.init(jax.random.fold_in(key, AUXILIARY_KEY)))

    def initial_carry(params: WithAuxiliary) -> Carry:
        return policy.initial_carry(params.policy)

    def step(params: WithAuxiliary, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return policy.step(params.policy, carry, inputs)

    def unroll(params: WithAuxiliary, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return policy.unroll(params.policy, carry, inputs)

    return Policy(init, initial_carry, step, unroll, policy.critic)


FARTHEST = 10.0
"""The number of standard deviations from the mean at which observations are clipped, as in Zintgraf et al. (2020)."""


def normalised(policy: Policy, observation_space: Space) -> Policy:
    """Return the policy on observations that are scaled to mean 0 and variance 1, with parameters of the type
    ``Normalised``.

    Raises:
        ValueError: if observations are not real numbers.
    """
    if not isinstance(observation_space, Box):
        raise ValueError(f"normalise_observations is for observations that are real numbers, not {observation_space!r}")

    def shown(params: Normalised, inputs: Inputs) -> Inputs:
        return inputs._replace(obs=normalise(jax.lax.stop_gradient(params.seen), inputs.obs, FARTHEST))

    def init(key: Key) -> Normalised:
        return Normalised(policy.init(key), initial_statistics(observation_space.shape))

    def initial_carry(params: Normalised) -> Carry:
        return policy.initial_carry(params.network)

    def step(params: Normalised, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return policy.step(params.network, carry, shown(params, inputs))

    def unroll(params: Normalised, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return policy.unroll(params.network, carry, shown(params, inputs))

    return Policy(init, initial_carry, step, unroll, policy.critic)


class Learning(NamedTuple):
    """The functions by which a policy learns from trials."""

    policy: Policy
    """The policy that acts and learns."""
    init: Callable[[Params], optax.OptState]
    """``params ->`` the state of the optimiser."""
    prepare: Callable[[Inputs, Transition, Record, Array], Batch]
    """``(the policy's inputs, trial, the policy's records, iteration) ->`` the trial for learning, ``[T, ...]``."""
    update: Callable[[Key, Params, optax.OptState, Batch, Array], tuple[Params, optax.OptState, Metrics]]
    """``(key, params, optimiser's state, batch [T, B, ...], iteration) -> (params, optimiser's state, metrics)``."""


def make(
    policy: Policy, observation_space: Space, steps: int, config: Config, auxiliary: Auxiliary | None = None
) -> Learning:
    """Make PPO for a policy.

    Args:
        policy: the policy, whose memory, if it has one, lasts over a trial.
        observation_space: the space of the policy's observations.
        steps: the number T of steps of a trial.
        config: valid settings.
        auxiliary: a loss to add to PPO's. The policy's parameters are then ``WithAuxiliary``.

    Raises:
        ValueError: if observations are to be normalised and are not real numbers; when a gradient is traced, if the
            auxiliary loss is not a scalar, or has a metric with the name of one of PPO's metrics.
    """
    if auxiliary is not None:
        policy = with_auxiliary(policy, auxiliary)
    if config.normalise_observations:
        policy = normalised(policy, observation_space)
    if config.value_unit == "remaining_horizon":
        value_scale = remaining_horizon(steps, config.discount)
    else:
        value_scale = jnp.ones(steps, jnp.float32)

    last_lambda = config.gae_lambda + config.gae_lambda_rise * (1 - config.gae_lambda)
    gae_lambda_at = optax.linear_schedule(config.gae_lambda, last_lambda, config.iterations)

    def prepare(inputs: Inputs, t: Transition, recorded: Record, iteration: Array) -> Batch:
        gae_lambda = jnp.asarray(gae_lambda_at(iteration), jnp.float32)
        chex.assert_shape([t.reward, t.valid, recorded.value, recorded.log_prob], (steps,))
        # Values after the trial's last step do not count, even if they are infinite or NaN.
        reward, value = (jnp.where(t.valid, x, 0.0) for x in (t.reward, recorded.value * value_scale))
        # The value is 0 after the trial's last step only, not after the ends of episodes.
        next_value = jnp.append(value[1:], 0.0)
        last = jnp.logical_not(jnp.append(t.valid[1:], False))
        discount = jnp.where(last, 0.0, config.discount)
        advantage = generalised_advantages(reward, discount, value, next_value, gae_lambda)
        target = (advantage + value) / value_scale
        log_prob = jnp.where(t.valid, recorded.log_prob, 0.0)
        return Batch(inputs, t.action, log_prob, advantage, target, t.valid.astype(jnp.float32))

    def loss(params: Params, batch: Batch, entropy_coefficient: Array) -> tuple[Array, Metrics]:
        """Return a weighted sum over the batch's steps, so that the losses of parts of a batch add up."""

        def total(x: Array) -> Array:
            return weighted_sum(x, batch.weight)

        trials = batch.action.shape[1]
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), policy.initial_carry(params))
        output = policy.unroll(params, carry, batch.inputs)[1]
        log_prob = output.distribution.log_prob(batch.action)
        chex.assert_equal_shape([log_prob, output.value, batch.weight])
        log_ratio = log_prob - batch.log_prob
        # The ratio of a step that does not count must not reach the gradient.
        log_ratio = jnp.where(batch.weight != 0, log_ratio, 0.0)
        surrogate = total(clipped_surrogate(log_ratio, batch.advantage, config.clip))
        value_loss = 0.5 * total((output.value - batch.value_target) ** 2)
        entropy = total(output.distribution.entropy())
        objective = -surrogate + config.value_coefficient * value_loss - entropy_coefficient * entropy
        metrics = {
            "value_loss": value_loss,
            "entropy": entropy,
            "approximate_kl": total(approximate_kl(log_ratio)),
            "clip_fraction": total((jnp.abs(jnp.expm1(log_ratio)) > config.clip).astype(jnp.float32)),
        }
        if auxiliary is not None:
            network = params.network if config.normalise_observations else params
            extra, extra_metrics = auxiliary.loss(network, output, batch)
            if jnp.shape(extra) != ():
                raise ValueError(f"an auxiliary loss must be a scalar, not of shape {jnp.shape(extra)}")
            if taken := sorted({"loss", *metrics} & extra_metrics.keys()):
                raise ValueError(
                    f"PPO already has a metric {taken[0]!r}: give the metric of the auxiliary loss another name"
                )
            objective, metrics = objective + extra, metrics | extra_metrics
        return objective, {"loss": objective, **metrics}

    policy_optimizer = minibatch_optimizer(loss, steps, config)

    def update(
        key: Key, params: Params, optimizer_state: optax.OptState, batch: Batch, iteration: Array
    ) -> tuple[Params, optax.OptState, Metrics]:
        if config.normalise_advantages:
            mean = masked_mean(batch.advantage, batch.weight)
            variance = masked_mean((batch.advantage - mean) ** 2, batch.weight)
            batch = batch._replace(advantage=(batch.advantage - mean) * jax.lax.rsqrt(variance + 1e-8))
        params, optimizer_state, metrics = policy_optimizer.update(key, params, optimizer_state, batch, iteration)
        if config.normalise_observations:
            # The statistics are updated last, because probability ratios refer to the policy that collected the trials.
            params = params._replace(seen=observe(params.seen, batch.inputs.obs, batch.weight))
        return params, optimizer_state, metrics

    return Learning(policy, policy_optimizer.init, prepare, update)
