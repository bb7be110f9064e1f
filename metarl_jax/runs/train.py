"""``train``: chunks of compiled meta-iterations, with metrics, validation scores and a checkpoint between them."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import training
from metarl_jax.evaluation import meta_test
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.runs import checkpoints, commands, devices, hosts, interrupts, metrics, programs, tracking
from metarl_jax.runs.errors import Diverged, Lost, StorageError, UserError, storage_advice
from metarl_jax.runs.files import finite, write_json
from metarl_jax.runs.folder import RunConfig, RunFolder, create
from metarl_jax.runs.interrupts import Interrupts
from metarl_jax.runs.metrics import Line
from metarl_jax.runs.progress import Progress, warn
from metarl_jax.types import Array, Key, RunState

CHUNK_CAPACITY = 512
"""The most meta-iterations in a chunk."""
CHUNK_SECONDS = 1.0
"""How long a chunk should take: what Ctrl-C waits for, and what a chunk's overhead is spread over."""
CHECKPOINT_SECONDS = 15.0
"""How often to save where ``--checkpoint-every`` does not say."""
VALIDATION_TAG = 0x48454C44
"""Folded into the first seed's key: beyond the reach of any ``split``, so that training never meets this key."""

_BEST = "best_validation_score"
"""The name in a checkpoint of the best validation score. Older versions stored a held-out score, named "best"."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run's result does not depend on, but for rounding."""

    checkpoint_every: int | None = None
    """Iterations; None: about every ``CHECKPOINT_SECONDS``."""
    time_limit: float | None = None
    """Minutes after which to save and stop."""
    live: bool = False
    """Whether to redraw the progress line in place."""
    devices: int | None = None
    """Over how many seeds and tasks are spread; what they compute then agrees with one device to rounding. None: one,
    or all if there are several processes."""
    keep: int = checkpoints.KEEP
    """How many of the last checkpoints to keep."""
    keep_best: bool = False
    """Whether to keep the state with the best validation score, too."""
    trackers: tuple[tracking.Named, ...] = ()
    """The kinds of trackers that get the metrics, in addition to TensorBoard. With several processes only the first one
    tracks."""


class Outcome(NamedTuple):
    """How training ended."""

    finished: bool
    """Whether training has reached its end and no signal has asked to stop."""
    exit_code: int
    diverged: dict[Path, dict[str, int]]
    """The runs that diverged: by seed, in which iteration."""


def build(config: RunConfig) -> Problem:
    """The problem of a run.

    Raises:
        UserError: if the configuration names no experiment, a setting is unknown, of another type or out of range, or
            what the experiment needs is not installed.
    """
    try:
        return config.resolve().build(config.settings)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from error


def new_run(path: Path, config: RunConfig, *, numbered: bool = False) -> RunFolder:
    """Make the run folder, with a checkpoint of iteration 0 in it.

    Args:
        path: the folder to be.
        config: of the run.
        numbered: whether ``NAME-2``, ``NAME-3`` and so on may be taken where the name is taken.

    Raises:
        UserError: if the configuration is wrong or the folder exists.
        StorageError: if it cannot be written.
    """
    return new_runs([path], [config], build(config), numbered=numbered)[0]


def new_runs(
    paths: Sequence[Path], configs: Sequence[RunConfig], problem: Problem, *, numbered: bool = False
) -> list[RunFolder]:
    """As ``new_run``, of runs that one program can train (``programs.groups``), one after another.

    Args:
        paths: the folders to be.
        configs: their configurations.
        problem: of the first.
        numbered: as for ``new_run``.

    Raises:
        UserError: if a folder exists.
        StorageError: if one cannot be written.
    """
    start = jax.jit(lambda values, seed: programs.start_states(problem, values, seed, configs[0].seeds))
    values = programs.values_of(configs)
    found: list[RunFolder] = []
    for index, (path, config) in enumerate(zip(paths, configs, strict=True)):

        def fill(folder: RunFolder, index: int = index, config: RunConfig = config) -> None:
            states = start({name: each[index] for name, each in values.items()}, jnp.uint32(config.seed))
            checkpoints.save(folder.checkpoints, states, 0, config.hash(), {"wall_s": 0.0, "diverged": {}})

        found.append(create(path, config, fill, numbered=numbered))
    return found


