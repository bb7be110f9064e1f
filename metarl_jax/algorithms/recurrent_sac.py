"""Off-policy RL²: recurrent soft actor-critic on whole trials (Ni et al. 2022, arXiv 2110.05038).

As in RL², a policy with a memory adapts to a task within a trial, and the objective is the return of the whole trial.
The policy is trained by soft actor-critic (Haarnoja et al. 2018) on trials of a replay. The actor and the twin critics
have separate memories, which read the stored trials from their beginning. The return crosses the ends of episodes; it
stops at the end of the trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from annotated_types import Interval

from metarl_jax.batching import map_tasks
from metarl_jax.checks import real
from metarl_jax.family_checks import check_shapes
from metarl_jax.interfaces.off_policy import OffPolicyNetworks
from metarl_jax.network_checks import check_off_policy_networks
from metarl_jax.ops.policy_gradients import masked_mean
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.settings import Doc, Fraction, PositiveFloat, PositiveInt, Settings
from metarl_jax.types import (
    Acting,
    Adaptation,
    Algorithm,
    Array,
    Carry,
    Discrete,
    EnvFamily,
    Inputs,
    Key,
    Metrics,
    Params,
    Privileged,
    Task,
    Transition,
)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of recurrent soft actor-critic. Defaults are those of Ni et al. (2022), unless stated otherwise."""

    episodes: Annotated[PositiveInt, Doc("Number of episodes per trial.")] = 2
    iterations: Annotated[PositiveInt, Doc("Number of meta-iterations of a whole run.")] = 500
    trials: Annotated[
        PositiveInt, Doc("Number of trials that are collected per meta-iteration, each on a task of its own.")
    ] = 25
    initial_trials: Annotated[PositiveInt, Doc("Number of trials that are collected before the first iteration.")] = 50
    replay_trials: Annotated[PositiveInt, Doc("Number of trials in the replay, which keeps the newest ones.")] = 5000
    gradient_steps: Annotated[PositiveInt, Doc("Number of gradient steps per meta-iteration.")] = 200
    batch_trials: Annotated[
        PositiveInt, Doc("Number of whole trials in a gradient step, drawn from the replay with replacement.")
    ] = 32
    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size.")] = 3e-4
    memory_rate_fraction: Annotated[
        PositiveFloat,
        Doc(
            "Step size of the memories, as a fraction of ``learning_rate``. A smaller step size of the memories makes "
            "the training of recurrent critics stable (Luo et al. 2024, arXiv 2405.15384)."
        ),
    ] = 1.0
    max_grad_norm: Annotated[
        PositiveFloat | None,
        Doc("Largest global norm of a gradient; longer gradients are scaled down to it. None: there is no limit."),
    ] = None
    discount: Annotated[
        Fraction, Doc("Discount of rewards per step, also across the ends of episodes (0.9 on the half-circle).")
    ] = 0.99
    target_rate: Annotated[
        Annotated[float, Interval(gt=0, le=1)],
        Doc("Share by which the target networks move to the critics in each gradient step."),
    ] = 0.005
    reward_scale: Annotated[PositiveFloat, Doc("Factor by which rewards are multiplied for the critics.")] = 1.0
    temperature: Annotated[
        PositiveFloat,
        Doc(
            "Weight of the entropy (in nats), relative to scaled rewards. If the temperature is learned, this is its "
            "value at the start."
        ),
    ] = 0.1
    automatic_temperature: Annotated[
        bool,
        Doc(
            "Whether the temperature is learned (Haarnoja et al. 2018b, section 5): it rises while the entropy is "
            "below its target."
        ),
    ] = True
    target_entropy: Annotated[
        float | None,
        Doc(
            "The target of the entropy for a learned temperature. Continuous actions: the target in nats per entry "
            "of an action. Discrete actions: minus a share of the largest entropy; it must be above -1. None: -1 for "
            "continuous actions, -0.3 for discrete actions."
        ),
    ] = None
    training_reward: Annotated[
        Literal["paid", "task"],
        Doc(
            'The rewards that the critics learn from. "paid": the rewards of the environment. "task": those of the '
            "family's ``privileged.training_reward``, which are computed from the task. The memories always read the "
            "rewards of the environment, and these are reported."
        ),
    ] = "paid"
    deterministic: Annotated[
        bool, Doc("Whether actions on a held-out task are the most likely ones instead of samples.")
    ] = True

    def check_relations(self) -> None:
        super().check_relations()
        largest = max(self.initial_trials, self.trials)
        if self.replay_trials < largest:
            raise ValueError(
                f"replay_trials ({self.replay_trials}) must be at least {largest}, the number of trials that are added "
                "at once"
            )


class Remembering(NamedTuple):
    """The parameters of a memory, and of the network that reads it."""

    memory: Params
    reader: Params
    """The parameters of the actor, or of the twin critics."""


