"""Algorithm Distillation (Laskin et al. 2022, arXiv 2210.14215), with any memory.

A policy with a memory is trained to predict the actions of another learner, the source, on whole trials in which the
source adapts to a task. The policy then adapts to new tasks as the source does, by its memory alone. The source is a
reference learner of the family that plays a new trial for each demonstration, or stored learning histories
(``datasets.histories``), for example those of reinforcement learning from scratch, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import imitation
from metarl_jax.interfaces.imitation import Imitation
from metarl_jax.types import Algorithm, EnvFamily

State = imitation.State


@dataclass(frozen=True, kw_only=True)
class Config(imitation.Config):
    """Settings of Algorithm Distillation: those of imitation."""


def make(family: EnvFamily, problem: Imitation, config: Config) -> Algorithm:
    """Make Algorithm Distillation on a family of tasks.

    ``adapt`` plays one trial of ``config.episodes`` episodes, and its scores are the returns of the episodes.

    Args:
        family: the tasks.
        problem: a policy with a memory, and the demonstrations (``problems.imitation``).
        config: the settings.

    Raises:
        ValueError: if the family is wrong (``family_checks``), if the policy was made for other spaces, or if stored
            histories do not fit the family.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> policy = mrl.networks.recurrent.make(family)
        >>> problem = mrl.problems.imitation(family, policy, mrl.oracles.bandits.thompson_sampling)
        >>> config = mrl.algorithms.algorithm_distillation.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.algorithm_distillation.make(family, problem, config)
        >>> algorithm.iterations
        3
    """
    return imitation.make(family, problem.policy, problem.demonstrations(config.episodes), config)
