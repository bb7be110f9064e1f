"""Craftax-Classic as a family of tasks: craftax's own steps and rewards, and worlds as tasks."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import craftax
from metarl_jax.environments.base import MOST_SEEDS, seeded_samplers
from metarl_jax.types import Box, EnvFamily

HORIZON = 8
NOTHING, LEFT, UP, DO = 0, 1, 3, 5
GRASS, TREE, LAVA = 2, 5, 14


@pytest.fixture(scope="module")
def family() -> EnvFamily:
    EnvParams = importlib.import_module("craftax.craftax_classic.envs.craftax_state").EnvParams

    def safe(key: Any) -> Any:
        # No animal can be in the way.
        days = jax.random.randint(key, (), 100, 400, jnp.int32)
        chances = dict.fromkeys(("spawn_cow_chance", "spawn_zombie_base_chance", "spawn_zombie_night_chance"), 0.0)
        return EnvParams(day_length=days, max_timesteps=3, **chances)

    return craftax.make(safe, map_size=16, horizon=HORIZON)


@pytest.fixture(scope="module")
def tasks(family: EnvFamily) -> Any:
    """Three training tasks."""
    return jax.jit(jax.vmap(family.tasks.sample))(jax.random.split(jax.random.key(0), 3))


def test_tasks_differ_in_worlds_and_parameters(tasks: Any) -> None:
    maps = np.asarray(tasks.world.map)
    assert maps.shape == (3, 16, 16)
    assert len({one.tobytes() for one in maps}) == 3
    assert len(set(tasks.parameters.day_length.tolist())) == 3


def test_seeds_of_training_and_heldout_seeds_are_disjoint() -> None:
    for number, smallest in ((2, 2), (MOST_SEEDS, 900)):
        training, heldout = (
            {
                tuple(row)
                for row in jax.random.key_data(jax.vmap(sample)(jax.random.split(jax.random.key(0), 1000))).tolist()
            }
            for sample in seeded_samplers("number", number)
        )
        assert len(training) >= smallest
        assert len(heldout) > 900
        assert not training & heldout


def test_episodes_begin_in_the_world_and_rewards_are_craftaxs(family: EnvFamily, tasks: Any) -> None:
    """The first wood of an episode has a reward of 1. Lava ends an episode; otherwise only the horizon does."""
    assert family.observation_space == Box(0.0, 1.0, (1345,))
    task = jax.tree.map(lambda x: x[0], tasks)
    row, column = map(int, task.world.player_position)
    land = jnp.full((16, 16), GRASS).at[row, column - 2].set(TREE).at[row - 1, column - 1].set(LAVA)
    task = task.replace(world=task.world.replace(map=land.astype(task.world.map.dtype)))
    step = jax.jit(family.env.step)
    first, state = family.env.reset(jax.random.key(1), task)
    found = []
    for time, action in enumerate([LEFT, DO, DO, *[NOTHING] * (HORIZON - 3), LEFT, DO, UP]):
        assert int(state.timestep) == time % HORIZON
        seen, state, reward, terminated, truncated, info = step(jax.random.key(time), state, jnp.int32(action), task)
        assert info["final_observation"].shape == first.shape
        found.append((float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            np.testing.assert_array_equal(seen, first)
            jax.tree.map(np.testing.assert_array_equal, state, task.world)
    died, quiet = pytest.approx(-0.9), (0.0, False, False)
    expected = [quiet, (1.0, False, False), *[quiet] * (HORIZON - 3), (0.0, False, True)]
    assert found == [*expected, quiet, (1.0, False, False), (died, True, False)]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"map_size": 40}, ValueError, "map_size must be a multiple of 16, not 40"),
        ({"horizon": 0}, ValueError, "horizon must be a positive whole number"),
        (
            {"training_worlds": 2**31},
            ValueError,
            "training_worlds must be a positive whole number of at most 1073741824",
        ),
        ({"physics": lambda key: key}, TypeError, "physics must return craftax's EnvParams"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        craftax.make(**settings)


def test_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "craftax.craftax_classic.envs.craftax_symbolic_env", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[craftax\]'"):
        craftax.classic()
