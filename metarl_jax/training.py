"""The training loop: ``run`` is its compiled form, and ``train`` is for notebooks."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from metarl_jax.batching import map_seeds
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


# --------------------------------------------------------------------------------------------------------- in notebooks


class Training(NamedTuple):
    """The result of ``train``; with ``seeds=S`` every leaf has a leading axis ``[S]``."""

    state: RunState
    """The state after the last iteration, or the last finite one if the run diverged. ``evaluate`` and ``train`` take
    it as it is."""
    metrics: Metrics
    """``[iterations]`` by name; NaN from the iteration on in which the run diverged."""
    diverged: Array
    """Whether an iteration produced a number that is not finite."""


Progress: TypeAlias = Callable[[int, dict[str, np.ndarray]], None]
"""``(iterations done, metrics of the latest iteration)``; a metric is a scalar, or ``[S]`` for S seeds. It is NaN for a
seed that has diverged."""
_SHARES = 20
"""How often progress is reported."""


def train(
    start_from: Key | RunState,
    algorithm: Algorithm,
    *,
    iterations: int | None = None,
    seeds: int | None = None,
    progress: bool | Progress = False,
) -> Training:
    """Train an algorithm.

    All iterations are one compiled program, unless progress is reported. The function can itself be compiled and
    vectorised: ``jax.jit(lambda key: train(key, algorithm))``, ``jax.vmap``. Runs that must survive an interruption are
    trained by ``metarl-jax train``, which keeps checkpoints.

    Args:
        start_from: a random key for a new run, or the ``Training.state`` of an earlier one, which goes on exactly.
        algorithm: what to train.
        iterations: meta-iterations; None: as many as the algorithm was made for (``Algorithm.iterations``), or what an
            earlier run has left of them.
        seeds: the number S of independent runs, which start from ``jax.random.split(key, S)``; None: one, without an
            axis of seeds.
        progress: whether to print a line about every twentieth of the iterations; or a function that is called then.

    Raises:
        TypeError: if ``start_from`` is neither a typed key nor a state.
        ValueError: for a number of iterations or seeds that is not a positive whole number, or iterations that are not
            given though the algorithm does not know them; for progress within a compiled function; or for seeds of a
            state, which has them.

    Warns:
        UserWarning: if there are more iterations than the schedules of the algorithm were made for, or a run diverged.
    """
    state, done = _start_state(start_from, algorithm, seeds)
    iterations = _iterations(algorithm, iterations, done)
    stacked = jnp.ndim(state.step) == 1
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state))
    if not progress:
        # Within a compiled function, the algorithm may be made of traced numbers: nothing may outlive the trace.
        chunk = (_run if traced else _compiled_run)(algorithm, state, iterations, iterations, stacked)
    elif traced:
        raise ValueError("progress cannot be reported from within a compiled function: leave it out")
    else:
        chunk = _in_shares(algorithm, state, iterations, stacked, _print if progress is True else progress)
    rows = jnp.arange(iterations) < chunk.iterations[..., None]
    metrics = {name: jnp.where(rows, values, jnp.nan) for name, values in chunk.metrics.items()}
    if not traced and bool(jnp.any(chunk.diverged)):
        where = np.atleast_1d(np.asarray(chunk.state.step + 1))[np.atleast_1d(np.asarray(chunk.diverged))]
        warnings.warn(
            f"diverged (a number that is not finite) in iteration {', '.join(map(str, where))}: the state is the last "
            "finite one; a smaller learning rate may help",
            stacklevel=2,
        )
    return Training(chunk.state, metrics, chunk.diverged)


def _start_state(start_from: Any, algorithm: Algorithm, seeds: int | None) -> tuple[RunState, int | None]:
    """The state to start from, and how many iterations it has done; None: not known, because it is traced."""
    if isinstance(start_from, RunState):
        if seeds is not None:
            raise ValueError("seeds are for a new run: the state of an earlier one has its own")
        step = start_from.step
        return start_from, None if isinstance(step, jax.core.Tracer) else int(np.max(np.asarray(step)))
    if not (hasattr(start_from, "dtype") and jnp.issubdtype(start_from.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"training starts from jax.random.key(seed), or from a RunState, not from {start_from!r}")
    if jnp.ndim(start_from):
        raise TypeError("training starts from one key: several seeds are trained with seeds=N")
    if seeds is None:
        return start(algorithm, start_from), 0
    return jax.vmap(functools.partial(start, algorithm))(jax.random.split(start_from, positive_int("seeds", seeds))), 0


def _iterations(algorithm: Algorithm, asked: int | None, done: int | None) -> int:
    most = algorithm.iterations
    if asked is None:
        if most is None:
            raise ValueError("iterations must be given: the algorithm does not say how many it is made for")
        if done is None:
            raise ValueError("iterations must be given within a compiled function that goes on from a state")
        if done >= most:
            raise ValueError(f"the run has done its {most} iterations; iterations=N goes on all the same")
        return most - done
    asked = positive_int("iterations", asked)
    if most is not None and done is not None and done + asked > most:
        warnings.warn(
            f"{done + asked} iterations are more than the {most} that the algorithm was made for: its schedules stay "
            "at their ends",
            stacklevel=3,
        )
    return asked


def _run(algorithm: Algorithm, state: RunState, iterations: Array | int, capacity: int, stacked: bool) -> Chunk:
    if not stacked:
        return run(algorithm, state, iterations, capacity)
    return map_seeds(lambda one: run(algorithm, one, iterations, capacity))(state)


_compiled_run = jax.jit(_run, static_argnums=(0, 3, 4))


def _in_shares(algorithm: Algorithm, state: RunState, iterations: int, stacked: bool, report: Progress) -> Chunk:
    """As ``_run``, with a call of ``report`` after every share."""
    capacity, done, chunks = max(1, -(-iterations // _SHARES)), 0, list[Chunk]()
    while done < iterations:
        number = min(capacity, iterations - done)
        chunk = _compiled_run(algorithm, state, jnp.int32(number), capacity, stacked)
        chunks.append(jax.tree.map(np.asarray, chunk._replace(state=cast("Any", ()))))
        state, done = chunk.state, done + number
        there = chunks[-1].iterations == number
        latest = {name: np.asarray(rows)[..., number - 1] for name, rows in chunks[-1].metrics.items()}
        report(done, {name: np.where(there, values, np.nan) for name, values in latest.items()})
        if np.all(chunks[-1].diverged):
            break
    # A run that has diverged does no iteration in later chunks, so that its rows are the first ones.
    counts = np.sum([chunk.iterations for chunk in chunks], axis=0)

    def joined(*rows: np.ndarray) -> Array:
        whole = np.concatenate(rows, axis=-1)[..., :iterations]
        missing = iterations - whole.shape[-1]
        return jnp.asarray(np.pad(whole, [(0, 0)] * (whole.ndim - 1) + [(0, missing)]))

    metrics = jax.tree.map(joined, *(chunk.metrics for chunk in chunks))
    return Chunk(state, metrics, jnp.asarray(counts), jnp.asarray(chunks[-1].diverged))


def _print(done: int, metrics: dict[str, np.ndarray]) -> None:
    shown = "  ".join(f"{name} {float(np.mean(value)):.4g}" for name, value in metrics.items())
    print(f"{time.strftime('%H:%M:%S')}  iteration {done}  {shown}", flush=True)
