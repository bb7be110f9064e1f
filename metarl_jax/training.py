"""The training loop: ``run`` is traced by compiled programs, and ``train`` is for notebooks."""

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

from metarl_jax import host_calls
from metarl_jax.batching import map_seeds
from metarl_jax.checks import positive_int
from metarl_jax.types import Algorithm, Array, Key, Metrics, RunState, Tree


def start(algorithm: Algorithm, key: Key) -> RunState:
    """Return the state of a run before its first meta-iteration."""
    key, key_init = jax.random.split(key)
    return RunState(step=jnp.int32(0), key=key, algorithm=algorithm.init(key_init))


class Chunk(NamedTuple):
    """The result of several consecutive meta-iterations."""

    state: RunState
    """The state after the last iteration whose state and metrics are finite."""
    metrics: Metrics
    """The metrics by name, ``[capacity]`` each. The first ``iterations`` rows are filled."""
    iterations: Array
    """The number of completed iterations, ``int32``. It is smaller than the requested number if the run diverged."""
    diverged: Array
    """Whether iteration ``state.step`` produced a number that is not finite. The result of that iteration was
    discarded."""


def _all_finite(tree: Tree) -> Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return functools.reduce(jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in floats), jnp.bool_(True))


def run(algorithm: Algorithm, state: RunState, iterations: Array | int, capacity: int) -> Chunk:
    """Run several meta-iterations. The function can be compiled once and called with any number of iterations.

    The number of iterations is a traced value, so chunks of any length up to ``capacity`` are the same program. 12
    iterations followed by 8 give the same result as 20 iterations, bit for bit.

    Args:
        algorithm: the algorithm; static.
        state: the state to start from.
        iterations: the number of meta-iterations. A traced value above ``capacity`` is reduced to ``capacity``.
        capacity: the number of rows of the metrics; static.

    Raises:
        ValueError: if ``capacity`` is not a positive whole number, or a number of iterations that is not traced is not
            from 0 to ``capacity``.
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
        """Return the state after ``number`` iterations from the start, and the metrics of each iteration."""

        def body(i: Array, now: tuple[RunState, Metrics]) -> tuple[RunState, Metrics]:
            new_state, metrics = iterate(now[0])
            return new_state, jax.tree.map(lambda rows, row: rows.at[i].set(row), now[1], metrics)

        return jax.lax.fori_loop(0, number, body, (state, empty))

    # Finiteness is tested once after all iterations, so that no earlier state has to be kept. A run that diverged
    # repeats its iterations from the start up to the last finite one.
    def attempt(last: _Attempt) -> _Attempt:
        new_state, rows = iterated(last.next)
        finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, jax.tree.leaves(rows)), jnp.bool_(True))
        bad = jnp.logical_and(jnp.logical_not(finite), jnp.arange(capacity) < last.next)
        # A number in a state that is not finite may appear in the metrics of the next iteration only.
        good = jnp.where(_all_finite(new_state), last.next, last.next - 1)
        return _Attempt(new_state, rows, last.next, jnp.where(jnp.any(bad), jnp.argmax(bad), good).astype(jnp.int32))

    def unfinished(last: _Attempt) -> Array:
        return jnp.logical_and(last.next != last.done, last.next >= 0)

    first = _Attempt(state, empty, jnp.int32(-1), limit.astype(jnp.int32))
    last = jax.lax.while_loop(unfinished, attempt, first)
    return Chunk(last.state, last.metrics, last.done, last.done < limit)


class _Attempt(NamedTuple):
    """The result of ``done`` iterations, and the number of iterations to run instead if a number is not finite."""

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
    """The metrics by name, ``[iterations]`` each. They are NaN from the iteration on in which the run diverged."""
    diverged: Array
    """Whether an iteration produced a number that is not finite."""


def is_key(value: Any) -> bool:
    """Return whether a value is a typed random key, as ``jax.random.key`` makes it."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def state_of(result: Any) -> Any:
    """Return a state as it was given.

    Raises:
        TypeError: if it is the result of ``train`` as a whole.
    """
    if isinstance(result, Training):
        raise TypeError("this is the result of train as a whole: give its state, run.state")
    return result


