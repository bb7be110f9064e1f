"""The Decision-Pretrained Transformer (DPT; Lee et al. 2023, arXiv 2306.14892), with any memory.

A policy with a memory reads trials of a behaviour policy and is trained to predict an optimal action of the known task
at each step. The prediction converges to the posterior distribution of the optimal action, given the steps before it.
To act by samples of the prediction is therefore posterior sampling (theorem 1 of the paper), without a model of the
tasks. In tasks of several steps per episode, the policy samples anew at each step, whereas posterior sampling keeps its
sample for an episode.

The optimal actions are privileged information about training tasks (``types.Privileged.optimal_action``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from metarl_jax import imitation
from metarl_jax.family_checks import check_shapes
from metarl_jax.interfaces.imitation import Demonstration
from metarl_jax.ops.distributions import Categorical
from metarl_jax.rollout import trial
from metarl_jax.settings import Doc
from metarl_jax.types import Algorithm, Array, Discrete, EnvFamily, Inputs, Key, Policy, Privileged

FAVOURITE_WEIGHTS = 11
"""The number of values, from 0 to 1, that the weight of the favourite action can have."""


State = imitation.State


@dataclass(frozen=True, kw_only=True)
class Config(imitation.Config):
    """Settings of the Decision-Pretrained Transformer: those of imitation, and the behaviour policy."""

    behaviour: Annotated[
        Literal["mixture", "uniform"],
        Doc(
            'The policy that plays the trials of training. It ignores observations. "uniform": every action is '
            'equally likely. "mixture": each trial has its own probabilities of actions, a mixture of a sample of '
            "Dirichlet(1, ..., 1) and of one random action, whose weight is 0, 0.1, ... or 1 (section 4 of the paper, "
            "for bandits). Trials with nearly equal actions resemble those of a policy that has adapted."
        ),
    ] = "mixture"


def make(family: EnvFamily, policy: Policy, config: Config) -> Algorithm:
    """Make the Decision-Pretrained Transformer on a family of tasks.

    ``adapt`` plays one trial of ``config.episodes`` episodes, and its scores are the returns of the episodes.

    Args:
        family: the tasks. Actions must be discrete, and ``privileged.optimal_action`` must be known.
        policy: a policy with a memory.
        config: the settings.

    Raises:
        ValueError: if actions are not discrete, if the optimal action is not known, if the family is wrong
            (``family_checks``), or if the policy was made for other spaces.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.gaussian(arms=2)
        >>> config = mrl.algorithms.decision_pretrained.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.decision_pretrained.make(family, mrl.networks.recurrent.make(family), config)
        >>> algorithm.iterations
        3
    """
    check_shapes(family, episodes=config.episodes)
    optimal_action, space = (family.privileged or Privileged()).optimal_action, family.action_space
    if optimal_action is None or not isinstance(space, Discrete):
        raise ValueError(
            "the Decision-Pretrained Transformer needs discrete actions, and the optimal action of the known task "
            "(EnvFamily.privileged.optimal_action)"
        )

    def probabilities(key: Key) -> Array:
        """Draw the probabilities of actions in a trial, ``[K]``."""
        if config.behaviour == "uniform":
            return jnp.full(space.n, 1 / space.n, jnp.float32)
        key_dirichlet, key_favourite, key_weight = jax.random.split(key, 3)
        exponential = jax.random.exponential(key_dirichlet, (space.n,), jnp.float32)
        favourite = jax.random.randint(key_favourite, (), 0, space.n, jnp.int32)
        weight = jax.random.randint(key_weight, (), 0, FAVOURITE_WEIGHTS, jnp.int32) / (FAVOURITE_WEIGHTS - 1)
        one = jax.nn.one_hot(favourite, space.n, dtype=jnp.float32)
        return (1 - weight) * exponential / jnp.sum(exponential) + weight * one

    def draw(key: Key) -> Demonstration:
        key_task, key_behaviour, key_trial = jax.random.split(key, 3)
        task = family.tasks.sample(key_task)
        behaviour = Categorical(jnp.log(probabilities(key_behaviour)))

        def act(key: Key, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], Array, tuple[()]]:
            del inputs
            return carry, behaviour.sample(key), ()

        _, steps = trial(key_trial, act, (), family, task, config.episodes)
        return Demonstration(steps.inputs, optimal_action(task, steps), steps.valid.astype(jnp.float32))

    return imitation.make(family, policy, draw, config)
