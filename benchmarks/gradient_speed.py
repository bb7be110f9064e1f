"""Speed of gradient-based meta-training, compared with the fastest way in PyTorch, in one run on one machine.

The workloads are:

- Second-order MAML on images of Omniglot's size: 5 classes, 1 example, 1 query; four strided convolutions with 64
  filters and batch normalisation; 32 tasks; 1 and 5 inner steps.
- Second-order MAML on sinusoids: a 1-40-40-1 network, 25 tasks of 10 + 10 points, 1 inner step, Adam.
- MAML-TRPO and ProMP on point navigation: 20 tasks of 20 episodes of 100 steps.
- Throughput per task for growing meta-batches, and memory for growing numbers of inner steps.

PyTorch runs ``torch.func`` over vmapped tasks, compiled by ``torch.compile`` if that is faster. If PyTorch is not
installed (``pip install torch``), only this package is measured. No PyTorch program for point navigation still
runs. The peer is the rate of learn2learn 0.2.0 with ten workers on a CPU of two cores: 1470 and 1083 environment
steps per second. This package runs on one device, and with tasks distributed over all devices (on a CPU: its cores).
The faster way is compared.

    python benchmarks/gradient_speed.py --repeats 5

Times are medians over repeats of warm programs with ``block_until_ready``. Compile times are given separately.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from results_file import provenance, write_row

from metarl_jax import batching, problems, training
from metarl_jax.algorithms import maml, maml_trpo, promp
from metarl_jax.datasets import glyphs, sinusoid
from metarl_jax.environments import point_robot
from metarl_jax.interfaces.few_shot import FewShot, FewShotTask
from metarl_jax.networks import convolutional, mlp
from metarl_jax.types import Algorithm, Key, TaskDistribution

WAYS = 5
LEARN2LEARN = {"maml-trpo": 1470.0, "promp": 1083.0}
"""Environment steps per second of learn2learn, measured once on a CPU of two cores."""


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def ours(algorithm: Algorithm, iterations: int, repeats: int, devices: int = 1) -> dict[str, float]:
    """Measure the seconds of one meta-iteration and of compilation, with tasks distributed over devices.

    One program runs ``iterations`` meta-iterations.
    """
    mesh = jax.make_mesh(
        (devices,), (batching.TASK_AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    with jax.set_mesh(mesh) if devices > 1 else contextlib.nullcontext():
        return _ours(algorithm, iterations, repeats)


def _ours(algorithm: Algorithm, iterations: int, repeats: int) -> dict[str, float]:
    state = jax.jit(lambda key: training.start(algorithm, key))(jax.random.key(0))
    begin = time.perf_counter()
    program = jax.jit(lambda s: training.run(algorithm, s, iterations, iterations)).lower(state).compile()
    compile_seconds = time.perf_counter() - begin
    seconds = median_seconds(lambda: jax.block_until_ready(program(state)), repeats) / iterations
    return {"seconds": seconds, "compile_s": compile_seconds}


def ways_to_run() -> list[int]:
    """Return the numbers of devices to measure: one, and all."""
    return sorted({1, jax.device_count()})


def images() -> FewShot:
    """Return a family of random images of Omniglot's size: the arithmetic is the same, but no file is needed."""
    family = glyphs.make(WAYS, 1, 1)

    def draw(key: Key, task: Any) -> FewShotTask:
        del task
        x = jax.random.uniform(key, (2, WAYS, 28, 28, 1))
        return FewShotTask((x[0], jnp.arange(WAYS)), (x[1], jnp.arange(WAYS)))

    nothing = TaskDistribution(lambda key: jnp.zeros(()), lambda key: jnp.zeros(()))
    return family._replace(tasks=nothing, draw=draw)


def omniglot_sized(tasks: int, inner_steps: int, *, rematerialise: bool = False) -> Algorithm:
    problem = problems.few_shot(images(), convolutional.classifier((28, 28, 1), WAYS))
    config = maml.Config(tasks=tasks, inner_steps=inner_steps, inner_rate=0.4, rematerialise=rematerialise)
    return maml.make(problem, config)


def waves(tasks: int) -> Algorithm:
    return maml.make(problems.few_shot(sinusoid.maml(10, 10), mlp.predictor(1, 1)), maml.Config(tasks=tasks))


def navigation(method: str) -> Algorithm:
    family = point_robot.maml()
    units = 100 if method == "maml-trpo" else 64
    policy = mlp.policy(
        family.observation_space, family.action_space, hidden_sizes=(units, units), history=False, critic=False
    )
    if method == "maml-trpo":
        problem = problems.policy_gradient(family, policy)
        return maml_trpo.make(problem, maml_trpo.Config(tasks=20, inner_rate=0.5))
    problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(clip=0.3))
    return promp.make(problem, promp.Config(tasks=20, epochs=5))


# ------------------------------------------------------------------------------------------------------ PyTorch


