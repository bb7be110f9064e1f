"""The command ``train``: run chunks of compiled meta-iterations, and between them write metrics and checkpoints."""

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
from metarl_jax.batching import calls_host, vectorised_seeds
from metarl_jax.evaluation import meta_test
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.runs import checkpoints, commands, devices, hosts, interrupts, metrics, programs, tracking
from metarl_jax.runs.errors import Diverged, Lost, StorageError, UserError, storage_advice
from metarl_jax.runs.files import exists, finite, write_json
from metarl_jax.runs.folder import RunConfig, RunFolder, create
from metarl_jax.runs.interrupts import Interrupts
from metarl_jax.runs.metrics import Line
from metarl_jax.runs.progress import Progress, warn
from metarl_jax.types import Array, Key, RunState

CHUNK_CAPACITY = 512
"""The largest number of meta-iterations in a chunk."""
CHUNK_SECONDS = 1.0
"""The intended duration of a chunk. Ctrl-C waits for the end of a chunk; in shorter chunks the overhead would count."""
CHECKPOINT_SECONDS = 15.0
"""The time in seconds between checkpoints of a run without ``--checkpoint-every``."""
VALIDATION_TAG = 0x48454C44
"""The number that is folded into the key of the first seed for validation tasks. No ``split`` of that key gives the
result, so training never uses the same key."""

_BEST = "best_validation_score"
"""The name in a checkpoint of the best validation score. Older versions stored a held-out score, named "best"."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of training on which the result of a run does not depend, except for rounding."""

    checkpoint_every: int | None = None
    """The number of iterations between checkpoints; None for a checkpoint about every ``CHECKPOINT_SECONDS``."""
    time_limit: float | None = None
    """The time in minutes after which to save and stop; None for no limit."""
    live: bool = False
    """Whether to redraw the progress line in place."""
    devices: int | None = None
    """The number of devices that seeds and tasks are distributed over. The result agrees with that of one device to
    rounding. None means one device, or all devices if there are several processes."""
    keep: int = checkpoints.KEEP
    """The number of the latest checkpoints to keep."""
    keep_best: bool = False
    """Whether to keep the state with the best validation score as well."""
    trackers: tuple[tracking.Named, ...] = ()
    """The kinds of trackers that get the metrics, in addition to TensorBoard. With several processes only the first one
    tracks."""


class Outcome(NamedTuple):
    """The outcome of training."""

    finished: bool
    """Whether training has reached its end and no signal has requested to stop."""
    exit_code: int
    """The exit code of the command."""
    diverged: dict[Path, dict[str, int]]
    """The runs that diverged. For each run folder, the iteration in which each seed diverged, by seed."""


def build(config: RunConfig, *, without_data: bool = False) -> Problem:
    """Build the problem of a run.

    Args:
        config: the configuration of the run.
        without_data: whether no file of data is read, because the learner is not trained (``Experiment.build``).

    Raises:
        UserError: if the configuration does not name an experiment, if a setting is unknown, has the wrong type or is
            out of range, or if a package that the experiment needs is not installed.
    """
    try:
        experiment = config.resolve()
        experiment.check_settings(config.settings)
        return experiment.build(config.settings, without_data=without_data)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from error


def new_run(path: Path, config: RunConfig, *, numbered: bool = False) -> RunFolder:
    """Create a run folder with a checkpoint of iteration 0.

    Args:
        path: the path of the new folder.
        config: the configuration of the run.
        numbered: whether the folder may get the name ``NAME-2``, ``NAME-3`` and so on if ``NAME`` exists.

    Raises:
        UserError: if the configuration is wrong or the folder exists.
        StorageError: if the folder cannot be written.
    """
    return new_runs([path], [config], build(config), numbered=numbered)[0]


