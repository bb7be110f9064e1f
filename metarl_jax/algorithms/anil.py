"""ANIL (Raghu et al. 2020, arXiv 1909.09157): MAML whose inner loop adapts the network's last layer only."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from metarl_jax import meta_gradient
from metarl_jax.family_checks import check_problem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import DifferentiationConfig, InnerLoopConfig, make_learner, unrolled
from metarl_jax.outer_updates import AdamConfig, adam
from metarl_jax.types import Algorithm, Params

State = meta_gradient.State
HEAD = "head"
"""The name of the last layer in the networks of this package."""


@dataclass(frozen=True, kw_only=True)
class Config(AdamConfig, DifferentiationConfig, InnerLoopConfig):
    """Settings of ANIL: those of MAML."""


def _in_head(path: tuple[object, ...]) -> bool:
    return any(getattr(entry, "key", None) == HEAD for entry in path)


def make(problem: InnerProblem, config: Config) -> Algorithm:
    """Make ANIL on a problem. ``adapt`` is that of MAML, but changes the head only.

    Raises:
        ValueError: if the problem is wrong (``family_checks``), or if none or all of the network's parameters are
            below the name "head".
    """
    check_problem(problem)
    paths, tree = jax.tree.flatten_with_path(jax.eval_shape(problem.init, jax.random.key(0)))
    in_head = [_in_head(path) for path, _ in paths]
    if not any(in_head) or all(in_head):
        raise ValueError(
            f"ANIL adapts the parameters below {HEAD!r}: this network has {'only' if any(in_head) else 'no'} such "
            "parameters"
        )

    def start(meta: Params) -> Params:
        return [leaf for leaf, adapts in zip(jax.tree.leaves(meta), in_head, strict=True) if adapts]

    def params(meta: Params, head: Params) -> Params:
        own = iter(head)
        leaves = zip(jax.tree.leaves(meta), in_head, strict=True)
        return jax.tree.unflatten(tree, [next(own) if adapts else leaf for leaf, adapts in leaves])

    learner = make_learner(problem, config, start=start, params=params)
    return meta_gradient.make(problem, learner, unrolled(learner, config), config, adam(config, config.iterations))
