"""Train on 1, 2 and 4 devices, and on 2 processes of 2 devices, with one algorithm of each kind.

Devices are simulated on the cores of this machine. The benchmark measures two things: the difference between the
training curves and those of one device, at small sizes; and the environment steps per second, at the sizes of the
preset.

    python benchmarks/devices.py                 # curves
    python benchmarks/devices.py --throughput
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import results_file

# There may be more devices than cores.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

SIZES: dict[str, dict[str, Any]] = {
    "rl2-bandit-10x5": {"trials": 8, "minibatches": 2, "epochs": 1, "hidden_size": 8, "embedding_size": 8},
    "maml-sinusoid": {"tasks": 8, "units": 8, "adaptation_steps": 1},
    "maml-navigation": {"tasks": 8, "episodes": 4, "units": 8, "adaptation_steps": 1, "metric_share": 0.5},
    "snail-sinusoid": {"tasks": 8, "filters": 4, "embedding_size": 8, "key_size": 4, "value_size": 4},
    "varibad-gridnavi": {"trials": 8, "minibatches": 2, "epochs": 1, "model_trials": 8, "buffer_trials": 16},
    "pearl-point-robot-sparse": {
        **{"training_tasks": 8, "tasks": 4, "prior_episodes": 1, "posterior_episodes": 1, "initial_episodes": 2},
        **{"replay_episodes": 16, "gradient_steps": 2, "meta_batch": 4, "batch_size": 8, "context_size": 8},
        **{"units": 8, "encoder_units": 8},
    },
}
ITERATIONS = 8


def curve(experiment: str, devices: int, path: Path) -> list[dict[str, list[float]]]:
    """Train at small sizes, and return the metrics of each iteration."""
    from metarl_jax import experiments
    from metarl_jax.runs import hosts, train
    from metarl_jax.runs.folder import RunConfig, RunFolder

    settings = experiments.get(experiment).with_overrides({**SIZES[experiment], "iterations": ITERATIONS})
    config = RunConfig(experiment=experiment, settings=settings, seed=0, seeds=1, evaluate_every=ITERATIONS)
    hosts.on_first(lambda: train.new_run(path, config))
    assert train.train(RunFolder(path), train.Options(devices=devices)).finished
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if isinstance(value, list)} for line in lines]


def difference(one: list[dict[str, list[float]]], other: list[dict[str, list[float]]]) -> float:
    """Return the largest difference of any metric, relative to the largest absolute value of that metric in the run."""
    worst = 0.0
    for name in one[0]:
        a, b = (np.asarray([line[name] for line in lines]) for lines in (one, other))
        worst = max(worst, float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(a))), 1e-6)))
    return worst


def curves(experiment: str, root: Path) -> dict[str, float]:
    """Return the difference of the training curves to those of one device, by the way of distribution."""
    script, ways = str(Path(__file__).resolve()), {}
    single = [sys.executable, script, "--child", experiment, "--folder", str(root)]
    subprocess.run([*single, "--devices", "1", "2", "4"], check=True, stdout=subprocess.DEVNULL)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = [
        subprocess.Popen([*single, "--devices", "4", "--join", f"{address},{i},2"], stdout=subprocess.DEVNULL)
        for i in range(2)
    ]
    assert [process.wait(600) for process in pair] == [0, 0]
    one = json.loads((root / "1.json").read_text())
    for way in ("2", "4", "2 processes of 2"):
        ways[way] = difference(one, json.loads((root / f"{way}.json").read_text()))
    return ways


def child(experiment: str, devices: list[int], folder: Path, join: str | None) -> None:
    """Train in this process, once for each number of devices, and write the curves to the folder."""
    from metarl_jax.runs import compilation_cache, hosts
    from metarl_jax.runs import devices as placing

    compilation_cache.enable()
    processes = 1 if join is None else hosts.join(join)
    placing.prepare(max(devices), processes)
    for number in devices:
        name = str(number) if processes == 1 else f"{processes} processes of {number // (processes or 1)}"
        found = curve(experiment, number, folder / f"run {name}")
        if hosts.first():
            (folder / f"{name}.json").write_text(json.dumps(found))


def throughput(experiment: str, devices: list[int], iterations: int) -> list[dict[str, Any]]:
    """Measure environment steps per second of one seed at the sizes of the preset, by wall time and by CPU time."""
    import jax

    from metarl_jax import experiments
    from metarl_jax.runs import devices as placing
    from metarl_jax.runs import programs

    placing.prepare(max(devices), 1)
    chosen = experiments.get(experiment)
    problem = chosen.build(chosen.with_overrides({}))
    found = []
    for number in devices:
        with placing.spread(number, 1) as placement:
            states = placement.put(programs.start_states(problem, {}, jax.numpy.uint32(0), 1))
            count = placement.put(np.full(1, iterations, np.int32))
            program = placement.jit(programs.train_columns(problem, iterations, 1))
            jax.block_until_ready(program(states, {}, placement.put(np.ones(1, np.int32))))
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(states, {}, count))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        steps = iterations * problem.steps_per_iteration
        row = {"devices": number, "steps_per_s": steps / wall, "steps_per_cpu_s": steps / cpu}
        found.append({**row, "steps_per_s_and_device": steps / wall / number})
        print({name: round(value) for name, value in found[-1].items()}, flush=True)
    return found


def main() -> None:
    """Parse the command line, and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--iterations", type=int, default=50, help="number of iterations of --throughput")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--join", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.devices, arguments.folder, arguments.join)
        return
    for experiment in arguments.experiments:
        if arguments.throughput:
            found = throughput(experiment, arguments.devices, arguments.iterations)
            row = {"experiment": experiment, "metric": "throughput", "by_devices": found}
        else:
            with tempfile.TemporaryDirectory(prefix="devices-") as root:
                ways = curves(experiment, Path(root))
            print(experiment, {way: f"{value:.1e}" for way, value in ways.items()}, flush=True)
            row = {"experiment": experiment, "metric": "curve_difference", "iterations": ITERATIONS, "ours": ways}
        results_file.write_row("devices", {**row, **results_file.provenance()})


if __name__ == "__main__":
    main()
