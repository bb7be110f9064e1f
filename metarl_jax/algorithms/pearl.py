"""PEARL (Rakelly et al. 2019, arXiv 1903.08254): off-policy learning with a belief that is inferred from context.

An encoder infers a belief about a latent variable from the context, which is an unordered set of steps of a task. An
actor and critics get a sample of the latent variable. Critics learn values from replay, and their gradient trains the
encoder, together with a penalty on the divergence of the belief from the prior. On a new task the learner draws a
latent variable, plays an episode with it, infers the belief from all steps so far, and draws again: posterior sampling.

Two kinds of data of a training task are stored separately. Critics and actor learn from a long replay. Contexts are
drawn from the episodes of the latest time that the task was played, with latent variables from the prior as on a new
task, and optionally from the posterior. On a held-out task, only the episodes on that task are used: ``adapt`` does not
use the buffers.

Actor and critics are trained by soft actor-critic (Haarnoja et al. 2018) with twin critics and a target network of
each. The published code learns a state value instead of target networks of the critics.
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
from metarl_jax.interfaces.context import ContextNetworks, Experience
from metarl_jax.network_checks import check_context_networks
from metarl_jax.ops.draws import steps_of_episodes
from metarl_jax.ops.gaussians import standard
from metarl_jax.ops.policy_gradients import weighted_sum
from metarl_jax.precision import narrow
from metarl_jax.rollout import episode, episode_returns, episode_successes, no_action
from metarl_jax.settings import (
    Doc,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
)
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
    Tree,
)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of PEARL.

    Defaults are those of the published code for most tasks, in episodes instead of steps, unless stated otherwise.
    """

    iterations: Annotated[PositiveInt, Doc("Number of meta-iterations of a whole run.")] = 500
    training_tasks: Annotated[
        PositiveInt,
        Doc(
            "Number of training tasks, drawn once at the start of a run. Each has a replay of its own. If the family "
            "lists all training tasks (``TaskDistribution.training``), no task is drawn twice before all were drawn."
        ),
    ] = 100
    tasks: Annotated[PositiveInt, Doc("Number of training tasks that are played in an iteration.")] = 5
    prior_episodes: Annotated[
        PositiveInt,
        Doc(
            "Number of episodes that are played on each of these tasks with latent variables drawn from the "
            "prior. Contexts are drawn from these episodes."
        ),
    ] = 2
    posterior_episodes: Annotated[
        PositiveInt,
        Doc(
            "Number of further episodes on each of these tasks, with latent variables drawn from the posterior "
            "given the episodes of ``prior_episodes``."
        ),
    ] = 3
    posterior_context_episodes: Annotated[
        NonNegativeInt,
        Doc(
            "Number of the ``posterior_episodes`` that contexts are also drawn from. The published code uses none for "
            "most tasks, and all of them for the sparse point robots."
        ),
    ] = 0
    initial_episodes: Annotated[
        PositiveInt,
        Doc(
            "Number of episodes on every training task before the first iteration, with latent variables drawn "
            "from the prior."
        ),
    ] = 10
    replay_episodes: Annotated[
        PositiveInt, Doc("Number of episodes in the replay of each training task, which keeps the newest ones.")
    ] = 1000
    gradient_steps: Annotated[PositiveInt, Doc("Number of gradient steps per iteration.")] = 2000
    meta_batch: Annotated[PositiveInt, Doc("Number of training tasks in a gradient step.")] = 16
    batch_size: Annotated[
        PositiveInt,
        Doc("Number of valid steps of each task in a gradient step, drawn from its replay with replacement."),
    ] = 256
    context_size: Annotated[
        PositiveInt, Doc("Largest number of steps of a task from which its belief is inferred in a gradient step.")
    ] = 64
    context_unit: Annotated[
        Literal["step", "episode"],
        Doc(
            'The unit of which contexts in a gradient step consist. "step": ``context_size`` steps, drawn at random '
            'without replacement, as in the published code. "episode": all steps of a random number of whole episodes, '
            "from none to as many as ``context_size`` steps hold, like the contexts on a held-out task."
        ),
    ] = "step"
    learning_rate: Annotated[PositiveFloat, Doc("Adam's step size for all networks.")] = 3e-4
    discount: Annotated[Fraction, Doc("Discount of rewards per step, within an episode.")] = 0.99
    target_rate: Annotated[
        Annotated[float, Interval(gt=0, le=1)],
        Doc("Share by which the target networks move to the critics in each gradient step."),
    ] = 0.005
    reward_scale: Annotated[PositiveFloat, Doc("Factor by which rewards are multiplied for the critics.")] = 5.0
    kl_weight: Annotated[
        NonNegativeFloat,
        Doc(
            "Weight of the divergence of a belief from the prior (in nats, as a mean over tasks), relative to the "
            "critics' mean squared error. The published code sums over the tasks of a meta-batch: its weight of 0.1 "
            "corresponds to 1.6 here."
        ),
    ] = 0.1
    consistency_weight: Annotated[
        NonNegativeFloat | None,
        Doc(
            "Weight of the consistency of beliefs: the divergence of the belief given the context, as a constant, from "
            "the belief given a random number of whole episodes, from none to ``adaptation_episodes`` (in nats, as a "
            "mean over tasks). It trains beliefs from few episodes, which are those of a held-out task, to contain the "
            "beliefs from many, as the objective of neural processes does (Garnelo et al. 2018, arXiv 1807.01622, "
            "equation 8). None: there is no such term, as in the published code."
        ),
    ] = None
    temperature: Annotated[
        PositiveFloat,
        Doc(
            "Weight of the entropy (in nats), relative to scaled rewards. If the temperature is learned, this "
            "is its value at the start."
        ),
    ] = 1.0
    automatic_temperature: Annotated[
        bool,
        Doc(
            "Whether the temperature is learned (Haarnoja et al. 2018b, section 5): it rises while the entropy is "
            "below its target."
        ),
    ] = False
    target_entropy: Annotated[
        float | None,
        Doc(
            "The target of the entropy for a learned temperature. Continuous actions: the target in nats per entry "
            "of an action. Discrete actions: minus a share of the largest entropy; it must be above -1, where the "
            "temperature would rise without limit. None: -1 for continuous actions, -0.3 for discrete actions."
        ),
    ] = None
    adaptation_episodes: Annotated[PositiveInt, Doc("Number of episodes on a held-out task.")] = 4
    exploration_episodes: Annotated[
        PositiveInt,
        Doc(
            "Number of first episodes on a held-out task with latent variables drawn from the prior. Later "
            "episodes use the posterior."
        ),
    ] = 2
    deterministic: Annotated[
        bool, Doc("Whether actions on a held-out task are the most likely ones instead of samples.")
    ] = True

    @property
    def context_episodes(self) -> int:
        """The number of stored episodes of a task that contexts are drawn from."""
        return self.prior_episodes + self.posterior_context_episodes

    def check_relations(self) -> None:
        super().check_relations()
        if self.tasks > self.training_tasks:
            raise ValueError(f"tasks ({self.tasks}) must be at most training_tasks ({self.training_tasks})")
        if self.posterior_context_episodes > self.posterior_episodes:
            raise ValueError(
                f"posterior_context_episodes ({self.posterior_context_episodes}) must be at most posterior_episodes "
                f"({self.posterior_episodes})"
            )
        if self.initial_episodes < self.context_episodes:
            raise ValueError(
                f"initial_episodes ({self.initial_episodes}) must be at least prior_episodes + "
                f"posterior_context_episodes ({self.context_episodes}): the first contexts are drawn from them"
            )
        largest = max(self.initial_episodes, self.prior_episodes + self.posterior_episodes)
        if self.replay_episodes < largest:
            raise ValueError(
                f"replay_episodes ({self.replay_episodes}) must be at least {largest}, the number of episodes that "
                "are added at once"
            )


