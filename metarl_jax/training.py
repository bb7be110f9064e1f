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

    def unfinished(chunk: Chunk) -> Array:
        return jnp.logical_and(chunk.iterations < limit, jnp.logical_not(chunk.diverged))

    def body(chunk: Chunk) -> Chunk:
        new_state, metrics = iterate(chunk.state)
        finite = _all_finite((new_state, metrics))
        rows = jax.tree.map(lambda rows, row: rows.at[chunk.iterations].set(row), chunk.metrics, metrics)
        kept = jax.tree.map(lambda new, old: jax.lax.select(finite, new, old), new_state, chunk.state)
        return Chunk(kept, rows, chunk.iterations + finite.astype(jnp.int32), jnp.logical_not(finite))

    shapes = jax.eval_shape(lambda s: iterate(s)[1], state)
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)
    return jax.lax.while_loop(unfinished, body, Chunk(state, rows, jnp.int32(0), jnp.bool_(False)))
