"""XLand-MiniGrid as a family: its own steps and rewards, and rulesets as tasks."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xminigrid.benchmarks import Benchmark
from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles
from xminigrid.core.goals import AgentHoldGoal
from xminigrid.core.rules import EmptyRule
from xminigrid.registration import make
from xminigrid.types import RuleSet

from metarl_jax.environments import xland
from metarl_jax.types import Box

ENVIRONMENT = "XLand-MiniGrid-R1-9x9"
NUMBER = 10


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    """Of balls in ten colours: pick it up."""
    balls = [TILES_REGISTRY[Tiles.BALL, colour] for colour in range(Colors.RED, Colors.RED + NUMBER)]
    goals = jnp.stack([AgentHoldGoal(ball).encode() for ball in balls])
    rules = jnp.broadcast_to(EmptyRule().encode(), (NUMBER, 1, *EmptyRule().encode().shape))
    return Benchmark(goals, rules, jnp.stack(balls)[:, None], jnp.zeros(NUMBER, jnp.int32))


def test_steps_are_xminigrids(benchmark: Benchmark) -> None:
    """The same grids, views, rewards and ends as its own environment gives under the same ruleset."""
    horizon = 60
    family = xland.make(benchmark, ENVIRONMENT, horizon=horizon)
    assert family.horizon == horizon
    assert isinstance(family.observation_space, Box)
    env, params = make(ENVIRONMENT)
    task = family.tasks.sample(jax.random.key(1))
    params = params.replace(ruleset=task.ruleset, max_steps=horizon)
    first, reset, after = jax.jit(env.reset), jax.jit(family.env.reset), jax.jit(env.step)
    step = jax.jit(family.env.step)
    ended = 0
    for seed in range(12):
        timestep = first(params, jax.random.key(seed))
        seen, state = reset(jax.random.key(seed), task)
        actions = np.random.default_rng(seed).choice(6, horizon, p=[0.5, 0.1, 0.1, 0.3, 0.0, 0.0])
        for count, action in enumerate(actions, start=1):
            np.testing.assert_array_equal(state.grid, timestep.state.grid)
            tiles, colours, looks = np.split(np.asarray(seen), [25 * 13, 25 * 25])
            view = np.asarray(timestep.observation)
            np.testing.assert_array_equal(tiles.reshape(5, 5, 13).argmax(axis=-1), view[..., 0])
            np.testing.assert_array_equal(colours.reshape(5, 5, 12).argmax(axis=-1), view[..., 1])
            assert seen.sum() == 2 * 25 + 1
            assert looks.argmax() == timestep.state.agent.direction
            timestep = after(params, timestep, jnp.int32(action))
            seen, state, reward, terminated, truncated, _ = step(jax.random.key(0), state, jnp.int32(action), task)
            assert reward == timestep.reward
            assert bool(terminated) == (bool(timestep.last()) and float(timestep.discount) == 0)
            assert bool(truncated) == (count == horizon)
            if terminated or truncated:
                ended += bool(terminated)
                break
    assert ended


def test_a_share_of_the_rulesets_is_held_out(benchmark: Benchmark) -> None:
    def drawn(sample: Any) -> set[bytes]:
        goals = jax.jit(jax.vmap(lambda key: sample(key).ruleset.goal))(jax.random.split(jax.random.key(0), 200))
        return {goal.tobytes() for goal in np.asarray(goals)}

    tasks = xland.make(benchmark, ENVIRONMENT, heldout_share=0.3).tasks
    assert (len(drawn(tasks.sample)), len(drawn(tasks.sample_heldout))) == (7, 3)
    assert not drawn(tasks.sample) & drawn(tasks.sample_heldout)
    few = RuleSet(benchmark.goals[:2], benchmark.rules[:2], benchmark.init_tiles[:2])
    tasks = xland.make(benchmark, ENVIRONMENT, heldout=few).tasks
    assert (len(drawn(tasks.sample)), len(drawn(tasks.sample_heldout))) == (10, 2)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (["XLand-MiniGrid-R1-9x8"], {}, ValueError, "did you mean XLand-MiniGrid-R1-9x9"),
        (["MiniGrid-Empty-8x8"], {}, ValueError, "no environment with rulesets"),
        ([], {"horizon": 0}, ValueError, "horizon must be a positive whole number"),
        ([], {"heldout_share": 0.01}, ValueError, "10 rulesets cannot be split"),
        ([], {"heldout_share": 1.0}, ValueError, "heldout_share must be a finite number above 0 and below 1"),
        ([], {"heldout": "trivial-21k"}, TypeError, "heldout must be a Benchmark, or a RuleSet"),
    ],
)
def test_mistakes_are_named(
    benchmark: Benchmark, arguments: list[str], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        xland.make(benchmark, *arguments, **settings)


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xminigrid", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'metarl-jax\[xland\]'"):
        xland.make(None)
