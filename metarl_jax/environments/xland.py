"""XLand-MiniGrid (Nikulin et al. 2023, arXiv 2312.12044), where a task is a ruleset that is drawn from a benchmark.

    from metarl_jax.environments import xland

    family = xland.make(xland.made_up(), "XLand-MiniGrid-R1-9x9")  # or of xland.load("trivial-21k")

Every episode of a trial begins on a new grid, with the same goal, rules and objects. This module needs the extra
``metarl-jax[xland]``; functions import xminigrid when they need it.
"""

from __future__ import annotations

import bz2
import importlib
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import did_you_mean, install_command, positive_int, real
from metarl_jax.environments.base import Environment
from metarl_jax.precision import without_64_bits
from metarl_jax.settings import PositiveInt
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, TaskDistribution


@struct.dataclass
class XLandParams:
    """A task: a ruleset."""

    ruleset: Any
    """An ``xminigrid.types.RuleSet``, which encodes the goal, the rules and the objects."""
    max_steps_in_episode: int
    """The largest number of steps of an episode."""


@struct.dataclass
class XLandState:
    """The state of an episode."""

    grid: Array
    """The tile and the colour of each cell, ``[height, width, 2]`` uint8."""
    agent: Any
    """An ``xminigrid.types.AgentState``: the agent's position, direction, and the object that it holds."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class XLand(Environment):
    """An XLand-MiniGrid environment.

    The observation is one-hot: the tile and the colour of every cell in view, then the direction of the agent. Reaching
    the goal after t of at most T steps has a reward of 1 - 0.9 t / T and ends the episode.

    Args:
        env: an ``XLand-MiniGrid`` environment.
        defaults: the environment's parameters, with ``max_steps``.
    """

    def __init__(self, env: Any, defaults: Any) -> None:
        from xminigrid.core.constants import DIRECTIONS, NUM_COLORS, NUM_TILES

        self.env = env
        # Without ``jit``, a call from Python would compile hundreds of small programs. With 64-bit types, xminigrid's
        # step fails.
        self._first, self._next = without_64_bits(jax.jit(env.reset)), without_64_bits(jax.jit(env.step))
        self.defaults = defaults
        self.classes = (NUM_TILES, NUM_COLORS)
        self.directions = len(DIRECTIONS)

    def _see(self, timestep: Any) -> Array:
        cells = [
            jax.nn.one_hot(timestep.observation[..., layer], classes, dtype=jnp.uint8).reshape(-1)
            for layer, classes in enumerate(self.classes)
        ]
        looks = jax.nn.one_hot(timestep.state.agent.direction, self.directions, dtype=jnp.uint8)
        return jnp.concatenate([*cells, looks])

    def reset_env(self, key: Key, params: XLandParams) -> tuple[Array, XLandState]:
        first = self._first(self.defaults.replace(ruleset=params.ruleset), key)
        return self._see(first), XLandState(first.state.grid, first.state.agent, jnp.int32(0))

    def step_env(
        self, key: Key, state: XLandState, action: Array, params: XLandParams
    ) -> tuple[Array, XLandState, Array, Array, dict[Any, Any]]:
        from xminigrid.types import EnvCarry, State, StepType, TimeStep

        # xminigrid's state holds a copy of the ruleset, which here is the task's. Its key is not used after a reset.
        before = State(
            key=key,
            step_num=state.time,
            grid=state.grid,
            agent=state.agent,
            goal_encoding=params.ruleset.goal,
            rule_encoding=params.ruleset.rules,
            carry=EnvCarry(),
        )
        timestep = TimeStep(before, StepType.MID, jnp.float32(0), jnp.float32(1), jnp.float32(0))  # pyright: ignore
        after = self._next(self.defaults.replace(ruleset=params.ruleset), timestep, action)
        new = XLandState(after.state.grid, after.state.agent, state.time + 1)
        return self._see(after), new, after.reward.astype(jnp.float32), after.discount == 0, {}

    def action_space(self, params: XLandParams | None = None) -> Discrete:
        del params
        return Discrete(self.env.num_actions(self.defaults))

    def observation_space(self, params: XLandParams | None = None) -> Box:
        del params
        return Box(0.0, 1.0, (self.defaults.view_size**2 * sum(self.classes) + self.directions,))


def make(
    rulesets: Any,
    environment: str = "XLand-MiniGrid-R1-9x9",
    *,
    heldout: Any = None,
    heldout_share: float = 0.2,
    horizon: int | None = None,
) -> EnvFamily:
    """Make a family whose tasks are the rulesets of a benchmark.

    Validation tasks have the rulesets of training tasks. Every reset draws the places of objects anew.

    Args:
        rulesets: An ``xminigrid`` ``Benchmark``, or a ``RuleSet`` whose arrays have a leading axis ``[N, ...]``.
        environment: The name of an environment of ``xminigrid.make`` that has rulesets.
        heldout: The rulesets of held-out tasks, of the same types as ``rulesets``; if None, a share of ``rulesets`` is
            held out.
        heldout_share: The share of the rulesets that is held out if ``heldout`` is None. A fixed seed decides which
            ones.
        horizon: The largest number of steps of an episode; None for xminigrid's number, three per cell of the grid.

    Raises:
        ModuleNotFoundError: if xminigrid is not installed.
        ValueError: if the name is unknown (the message suggests similar names) or that of an environment without
            rulesets, ``horizon`` is not a positive whole number, or the share leaves no ruleset for training or none
            for held-out tasks.
        TypeError: if ``rulesets`` or ``heldout`` are of another type.
    """
    _require()
    from xminigrid import registration

    names = [name for name in registration.registered_environments() if name.startswith("XLand-MiniGrid")]
    if environment not in names:
        raise ValueError(
            f"there is no environment with rulesets named {environment!r}{did_you_mean(environment, names)}"
        )
    env, defaults = registration.make(environment)
    if horizon is not None:
        defaults = defaults.replace(max_steps=positive_int("horizon", horizon))
    steps: int = defaults.max_steps  # pyright: ignore[reportAssignmentType]

    if heldout is None:
        everything = _stacked("rulesets", rulesets)
        number = everything.goal.shape[0]
        kept = number - round(real(above=0, below=1)("heldout_share", heldout_share) * number)
        if not 0 < kept < number:
            raise ValueError(
                f"heldout_share ({heldout_share}) must leave at least one of the {number} rulesets for training and "
                f"one for held-out tasks, but it leaves {kept} for training"
            )
        order = np.random.default_rng(0).permutation(number)
        split = [jax.tree.map(lambda x, i=indices: x[i], everything) for indices in (order[:kept], order[kept:])]
    else:
        split = [_stacked("rulesets", rulesets), _stacked("heldout", heldout)]

    def among(some: Any) -> Callable[[Key], XLandParams]:
        def sample(key: Key) -> XLandParams:
            which = jax.random.randint(key, (), 0, some.goal.shape[0], jnp.int32)
            return XLandParams(jax.tree.map(lambda x: x[which], some), steps)

        return sample

    ours = XLand(env, defaults)
    return EnvFamily(
        env=ours,
        tasks=TaskDistribution(*map(among, split)),
        horizon=steps,
        observation_space=ours.observation_space(),
        action_space=ours.action_space(),
    )


def made_up() -> Any:
    """Make a synthetic benchmark that needs no download.

    The agent must find out which of three objects is the goal's object, and whether to pick it up or to stand next to
    it. There is one ruleset for each combination of a kind of goal, an object, and two other objects out of 18 objects
    (six shapes in three colours). There are no rules, as in xminigrid's "trivial-21k", which has more kinds of goals.

    Returns:
        A ``RuleSet`` of arrays ``[4896, ...]``.

    Raises:
        ModuleNotFoundError: if xminigrid is not installed.
    """
    _require()
    from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles
    from xminigrid.core.goals import AgentHoldGoal, AgentNearGoal
    from xminigrid.core.rules import EmptyRule
    from xminigrid.types import RuleSet

    shapes = (Tiles.BALL, Tiles.SQUARE, Tiles.PYRAMID, Tiles.KEY, Tiles.HEX, Tiles.STAR)
    objects = np.asarray(TILES_REGISTRY)[np.ix_(shapes, (Colors.RED, Colors.GREEN, Colors.BLUE))].reshape(-1, 2)
    # The goal's object comes first. The order of the others has no effect, because every grid draws random places.
    chosen = [
        (one, *others)
        for one in range(len(objects))
        for others in itertools.combinations([other for other in range(len(objects)) if other != one], 2)
    ]
    tiles = objects[np.asarray(chosen)]
    kinds = AgentHoldGoal, AgentNearGoal
    goals = [jax.vmap(lambda tile, kind=kind: kind(tile).encode())(tiles[:, 0]) for kind in kinds]
    none = jnp.broadcast_to(EmptyRule().encode(), (len(kinds) * len(tiles), 1, *EmptyRule().encode().shape))
    return RuleSet(goal=jnp.concatenate(goals), rules=none, init_tiles=jnp.concatenate([tiles, tiles]))


_FIELDS = ("goals", "rules", "init_tiles", "num_rules")
# The functions and classes that pickles of NumPy arrays (old and new versions) and of JAX arrays name.
_ARRAYS = {
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("_codecs", "encode"),
    ("jax._src.array", "_reconstruct_array"),
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that reads arrays and refuses everything else, because a pickle can execute any code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it holds {module_name}.{global_name}, where only arrays are allowed")
        return super().find_class(module_name, global_name)


def load(name: str) -> Any:
    """Load a benchmark that xminigrid has downloaded.

    xminigrid stores benchmarks in ``~/.xland_minigrid``, or in the folder that the environment variable
    XLAND_MINIGRID_DATA names. The files are pickles, but no code of them is executed: everything except arrays and
    containers of arrays is refused.

    Args:
        name: xminigrid's name of the benchmark, such as "trivial-21k".

    Returns:
        An ``xminigrid`` ``Benchmark``.

    Raises:
        ModuleNotFoundError: if xminigrid is not installed.
        ValueError: if the name is unknown (the message suggests similar names), there is no such file (the message says
            how to get it), or the file cannot be read. The message is one line.
    """
    _require()
    from xminigrid import benchmarks

    known = benchmarks.NAME2HFFILENAME
    if name not in known:
        raise ValueError(f"there is no benchmark named {name!r}{did_you_mean(name, known)}")
    path = Path(benchmarks.DATA_PATH) / known[name]
    if not path.is_file():
        raise ValueError(
            f"the benchmark {name!r} is not at {path}: copy it there, or fetch it with "
            f'python -c "import xminigrid; xminigrid.load_benchmark({name!r})"'
        )
    try:
        with bz2.open(path, "rb") as file:
            content = _ArraysOnly(file).load()
        return benchmarks.Benchmark(**{field: jnp.asarray(content[field]) for field in _FIELDS})
    except Exception as error:
        # A damaged pickle can raise any exception.
        what = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a benchmark: {what}") from error


def made_up_family(horizon: PositiveInt = 64) -> EnvFamily:
    """Make a family of synthetic rulesets (``made_up``) on the grid of 9x9.

    Args:
        horizon: The largest number of steps of an episode.
    """
    return make(made_up(), horizon=horizon)


def trivial_21k(horizon: PositiveInt = 64) -> EnvFamily:
    """Make a family of the rulesets of trivial-21k, which xminigrid downloads, on the grid of 9x9.

    Args:
        horizon: The largest number of steps of an episode.

    Raises:
        ValueError: if the benchmark cannot be read.
    """
    return make(load("trivial-21k"), horizon=horizon)


def _require() -> None:
    """Raise ModuleNotFoundError, which says what to install, if xminigrid is not installed."""
    try:
        importlib.import_module("xminigrid")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"XLand-MiniGrid is not installed: {install_command('xland')}") from error


def _stacked(name: str, rulesets: Any) -> Any:
    """Return the rulesets as a ``RuleSet`` of arrays ``[N, ...]``."""
    from xminigrid.benchmarks import Benchmark
    from xminigrid.types import RuleSet

    if isinstance(rulesets, Benchmark):
        rulesets = RuleSet(goal=rulesets.goals, rules=rulesets.rules, init_tiles=rulesets.init_tiles)
    if not isinstance(rulesets, RuleSet) or jnp.ndim(rulesets.goal) != 2:
        raise TypeError(
            f"{name} must be a Benchmark, or a RuleSet of arrays [N, ...], not {type(rulesets).__qualname__}"
        )
    return jax.tree.map(jnp.asarray, rulesets)
