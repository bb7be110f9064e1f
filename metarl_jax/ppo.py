"""Proximal policy optimisation of whole trials (Schulman et al. 2017), for learners that act with one policy.

A trial is one trajectory: discounting and advantage estimation run on across the ends of its episodes, and stop
only where it does. What the policy is shown, and who remembers, is the learner's business.
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
    """Settings of maximising PPO's objective on minibatches of trials, however advantages are estimated.

    Defaults without a source were chosen here, on tasks that no reported result uses.
    """

    episodes: Annotated[PositiveInt, Doc("Episodes per trial.")] = 10
    iterations: Annotated[
        PositiveInt, Doc("Meta-iterations of a whole run; the learning rate's schedule ends here.")
    ] = 600
    trials: Annotated[PositiveInt, Doc("Trials (tasks) collected per meta-iteration.")] = 512
    epochs: Annotated[PositiveInt, Doc("Passes over the collected trials.")] = 2
    minibatches: Annotated[
        PositiveInt, Doc("Gradient steps per pass; each takes trials / minibatches whole trials.")
    ] = 4
    accumulation: Annotated[
        PositiveInt,
        Doc(
            "Parts in which a gradient is computed, one after another: the same gradient from less memory, "
            "and on a CPU faster where a part fits its cache and the whole does not."
        ),
    ] = 1
    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size at the start.")] = 3e-3
    learning_rate_schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        Doc("How the step size goes to ``final_learning_rate_fraction`` of its start."),
    ] = "linear"
    final_learning_rate_fraction: Annotated[
        Fraction, Doc("Step size at the end of training, as a fraction of the start.")
    ] = 0.0
    adam_epsilon: Annotated[PositiveFloat, Doc("Adam's epsilon.")] = 1e-5
    max_grad_norm: Annotated[PositiveFloat, Doc("Gradients are scaled down to this global norm.")] = 1.0
    discount: Annotated[
        Fraction,
        Doc(
            "Per step, across episode ends. Trials are finite and scored by their undiscounted reward, hence "
            "1 (0.99 in Duan et al. 2016)."
        ),
    ] = 1.0
    clip: Annotated[PositiveFloat, Doc("PPO's clipping radius of the probability ratio.")] = 0.2
    entropy_coefficient: Annotated[
        NonNegativeFloat,
        Doc("Weight of the entropy bonus, in nats per step, at the start; it decays linearly to zero."),
    ] = 0.05
    entropy_decay: Annotated[
        PositiveFloat,
        Doc(
            "Share of training after which the bonus is zero. A policy becomes no surer of itself while there "
            "is a bonus to gain by hesitating, nor when there is no step size left to learn with; above 1 "
            "some of the bonus stays."
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
        Fraction, Doc("Lambda of the advantage estimator at the start (0.3 in Duan et al. 2016).")
    ] = 0.6
    gae_lambda_rise: Annotated[
        Fraction,
        Doc(
            "How much of what it lacks to 1 lambda gains by the end of training, linearly. A critic's errors "
            "bias what a small lambda teaches; early on less than its noise harms learning, late it is what "
            "keeps a policy from the best."
        ),
    ] = 0.0
    value_coefficient: Annotated[
        NonNegativeFloat,
        Doc(
            "Weight of the critic's loss. A mean reward per step varies by a tenth or so between memories, "
            'its square by a hundredth: hence a weight well above one in the unit "remaining_horizon".'
        ),
    ] = 50.0
    value_unit: Annotated[
        Literal["remaining_horizon", "reward"],
        Doc(
            'Unit of the critic\'s output. "reward": the return itself. "remaining_horizon": the return '
            "divided by the discounted number of steps left in the trial, i.e. a mean reward per step; keeps "
            "the loss of long trials from swamping the policy's gradient, and spares the critic from counting "
            "time."
        ),
    ] = "remaining_horizon"
    normalise_advantages: Annotated[
        bool, Doc("Whether advantages are scaled to mean 0 and variance 1 over the batch of trials.")
    ] = True
    normalise_observations: Annotated[
        bool,
        Doc(
            "Whether what the policy is shown is scaled to mean 0 and variance 1 over all iterations before "
            "(in Zintgraf et al. 2020, on MuJoCo, observations and beliefs are)."
        ),
    ] = False
    training_reward: Annotated[
        Literal["paid", "task", "belief"],
        Doc(
            'The rewards that are learned from. "task": those of the family\'s ``privileged.training_reward``, which '
            'knows the task. "belief": those of its ``privileged.belief_reward``, which knows what the trial has shown '
            "of the task. The policy sees the rewards that were paid, and those are reported."
        ),
    ] = "paid"


def with_training_reward(family: EnvFamily, config: Config) -> Callable[[Task, Transition], Transition]:
    """A function of a task and a trial of it, ``[T, ...]``, that returns the trial with the rewards to learn from.

    Raises:
        ValueError: for a training reward that the family does not have.
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
            f'training_reward "{config.training_reward}" needs a family with EnvFamily.privileged.{member}, which this '
            f"family does not have: give {valid}"
        )

    def instead(task: Task, t: Transition) -> Transition:
        learnt = reward(task, t, config.discount)
        return t._replace(reward=jnp.where(t.valid, learnt, 0.0).astype(jnp.float32))

    return instead