def new_runs(
    paths: Sequence[Path], configs: Sequence[RunConfig], problem: Problem, *, numbered: bool = False
) -> list[RunFolder]:
    """Create the run folders of runs that one program can train (``programs.groups``), as ``new_run`` does.

    Args:
        paths: the paths of the new folders.
        configs: the configurations of the runs.
        problem: the problem of the first run.
        numbered: whether a folder may get the name ``NAME-2``, ``NAME-3`` and so on if ``NAME`` exists.

    Raises:
        UserError: if a folder exists.
        StorageError: if a folder cannot be written.
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
    """Load the newest checkpoint that is whole. A warning names each damaged checkpoint.

    Args:
        folder: the run.
        problem: the problem that ``build`` returned for the run.
        best: whether to load the checkpoint with the best validation score in training instead
            (``Options.keep_best``).
        at: the iteration of the checkpoint to load instead; None for the newest.

    Raises:
        UserError: if there is no such checkpoint, or if it does not belong to this program and configuration.
    """
    config = folder.config
    target = jax.eval_shape(lambda seed: programs.start_states(problem, {}, seed, config.seeds), jnp.uint32(0))
    if best and not exists(folder.best):
        raise UserError(f"{folder.path} did not keep the state with the best validation score: see train --keep-best")
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
    """Return a function that computes the scores of R runs of S seeds on validation tasks, ``[R, S]``.

    Its arguments are the columns, a key, and the values of each run. The score is the one that the experiment reports.
    All runs get the same tasks.
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
    """The state on the host of a run in training."""

    folder: RunFolder
    """The folder of the run."""
    columns: slice
    """The indices of the run's seeds among all columns."""
    iteration: int
    """The number of iterations done."""
    wall_s: float
    """The wall-clock time in seconds of the program that trained the run. The program may train other runs as well."""
    diverged: dict[str, int]
    """The iteration in which each diverged seed had a number that is not finite, by seed."""
    best: float | None
    """The best validation score of a kept state, as a mean over seeds."""
    writer: metrics.Writer | None = None
    """The writer of metrics; None if the run is not in training, or if this process is not the one that writes."""
    trackers: list[tracking.Background] = field(default_factory=list)
    """The trackers of the run; empty if ``writer`` is None."""

    def take(self, chunk: training.Chunk, problem: Problem, chunk_s: float) -> list[Line]:
        """Update the iteration, the time and the divergence by a chunk, which has been copied to the host.

        Returns:
            A line of metrics for each iteration that any seed finished. The entry of a seed that diverged is null.
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
        """Open the file of metrics, and start the trackers."""
        self.writer = metrics.Writer(self.folder.metrics, self.iteration)
        described = tracking.tracked(self.folder, self.iteration)
        kinds = (tracking.Named("TensorBoard", tracking.TensorBoard), *options.trackers)
        self.trackers += [tracking.Background(kind, described, say) for kind in kinds]
        return self.writer

    def write(self, lines: list[Line]) -> None:
        """Write lines of metrics. The trackers get the last one."""
        if self.writer is None or not lines:
            return
        self.writer.write(lines)
        first, seeds = self.folder.config.seed, self.folder.config.seeds
        values = metrics.scalars(lines[-1], range(first, first + seeds))
        for tracker in self.trackers:
            tracker.log(lines[-1]["iteration"], values)

    def improves(self, score: float, higher_is_better: bool) -> bool:
        """Return whether a validation score is the best so far. If it is, store it as the best."""
        worse = self.best is not None and (score <= self.best if higher_is_better else score >= self.best)
        if worse or not math.isfinite(score):
            return False
        self.best = score
        return True

    def save(self, columns: RunState, keep: int, path: Path | None = None) -> None:
        """Save a checkpoint of the run's own columns.

        Args:
            columns: the states of all columns.
            keep: the number of the latest checkpoints to keep.
            path: the path of the checkpoint; None for a path in the run's folder of checkpoints.
        """
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
    """Return the command line that resumes a run."""
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
        UserError: if another process trains this run, if no checkpoint can be used, or if there are fewer devices than
            requested.
        Diverged: if numbers are not finite. The last finite state of each seed is saved.
        StorageError: if the folder cannot be written. The last checkpoint is whole.
        Lost: if one of several processes is gone. The last checkpoint is whole.
    """
    outcome = train_together([folder], options, resume_command(folder))
    if outcome.diverged:
        _raise_diverged(folder, outcome.diverged[folder.path])
    return outcome


