"""The cost of physics: control steps per second by engine and number of robots, and the difference between engines.

    python benchmarks/physics_speed.py                             # C MuJoCo, every robot
    python benchmarks/physics_speed.py --engines mjx --robots "half cheetah" --batches 64 256
    python benchmarks/physics_speed.py --fidelity                  # MJX compared with C; minutes to compile
    python benchmarks/physics_speed.py --robots reach ml10         # Meta-World's scenes, alone or many in one batch
    python benchmarks/physics_speed.py --robots reach --fidelity   # MJX without contacts compared with C with contacts

Speed is that of a compiled loop with random actions and resets of episodes. ``--bodies`` gives the number of different
bodies among the tasks. Rates are medians over repeats of warm programs. Fidelity is the largest difference of
observations over 50 control steps from the same state. The unit of each observation is one plus its largest absolute
value. In double precision, whole trajectories are compared. In single precision, single steps from the states of the C
engine are compared, because rounding alone makes trajectories diverge.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from results_file import provenance, write_row

from metarl_jax.environments import locomotion, manipulation, physics
from metarl_jax.environments.physics import CEngine, MJXEngine, MJXState, Robot
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key

NAME = "physics_speed"
ROBOTS = {
    robot.name: robot
    for robot in (
        locomotion.HALF_CHEETAH,
        locomotion.HOPPER,
        locomotion.WALKER,
        locomotion.ANT,
        locomotion.HUMANOID,
    )
}
ML10 = "ml10"
SCENES = [*manipulation.SKILLS, ML10]
EPISODES = 2


def family(name: str, engine: Any, bodies: int, horizon: int) -> EnvFamily:
    """Return a family of a robot that is rewarded for moving forwards, or a family of Meta-World's scenes.

    A robot has one body or several different ones. The name "ml10" gives all scenes of ML10, and the name of a skill
    gives one scene.
    """
    if name == ML10:
        return manipulation.ml10(horizon)
    if name in manipulation.SKILLS:
        return manipulation.ml1(name, horizon, engine=engine)  # pyright: ignore[reportArgumentType]
    robot = ROBOTS[name]
    random = np.random.default_rng(0)
    models = [locomotion.randomised(robot, random) for _ in range(bodies)] if bodies > 1 else None
    return locomotion.make(
        robot,
        horizon,
        engine,
        lambda readings, control, target: readings.velocity[0],
        lambda key: jnp.zeros(()),
        models=models,
    )


class Compiled(NamedTuple):
    """A compiled loop with its arguments."""

    run: Callable[[Array], Array]
    """The compiled function."""
    keys: Array
    """The random keys that the function is called with."""
    steps: int
    """The number of control steps of a call."""


def compiler(made: EnvFamily, robots: int) -> Callable[[], Compiled]:
    """Trace a loop of trials with random actions, and return a function that compiles it."""
    space = made.action_space

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.uniform(key, space.shape, minval=space.low, maxval=space.high), ()  # pyright: ignore

    @jax.jit
    @jax.vmap
    def play(key: Key) -> Array:
        key_task, key_trial = jax.random.split(key)
        return jnp.sum(trial(key_trial, act, (), made, made.tasks.sample(key_task), EPISODES)[1].reward)

    keys = jax.random.split(jax.random.key(0), robots)
    program = play.lower(keys)
    return lambda: Compiled(program.compile(), keys, robots * EPISODES * made.horizon)


def speed(compiled: Compiled, repeats: int) -> list[float]:
    """Measure control steps per second in each repeat."""
    jax.block_until_ready(compiled.run(compiled.keys))
    rates = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(compiled.run(compiled.keys))
        rates.append(compiled.steps / (time.perf_counter() - begin))
    return rates


def fidelity(robot: Robot, steps: int = 50) -> dict[str, Any]:
    """Measure the difference between MJX and C, for the original body and for one with other parameters."""
    usual, random = physics.load(robot), np.random.default_rng(2)
    models = [usual, locomotion.randomised(robot, np.random.default_rng(0))]
    low, high = usual.actuator_ctrlrange.T
    controls = random.uniform(low, high, (steps, usual.nu))
    qpos = usual.qpos0 + random.uniform(-robot.noise, robot.noise, usual.nq)
    qvel = random.uniform(-robot.noise, robot.noise, usual.nv)

    def trajectory(engine: Any, model: int) -> tuple[Array, Array]:
        """Return the observations, ``[steps, *]``, and the state before each of them."""

        @jax.jit
        def run(controls: Array, qpos: Array, qvel: Array) -> tuple[Array, Array]:
            def step(state: Any, control: Array) -> tuple[Any, tuple[Array, Any]]:
                after, readings = engine.step(jnp.int32(model), state, control)
                return after, (readings.observation, state)

            return jax.lax.scan(step, engine.reset(jnp.int32(model), qpos, qvel)[0], controls)[1]

        return run(*map(jnp.asarray, (controls, qpos, qvel)))

    def as_mjx(states: np.ndarray) -> MJXState:
        numbers = states.view(np.float64)
        parts = np.split(numbers, np.cumsum([1, usual.nq, usual.nv, usual.nv]), axis=1)
        none = np.zeros((len(numbers), 0, 3))
        return MJXState(*(jnp.asarray(part) for part in (*parts[1:4], numbers[:, -2:], none)))

    result: dict[str, Any] = {"trajectory": [], "one_step": []}
    for double in (True, False):
        # The setting must hold in all threads, because callbacks run in other threads.
        jax.config.update("jax_enable_x64", double)
        c, mjx = CEngine(robot, models), MJXEngine(robot, models)
        step = jax.jit(mjx.step)
        for model in range(2):
            expected, states = map(np.asarray, trajectory(c, model))
            scale = 1 + np.max(np.abs(expected), axis=0)
            if double:
                got = np.asarray(trajectory(mjx, model)[0])
            else:
                ours = [
                    step(jnp.int32(model), state, control)[1].observation
                    for state, control in zip(
                        map(MJXState._make, zip(*as_mjx(states), strict=True)), jnp.asarray(controls), strict=True
                    )
                ]
                got = np.stack(ours)
            result["trajectory" if double else "one_step"].append(float(np.max(np.abs(got - expected) / scale)))
    return result


def reaching(steps: int = 50) -> dict[str, Any]:
    """Measure the difference in metres between the arm in MJX, without contacts, and in C, at hand and fingertips."""

    def arm(engine: Any) -> np.ndarray:
        made = manipulation.ml1("reach", steps, engine=engine)
        env: Any = made.env

        @jax.jit
        def run(key: Key) -> Array:
            task = made.tasks.sample(key)
            actions = jax.random.uniform(key, (steps, 4), minval=-1, maxval=1)

            def step(state: Any, action: Array) -> tuple[Any, Array]:
                after, readings = env.engine.step(jnp.int32(0), state, action)
                return after, readings.observation

            return jax.lax.scan(step, env.reset(key, task)[1].physics, actions)[1]

        # Observations begin with the positions of hand, claws, pads and fingertips.
        return np.asarray(run(jax.random.key(0)))[:, :21].reshape(steps, 7, 3)[:, [0, 5, 6]]

    result: dict[str, Any] = {}
    for double in (True, False):
        # The setting must hold in all threads, because callbacks run in other threads.
        jax.config.update("jax_enable_x64", double)
        far = float(np.max(np.abs(arm("mjx") - arm("c"))))
        result["trajectory" if double else "single_precision"] = [far]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", nargs="+", choices=[*ROBOTS, *SCENES], default=list(ROBOTS))
    parser.add_argument("--engines", nargs="+", choices=["c", "mjx"], default=["c"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 256, 1024], help="numbers of robots")
    parser.add_argument("--bodies", nargs="+", type=int, default=[1, 64], help="numbers of different bodies")
    parser.add_argument("--horizon", type=int, default=50, help="control steps of an episode")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--fidelity", action="store_true", help="measure the difference between engines instead")
    arguments = parser.parse_args()
    for name in arguments.robots:
        if arguments.fidelity:
            far = reaching() if name in SCENES else fidelity(ROBOTS[name])
            row = {"experiment": name, "metric": "MJX against C", "engine": "mjx", **far}
            print(f"{name}: {far}", flush=True)
            write_row(NAME, {**row, **provenance()})
            continue
        ways = [
            (engine, bodies, robots)
            for engine in arguments.engines
            for bodies in ((1,) if name in SCENES else arguments.bodies)
            for robots in arguments.batches
        ]
        with ThreadPoolExecutor() as pool:
            # Tracing changes MJX temporarily, so programs are traced sequentially. They are compiled at the same time.
            programs = [
                pool.submit(compiler(family(name, engine, bodies, arguments.horizon), robots))
                for engine, bodies, robots in ways
            ]
            compiled = [program.result() for program in programs]
        print(f"{name}: compiled", flush=True)
        for (engine, bodies, robots), program in zip(ways, compiled, strict=True):
            rates = speed(program, arguments.repeats)
            row = {
                "experiment": name,
                "metric": f"control steps/s, {engine}, {bodies} bodies, {robots} robots",
                "engine": engine,
                "bodies": bodies,
                "robots": robots,
                "ours": statistics.median(rates),
                "range": [min(rates), max(rates)],
                **provenance(),
            }
            write_row(NAME, row)
            print(
                f"{name}: {row['metric']} {row['ours']:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
