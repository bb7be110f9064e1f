"""Display the progress of training: one live line on a terminal, or a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from metarl_jax.experiments.base import Experiment
from metarl_jax.runs.files import printable

PLAIN_INTERVAL_S = 10.0
"""The time in seconds between plain lines."""


def duration(seconds: float) -> str:
    """Format a duration as ``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def line(
    iteration: int,
    iterations: int,
    steps_per_s: float,
    unit: str,
    iterations_per_s: float,
    title: str,
    score: float,
    validation: float | None,
) -> str:
    """Return the line that describes the progress of a run. The arguments are those of ``Progress.update``."""
    to_go = duration((iterations - iteration) / iterations_per_s) if iterations_per_s > 0 else "?"
    measured = "" if validation is None else f", validation {validation:.3f}"
    return (
        f"iteration {iteration}/{iterations}, {steps_per_s:,.0f} {unit}/s, {to_go} to go, {title} {score:.3f}{measured}"
    )


class Progress:
    """A display of the iteration, the speed in steps per second, the remaining time, and the scores."""

    def __init__(self, iterations: int, experiment: Experiment, live: bool) -> None:
        """Create the display.

        Args:
            iterations: the number of iterations of the whole run.
            experiment: the experiment of the run.
            live: whether to redraw the line in place.
        """
        self._iterations = iterations
        self._unit, self._title = experiment.unit, experiment.measure.progress_title
        self._validation: float | None = None
        self._last = 0.0
        self._bar: Any = None
        if live:
            from rich import progress

            self._bar = progress.Progress(
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=24),
                progress.TextColumn("{task.fields[line]}"),
                transient=True,
            )
            self._task = self._bar.add_task("compiling", total=iterations, line="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line that is not overwritten."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def validation(self, mean: float) -> None:
        """Set the validation score that the following lines show."""
        self._validation = mean

    def update(self, iteration: int, score: float, steps_per_s: float, iterations_per_s: float) -> None:
        """Display the progress of the run.

        Args:
            iteration: the number of iterations done.
            score: the mean score in training.
            steps_per_s: the steps per second of all seeds together, in the experiment's unit.
            iterations_per_s: the iterations per second, from which the remaining time is computed.
        """
        text = line(
            iteration,
            self._iterations,
            steps_per_s,
            self._unit,
            iterations_per_s,
            self._title,
            score,
            self._validation,
        )
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration, description="training", line=text)
        elif now - self._last >= PLAIN_INTERVAL_S or iteration == self._iterations:
            self._last = now
            print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning of one line to standard error. The command continues."""
    print(f"metarl-jax: warning: {printable(text)}", file=sys.stderr, flush=True)
