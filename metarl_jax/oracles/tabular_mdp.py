"""Learners for the random tabular MDPs of RL² (Duan et al. 2016, section 3.2): the baselines of its table 2.

Every factory takes ``(family, episodes)``: a family of ``environments.tabular_mdp`` with S states and A actions, and
the number of episodes in a trial. The learners plan by finite-horizon value iteration before each episode, and
know how tasks are drawn: mean rewards ~ Normal(1, 1), so that the posterior after n visits with total reward R is
Normal((1 + R) / (1 + n), 1 / (1 + n)) (the noise has variance 1, and is known), and transition rows ~
Dirichlet(1, ..., 1).

Settings marked as tuned were chosen here on meta-training tasks with 10 episodes, 10 states and 5 actions.
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
from metarl_jax.oracles.base import Sum, gamma, no_sum
from metarl_jax.rollout import episode, episode_returns, trial
from metarl_jax.types import Adaptation, Array, EnvFamily, Inputs, Key, Oracle, State, Transition


class Statistics(NamedTuple):
    """All that the learners remember."""

    transitions: Array
    """``[S, A, S]`` int32: how often each transition was seen."""
    reward: Sum
    """``[S, A]``: the sum of the rewards."""


Plan: TypeAlias = Callable[[Key, Statistics, TabularMDPParams], Array]
"""``(key, statistics, task) -> actions [H, S]`` for one episode; only ``optimal`` looks at the task."""


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
    # Within an episode floats count exactly; over a trial they no longer change by 1 beyond 2^24.
    seen = jnp.round(jnp.einsum("tsa,tz->saz", visit, steps.final_obs)).astype(jnp.int32)
    paid = jnp.einsum("tsa,t->sa", visit, jnp.where(steps.valid, steps.reward, 0.0))
    return Statistics(statistics.transitions + seen, statistics.reward.add(paid))


def _make(name: str, family: EnvFamily, episodes: int, plan: Plan, epsilon: float | None = None) -> Oracle:
    env = _environment(family)
    episodes = positive_int("episodes", episodes)

    def adapt(key: Key, state: State, task: TabularMDPParams) -> Adaptation:
        del state

        def one_episode(statistics: Statistics, key: Key) -> tuple[Statistics, Array]:
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
            return _update(statistics, steps), episode_returns(steps, 1)[0]

        pairs = env.states, env.actions
        start = Statistics(jnp.zeros((*pairs, env.states), jnp.int32), no_sum(pairs))
        statistics, score = jax.lax.scan(one_episode, start, jax.random.split(key, episodes))
        return Adaptation(score, statistics)

    return Oracle(name, adapt)


def _visits(statistics: Statistics) -> Array:
    """``[S, A]``: how often each action was taken in each state, as floats."""
    return jnp.sum(statistics.transitions, axis=-1).astype(jnp.float32)


def _dirichlet(statistics: Statistics) -> Array:
    """``[S, A, S]``: the parameters of the posterior of transition rows, as floats."""
    return (1 + statistics.transitions).astype(jnp.float32)


def _mean_model(statistics: Statistics) -> tuple[Array, Array]:
    """The posterior's mean: transition probabilities ``[S, A, S]`` and rewards ``[S, A]``."""
    weights = _dirichlet(statistics)
    reward = (1 + statistics.reward.total) / (1 + _visits(statistics))
    return weights / jnp.sum(weights, axis=-1, keepdims=True), reward


def _sample_model(key: Key, statistics: Statistics) -> tuple[Array, Array]:
    """One draw from the posterior, shaped as ``_mean_model``."""
    key_transition, key_reward = jax.random.split(key)
    weights = gamma(key_transition, _dirichlet(statistics))
    _, mean = _mean_model(statistics)
    reward = mean + jax.random.normal(key_reward, mean.shape, jnp.float32) / jnp.sqrt(1 + _visits(statistics))
    return weights / jnp.sum(weights, axis=-1, keepdims=True), reward


def random(family: EnvFamily, episodes: int) -> Oracle:
    """Every action with equal probability."""
    env = _environment(family)

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return jnp.zeros((family.horizon, env.states), jnp.int32)

    return _make("random", family, episodes, plan, epsilon=1.0)


def _greedy_plan(family: EnvFamily) -> Plan:
    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return finite_horizon_values(*_mean_model(statistics), family.horizon)[1]

    return plan


def greedy(family: EnvFamily, episodes: int) -> Oracle:
    """Best for the posterior's mean model (certainty equivalence)."""
    return _make("greedy", family, episodes, _greedy_plan(family))


def epsilon_greedy(family: EnvFamily, episodes: int, epsilon: float = 0.01) -> Oracle:
    """``greedy``, but any action with probability ``epsilon`` at each step.

    Args:
        family: of tabular MDPs.
        episodes: in a trial.
        epsilon: tuned (0.01, 0.02, 0.05, 0.1: the less the better).
    """
    epsilon = real(at_least=0, at_most=1)("epsilon", epsilon)
    return _make("epsilon_greedy", family, episodes, _greedy_plan(family), epsilon)


def psrl(family: EnvFamily, episodes: int) -> Oracle:
    """Posterior sampling (Strens 2000; Osband et al. 2013): best for one draw from the posterior, anew each episode."""

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return finite_horizon_values(*_sample_model(key, statistics), family.horizon)[1]

    return _make("psrl", family, episodes, plan)


