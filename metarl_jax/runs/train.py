"""``train``: chunks of compiled meta-iterations, with metrics, held-out scores and a checkpoint between them."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import experiments, training
from metarl_jax.evaluation import meta_test
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.runs import checkpoints, devices
from metarl_jax.runs.errors import Diverged, StorageError, UserError
from metarl_jax.runs.files import finite, write_json
from metarl_jax.runs.folder import RunConfig, RunFolder, create
from metarl_jax.runs.interrupts import Interrupts
from metarl_jax.runs.metrics import Line, Writer
from metarl_jax.runs.progress import Progress, warn
from metarl_jax.types import Algorithm, Array, Key, RunState

CHUNK_CAPACITY = 512
"""The most meta-iterations in a chunk."""
CHUNK_SECONDS = 1.0
"""How long a chunk should take: what Ctrl-C waits for, and what a chunk's overhead is spread over."""
CHECKPOINT_SECONDS = 15.0
"""How often to save where ``--checkpoint-every`` does not say."""
EVALUATIONS = 20
"""Held-out evaluations of a run where ``--evaluate-every`` does not say."""
_HELDOUT_TAG = 0x48454C44
"""Folded into the first seed's key: beyond the reach of any ``split``, so that training never meets this key."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run's result does not depend on, but for rounding."""

    checkpoint_every: int | None = None
    """Iterations; None: about every ``CHECKPOINT_SECONDS``."""
    time_limit: float | None = None
    """Minutes after which to save and stop."""
    live: bool = False
    """Whether to redraw the progress line in place."""
    devices: int = 1
    """Over how many tasks are spread; what they compute then agrees with one device to rounding."""


class Outcome(NamedTuple):
    """How training ended."""

    finished: bool
    exit_code: int


def build(config: RunConfig) -> Problem:
    """The problem of a run.

    Raises:
        UserError: if the configuration names no experiment, or a setting is unknown or out of range.
    """
    try:
        return experiments.get(config.experiment).build(config.settings)
    except (ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())) from error


def start_states(algorithm: Algorithm, seed: Array, seeds: int) -> RunState:
    """The states of seeds ``seed .. seed + seeds - 1`` before their first iteration, stacked."""
    ids = seed + jnp.arange(seeds, dtype=jnp.uint32)
    return jax.vmap(lambda i: training.start(algorithm, jax.random.key(i)))(ids)


def run_seeds(algorithm: Algorithm, states: RunState, iterations: Array, capacity: int) -> training.Chunk:
    """``training.run`` for stacked states; every leaf of the result has a leading axis of seeds."""
    if states.step.shape[0] > 1:
        return jax.vmap(lambda state: training.run(algorithm, state, iterations, capacity))(states)
    # One seed: no batched predicate, so that the loop need not select over its whole carry.
    chunk = training.run(algorithm, jax.tree.map(lambda x: x[0], states), iterations, capacity)
    return jax.tree.map(lambda x: x[None], chunk)


def new_run(path: Path, config: RunConfig) -> RunFolder:
    """Make the run folder, with a checkpoint of iteration 0 in it.

    Raises:
        UserError: if the configuration is wrong or the folder exists.
        StorageError: if it cannot be written.
    """
    problem = build(config)

    def fill(folder: RunFolder) -> None:
        states = jax.jit(start_states, static_argnums=(0, 2))(problem.algorithm, jnp.uint32(config.seed), config.seeds)
        checkpoints.save(folder.checkpoints, states, 0, config.hash(), {"wall_s": 0.0, "diverged": {}})

    return create(path, config, fill)


def load_states(folder: RunFolder, problem: Problem) -> checkpoints.Checkpoint:
    """The newest checkpoint that is whole; damaged ones are named on standard error.

    Raises:
        UserError: if there is none, or it does not belong to this program and configuration.
    """
    config = folder.config
    target = jax.eval_shape(lambda seed: start_states(problem.algorithm, seed, config.seeds), jnp.uint32(0))
    return checkpoints.load_latest(folder.checkpoints, target, config.hash(), warn)


