"""RL² on bandits with a privileged critic: expected policy gradients from exact beliefs about the arms.

Most of the variance of sampled returns is noise: the task, the rewards of pulls, and the later actions are random. The
distribution of training tasks is known, so that in training the beliefs about the arms can be computed exactly
(``types.Arm``). They give, for every possible pull, the probabilities of its rewards and of the following beliefs: they
are the state of the Bayes-adaptive MDP (Zintgraf et al. 2020, section 2.2). The critic therefore gets the beliefs in
place of the policy's memory (an asymmetric actor-critic, Pinto et al. 2018), and advantages are computed for all arms
at all steps, whether pulled or not:

    Q(b, a) = r(b, a) + discount * sum_o p(o | b, a) V(b after o of a),    A(b, a) = Q(b, a) - sum_a' pi(a') Q(b, a').

The objective to be maximised is sum_a pi(a) A(b, a) (expected policy gradients, Ciosek & Whiteson 2018), with PPO's
clipping for each action. Only the beliefs that trials visit are still random. The policy has the same inputs as in RL²,
and adapts to a held-out task as in RL².
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import ppo
from metarl_jax.batching import map_tasks
from metarl_jax.family_checks import check_shapes
from metarl_jax.interfaces.asymmetric import AsymmetricNetworks
from metarl_jax.network_checks import check_asymmetric_networks
from metarl_jax.ops.distributions import Categorical
from metarl_jax.ops.policy_gradients import clipped_surrogate, weighted_sum
from metarl_jax.ops.returns import expected_advantages, remaining_horizon
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.settings import Doc, Fraction, PositiveFloat, PositiveInt
from metarl_jax.types import (
    Acting,
    Adaptation,
    Algorithm,
    Arm,
    Array,
    Carry,
    Discrete,
    EnvFamily,
    Inputs,
    Key,
    Metrics,
    Outcomes,
    Params,
    Privileged,
    Task,
    Transition,
)


@dataclass(frozen=True, kw_only=True)
class Config(ppo.OptimizationConfig):
    """Settings of RL² with a privileged critic: those of PPO's optimisation, and of the critic.

    Advantages are not scaled, so the entropy bonus is in units of reward per nat.
    """

    entropy_coefficient: Annotated[
        float,
        Doc(
            "Weight of the entropy bonus (in units of reward per nat) at the start of training; it decays "
            "linearly to zero."
        ),
    ] = 0.02
    exploration: Annotated[
        Fraction,
        Doc(
            "Probability that an action in training is drawn uniformly from all arms, so that the critic is also "
            "trained on consequences of actions that the policy no longer takes. ``adapt`` uses no such exploration."
        ),
    ] = 0.03
    critic_lambda: Annotated[
        Fraction,
        Doc(
            "Lambda of the returns that the critic learns. The returns are expectations over the action and the "
            "outcome of each step."
        ),
    ] = 0.9
    critic_epochs: Annotated[
        PositiveInt,
        Doc(
            "Number of passes of the critic over the collected trials. The critic is small, and its errors "
            "become errors of the policy."
        ),
    ] = 6
    critic_learning_rate: Annotated[
        PositiveFloat,
        Doc("Adam's step size of the critic at the start of training; its schedule is that of ``learning_rate``."),
    ] = 3e-3


class State(NamedTuple):
    """The state of the outer loop."""

    params: Params
    optimizer: optax.OptState
    critic: Params
    critic_optimizer: optax.OptState
    iteration: Array
    """The number of completed meta-iterations, ``int32``."""


class Batch(NamedTuple):
    """Trials for the training of the policy. Every leaf is ``[T, B, ...]``."""

    inputs: Inputs
    log_probs: Array
    """``[T, B, K]``: the log-probability of every action when the trials were played."""
    advantages: Array
    """``[T, B, K]``: the advantage of every action."""
    weight: Array


class Lesson(NamedTuple):
    """Trials for the training of the critic."""

    known: Array
    """``[T, B, K, F]``: the features of the beliefs about the arms."""
    target: Array
    """``[T, B]``: the critic's targets, in the critic's unit."""
    weight: Array
    """``[T, B]``: the weight of each step, the square of the critic's unit. Advantages are differences of returns, so
    the errors of returns, not of mean rewards, count equally at all steps."""


def beliefs(arm: Arm, arms: int, pulls: Transition) -> Any:
    """Return the belief about each arm before each pull of a trial.

    Args:
        arm: the prior and its update.
        arms: the number K of arms.
        pulls: the steps ``[T, ...]`` from the beginning of a trial.

    Returns:
        The beliefs, ``[T, K, ...]``.
    """

    def pull(believed: Any, pulled: tuple[Array, Array]) -> tuple[Any, Any]:
        which, reward = pulled
        after = arm.observe(jax.tree.map(lambda x: x[which], believed), reward)
        return jax.tree.map(lambda x, new: x.at[which].set(new), believed, after), believed

    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (arms, *jnp.shape(x))), arm.prior)
    return jax.lax.scan(pull, start, (pulls.action, pulls.reward))[1]


def lookahead_features(arm: Arm, belief: Any) -> tuple[Array, Outcomes, Array]:
    """Return a belief's features ``[F]``, the outcomes of a pull, and the features after each outcome ``[O, F]``."""
    outcomes = arm.outcomes(belief)
    then = jax.vmap(lambda reward: arm.features(arm.observe(belief, reward)))(outcomes.reward)
    return arm.features(belief), outcomes, then


