"""Trackers, which show the metrics of a run elsewhere while it trains. Examples are TensorBoard and Weights & Biases.

A tracker never ends training, and training does not wait for it, because ``Background`` calls each tracker in a
separate thread. Trackers are named on the command line, and never in a run folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

from metarl_jax import checks, references
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.files import printable
from metarl_jax.runs.folder import RunFolder
from metarl_jax.runs.progress import warn
from metarl_jax.runs.study_folder import study_of

CLOSE_SECONDS = 30.0
"""The longest time that the end of training waits for trackers to send their metrics."""
QUIET_SECONDS = 2.0
"""The time that the end of training waits for trackers before it prints a message."""
MOST_WAITING = 1000
"""The largest number of calls of ``log`` that wait for a slow tracker. There is about one call a second."""


class TrackedRun(NamedTuple):
    """A description of a run, which a tracker gets at its start."""

    path: Path
    """The run folder. A tracker must write its files into this folder only."""
    name: str
    """The name of the folder; for a cell of a study, the names of the study and of the cell."""
    group: str | None
    """The name of the study of which the run is a cell; None if the run is not part of a study."""
    settings: Mapping[str, Any]
    """The experiment, the seeds, and every setting of the experiment, by name."""
    iteration: int
    """The iteration after which training begins; it is above 0 for a resumed run."""


@runtime_checkable
class Tracker(Protocol):
    """The interface of a tracker, which displays the metrics of one run.

    All calls for one run come from one thread, in the order ``start``, ``log`` (any number of times), ``close``. An
    exception ends tracking with one warning; training continues. A tracker in ten lines:

        class Lines:
            def start(self, run):
                self.file = open(run.path / "lines.txt", "a")

            def log(self, iteration, values):
                print(iteration, values["loss"], file=self.file, flush=True)

            def close(self):
                self.file.close()

    ``metarl-jax train NAME --track my_file.py:Lines`` uses it.
    """

    def start(self, run: TrackedRun) -> str | None:
        """Begin to track a run, or continue with a run that is resumed.

        Args:
            run: the run.

        Returns:
            A line for the user, such as the address of a page that shows the run; None for no line.
        """
        ...

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log the metrics of one iteration. There is about one call a second.

        A resumed run may log iterations again that were logged before it was stopped.

        Args:
            iteration: the number of meta-iterations done.
            values: the value of each metric by name; with several seeds the names are ``NAME/seed-N``. A metric without
                a value, such as that of a seed that diverged, is left out.
        """
        ...

    def close(self) -> None:
        """End tracking. Training is finished, or has been stopped and may be resumed."""
        ...


Make: TypeAlias = Callable[[], Tracker]


class Named(NamedTuple):
    """A kind of tracker. Every run gets its own tracker of this kind."""

    name: str
    """The name of the tracker on the command line and in messages."""
    make: Make
    """The function or class that makes a tracker."""


def load(words: Sequence[str]) -> tuple[Named, ...]:
    """Find the trackers that a user has named.

    Args:
        words: one word for each tracker. A word is ``wandb`` or a reference, ``FILE.py:NAME`` or
            ``PACKAGE.MODULE:NAME``, to a class, or to a function without arguments that returns a tracker. The code of
            a reference is executed.

    Raises:
        UserError: if a word names no tracker, occurs twice, or needs a package that is not installed.
    """
    found = []
    for word in words:
        if words.count(word) > 1:
            raise UserError(f"--track names {word} twice")
        found.append(Named(word, _make_wandb() if word == "wandb" else _make_own(word)))
    return tuple(found)


def _make_wandb() -> Make:
    spec = importlib.util.find_spec("wandb")
    # W&B creates folders named ``wandb``. Python takes such a folder for a package, but one without an origin.
    if spec is None or spec.origin is None:
        raise UserError(f"--track wandb needs the package wandb: {checks.install_command('wandb')}")
    from metarl_jax.runs import weights_and_biases

    return weights_and_biases.WeightsAndBiases


def _make_own(word: str) -> Make:
    if not references.is_reference(word):
        raise UserError(
            f"--track must be wandb, FILE.py:NAME or PACKAGE.MODULE:NAME, not {word!r}"
            f"{checks.did_you_mean(word, ['wandb'])}"
        )
    try:
        value = references.load(word).value
    except ValueError as error:
        raise UserError(f"--track {error}") from error
    methods = ("start", "log", "close")
    missing = [name for name in methods if isinstance(value, type) and not callable(getattr(value, name, None))]
    if missing:
        raise UserError(f"--track {word}: the class has no method {missing[0]!r}; a tracker has {', '.join(methods)}")
    if not callable(value):
        raise UserError(f"--track {word} must be a class or a function, not an object of type {type(value).__name__}")
    return cast(Make, value)