def _heldout(experiment: Experiment, problem: Problem, seeds: int) -> Callable[[Key, RunState], Array]:
    """A compiled function of a key and stacked states: what the experiment reports, on held-out tasks, ``[S]``."""

    @jax.jit
    def score(key: Key, states: RunState) -> Array:
        evaluation = meta_test(
            key,
            problem.algorithm.adapt,
            states.algorithm,
            problem.tasks,
            num_tasks=experiment.heldout_tasks_in_training,
            num_seeds=seeds,
            batch_size=experiment.heldout_batch,
        )
        return experiment.measure.headline(evaluation.score).mean(axis=-1)

    return score


def _metric_lines(chunk: training.Chunk, first: int, problem: Problem, wall_s: float, previous_s: float) -> list[Line]:
    """One line for each iteration that any seed finished; a seed that diverged has null."""
    count, metrics = np.asarray(chunk.iterations), {name: np.asarray(value) for name, value in chunk.metrics.items()}
    rows = int(count.max())
    lines: list[Line] = []
    for row in range(rows):
        line: Line = {
            "iteration": first + row + 1,
            "steps": (first + row + 1) * problem.steps_per_iteration,
            "wall_s": round(previous_s + (wall_s - previous_s) * (row + 1) / rows, 4),
        }
        for name, values in metrics.items():
            line[name] = [float(v[row]) if row < n else None for v, n in zip(values, count, strict=True)]
        lines.append(line)
    return lines


def resume_command(folder: RunFolder) -> str:
    """What to type to go on with a run."""
    return f"metarl-jax train --resume {shlex.quote(str(folder.path))}"


def _raise_diverged(folder: RunFolder, diverged: Mapping[str, int]) -> None:
    where = ", ".join(f"seed {seed} at iteration {iteration}" for seed, iteration in diverged.items())
    rates = [f"{name} ({value:g})" for name, value in folder.config.settings.items() if name.endswith("_rate")]
    raise Diverged(
        f"diverged (a number that is not finite): {where}; the last finite state is kept in {folder.path}; "
        f"a smaller {' or '.join(rates)} may help"
    )


def train(folder: RunFolder, options: Options) -> Outcome:
    """Train from the newest checkpoint until the run is finished, interrupted, out of time, or diverged.

    Raises:
        UserError: if another process trains this run, no checkpoint can be used, or there are fewer devices.
        Diverged: if numbers are not finite; each seed's last finite state is saved.
        StorageError: if the folder cannot be written; the last checkpoint is whole.
    """
    with folder.lock():
        try:
            return _train(folder, options)
        except BrokenPipeError:
            raise
        except OSError as error:
            saved = checkpoints.paths(folder.checkpoints)
            last = f"the last good state is {saved[0].name}" if saved else "no state was saved"
            raise StorageError(
                f"cannot write to {folder.path}: {error.strerror or error}; {last}; "
                f"make room, then: {resume_command(folder)}"
            ) from error