class MinibatchOptimizer(NamedTuple):
    """How parameters ascend an objective of trials."""

    init: Callable[[Params], optax.OptState]
    """The optimiser's state."""
    update: Callable[[Key, Params, optax.OptState, Any, Array], tuple[Params, optax.OptState, Metrics]]
    """``(key, params, optimiser's state, batch [T, B, ...], iteration) -> (params, optimiser's state, metrics)``."""


def learning_rates(learning_rate: float | Array, config: OptimizationConfig) -> Callable[[Array], Array]:
    """The schedule of a learning rate over META-iterations, not over gradient steps: ``iteration -> float32``.

    Args:
        learning_rate: at the start of training.
        config: valid settings; how the learning rate changes, and over how many iterations.
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
    """Adam on gradients that are scaled down to ``config.max_grad_norm``.

    The learning rate may be a tracer, and another one in every meta-iteration: the optimiser's state does not depend on
    it. A schedule within the chain would count gradient steps.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(eps=config.adam_epsilon),
        optax.scale_by_learning_rate(learning_rate),
    )


def minibatch_optimizer(
    loss: Callable[[Params, Any, Array], tuple[Array, Metrics]], steps: int, config: OptimizationConfig
) -> MinibatchOptimizer:
    """Adam on minibatches of whole trials.

    Args:
        loss: ``(params, batch, coefficient of entropy) -> (what to descend on, metrics)``, a sum over the batch's steps
            by their weights, so that parts of a batch add up. A batch is a named tuple, ``[T, B, ...]``, one of whose
            leaves is ``weight``: what each step counts for.
        steps: T, of a trial.
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

        # In every epoch, each trial.
        orders = jax.vmap(lambda k: jax.random.permutation(k, config.trials))(jax.random.split(key, config.epochs))
        (params, optimizer_state), metrics = jax.lax.scan(
            gradient_step, (params, optimizer_state), orders.reshape(-1, trials_per_minibatch)
        )
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        return params, optimizer_state, {**metrics, "learning_rate": learning_rate}

    return MinibatchOptimizer(adam(config.learning_rate, config).init, update)


class Record(NamedTuple):
    """What acting leaves behind for learning."""

    log_prob: Array
    value: Array


def record(output: Output, action: Array) -> Record:
    """Of a step that a policy took."""
    return Record(output.distribution.log_prob(action), output.value)


class Batch(NamedTuple):
    """Trials ready for learning; every leaf ``[T, B, ...]``."""

    inputs: Inputs
    action: Array
    log_prob: Array
    advantage: Array
    value_target: Array
    """In the critic's unit."""
    weight: Array
    """What each step counts for in a mean over the batch: 0 after the trial's end."""


class Normalised(NamedTuple):
    """Parameters of a policy whose observations are normalised. Only the network's are descended on."""

    network: Params
    seen: RunningStatistics


