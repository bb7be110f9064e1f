"""What memories with a window keep: the last steps of a trial, in rings of fixed size.

A ring of ``L`` rows holds step ``t`` in row ``t % L``: acting writes one row and moves none. ``time`` is the number of
steps of the trial so far; rows of steps that have not been are zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.types import Array


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
    return Window(jnp.zeros((rows, heads, key_size)), jnp.zeros((rows, heads, value_size)))


def attention(query: Array, keys: Array, values: Array, mask: Array) -> Array:
    """Scaled dot products of ``[T, H, K]`` with ``[S, H, K]``, of which ``mask [T, S]`` may be seen: ``[T, H, V]``."""
    scores = jnp.einsum("thk,shk->hts", query, keys) * keys.shape[-1] ** -0.5
    return jnp.einsum("hts,shv->thv", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1), values)


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
    rows = window.keys.shape[0]
    row = time % rows
    window = Window(window.keys.at[row].set(key), window.values.at[row].set(value))
    return window, attention(query[None], *window, mask=(jnp.arange(rows) <= time)[None])[0]


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
    steps, rows = key.shape[0], window.keys.shape[1]

    def lines() -> tuple[Array, Array]:
        """Keys and values in the order of time, ``[L + T, B, ...]``."""
        old = Window(*(jax.vmap(in_order, out_axes=1)(ring, time) for ring in window))
        return jnp.concatenate([old.keys, key]), jnp.concatenate([old.values, value])

    ring = jax.vmap(lambda line, time: ring_of(line, time, rows), in_axes=(1, 0))
    after = Window(*(ring(line, time + steps) for line in lines()))

    def within(first: int) -> Array:
        """``[T, S]``: which of the steps ``first, ..., T - 1``, counted from now, lie in each step's window."""
        back = jnp.arange(steps)[:, None] - jnp.arange(first, steps)[None]
        return (back >= 0) & (back < rows)

    def from_the_start() -> Array:
        return jax.vmap(attention, in_axes=(1, 1, 1, None), out_axes=1)(query, key, value, within(0))

    def going_on() -> Array:
        begun = jnp.arange(-rows, steps) + time[:, None] >= 0
        keys, values = lines()
        return jax.vmap(attention, in_axes=(1, 1, 1, 0), out_axes=1)(
            query, keys, values, within(-rows) & begun[:, None]
        )

    # Training begins with trials, and half of the products would be with nothing.
    return after, jax.lax.cond(jnp.any(time > 0), going_on, from_the_start)
