"""Throughput of training RL² on XLand-MiniGrid, compared with xminigrid's training script, in one run on one machine.

Both programs run 256 vectorised trials of 256 steps (four episodes of at most 64 steps, on R1-9x9). Both have a GRU of
128 units, heads of 64 units, one pass over the collected data, and the rulesets of ``xland.made_up()``. The script is
``training/train_meta_task.py`` of the repository xland-minigrid. ``--peer`` names the folder of that repository, which
is not part of the package. The script needs orbax-checkpoint, distrax, wandb and pyrallis. Python 3.11 also requires
default factories instead of arrays in the class ``RolloutStats`` of that folder. The script's evaluation is reduced to
one episode. Without ``--peer``, only this package is measured.

    taskset -c 0 python benchmarks/xland_speed.py --peer ../xland-minigrid --repeats 5

There are two networks. The "same network" is the script's network as a policy of this package, with its filters over
the view and its separate heads. The script has an embedding directly in front of a linear layer; here the two are one
layer, which represents the same functions of tiles, colours, direction and action. The "preset's network" is that of
``rl2-xland-made-up``, which encodes the view by one layer of 64 units.

The programs differ as follows. The script updates after every 32 steps of a trial, in 4 minibatches of 64 trials, and
truncates gradients there; it makes 32 updates in total. This package updates when trials are over, with gradients
through all 256 steps, in 4 minibatches of 64 trials, or in 32 minibatches of 8 trials. The latter are as many gradient
steps as the script's, each on the same number of environment steps. A trial of this package is over after four
episodes, which may be before 256 steps. The remaining steps are played, but not learned from.

Each repeat runs all programs sequentially. Times are medians of warm programs with ``block_until_ready``. On a machine
with other users, CPU time is the fairer measure, and is given in addition to wall-clock time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from results_file import provenance, write_row

from metarl_jax import training
from metarl_jax.algorithms import rl2
from metarl_jax.environments import xland
from metarl_jax.networks import recurrent
from metarl_jax.networks.heads import dense, remembering_policy
from metarl_jax.ops.distributions import Categorical
from metarl_jax.types import Algorithm, Array, Discrete, EnvFamily, Output, Policy, Spaces

ENVIRONMENT, HORIZON = "XLand-MiniGrid-R1-9x9", 64
TRIALS, EPISODES = 256, 4
STEPS = EPISODES * HORIZON
HIDDEN, HEAD = 128, 64
FILTERS = (16, 32, 64)
UPDATE_EVERY, PEER_MINIBATCHES = 32, 4
PARTS = {4: 8, 32: 1}
"""The number of parts of a gradient, by the number of minibatches. A part of 8 trials fits the cache of a core."""


class View(nn.Module):
    """The encoder of the script's network: three layers of filters of 2x2 cells over a one-hot view ``[..., O]``.

    The direction is appended to the features.
    """

    side: int
    classes: tuple[int, int]

    @nn.compact
    def __call__(self, seen: Array) -> Array:
        cells, ends = self.side**2, []
        for count in self.classes:
            ends.append(cells * count + sum(ends))
        *layers, looks = jnp.split(seen.reshape(-1, seen.shape[-1]), ends, axis=-1)
        x = jnp.concatenate([layer.reshape(len(layer), self.side, self.side, -1) for layer in layers], axis=-1)
        for filters in FILTERS:
            side = x.shape[1] - 1
            corners = [x[:, i : i + side, j : j + side] for i in (0, 1) for j in (0, 1)]
            x = nn.relu(dense(nn.Dense(filters), jnp.concatenate(corners, axis=-1).astype(jnp.float32)))
        features = jnp.concatenate([x.reshape(len(x), -1), looks.astype(jnp.float32)], axis=-1)
        return features.reshape(*seen.shape[:-1], -1)


class Heads(nn.Module):
    """The heads of the script's network: a hidden layer for the actor, and one for the critic."""

    actions: int

    @nn.compact
    def __call__(self, hidden: Array) -> Output:
        actor, critic = (nn.tanh(dense(nn.Dense(HEAD), hidden)) for _ in range(2))
        logits = dense(nn.Dense(self.actions, kernel_init=nn.initializers.orthogonal(0.01)), actor)
        return Output(Categorical(logits), dense(nn.Dense(1), critic)[..., 0])


