"""Ring buffers of fixed size, which hold the last steps of a trial, and attention to them.

A ring of ``L`` rows holds step ``t`` in row ``t % L``, so that a step writes one row and moves none. ``time`` is the
number of steps of the trial so far. Rows that no step has written yet are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Tree


def in_order(ring: Array, time: Array) -> Array:
    """Return the rows ``[L, ...]`` of a ring in the order of the steps ``time - L .. time - 1``."""
    rows = ring.shape[0]
    return jnp.take(ring, (time + jnp.arange(rows)) % rows, axis=0)


def ring_of(steps: Array, time: Array, rows: int) -> Array:
    """Return the ring of ``rows`` rows after ``time`` steps, of which ``steps`` has at least the last ``rows``."""
    return jnp.take(steps[steps.shape[0] - rows :], (jnp.arange(rows) - time) % rows, axis=0)


def delay(ring: Array, time: Array, steps: Array) -> tuple[Array, Array]:
    """Write T steps into rings of L rows, and read at each step the row that was written L steps before.

    Args:
        ring: the rings of B trials, ``[B, L, F]``.
        time: the number of steps of each trial so far, ``[B]``.
        steps: the rows that the steps write, ``[T, B, F]``.

    Returns:
        The rings after the steps, and the rows that were read, ``[T, B, F]``.
    """
    rows = ring.shape[1]
    line = jnp.concatenate([jax.vmap(in_order, out_axes=1)(ring, time), steps])
    after = jax.vmap(lambda line, time: ring_of(line, time, rows), in_axes=(1, 0))(line, time + steps.shape[0])
    return after, line[: steps.shape[0]]


class Window(NamedTuple):
    """The rings of keys and values of H heads that an attention reads."""

    keys: Array
    """The keys of the last L steps, ``[L, H, K]``."""
    values: Array
    """The values of the last L steps, ``[L, H, V]``."""


def empty_window(rows: int, heads: int, key_size: int, value_size: int) -> Window:
    """Return the window at the start of a trial, which is zero."""
    return Window(*(jnp.zeros((rows, heads, size), jnp.float32) for size in (key_size, value_size)))


def attention(query: Array, window: Window, mask: Array) -> Array:
    """Compute scaled dot-product attention of queries to the rows of a window.

    Args:
        query: the queries of T steps, ``[T, H, K]``.
        window: keys ``[S, H, K]`` and values ``[S, H, V]``.
        mask: the rows that each query may read, ``[T, S]``.

    Returns:
        The values that were read, ``[T, H, V]``.
    """
    scores = jnp.einsum("thk,shk->hts", query, window.keys) * query.shape[-1] ** -0.5
    return jnp.einsum("hts,shv->thv", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1), window.values)


def attend(window: Window, time: Array, query: Array, key: Array, value: Array) -> tuple[Window, Array]:
    """Write one step into a window, and attend from this step to the last L steps, this one included.

    Args:
        window: the window before the step.
        time: the number of steps before this one, a scalar.
        query: the query of the step, ``[H, K]``.
        key: the key of the step, ``[H, K]``.
        value: the value of the step, ``[H, V]``.

    Returns:
        The window after the step, and the values that were read, ``[H, V]``.
    """
    return look_back(attention, window, time, Window(key, value), query)


def look_back(read: Callable[..., Tree], rings: Tree, time: Array, written: Tree, query: Tree) -> tuple[Tree, Tree]:
    """Write one step into rings, and read from this step the last L steps, this one included.

    Args:
        read: a function ``(queries [T, ...], rows [S, ...], mask [T, S]) -> [T, ...]``. It reads rows, which have the
            structure of ``rings``, with T queries; the mask says which rows each query may read.
        rings: the rings before the step, ``[L, ...]``.
        time: the number of steps before this one, a scalar.
        written: the row that the step writes, ``[...]``, in the structure of ``rings``.
        query: the query of the step.

    Returns:
        The rings after the step, and the result of ``read`` for the step.
    """
    rows = jax.tree.leaves(rings)[0].shape[0]
    row = time % rows
    rings = jax.tree.map(lambda ring, x: ring.at[row].set(x), rings, written)
    seen = read(jax.tree.map(lambda x: x[None], query), rings, (jnp.arange(rows) <= time)[None])
    return rings, jax.tree.map(lambda x: x[0], seen)


LEAST_PART = 64
"""The smallest number of steps that are computed at once, because matrix products of fewer steps are slow."""


def look_back_each(
    read: Callable[..., Tree], rings: Tree, time: Array, written: Tree, query: Tree
) -> tuple[Tree, Tree]:
    """Apply ``look_back`` at each of T steps of B trials, in time and memory proportional to T (L + LEAST_PART).

    Args:
        read: a function as in ``look_back``, for one trial.
        rings: the rings of each trial before the steps, ``[B, L, ...]``.
        time: the number of steps of each trial so far, ``[B]``.
        written: the rows that the steps write, ``[T, B, ...]``, in the structure of ``rings``.
        query: the queries of the steps, ``[T, B, ...]``.

    Returns:
        The rings after the steps, and the results of ``read``, ``[T, B, ...]``.
    """
    steps, rows = jax.tree.leaves(written)[0].shape[0], jax.tree.leaves(rings)[0].shape[1]

    def lines() -> Tree:
        """Return the rows of the rings and those of the T steps in the order of time, ``[L + T, B, ...]``."""
        return jax.tree.map(
            lambda ring, x: jnp.concatenate([jax.vmap(in_order, out_axes=1)(ring, time), x]), rings, written
        )

    ring = jax.vmap(lambda line, time: ring_of(line, time, rows), in_axes=(1, 0))
    after = jax.tree.map(lambda line: ring(line, time + steps), lines())

    def within(queries: int, first: int) -> Array:
        """Return which of the steps ``first, ..., queries - 1`` from now each query may read: ``[queries, S]``."""
        back = jnp.arange(queries)[:, None] - jnp.arange(first, queries)[None]
        return (back >= 0) & (back < rows)

    def from_the_start() -> Tree:
        return jax.vmap(read, in_axes=(1, 1, None), out_axes=1)(query, written, within(steps, 0))

    def going_on() -> Tree:
        begun = jnp.arange(-rows, steps) + time[:, None] >= 0
        return jax.vmap(read, in_axes=(1, 1, 0), out_axes=1)(query, lines(), within(steps, -rows) & begun[:, None])

    def in_parts() -> Tree:
        """Compute ``going_on`` for parts of the steps, each of which reads its own rows and one window before them."""
        number = -(-steps // part)

        def padded(x: Array) -> Array:
            return jnp.pad(x, [(0, number * part - steps)] + [(0, 0)] * (x.ndim - 1))

        def queries(x: Array) -> Array:
            return padded(x).reshape(number, part, *x.shape[1:])

        def seen(line: Array) -> Array:
            own = queries(line[rows:])
            before = jnp.concatenate([line[None, :rows], own[:-1, part - rows :]])
            return jnp.concatenate([before, own], axis=1)

        begins = part * jnp.arange(number)
        begun = jnp.arange(-rows, part) + begins[:, None, None] + time[:, None] >= 0
        of_trials = jax.vmap(read, in_axes=(1, 1, 0), out_axes=1)
        mask = within(part, -rows) & begun[:, :, None]
        found = jax.vmap(of_trials)(jax.tree.map(queries, query), jax.tree.map(seen, lines()), mask)
        return jax.tree.map(lambda x: x.reshape(number * part, *x.shape[2:])[:steps], found)

    part = max(rows, LEAST_PART)
    if steps > part:
        return after, in_parts()
    # Training unrolls from the start of a trial, where the rings are empty, and half of the products would be wasted.
    return after, jax.lax.cond(jnp.any(time > 0), going_on, from_the_start)


def attend_each(window: Window, time: Array, query: Array, key: Array, value: Array) -> tuple[Window, Array]:
    """Apply ``attend`` at each of T steps of B trials.

    Args:
        window: the window of each trial before the steps, ``[B, L, H, ...]``.
        time: the number of steps of each trial so far, ``[B]``.
        query: the queries of the steps, ``[T, B, H, K]``.
        key: the keys of the steps, ``[T, B, H, K]``.
        value: the values of the steps, ``[T, B, H, V]``.

    Returns:
        The windows after the steps, and the values that were read, ``[T, B, H, V]``.
    """
    return look_back_each(attention, window, time, Window(key, value), query)
