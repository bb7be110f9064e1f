"""The cost of a memory: of acting, by the position in a trial, and of training, by the length of the trial.

The cost of acting is the time of a step at the first and at the last position of a long trial, for a batch of
vectorised trials. The two programs differ only in the memory that they start from. They are timed alternately, so that
other load on the machine affects both. The cost of training is the time per step (of one trial) of the gradient of an
unrolled trial's loss. A batch has the same number of steps for every length. Times are medians over repeats of warm
programs with ``block_until_ready``.

    python benchmarks/memory_speed.py
    python benchmarks/memory_speed.py --memories linear gru --lengths 128 1024 4096
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from results_file import provenance, write_row

from metarl_jax.networks import fast_weights, linear_recurrence, recurrent, snail, transformer
from metarl_jax.types import Box, Discrete, Inputs, Output, Policy, Spaces

OBSERVATIONS, ACTIONS = Box(-1.0, 1.0, (4,)), Discrete(5)
MEMORIES: dict[str, Callable[[int], Policy]] = {
    "gru": lambda window: recurrent.make(Spaces(OBSERVATIONS, ACTIONS), recurrent.Settings(cell="gru", hidden_size=64)),
    "lstm": lambda window: recurrent.make(
        Spaces(OBSERVATIONS, ACTIONS), recurrent.Settings(cell="lstm", hidden_size=64)
    ),
    "fast weights": lambda window: fast_weights.make(Spaces(OBSERVATIONS, ACTIONS)),
    "linear": lambda window: linear_recurrence.make(Spaces(OBSERVATIONS, ACTIONS)),
    "snail": lambda window: snail.make(Spaces(OBSERVATIONS, ACTIONS), snail.Settings(window=window)),
    "transformer": lambda window: transformer.make(Spaces(OBSERVATIONS, ACTIONS), transformer.Settings(window=window)),
}


def inputs(steps: int, trials: int) -> Inputs:
    """Return random inputs in the middle of vectorised trials, ``[steps, trials, ...]``."""
    keys = jax.random.split(jax.random.key(0), 3)
    return Inputs(
        jax.random.normal(keys[0], (steps, trials, 4)),
        jax.random.randint(keys[1], (steps, trials), 0, 5),
        jax.random.normal(keys[2], (steps, trials)),
        jnp.zeros((steps, trials)),
        jnp.zeros((steps, trials), bool),
    )


def medians(programs: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Return the median seconds of each program. Every repeat runs all programs sequentially."""
    for program in programs:
        jax.block_until_ready(program())
    times: list[list[float]] = [[] for _ in programs]
    for _ in range(repeats):
        for program, seconds in zip(programs, times, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(program())
            seconds.append(time.perf_counter() - begin)
    return [statistics.median(seconds) for seconds in times]


def acting(policy: Policy, positions: list[int], trials: int, repeats: int, calls: int = 50) -> list[float]:
    """Measure the seconds of one step of all trials at each position. One program makes ``calls`` steps."""
    params = jax.jit(policy.init)(jax.random.key(1))
    begin = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), policy.initial_carry(params))

    @partial(jax.jit, static_argnums=1)
    def reach(params: Any, position: int) -> Any:
        return policy.unroll(params, begin, inputs(position, trials))[0] if position else begin

    @jax.jit
    def act(params: Any, carry: Any, steps: Inputs) -> Any:
        return jax.lax.scan(lambda carry, x: jax.vmap(policy.step, (None, 0, 0))(params, carry, x), carry, steps)[0]

    steps = inputs(calls, trials)
    carries = [jax.block_until_ready(reach(params, position)) for position in positions]
    return [seconds / calls for seconds in medians([partial(act, params, carry, steps) for carry in carries], repeats)]


def training(policy: Policy, lengths: list[int], batch_steps: int, repeats: int) -> list[float]:
    """Measure the seconds per step of the gradient of trials of each length."""
    params = jax.jit(policy.init)(jax.random.key(1))

    def gradient(length: int) -> Callable[[], Any]:
        trials = max(1, batch_steps // length)
        begin = jax.tree.map(lambda x: jnp.broadcast_to(x, (trials, *x.shape)), policy.initial_carry(params))

        def loss(params: Any, steps: Inputs) -> jax.Array:
            output: Output = policy.unroll(params, begin, steps)[1]
            return jnp.mean(output.value**2) - jnp.mean(output.distribution.log_prob(steps.prev_action))

        return partial(jax.jit(jax.grad(loss)), params, inputs(length, trials))

    seconds = medians([gradient(length) for length in lengths], repeats)
    return [s / (length * max(1, batch_steps // length)) for s, length in zip(seconds, lengths, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", nargs="+", choices=list(MEMORIES), default=list(MEMORIES))
    parser.add_argument("--positions", nargs="+", type=int, default=[0, 4000], help="steps since the trial began")
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 1024, 4096])
    parser.add_argument("--window", type=int, default=128, help="window of memories with attention")
    parser.add_argument("--trials", type=int, default=64, help="number of vectorised trials for acting")
    parser.add_argument("--batch-steps", type=int, default=16384, help="steps of a training batch")
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    for name in arguments.memories:
        policy = MEMORIES[name](arguments.window)
        acts = acting(policy, arguments.positions, arguments.trials, arguments.repeats)
        trains = training(policy, arguments.lengths, arguments.batch_steps, arguments.repeats)
        row = {
            "experiment": name,
            "metric": "seconds a step",
            "window": arguments.window if name in ("snail", "transformer") else None,
            "acting_by_position": dict(zip(map(str, arguments.positions), acts, strict=True)),
            "acting_trials": arguments.trials,
            "acting_ratio": acts[-1] / acts[0],
            "training_by_length": dict(zip(map(str, arguments.lengths), trains, strict=True)),
            "training_ratio": trains[-1] / trains[0],
            **provenance(),
        }
        write_row("memory_speed", row)
        print(
            f"{name}: acting {', '.join(f'{1e6 * s:.0f}' for s in acts)} us at {arguments.positions} (ratio"
            f" {row['acting_ratio']:.2f}); training {', '.join(f'{1e6 * s:.2f}' for s in trains)} us a step at"
            f" {arguments.lengths} (ratio {row['training_ratio']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