def train_together(folders: Sequence[RunFolder], options: Options, again: str) -> Outcome:
    """Train several runs at the same time that one program can train (``programs.groups``).

    A run that diverges is stopped, and the others continue. A run that is ahead of the others waits for them.

    Args:
        folders: the runs, which have the same seeds and the same interval between validations.
        options: the options of all runs.
        again: the command line that resumes the runs, for messages.

    Raises:
        UserError: where ``train`` raises it.
        StorageError, Lost: where ``train`` raises them.
        programs.TooLarge: if the program for all runs does not fit into memory; never for a single run.
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
    """Load the columns of all runs, and the state of each run on the host."""
    found = hosts.on_first(lambda: [load_states(folder, problem) for folder in folders])
    newest = hosts.agree(*(checkpoint.iteration for checkpoint in found) if found else [0] * len(folders))[0]
    if found is None:
        found = [load_states(folder, problem, at=int(at)) for folder, at in zip(folders, newest, strict=True)]
    # After this exchange, all processes have loaded their checkpoints, and the first one may delete some.
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


def _calls_host(problem: Problem) -> bool:
    """Return whether an iteration of the algorithm calls the host."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return calls_host(problem.algorithm.step, key, jax.eval_shape(problem.algorithm.init, key))


def _compile(problem: Problem, placement: devices.Placement, arguments: tuple[Any, ...], runs: int) -> tuple[Any, str]:
    """Compile the program that trains columns, and return it with a note for the message about compilation.

    Raises:
        UserError: for environments that the host steps, if both seeds and tasks are distributed over devices.
    """
    columns = arguments[-1].shape[0] // placement.seeds

    def compile_for(at_a_time: int) -> Any:
        program = programs.train_columns(problem, CHUNK_CAPACITY, at_a_time)
        try:
            lowered = placement.jit(program, donate_argnums=0).lower(*arguments)
        except NotImplementedError as error:
            # JAX raises it for callbacks to the host in a program that leaves axes of the mesh to the compiler.
            if "callbacks" not in str(error):
                raise
            raise UserError(
                "for environments that the host steps (C MuJoCo, Gymnasium), seeds or tasks can be spread over "
                f"devices, not both: use --devices {placement.seeds}, or --engine mjx where the experiment has it"
            ) from error
        return lowered.compile()

    # JAX refuses loops of several seeds that call the host.
    alone = vectorised_seeds(columns) > 1 and _calls_host(problem)
    try:
        compiled, at_a_time = programs.compile_to_fit(compile_for, columns, programs.free_bytes(), alone=alone)
    except programs.TooLarge:
        if runs > 1:
            raise
        # One column of one run is the smallest program, and the compiler's estimate may be too high.
        compiled, at_a_time = compile_for(1), 1
    return compiled, f", {at_a_time} of {columns} seeds at a time" if columns > at_a_time > 1 else ""


def _train(folders: Sequence[RunFolder], options: Options, again: str) -> Outcome:
    config = folders[0].config
    problem, experiment = build(config), config.resolve()
    total, measure, columns = problem.iterations, experiment.measure, config.seeds * len(folders)
    states, runs = _load(folders, problem)
    active = [run for run in runs if not run.diverged and run.iteration < total]
    # The iteration that all active runs have reached.
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

        # Before this line there is nothing to save, and a signal ends the command.
        signals = opened.enter_context(Interrupts())
        saved_at = time.monotonic()
        length = 1
        while active and not stopped and iteration < total:
            goal = min(total, _next_multiple(iteration, config.evaluate_every), iteration + length)
            if options.checkpoint_every is not None:
                goal = min(goal, _next_multiple(iteration, options.checkpoint_every))
            # A run that has already reached the goal waits for the others.
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
            # The length grows at most fourfold, so that one short measurement cannot make Ctrl-C wait for long.
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
                    # Adaptation may diverge on a validation task although training has not diverged.
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
            # A signal to any process counts. The decisions that depend on a clock are those of the first process.
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
        # The signal came during the last chunk, so the command stops after training, before the evaluation.
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
