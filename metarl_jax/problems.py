"""Problems: a family of tasks combined with a network, for learners that do not take an ``EnvFamily``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.datasets import histories
from metarl_jax.family_checks import check_few_shot, check_shapes
from metarl_jax.interfaces.few_shot import FewShot, FewShotTask, InContextLearner, InContextProblem
from metarl_jax.interfaces.gradient import FewShotFunctions, InnerProblem, PolicyFunctions, Predictor
from metarl_jax.interfaces.imitation import Demonstration, Draw, Imitation
from metarl_jax.network_checks import check_in_context_learner, check_policy, check_predictor
from metarl_jax.ops.baselines import fit_linear, linear_features
from metarl_jax.ops.draws import without_replacement
from metarl_jax.ops.policy_gradients import clipped_surrogate, dice, likelihood_ratio, masked_mean
from metarl_jax.ops.returns import discounted_returns, generalised_advantages, remaining_horizon
from metarl_jax.precision import narrow
from metarl_jax.rollout import episode
from metarl_jax.settings import Doc, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import (
    Array,
    Box,
    Carry,
    Discrete,
    EnvFamily,
    Inputs,
    Key,
    Oracle,
    Output,
    Params,
    Policy,
    Task,
    TaskDistribution,
    Transition,
)


@partial(jax.tree_util.register_dataclass, data_fields=["support", "query", "further"], meta_fields=["batch_size"])
@dataclass(frozen=True)
class DrawnTask:
    """A task of a few-shot problem, which is drawn together with its examples."""

    support: Any
    """The examples to adapt on: ``(x, y)`` with leading axes of examples."""
    query: Any
    batch_size: int | None
    """The number of examples of the support in one inner step. None, or a number above that of all examples: all of
    them."""
    further: Any = None
    """Further examples for reference learners (``FewShotTask.further``); None: there are none."""


@dataclass(frozen=True, kw_only=True)
class FewShotSettings(Settings):
    """Settings of few-shot supervised learning by gradient descent."""

    batch_size: Annotated[
        PositiveInt | None,
        Doc(
            "Number of examples of a support in one inner step in training, drawn anew for each step without "
            "replacement (Reptile; its authors' code uses all examples of a support once before it shuffles them "
            "again, so that consecutive steps get more of the examples). None: all examples."
        ),
    ] = None
    heldout_batch_size: Annotated[
        PositiveInt | None,
        Doc("Number of examples of a support in one inner step on a held-out or validation task. None: all examples."),
    ] = None
    transductive: Annotated[
        bool,
        Doc(
            "Whether all examples of a query go through the network as one batch, so that a network that normalises "
            "over batches uses all of them. Otherwise each example goes through the network alone, together with "
            "the whole support (Nichol et al. 2018)."
        ),
    ] = True


def few_shot(
    family: FewShot,
    network: Predictor,
    settings: FewShotSettings = FewShotSettings(),
    *,
    heldout: FewShot | None = None,
) -> InnerProblem:
    """Make a problem of few-shot supervised learning by gradient descent.

    A task of this problem is drawn together with its examples (``DrawnTask``), so that support and query are always
    disjoint. Inner steps adapt on its support; the outer loss and the score use its query only.

    Args:
        family: training tasks, with their numbers of examples.
        network: the network that learns.
        settings: batches of examples.
        heldout: the same family with other numbers of examples, for held-out and for validation tasks.

    Raises:
        ValueError: if the family is wrong (``family_checks``), or if the network does not take the examples of the
            tasks, or has another number of outputs.
    """
    for kind in (family,) if heldout is None else (family, heldout):
        check_predictor(network, check_few_shot(kind), kind.outputs)

    def drawn(sample: Callable[[Key], FewShotTask], batch_size: int | None) -> Callable[[Key], DrawnTask]:
        def draw(key: Key) -> DrawnTask:
            task = sample(key)
            return DrawnTask(task.support, task.query, batch_size, task.further)

        return draw

    def support(key: Key, params: Params, task: DrawnTask) -> Any:
        del params
        examples = jax.tree.leaves(task.support)[0].shape[0]
        if task.batch_size is None or task.batch_size >= examples:
            return task.support
        chosen = without_replacement(key, examples, task.batch_size)
        return jax.tree.map(lambda x: x[chosen], task.support)

    def query(key: Key, params: Params, task: DrawnTask) -> Any:
        del key, params
        return task.query if settings.transductive else (*task.query, task.support[0])

    def predict(params: Params, batch: tuple[Array, ...]) -> Array:
        x, _, *beside = batch
        if not beside:
            return network.apply(params, x)
        # The query is not transductive: each example is the last one of a batch of its own, after the support.
        return jax.vmap(lambda one: network.apply(params, jnp.concatenate([beside[0], one[None]]))[-1])(x)

    def loss(params: Params, batch: tuple[Array, ...]) -> Array:
        return family.loss(predict(params, batch), batch[1])

    def score(params: Params, batch: tuple[Array, ...]) -> Array:
        return family.score(predict(params, batch), batch[1])

    def predict_query(params: Params, support: tuple[Array, Array], x: Array) -> Array:
        return predict(params, (x, x) if settings.transductive else (x, x, support[0]))

    whole = _episodes(family, heldout)
    tasks = TaskDistribution(
        drawn(whole.sample, settings.batch_size),
        drawn(whole.sample_heldout, settings.heldout_batch_size),
        drawn(whole.validation, settings.heldout_batch_size),
    )
    functions = FewShotFunctions(lambda examples: DrawnTask(examples, (), settings.heldout_batch_size), predict_query)
    return InnerProblem(tasks, network.init, support, query, loss, loss, score, few_shot=functions)


def in_context(family: FewShot, network: InContextLearner, *, heldout: FewShot | None = None) -> InContextProblem:
    """Make a problem of few-shot supervised learning in context, by a network that reads the support.

    Args:
        family: training tasks, with their numbers of examples.
        network: the network that learns.
        heldout: the same family with other numbers of examples, for held-out and for validation tasks.

    Raises:
        ValueError: if the family is wrong (``family_checks``), or if the network does not take the examples of the
            tasks, or has another number of outputs.
    """
    for kind in (family,) if heldout is None else (family, heldout):
        check_in_context_learner(network, check_few_shot(kind), kind.outputs)
    return InContextProblem(_episodes(family, heldout), network, family.loss, family.score)


@dataclass(frozen=True, kw_only=True)
class ImitationSettings(Settings):
    """Settings of the demonstrations that a learner imitates."""

    histories: Annotated[
        str | None,
        Doc(
            "Folder of stored learning histories (``datasets.histories``). None: a reference learner of the family "
            "plays new trials."
        ),
    ] = None


def imitation(
    family: EnvFamily, policy: Policy, source: Callable[[EnvFamily, int], Oracle] | histories.Histories | None
) -> Imitation:
    """Make a problem of imitation: a policy predicts the actions of another learner that adapts to training tasks.

    Args:
        family: the tasks.
        policy: a policy with a memory.
        source: makes a reference learner that provides its trials (``Oracle.play``) from the family and the number of
            episodes; or stored histories. None: there are no demonstrations, so that the policy can act, but not learn.

    Raises:
        ValueError: when demonstrations are made, if the reference learner does not provide its trials, or the histories
            do not fit; when a demonstration is drawn, if there are none.
    """

    def nothing(key: Key) -> Demonstration:
        raise ValueError("this problem of imitation has no demonstrations to learn from")

    def demonstrations(episodes: int) -> Draw:
        if source is None:
            return nothing
        if isinstance(source, histories.Histories):
            return source.demonstrations(family, episodes)
        oracle = source(family, episodes)
        play = oracle.play
        if play is None:
            raise ValueError(f"the reference learner {oracle.name!r} does not provide its trials (Oracle.play)")

        def draw(key: Key) -> Demonstration:
            key_task, key_play = jax.random.split(key)
            steps = play(key_play, family.tasks.sample(key_task))
            return Demonstration(steps.inputs, steps.action, steps.valid.astype(jnp.float32))

        return draw

    return Imitation(policy, demonstrations)


def _episodes(family: FewShot, heldout: FewShot | None) -> TaskDistribution:
    """Return distributions over tasks that are drawn together with their examples, so that support and query are
    disjoint.

    Validation tasks have the same numbers of examples as held-out tasks, so that the two scores are comparable.
    """

    def episode(family: FewShot, draw_task: Callable[[Key], Task]) -> Callable[[Key], FewShotTask]:
        def sample(key: Key) -> FewShotTask:
            key_task, key_draw = jax.random.split(key)
            return narrow(family.draw(key_draw, draw_task(key_task)))

        return sample

    test = family if heldout is None else heldout
    return TaskDistribution(
        episode(family, family.tasks.sample),
        episode(test, test.tasks.sample_heldout),
        episode(test, test.tasks.validation),
    )


Estimator: TypeAlias = Literal["dice", "likelihood_ratio", "log_likelihood"]


class Rollouts(NamedTuple):
    """Episodes of one policy on one task. Leaves are ``[E, H, ...]`` unless stated otherwise."""

    inputs: Inputs
    action: Array
    """The actions in the policy's units (see ``action_scale``)."""
    distribution: Any
    """The distributions over actions of the policy that played."""
    log_prob: Array
    """The log-probabilities of the actions under ``distribution``."""
    reward: Array
    advantage: Array
    """The advantages; 0 after an episode's end."""
    target: Array
    """The targets of a critic: the discounted return from this step on, divided by the discounted number of remaining
    steps."""
    valid: Array
    success: Array | None = None
    """``[E]`` float32: 1 for a successful episode, else 0. None: success is not defined for these tasks."""