class Learned(NamedTuple):
    """The parameters that gradients change."""

    actor: Remembering
    critic: Remembering
    log_temperature: Array


class Stored(NamedTuple):
    """Trials of the replay, ``[replay_trials, T, ...]``, or a batch of them, ``[T, B, ...]``."""

    inputs: Inputs
    action: Array
    reward: Array
    """The rewards that critics learn from."""
    valid: Array


class State(NamedTuple):
    """The state of the outer loop."""

    learned: Learned
    target: Remembering
    """The target networks of the critics and of their memory."""
    optimizer: optax.OptState
    replay: Stored
    """A ring buffer of trials."""
    trials: Array
    """The number of trials that were collected so far, ``int32``."""


def make(family: EnvFamily, networks: OffPolicyNetworks, config: Config) -> Algorithm:
    """Make recurrent soft actor-critic on a family of tasks.

    ``adapt`` plays one trial of ``config.episodes`` episodes, and its scores are the returns of the episodes. The
    learner is the actor's memory at the end.

    Args:
        family: the tasks. Actions are discrete, or vectors between finite bounds.
        networks: a memory, an actor and twin critics (``networks.off_policy``).
        config: the settings.

    Raises:
        ValueError: if the target entropy is larger than that of any distribution over the discrete actions, if the
            configuration has a training reward that the family does not have, if the family is wrong
            (``family_checks``), or if the networks do not fit the family or each other.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> memory = mrl.networks.recurrent.make(family, critic=False)
        >>> networks = mrl.networks.off_policy.make(family, memory, mrl.networks.off_policy.Settings(head_units=16))
        >>> config = mrl.algorithms.recurrent_sac.Config(episodes=5, iterations=3)
        >>> algorithm = mrl.algorithms.recurrent_sac.make(family, networks, config)
        >>> algorithm.iterations
        3
    """
    shapes = check_shapes(family, episodes=config.episodes, discount=config.discount)
    check_off_policy_networks(networks, family, shapes)
    memory, actor, critic = networks
    reward_of_task = (family.privileged or Privileged()).training_reward
    if config.training_reward == "task" and reward_of_task is None:
        raise ValueError(
            'training_reward "task" needs a family with EnvFamily.privileged.training_reward, which this family does '
            'not have: use "paid"'
        )
    match family.action_space:
        case Discrete(n=n):
            share = 0.3 if config.target_entropy is None else -config.target_entropy
            if config.automatic_temperature:
                real(above=-1, at_most=0)("target_entropy of discrete actions", -share)
            target_entropy = share * math.log(n)
        case space:
            per_number = -1.0 if config.target_entropy is None else config.target_entropy
            target_entropy = per_number * math.prod(space.shape)
    limit = optax.identity() if config.max_grad_norm is None else optax.clip_by_global_norm(config.max_grad_norm)
    optimizer = optax.chain(limit, optax.scale_by_adam())

    def read(params: Params, inputs: Inputs) -> Array:
        """Return the features of a memory at all steps of trials, ``[T, B, F]``."""
        trials = inputs.prev_reward.shape[1]
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), memory.initial_carry(params))
        return cast("Array", memory.unroll(params, carry, inputs)[1].features)

    def act(key: Key, params: Remembering, carry: Carry, inputs: Inputs, deterministic: bool) -> tuple[Carry, Array]:
        carry, output = memory.step(params.memory, carry, inputs)
        distribution = actor.distribution(params.reader, inputs.obs, cast("Array", output.features))
        return carry, distribution.mode() if deterministic else distribution.sample(key)

    def play(key: Key, params: Remembering, task: Task, deterministic: bool) -> tuple[Carry, Transition]:
        def act_now(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
            return *act(key, params, carry, inputs, deterministic), ()

        return trial(key, act_now, memory.initial_carry(params.memory), family, task, config.episodes)

    def collect(key: Key, params: Remembering) -> tuple[Stored, Array]:
        """Play one trial on a newly drawn task; return it for the replay, and its total reward."""
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        _, t = play(key_trial, params, task, deterministic=False)
        reward = t.reward
        if config.training_reward == "task" and reward_of_task is not None:
            reward = reward_of_task(task, t, config.discount).astype(jnp.float32)
        total = jnp.sum(jnp.where(t.valid, t.reward, 0.0))
        return Stored(t.inputs, t.action, jnp.where(t.valid, reward, 0.0), t.valid), total

    collect_trials = map_tasks(collect, (0, None), carry_of=lambda key, params: memory.initial_carry(params.memory))

    def loss(learned: Learned, target: Remembering, key: Key, batch: Stored) -> tuple[Array, Metrics]:
        """Return the loss of a batch ``[T, B, ...]``.

        Each term trains only the parameters that it does not treat as constants.
        """
        key_next, key_now = jax.random.split(key)
        weight = batch.valid.astype(jnp.float32)
        obs = batch.inputs.obs
        fixed = jax.lax.stop_gradient
        temperature = fixed(jnp.exp(learned.log_temperature))
        distribution = actor.distribution(learned.actor.reader, obs, read(learned.actor.memory, batch.inputs))

        value, entropy = critic.expected(
            target.reader, key_next, obs, read(target.memory, batch.inputs), fixed(distribution)
        )
        # The value is 0 after the trial's last step only, not after the ends of episodes.
        later = jnp.where(batch.valid, value + temperature * entropy, 0.0)
        later = jnp.concatenate([later[1:], jnp.zeros_like(later[:1])])
        wanted = fixed(config.reward_scale * batch.reward + config.discount * later)
        features = read(learned.critic.memory, batch.inputs)
        estimates = critic.values(learned.critic.reader, obs, features, batch.action)
        critic_loss = sum(masked_mean((estimate - wanted) ** 2, weight) for estimate in estimates)

        value, entropy = critic.expected(fixed(learned.critic.reader), key_now, obs, fixed(features), distribution)
        value, entropy = masked_mean(value, weight), masked_mean(entropy, weight)
        total = critic_loss - value - temperature * entropy
        if config.automatic_temperature:
            total += learned.log_temperature * (fixed(entropy) - target_entropy)
        return total, {
            "critic_loss": jnp.asarray(critic_loss),
            "value": value / config.reward_scale,
            "entropy": entropy,
            "temperature": temperature,
        }

    rates = Learned(
        Remembering(config.memory_rate_fraction, 1.0), Remembering(config.memory_rate_fraction, 1.0), jnp.float32(1.0)
    )

    def gradient_step(
        carry: tuple[Learned, Remembering, optax.OptState], key: Key, state: State
    ) -> tuple[Carry, Metrics]:
        learned, target, optimizer_state = carry
        key_trials, key_loss = jax.random.split(key)
        stored = jnp.minimum(state.trials, config.replay_trials)
        which = jax.random.randint(key_trials, (config.batch_trials,), 0, stored, jnp.int32)
        batch = jax.tree.map(lambda x: jnp.moveaxis(x[which], 0, 1), state.replay)
        gradient, metrics = jax.grad(loss, has_aux=True)(learned, target, key_loss, batch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, learned)
        updates = jax.tree.map(
            lambda rate, part: optax.tree.scale(-config.learning_rate * rate, part), rates, cast("Learned", updates)
        )
        learned = cast("Learned", optax.apply_updates(learned, updates))
        target = optax.incremental_update(learned.critic, target, config.target_rate)
        return (learned, target, optimizer_state), metrics

    def init(key: Key) -> State:
        key_memories, key_actor, key_critic, key_play = jax.random.split(key, 4)
        key_acting, key_judging = jax.random.split(key_memories)
        learned = Learned(
            Remembering(memory.init(key_acting), actor.init(key_actor)),
            Remembering(memory.init(key_judging), critic.init(key_critic)),
            jnp.log(jnp.float32(config.temperature)),
        )
        first, _ = collect_trials(jax.random.split(key_play, config.initial_trials), learned.actor)
        replay = jax.tree.map(
            lambda x: jnp.zeros((config.replay_trials, *x.shape[1:]), x.dtype).at[: config.initial_trials].set(x), first
        )
        # The target is a copy, because a run donates its buffers, and an array can be donated only once.
        target = jax.tree.map(jnp.copy, learned.critic)
        return State(learned, target, optimizer.init(learned), replay, jnp.int32(config.initial_trials))

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        key_collect, key_learn = jax.random.split(key)
        new, reward = collect_trials(jax.random.split(key_collect, config.trials), state.learned.actor)
        places = (state.trials + jnp.arange(config.trials)) % config.replay_trials
        state = state._replace(
            replay=jax.tree.map(lambda ring, x: ring.at[places].set(x), state.replay, new),
            trials=state.trials + config.trials,
        )
        keys = jax.random.split(key_learn, config.gradient_steps)
        start = state.learned, state.target, state.optimizer
        (learned, target, optimizer_state), metrics = jax.lax.scan(
            lambda carry, key: gradient_step(carry, key, state), start, keys
        )
        metrics = {**jax.tree.map(jnp.mean, metrics), "trial_reward": jnp.mean(reward)}
        return state._replace(learned=learned, target=target, optimizer=optimizer_state), metrics

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        carry, steps = play(key, state.learned.actor, task, config.deterministic)
        success = episode_successes(steps, family, task, config.episodes)
        return Adaptation(episode_returns(steps, config.episodes), carry, success)

    acting = Acting(
        params=lambda state: state.learned.actor,
        start=lambda key, params: memory.initial_carry(params.memory),
        act=lambda key, params, carry, inputs, final_obs: (
            *act(key, params, carry, inputs, config.deterministic),
            (),
        ),
    )
    return Algorithm(init, step, adapt, config.iterations, acting=acting)
