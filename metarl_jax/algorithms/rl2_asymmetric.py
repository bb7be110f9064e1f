"""RL² on bandits, with a critic that knows what is known of the arms: policy gradients in expectation.

A policy learns from what its actions turn out to pay, and most of that is luck: which task it was, what pulls paid,
what was pulled then. Who knows the law of the training tasks knows more. To him each arm is a process of its own
(``types.Arm``), and he knows of every pull what it may pay, how likely, and what would then be known: the
Bayes-adaptive MDP (Zintgraf et al. 2020, section 2.2). So in training the critic sees the arms' beliefs in place of the
policy's memory (an asymmetric actor-critic, Pinto et al. 2018), and all arms at all steps are judged, pulled or not:

    Q(b, a) = r(b, a) + discount * sum_o p(o | b, a) V(b after o of a),    A(b, a) = Q(b, a) - sum_a' pi(a') Q(b, a').

What is ascended is sum_a pi(a) A(b, a) (expected policy gradients, Ciosek & Whiteson 2018), with PPO's clipping for
each action. Left to chance is only which beliefs trials come by. The policy is shown what RL² is shown, and no more; it
meets a task as RL² does.
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
    """Settings: those of PPO's ascent, and of the critic.

    Advantages are not scaled, so that the bonus for entropy is in rewards per nat.
    """

    entropy_coefficient: Annotated[
        float, Doc("Weight of the entropy bonus, in rewards per nat, at the start; it decays linearly to zero.")
    ] = 0.02
    exploration: Annotated[
        Fraction,
        Doc(
            "Probability that a pull in training is of an arm drawn evenly: what the policy no longer does "
            "must stay judged by a critic that has seen what it leads to. In ``adapt`` there is none."
        ),
    ] = 0.03
    critic_lambda: Annotated[
        Fraction,
        Doc(
            "Lambda of the returns that the critic learns, which are expectations over each step's action and outcome."
        ),
    ] = 0.9
    critic_epochs: Annotated[
        PositiveInt,
        Doc("The critic's passes over the collected trials: it is small, and what it has wrong the policy learns."),
    ] = 6
    critic_learning_rate: Annotated[
        PositiveFloat, Doc("Adam's step size for the critic; its schedule is that of ``learning_rate``.")
    ] = 3e-3


class State(NamedTuple):
    """The slow learner."""

    params: Params
    optimizer: optax.OptState
    critic: Params
    critic_optimizer: optax.OptState
    iteration: Array
    """Meta-iterations done, ``int32``."""


class Batch(NamedTuple):
    """Trials for the policy; every leaf ``[T, B, ...]``."""

    inputs: Inputs
    log_probs: Array
    """``[T, B, K]``, of every action, when the trials were played."""
    advantages: Array
    """``[T, B, K]``, of every action."""
    weight: Array


class Lesson(NamedTuple):
    """Trials for the critic."""

    known: Array
    """``[T, B, K, F]``."""
    target: Array
    """``[T, B]``, in the critic's unit."""
    weight: Array
    """``[T, B]``: the unit, squared. Advantages are differences of returns, not of mean rewards: no step's return
    matters less than another's."""


def beliefs(arm: Arm, arms: int, pulls: Transition) -> Any:
    """What is believed of each arm before each pull of a trial.

    Args:
        arm: what is believed, and how.
        arms: K.
        pulls: ``[T, ...]``, from the beginning of a trial.

    Returns:
        ``arm``'s beliefs, ``[T, K, ...]``.
    """

    def pull(believed: Any, pulled: tuple[Array, Array]) -> tuple[Any, Any]:
        which, reward = pulled
        after = arm.observe(jax.tree.map(lambda x: x[which], believed), reward)
        return jax.tree.map(lambda x, new: x.at[which].set(new), believed, after), believed

    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (arms, *jnp.shape(x))), arm.prior)
    return jax.lax.scan(pull, start, (pulls.action, pulls.reward))[1]


def lookahead_features(arm: Arm, belief: Any) -> tuple[Array, Outcomes, Array]:
    """What a critic is told of an arm ``[F]``; what a pull may pay; and what it would be told then, ``[O, F]``."""
    outcomes = arm.outcomes(belief)
    then = jax.vmap(lambda reward: arm.features(arm.observe(belief, reward)))(outcomes.reward)
    return arm.features(belief), outcomes, then


def make(family: EnvFamily, networks: AsymmetricNetworks, config: Config) -> Algorithm:
    """RL² with a privileged critic, on a family of bandits.

    ``adapt`` plays one trial of ``config.episodes`` episodes, sampling actions as in training, and returns the return
    of each; the learner is the memory at the end.

    Raises:
        ValueError: if the configuration is out of range, or the family is none of bandits with finitely many rewards;
            or if the family is wrong (``family_checks``), or the networks do not fit it.
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
        """One trial of a fresh task, for the policy and for the critic, and its total reward."""
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        _, t = play(key_trial, params, task, config.exploration)
        each = jax.vmap(jax.vmap(lambda belief: lookahead_features(arm, belief)))
        known, outcomes, then = each(beliefs(arm, arms, t))
        expected = jnp.sum(outcomes.probability * outcomes.reward, axis=-1)
        # The family says it of the arm that was pulled; others pay as much more as they are expected to.
        pulled = jnp.sum(jax.nn.one_hot(t.action, arms, dtype=jnp.float32) * expected, axis=-1)
        reward = expected + (belief_reward(t, config.discount) - pulled)[:, None]
        value = scale * critic.value(critic_params, known, left)
        # Nothing follows the last step.
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
