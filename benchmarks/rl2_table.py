"""Train and test RL² on the cells of a published table. Several benchmarks share this module.

Every seed of a cell is a separate run, in a process that is pinned to one core. With networks of these sizes, two runs
on one core each are faster than one run on two cores. On an accelerator, all seeds of a cell are one run
("--together"). A run that was interrupted continues where it stopped. A run that is done is not trained again. The row
of a cell is written when its last seed has been tested.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from results_file import provenance, write_row


class TableRow(NamedTuple):
    """One cell of a table."""

    experiment: str
    """The name of the preset."""
    target: float | None
    """The acceptance bar; None if there is no bar."""
    paper: float | None
    """The published number for this memory; None if there is none."""
    oracle: float | None
    """The best known value, which is exact, or simulated with the standard error that the benchmark gives."""
    source: str = "Duan et al. 2016"
    """The publication of the published number."""


def run_seeds(
    cell: TableRow, first: int, seeds: int, folder: Path, trials: int, minutes: float, changed: dict[str, Any]
) -> Path | None:
    """Train (or continue training) seeds in one run, and test them.

    Returns:
        The file with the results of the test; None if the time limit came first.
    """
    import jax

    from metarl_jax import experiments
    from metarl_jax.evaluation import meta_test
    from metarl_jax.runs import compilation_cache, files, train
    from metarl_jax.runs.folder import RunConfig, RunFolder, default_evaluate_every

    compilation_cache.enable()
    path = run_path(cell, first, seeds, folder)
    if path.exists():
        run = RunFolder(path)
    else:
        settings = experiments.get(cell.experiment).with_overrides(changed)
        every = default_evaluate_every(settings)
        config = RunConfig(experiment=cell.experiment, settings=settings, seed=first, seeds=seeds, evaluate_every=every)
        run = train.new_run(path, config)
    outcome = train.train(run, train.Options(time_limit=minutes))
    if outcome.exit_code:
        # A signal stopped the run, so the benchmark stops as well.
        raise SystemExit(outcome.exit_code)
    if not outcome.finished:
        return None
    result = path / f"tested-{trials}.json"
    if not result.exists():
        problem = train.build(run.config)
        states = train.load_states(run, problem).state.algorithm
        # All seeds get the same held-out tasks. Training keys come from small seeds, and this key from a large one.
        evaluation = jax.jit(
            lambda key, states: meta_test(
                key, problem.algorithm.adapt, states, problem.tasks, num_tasks=trials, num_seeds=seeds
            )
        )(jax.random.key(2**31 + 11), states)
        reward = np.asarray(evaluation.score, np.float64).sum(axis=-1)
        summary = json.loads((path / "summary.json").read_text())
        content = {
            "means": reward.mean(axis=1).tolist(),
            "standard_errors": (reward.std(axis=1, ddof=1) / np.sqrt(trials)).tolist(),
            "env_steps": summary["steps"] // seeds,
            "settings": run.config.settings,
            **provenance(),
        }
        files.write_json(result, content)
    return result


def run_path(cell: TableRow, first: int, seeds: int, folder: Path) -> Path:
    """Return the folder of a run."""
    return folder / f"{cell.experiment}-seed-{first}{f'-and-{seeds - 1}-more' if seeds > 1 else ''}"


def train_seconds(run: Path) -> float:
    """Return the wall-clock seconds of training of a run, without compilation.

    The clock continues while a process is suspended. Therefore an iteration that took more than five times the median
    counts as the median.
    """
    wall = [json.loads(line)["wall_s"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = np.diff(wall, prepend=0.0)
    median = np.median(seconds)
    return float(np.sum(np.where(seconds > 5 * median, median, seconds)))


def report_cell(name: str, cell: TableRow, evaluations: Sequence[Path], trials: int) -> dict[str, Any]:
    """Write the row of a cell from the tests of its seeds."""
    results = [json.loads(path.read_text()) for path in evaluations]
    means, errors = (np.array([x for result in results for x in result[what]]) for what in ("means", "standard_errors"))
    # All seeds get the same held-out tasks, so the error from the choice of tasks does not average out over seeds.
    error = float(np.mean(errors))
    mean = float(np.mean(means))
    together = len(means) > len(results)
    device = "cpu" if results[0]["device"].startswith("cpu") else results[0]["device"]
    row = {
        "experiment": cell.experiment,
        "metric": "trial_reward",
        "ours": mean,
        "ci95": [mean - 1.96 * error, mean + 1.96 * error],
        "by_seed": means.tolist(),
        "target": cell.target,
        "reached": None if cell.target is None else bool(np.min(means) >= cell.target),
        "paper": cell.paper,
        "source": None if cell.paper is None else cell.source,
        "oracle": cell.oracle,
        "seeds": len(means),
        "heldout_tasks": trials,
        "env_steps": results[0]["env_steps"],
        "train_wall_s": float(np.mean([train_seconds(path.parent) for path in evaluations])),
        **{name: results[0][name] for name in ("settings", "versions", "commit")},
        "device": f"{device}, all seeds in one run" if together else f"{device}, one core for each run",
    }
    write_row(name, row, ("experiment", "variant", "metric"))
    return row


def main(name: str, description: str, cells: dict[str, TableRow]) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=list(cells), default=list(cells))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20000, help="held-out trials for each seed")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    parser.add_argument("--together", action="store_true", help="all seeds of a cell in one run, for an accelerator")
    parser.add_argument("--accumulation", type=int, help="parts of a gradient: the same gradient, on a CPU sooner")
    parser.add_argument("--iterations", type=int, help="of training, for a trial")
    parser.add_argument("--worker", type=int, metavar="SEED", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = {"accumulation": arguments.accumulation, "iterations": arguments.iterations}
    changed = {name: value for name, value in options.items() if value is not None}
    rest = arguments.folder, arguments.trials, arguments.minutes, changed
    if arguments.worker is not None:
        run_seeds(cells[arguments.cells[0]], arguments.worker, 1, *rest)
        return

    def report(key: str, evaluations: Sequence[Path | None]) -> None:
        done = [path for path in evaluations if path is not None]
        if len(done) < len(evaluations):
            print(f"{key}: time ran out before every seed was trained; call again to go on", flush=True)
            return
        row = report_cell(name, cells[key], done, arguments.trials)
        print(
            f"{key}: {row['ours']:.2f} [{row['ci95'][0]:.2f}, {row['ci95'][1]:.2f}], seeds"
            f" {', '.join(f'{x:.2f}' for x in row['by_seed'])}; target {row['target']}, paper {row['paper']},"
            f" oracle {row['oracle']}; {row['train_wall_s'] / 60:.1f} min a run",
            flush=True,
        )

    if arguments.together:
        for key in arguments.cells:
            report(key, [run_seeds(cells[key], 0, arguments.seeds, *rest)])
        return
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def job(key: str, seed: int) -> Path | None:
        core = cores.get()
        run = run_path(cells[key], seed, 1, arguments.folder)
        command = [sys.executable, sys.argv[0], "--cells", key, "--worker", str(seed)]
        command += ["--folder", str(arguments.folder), "--trials", str(arguments.trials)]
        command += ["--minutes", str(arguments.minutes)]
        command += [word for name, value in changed.items() for word in (f"--{name}", str(value))]
        run.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(run.with_suffix(".log"), "a") as log:
                subprocess.run(["taskset", "-c", str(core), *command], check=True, stdout=log, stderr=log)
        finally:
            cores.put(core)
        result = run / f"tested-{arguments.trials}.json"
        return result if result.exists() else None

    with ThreadPoolExecutor(max_workers=cores.qsize()) as pool:
        jobs = {key: [pool.submit(job, key, seed) for seed in range(arguments.seeds)] for key in arguments.cells}
        for key, seeds in jobs.items():
            report(key, [future.result() for future in seeds])