@dataclass(frozen=True, kw_only=True)
class PolicyGradientSettings(Settings):
    """Settings of adaptation by policy gradients."""

    episodes: Annotated[PositiveInt, Doc("Number of episodes in one gradient step.")] = 20
    discount: Annotated[Fraction, Doc("Discount of rewards per step.")] = 0.99
    gae_lambda: Annotated[Fraction, Doc("Lambda of generalised advantage estimation.")] = 1.0
    estimator: Annotated[
        Estimator,
        Doc(
            "How the meta-gradient through an inner step is estimated. All estimators have the same inner gradient. "
            "Its derivative with respect to the parameters that collected the episodes differs, and with it the "
            'meta-gradient. "dice": unbiased (Foerster et al. 2018; Farquhar et al. 2019). "likelihood_ratio": low '
            "variance, without the dependence of later rewards on earlier actions' likelihoods (LVC, Rothfuss et "
            'al. 2019). "log_likelihood": the derivative of the log-likelihood surrogate, which also lacks the '
            "derivative of the sampling distribution (MAML as first published)."
        ),
    ] = "likelihood_ratio"
    baseline: Annotated[
        Literal["linear", "critic", "none"],
        Doc(
            'The baseline of returns. "linear": least squares on features of observation and time, fitted to the '
            "returns of each batch (Duan et al. 2016, arXiv 1604.06778); its features of time replace a bootstrap "
            'at the time limit. "critic": the value output of the policy, in units of the mean reward per remaining '
            'step, which the inner and the outer loss train. "none": no baseline.'
        ),
    ] = "linear"
    value_coefficient: Annotated[NonNegativeFloat, Doc("Weight of the critic's loss, if there is a critic.")] = 1.0
    normalise_advantages: Annotated[
        bool, Doc("Whether the advantages of each batch are scaled to mean 0 and variance 1.")
    ] = True
    clip: Annotated[
        PositiveFloat | None, Doc("PPO's clipping radius in the outer loss; None: the loss is not clipped.")
    ] = None
    action_scale: Annotated[
        PositiveFloat,
        Doc(
            "The environment gets the policy's actions divided by this number and clipped to the action space; "
            "log-probabilities are those of the unscaled actions. A Gaussian policy starts with a standard "
            "deviation of 1. The published code on robots uses a tenth of the action's bound as the unit of "
            "actions, which corresponds to 10 here: most actions of a new policy are then within the bounds. 1: the "
            "environment gets the policy's actions unchanged. Only for continuous actions."
        ),
    ] = 1.0


