"""Kill a run with SIGKILL at random times, resume it each time, and compare the result with an uninterrupted run.

After every kill, each checkpoint in the folder must be readable. At the end, every line of metrics and every bit of the
state must equal those of the uninterrupted run.

    python benchmarks/kill_test.py --kills 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization

from metarl_jax.runs import checkpoints

EXPERIMENT = "rl2-bandit-10x5"
OPTIONS = [
    *("--trials", "8", "--minibatches", "1", "--epochs", "1", "--hidden-size", "4", "--episodes", "3"),
    *("--checkpoint-every", "50", "--evaluate-every", "200", "--evaluation-tasks", "64"),
]


def spawn(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start ``metarl-jax``. Its output is dropped, and its standard error is that of this process."""
    return subprocess.Popen([sys.executable, "-m", "metarl_jax", *arguments], stdout=subprocess.DEVNULL)


def leaves(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint after checking its checksum."""
    content: Any = serialization.msgpack_restore(checkpoints.read_payload(path))
    return content["leaves"]


def metric_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics without entries that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "wall_s"} for line in lines]


def _wait_for_a_moment(process: subprocess.Popen[bytes], metrics: Path, longest_s: float, rng: random.Random) -> None:
    """Wait for a random time.

    Most often this is a short time after the process has written metrics, so that kills hit saves. Otherwise it is any
    time.
    """
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 6))
        return
    before = metrics.stat().st_size if metrics.exists() else 0
    while process.poll() is None and (metrics.stat().st_size if metrics.exists() else 0) <= before:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, longest_s))


def kill_test(root: Path, kills: int, iterations: int, longest_s: float, rng: random.Random) -> list[int]:
    """Run the test in ``root``, and return the iteration of the last checkpoint after each kill.

    Raises:
        AssertionError: if anything is lost, duplicated or unreadable.
    """
    peaceful, killed = root / "peaceful", root / "killed"
    new = ["train", EXPERIMENT, *OPTIONS, "--iterations", str(iterations), "--run-dir"]
    again = ["resume", str(killed), "--checkpoint-every", "50", "--evaluation-tasks", "64"]
    assert spawn([*new, str(peaceful)]).wait() == 0
    reached: list[int] = []
    while len(reached) < kills:
        # A process that is killed before its folder exists leaves nothing, and is started again.
        process = spawn(again if killed.exists() else [*new, str(killed)])
        _wait_for_a_moment(process, killed / "metrics.jsonl", longest_s, rng)
        process.kill()
        assert process.wait() in (-9, 0), "the run failed by itself"
        if process.returncode == 0:
            print("the run was finished before all kills; raise --iterations")
            break
        if killed.exists():
            found = checkpoints.paths(killed / "checkpoints")
            for path in found:
                leaves(path)
            reached.append(int(found[0].name.removesuffix(checkpoints.SUFFIX)))
        else:
            reached.append(-1)
        print(f"kill {len(reached)}: the last checkpoint is of iteration {reached[-1]}", flush=True)
    assert spawn(again if killed.exists() else [*new, str(killed)]).wait() == 0
    ends = [leaves(checkpoints.paths(folder / "checkpoints")[0]) for folder in (peaceful, killed)]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name], err_msg=name)
    assert metric_lines(peaceful) == metric_lines(killed)
    return reached


def main() -> None:
    """Parse the command line, and run the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=30_000)
    parser.add_argument(
        "--longest", type=float, default=1.0, help="largest number of seconds of training before a kill"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the times of kills")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kill_test-"))
    os.environ.setdefault("METARL_JAX_CACHE_DIR", str(root / "cache"))
    try:
        rng = random.Random(arguments.seed)
        reached = kill_test(root, arguments.kills, arguments.iterations, arguments.longest, rng)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{len(reached)} kills at {len(set(reached))} places: nothing lost, nothing doubled, ends agree bit by bit")


if __name__ == "__main__":
    main()
