"""Reference learners for the random tabular MDPs of RL² (Duan et al. 2016, section 3.2): the baselines of its table 2.

Every factory takes ``(family, episodes)``: a family of ``environments.tabular_mdp`` with S states and A actions, and
the number of episodes in a trial. Most learners plan by finite-horizon value iteration before each episode. All of them
use the distribution of tasks as their prior. Mean rewards are Normal(1, 1), and the variance 1 of the noise is known.
The posterior after n visits with total reward R is therefore Normal((1 + R) / (1 + n), 1 / (1 + n)). The prior of
transition probabilities is Dirichlet(1, ..., 1).

Settings marked as tuned were chosen on training tasks with 10 episodes, 10 states and 5 actions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int, real
from metarl_jax.environments.tabular_mdp import TabularMDP, TabularMDPParams, finite_horizon_values
from metarl_jax.oracles.base import Sum, gamma, no_sum, of_trials
from metarl_jax.rollout import episode, episode_returns, joined, trial
from metarl_jax.types import Adaptation, Array, EnvFamily, Inputs, Key, Oracle, State, Transition


class Statistics(NamedTuple):
    """The sufficient statistics of a trial, which are the memory of the learners."""

    transitions: Array
    """The number of observations of each transition, ``[S, A, S]`` int32."""
    reward: Sum
    """The sum of the rewards of each state and action, ``[S, A]``."""


Plan: TypeAlias = Callable[[Key, Statistics, TabularMDPParams], Array]
"""The plan of one episode, ``(key, statistics, task) -> actions [H, S]``; only ``optimal`` uses the task."""


def _environment(family: EnvFamily) -> TabularMDP:
    if not isinstance(family.env, TabularMDP):
        raise ValueError(f"family must be one of environments.tabular_mdp, not one of {type(family.env).__name__}")
    return family.env


def _update(statistics: Statistics, steps: Transition) -> Statistics:
    """Add one episode's transitions ``[H, ...]``."""
    valid = steps.valid.astype(jnp.float32)
    actions = statistics.reward.total.shape[1]
    visit = jnp.einsum(
        "ts,ta,t->tsa", steps.inputs.obs, jax.nn.one_hot(steps.action, actions, dtype=jnp.float32), valid
    )
    # Within an episode, floats count exactly. Over a trial, adding 1 would have no effect beyond 2^24.
    seen = jnp.round(jnp.einsum("tsa,tz->saz", visit, steps.final_obs)).astype(jnp.int32)
    paid = jnp.einsum("tsa,t->sa", visit, jnp.where(steps.valid, steps.reward, 0.0))
    return Statistics(statistics.transitions + seen, statistics.reward.add(paid))


def _make(name: str, family: EnvFamily, episodes: int, plan: Plan, epsilon: float | None = None) -> Oracle:
    env = _environment(family)
    episodes = positive_int("episodes", episodes)

    def run(key: Key, task: TabularMDPParams) -> tuple[Statistics, Transition]:
        """Play a trial; return the statistics at its end, and its episodes ``[E, H, ...]``."""

        def one_episode(statistics: Statistics, key: Key) -> tuple[Statistics, Transition]:
            key_plan, key_episode = jax.random.split(key)
            actions = plan(key_plan, statistics, task)

            def act(key: Key, time: Array, inputs: Inputs) -> tuple[Array, Array, tuple[()]]:
                action = actions[time, jnp.argmax(inputs.obs)]
                if epsilon is not None:
                    key_explore, key_action = jax.random.split(key)
                    other = jax.random.randint(key_action, (), 0, env.actions, jnp.int32)
                    action = jnp.where(jax.random.uniform(key_explore, dtype=jnp.float32) < epsilon, other, action)
                return time + 1, action.astype(jnp.int32), ()

            _, steps = episode(key_episode, act, jnp.int32(0), family, task)
            return _update(statistics, steps), steps

        pairs = env.states, env.actions
        start = Statistics(jnp.zeros((*pairs, env.states), jnp.int32), no_sum(pairs))
        return jax.lax.scan(one_episode, start, jax.random.split(key, episodes))

    def adapt(key: Key, state: State, task: TabularMDPParams) -> Adaptation:
        del state
        statistics, played = run(key, task)
        return Adaptation(jax.vmap(lambda steps: episode_returns(steps, 1)[0])(played), statistics)

    return Oracle(name, adapt, play=lambda key, task: joined(run(key, task)[1]))


