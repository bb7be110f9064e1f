"""Multi-task training: what gradient-based meta-learners are measured against (Finn et al. 2017, section 5).

The parameters are trained for all tasks at once, without adaptation; on a held-out task they are fine-tuned as MAML
adapts.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl_jax import meta_gradient
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import Learner
from metarl_jax.ops.inner_loop import step_sizes
from metarl_jax.types import Algorithm

State = meta_gradient.State


@dataclass(frozen=True, kw_only=True)
class Config(meta_gradient.Config):
    """Settings of multi-task training; the inner loop's are those of fine-tuning."""

    @property
    def batches_per_task(self) -> int:
        """Batches collected on a task in training."""
        return 1


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Multi-task training on a problem; ``adapt`` is that of MAML.

    Raises:
        ValueError: if the configuration is out of range, or asks of the problem what it has not got.
    """
    meta_gradient.validate_with(config, problem)
    learner = Learner(
        init=problem.init,
        start=lambda meta: meta,
        params=lambda meta, adapting: adapting,
        loss=lambda meta: problem.inner_loss,
        rates=lambda meta, steps: step_sizes(config.inner_rate, meta, steps),
        max_norm=config.inner_norm,
    )
    return meta_gradient.make(problem, learner, lambda meta, supports: meta, config, adapts_in_training=False)
