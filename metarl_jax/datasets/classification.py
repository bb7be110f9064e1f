"""What few-shot classification shares: its loss and score, and how examples of classes become an episode."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metarl_jax.interfaces.few_shot import FewShotTask
from metarl_jax.types import Array, Key


def cross_entropy(prediction: Array, y: Array) -> Array:
    """Mean softmax cross-entropy in nats, of logits ``[N, classes]`` and labels ``[N]``."""
    # A product with one-hot labels: its derivatives, unlike a gather's, are no scatters.
    labels = jax.nn.one_hot(y, prediction.shape[-1], dtype=prediction.dtype)
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(prediction), axis=-1))


def accuracy(prediction: Array, y: Array) -> Array:
    """The fraction of labels ``[N]`` whose logit, of ``[N, classes]``, is the largest."""
    return jnp.mean((jnp.argmax(prediction, axis=-1) == y).astype(prediction.dtype))


def episode(key: Key, images: Array, shots: int) -> FewShotTask:
    """Label the classes 0, 1, ... as they come, and divide their examples.

    Args:
        key: of the order of support and query, which is random in each and tells nothing of the labels.
        images: ``[N, shots + queries, ...]``, N classes in random order.
        shots: examples of each class that go into the support; the others are the query.

    Returns:
        ``(x [N * shots, ...], y [N * shots] int32)`` and ``(x [N * queries, ...], y [N * queries] int32)``.
    """

    def shuffled(key: Key, images: Array) -> tuple[Array, Array]:
        ways, examples = images.shape[:2]
        order = jax.random.permutation(key, ways * examples)
        return images.reshape(ways * examples, *images.shape[2:])[order], (order // examples).astype(jnp.int32)

    key_support, key_query = jax.random.split(key)
    return FewShotTask(shuffled(key_support, images[:, :shots]), shuffled(key_query, images[:, shots:]))