def _visits(statistics: Statistics) -> Array:
    """Return how often each action was taken in each state, ``[S, A]``, as floats."""
    return jnp.sum(statistics.transitions, axis=-1).astype(jnp.float32)


def _dirichlet(statistics: Statistics) -> Array:
    """Return the parameters of the Dirichlet posterior of transition probabilities, ``[S, A, S]``, as floats."""
    return (1 + statistics.transitions).astype(jnp.float32)


def _mean_model(statistics: Statistics) -> tuple[Array, Array]:
    """Compute the posterior mean of transition probabilities ``[S, A, S]`` and of mean rewards ``[S, A]``."""
    weights = _dirichlet(statistics)
    reward = (1 + statistics.reward.total) / (1 + _visits(statistics))
    return weights / jnp.sum(weights, axis=-1, keepdims=True), reward


def _sample_model(key: Key, statistics: Statistics) -> tuple[Array, Array]:
    """Draw transition probabilities ``[S, A, S]`` and mean rewards ``[S, A]`` from the posterior."""
    key_transition, key_reward = jax.random.split(key)
    weights = gamma(key_transition, _dirichlet(statistics))
    _, mean = _mean_model(statistics)
    reward = mean + jax.random.normal(key_reward, mean.shape, jnp.float32) / jnp.sqrt(1 + _visits(statistics))
    return weights / jnp.sum(weights, axis=-1, keepdims=True), reward