class Auxiliary(NamedTuple):
    """A loss that is added to PPO's, such as predicting rewards from a memory's features.

    The gradient of the sum trains the policy together with parameters of the loss's own.
    """

    loss: Callable[[WithAuxiliary, Output, Batch], tuple[Array, Metrics]]
    """``(parameters, outputs of the policy's unroll [T, B, ...], minibatch [T, B, ...]) -> (scalar, metrics)``. The
    scalar is a sum over steps weighted by ``batch.weight`` (``ops.policy_gradients.weighted_sum``), which adds up to 1
    over a minibatch and is 0 after a trial's end: where a gradient is computed in parts, the parts add up."""
    init: Callable[[Key], Params] = lambda key: ()
    """Parameters of its own; none if not given."""


class WithAuxiliary(NamedTuple):
    """Parameters of a policy that is trained with an auxiliary loss."""

    policy: Params
    auxiliary: Params
    """Of the loss itself (``Auxiliary.init``)."""


AUXILIARY_KEY = 0x61757869
"""What the key of auxiliary parameters is derived with: the policy's key is what it is without them."""


def with_auxiliary(policy: Policy, auxiliary: Auxiliary) -> Policy:
    """The same policy, whose parameters are ``WithAuxiliary``."""

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
"""Standard deviations from the mean at which observations are cut off, as in Zintgraf et al. (2020)."""


def normalised(policy: Policy, observation_space: Space) -> Policy:
    """The policy, shown observations of mean 0 and variance 1; its parameters are ``Normalised``.

    Raises:
        ValueError: for observations that are not real numbers.
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
    """How a policy learns from trials."""

    policy: Policy
    """The policy that acts and learns."""
    init: Callable[[Params], optax.OptState]
    """The optimiser's state."""
    prepare: Callable[[Inputs, Transition, Record, Array], Batch]
    """``(what the policy was shown, trial, what it recorded, iteration) ->`` the trial for learning, ``[T, ...]``."""
    update: Callable[[Key, Params, optax.OptState, Batch, Array], tuple[Params, optax.OptState, Metrics]]
    """``(key, params, optimiser's state, batch [T, B, ...], iteration) -> (params, optimiser's state, metrics)``."""


def make(
    policy: Policy, observation_space: Space, steps: int, config: Config, auxiliary: Auxiliary | None = None
) -> Learning:
    """PPO.

    Args:
        policy: whose memory, if any, lasts over a trial.
        observation_space: of what the policy is shown.
        steps: T, of a trial.
        config: valid settings.
        auxiliary: a loss to add to PPO's. The policy's parameters are then ``WithAuxiliary``.

    Raises:
        ValueError: for observations that are to be normalised and are not real numbers; when a gradient is traced, for
            an auxiliary loss that is no scalar or has a metric with the name of one of PPO's.
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
        # What comes after the trial's last step counts for nothing, even if it is infinite or NaN.
        reward, value = (jnp.where(t.valid, x, 0.0) for x in (t.reward, recorded.value * value_scale))
        # The trial is the unit: what follows its last step, and only that, is worth nothing.
        next_value = jnp.append(value[1:], 0.0)
        last = jnp.logical_not(jnp.append(t.valid[1:], False))
        discount = jnp.where(last, 0.0, config.discount)
        advantage = generalised_advantages(reward, discount, value, next_value, gae_lambda)
        target = (advantage + value) / value_scale
        log_prob = jnp.where(t.valid, recorded.log_prob, 0.0)
        return Batch(inputs, t.action, log_prob, advantage, target, t.valid.astype(jnp.float32))

    def loss(params: Params, batch: Batch, entropy_coefficient: Array) -> tuple[Array, Metrics]:
        """A sum over the batch's steps by their weights, so that parts of a batch add up."""

        def total(x: Array) -> Array:
            return weighted_sum(x, batch.weight)

        trials = batch.action.shape[1]
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), policy.initial_carry(params))
        output = policy.unroll(params, carry, batch.inputs)[1]
        log_prob = output.distribution.log_prob(batch.action)
        chex.assert_equal_shape([log_prob, output.value, batch.weight])
        log_ratio = log_prob - batch.log_prob
        # Where a step does not count, whatever its ratio is must not reach the gradient.
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
                raise ValueError(f"PPO has a metric {taken[0]!r} already: give that of the auxiliary loss another name")
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
            # Not before: ratios are to the policy as it was when it was shown these.
            params = params._replace(seen=observe(params.seen, batch.inputs.obs, batch.weight))
        return params, optimizer_state, metrics

    return Learning(policy, policy_optimizer.init, prepare, update)
