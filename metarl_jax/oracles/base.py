"""What every oracle is, and the exact sampler that several of them need."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.types import Adaptation, Array, Key, State, Task

_ROUNDS = 4


class Oracle(NamedTuple):
    """A learner that was not meta-trained; ``meta_test`` scores it as it scores an ``Algorithm``."""

    name: str
    adapt: Callable[[Key, State, Task], Adaptation]
    """``(key, (), task) -> Adaptation`` with ``score [E]``; the state is not looked at."""


def gamma(key: Key, shape: Array) -> Array:
    """Gamma(shape, 1) for shapes of at least 1, cheaply in a batch.

    Marsaglia and Tsang (2000) with a fixed four proposals an element, instead of looping until each is accepted.
    A proposal is accepted with probability 0.951 or more, so that an element ends with a rejected proposal, the
    fourth, with probability below 6e-6: the distance in total variation from the exact law is below that.

    Args:
        key: random key.
        shape: ``[...]`` float32, at least 1 (not checked: posterior counts are).

    Returns:
        ``[...]`` float32, positive.
    """
    key_normal, key_uniform = jax.random.split(key)
    normal = jax.random.normal(key_normal, (_ROUNDS, *shape.shape), jnp.float32)
    exponential = jax.random.exponential(key_uniform, (_ROUNDS, *shape.shape), jnp.float32)
    d = shape - 1 / 3
    v = (1 + normal / jnp.sqrt(9 * d)) ** 3
    # log U < x^2 / 2 + d (1 - v + log v), with -log U an exponential variable; v <= 0 is never accepted.
    positive = jnp.maximum(v, 1e-12)
    bound = 0.5 * normal**2 + d * (1 - v + jnp.log(positive))
    accepted = jnp.logical_and(v > 0, -exponential < bound)
    sample = positive[-1]
    for proposal in reversed(range(_ROUNDS - 1)):
        sample = jnp.where(accepted[proposal], positive[proposal], sample)
    return d * sample


def beta(key: Key, a: Array, b: Array) -> Array:
    """Beta(a, b) for parameters of at least 1, as a ratio of ``gamma`` variables (total variation below 1.2e-5).

    Args:
        key: random key.
        a: ``[...]`` float32.
        b: ``[...]`` float32, of the same shape.

    Returns:
        ``[...]`` float32 in [0, 1].
    """
    x, y = gamma(key, jnp.stack([a, b]))
    return x / (x + y)
