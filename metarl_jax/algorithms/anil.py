"""ANIL (Raghu et al. 2020, arXiv 1909.09157): MAML whose inner loop adapts the network's last layer only."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from metarl_jax import meta_gradient
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import Learner, explicit
from metarl_jax.ops.inner_loop import step_sizes
from metarl_jax.types import Algorithm, Params

State = meta_gradient.State
HEAD = "head"
"""What the networks of this package call their last layer."""


@dataclass(frozen=True, kw_only=True)
class Config(meta_gradient.Config):
    """Settings of ANIL: those that all gradient-based meta-learners share."""


def _in_head(path: tuple[object, ...]) -> bool:
    return any(getattr(entry, "key", None) == HEAD for entry in path)


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """ANIL on a problem; ``adapt`` is that of MAML, of the head alone.

    Raises:
        ValueError: if the configuration is out of range or asks of the problem what it has not got; or if none or
            all of the network's parameters are below the name "head".
    """
    meta_gradient.validate_with(config, problem)
    paths, tree = jax.tree.flatten_with_path(jax.eval_shape(problem.init, jax.random.key(0)))
    in_head = [_in_head(path) for path, _ in paths]
    if not any(in_head) or all(in_head):
        raise ValueError(
            f"ANIL adapts the parameters below {HEAD!r}: this network has {'only' if any(in_head) else 'no'} such"
        )

    def start(meta: Params) -> Params:
        return [leaf for leaf, adapts in zip(jax.tree.leaves(meta), in_head, strict=True) if adapts]

    def params(meta: Params, head: Params) -> Params:
        own = iter(head)
        leaves = zip(jax.tree.leaves(meta), in_head, strict=True)
        return jax.tree.unflatten(tree, [next(own) if adapts else leaf for leaf, adapts in leaves])

    learner = Learner(
        init=problem.init,
        start=start,
        params=params,
        loss=lambda meta: lambda head, batch: problem.inner_loss(params(meta, head), batch),
        rates=lambda meta, steps: step_sizes(config.inner_rate, start(meta), steps),
        max_norm=config.inner_norm,
    )
    gradient = "first_order" if config.first_order else "exact"
    return meta_gradient.make(problem, learner, explicit(learner, gradient, config.rematerialise), config)
