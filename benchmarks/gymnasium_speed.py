"""Steps per second of CartPoles of Gymnasium: metarl_jax's compiled programs and Gymnasium's own vector environments.

    nice python benchmarks/gymnasium_speed.py
    nice python benchmarks/gymnasium_speed.py --envs 64 256 --steps 500 --repeats 5
    python benchmarks/gymnasium_speed.py --readme             # put the table into benchmarks/README.md

All ways step the same class, ``tests/data/gymnasium_cartpole.py``, with random actions, and reset it where episodes
end. ``from_gymnasium`` draws the actions in a compiled program, which calls the host once a step for all environments:
in the process itself, or in worker processes. Gymnasium's ``SyncVectorEnv`` and ``AsyncVectorEnv`` (which has a process
for each environment) get actions from NumPy. Nothing learns. The measurements of all ways alternate, and each is a
median over repeats; so a ratio is one of numbers of the same minutes. The CPU time is that of the process and its
children; on a shared machine it says more than the rate.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from results_file import PAGE, provenance, read_rows, table, with_block, write_row

from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "data"))
import gymnasium_cartpole  # pyright: ignore[reportMissingImports]

NAME = "gymnasium_speed"
MOST_PROCESSES = 16
"""The largest number of environments for which ``AsyncVectorEnv`` is measured."""
HEADER = ("environments", "way", "steps a second", "relative to SyncVectorEnv", "CPU time of a step, µs")


def ours(envs: int, steps: int, workers: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a function that takes the steps, and one that ends the processes."""
    family: EnvFamily = gymnasium_cartpole.family(steps=steps, workers=workers)

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, 2, jax.numpy.int32), ()

    @jax.jit
    @jax.vmap
    def play(key: Key) -> Array:
        key_task, key_trial = jax.random.split(key)
        # So many episodes that none of the steps comes after the last one: a step of CartPole is at least 1/8 episode.
        short = family._replace(horizon=8)
        return trial(key_trial, act, (), short, family.tasks.sample(key_task), steps // 8)[1].valid.sum()

    keys = jax.random.split(jax.random.key(0), envs)

    def run() -> None:
        assert int(play(keys).sum()) == envs * (steps // 8) * 8

    return run, family.env.close  # pyright: ignore[reportAttributeAccessIssue]


def theirs(envs: int, steps: int, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the same for a vector environment of Gymnasium."""
    import gymnasium

    tasks = [gymnasium_cartpole.Task(*numbers) for numbers in [(1.0, 0.1, 0.5), (-1.0, 0.1, 0.5)] * envs][:envs]
    functions = [lambda task=task: gymnasium_cartpole.make_env(task) for task in tasks]
    options: dict[str, Any] = {"context": "spawn"} if kind == "AsyncVectorEnv" else {}
    vector = getattr(gymnasium.vector, kind)(functions, **options)
    random = np.random.default_rng(0)

    def run() -> None:
        vector.reset(seed=0)
        for _ in range(steps):
            vector.step(random.integers(0, 2, envs))

    return run, vector.close


def cpu_s() -> float:
    """Return the CPU time in seconds of this process and of the processes that it has started."""
    own = psutil.Process()
    times = [each.cpu_times() for each in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def measure(envs: int, steps: int, workers: list[int], repeats: int) -> list[dict[str, Any]]:
    ways = {f"from_gymnasium, workers={number}": ours(envs, steps, number) for number in workers}
    ways["gymnasium SyncVectorEnv"] = theirs(envs, steps, "SyncVectorEnv")
    if envs <= MOST_PROCESSES:
        ways["gymnasium AsyncVectorEnv"] = theirs(envs, steps, "AsyncVectorEnv")
    rates: dict[str, list[float]] = {way: [] for way in ways}
    costs: dict[str, list[float]] = {way: [] for way in ways}
    for run, _ in ways.values():
        run()
    for _ in range(repeats):
        for way, (run, _) in ways.items():
            began, cpu = time.perf_counter(), cpu_s()
            run()
            rates[way].append(envs * steps / (time.perf_counter() - began))
            costs[way].append(1e6 * (cpu_s() - cpu) / (envs * steps))
    for _, close in ways.values():
        close()
    base = rates["gymnasium SyncVectorEnv"]
    return [
        {
            "experiment": f"{envs} CartPoles",
            "metric": way,
            "environments": envs,
            "steps_per_second": round(statistics.median(found)),
            "lowest": round(min(found)),
            "highest": round(max(found)),
            "relative_to_sync": round(statistics.median(a / b for a, b in zip(found, base, strict=True)), 3),
            "cpu_us": round(statistics.median(costs[way]), 1),
            "steps": steps,
            "repeats": repeats,
            "gymnasium": importlib.metadata.version("gymnasium"),
            **provenance(),
        }
        for way, found in rates.items()
    ]


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["environments"]),
        row["metric"],
        f"{row['steps_per_second']:,} ({row['lowest']:,} to {row['highest']:,})",
        f"{row['relative_to_sync']:.2f}",
        f"{row['cpu_us']:.0f}",
    )


def shown() -> str:
    """Return the table in Markdown."""
    return table(HEADER, map(cells, sorted(read_rows(NAME), key=lambda row: (row["environments"], row["metric"]))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=400, help="steps of each environment, a multiple of 8")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--readme", action="store_true", help="measure nothing; put the table into benchmarks/README.md"
    )
    arguments = parser.parse_args()
    if arguments.readme:
        PAGE.write_text(with_block(PAGE.read_text(), "gymnasium_speed.py", shown()))
        return
    for envs in arguments.envs:
        for row in measure(envs, arguments.steps, arguments.workers, arguments.repeats):
            write_row(NAME, row)
            print(f"{row['experiment']}, {row['metric']}: {row['steps_per_second']:,}", flush=True)
    print(shown())


if __name__ == "__main__":
    main()
