"""RL³ (Bhatia, Nashed and Zilberstein 2025, arXiv 2306.15909): a policy that also observes estimated action values.

From the steps of the trial so far, a model of the task is estimated by counting: the posterior means of the transition
probabilities and of the mean rewards. At every step, value iteration on this model gives the action values of the
current state for the rest of the episode. The policy observes them together with the number of times that it took each
action in this state. RL within the trial thus informs the meta-learner, which can have any memory. RL² trains the
policy; RL³ is RL² on these observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import settings
from metarl_jax.networks.heads import encode
from metarl_jax.settings import Doc, PositiveFloat
from metarl_jax.types import (
    Array,
    Box,
    Carry,
    Discrete,
    EnvFamily,
    HostEnvironment,
    Inputs,
    Key,
    Output,
    Params,
    Policy,
    Space,
    Spaces,
)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the estimated model: the prior, as if it were data."""

    prior_transitions: Annotated[
        PositiveFloat,
        Doc(
            "The imaginary number of transitions from each state to each state, by each action (Laplace smoothing with "
            "0.1 in the code of Bhatia et al.; 1 is the uniform Dirichlet prior)."
        ),
    ] = 1.0
    prior_rewards: Annotated[
        PositiveFloat, Doc("The imaginary number of rewards of each action in each state, relative to the noise.")
    ] = 1.0
    prior_reward: Annotated[float, Doc("The value of each of the imaginary rewards.")] = 0.0
    standardised: Annotated[
        bool,
        Doc(
            "Whether the policy also observes the lead of each action over the best other one, in units of the "
            "standard error of the difference for rewards with unit noise. Without it, small networks cannot "
            "distinguish values that are nearly equal and well known."
        ),
    ] = False


LARGEST_LEAD = 4.0
"""The bound of leads that are in units of a standard error, for rewards whose noise has the standard deviation 1."""


class Estimates(NamedTuple):
    """The statistics of a trial, from which the model of its task is estimated."""

    transitions: Array
    """How often each action led from each state to each state, ``[S, A, S]`` float32. Transitions across the end of an
    episode are not included, because the policy does not observe the last state of an episode."""
    visits: Array
    """How often each action was taken in each state, ``[S, A]`` float32. It is exact up to 2^24."""
    reward: Array
    """The posterior mean of the reward of each action in each state, ``[S, A]``."""
    state: Array
    """The state of the last step, ``int32``."""
    time: Array
    """The number of steps of the current episode before the current step, ``int32``."""


def no_data(states: int, actions: int, settings: Settings) -> Estimates:
    """Return the statistics of no data."""
    pairs = states, actions
    return Estimates(
        jnp.zeros((*pairs, states), jnp.float32),
        jnp.zeros(pairs, jnp.float32),
        jnp.full(pairs, settings.prior_reward, jnp.float32),
        jnp.int32(0),
        jnp.int32(0),
    )


def observe(estimates: Estimates, state: Array, inputs: Inputs, settings: Settings) -> Estimates:
    """Add the previous step of a trial to the statistics.

    Args:
        estimates: the statistics of the steps before it.
        state: the current state, ``int32``.
        inputs: the policy's inputs at the current step, which have the action and the reward of the previous step.
        settings: the prior.
    """
    states, actions = estimates.visits.shape
    took = jax.nn.one_hot(inputs.prev_action, actions, dtype=jnp.float32) * jnp.logical_not(inputs.first)
    taken = jnp.outer(jax.nn.one_hot(estimates.state, states, dtype=jnp.float32), took)
    arrived = jax.nn.one_hot(state, states, dtype=jnp.float32) * (1 - inputs.prev_done)
    visits = estimates.visits + taken
    # A running mean: a sum of rewards would lose precision in long trials.
    step = taken / (settings.prior_rewards + visits)
    reward = estimates.reward + step * (inputs.prev_reward - estimates.reward)
    starts = jnp.logical_or(inputs.first, inputs.prev_done > 0)
    time = jnp.where(starts, 0, estimates.time + 1)
    return Estimates(estimates.transitions + taken[..., None] * arrived, visits, reward, state, time)


def action_values(estimates: Estimates, horizon: int, settings: Settings) -> Array:
    """Compute the action values of the current state for the rest of the episode, ``[A]``, by value iteration.

    The model has the posterior means of transition probabilities and rewards. The last step of an episode is worth its
    reward.

    Args:
        estimates: the statistics of the trial.
        horizon: the number of steps of an episode.
        settings: the prior.
    """
    weight, states = settings.prior_transitions, estimates.visits.shape[0]
    total = states * weight + jnp.sum(estimates.transitions, axis=-1)
    following = horizon - 1 - estimates.time

    def backed_up(transitions: Array, total: Array, reward: Array, value: Array) -> Array:
        return reward + (transitions @ value + weight * jnp.sum(value)) / total

    def sweep(step: Array, value: Array) -> Array:
        best = jnp.max(backed_up(estimates.transitions, total, estimates.reward, value), axis=-1)
        return jnp.where(step < following, best, value)

    value = jax.lax.fori_loop(0, horizon - 1, sweep, jnp.zeros(states, jnp.float32))
    here = estimates.state
    return backed_up(estimates.transitions[here], total[here], estimates.reward[here], value)


