"""Fill the rows of the results that need an accelerator, in the order of their value.

    python benchmarks/accelerator.py --list                                   # the jobs, and which are done
    python benchmarks/accelerator.py --data-dir DATA --minutes 540            # all jobs; call again to go on
    python benchmarks/accelerator.py --data-dir DATA --jobs maml-omniglot-5x1 speed-bandit --minutes 9
    python benchmarks/accelerator.py --data-dir DATA --tiny                   # every job in small, on any machine

Each job is one of the other benchmarks with its arguments. A job that is interrupted goes on where it stopped, because
its run folder stays; its rows are written when it ends. ``--minutes`` bounds the whole call: no job begins without a
minute left, and a running one is told to stop then. The end of the output says what is left. DATA is the folder of
omniglot.npz (``metarl_jax.datasets.omniglot.download(DATA)`` puts it there); jobs that need it are left out without it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PROGRESS = "accelerator.json"
LEAST_S = 60.0
"""The least time that is worth beginning a job for."""
GRACE_S = 45.0
"""The time in which a job that is told to stop must have saved and ended."""
AGAIN = "call again to go on"
"""The benchmarks print this where their own time ran out."""


class Job(NamedTuple):
    """A benchmark with its arguments."""

    name: str
    script: str
    arguments: tuple[str, ...]
    tiny: tuple[str, ...]
    """The arguments that make it end within seconds, in addition to the others."""
    trains: bool = True
    """Whether it trains in a run folder, with a limit of time of its own."""
    data: bool = False
    """Whether it reads the folder with Omniglot."""


_TINY_RUN = ("--iterations", "2", "--tasks", "8")


def _omniglot(cell: str) -> Job:
    arguments = "--cells", cell, "--seeds", "1"
    learner, _, size = cell.rpartition("-")
    return Job(f"{learner}-omniglot-{size}", "fewshot_omniglot.py", arguments, _TINY_RUN, data=True)


def _robots(cell: str, seeds: int = 1) -> Job:
    arguments = "--cells", cell, "--seeds", str(seeds)
    return Job(cell, "locomotion.py", arguments, _TINY_RUN)


def _speed(name: str, experiment: str) -> Job:
    return Job(
        f"speed-{name}", "speed.py", ("--experiments", experiment), ("--repeats", "1", "--tasks", "8"), trains=False
    )


JOBS = (
    _omniglot("maml-5x1"),
    _speed("bandit", "rl2-bandit-10x5"),
    Job("speed-xland", "xland_speed.py", (), ("--repeats", "1", "--minibatches", "4"), trains=False),
    Job(
        "bandit-table",
        "rl2_bandits.py",
        ("--together",),
        ("--cells", "10x5", "--iterations", "2", "--trials", "64"),
    ),
    _robots("promp-half-cheetah-direction"),
    *(_omniglot(cell) for cell in ("maml-20x1", "maml-5x5", "maml-20x5")),
    _speed("gridnavi", "varibad-gridnavi"),
    Job("speed-pearl", "pearl_point_robot.py", ("--speed",), (), trains=False),
    *(_omniglot(f"reptile-{size}") for size in ("5x1", "5x5", "20x1", "20x5")),
    *(_omniglot(f"snail-{size}") for size in ("5x1", "5x5", "20x1", "20x5")),
    _omniglot("meta-network-5x1"),
    Job(
        "speed-mjx",
        "physics_speed.py",
        ("--robots", "half-cheetah", "--engines", "c", "mjx", "--batches", "64", "1024", "4096"),
        ("--engines", "c", "--batches", "2", "--bodies", "1", "--horizon", "2", "--repeats", "1"),
        trains=False,
    ),
    _robots("rl2-half-cheetah-direction"),
    _robots("varibad-half-cheetah-direction"),
    _robots("pearl-half-cheetah-direction-published"),
    Job("pearl-sparse-published", "pearl_point_robot.py", ("--cells", "paper", "--seeds", "1"), _TINY_RUN),
)


class Outcome(NamedTuple):
    """How a job ended."""

    finished: bool
    code: int
    seconds: float


def command(job: Job, *, minutes: float, folder: Path, data: Path | None, tiny: bool) -> list[str]:
    """The command line of a job.

    Args:
        job: the job.
        minutes: the time that is left.
        folder: where its run folder is.
        data: the folder of omniglot.npz.
        tiny: whether to run it in small.
    """
    words = [sys.executable, str(HERE / job.script), *job.arguments, *(job.tiny if tiny else ())]
    words += ["--minutes", f"{minutes:.2f}", "--folder", str(folder)] if job.trains else []
    return [*words, *(["--data-dir", str(data)] if job.data else [])]


def run(words: Sequence[str], seconds: float, results: Path | None) -> Outcome:
    """Run a command for at most so many seconds, and pass on what it prints.

    It is told to stop by SIGTERM, upon which training saves, and killed if that takes longer than ``GRACE_S``.
    """
    begin = time.monotonic()
    environment = {**os.environ, **({} if results is None else {"METARL_JAX_RESULTS": str(results)})}
    started = subprocess.Popen(
        words, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert started.stdout is not None
    ended_early = False

    def end(number: signal.Signals) -> None:
        if started.poll() is None:
            os.killpg(started.pid, number)

    stops = (seconds, signal.SIGTERM), (seconds + GRACE_S, signal.SIGKILL)
    timers = [threading.Timer(after, end, [number]) for after, number in stops]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        for line in started.stdout:
            print(line, end="", flush=True)
            ended_early |= AGAIN in line
        code = started.wait()
    finally:
        for timer in timers:
            timer.cancel()
        end(signal.SIGKILL)
        started.stdout.close()
    return Outcome(code == 0 and not ended_early, code, time.monotonic() - begin)


def work(
    jobs: Sequence[Job],
    done: dict[str, float],
    minutes: float,
    run_job: Callable[[Job, float], Outcome],
    save: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[tuple[Job, str]]:
    """Run the jobs that are not done, one after another, within a bound of time.

    Args:
        jobs: in order.
        done: the seconds of the jobs that are done, by name; it is added to.
        minutes: the bound of the whole.
        run_job: runs a job for at most so many seconds.
        save: stores ``done``.
        clock: seconds.

    Returns:
        The jobs that are left, and why.
    """
    deadline, left = clock() + 60 * minutes, list[tuple[Job, str]]()
    for job in jobs:
        if job.name in done:
            continue
        seconds = deadline - clock() - GRACE_S
        if seconds < LEAST_S:
            left.append((job, "no time was left"))
            continue
        print(f"== {job.name}, at most {seconds / 60:.1f} minutes", flush=True)
        outcome = run_job(job, seconds)
        if outcome.finished:
            done[job.name] = outcome.seconds
            save()
            print(f"== {job.name} is done after {outcome.seconds:.0f} s", flush=True)
        else:
            left.append((job, "its time ran out" if outcome.code in (0, -15, 143) else f"exit code {outcome.code}"))
    return left


def main() -> int:
    names = [job.name for job in JOBS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=names, default=names, metavar="JOB", help=", ".join(names))
    parser.add_argument("--minutes", type=float, default=60.0, help="bound of the whole call")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders and the progress are")
    parser.add_argument("--results", type=Path, help="where results files are written, if not in benchmarks/results")
    parser.add_argument("--data-dir", type=Path, help="the folder of omniglot.npz")
    parser.add_argument("--list", action="store_true", help="show the jobs and run none")
    parser.add_argument("--tiny", action="store_true", help="every job in small, in a temporary folder, as a trial")
    asked = parser.parse_args()
    chosen = [job for job in JOBS if job.name in asked.jobs]
    if asked.tiny:
        with tempfile.TemporaryDirectory() as temporary:
            return _work(chosen, asked, Path(temporary), Path(temporary) / "results")
    return _work(chosen, asked, asked.folder.resolve(), asked.results and asked.results.resolve())


def _work(chosen: Sequence[Job], asked: argparse.Namespace, folder: Path, results: Path | None) -> int:
    progress = folder / PROGRESS
    done: dict[str, float] = json.loads(progress.read_text()) if progress.exists() else {}
    if asked.list:
        for job in chosen:
            print(f"{job.name:45}{f'done in {done[job.name]:.0f} s' if job.name in done else ''}")
        return 0
    data = asked.data_dir and asked.data_dir.resolve()
    without = [job for job in chosen if job.data and data is None and job.name not in done]
    jobs = [job for job in chosen if job not in without]

    def save() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = progress.with_suffix(".tmp")
        temporary.write_text(json.dumps(done, indent=1) + "\n")
        os.replace(temporary, progress)

    def run_job(job: Job, seconds: float) -> Outcome:
        words = command(job, minutes=seconds / 60, folder=folder, data=data, tiny=asked.tiny)
        return run(words, seconds, results)

    left = work(jobs, done, asked.minutes, run_job, save)
    for job, reason in [*left, *((job, "it needs --data-dir") for job in without)]:
        print(f"left: {job.name} ({reason})")
    if not left and not without:
        print("nothing is left")
    return 0 if all("exit code" not in reason for _, reason in left) else 1


if __name__ == "__main__":
    raise SystemExit(main())
