"""Speed of training for all kinds of learners, and the use of the machine. One process measures everything of a row.

    python benchmarks/speed.py                                    # every experiment below, one at a time
    python benchmarks/speed.py --experiments rl2-bandit-10x5 maml-navigation
    python benchmarks/speed.py --readme                           # put the table into README.md of this folder

For each experiment, with the settings of its preset, the benchmark measures:

- steps per second of the environment alone with random actions,
- held-out tasks per second that a learner adapts to,
- steps per second of training,
- the rate of training's matrix products, compared with a large square float32 product on the same cores,
- training with other numbers of tasks in one batch,
- seconds of compilation,
- seconds until the end of the first iteration of the command line in a new process, with an empty and with a filled
  cache of compiled programs.

Times are medians over repeats of warm programs with ``block_until_ready``.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from recurrent_speed import product_seconds
from results_file import PAGE, provenance, read_rows, table, with_block, write_row

from metarl_jax import evaluation, experiments, rollout
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.types import Array, Discrete, EnvFamily, Inputs

NAME = "speed"
# One or more experiments of each kind, and the setting that is the number of tasks of an iteration.
EXPERIMENTS = {
    "rl2-bandit-10x5": "trials",
    "rl2-tabular-mdp-10": "trials",
    "rl2-snail-bandit-100x5": "trials",
    "rl2-maze-tiny": "trials",
    "rl2-xland-made-up": "trials",
    "rl2-half-cheetah-direction": "trials",
    "snail-glyphs-5x1": "tasks",
    "maml-sinusoid": "tasks",
    "maml-glyphs-5x1": "tasks",
    "maml-navigation": "tasks",
    "promp-navigation": "tasks",
    "varibad-gridnavi": "trials",
    "pearl-navigation": "tasks",
}
TASKS = (1, 8, 64, 512)
REPEATS = 6
"""The true median lies between the lowest and the highest of six with a probability of 97 %."""
HEADER = (
    "experiment",
    "training, a second",
    "environment alone, steps a second",
    "held-out tasks adapted to, a second",
    "training, by tasks",
    "products, GFLOP/s (of the peak)",
    "compiling, s",
    "to the first iteration, s; again",
)


def _inner(equation: Any) -> Iterator[core.Jaxpr]:
    """Yield the programs that an equation calls."""
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def product_flops(program: core.Jaxpr) -> float:
    """Count the floating-point operations of a program's matrix products and convolutions.

    A loop of unknown length counts once, so the number is then a lower bound. Of the branches of a condition, the one
    with the most operations counts, so the number is then an upper bound.
    """
    total = 0.0
    for equation in program.eqns:
        name, inner = equation.primitive.name, [product_flops(jaxpr) for jaxpr in _inner(equation)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            total += 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) / features
        elif name == "scan":
            total += equation.params["length"] * sum(inner)
        elif name == "cond":
            total += max(inner)
        else:
            total += sum(inner)
    return total


def seconds_of(function: Callable[[], Any]) -> list[float]:
    """Measure the wall-clock seconds of each repeat of a warm program, sorted."""
    jax.block_until_ready(function())
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begin)
    return sorted(times)


def rates(amount: float, seconds: Sequence[float]) -> dict[str, Any]:
    """Return the median rate with its interval."""
    ours = amount / statistics.median(seconds)
    interval = [amount / seconds[-1], amount / seconds[0]]
    return {"ours": ours, "ci95": interval, "by_seed": [ours], "seeds": 1, "train_wall_s": sum(seconds)}


def built(experiment: Experiment, tasks: str, number: int | None) -> Problem:
    """Build the experiment, with another number of tasks in one batch unless ``number`` is None."""
    if number is None:
        return experiment.build(experiment.with_overrides({}))
    at_once = {"minibatches": 1, "accumulation": max(1, number // 128), "training_tasks": max(number, 2)}
    changes = {name: value for name, value in at_once.items() if name in experiment.fields()}
    return experiment.build(experiment.with_overrides({**changes, tasks: number}))


def training(problem: Problem) -> tuple[float, list[float], float]:
    """Return the seconds of compilation, the seconds of iterations, and the operations of an iteration's products."""
    state = jax.jit(problem.algorithm.init)(jax.random.key(0))
    traced = jax.jit(problem.algorithm.step).trace(jax.random.key(1), state)
    begin = time.perf_counter()
    step = traced.lower().compile()
    compiling = time.perf_counter() - begin
    # Each repeat begins with the state that the previous one returned, as in training.
    holder = [state]

    def once() -> Any:
        holder[0] = step(jax.random.key(1), holder[0])[0]
        return holder[0]

    return compiling, seconds_of(once), product_flops(traced.jaxpr.jaxpr)


def environment_seconds(family: EnvFamily, number: int) -> list[float]:
    """Measure the seconds of trials of two episodes in ``number`` vectorised environments with random actions."""
    space = family.action_space

    def act(key: Array, seen: Array, inputs: Inputs) -> tuple[Array, Array, None]:
        # Observations are added up, because the compiler removes computations whose results are not used.
        seen = seen + jnp.sum(inputs.obs, dtype=jnp.float32)
        if isinstance(space, Discrete):
            return seen, jax.random.randint(key, (), 0, space.n), None
        return seen, jax.random.uniform(key, space.shape, jnp.float32, space.low, space.high), None

    @jax.jit
    def play(key: Array) -> tuple[Array, Array]:
        def one(key: Array) -> tuple[Array, Array]:
            key_task, key_play = jax.random.split(key)
            task = family.tasks.sample(key_task)
            seen, played = rollout.trial(key_play, act, jnp.float32(0), family, task, 2)
            return seen, played.reward.sum()

        return jax.vmap(one)(jax.random.split(key, number))

    return seconds_of(lambda: play(jax.random.key(0)))