class PeersNetwork(recurrent.RecurrentActorCritic):
    """The network of xminigrid's script: its encoder of observations, a GRU, and its heads."""

    view: tuple[int, tuple[int, int]] = (0, (0, 0))

    def _encoder(self) -> nn.Module:
        return View(*self.view)

    def _head(self) -> nn.Module:
        assert isinstance(self.action_space, Discrete)
        return Heads(self.action_space.n)


def same_network(family: EnvFamily) -> Policy:
    env, spaces = family.env, (family.observation_space, family.action_space)
    assert isinstance(env, xland.XLand)
    view = (env.defaults.view_size, env.classes)
    network = PeersNetwork(*spaces, "gru", HIDDEN, None, None, previous_observation=False, critic=True, view=view)
    return remembering_policy(network, lambda: recurrent.Memory(jnp.zeros(HIDDEN), jnp.zeros(0)), *spaces)


def presets_network(family: EnvFamily) -> Policy:
    spaces = family.observation_space, family.action_space
    return recurrent.make(Spaces(*spaces), recurrent.Settings(hidden_size=HIDDEN, embedding_size=64, readout_size=HEAD))


NETWORKS: dict[str, Callable[[EnvFamily], Policy]] = {
    "same network": same_network,
    "preset's network": presets_network,
}


class Program(NamedTuple):
    """A compiled program to be timed."""

    run: Callable[[], Any]
    """The program."""
    compile_cpu_s: float
    """The CPU time of its compilation, in seconds."""


def ours(family: EnvFamily, policy: Policy, minibatches: int) -> Algorithm:
    config = rl2.Config(
        episodes=EPISODES,
        trials=TRIALS,
        epochs=1,
        minibatches=minibatches,
        accumulation=PARTS.get(minibatches, 1),
        value_unit="reward",
    )
    return rl2.make(family, policy, config)


def training_of(algorithm: Algorithm) -> Program:
    """Return a program that runs one meta-iteration."""
    state = jax.jit(lambda key: training.start(algorithm, key))(jax.random.key(0))
    begin = time.process_time()
    program = jax.jit(lambda state: training.run(algorithm, state, 1, 1)).lower(state).compile()
    return Program(lambda: program(state), time.process_time() - begin)


def trials_of(algorithm: Algorithm, family: EnvFamily) -> Program:
    """Return a program that plays the trials of a meta-iteration without learning."""

    def play(state: Any) -> Array:
        keys = jax.random.split(jax.random.key(1), TRIALS)
        tasks = jax.vmap(family.tasks.sample)(keys)
        return jax.vmap(algorithm.adapt, (0, None, 0))(keys, state, tasks).score

    state = jax.jit(algorithm.init)(jax.random.key(0))
    begin = time.process_time()
    program = jax.jit(play).lower(state).compile()
    return Program(lambda: program(state), time.process_time() - begin)


def peers(folder: Path) -> Program:
    """Return a program that runs one meta-iteration of xminigrid's script."""
    sys.path.insert(0, str(folder / "training"))
    import train_meta_task as script  # pyright: ignore[reportMissingImports]
    import xminigrid
    from flax.jax_utils import replicate
    from xminigrid.benchmarks import Benchmark

    rulesets = xland.made_up()
    benchmark = Benchmark(rulesets.goal, rulesets.rules, rulesets.init_tiles, jnp.zeros(len(rulesets.goal), jnp.int32))
    xminigrid.load_benchmark = lambda name: benchmark  # pyright: ignore[reportPrivateImportUsage]
    config = script.TrainConfig(
        env_id=ENVIRONMENT,
        rnn_hidden_dim=HIDDEN,
        head_hidden_dim=HEAD,
        num_envs=TRIALS,
        num_steps_per_env=STEPS,
        num_steps_per_update=UPDATE_EVERY,
        num_minibatches=PEER_MINIBATCHES,
        update_epochs=1,
        total_timesteps=TRIALS * STEPS,
        eval_num_envs=1,
        eval_num_episodes=1,
    )
    key, env, env_params, benchmark, carry, state = script.make_states(config)
    devices = jax.local_devices()
    arguments = (jax.random.split(key, len(devices)), replicate(state, devices), replicate(carry, devices))
    begin = time.process_time()
    train = script.make_train(env, env_params.replace(max_steps=HORIZON), benchmark, config)
    program = train.lower(*arguments).compile()
    return Program(lambda: program(*arguments), time.process_time() - begin)


