"""Speed of training RL², as a fraction of the machine's rate of matrix products, measured in one run.

For each hidden size, the benchmark measures compile time, acting steps per second, training steps per second, and the
model FLOP/s of the update (matrix products only). The last is compared with (a) the rate of a large square float32
product, and (b) the rate of the update's own products at their own shapes, called sequentially. Times are medians over
repeats of warm programs with ``block_until_ready``.

    python benchmarks/recurrent_speed.py --hidden 32 64 128 256 --trials 2048
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from results_file import provenance, write_row

from metarl_jax.algorithms import rl2
from metarl_jax.environments import bandits
from metarl_jax.networks import recurrent

ARMS = 5
PULLS = 10
EPOCHS = 5
EMBEDDING = 64


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Call the function once to warm it up, and return the median wall time of further calls."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def product_seconds(rows: int, inner: int, columns: int, repeats: int, calls: int = 20) -> float:
    """Measure the seconds of one float32 product ``[rows, inner] @ [inner, columns]``. One program has ``calls``."""
    a = jax.random.normal(jax.random.key(0), (rows, inner)) * 0.01
    b = jax.random.normal(jax.random.key(1), (inner, columns)) * 0.01

    @jax.jit
    def many(a: jax.Array, b: jax.Array) -> jax.Array:
        def once(scale: jax.Array, _: None) -> tuple[jax.Array, None]:
            # One entry changes between calls, so that the compiler cannot move the product out of the loop.
            product = a.at[0, 0].set(scale) @ b
            return product[0, 0], None

        return jax.lax.scan(once, jnp.float32(0), None, length=calls)[0]

    return median_seconds(lambda: many(a, b), repeats) / calls


def recurrent_products(hidden: int, trials: int) -> list[tuple[int, int, int, int]]:
    """Return the large products of an update over one trial of ``PULLS`` steps, ``(rows, inner, columns, times)``.

    A GRU has three gates. Each step has a forward product [B,H]x[H,3H] and a backward product to the memory
    [B,3H]x[3H,H]. All other products are computed once for the whole trial: the backward product to those weights, and
    all products of the embedding of the inputs (of size A+2), of its projection to the gates, and of the heads.
    """
    steps = trials * PULLS

    def dense(inner: int, columns: int) -> list[tuple[int, int, int, int]]:
        """Return three products: forward, backward to the weights, and backward to the inputs."""
        return [(steps, inner, columns, 1), (inner, steps, columns, 1), (steps, columns, inner, 1)]

    return [
        (trials, hidden, 3 * hidden, PULLS),
        (trials, 3 * hidden, hidden, PULLS),
        (hidden, steps, 3 * hidden, 1),
        *dense(ARMS + 2, EMBEDDING)[:2],  # There is no gradient to the inputs.
        *dense(EMBEDDING, 3 * hidden),
        *dense(hidden, ARMS),
        *dense(hidden, 1),
    ]


def measure(hidden: int, trials: int, part: int, repeats: int) -> dict[str, float]:
    """Measure one hidden size. The gradient of all trials is computed in parts of ``part`` trials."""
    family = bandits.bernoulli(ARMS)
    policy = recurrent.make(family, recurrent.Settings(hidden_size=hidden, embedding_size=EMBEDDING))
    one_epoch = rl2.Config(episodes=PULLS, trials=trials, minibatches=1, accumulation=trials // part, epochs=1)
    seconds = {}
    compile_seconds = 0.0
    for epochs in (1, 1 + EPOCHS):
        algorithm = rl2.make(family, policy, dataclasses.replace(one_epoch, epochs=epochs))
        state = jax.jit(algorithm.init)(jax.random.key(0))
        begin = time.perf_counter()
        step = jax.jit(algorithm.step).lower(jax.random.key(1), state).compile()
        compile_seconds = time.perf_counter() - begin
        seconds[epochs] = median_seconds(lambda step=step, state=state: step(jax.random.key(1), state), repeats)
    act = jax.jit(
        lambda keys, state: jax.vmap(algorithm.adapt, (0, None, 0))(keys, state, jax.vmap(family.tasks.sample)(keys))
    )
    keys = jax.random.split(jax.random.key(2), trials)
    acting = median_seconds(lambda: act(keys, state).score, repeats)
    # The two programs differ only in the number of epochs. Their difference is the update without data collection.
    update = (seconds[1 + EPOCHS] - seconds[1]) / EPOCHS
    parts = trials // part
    products = [(*shape, parts * times) for *shape, times in recurrent_products(hidden, part)]
    flops = sum(2 * rows * inner * columns * times for rows, inner, columns, times in products)
    product_time = sum(
        product_seconds(rows, inner, columns, repeats) * times for rows, inner, columns, times in products
    )
    steps = trials * PULLS
    return {
        "compile_s": compile_seconds,
        "acting_steps_per_s": steps / acting,
        "training_steps_per_s": steps / seconds[1],
        "update_flop_per_s": flops / update,
        "products_flop_per_s": flops / product_time,
        "share_of_products": product_time / update,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--trials", type=int, default=2048)
    parser.add_argument("--part", type=int, default=128, help="number of trials whose gradient is computed at once")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.trials % arguments.part:
        parser.error(f"--trials ({arguments.trials}) must be a multiple of --part ({arguments.part})")
    peak = 2 * 2048**3 / product_seconds(2048, 2048, 2048, arguments.repeats, calls=3)
    print(f"float32 product 2048x2048x2048: {peak / 1e9:.1f} GFLOP/s")
    print("hidden  compile s  acting steps/s  training steps/s  update GFLOP/s  same products  share  of peak")
    for hidden in arguments.hidden:
        result = measure(hidden, arguments.trials, arguments.part, arguments.repeats)
        result |= {"peak_flop_per_s": peak, "share_of_peak": result["update_flop_per_s"] / peak}
        print(
            f"{hidden:6d} {result['compile_s']:10.2f} {result['acting_steps_per_s']:15,.0f}"
            f" {result['training_steps_per_s']:17,.0f} {result['update_flop_per_s'] / 1e9:15.1f}"
            f" {result['products_flop_per_s'] / 1e9:14.1f} {result['share_of_products']:6.2f}"
            f" {result['share_of_peak']:8.2f}",
            flush=True,
        )
        experiment = f"rl2-bandit-{PULLS}x{ARMS}-hidden-{hidden}-trials-{arguments.trials}"
        result["part"] = arguments.part
        write_row("recurrent_speed", {"experiment": experiment, "metric": "training_speed", **result, **provenance()})


if __name__ == "__main__":
    main()
