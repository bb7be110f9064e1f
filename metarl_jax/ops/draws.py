"""Random draws without replacement, and of valid steps from padded trials and episodes."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Key


def without_replacement(key: Key, population: int | Array, number: int, shape: tuple[int, ...] = ()) -> Array:
    """Draw whole numbers below ``population`` without replacement, with one call of the random number generator.

    The order of the draws is random. A draw takes time in proportion to ``number``, and not to ``population``.

    Args:
        key: random key.
        population: the number of values, or the number of values of each repetition, ``shape`` int32. A value's
            probability is exact up to a relative error of population / 2^32.
        number: the number of draws, at most ``population``; of an array, this is not checked.
        shape: the shape of independent repetitions.

    Returns:
        ``[*shape, number]`` int32.
    """
    if isinstance(population, int):
        chex.assert_scalar_in(number, 0, population)
    left = (jnp.asarray(population, jnp.int32)[..., None] - jnp.arange(number, dtype=jnp.int32)).astype(jnp.uint32)
    ranks = (jax.random.bits(key, (*shape, number), jnp.uint32) % left).astype(jnp.int32)

    def draw(earlier: Array, rank: Array) -> tuple[Array, Array]:
        """Return the value of a rank among the values that were not drawn earlier. ``earlier`` is sorted."""
        before = earlier - jnp.arange(number, dtype=jnp.int32) <= rank[..., None]
        value = rank + jnp.sum(before, axis=-1, dtype=jnp.int32)
        return jnp.sort(earlier.at[..., -1].set(value), axis=-1), value

    # The values that are not drawn yet are larger than any rank.
    nothing = jnp.full((*shape, number), jnp.iinfo(jnp.int32).max, jnp.int32)
    return jnp.moveaxis(jax.lax.scan(draw, nothing, jnp.moveaxis(ranks, -1, 0))[1], 0, -1)


def steps_without_replacement(key: Key, valid: Array, number: int) -> Array:
    """Draw steps of each trial, valid steps before others.

    All trials use one random permutation of the steps. If every step is valid, the result is
    ``jax.random.choice(key, T, (number,), replace=False)`` for every trial.

    Args:
        key: random key.
        valid: ``[T, ...]`` bool, whether a step of a trial counts.
        number: the number of draws, at most T.

    Returns:
        ``[number, ...]`` int32. The first V draws of a trial with V valid steps are valid, in uniformly random order
        and without replacement. Only if ``number`` exceeds V, there are further draws, which are not valid.
    """
    chex.assert_scalar_in(number, 0, valid.shape[0])
    order = jax.random.permutation(key, valid.shape[0])
    valid_first = jnp.argsort(jnp.logical_not(valid[order]), axis=0, stable=True)
    return order[valid_first[:number]].astype(jnp.int32)


def steps_of_episodes(key: Key, lengths: Array, horizon: int, number: int) -> Array:
    """Draw steps of stored episodes, each of which is padded to ``horizon`` steps.

    If no episode is padded, the result is ``jax.random.randint(key, (N, number), 0, E * horizon)`` for N tasks with E
    episodes each.

    Args:
        key: random key.
        lengths: ``[N, E]`` int32, the number of valid steps at the beginning of each of E episodes of N tasks; 0 for a
            missing episode.
        horizon: H, the steps of an episode with its padding.
        number: the number of draws for each task.

    Returns:
        ``[N, number]`` int32, indices in ``0 .. E H - 1``: independent and uniform over the valid steps of each task.
        For a task without valid steps, they are indices of invalid steps.
    """
    chex.assert_rank(lengths, 2)
    ends = jnp.cumsum(lengths, axis=-1, dtype=jnp.int32)
    rank = jax.random.randint(key, (lengths.shape[0], number), 0, ends[:, -1:], dtype=jnp.int32)
    episode = jax.vmap(lambda ends, rank: jnp.searchsorted(ends, rank, side="right"))(ends, rank)
    episode = jnp.minimum(episode, lengths.shape[-1] - 1)
    within = rank - jnp.take_along_axis(ends - lengths, episode, axis=-1)
    return (episode * horizon + within).astype(jnp.int32)