def load_states(
    folder: RunFolder, problem: Problem, *, best: bool = False, at: int | None = None
) -> checkpoints.Checkpoint:
    """The newest checkpoint that is whole; damaged ones are named on standard error.

    Args:
        folder: the run.
        problem: what ``build`` made of its configuration.
        best: instead the checkpoint with the best validation score in training (``Options.keep_best``).
        at: instead the checkpoint of this iteration.

    Raises:
        UserError: if there is none, or it does not belong to this program and configuration.
    """
    config = folder.config
    target = jax.eval_shape(lambda seed: programs.start_states(problem, {}, seed, config.seeds), jnp.uint32(0))
    if best or at is not None:
        path = folder.best if at is None else checkpoints.path_of(folder.checkpoints, at)
        checkpoint = checkpoints.load_named(path, target, config.hash(), problem.iterations)
        if best and _BEST not in checkpoint.extra:
            warn(f"an older version chose {path} by its score on held-out tasks: its score there is optimistic")
        return checkpoint
    return checkpoints.load_latest(folder.checkpoints, target, config.hash(), problem.iterations, warn)


def _validation(
    experiment: Experiment, problem: Problem, seeds: int
) -> Callable[[RunState, Key, programs.Values], Array]:
    """A function of columns, a key and each run's values that gives their scores on validation tasks, ``[R, S]``.

    The score is what the experiment reports. All runs get the same tasks.
    """

    def score(states: RunState, key: Key, values: programs.Values) -> Array:
        def one_run(run: tuple[RunState, programs.Values]) -> Array:
            states, values = run
            evaluation = meta_test(
                key,
                programs.algorithm(problem, values).adapt,
                states.algorithm,
                problem.tasks,
                num_tasks=experiment.validation_tasks,
                num_seeds=seeds,
                batch_size=experiment.heldout_batch,
                split="validation",
            )
            return experiment.measure.headline(evaluation.score).mean(axis=-1)

        runs = jax.tree.map(lambda x: x.reshape(x.shape[0] // seeds, seeds, *x.shape[1:]), states)
        return jax.lax.map(one_run, (runs, values))

    return score


@dataclass
class _Run:
    """A run in training, as the host sees it."""

    folder: RunFolder
    columns: slice
    iteration: int
    wall_s: float
    """Of the program that trained it, whoever else that trained."""
    diverged: dict[str, int]
    """By seed, the iteration that was not finite."""
    best: float | None
    """The best validation score of a kept state, the mean over seeds."""
    writer: metrics.Writer | None = None
    """None: it is not in training, or not this process writes."""
    trackers: list[tracking.Background] = field(default_factory=list)
    """Empty where ``writer`` is None."""

    def take(self, chunk: training.Chunk, problem: Problem, chunk_s: float) -> list[Line]:
        """Note what a chunk, on the host, brought.

        Returns:
            A line for each iteration that any seed finished; a seed that diverged has null.
        """
        counts, diverged = chunk.iterations[self.columns], chunk.diverged[self.columns]
        found = {name: rows[self.columns] for name, rows in chunk.metrics.items()}
        rows, lines = int(counts.max()), []
        for row in range(rows):
            line: Line = {
                "iteration": self.iteration + row + 1,
                "steps": (self.iteration + row + 1) * problem.steps_per_iteration,
                "wall_s": round(self.wall_s + chunk_s * (row + 1) / rows, 4),
            }
            for name, values in found.items():
                line[name] = [float(v[row]) if row < n else None for v, n in zip(values, counts, strict=True)]
            lines.append(line)
        first = self.folder.config.seed
        for seed in np.flatnonzero(diverged):
            self.diverged[str(first + seed)] = self.iteration + int(counts[seed]) + 1
        self.iteration += rows
        self.wall_s += chunk_s
        return lines

    def begin(self, options: Options, say: Callable[[str], None]) -> metrics.Writer:
        """Open the metrics, and start the trackers."""
        self.writer = metrics.Writer(self.folder.metrics, self.iteration)
        described = tracking.tracked(self.folder, self.iteration)
        kinds = (tracking.Named("TensorBoard", tracking.TensorBoard), *options.trackers)
        self.trackers += [tracking.Background(kind, described, say) for kind in kinds]
        return self.writer

    def write(self, lines: list[Line]) -> None:
        """Store the lines; trackers get the last one."""
        if self.writer is None or not lines:
            return
        self.writer.write(lines)
        first, seeds = self.folder.config.seed, self.folder.config.seeds
        values = metrics.scalars(lines[-1], range(first, first + seeds))
        for tracker in self.trackers:
            tracker.log(lines[-1]["iteration"], values)

    def improves(self, score: float, higher_is_better: bool) -> bool:
        """Whether a validation score is the best so far; if so, it is noted as the best."""
        worse = self.best is not None and (score <= self.best if higher_is_better else score >= self.best)
        if worse or not math.isfinite(score):
            return False
        self.best = score
        return True

    def save(self, columns: RunState, keep: int, path: Path | None = None) -> None:
        """A checkpoint of its own columns, the newest of ``keep``, or at a path of its own."""
        if self.writer is None:
            return
        state = jax.tree.map(lambda x: x[self.columns], columns)
        extra = {"wall_s": self.wall_s, "diverged": self.diverged, _BEST: self.best}
        arguments = state, self.iteration, self.folder.config.hash(), extra
        if path is None:
            checkpoints.save(self.folder.checkpoints, *arguments, keep=keep)
        else:
            checkpoints.write(path, *arguments)


def resume_command(folder: RunFolder) -> str:
    """What to type to go on with a run."""
    return commands.on_folder("resume", folder.path, folder.config.experiment)


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
        Lost: if one of several processes is gone; the last checkpoint is whole.
    """
    outcome = train_together([folder], options, resume_command(folder))
    if outcome.diverged:
        _raise_diverged(folder, outcome.diverged[folder.path])
    return outcome


def train_together(folders: Sequence[RunFolder], options: Options, again: str) -> Outcome:
    """As ``train``, of runs that one program can train (``programs.groups``), all at once.

    A run that diverges is stopped, and the others go on; who is ahead waits for the others.

    Args:
        folders: the runs, of the same seeds, and evaluated as often.
        options: of them all.
        again: what to type to go on with them.

    Raises:
        UserError: as for ``train``.
        StorageError, Lost: as for ``train``.
        programs.TooLarge: if one program cannot train so many runs in the memory that there is; not for one run.
    """
    with contextlib.ExitStack() as locks:
        hosts.on_first(lambda: [locks.enter_context(folder.lock()) for folder in folders])
        try:
            return _train(folders, options, again)
        except jax.errors.JaxRuntimeError as error:
            if hosts.number() == 1:
                raise
            raise Lost(f"another process is gone ({str(error).splitlines()[0]}); go on with: {again}") from error
        except OSError as error:
            saved = checkpoints.paths(folders[0].checkpoints)
            last = f"the last good state is {saved[0].name}" if saved else "no state was saved"
            raise StorageError(
                f"cannot write to {folders[0].path}: {error.strerror or error}; {last}; "
                f"{storage_advice(error)}, then: {again}"
            ) from error


def _load(folders: Sequence[RunFolder], problem: Problem) -> tuple[RunState, list[_Run]]:
    """The columns of all runs, and where each run is."""
    found = hosts.on_first(lambda: [load_states(folder, problem) for folder in folders])
    newest = hosts.agree(*(checkpoint.iteration for checkpoint in found) if found else [0] * len(folders))[0]
    if found is None:
        found = [load_states(folder, problem, at=int(at)) for folder, at in zip(folders, newest, strict=True)]
    # From here on the first process may delete some.
    hosts.agree()
    runs = []
    for index, (folder, (_, iteration, extra)) in enumerate(zip(folders, found, strict=True)):
        seeds = folder.config.seeds
        columns = slice(index * seeds, (index + 1) * seeds)
        runs.append(_Run(folder, columns, iteration, extra["wall_s"], extra["diverged"], extra.get(_BEST)))
        if hosts.first() and not extra["diverged"]:
            if "best" in extra and folder.best.exists():
                warn(f"an older version chose {folder.best} on held-out tasks; with --keep-best it is soon replaced")
            checkpoints.set_aside_damaged(folder.checkpoints, iteration)
            folder.add_versions(iteration)
    return jax.tree.map(lambda *x: jnp.concatenate(x), *(checkpoint.state for checkpoint in found)), runs


def _compile(problem: Problem, placement: devices.Placement, arguments: tuple[Any, ...], runs: int) -> tuple[Any, str]:
    """The program that trains columns, and what is to be said about it.

    Raises:
        UserError: for robots that the host steps, with seeds and tasks over devices.
    """
    columns = arguments[-1].shape[0] // placement.seeds

    def compile_for(at_a_time: int) -> Any:
        program = programs.train_columns(problem, CHUNK_CAPACITY, at_a_time)
        try:
            lowered = placement.jit(program, donate_argnums=0).lower(*arguments)
        except NotImplementedError as error:
            # Of JAX, for callbacks to the host where some axes of the mesh are left to the compiler.
            if "callbacks" not in str(error):
                raise
            raise UserError(
                "of robots that the host steps (C MuJoCo) seeds or tasks can be spread over devices, not both: use"
                f" --devices {placement.seeds}, or --engine mjx where there is that setting"
            ) from error
        return lowered.compile()

    try:
        compiled, at_a_time = programs.compile_to_fit(compile_for, columns, programs.free_bytes())
    except programs.TooLarge:
        if runs > 1:
            raise
        # Less is not possible, and the compiler may have been too careful.
        compiled, at_a_time = compile_for(1), 1
    return compiled, f", {at_a_time} of {columns} seeds at a time" if columns > at_a_time > 1 else ""


def _train(folders: Sequence[RunFolder], options: Options, again: str) -> Outcome:
    config = folders[0].config
    problem, experiment = build(config), config.resolve()
    total, measure, columns = problem.iterations, experiment.measure, config.seeds * len(folders)
    states, runs = _load(folders, problem)
    active = [run for run in runs if not run.diverged and run.iteration < total]
    # How far all of them are.
    iteration = min((run.iteration for run in active), default=total)

    def outcome(exit_code: int) -> Outcome:
        diverged = {run.folder.path: run.diverged for run in runs if run.diverged}
        return Outcome(not active or iteration == total, exit_code, diverged)

    if not active:
        return outcome(0)
    if iteration > 0:
        print(f"going on after iteration {iteration}", flush=True)

    begin = time.monotonic()
    deadline = begin + 60 * options.time_limit if options.time_limit is not None else float("inf")
    validation_key = jax.random.fold_in(jax.random.key(config.seed), VALIDATION_TAG)
    stopped, received = False, 0
    with (
        devices.spread(options.devices, columns) as placement,
        Progress(total, experiment, options.live) as progress,
        contextlib.ExitStack() as opened,
    ):
        values = programs.values_of([folder.config for folder in folders])
        of_columns = placement.put({name: np.repeat(each, config.seeds) for name, each in values.items()})
        states, nothing = placement.put(states), placement.put(np.zeros(columns, np.int32))
        compiled, note = _compile(problem, placement, (states, of_columns, nothing), len(runs))
        progress.say(f"compiled in {time.monotonic() - begin:.1f} s{note}")
        validate = placement.jit_whole(_validation(experiment, problem, config.seeds))
        opened.callback(lambda: tracking.close([one for run in runs for one in run.trackers], progress.say))
        for run in active if hosts.first() else ():
            opened.enter_context(run.begin(options, progress.say))

        # Before this, nothing is to be saved, and a signal ends the command.
        signals = opened.enter_context(Interrupts())
        saved_at = time.monotonic()
        length = 1
        while active and not stopped and iteration < total:
            goal = min(total, _next_multiple(iteration, config.evaluate_every), iteration + length)
            if options.checkpoint_every is not None:
                goal = min(goal, _next_multiple(iteration, options.checkpoint_every))
            # Who is ahead waits.
            moving = [run for run in active if run.iteration < goal]
            missing = np.zeros(columns, np.int32)
            for run in moving:
                missing[run.columns] = goal - run.iteration
            hosts.agree()
            chunk_begin = time.monotonic()
            chunk = jax.block_until_ready(compiled(states, of_columns, placement.put(missing)))
            chunk_s = time.monotonic() - chunk_begin
            states, found = chunk.state, jax.tree.map(np.asarray, placement.fetch(chunk._replace(state=())))
            rate = (goal - iteration) / chunk_s
            # Grows at most fourfold, so that one lucky measurement cannot make Ctrl-C wait.
            length = int(np.clip(CHUNK_SECONDS * rate, 1, min(CHUNK_CAPACITY, 4 * length)))
            iteration = goal
            lines = [run.take(found, problem, chunk_s) for run in moving]
            going_well = [run for run in moving if not run.diverged]
            better = []
            if going_well and (iteration % config.evaluate_every == 0 or iteration == total):
                evaluate_begin = time.monotonic()
                scores = np.asarray(validate(states, validation_key, values), np.float64)
                evaluate_s = time.monotonic() - evaluate_begin
                for run in going_well:
                    own = scores[runs.index(run)]
                    run.wall_s += evaluate_s
                    # Adaptation may diverge on a validation task though training goes well.
                    lines[moving.index(run)][-1]["validation_score"] = finite(own.tolist())
                    if options.keep_best and run.improves(float(own.mean()), measure.higher_is_better):
                        better.append(run)
                progress.validation(float(np.mean([scores[runs.index(run)] for run in going_well])))
            for run, own in zip(moving, lines, strict=True):
                run.write(own)
            if going_well:
                last = [line[-1].get(measure.training_metric) for line in lines if line]
                score = float(np.mean([x for x in last if x is not None and None not in x] or np.nan))
                progress.update(iteration, score, rate * problem.steps_per_iteration * config.seeds * len(moving), rate)

            due = (
                iteration % options.checkpoint_every == 0
                if options.checkpoint_every is not None
                else time.monotonic() - saved_at >= CHECKPOINT_SECONDS
            )
            # Of any process a signal; of the first one what its clock says.
            said = hosts.agree(signals.received or 0, time.monotonic() >= deadline, due, length)
            received, (_, late, due, length) = int(said[:, 0].max()), map(int, said[0])
            stopped = bool(received or late)
            if stopped or due or better or len(going_well) < len(moving) or iteration == total:
                whole = placement.fetch(states)
                for run in better:
                    run.save(whole, options.keep, run.folder.best)
                everyone = stopped or due or iteration == total
                for run in active:
                    if everyone or run.diverged:
                        run.save(whole, options.keep)
                saved_at = time.monotonic() if everyone else saved_at
            active = [run for run in active if not run.diverged]

    for run in runs:
        steps = run.iteration * problem.steps_per_iteration * config.seeds
        if run.writer is not None and not run.diverged:
            summary = {"iteration": run.iteration, "steps": steps, "train_wall_s": round(run.wall_s, 3)}
            write_json(run.folder.path / "summary.json", summary)
    if iteration == total and signals.received:
        # The signal came when the last chunk was on its way: what follows training is left out.
        received = signals.received
    if not active or (iteration == total and not received):
        if active:
            steps = total * problem.steps_per_iteration * config.seeds * len(active)
            print(f"trained {total} iterations, {steps:,} {experiment.unit} in {active[0].wall_s:.1f} s", flush=True)
        return outcome(0)
    if not received:
        print(f"time limit: saved at iteration {iteration}; go on with: {again}", flush=True)
        return outcome(0)
    name = interrupts.name(received)
    print(f"{name}: saved at iteration {iteration}; go on with: {again}", file=sys.stderr, flush=True)
    return outcome(128 + received)._replace(finished=False)


def _next_multiple(value: int, of: int) -> int:
    return (value // of + 1) * of
