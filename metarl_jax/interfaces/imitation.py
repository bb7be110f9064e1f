"""The interface of in-context learners that imitate: demonstrations, and a policy with a memory that predicts actions.

Algorithm Distillation (Laskin et al. 2022) and the Decision-Pretrained Transformer (Lee et al. 2023) train a sequence
model by supervised learning on trials that another learner played.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from metarl_jax.types import Array, Inputs, Key, Policy


class Demonstration(NamedTuple):
    """A trial, and the action that the learner is trained to predict at each of its steps."""

    inputs: Inputs
    """The inputs of the policy, ``[T, ...]``."""
    action: Array
    """The action to predict at each step, ``[T, ...]``."""
    weight: Array
    """The weight of the loss of each step, ``[T]``: 1, or 0 for a step after the end of the trial."""


Draw: TypeAlias = Callable[[Key], Demonstration]
"""``key -> Demonstration``: draw a demonstration on a training task."""


class Imitation(NamedTuple):
    """A policy, and the demonstrations that it imitates."""

    policy: Policy
    demonstrations: Callable[[int], Draw]
    """``E -> Draw``: demonstrations of E episodes."""
