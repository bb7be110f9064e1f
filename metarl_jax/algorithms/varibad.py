"""VariBAD (Zintgraf et al. 2020, arXiv 1910.08348): a policy that acts on a learned belief about the task.

An encoder infers a belief about the task from the trial so far, and PPO trains a policy on the observation and the
belief. ``belief_learning`` describes the training.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import belief_learning, ppo
from metarl_jax.belief_learning import State
from metarl_jax.interfaces.belief import BeliefNetworks
from metarl_jax.types import Algorithm, EnvFamily


@dataclass(frozen=True, kw_only=True)
class Config(belief_learning.Config):
    """Settings of VariBAD: those of PPO, and those of the belief."""


def make(
    family: EnvFamily, networks: BeliefNetworks, config: Config, *, auxiliary: ppo.Auxiliary | None = None
) -> Algorithm:
    """Make VariBAD on a family of tasks.

    ``adapt`` plays one trial of ``config.adaptation_episodes`` episodes, and its scores are the returns of the
    episodes. Actions are sampled as in training, or they are the most likely ones if ``config.deterministic`` is true.
    The learner is the encoder's memory at the end.

    Args:
        family: the tasks.
        networks: encoder, decoder and policy.
        config: the settings.
        auxiliary: a loss to add to the policy's loss; ``State.policy`` is then ``ppo.WithAuxiliary``. Its gradient,
            like that of the policy's loss, does not reach the encoder.

    Raises:
        ValueError: if the configuration has a training reward that the family does not have, if the family is wrong
            (``family_checks``), or if the networks do not fit the family or each other.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.gridnavi.make()
        >>> networks = mrl.networks.belief.make(family, mrl.networks.belief.Settings(hidden_size=16))
        >>> config = mrl.algorithms.varibad.Config(episodes=2, trials=8, buffer_trials=16, model_trials=4, iterations=2)
        >>> run = mrl.train(jax.random.key(0), mrl.algorithms.varibad.make(family, networks, config))
    """
    return belief_learning.make(family, networks, config, auxiliary=auxiliary)


__all__ = ["Config", "State", "make"]