def measure(programs: dict[str, Program], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds of each program by wall-clock time, and by CPU time."""
    clocks = time.perf_counter, time.process_time
    times: dict[str, list[list[float]]] = {name: [[], []] for name in programs}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            begin = [clock() for clock in clocks]
            jax.block_until_ready(program.run())
            # The first repeat only warms the programs up.
            if repeat:
                for found, clock, before in zip(times[name], clocks, begin, strict=True):
                    found.append(clock() - before)
    wall, processor = ({name: statistics.median(found[i]) for name, found in times.items()} for i in (0, 1))
    return wall, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="a checkout of the repository xland-minigrid")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--minibatches", type=int, nargs="+", default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.peer is not None and not (arguments.peer / "training" / "train_meta_task.py").is_file():
        parser.error(f"--peer: there is no training/train_meta_task.py in {arguments.peer}")

    family = xland.make(xland.made_up(), ENVIRONMENT, horizon=HORIZON)
    programs: dict[str, Program] = {}
    for name in arguments.networks:
        algorithms = {count: ours(family, NETWORKS[name](family), count) for count in arguments.minibatches}
        programs |= {f"{name}, {count}": training_of(algorithm) for count, algorithm in algorithms.items()}
        programs[f"{name}, trials"] = trials_of(next(iter(algorithms.values())), family)
    if arguments.peer is not None:
        programs["peer"] = peers(arguments.peer)
    wall, processor = measure(programs, arguments.repeats)

    def rates(seconds: dict[str, float]) -> dict[str, float]:
        return {name: TRIALS * STEPS / found for name, found in seconds.items()}

    by_wall, by_processor = rates(wall), rates(processor)
    for name in programs:
        print(f"{name}: {by_wall[name]:,.0f} environment steps/s; {by_processor[name]:,.0f} by the processor's time")
    for name in arguments.networks:
        kinds = {str(minibatches): f"{name}, {minibatches}" for minibatches in arguments.minibatches}
        row: dict[str, Any] = {
            "experiment": name,
            "metric": "training_speed",
            "repeats": arguments.repeats,
            "env_steps_per_s_by_minibatches": {count: by_wall[kind] for count, kind in kinds.items()},
            "env_steps_per_cpu_s_by_minibatches": {count: by_processor[kind] for count, kind in kinds.items()},
            "share_of_time_in_trials": {count: wall[f"{name}, trials"] / wall[kind] for count, kind in kinds.items()},
            "compile_cpu_s": {count: programs[kind].compile_cpu_s for count, kind in kinds.items()},
        }
        if "peer" in programs:
            row |= {
                "peer_env_steps_per_s": by_wall["peer"],
                "peer_env_steps_per_cpu_s": by_processor["peer"],
                "peer_compile_cpu_s": programs["peer"].compile_cpu_s,
                "ratio_by_minibatches": {count: by_wall[kind] / by_wall["peer"] for count, kind in kinds.items()},
                "ratio_by_cpu_s": {count: by_processor[kind] / by_processor["peer"] for count, kind in kinds.items()},
                "peer": {package: importlib.metadata.version(package) for package in ("xminigrid", "distrax")},
            }
            print(f"{name}: ratio by minibatches {row['ratio_by_minibatches']}", flush=True)
        write_row("xland_speed", {**row, **provenance()})


if __name__ == "__main__":
    main()
