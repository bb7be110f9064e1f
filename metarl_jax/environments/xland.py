"""XLand-MiniGrid (Nikulin et al. 2023, arXiv 2312.12044): a ruleset, drawn from a benchmark, is the task.

    import xminigrid
    from metarl_jax.environments import xland

    benchmark = xminigrid.load_benchmark("trivial-21k")  # downloads it
    family = xland.make(benchmark, "XLand-MiniGrid-R1-9x9")

Every episode of a trial begins on a new grid, under the same goal, rules and objects. Needs the extra
``metarl-jax[xland]``; xminigrid is imported by ``make`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import did_you_mean, positive_int, real
from metarl_jax.environments.base import Environment
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, TaskDistribution


@struct.dataclass
class XLandParams:
    """A task."""

    ruleset: Any
    """An ``xminigrid.types.RuleSet``: its goal, rules and objects, encoded."""
    max_steps_in_episode: int


@struct.dataclass
class XLandState:
    grid: Array
    """``[height, width, 2]`` uint8: tile and colour."""
    agent: Any
    """An ``xminigrid.types.AgentState``: position, direction, and what it holds."""
    time: Array
    """Steps in this episode, ``int32``."""


class XLand(Environment):
    """Grids of one kind.

    What is seen is one-hot: tile and colour of every cell in view, then the direction that the agent looks in. Arriving
    at the goal after t of at most T steps pays 1 - 0.9 t / T and ends the episode.

    Args:
        env: an ``XLand-MiniGrid`` environment.
        defaults: its parameters, with ``max_steps``.
    """

    def __init__(self, env: Any, defaults: Any) -> None:
        from xminigrid.core.constants import DIRECTIONS, NUM_COLORS, NUM_TILES

        self.env = env
        # Outside of a program, hundreds of small ones would be compiled.
        self._first, self._next = jax.jit(env.reset), jax.jit(env.step)
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

        # The ruleset is the task's, which xminigrid copies into its state; its key is not used after a reset.
        before = State(
            key=key,
            step_num=state.time,
            grid=state.grid,
            agent=state.agent,
            goal_encoding=params.ruleset.goal,
            rule_encoding=params.ruleset.rules,
            carry=EnvCarry(),
        )
        timestep = TimeStep(before, StepType.MID, jnp.float32(0), jnp.float32(1), jnp.zeros(()))  # pyright: ignore
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
    """A family whose tasks are the rulesets of a benchmark.

    Args:
        rulesets: an ``xminigrid`` ``Benchmark``, or a ``RuleSet`` whose arrays have a leading axis ``[N, ...]``.
        environment: a name that ``xminigrid.make`` knows, of those with rulesets.
        heldout: the same as ``rulesets``, of held-out tasks.
        heldout_share: where ``heldout`` is None, what share of the rulesets is held out; which of them is drawn once
            and for all.
        horizon: steps of an episode; where None, as many as xminigrid says: three for each cell of the grid.

    Raises:
        ModuleNotFoundError: if xminigrid is not installed.
        ValueError: for an unknown name (near ones are named), an environment without rulesets, a horizon that is no
            positive whole number, or a share that leaves no rulesets to train on or to hold out.
        TypeError: for what are no rulesets.
    """
    try:
        from xminigrid import registration
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("XLand-MiniGrid is not installed: pip install 'metarl-jax[xland]'") from error

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
            raise ValueError(f"{number} rulesets cannot be split: a share of {heldout_share} held out leaves {kept}")
        order = np.random.default_rng(0).permutation(number)
        split = [jax.tree.map(lambda x, i=indices: x[i], everything) for indices in (order[:kept], order[kept:])]
    else:
        split = [_stacked("rulesets", rulesets), _stacked("heldout", heldout)]

    def among(some: Any) -> Callable[[Key], XLandParams]:
        def sample(key: Key) -> XLandParams:
            which = jax.random.randint(key, (), 0, some.goal.shape[0])
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


def _stacked(name: str, rulesets: Any) -> Any:
    """A ``RuleSet`` of arrays ``[N, ...]``."""
    from xminigrid.benchmarks import Benchmark
    from xminigrid.types import RuleSet

    if isinstance(rulesets, Benchmark):
        rulesets = RuleSet(goal=rulesets.goals, rules=rulesets.rules, init_tiles=rulesets.init_tiles)
    if not isinstance(rulesets, RuleSet) or jnp.ndim(rulesets.goal) != 2:
        raise TypeError(
            f"{name} must be a Benchmark, or a RuleSet of arrays [N, ...], not {type(rulesets).__qualname__}"
        )
    return jax.tree.map(jnp.asarray, rulesets)