def adapting_seconds(problem: Problem, number: int) -> list[float]:
    """Measure the seconds of adapting to ``number`` held-out tasks."""
    states = jax.tree.map(lambda x: x[None], problem.algorithm.init(jax.random.key(0)))

    @jax.jit
    def test(key: Array, states: Any) -> Array:
        return evaluation.meta_test(key, problem.algorithm.adapt, states, problem.tasks, num_tasks=number).score

    return seconds_of(lambda: test(jax.random.key(0), states))


def start_up(name: str) -> list[float]:
    """Measure the seconds until a new process ends its first iteration, with an empty and with a filled cache."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "METARL_JAX_CACHE_DIR": str(Path(folder) / "cache"), "PYTHONUNBUFFERED": "1"}
        for at in range(2):
            command = [sys.executable, "-m", "metarl_jax", "train", name, "--no-progress", "--iterations", "1"]
            command += ["--run-dir", str(Path(folder) / f"run{at}")]
            begin = time.perf_counter()
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                assert process.stdout is not None
                told = ""
                for line in process.stdout:
                    told += line
                    if line.startswith("iteration 1/"):
                        found.append(time.perf_counter() - begin)
                        process.terminate()
                        break
                else:
                    raise SystemExit(f"{name} does not train:\n{told}")
    return found


def measured(name: str, peak: float) -> list[dict[str, Any]]:
    """Return the rows of training, of adaptation, and of the environment alone."""
    experiment, tasks = experiments.get(name), EXPERIMENTS[name]
    problem = built(experiment, tasks, None)
    number = int(experiment.fields()[tasks].default)
    compiling, seconds, flops = training(problem)
    scaling = {}
    for others in TASKS:
        # Many tasks with long trials would take minutes and gigabytes, without further information.
        if others <= 4 * number:
            changed = built(experiment, tasks, others)
            scaling[str(others)] = rates(changed.steps_per_iteration, training(changed)[1])["ours"]
    cold, again = start_up(name)
    rate = flops / statistics.median(seconds)
    rows: list[dict[str, Any]] = [
        {
            "metric": "training",
            "unit": experiment.unit,
            "tasks": number,
            **rates(problem.steps_per_iteration, seconds),
            "by_tasks": scaling,
            "products_flop_per_s": rate,
            "peak_flop_per_s": peak,
            "share_of_peak": rate / peak,
            "compile_s": compiling,
            "first_iteration_s": cold,
            "first_iteration_again_s": again,
        }
    ]
    heldout = min(64, experiment.heldout_tasks)
    found = adapting_seconds(problem, heldout)
    rows.append({"metric": "adapting", "unit": "tasks", "tasks": heldout, **rates(heldout, found)})
    if isinstance(family := problem.family, EnvFamily):
        found = environment_seconds(family, number)
        steps = number * 2 * family.horizon
        rows.append({"metric": "environment", "unit": "environment steps", "tasks": number, **rates(steps, found)})
    device = jax.default_backend()
    return [{"experiment": name, **row, "metric": f"{row['metric']} on {device}", **provenance()} for row in rows]


def shown() -> str:
    """Return the table of results on a CPU in Markdown."""
    found = {(row["experiment"], row["metric"]): row for row in read_rows(NAME)}

    def cells(name: str) -> tuple[str, ...]:
        row, alone = found[name, "training on cpu"], found.get((name, "environment on cpu"))
        return (
            name,
            f"{row['ours']:,.0f} {row['unit']}",
            f"{alone['ours']:,.0f}" if alone else "",
            f"{found[name, 'adapting on cpu']['ours']:,.0f}",
            ", ".join(f"{tasks}: {rate:,.0f}" for tasks, rate in row["by_tasks"].items()),
            f"{row['products_flop_per_s'] / 1e9:.1f} ({row['share_of_peak']:.0%})",
            f"{row['compile_s']:.1f}",
            f"{row['first_iteration_s']:.1f}, {row['first_iteration_again_s']:.1f}",
        )

    return table(HEADER, [cells(name) for name in EXPERIMENTS if (name, "training on cpu") in found])


def main() -> None:
    global REPEATS, TASKS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--readme", action="store_true", help="measure nothing; put the table into the page")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS, help="numbers of tasks of an iteration")
    arguments = parser.parse_args()
    REPEATS, TASKS = arguments.repeats, arguments.tasks
    if arguments.readme:
        PAGE.write_text(with_block(PAGE.read_text(), "speed.py", shown()))
        return
    peak = 2 * 2048**3 / product_seconds(2048, 2048, 2048, REPEATS, calls=3)
    print(f"float32 product 2048x2048x2048: {peak / 1e9:.1f} GFLOP/s", flush=True)
    for name in arguments.experiments:
        rows = measured(name, peak)
        for row in rows:
            write_row(NAME, row)
        print(f"{name}: {rows[0]['ours']:,.0f} {rows[0]['unit']}/s", flush=True)
    print(shown())


if __name__ == "__main__":
    main()
