"""Loss and score of few-shot classification, and the division of examples into support and query."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl_jax.interfaces.few_shot import FewShotTask
from metarl_jax.types import Array, Key


def cross_entropy(prediction: Array, y: Array) -> Array:
    """Return the mean softmax cross-entropy in nats of logits ``[N, classes]`` and labels ``[N]``."""
    # A product with one-hot labels has faster derivatives than a gather, whose derivatives are scatters.
    labels = jax.nn.one_hot(y, prediction.shape[-1], dtype=prediction.dtype)
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(prediction), axis=-1))


def accuracy(prediction: Array, y: Array) -> Array:
    """Return the fraction of labels ``[N]`` whose logit, of ``[N, classes]``, is the largest."""
    return jnp.mean((jnp.argmax(prediction, axis=-1) == y).astype(prediction.dtype))


def episode(key: Key, images: Array, shots: int) -> FewShotTask:
    """Label the classes 0, 1, ... in their order, and divide their examples into support and query.

    Args:
        key: the key of the orders of support and query, which are random and independent of the labels.
        images: ``[N, shots + queries, ...]``, N classes in random order.
        shots: the number of examples of each class in the support; the others are the query.

    Returns:
        ``(x [N * shots, ...], y [N * shots] int32)`` and ``(x [N * queries, ...], y [N * queries] int32)``.
    """
    ways, examples = images.shape[:2]
    # Two of these random numbers are equal in one of 2^32 cases, which has no effect on the orders of the others.
    numbers = jax.random.bits(key, (ways, examples), jnp.uint32)

    def shuffled(which: slice) -> tuple[Array, Array]:
        some = images[:, which]
        order = jnp.argsort(numbers[:, which].reshape(-1))
        return some.reshape(-1, *images.shape[2:])[order], (order // some.shape[1]).astype(jnp.int32)

    return FewShotTask(shuffled(slice(shots)), shuffled(slice(shots, None)))