def opsrl(family: EnvFamily, episodes: int, samples: int = 2) -> Oracle:
    """Optimistic posterior sampling (Agrawal and Jia 2017): several draws, mixed optimistically.

    Each backup takes, for every state and action, the draw that makes it look best.

    Args:
        family: of tabular MDPs.
        episodes: in a trial.
        samples: draws from the posterior; 1 is ``psrl``. Tuned, but 2, 5 and 10 are equal within noise there.
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

    return _make("opsrl", family, episodes, plan)


def ucrl2(family: EnvFamily, episodes: int, delta: float = 0.05, scale: float = 0.1) -> Oracle:
    """UCRL2 (Jaksch et al. 2010) for episodes: optimistic over confidence sets around the posterior's mean model.

    With t steps taken so far and n visits to (s, a), rewards lie within ``scale sqrt(7 log(2 S A t / delta) / 2 n)``
    and transition rows within ``scale sqrt(14 S log(2 A t / delta) / n)`` in L1 (n at least 1). The original has
    ``scale = 1`` (and empirical means, and rewards in [0, 1]), and is all but random for 1000 steps.

    Args:
        family: of tabular MDPs.
        episodes: in a trial.
        delta: the confidence sets' failure probability.
        scale: of the confidence sets' widths. Tuned, but 0.01 to 0.15 are equal within noise there.
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
            # The best row in the L1 ball: half the radius more on the best state, taken from the worst ones.
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

    return _make("ucrl2", family, episodes, plan)


def beb(family: EnvFamily, episodes: int, bonus: float = 0.5) -> Oracle:
    """Bayesian exploration bonus (Kolter and Ng 2009): best for the mean model with ``bonus / (1 + n)`` more reward.

    n counts visits alone: with the Dirichlet prior's S imaginary ones, as in the original, the bonus would hardly
    tell a tried action from an untried one in trials as short as these.

    Args:
        family: of tabular MDPs.
        episodes: in a trial.
        bonus: tuned (from 0.25 to 3).
    """
    bonus = real(at_least=0)("bonus", bonus)

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        transition, reward = _mean_model(statistics)
        reward += bonus / (1 + _visits(statistics))
        return finite_horizon_values(transition, reward, family.horizon)[1]

    return _make("beb", family, episodes, plan)


_GRID, _LARGEST_MEAN = 1201, 6.0


@functools.cache
def _index_offsets(horizon: int) -> np.ndarray:
    """How much an arm's posterior mean counts for beyond itself: ``[horizon + 1 visits, horizon + 1 pulls left]``.

    The finite-horizon Gittins index of a Normal arm (prior variance 1, noise variance 1) is its posterior mean plus an
    amount of the visits k and the pulls left t alone: minus the mean at which an arm is worth as much as one that pays
    zero for certain. By backward induction over t on a grid of means; rewards are integrated by the trapezoidal rule,
    which, unlike a Gaussian one, the kink between going on and giving up does not disturb.
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
            # Beyond the grid an arm is kept to the end, or never touched again.
            following = np.where(means > _LARGEST_MEAN, means * (left - 1), following)
            goes_on = grid + following @ weights
            first = int(np.argmax(goes_on > 0))
            slope = (goes_on[first] - goes_on[first - 1]) / (grid[1] - grid[0])
            offsets[visits, left] = goes_on[first] / slope - grid[first]
            values.append(np.maximum(goes_on, 0.0))
        later = values
    return offsets


def state_gittins(family: EnvFamily, episodes: int) -> Oracle:
    """A bandit in every state: the action of the highest finite-horizon Gittins index (Normal arms).

    What an action leads to is ignored, of which little depends here (a myopic agent that knows the rewards loses 1 %).
    The pulls left in a state are taken to be the visits to expect if all states were equally likely after the first
    step of an episode. Unlike the planners here it learns within an episode.
    """
    env = _environment(family)
    episodes = positive_int("episodes", episodes)
    total, start = episodes * family.horizon, 0
    longest = episodes + -(-(total - episodes) // env.states)
    offsets = jnp.asarray(_index_offsets(longest), jnp.float32)

    class Memory(NamedTuple):
        visits: Array
        """``[S, A]`` int32."""
        reward: Sum
        """``[S, A]``: the sum of the rewards."""
        time: Array
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

    def adapt(key: Key, state: State, task: TabularMDPParams) -> Adaptation:
        del state
        pairs = env.states, env.actions
        memory = Memory(jnp.zeros(pairs, jnp.int32), no_sum(pairs), jnp.int32(0), jnp.zeros(env.states, jnp.float32))
        memory, steps = trial(key, act, memory, family, task, episodes)
        return Adaptation(episode_returns(steps, episodes), memory)

    return Oracle("state_gittins", adapt)


def optimal(family: EnvFamily, episodes: int) -> Oracle:
    """Told the task: best at every step of the episode, by finite-horizon value iteration."""

    def plan(key: Key, statistics: Statistics, task: TabularMDPParams) -> Array:
        return finite_horizon_values(task.transition, task.reward_mean, family.horizon)[1]

    return _make("optimal", family, episodes, plan)