def make(family: EnvFamily, networks: AsymmetricNetworks, config: Config) -> Algorithm:
    """Make RL² with a privileged critic on a family of bandits.

    ``adapt`` plays one trial of ``config.episodes`` episodes, and its scores are the returns of the episodes. Actions
    are sampled from the policy. The learner is the memory at the end.

    Raises:
        ValueError: if the family is not one of bandits with finitely many rewards, if it is wrong (``family_checks``),
            or if the networks do not fit it.
    """
    shapes = check_shapes(family, episodes=config.episodes, discount=config.discount)
    privileged, space = family.privileged or Privileged(), family.action_space
    belief_reward, arm = privileged.belief_reward, privileged.arm
    if arm is None or belief_reward is None or not isinstance(space, Discrete):
        raise ValueError(
            "a privileged critic is for bandits whose arms pay finitely many rewards "
            "(EnvFamily.privileged.arm and EnvFamily.privileged.belief_reward)"
        )
    check_asymmetric_networks(networks, family, shapes)
    policy, critic = networks.policy, networks.critic
    steps, arms = config.episodes * family.horizon, space.n
    left = jnp.arange(steps, 0, -1, dtype=jnp.float32)
    scale = remaining_horizon(steps, config.discount)

    def play(key: Key, params: Params, task: Task, exploration: float | Array) -> tuple[Carry, Transition]:
        def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, Array]:
            carry, output = policy.step(params, carry, inputs)
            logits = output.distribution.logits
            exploring = (1 - exploration) * jax.nn.softmax(logits) + exploration / arms
            return carry, Categorical(jnp.log(exploring)).sample(key), logits

        return trial(key, act, policy.initial_carry(params), family, task, config.episodes)

    def collect(key: Key, params: Params, critic_params: Params) -> tuple[Batch, Lesson, Array]:
        """Play one trial on a newly drawn task; return it for the policy and for the critic, and its total reward."""
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        _, t = play(key_trial, params, task, config.exploration)
        each = jax.vmap(jax.vmap(lambda belief: lookahead_features(arm, belief)))
        known, outcomes, then = each(beliefs(arm, arms, t))
        expected = jnp.sum(outcomes.probability * outcomes.reward, axis=-1)
        # The family gives the expected reward of the pulled arm. That of another arm differs by the difference of their
        # expectations.
        pulled = jnp.sum(jax.nn.one_hot(t.action, arms, dtype=jnp.float32) * expected, axis=-1)
        reward = expected + (belief_reward(t, config.discount) - pulled)[:, None]
        value = scale * critic.value(critic_params, known, left)
        # The value after the last step is 0.
        next_scale = jnp.append(scale[1:], 0.0)
        next_value = next_scale[:, None, None] * critic.lookahead(critic_params, known, then, left - 1)
        log_probs = jax.nn.log_softmax(t.output)
        advantages, error = expected_advantages(
            jnp.exp(log_probs),
            reward,
            outcomes.probability,
            next_value,
            value,
            config.discount,
            config.critic_lambda,
        )
        weight = t.valid.astype(jnp.float32)
        batch = Batch(t.inputs, log_probs, advantages, weight)
        lesson = Lesson(known, (value + error) / scale, weight * scale**2)
        return batch, lesson, jnp.sum(weight * t.reward)

    collect_trials = map_tasks(
        collect,
        in_axes=(0, None, None),
        out_axes=(1, 1, 0),
        carry_of=lambda key, params, critic_params: policy.initial_carry(params),
    )

    def loss(params: Params, batch: Batch, entropy_coefficient: Array) -> tuple[Array, Metrics]:
        def total(x: Array) -> Array:
            return weighted_sum(x, batch.weight)

        trials = batch.weight.shape[1]
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), policy.initial_carry(params))
        distribution = policy.unroll(params, carry, batch.inputs)[1].distribution
        # Actions that had probability zero when the trial was played contribute nothing.
        possible = jnp.logical_and(batch.weight[..., None] != 0, batch.log_probs > -jnp.inf)
        log_ratio = jnp.where(possible, jax.nn.log_softmax(distribution.logits) - batch.log_probs, 0.0)
        probability = jnp.exp(batch.log_probs)
        surrogate = total(jnp.sum(probability * clipped_surrogate(log_ratio, batch.advantages, config.clip), axis=-1))
        entropy = total(distribution.entropy())
        objective = -surrogate - entropy_coefficient * entropy
        kl = total(jnp.sum(-probability * log_ratio, axis=-1))
        return objective, {"loss": objective, "entropy": entropy, "kl": kl}

    policy_optimizer = ppo.minibatch_optimizer(loss, steps, config)

    def critic_loss(params: Params, lesson: Lesson, entropy_coefficient: Array) -> tuple[Array, Metrics]:
        del entropy_coefficient
        value = critic.value(params, lesson.known, jnp.broadcast_to(left[:, None], lesson.target.shape))
        error = 0.5 * weighted_sum((value - lesson.target) ** 2, lesson.weight)
        return error, {"value_loss": error}

    critic_config = replace(
        config, epochs=config.critic_epochs, learning_rate=config.critic_learning_rate, accumulation=1
    )
    critic_descent = ppo.minibatch_optimizer(critic_loss, steps, critic_config)

    def init(key: Key) -> State:
        key_policy, key_critic = jax.random.split(key)
        params, critic_params = policy.init(key_policy), critic.init(key_critic)
        return State(
            params, policy_optimizer.init(params), critic_params, critic_descent.init(critic_params), jnp.int32(0)
        )

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        key_collect, key_policy, key_critic = jax.random.split(key, 3)
        keys = jax.random.split(key_collect, config.trials)
        batch, lesson, trial_reward = collect_trials(keys, state.params, state.critic)
        params, optimizer, metrics = policy_optimizer.update(
            key_policy, state.params, state.optimizer, batch, state.iteration
        )
        critic_params, critic_optimizer, of_critic = critic_descent.update(
            key_critic, state.critic, state.critic_optimizer, lesson, state.iteration
        )
        metrics = {**metrics, "value_loss": of_critic["value_loss"], "trial_reward": jnp.mean(trial_reward)}
        return State(params, optimizer, critic_params, critic_optimizer, state.iteration + 1), metrics

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        memory, transitions = play(key, state.params, task, 0.0)
        success = episode_successes(transitions, family, task, config.episodes)
        return Adaptation(episode_returns(transitions, config.episodes), memory, success)

    def act(key: Key, params: Params, carry: Carry, inputs: Inputs, final_obs: Array) -> tuple[Carry, Array, tuple[()]]:
        del final_obs
        carry, output = policy.step(params, carry, inputs)
        return carry, output.distribution.sample(key), ()

    acting = Acting(params=lambda state: state.params, start=lambda key, params: policy.initial_carry(params), act=act)
    return Algorithm(init, step, adapt, config.iterations, acting=acting)