def policy_gradient(
    family: EnvFamily, policy: Policy, settings: PolicyGradientSettings = PolicyGradientSettings()
) -> InnerProblem:
    """Make a problem of reinforcement learning, where adaptation is REINFORCE on a few episodes, and the score is their
    mean return.

    The outer loss is the likelihood-ratio surrogate, clipped if ``settings.clip`` is a number (PPO).

    Args:
        family: the family of tasks. The linear baseline, and nothing else, clips continuous observations to [-10, 10].
        policy: a feed-forward policy.
        settings: episodes, estimators and losses.

    Raises:
        ValueError: if the policy has a memory, if the baseline is "critic" and the policy has no critic, if
            ``action_scale`` is not 1 for discrete actions, if the family is wrong (``family_checks``), or if the policy
            was made for other spaces.
    """
    episodes, discount = settings.episodes, settings.discount
    estimator, baseline = settings.estimator, settings.baseline
    if baseline == "critic" and not policy.critic:
        raise ValueError("baseline 'critic' needs a policy with a critic: this one has none")
    if jax.tree.leaves(jax.eval_shape(lambda key: policy.initial_carry(policy.init(key)), jax.random.key(0))):
        raise ValueError("policy must be feed-forward: this one has a memory")
    check_policy(policy, family, check_shapes(family))
    space, action_scale = family.action_space, settings.action_scale
    # The value of a traced scale is not known, so it counts as different from 1.
    rescaled = not isinstance(action_scale, int | float) or action_scale != 1
    if rescaled and isinstance(space, Discrete):
        raise ValueError(f"action_scale is for continuous actions: it must be 1 for {space!r}, not {action_scale!r}")
    steps = jnp.arange(family.horizon, dtype=jnp.int32)
    steps_left = remaining_horizon(family.horizon, discount)

    def output(params: Params, batch: Rollouts) -> Output:
        # The policy has no memory, so all steps are one batch.
        return policy.unroll(params, (), batch.inputs)[1]

    def judge(t: Transition, predicted: Array) -> tuple[Array, Array]:
        """Return the advantages and a critic's targets of the steps of E episodes, ``[E, H]`` each."""
        # The value after an episode's last step is 0: the horizon is part of the task, and time is a feature of the
        # baseline.
        valid = t.valid.astype(t.reward.dtype)
        reward = jnp.where(t.valid, t.reward, 0.0)
        discounts = jnp.where(jnp.logical_or(t.terminated, t.truncated), 0.0, discount) * valid
        returns = jax.vmap(discounted_returns)(reward, discounts)
        if baseline == "linear":
            flat = _flat(family, t.inputs.obs)
            features = linear_features(flat, jnp.broadcast_to(steps, valid.shape), family.horizon)
            coefficients = fit_linear(features.reshape(-1, features.shape[-1]), returns.reshape(-1), valid.reshape(-1))
            value = jnp.where(t.valid, features @ coefficients, 0.0)
        elif baseline == "critic":
            value = jnp.where(t.valid, predicted * steps_left, 0.0)
        else:
            value = jnp.zeros_like(reward)
        next_value = jnp.concatenate([value[:, 1:], jnp.zeros_like(value[:, :1])], axis=1)
        advantage = jax.vmap(generalised_advantages, in_axes=(0, 0, 0, 0, None))(
            reward, discounts, value, next_value, settings.gae_lambda
        )
        if settings.normalise_advantages:
            advantage = advantage - masked_mean(advantage, valid)
            advantage = advantage * jax.lax.rsqrt(masked_mean(advantage**2, valid) + 1e-8)
        return advantage * valid, returns / steps_left

    def to_environment(action: Array) -> Array:
        if not rescaled or isinstance(space, Discrete):
            return action
        return jnp.clip(action / action_scale, space.low, space.high)

    def act(key: Key, params: Params, inputs: Inputs) -> tuple[Array, Any]:
        _, output = policy.step(params, (), inputs)
        action = output.distribution.sample(key)
        played = (action, output.distribution, output.distribution.log_prob(action), output.value)
        return to_environment(action), played

    def play(key: Key, params: Params, task: Task) -> Transition:
        def act_now(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, Any]:
            return carry, *act(key, params, inputs)

        return episode(key, act_now, (), family, task)[1]

    def batch(t: Transition) -> Rollouts:
        action, distribution, log_prob, value = t.output
        reward = jnp.where(t.valid, t.reward, 0.0)
        return Rollouts(t.inputs, action, distribution, log_prob, reward, *judge(t, value), t.valid)

    def collect(key: Key, params: Params, task: Task) -> Rollouts:
        t = jax.vmap(lambda key: play(key, params, task))(jax.random.split(key, episodes))
        if family.success is None:
            return batch(t)
        reached = jax.vmap(jax.vmap(family.success, (None, 0)), (None, 0))(task, t)
        succeeded = jnp.any(jnp.logical_and(reached, t.valid), axis=1).astype(jnp.float32)
        return batch(t)._replace(success=succeeded)

    def critic_loss(output: Output, batch: Rollouts) -> Array | float:
        if baseline != "critic":
            return 0.0
        return settings.value_coefficient * masked_mean((output.value - batch.target) ** 2, batch.valid)

    def inner_loss(params: Params, batch: Rollouts) -> Array:
        played = output(params, batch)
        log_prob = jnp.where(batch.valid, played.distribution.log_prob(batch.action), 0.0)
        match estimator:
            case "dice":
                gain = jax.vmap(dice)(log_prob, batch.advantage)
            case "likelihood_ratio":
                log_ratio = jnp.where(batch.valid, log_prob - batch.log_prob, 0.0)
                gain = likelihood_ratio(log_ratio) * batch.advantage
            case "log_likelihood":
                gain = log_prob * batch.advantage
        return critic_loss(played, batch) - masked_mean(gain, batch.valid)

    def outer_loss(params: Params, batch: Rollouts) -> Array:
        played = output(params, batch)
        log_ratio = jnp.where(batch.valid, played.distribution.log_prob(batch.action) - batch.log_prob, 0.0)
        radius = math.inf if settings.clip is None else settings.clip
        gain = clipped_surrogate(log_ratio, batch.advantage, radius)
        return critic_loss(played, batch) - masked_mean(gain, batch.valid)

    def score(params: Params, batch: Rollouts) -> Array:
        del params
        return jnp.mean(jnp.sum(batch.reward, axis=1))

    def distribution(params: Params, batch: Rollouts) -> Any:
        return output(params, batch).distribution

    def divergence(distribution: Any, batch: Rollouts) -> Array:
        return masked_mean(batch.distribution.kl(distribution), batch.valid)

    def log_likelihood(params: Params, batch: Rollouts) -> Array:
        log_prob = output(params, batch).distribution.log_prob(batch.action)
        return jnp.sum(jnp.where(batch.valid, log_prob, 0.0))

    def subsample(batch: Rollouts, share: float) -> Rollouts:
        # Episodes are independent, so the first ones are a random subset.
        return jax.tree.map(lambda x: x[: max(1, round(share * episodes))], batch)

    return InnerProblem(
        tasks=family.tasks,
        init=policy.init,
        support=collect,
        query=collect,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        score=score,
        policy=PolicyFunctions(
            act=act,
            play=play,
            batch=batch,
            distribution=distribution,
            divergence=divergence,
            log_likelihood=log_likelihood,
            subsample=subsample,
            has_critic=baseline == "critic",
        ),
        success=None if family.success is None else lambda batch: jnp.mean(batch.success),
    )


def _flat(family: EnvFamily, observation: Array) -> Array:
    """Return observations as vectors ``[..., D]``, for the linear baseline."""
    match family.observation_space:
        case Discrete(n=n):
            return jax.nn.one_hot(observation, n, dtype=jnp.float32)
        case Box(shape=shape):
            lead = observation.shape[: observation.ndim - len(shape)]
            return observation.astype(jnp.float32).reshape(*lead, math.prod(shape))