def torch_step(loss: Callable[..., Any], inner_rate: float, inner_steps: int, outer_rate: float) -> Callable[..., Any]:
    """Return a function that makes one meta-update of second-order MAML with Adam.

    The function is ``(params, moments, count, task data) -> (params, moments)``.
    """
    from torch.func import grad, vmap  # pyright: ignore[reportMissingImports]

    def after(params: dict[str, Any], xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        adapted = params
        for _ in range(inner_steps):
            gradient = grad(loss)(adapted, xs, ys)
            adapted = {name: adapted[name] - inner_rate * gradient[name] for name in adapted}
        return loss(adapted, xq, yq)

    def objective(params: dict[str, Any], *data: Any) -> Any:
        return vmap(after, (None, 0, 0, 0, 0))(params, *data).mean()

    def step(params: Any, moments: Any, count: Any, *data: Any) -> Any:
        gradient = grad(objective)(params, *data)
        first = {n: 0.9 * moments[0][n] + 0.1 * g for n, g in gradient.items()}
        second = {n: 0.999 * moments[1][n] + 0.001 * g * g for n, g in gradient.items()}
        new = {
            n: p - outer_rate * (first[n] / (1 - 0.9**count)) / ((second[n] / (1 - 0.999**count)).sqrt() + 1e-8)
            for n, p in params.items()
        }
        return new, (first, second)

    return step


def torch_networks() -> dict[str, tuple[Callable[..., Any], Callable[[], Any], Callable[[int], Any]]]:
    """Return, by workload, the loss, a function that makes parameters, and one that makes data of a number of tasks."""
    import torch  # pyright: ignore[reportMissingImports]
    import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

    def convolutional_loss(params: dict[str, Any], x: Any, y: Any) -> Any:
        for i in range(4):
            x = F.conv2d(x, params[f"w{i}"], params[f"b{i}"], stride=2, padding=1)
            x = F.batch_norm(x, None, None, params[f"s{i}"], params[f"o{i}"], training=True)
            x = F.relu(x)
        return F.cross_entropy(x.mean((2, 3)) @ params["w"] + params["b"], y)

    def convolutional_params() -> Any:
        params = {"w": torch.randn(64, WAYS) * 0.1, "b": torch.zeros(WAYS)}
        for i in range(4):
            inputs = 1 if i == 0 else 64
            params |= {f"w{i}": torch.randn(64, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5, f"b{i}": torch.zeros(64)}
            params |= {f"s{i}": torch.ones(64), f"o{i}": torch.zeros(64)}
        return params

    def convolutional_data(tasks: int) -> Any:
        x, y = torch.rand(2, tasks, WAYS, 1, 28, 28), torch.arange(WAYS).repeat(tasks, 1)
        return x[0], y, x[1], y

    def wave_loss(params: dict[str, Any], x: Any, y: Any) -> Any:
        x = F.relu(x @ params["w0"] + params["b0"])
        x = F.relu(x @ params["w1"] + params["b1"])
        return ((x @ params["w2"] + params["b2"] - y) ** 2).mean()

    def wave_params() -> Any:
        sizes = (1, 40, 40, 1)
        params = {f"w{i}": torch.randn(a, b) * a**-0.5 for i, (a, b) in enumerate(itertools.pairwise(sizes))}
        return params | {f"b{i}": torch.zeros(b) for i, b in enumerate(sizes[1:])}

    def wave_data(tasks: int) -> Any:
        x = torch.rand(2, tasks, 10, 1) * 10 - 5
        amplitude, phase = torch.rand(tasks, 1, 1) * 4.9 + 0.1, torch.rand(tasks, 1, 1) * 3.14159
        y = amplitude * torch.sin(x - phase)
        return x[0], y[0], x[1], y[1]

    return {
        "images": (convolutional_loss, convolutional_params, convolutional_data),
        "waves": (wave_loss, wave_params, wave_data),
    }


def torch_seconds(workload: str, tasks: int, inner_steps: int, repeats: int, updates: int) -> dict[str, float]:
    """Measure the seconds of one meta-update, without and with ``torch.compile``."""
    import torch  # pyright: ignore[reportMissingImports]

    loss, make_params, make_data = torch_networks()[workload]
    step = torch_step(loss, 0.4 if workload == "images" else 0.01, inner_steps, 1e-3)
    params, data = make_params(), make_data(tasks)
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    found = {}
    for name, function in (("vmap", step), ("compiled", torch.compile(step))):

        def many(function: Callable[..., Any] = function) -> None:
            now, moments = params, (zeros, zeros)
            with torch.no_grad():
                for count in range(updates):
                    # The count is a tensor, so that the function is not compiled again for each update.
                    now, moments = function(now, moments, torch.tensor(float(count + 1)), *data)

        try:
            found[name] = median_seconds(many, repeats) / updates
        except Exception as error:
            # torch.compile may not support a workload. Then only the way that runs is compared.
            print(f"  torch {name}: {type(error).__name__}, left out", flush=True)
    return found


# --------------------------------------------------------------------------------------------------------- report


def compare(name: str, algorithm: Algorithm, updates: int, repeats: int, torch_arguments: tuple[str, int, int]) -> None:
    workload, tasks, inner_steps = torch_arguments
    results = {devices: ours(algorithm, updates, repeats, devices) for devices in ways_to_run()}
    best = min(results.values(), key=lambda result: result["seconds"])
    row: dict[str, Any] = {
        "updates_per_s": 1 / best["seconds"],
        "tasks_per_s": tasks / best["seconds"],
        "compile_s": best["compile_s"],
        "updates_per_s_by_devices": {str(devices): 1 / result["seconds"] for devices, result in results.items()},
    }
    line = f"{name}: {1 / best['seconds']:.1f} meta-updates/s ({tasks / best['seconds']:.0f} tasks/s), by devices "
    line += ", ".join(f"{devices}: {1 / result['seconds']:.1f}" for devices, result in results.items())
    if importlib.util.find_spec("torch") is not None:
        import torch  # pyright: ignore[reportMissingImports]

        peers = torch_seconds(workload, tasks, inner_steps, repeats, max(1, updates // 4))
        row |= {f"torch_{kind}_updates_per_s": 1 / seconds for kind, seconds in peers.items()}
        row |= {"ratio": min(peers.values()) / best["seconds"], "torch": torch.__version__}
        line += f"; PyTorch {1 / min(peers.values()):.1f} updates/s; ratio {row['ratio']:.2f}"
    print(f"{line}; compiled in {best['compile_s']:.1f} s", flush=True)
    write_row("gradient_speed", {"experiment": name, "metric": "training_speed", **row, **provenance()})


def rollouts(method: str, repeats: int) -> None:
    results = {devices: ours(navigation(method), 3, repeats, devices) for devices in ways_to_run()}
    rates = {str(devices): 20 * 20 * 100 * 2 / result["seconds"] for devices, result in results.items()}
    rate, ratio = max(rates.values()), max(rates.values()) / LEARN2LEARN[method]
    each = ", ".join(f"{devices}: {rate:,.0f}" for devices, rate in rates.items())
    print(f"{method}: environment steps/s by devices {each}; {ratio:.0f} times learn2learn's", flush=True)
    row = {"env_steps_per_s": rate, "learn2learn_env_steps_per_s": LEARN2LEARN[method], "ratio": ratio}
    row |= {"env_steps_per_s_by_devices": rates, "compile_s": min(r["compile_s"] for r in results.values())}
    write_row("gradient_speed", {"experiment": method, "metric": "training_speed", **row, **provenance()})


def scaling(make: Callable[[int], Algorithm], name: str, sizes: Sequence[int], iterations: int, repeats: int) -> None:
    devices = jax.device_count()
    rates = {tasks: tasks / ours(make(tasks), iterations, repeats, devices)["seconds"] for tasks in sizes}
    for tasks, rate in rates.items():
        print(f"{name}, {tasks} tasks: {rate:,.0f} tasks/s", flush=True)
    row = {"tasks_per_s": {str(tasks): rate for tasks, rate in rates.items()}}
    row |= {"largest_over_smallest": rates[sizes[-1]] / rates[sizes[0]]}
    write_row("gradient_speed", {"experiment": name, "metric": "meta_batch", **row, **provenance()})


def memory(steps: Sequence[int]) -> None:
    found = {}
    for count in steps:
        algorithm = omniglot_sized(4, count, rematerialise=True)
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        analysis = jax.jit(algorithm.step).lower(jax.random.key(0), state).compile().memory_analysis()
        if analysis is None:
            print("memory: not told by this device")
            return
        found[str(count)] = analysis.temp_size_in_bytes
        print(f"{count} inner steps: {found[str(count)] / 2**20:.0f} MiB", flush=True)
    write_row("gradient_speed", {"experiment": "images", "metric": "memory", "bytes": found, **provenance()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="+", default=["images", "waves", "rollouts", "scaling", "memory"], help="what to measure"
    )
    arguments = parser.parse_args()
    # Each core of a CPU is a device. A program uses more than one core only if it is distributed over devices.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    repeats = arguments.repeats
    if "images" in arguments.parts:
        for steps in (1, 5):
            compare(f"images, {steps} inner steps", omniglot_sized(32, steps), 2, repeats, ("images", 32, steps))
    if "waves" in arguments.parts:
        compare("waves, 1 inner step", waves(25), 400, repeats, ("waves", 25, 1))
    if "rollouts" in arguments.parts:
        for method in LEARN2LEARN:
            rollouts(method, repeats)
    if "scaling" in arguments.parts:
        scaling(waves, "waves", (8, 32, 128, 512), 200, repeats)
        scaling(lambda tasks: omniglot_sized(tasks, 1), "images", (8, 32, 128, 512), 1, repeats)
    if "memory" in arguments.parts:
        memory((1, 4, 16, 64))


if __name__ == "__main__":
    main()