def features(estimates: Estimates, horizon: int, settings: Settings) -> Array:
    """Return the estimates of the current state as inputs of a network, with entries of the order of a reward.

    Args:
        estimates: the statistics of the trial.
        horizon: the number of steps of an episode.
        settings: the prior.

    Returns:
        ``[2 A + 1]``: the advantage of each action, which is its action value minus the highest one; the highest action
        value, divided by the number of steps that remain; and ``1 / sqrt(1 + n)`` for the number n of times that each
        action was taken. With ``standardised``, they are followed by A more entries, bounded by a hyperbolic tangent:
        the action value of each action minus the highest one of the other actions, divided by
        ``sqrt(1 / (k + n) + 1 / (k + m))`` for the number m of times that the other action was taken
        and k imaginary rewards.
    """
    values, visits = action_values(estimates, horizon, settings), estimates.visits[estimates.state]
    best = jnp.max(values)
    mean = best / jnp.maximum(horizon - estimates.time, 1)
    shown = [values - best, mean[None], jax.lax.rsqrt(1 + visits)]
    if settings.standardised:
        others = jnp.where(jnp.eye(len(values), dtype=bool), -jnp.inf, values)
        variance = 1 / (settings.prior_rewards + visits)
        lead = (values - jnp.max(others, axis=1)) * jax.lax.rsqrt(variance + variance[jnp.argmax(others, axis=1)])
        shown.append(LARGEST_LEAD * jnp.tanh(lead / LARGEST_LEAD))
    return jnp.concatenate(shown)


def number_of_features(actions: int, settings: Settings) -> int:
    """Return the number of entries of ``features`` for a number of actions."""
    return (3 if settings.standardised else 2) * actions + 1


class Memory(NamedTuple):
    """The memory that the policy carries from step to step."""

    inner: Carry
    """The memory of the inner policy."""
    estimates: Estimates


def _states(family: EnvFamily) -> int:
    """Return the number of states of a family.

    Raises:
        ValueError: if actions are not discrete, or observations do not identify one of finitely many states.
    """
    space = family.observation_space
    if isinstance(family.action_space, Discrete):
        match space:
            case Discrete(n=n):
                return n
            case Box(shape=(0,)):
                return 1
            case Box(shape=(n,)) if _one_hot(family):
                return n
    raise ValueError(
        "estimated action values need discrete actions, and observations that are discrete or one-hot: this family has "
        f"actions in {family.action_space!r} and observations in {space!r}"
    )


def _one_hot(family: EnvFamily) -> bool:
    """Return whether the first observation of a task is one-hot."""
    if isinstance(family.env, HostEnvironment):
        return False
    with jax.ensure_compile_time_eval():
        key = jax.random.key(0)
        seen = np.asarray(family.env.reset(key, family.tasks.sample(key))[0])
    return bool(np.sum(seen == 1) == 1 and np.sum(seen == 0) == seen.size - 1)


_DEFAULT = Settings()


def make(family: EnvFamily, memory: Callable[[Spaces], Policy], settings: Settings = _DEFAULT) -> Policy:
    """Make a policy that observes estimated action values in addition to its usual inputs.

    The observation of the inner policy is the encoded observation, followed by ``features``. Value iteration is run at
    every step.

    Args:
        family: tasks with discrete actions, and with observations that are discrete or one-hot. A family whose
            observations have no entries, such as a bandit, has one state.
        memory: makes the inner policy, which can have any memory, for an observation space and an action space.
        settings: the prior of the estimated model.

    Raises:
        ValueError: if actions are not discrete, or if observations are neither discrete nor one-hot.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.tabular_mdp.make(states=4, actions=2)
        >>> policy = mrl.networks.estimated_values.make(family, mrl.networks.fast_weights.make)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.rl2.make(family, policy, config)
    """
    states, horizon, seen = _states(family), family.horizon, family.observation_space
    assert isinstance(family.action_space, Discrete)
    actions = family.action_space.n
    size = (states if isinstance(seen, Discrete) else seen.shape[0]) + number_of_features(actions, settings)
    inner = memory(Spaces(Box(-jnp.inf, jnp.inf, (size,)), family.action_space))

    def advance(estimates: Estimates, inputs: Inputs) -> tuple[Estimates, Inputs]:
        """Return the statistics that include the previous step, and the inputs of the inner policy."""
        estimates = observe(estimates, _state(seen, inputs.obs), inputs, settings)
        shown = jnp.concatenate([encode(seen, inputs.obs), features(estimates, horizon, settings)])
        return estimates, inputs._replace(obs=shown)

    def initial_carry(params: Params) -> Memory:
        return Memory(inner.initial_carry(params), no_data(states, actions, settings))

    def step(params: Params, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        estimates, inputs = advance(carry.estimates, inputs)
        after, output = inner.step(params, carry.inner, inputs)
        return Memory(after, estimates), output

    def unroll(params: Params, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        one_step = advance if inputs.prev_reward.ndim == 1 else jax.vmap(advance)
        estimates, inputs = jax.lax.scan(one_step, carry.estimates, inputs)
        after, output = inner.unroll(params, carry.inner, inputs)
        return Memory(after, estimates), output

    def init(key: Key) -> Params:
        return inner.init(key)

    return Policy(init, initial_carry, step, unroll, inner.critic, (seen, family.action_space))


def _state(space: Space, observation: Array) -> Array:
    match space:
        case Discrete():
            return observation.astype(jnp.int32)
        case Box(shape=(0,)):
            return jnp.int32(0)
        case Box():
            return jnp.argmax(observation).astype(jnp.int32)
