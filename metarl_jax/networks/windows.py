"""What memories with a window keep: the last steps of a trial, in rings of fixed size.

A ring of ``L`` rows holds step ``t`` in row ``t % L``: acting writes one row and moves none. ``time`` is the number of
steps of the trial so far; rows of steps that have not been are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Tree


def in_order(ring: Array, time: Array) -> Array:
    """The rows ``[L, ...]`` of the steps ``time - L .. time - 1``."""
    rows = ring.shape[0]
    return jnp.take(ring, (time + jnp.arange(rows)) % rows, axis=0)


def ring_of(steps: Array, time: Array, rows: int) -> Array:
    """The ring of ``rows`` rows after ``time`` steps, of which the last, ``rows`` or more, are given in order."""
    return jnp.take(steps[steps.shape[0] - rows :], (jnp.arange(rows) - time) % rows, axis=0)


def delay(ring: Array, time: Array, steps: Array) -> tuple[Array, Array]:
    """What was written as many steps ago as a ring has rows, at each of several steps.

    Args:
        ring: ``[B, L, F]``, of B trials.
        time: ``[B]``.
        steps: ``[T, B, F]``, written now.

    Returns:
        The rings after the steps, and ``[T, B, F]``.
    """
    rows = ring.shape[1]
    line = jnp.concatenate([jax.vmap(in_order, out_axes=1)(ring, time), steps])
    after = jax.vmap(lambda line, time: ring_of(line, time, rows), in_axes=(1, 0))(line, time + steps.shape[0])
    return after, line[: steps.shape[0]]


class Window(NamedTuple):
    """What attention looks back at: rings of keys and values of H heads."""

    keys: Array
    """``[L, H, K]``."""
    values: Array
    """``[L, H, V]``."""


def empty_window(rows: int, heads: int, key_size: int, value_size: int) -> Window:
    """A window before a trial."""
    return Window(*(jnp.zeros((rows, heads, size), jnp.float32) for size in (key_size, value_size)))


def attention(query: Array, window: Window, mask: Array) -> Array:
    """Scaled dot products of ``[T, H, K]`` with rows ``[S, H, ...]``, those of ``mask [T, S]``: ``[T, H, V]``."""
    scores = jnp.einsum("thk,shk->hts", query, window.keys) * query.shape[-1] ** -0.5
    return jnp.einsum("hts,shv->thv", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1), window.values)


def attend(window: Window, time: Array, query: Array, key: Array, value: Array) -> tuple[Window, Array]:
    """Write one step, and look back from it at the last L, itself among them.

    Args:
        window: before the step.
        time: steps before it, a scalar.
        query: ``[H, K]``.
        key: ``[H, K]``.
        value: ``[H, V]``.

    Returns:
        The window after the step, and what was read, ``[H, V]``.
    """
    return look_back(attention, window, time, Window(key, value), query)


def look_back(read: Callable[..., Tree], rings: Tree, time: Array, written: Tree, query: Tree) -> tuple[Tree, Tree]:
    """Write one step into rings, and look back from it at the last L, itself among them.

    Args:
        read: ``(queries [T, ...], rows [S, ...], mask [T, S]) -> [T, ...]``: what T queries make of those rows, of the
            structure of ``rings``, that each may see.
        rings: before the step, ``[L, ...]``.
        time: steps before it, a scalar.
        written: what the step leaves, ``[...]``, in the structure of ``rings``.
        query: of the step.

    Returns:
        The rings after the step, and what was read.
    """
    rows = jax.tree.leaves(rings)[0].shape[0]
    row = time % rows
    rings = jax.tree.map(lambda ring, x: ring.at[row].set(x), rings, written)
    seen = read(jax.tree.map(lambda x: x[None], query), rings, (jnp.arange(rows) <= time)[None])
    return rings, jax.tree.map(lambda x: x[0], seen)


LEAST_PART = 64
"""Steps that look back at once, at least: products of fewer are slow."""


def look_back_each(
    read: Callable[..., Tree], rings: Tree, time: Array, written: Tree, query: Tree
) -> tuple[Tree, Tree]:
    """``look_back`` at each of T steps of B trials, in time and memory proportional to T (L + LEAST_PART).

    Args:
        read: as there, of one trial.
        rings: of each trial, ``[B, L, ...]``.
        time: ``[B]``.
        written: ``[T, B, ...]``.
        query: ``[T, B, ...]``.

    Returns:
        The rings after the steps, and what was read, ``[T, B, ...]``.
    """
    steps, rows = jax.tree.leaves(written)[0].shape[0], jax.tree.leaves(rings)[0].shape[1]

    def lines() -> Tree:
        """What was written in the order of time, ``[L + T, B, ...]``."""
        return jax.tree.map(
            lambda ring, x: jnp.concatenate([jax.vmap(in_order, out_axes=1)(ring, time), x]), rings, written
        )

    ring = jax.vmap(lambda line, time: ring_of(line, time, rows), in_axes=(1, 0))
    after = jax.tree.map(lambda line: ring(line, time + steps), lines())

    def within(queries: int, first: int) -> Array:
        """``[queries, S]``: which of the steps ``first, ..., queries - 1`` from now lie in the window of each."""
        back = jnp.arange(queries)[:, None] - jnp.arange(first, queries)[None]
        return (back >= 0) & (back < rows)

    def from_the_start() -> Tree:
        return jax.vmap(read, in_axes=(1, 1, None), out_axes=1)(query, written, within(steps, 0))

    def going_on() -> Tree:
        begun = jnp.arange(-rows, steps) + time[:, None] >= 0
        return jax.vmap(read, in_axes=(1, 1, 0), out_axes=1)(query, lines(), within(steps, -rows) & begun[:, None])

    def in_parts() -> Tree:
        """As ``going_on``; but each part of the steps sees no other rows than its own and a window before them."""
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
    # Training begins with trials, and half of the products would be with nothing.
    return after, jax.lax.cond(jnp.any(time > 0), going_on, from_the_start)


def attend_each(window: Window, time: Array, query: Array, key: Array, value: Array) -> tuple[Window, Array]:
    """``attend`` at each of T steps of B trials.

    Args:
        window: of each trial, ``[B, L, H, ...]``.
        time: ``[B]``.
        query: ``[T, B, H, K]``.
        key: ``[T, B, H, K]``.
        value: ``[T, B, H, V]``.

    Returns:
        The windows after the steps, and what was read, ``[T, B, H, V]``.
    """
    return look_back_each(attention, window, time, Window(key, value), query)