class Learned(NamedTuple):
    """The parameters that gradients change."""

    encoder: Params
    actor: Params
    critic: Params
    log_temperature: Array


class State(NamedTuple):
    """The state of the outer loop: parameters, training tasks and their data."""

    learned: Learned
    target_critic: Params
    optimizer: optax.OptState
    tasks: Task
    """``[training_tasks, ...]``: the training tasks."""
    replay: Experience
    """``[training_tasks, replay_episodes * horizon, ...]``: a ring buffer of steps for each task. Its rewards are those
    that critics learn from."""
    episodes: Array
    """``[training_tasks]`` int32: the number of episodes that were played on each task."""
    context: Experience
    """``[training_tasks, (prior_episodes + posterior_context_episodes) * horizon, ...]``: the steps from which contexts
    are drawn, of the latest time that the task was played."""


class Deployed(NamedTuple):
    """The parameters that act."""

    encoder: Params
    actor: Params


class Memory(NamedTuple):
    """The memory of an acting learner on a task."""

    context: Experience
    """The latest steps, a ring buffer ``[adaptation_episodes * horizon, ...]``. Only valid steps count."""
    steps: Array
    """The number of steps so far, ``int32``."""
    episode: Array
    """The index of the current episode on the task, ``int32``."""
    obs: Array
    """The observation before the latest action."""
    latent: Array
    """``[M]``: the latent variable of the current episode."""