def random(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that takes every action with equal probability."""
    env = _environment(family)

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return jnp.zeros((family.horizon, env.states), jnp.int32)

    return _make("random", family, episodes, plan, epsilon=1.0)


def _greedy_plan(family: EnvFamily) -> Plan:
    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return finite_horizon_values(*_mean_model(statistics), family.horizon)[1]

    return plan


def greedy(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that is optimal for the posterior's mean model (certainty equivalence)."""
    return _make("greedy", family, episodes, _greedy_plan(family))


def epsilon_greedy(family: EnvFamily, episodes: int, epsilon: float = 0.01) -> Oracle:
    """Make a learner like ``greedy`` that takes a random action with probability ``epsilon`` at each step.

    Args:
        family: a family of tabular MDPs.
        episodes: the number of episodes of a trial.
        epsilon: the probability of a random action. The default is tuned (0.01, 0.02, 0.05 and 0.1 were tried; smaller
            values were better).
    """
    epsilon = real(at_least=0, at_most=1)("epsilon", epsilon)
    return _make("ε-greedy", family, episodes, _greedy_plan(family), epsilon)


def psrl(family: EnvFamily, episodes: int) -> Oracle:
    """Make posterior sampling (Strens 2000; Osband et al. 2013).

    In each episode, the learner is optimal for a new draw from the posterior.
    """

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return finite_horizon_values(*_sample_model(key, statistics), family.horizon)[1]

    return _make("PSRL", family, episodes, plan)


def opsrl(family: EnvFamily, episodes: int, samples: int = 2) -> Oracle:
    """Make optimistic posterior sampling (Agrawal and Jia 2017), with several draws from the posterior.

    Each backup uses, for every state and action, the draw in which the action's value is highest.

    Args:
        family: a family of tabular MDPs.
        episodes: the number of episodes of a trial.
        samples: the number of draws from the posterior; with 1, the learner is ``psrl``. The default is tuned, but 2, 5
            and 10 are equal within noise.
    """
    samples = positive_int("samples", samples)

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        keys = jax.random.split(key, samples)
        transition, reward = jax.vmap(_sample_model, in_axes=(0, None))(keys, statistics)

        def backup(value: Array, _: None) -> tuple[Array, Array]:
            action_value = jnp.max(reward + transition @ value, axis=0)
            return jnp.max(action_value, axis=-1), jnp.argmax(action_value, axis=-1)

        start = jnp.zeros(reward.shape[1], reward.dtype)
        return jax.lax.scan(backup, start, None, length=family.horizon, reverse=True)[1]

    return _make("OPSRL", family, episodes, plan)


def ucrl2(family: EnvFamily, episodes: int, delta: float = 0.05, scale: float = 0.1) -> Oracle:
    """Make UCRL2 (Jaksch et al. 2010) for episodes: it is optimistic over confidence sets around the mean model.

    The mean model is the mean of the posterior. After t steps, and n visits to (s, a) (counted as at least 1), the
    radius of the confidence set of the reward is ``scale sqrt(7 log(2 S A t / delta) / 2 n)``. That of the transition
    probabilities is ``scale sqrt(14 S log(2 A t / delta) / n)`` in L1. The original has ``scale = 1``, empirical means,
    and rewards in [0, 1]; with this scale the learner is almost random for 1000 steps.

    Args:
        family: a family of tabular MDPs.
        episodes: the number of episodes of a trial.
        delta: the failure probability of the confidence sets.
        scale: the factor of the radii of the confidence sets. The default is tuned, but 0.01 to 0.15 are equal within
            noise.
    """
    env = _environment(family)
    delta = real(above=0, at_most=1)("delta", delta)
    scale = real(at_least=0)("scale", scale)

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        transition, reward = _mean_model(statistics)
        visits = _visits(statistics)
        time = jnp.maximum(jnp.sum(visits), 1)
        visits = jnp.maximum(visits, 1)
        reward += scale * jnp.sqrt(7 * jnp.log(2 * env.states * env.actions * time / delta) / (2 * visits))
        radius = scale * jnp.sqrt(14 * env.states * jnp.log(2 * env.actions * time / delta) / visits)

        def backup(value: Array, _: None) -> tuple[Array, Array]:
            # The best probabilities in the L1 ball move half the radius from the worst states to the best state.
            order = jnp.argsort(value)
            row = transition[..., order]
            row = row.at[..., -1].set(jnp.minimum(row[..., -1] + radius / 2, 1.0))
            excess = jnp.sum(row, axis=-1, keepdims=True) - 1
            before = jnp.cumsum(row, axis=-1) - row
            row -= jnp.clip(excess - before, 0, row)
            action_value = reward + row @ value[order]
            return jnp.max(action_value, axis=-1), jnp.argmax(action_value, axis=-1)

        start = jnp.zeros(env.states, reward.dtype)
        return jax.lax.scan(backup, start, None, length=family.horizon, reverse=True)[1]

    return _make("UCRL2", family, episodes, plan)


def beb(family: EnvFamily, episodes: int, bonus: float = 0.5) -> Oracle:
    """Make the Bayesian exploration bonus (Kolter and Ng 2009): rewards are increased by ``bonus / (1 + n)``.

    The learner is optimal for the posterior's mean model with these rewards. Here n is the number of visits. In the
    original, n includes the S imaginary visits of the Dirichlet prior; the bonus of a tried action and that of an
    untried action would then hardly differ in trials as short as these.

    Args:
        family: a family of tabular MDPs.
        episodes: the number of episodes of a trial.
        bonus: the bonus of an action that was never taken. The default is tuned (from 0.25 to 3).
    """
    bonus = real(at_least=0)("bonus", bonus)

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        transition, reward = _mean_model(statistics)
        reward += bonus / (1 + _visits(statistics))
        return finite_horizon_values(transition, reward, family.horizon)[1]

    return _make("BEB", family, episodes, plan)


_GRID, _LARGEST_MEAN = 1201, 6.0


@functools.cache
def _index_offsets(horizon: int) -> np.ndarray:
    """Compute the differences of Gittins index and posterior mean, ``[horizon + 1 visits, horizon + 1 pulls left]``.

    The arms are Normal, with prior variance 1 and noise variance 1. The finite-horizon Gittins index of such an arm is
    its posterior mean plus a difference that only depends on the visits k and the pulls left t. The difference is minus
    the posterior mean at which the arm is worth as much as an arm with a certain reward of zero. It is computed by
    backward induction over t on a grid of means. Rewards are integrated by the trapezoidal rule. Unlike Gaussian
    quadrature, it remains accurate at the kink between continuing and stopping.
    """
    grid = np.linspace(-_LARGEST_MEAN, _LARGEST_MEAN, _GRID)
    nodes = np.linspace(-6, 6, 121)
    weights = np.exp(-0.5 * nodes**2)
    weights = weights / weights.sum()
    offsets = np.zeros((horizon + 1, horizon + 1))
    later = [np.zeros_like(grid)] * (horizon + 1)
    for left in range(1, horizon + 1):
        values = []
        for visits in range(horizon + 1 - left):
            spread = np.sqrt(1 / (1 + visits) - 1 / (2 + visits))
            means = grid[:, None] + spread * nodes
            following = np.interp(means, grid, later[visits + 1])
            # Above the grid, an arm is pulled until the end. Below the grid, it is never pulled again.
            following = np.where(means > _LARGEST_MEAN, means * (left - 1), following)
            goes_on = grid + following @ weights
            first = int(np.argmax(goes_on > 0))
            slope = (goes_on[first] - goes_on[first - 1]) / (grid[1] - grid[0])
            offsets[visits, left] = goes_on[first] / slope - grid[first]
            values.append(np.maximum(goes_on, 0.0))
        later = values
    return offsets


def state_gittins(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that treats every state as a bandit with Normal arms, and uses finite-horizon Gittins indices.

    It ignores the next states of actions, which have a small effect in these MDPs: a myopic agent that knows the
    rewards loses 1 %. The number of pulls left in a state is the expected number of visits if all states were equally
    likely after the first step of an episode. Unlike the planners of this module, it also learns within an episode.
    """
    env = _environment(family)
    episodes = positive_int("episodes", episodes)
    total, start = episodes * family.horizon, 0
    longest = episodes + -(-(total - episodes) // env.states)
    offsets = jnp.asarray(_index_offsets(longest), jnp.float32)

    class Memory(NamedTuple):
        """The memory of the learner."""

        visits: Array
        """The number of visits of each state and action, ``[S, A]`` int32."""
        reward: Sum
        """The sum of the rewards of each state and action, ``[S, A]``."""
        time: Array
        """The number of steps of the trial so far."""
        last: Array
        """The last observation."""

    def act(key: Key, memory: Memory, inputs: Inputs) -> tuple[Memory, Array, tuple[()]]:
        del key
        visit = jnp.outer(memory.last, jax.nn.one_hot(inputs.prev_action, env.actions, dtype=jnp.float32)) > 0
        visit = jnp.logical_and(visit, jnp.logical_not(inputs.first))
        visits = memory.visits + visit.astype(jnp.int32)
        reward = memory.reward.add(jnp.where(visit, inputs.prev_reward, 0.0))
        now, time = jnp.argmax(inputs.obs), memory.time
        starts = episodes - time // family.horizon - 1
        elsewhere = (total - time - 1 - starts) / env.states
        left = jnp.round(1 + elsewhere + jnp.where(now == start, starts, 0))
        left = jnp.clip(left, 1, longest).astype(jnp.int32)
        known = jnp.clip(visits[now], 0, longest - left)
        mean = (1 + reward.total[now]) / (1 + visits[now]).astype(jnp.float32)
        action = jnp.argmax(mean + offsets[known, left]).astype(jnp.int32)
        return Memory(visits, reward, time + 1, inputs.obs), action, ()

    def run(key: Key, task: TabularMDPParams) -> tuple[Memory, Transition]:
        pairs = env.states, env.actions
        memory = Memory(jnp.zeros(pairs, jnp.int32), no_sum(pairs), jnp.int32(0), jnp.zeros(env.states, jnp.float32))
        return trial(key, act, memory, family, task, episodes)

    return of_trials("Gittins index of each state", episodes, run)


def optimal(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that knows the task, and is optimal at every step by finite-horizon value iteration."""

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return finite_horizon_values(task.transition, task.reward_mean, family.horizon)[1]

    return _make("best play, task known", family, episodes, plan)