Progress: TypeAlias = Callable[[int, dict[str, np.ndarray]], None]
"""``(iterations done, metrics of the latest iteration)``; a metric is a scalar, or ``[S]`` for S seeds. It is NaN for a
seed that has diverged."""
_SHARES = 20
"""The number of times that progress is reported."""


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
        start_from: a random key for a new run, or the ``Training.state`` of an earlier run, which is continued exactly.
        algorithm: the algorithm to train.
        iterations: the number of meta-iterations. None: the number that the algorithm was made for
            (``Algorithm.iterations``), less those that an earlier run has completed.
        seeds: the number S of independent runs, which start from ``jax.random.split(key, S)``. None: one run, without
            an axis of seeds.
        progress: whether to print a line after each twentieth of the iterations; or a function that is called instead.

    Raises:
        TypeError: if ``start_from`` is not a typed key or a state.
        ValueError: if the number of iterations or seeds is not a positive whole number, if no number of iterations is
            given and the algorithm does not define one, if progress is requested within a compiled function, or if
            seeds are given together with a state, which has its own.
        HostError: if an environment of Gymnasium fails (``metarl_jax.host_calls``).

    Warns:
        UserWarning: if there are more iterations than the schedules of the algorithm were made for, or if a run
            diverged.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family), config)
        >>> run = mrl.train(jax.random.key(0), algorithm)
        >>> run.metrics["trial_reward"].shape
        (3,)
    """
    state, done = _start_state(start_from, algorithm, seeds)
    iterations = _iterations(algorithm, iterations, done)
    stacked = jnp.ndim(state.step) == 1
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state))
    if traced:
        if progress:
            raise ValueError("progress cannot be reported from within a compiled function: leave out progress")
        # The algorithm may contain tracers, so it must not be stored in a cache.
        chunk = _run(algorithm, state, iterations, iterations, stacked)
    else:
        with host_calls.clear_errors():
            if progress:
                chunk = _in_shares(algorithm, state, iterations, stacked, _print if progress is True else progress)
            else:
                chunk = _compiled_run(algorithm, state, iterations, iterations, stacked)
            jax.block_until_ready(chunk)
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
    """Return the state to start from, and its number of completed iterations. None: the number is a tracer."""
    start_from = state_of(start_from)
    if isinstance(start_from, RunState):
        if seeds is not None:
            raise ValueError("seeds are for a new run: the state of an earlier one has its own")
        step = start_from.step
        return start_from, None if isinstance(step, jax.core.Tracer) else int(np.max(np.asarray(step)))
    if not is_key(start_from):
        raise TypeError(f"training starts from jax.random.key(seed), or from a RunState, not from {start_from!r}")
    if jnp.ndim(start_from):
        raise TypeError("training starts from one key: use seeds=N to train several seeds")
    if seeds is None:
        return start(algorithm, start_from), 0
    return jax.vmap(functools.partial(start, algorithm))(jax.random.split(start_from, positive_int("seeds", seeds))), 0


def _iterations(algorithm: Algorithm, asked: int | None, done: int | None) -> int:
    most = algorithm.iterations
    if asked is None:
        if most is None:
            raise ValueError("iterations must be given: the algorithm does not define how many it is made for")
        if done is None:
            raise ValueError("iterations must be given within a compiled function that continues from a state")
        if done >= most:
            raise ValueError(f"the run has completed its {most} iterations: give iterations=N to continue nevertheless")
        return most - done
    asked = positive_int("iterations", asked)
    if most is not None and done is not None and done + asked > most:
        warnings.warn(
            f"{done + asked} iterations are more than the {most} that the algorithm was made for: its schedules "
            "keep their last values",
            stacklevel=3,
        )
    return asked


def _run(algorithm: Algorithm, state: RunState, iterations: Array | int, capacity: int, stacked: bool) -> Chunk:
    if not stacked:
        return run(algorithm, state, iterations, capacity)
    return map_seeds(lambda one: run(algorithm, one, iterations, capacity))(state)


_compiled_run = jax.jit(_run, static_argnums=(0, 3, 4))


def _in_shares(algorithm: Algorithm, state: RunState, iterations: int, stacked: bool, report: Progress) -> Chunk:
    """Do the same as ``_run``, and call ``report`` after every share of the iterations."""
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
    # A run that has diverged completes no iteration in later chunks, so its rows are the first ones.
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
