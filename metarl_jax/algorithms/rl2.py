"""RL² (Duan et al. 2016, arXiv 1611.02779), trained with recurrent PPO.

The policy is recurrent. Its inputs include the last action, reward and done, and it keeps its memory over the episodes
of a trial; it adapts to a task by its memory. The outer loop trains the policy by policy gradients on many trials, each
on a newly drawn task. The objective is the return of the whole trial: discounting and advantage estimation continue
across the ends of episodes, and stop only at the end of the trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import ppo
from metarl_jax.batching import map_tasks
from metarl_jax.family_checks import check_shapes
from metarl_jax.network_checks import check_policy
from metarl_jax.rollout import episode_returns, episode_successes, trial
from metarl_jax.types import (
    Acting,
    Adaptation,
    Algorithm,
    Array,
    Carry,
    EnvFamily,
    Inputs,
    Key,
    Metrics,
    Params,
    Policy,
    Task,
    Transition,
)


@dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    """Settings of RL²: those of PPO."""


class State(NamedTuple):
    """The state of the outer loop."""

    params: Params
    optimizer: optax.OptState
    iteration: Array
    """The number of completed meta-iterations, ``int32``."""


def make(family: EnvFamily, policy: Policy, config: Config, *, auxiliary: ppo.Auxiliary | None = None) -> Algorithm:
    """Make RL² on a family of tasks.

    ``adapt`` plays one trial of ``config.episodes`` episodes, and its scores are the returns of the episodes. Actions
    are sampled as in training (Duan et al. also act stochastically at test time), or they are the most likely ones if
    ``config.deterministic`` is true. The learner is the memory at the end.

    Args:
        family: the tasks.
        policy: a policy with a memory.
        config: the settings.
        auxiliary: a loss to add to PPO's; ``State.params`` are then ``ppo.WithAuxiliary``.

    Raises:
        ValueError: if the configuration has a training reward that the family does not have, if the family is wrong
            (``family_checks``), or if the policy was made for other spaces.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family), config)
        >>> algorithm.iterations
        3
    """
    shapes = check_shapes(family, episodes=config.episodes, discount=config.discount)
    check_policy(policy, family, shapes)
    learning = ppo.make(policy, family.observation_space, config.episodes * family.horizon, config, auxiliary)
    policy, with_training_reward = learning.policy, ppo.with_training_reward(family, config)

    def act(
        key: Key, params: Params, carry: Carry, inputs: Inputs, deterministic: bool
    ) -> tuple[Carry, Array, ppo.Record]:
        carry, output = policy.step(params, carry, inputs)
        action = output.distribution.mode() if deterministic else output.distribution.sample(key)
        return carry, action, ppo.record(output, action)

    def play(key: Key, params: Params, task: Task, deterministic: bool) -> tuple[Carry, Transition]:
        def act_now(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, ppo.Record]:
            return act(key, params, carry, inputs, deterministic)

        return trial(key, act_now, policy.initial_carry(params), family, task, config.episodes)

    def collect(key: Key, params: Params, iteration: Array) -> tuple[ppo.Batch, Array]:
        """Play one trial on a newly drawn task; return it as PPO needs it, and its total reward."""
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        _, t = play(key_trial, params, task, deterministic=False)
        batch = learning.prepare(t.inputs, with_training_reward(task, t), t.output, iteration)
        return batch, jnp.sum(jnp.where(t.valid, t.reward, 0.0))

    collect_trials = map_tasks(
        collect,
        in_axes=(0, None, None),
        out_axes=(1, 0),
        carry_of=lambda key, params, iteration: policy.initial_carry(params),
    )

    def init(key: Key) -> State:
        params = policy.init(key)
        return State(params, learning.init(params), jnp.int32(0))

    def step(key: Key, state: State) -> tuple[State, Metrics]:
        key_collect, key_shuffle = jax.random.split(key)
        keys = jax.random.split(key_collect, config.trials)
        batch, trial_reward = collect_trials(keys, state.params, state.iteration)
        params, optimizer, metrics = learning.update(key_shuffle, state.params, state.optimizer, batch, state.iteration)
        return State(params, optimizer, state.iteration + 1), {**metrics, "trial_reward": jnp.mean(trial_reward)}

    def adapt(key: Key, state: State, task: Task) -> Adaptation:
        memory, transitions = play(key, state.params, task, config.deterministic)
        success = episode_successes(transitions, family, task, config.episodes)
        return Adaptation(episode_returns(transitions, config.episodes), memory, success)

    def act_deployed(
        key: Key, params: Params, carry: Carry, inputs: Inputs, final_obs: Array
    ) -> tuple[Carry, Array, tuple[()]]:
        del final_obs
        return *act(key, params, carry, inputs, config.deterministic)[:2], ()

    acting = Acting(
        params=lambda state: state.params,
        start=lambda key, params: policy.initial_carry(params),
        act=act_deployed,
    )
    return Algorithm(init, step, adapt, config.iterations, acting=acting)