def _train(folder: RunFolder, options: Options) -> Outcome:
    config = folder.config
    problem, experiment = build(config), experiments.get(config.experiment)
    seed_ids = list(range(config.seed, config.seed + config.seeds))
    state, iteration, extra = load_states(folder, problem)
    if extra["diverged"]:
        _raise_diverged(folder, extra["diverged"])
    checkpoints.set_aside_damaged(folder.checkpoints, iteration)
    folder.add_versions(iteration)
    if iteration > 0:
        print(f"going on after iteration {iteration}", flush=True)
    if iteration >= problem.iterations:
        return Outcome(True, 0)

    wall_s = extra["wall_s"]
    begin = time.monotonic()
    deadline = begin + 60 * options.time_limit if options.time_limit is not None else float("inf")
    heldout = _heldout(experiment, problem, config.seeds)
    heldout_key = jax.random.fold_in(jax.random.key(config.seed), _HELDOUT_TAG)
    with (
        devices.spread(options.devices) as placement,
        Interrupts() as interrupts,
        Progress(problem.iterations, experiment, options.live) as progress,
        Writer(folder.metrics, folder.events, seed_ids, iteration) as metrics,
    ):
        state = placement.put(state)
        program = jax.jit(
            lambda states, n: run_seeds(problem.algorithm, states, n, CHUNK_CAPACITY),
            donate_argnums=0,
            **placement.jit_options,
        )
        compiled = program.lower(state, jnp.int32(0)).compile()
        progress.say(f"compiled in {time.monotonic() - begin:.1f} s")

        def save(diverged: Mapping[str, int]) -> None:
            extra = {"wall_s": wall_s, "diverged": dict(diverged)}
            checkpoints.save(folder.checkpoints, state, iteration, config.hash(), extra)

        saved_at = time.monotonic()
        length = 1
        while True:
            goal = min(problem.iterations, _next_multiple(iteration, config.evaluate_every), iteration + length)
            if options.checkpoint_every is not None:
                goal = min(goal, _next_multiple(iteration, options.checkpoint_every))
            chunk_begin = time.monotonic()
            chunk = jax.block_until_ready(compiled(state, placement.put(jnp.int32(goal - iteration))))
            chunk_s = time.monotonic() - chunk_begin
            state, count = chunk.state, np.asarray(chunk.iterations)
            lines = _metric_lines(chunk, iteration, problem, wall_s + chunk_s, wall_s)
            wall_s += chunk_s
            # Grows at most fourfold, so that one lucky measurement cannot make Ctrl-C wait.
            length = int(np.clip(CHUNK_SECONDS * (goal - iteration) / chunk_s, 1, min(CHUNK_CAPACITY, 4 * length)))
            diverged = {
                str(seed): iteration + int(n) + 1
                for seed, n, bad in zip(seed_ids, count, np.asarray(chunk.diverged), strict=True)
                if bad
            }
            if diverged:
                metrics.write(lines)
                iteration += int(count.max())
                save(diverged)
                _raise_diverged(folder, diverged)
            rate = (goal - iteration) / chunk_s
            iteration = goal
            if iteration % config.evaluate_every == 0 or iteration == problem.iterations:
                evaluate_begin = time.monotonic()
                scores = np.asarray(heldout(heldout_key, state))
                wall_s += time.monotonic() - evaluate_begin
                # Adaptation may diverge on a held-out task though training goes well.
                lines[-1]["heldout_score"] = finite(scores.astype(float).tolist())
                progress.heldout(float(scores.mean()))
            metrics.write(lines)
            score = float(np.mean(lines[-1].get(experiment.measure.training_metric, float("nan"))))
            progress.update(iteration, score, rate * problem.steps_per_iteration * config.seeds, rate)

            stop = interrupts.received is not None or time.monotonic() >= deadline
            due = (
                iteration % options.checkpoint_every == 0
                if options.checkpoint_every is not None
                else time.monotonic() - saved_at >= CHECKPOINT_SECONDS
            )
            if stop or due or iteration == problem.iterations:
                save({})
                saved_at = time.monotonic()
            if stop or iteration == problem.iterations:
                break

    steps = iteration * problem.steps_per_iteration * config.seeds
    summary = {"iteration": iteration, "steps": steps, "train_wall_s": round(wall_s, 3)}
    write_json(folder.path / "summary.json", summary)
    if iteration == problem.iterations:
        print(f"trained {iteration} iterations, {steps:,} {experiment.unit} in {wall_s:.1f} s", flush=True)
        return Outcome(True, 0)
    if interrupts.received is None:
        print(f"time limit: saved at iteration {iteration}; go on with: {resume_command(folder)}", flush=True)
        return Outcome(False, 0)
    name = signal.Signals(interrupts.received).name
    print(f"{name}: saved at iteration {iteration}; go on with: {resume_command(folder)}", file=sys.stderr, flush=True)
    return Outcome(False, 128 + interrupts.received)


def _next_multiple(value: int, of: int) -> int:
    return (value // of + 1) * of


def default_evaluate_every(settings: Mapping[str, Any]) -> int:
    """Iterations between held-out evaluations where the user does not say."""
    iterations = settings.get("iterations")
    return max(1, iterations // EVALUATIONS) if isinstance(iterations, int) else 1
