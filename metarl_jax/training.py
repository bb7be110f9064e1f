"""The training loop, compiled."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.types import Algorithm, Array, Key, Metrics, RunState, Tree


def start(algorithm: Algorithm, key: Key) -> RunState:
    """The state of a run before its first meta-iteration."""
    key, key_init = jax.random.split(key)
    return RunState(step=jnp.int32(0), key=key, algorithm=algorithm.init(key_init))


class Chunk(NamedTuple):
    """What a stretch of meta-iterations produced."""

    state: RunState
    """After the last iteration that left everything finite."""
    metrics: Metrics
    """``[capacity]`` each; the first ``iterations`` rows are filled."""
    iterations: Array
    """Iterations done, ``int32``; fewer than asked for if the run diverged."""
    diverged: Array
    """Whether iteration ``state.step`` produced a number that is not finite (its result was dropped)."""


def _all_finite(tree: Tree) -> Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return functools.reduce(jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in floats), jnp.bool_(True))


def run(algorithm: Algorithm, state: RunState, iterations: Array | int, capacity: int) -> Chunk:
    """Do some meta-iterations; compile once, call as often as you like.

    The number of iterations is a traced value, so chunks of any length up to ``capacity`` are the same program, and
    12 iterations followed by 8 give bit for bit what 20 give.

    Args:
        algorithm: what to run; static.
        state: where to start.
        iterations: how many meta-iterations; a traced value above ``capacity`` is cut down to it.
        capacity: rows of the metrics; static.

    Raises:
        ValueError: if ``capacity`` is not a positive whole number, or a known number of iterations does not fit.
    """
    capacity = positive_int("capacity", capacity)
    if isinstance(iterations, int) and not 0 <= iterations <= capacity:
        raise ValueError(f"iterations must be from 0 to the capacity, {capacity}, not {iterations}")
    limit = jnp.minimum(iterations, capacity)

    def iterate(state: RunState) -> tuple[RunState, Metrics]:
        key, key_step = jax.random.split(state.key)
        algorithm_state, metrics = algorithm.step(key_step, state.algorithm)
        return RunState(state.step + 1, key, algorithm_state), metrics

    shapes = jax.eval_shape(lambda s: iterate(s)[1], state)
    empty = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def iterated(number: Array) -> tuple[RunState, Metrics]:
        """The state after some iterations from the start, and the metrics of each."""

        def body(i: Array, now: tuple[RunState, Metrics]) -> tuple[RunState, Metrics]:
            new_state, metrics = iterate(now[0])
            return new_state, jax.tree.map(lambda rows, row: rows.at[i].set(row), now[1], metrics)

        return jax.lax.fori_loop(0, number, body, (state, empty))

    # Whether all is finite is asked once, not in every iteration, and then no state need be kept from which to go
    # back: who diverged takes the same iterations again, up to where that was.
    def attempt(last: _Attempt) -> _Attempt:
        new_state, rows = iterated(last.next)
        finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, jax.tree.leaves(rows)), jnp.bool_(True))
        bad = jnp.logical_and(jnp.logical_not(finite), jnp.arange(capacity) < last.next)
        # What is not finite in a state may show in the metrics of the next iteration only.
        good = jnp.where(_all_finite(new_state), last.next, last.next - 1)
        return _Attempt(new_state, rows, last.next, jnp.where(jnp.any(bad), jnp.argmax(bad), good).astype(jnp.int32))

    def unfinished(last: _Attempt) -> Array:
        return jnp.logical_and(last.next != last.done, last.next >= 0)

    first = _Attempt(state, empty, jnp.int32(-1), limit.astype(jnp.int32))
    last = jax.lax.while_loop(unfinished, attempt, first)
    return Chunk(last.state, last.metrics, last.done, last.done < limit)


class _Attempt(NamedTuple):
    """Iterations done, and how many are to be done instead if anything is not finite."""

    state: RunState
    metrics: Metrics
    done: Array
    next: Array