class Beliefs(NamedTuple):
    """The beliefs from which the latent variables of the episodes on a task were drawn."""

    mean: Array
    """``[E, M]``: the mean of each belief."""
    std: Array
    """``[E, M]``: the standard deviation of each belief."""


def _steps(played: Transition) -> Experience:
    """Return the steps of episodes as experience."""
    return Experience(
        played.inputs.obs, played.action, played.reward, played.final_obs, played.terminated, played.valid
    )


def make(family: EnvFamily, networks: ContextNetworks, config: Config) -> Algorithm:
    """Make PEARL on a family of tasks.

    ``adapt`` plays ``config.adaptation_episodes`` episodes on the task, and its scores are the returns of the episodes.
    The learner is the belief of each episode (``Beliefs``). ``adapt`` starts from the prior, and uses only its own
    episodes on the task.

    Raises:
        ValueError: if the target entropy is larger than that of any distribution over the discrete actions, if
            ``context_size`` is less than an episode although contexts consist of episodes, if the family is wrong
            (``family_checks``), or if the networks do not fit the family or each other.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.point_robot.pearl_sparse()
        >>> networks = mrl.networks.context.make(family, mrl.networks.context.Settings(units=16, encoder_units=16))
        >>> config = mrl.algorithms.pearl.Config(training_tasks=8, meta_batch=4, gradient_steps=2, iterations=1)
        >>> run = mrl.train(jax.random.key(0), mrl.algorithms.pearl.make(family, networks, config))
    """
    shapes = check_shapes(family, episodes=config.initial_episodes, discount=config.discount)
    check_context_networks(networks, family, shapes)
    horizon, latent_size = family.horizon, networks.latent_size
    if config.context_unit == "episode" and config.context_size < horizon:
        raise ValueError(
            f"context_size ({config.context_size}) must be at least the horizon ({horizon}) if contexts consist of "
            'whole episodes (context_unit "episode")'
        )
    training_reward = (family.privileged or Privileged()).training_reward
    encoder, actor, critic = networks.encoder, networks.actor, networks.critic
    # The chain of ``optax.adam`` would give the state another path in checkpoints.
    optimizer = optax.scale_by_adam()
    prior = standard((latent_size,))
    match family.action_space:
        case Discrete(n=n):
            share = 0.3 if config.target_entropy is None else -config.target_entropy
            if config.automatic_temperature:
                # Only the uniform policy has the largest entropy. With this target the temperature would rise without
                # limit.
                real(above=-1, at_most=0)("target_entropy of discrete actions", -share)
            target_entropy = share * math.log(n)
        case _:
            per_number = -1.0 if config.target_entropy is None else config.target_entropy
            target_entropy = per_number * math.prod(family.action_space.shape)

    def choose(key: Key, params: Params, obs: Array, latent: Array, deterministic: bool) -> Array:
        distribution = actor.distribution(params, obs, latent)
        return distribution.mode() if deterministic else distribution.sample(key)

    def play(key: Key, learned: Learned, task: Task, latent: Array, deterministic: bool) -> Transition:
        def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
            return carry, choose(key, learned.actor, inputs.obs, latent, deterministic), ()

        return episode(key, act, (), family, task)[1]

    def explore(key: Key, learned: Learned, task: Task, belief: Tree, episodes: int) -> Transition:
        """Play episodes ``[episodes, horizon, ...]``, each with a latent variable drawn from ``belief``."""

        def one(key: Key) -> Transition:
            key_latent, key_play = jax.random.split(key)
            return play(key_play, learned, task, belief.sample(key_latent), False)

        return jax.vmap(one)(jax.random.split(key, episodes))

    def flat(played: Transition) -> Transition:
        """Return episodes ``[E, horizon, ...]`` as steps ``[E * horizon, ...]``."""
        return jax.tree.map(lambda x: x.reshape(x.shape[0] * horizon, *x.shape[2:]), played)

    def for_replay(task: Task, played: Transition) -> Experience:
        """Return the steps ``[N, ...]`` of episodes with the rewards that critics learn from."""
        steps = _steps(flat(played))
        if training_reward is None:
            return steps
        reward = training_reward(task, flat(played), config.discount)
        return steps._replace(reward=jnp.asarray(reward, jnp.float32))

    def mean_return(played: Transition) -> Array:
        return jnp.mean(jnp.sum(jnp.where(played.valid, played.reward, 0.0), axis=-1))

    def collect(key: Key, learned: Learned, task: Task) -> tuple[Experience, Experience, Metrics]:
        """Play on one training task; return steps for its replay, its new context, and metrics."""
        key_prior, key_posterior = jax.random.split(key)
        played = explore(key_prior, learned, task, prior, config.prior_episodes)
        belief = encoder.infer(learned.encoder, _steps(flat(played)))
        played_after = explore(key_posterior, learned, task, belief, config.posterior_episodes)
        metrics = {"prior_return": mean_return(played), "posterior_return": mean_return(played_after)}
        played = jax.tree.map(lambda *x: jnp.concatenate(x), played, played_after)
        context = jax.tree.map(lambda x: x[: config.context_episodes], played)
        return for_replay(task, played), _steps(flat(context)), metrics

    def draw_steps(key: Key, context: Experience) -> Experience:
        """Draw ``context_size`` steps of a task at random; return all steps if there are not more."""
        total = config.context_episodes * horizon
        if total <= config.context_size:
            return context
        # Valid steps come first, in random order.
        order = jnp.argsort(jax.random.uniform(key, (total,), jnp.float32) + jnp.logical_not(context.valid))
        return jax.tree.map(lambda x: x[order[: config.context_size]], context)

    def draw_context(key: Key, context: Experience) -> Experience:
        if config.context_unit == "step":
            return draw_steps(key, context)
        return draw_episodes(key, context, config.context_size // horizon)

    def draw_episodes(key: Key, context: Experience, most: int) -> Experience:
        """Draw from none to ``most`` whole episodes of a task at random."""
        key_order, key_number = jax.random.split(key)
        most = min(most, config.context_episodes)
        drawn = jax.random.permutation(key_order, config.context_episodes)[:most]
        steps = (drawn[:, None] * horizon + jnp.arange(horizon)).reshape(-1)
        context = jax.tree.map(lambda x: x[steps], context)
        episodes = jax.random.randint(key_number, (), 0, most + 1, jnp.int32)
        return context._replace(valid=context.valid & (jnp.arange(most * horizon) < episodes * horizon))

    def loss(
        learned: Learned, target_critic: Params, task: tuple[Key, Experience, Experience, Experience | None]
    ) -> tuple[Array, Metrics]:
        """Return the loss of one task.

        Its arguments are a key, steps ``[batch_size, ...]`` of the replay, the context, and the few episodes of the
        consistency term. Each term trains only the parameters that it does not treat as constants.
        """
        key, steps, context, few = task
        key_latent, key_next, key_now = jax.random.split(key, 3)
        belief = encoder.infer(learned.encoder, context)
        drawn = jnp.broadcast_to(belief.sample(key_latent), (config.batch_size, latent_size))
        latent, fixed_critic = jax.lax.stop_gradient((drawn, learned.critic))
        temperature = jnp.exp(learned.log_temperature)
        fixed_temperature = jax.lax.stop_gradient(temperature)
        valid = steps.valid.astype(jnp.float32)
        weight = valid / jnp.maximum(jnp.sum(valid), 1)

        def mean(x: Array) -> Array:
            return weighted_sum(x, weight)

        following = actor.distribution(learned.actor, steps.next_obs, latent)
        value, entropy = critic.expected(target_critic, key_next, steps.next_obs, latent, following)
        later = jnp.where(steps.terminated, 0.0, value + fixed_temperature * entropy)
        target = jax.lax.stop_gradient(config.reward_scale * steps.reward + config.discount * later)
        # Only this term and the divergence train the encoder.
        estimates = critic.values(learned.critic, steps.obs, drawn, steps.action)
        critic_loss = sum(mean((estimate - target) ** 2) for estimate in estimates)
        divergence = belief.kl(prior)
        now = actor.distribution(learned.actor, steps.obs, latent)
        value, entropy = critic.expected(fixed_critic, key_now, steps.obs, latent, now)
        gained, entropy = mean(value), mean(entropy)
        total = critic_loss + config.kl_weight * divergence - gained - fixed_temperature * entropy
        if few is not None and config.consistency_weight is not None:
            total += config.consistency_weight * jax.lax.stop_gradient(belief).kl(encoder.infer(learned.encoder, few))
        if config.automatic_temperature:
            total += learned.log_temperature * (jax.lax.stop_gradient(entropy) - target_entropy)
        return total, {
            "critic_loss": jnp.asarray(critic_loss),
            "value": gained / config.reward_scale,
            "entropy": entropy,
            "belief_divergence": divergence,
            "temperature": temperature,
        }

    def gradient_step(
        key: Key,
        learned: Learned,
        target_critic: Params,
        optimizer_state: optax.OptState,
        state: State,
        lengths: Array,
    ) -> tuple[Learned, Params, optax.OptState, Metrics]:
        """Do one gradient step.

        ``lengths`` are the numbers of valid steps of the episodes in the replay, ``[training_tasks, replay_episodes]``.
        """
        key_tasks, key_steps, key_context, key_loss = jax.random.split(key, 4)
        which = jax.random.randint(key_tasks, (config.meta_batch,), 0, config.training_tasks, jnp.int32)
        steps = steps_of_episodes(key_steps, lengths[which], horizon, config.batch_size)
        steps = jax.tree.map(lambda x: x[which[:, None], steps], state.replay)
        keys = jax.random.split(key_context, config.meta_batch)
        stored = jax.tree.map(lambda x: x[which], state.context)
        context, few = map_tasks(draw_context)(keys, stored), None
        if config.consistency_weight is not None:
            keys = jax.random.split(jax.random.fold_in(key_context, 1), config.meta_batch)
            few = map_tasks(lambda key, x: draw_episodes(key, x, config.adaptation_episodes))(keys, stored)

        def mean_loss(learned: Learned) -> tuple[Array, Metrics]:
            tasks = jax.random.split(key_loss, config.meta_batch), steps, context, few
            return jax.tree.map(jnp.mean, map_tasks(loss, (None, None, 0))(learned, target_critic, tasks))

        gradient, metrics = jax.grad(mean_loss, has_aux=True)(learned)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, learned)
        updates = optax.tree.scale(-config.learning_rate, updates)
        learned = cast("Learned", optax.apply_updates(learned, updates))
        target_critic = optax.incremental_update(learned.critic, target_critic, config.target_rate)
        return learned, target_critic, optimizer_state, metrics

    def store(state: State, which: Array, new: Experience, episodes: int, context: Experience) -> State:
        """Add ``episodes`` episodes of each of K tasks, ``new [K, episodes * horizon, ...]``, to the ring buffers."""
        start = state.episodes[which][:, None] * horizon
        places = (start + jnp.arange(episodes * horizon)) % (config.replay_episodes * horizon)
        return state._replace(
            replay=jax.tree.map(lambda ring, x: ring.at[which[:, None], places].set(x), state.replay, new),
            episodes=state.episodes.at[which].add(episodes),
            context=jax.tree.map(lambda kept, x: kept.at[which].set(x), state.context, context),
        )

    def init(key: Key) -> State:
        key_encoder, key_actor, key_critic, key_tasks, key_play = jax.random.split(key, 5)
        learned = Learned(
            encoder.init(key_encoder),
            actor.init(key_actor),
            critic.init(key_critic),
            jnp.log(jnp.float32(config.temperature)),
        )
        tasks = narrow(family.tasks.sample_distinct(key_tasks, config.training_tasks))

        def begin(key: Key, task: Task) -> tuple[Experience, Experience]:
            played = explore(key, learned, task, prior, config.initial_episodes)
            first = jax.tree.map(lambda x: x[: config.context_episodes], played)
            return for_replay(task, played), _steps(flat(first))

        first, context = map_tasks(begin)(jax.random.split(key_play, config.training_tasks), tasks)
        steps, initial = config.replay_episodes * horizon, config.initial_episodes * horizon
        replay = jax.tree.map(
            lambda x: jnp.zeros((config.training_tasks, steps, *x.shape[2:]), x.dtype).at[:, :initial].set(x), first
        )
        episodes = jnp.full(config.training_tasks, config.initial_episodes, jnp.int32)
        # The targets are copies, because a run donates its buffers, and an array can be donated only once.
        target = jax.tree.map(jnp.copy, learned.critic)
        return State(learned, target, optimizer.init(learned), tasks, replay, episodes, context)

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        key_tasks, key_play, key_learn = jax.random.split(key, 3)
        which = jax.random.permutation(key_tasks, config.training_tasks)[: config.tasks]
        tasks = jax.tree.map(lambda x: x[which], state.tasks)
        keys = jax.random.split(key_play, config.tasks)
        new, context, returns = map_tasks(collect, (0, None, 0))(keys, state.learned, tasks)
        state = store(state, which, new, config.prior_episodes + config.posterior_episodes, context)

        def learn(
            carry: tuple[Learned, Params, optax.OptState], key: Key
        ) -> tuple[tuple[Learned, Params, optax.OptState], Metrics]:
            *after, metrics = gradient_step(key, *carry, state, lengths)
            return tuple(after), metrics  # pyright: ignore[reportReturnType]

        episodes = state.replay.valid.reshape(config.training_tasks, config.replay_episodes, horizon)
        lengths = jnp.sum(episodes, axis=-1, dtype=jnp.int32)
        start = state.learned, state.target_critic, state.optimizer
        keys = jax.random.split(key_learn, config.gradient_steps)
        (learned, target, optimizer_state), metrics = jax.lax.scan(learn, start, keys)
        state = state._replace(learned=learned, target_critic=target, optimizer=optimizer_state)
        return state, jax.tree.map(jnp.mean, {**metrics, **returns})

    def usable(context: Experience, episode: Array) -> Experience:
        """Return the context of an episode on a held-out task, which is empty in the first ``exploration_episodes``."""
        later = episode >= config.exploration_episodes
        return context._replace(valid=jnp.logical_and(context.valid, later))

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        episodes, learned = config.adaptation_episodes, state.learned

        def one(seen: Experience, now: tuple[Key, Array]) -> tuple[Experience, tuple[Array, Beliefs, Array | None]]:
            key, index = now
            key_latent, key_play = jax.random.split(key)
            belief = encoder.infer(learned.encoder, usable(seen, index))
            played = play(key_play, learned, task, belief.sample(key_latent), config.deterministic)
            seen = jax.tree.map(
                lambda so_far, new: jax.lax.dynamic_update_slice_in_dim(so_far, new, index * horizon, 0),
                seen,
                _steps(played),
            )
            success = episode_successes(played, family, task, 1)
            return seen, (episode_returns(played, 1), Beliefs(belief.mean, jnp.exp(belief.log_std)), success)

        shapes = jax.eval_shape(lambda: _steps(play(key, learned, task, prior.mean, config.deterministic)))
        nothing = jax.tree.map(lambda x: jnp.zeros((episodes * horizon, *x.shape[1:]), x.dtype), shapes)
        keys = jax.random.split(key, episodes)
        _, (returns, beliefs, success) = jax.lax.scan(one, nothing, (keys, jnp.arange(episodes, dtype=jnp.int32)))
        return Adaptation(returns[:, 0], beliefs, None if success is None else success[:, 0])

    def start(key: Key, params: Deployed) -> Memory:
        del key, params
        capacity = config.adaptation_episodes * horizon
        obs = jnp.zeros(shapes.observation.shape, shapes.observation.dtype)
        one = Experience(obs, no_action(family.action_space), jnp.float32(0), obs, jnp.bool_(False), jnp.bool_(False))
        context = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), one)
        return Memory(context, jnp.int32(0), jnp.int32(0), obs, jnp.zeros(latent_size, jnp.float32))

    def act(
        key: Key, params: Deployed, memory: Memory, inputs: Inputs, final_obs: Array
    ) -> tuple[Memory, Array, tuple[()]]:
        key_latent, key_action = jax.random.split(key)
        ended = inputs.prev_done > 0
        went = jnp.logical_not(inputs.first)
        # Only critics use whether an episode terminated.
        seen = Experience(memory.obs, inputs.prev_action, inputs.prev_reward, final_obs, jnp.bool_(False), went)
        place = jnp.where(inputs.first, 0, memory.steps % memory.context.valid.shape[0])
        context = jax.tree.map(lambda ring, x: ring.at[place].set(x), memory.context, seen)
        episode_index = memory.episode + ended.astype(jnp.int32)

        def draw() -> Array:
            return encoder.infer(params.encoder, usable(context, episode_index)).sample(key_latent)

        latent = jax.lax.cond(jnp.logical_or(ended, inputs.first), draw, lambda: memory.latent)
        action = choose(key_action, params.actor, inputs.obs, latent, config.deterministic)
        steps = memory.steps + went.astype(jnp.int32)
        return Memory(context, steps, episode_index, inputs.obs, latent), action, ()

    acting = Acting(
        params=lambda state: Deployed(state.learned.encoder, state.learned.actor),
        start=start,
        act=act,
        final_observation=encoder.next_observation,
    )
    return Algorithm(init, step, adapt, config.iterations, acting=acting)