def tracked(folder: RunFolder, iteration: int) -> TrackedRun:
    """Return the description of a run that its trackers get.

    Args:
        folder: the run.
        iteration: the iteration after which training begins.
    """
    config, study = folder.config, study_of(folder.path)
    settings = {
        "experiment": config.experiment,
        "seed": config.seed,
        "seeds": config.seeds,
        "evaluate_every": config.evaluate_every,
        **config.settings,
    }
    group = None if study is None else study.name
    name = folder.path.absolute().name
    return TrackedRun(folder.path, name if group is None else f"{group}/{name}", group, settings, iteration)


class TensorBoard:
    """A tracker that writes TensorBoard's event files into the run folder."""

    def start(self, run: TrackedRun) -> None:
        """Create a new event file."""
        from tensorboardX import SummaryWriter

        # The name of an event file consists of the time and the host. The random suffix makes it unpredictable, so that
        # nobody can put a link of that name into the folder beforehand.
        suffix = f".{secrets.token_hex(8)}"
        self._events = SummaryWriter(str(run.path / "events"), purge_step=run.iteration + 1, filename_suffix=suffix)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write the values."""
        for name, value in values.items():
            self._events.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write the buffered values, and close the file."""
        self._events.close()


class Background:
    """A tracker of one run, which runs in a separate thread.

    An exception of the tracker becomes one warning. If the tracker is too slow, some metrics are left out, with one
    warning.
    """

    def __init__(self, kind: Named, run: TrackedRun, say: Callable[[str], None]) -> None:
        """Create the tracker, and start it.

        Args:
            kind: the kind of tracker.
            run: the description of the run.
            say: a function that gets the line that the tracker has for the user.
        """
        self.name = kind.name
        self._make, self._run, self._say = kind.make, run, say
        self._waiting: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(MOST_WAITING)
        self._behind = False
        self.given_up = False
        """Whether the command no longer waits for the tracker, so that a failure of it is not reported."""
        self._thread = threading.Thread(target=self._work, name=f"track {kind.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            tracker = self._make()
            if not isinstance(tracker, Tracker):
                raise TypeError(f"it returned a {type(tracker).__name__}, which has no methods start, log and close")
            if line := tracker.start(self._run):
                self._say(printable(line))
            while (item := self._waiting.get()) is not None:
                tracker.log(*item)
            tracker.close()
        except (Exception, SystemExit) as error:  # The user's code may raise anything.
            if self.given_up:
                return
            reason = " ".join(str(error).split())
            described = reason if isinstance(error, UserError) else f"{type(error).__name__}: {reason}"
            warn(f"{self.name} has failed, training goes on without it: {described}")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Pass metrics to the tracker, without waiting for it."""
        if not self._thread.is_alive():
            return
        try:
            self._waiting.put_nowait((iteration, values))
        except queue.Full:
            if not self._behind:
                warn(f"{self.name} is too slow: some metrics are left out there from iteration {iteration} on")
            self._behind = True

    def end(self) -> None:
        """Request the tracker to send its remaining metrics, and to end."""
        while True:
            with contextlib.suppress(queue.Full):
                return self._waiting.put_nowait(None)
            with contextlib.suppress(queue.Empty):
                self._waiting.get_nowait()

    def ended(self, deadline: float) -> bool:
        """Wait until the tracker has ended, or until ``deadline``, and return whether it has ended.

        Args:
            deadline: a time of ``time.monotonic``, in seconds.
        """
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()


def close(trackers: Sequence[Background], say: Callable[[str], None]) -> None:
    """End trackers, and wait for them for ``CLOSE_SECONDS`` at most. A warning names those that do not end.

    Args:
        trackers: the trackers of any number of runs.
        say: a function that gets a line if waiting takes more than ``QUIET_SECONDS``.
    """
    for tracker in trackers:
        tracker.end()
    began = time.monotonic()
    late = [tracker for tracker in trackers if not tracker.ended(began + QUIET_SECONDS)]
    if late:
        say(f"waiting for {_names(late)}, for {CLOSE_SECONDS:g} s at most")
    if late := [tracker for tracker in late if not tracker.ended(began + CLOSE_SECONDS)]:
        for tracker in late:
            tracker.given_up = True
        warn(f"{_names(late)} does not end: some metrics may be missing there")


def _names(trackers: Sequence[Background]) -> str:
    return ", ".join(dict.fromkeys(tracker.name for tracker in trackers))
