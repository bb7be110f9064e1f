"""Navix as a family of tasks: navix's own steps and rewards, and layouts as tasks."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import navix
from metarl_jax.types import Discrete

HORIZON = 20


@pytest.fixture(scope="module")
def package() -> Any:
    with warnings.catch_warnings():
        # Libraries that navix imports use deprecated parts of JAX.
        warnings.simplefilter("ignore")
        return importlib.import_module("navix")


def test_steps_are_navixs(package: Any) -> None:
    """Views, rewards and terminations equal those of navix's environment in the same layout."""
    name = "Navix-Dynamic-Obstacles-5x5-Random-v0"
    family = navix.make(name, view=5, horizon=HORIZON, time_penalty=0.0)
    env = package.make(name, observation_fn=package.observations.symbolic_first_person)
    ours_env: Any = family.env
    assert family.action_space == Discrete(len(env.action_set))

    @jax.jit
    @jax.vmap
    def play(key: Any) -> Any:
        key_task, key_actions, *keys = jax.random.split(key, 2 + HORIZON)
        task = family.tasks.sample(key_task)
        seen, state = family.env.reset(key, task)
        # Navix's own state is one that it has made itself, with this layout.
        timestep = env.reset(key)
        grid = task.layout.replace(key=key, cache=timestep.state.cache)
        timestep = timestep.replace(state=grid, observation=env.observation_fn(grid))
        actions = jax.random.choice(key_actions, jnp.array([0, 1, 2, 2, 2]), (HORIZON,))

        def step(carry: Any, inputs: Any) -> Any:
            timestep, state = carry
            key, action = inputs
            timestep = timestep.replace(state=timestep.state.replace(key=key), step_type=jnp.int32(0))
            timestep = env.step(timestep, action)
            seen, state, reward, terminated, _ = ours_env.step_env(key, state, action, task)
            player = timestep.state.get_player()
            theirs = timestep.observation, jnp.array([player.direction, *player.position]), timestep.reward
            return (timestep, state), (theirs, timestep.step_type == 2, (seen, reward, terminated))

        began = timestep.observation, seen
        return began, jax.lax.scan(step, (timestep, state), (jnp.stack(keys), actions))[1]

    (first, seen), (theirs, ended, ours) = jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(0), 30)))

    def cells(seen: np.ndarray) -> list[np.ndarray]:
        """Decode the layers of the view."""
        layers = np.split(
            seen[..., : 25 * sum(navix.CLASSES)], np.cumsum([25 * number for number in navix.CLASSES])[:-1], axis=-1
        )
        return [layer.reshape(*seen.shape[:-1], 5, 5, -1).argmax(axis=-1) for layer in layers]

    for layer, found in enumerate(cells(seen)):
        np.testing.assert_array_equal(found, first[:, 2:, 1:6, layer])
    running = np.cumsum(ended, axis=1) - ended == 0
    assert ended.any() and not running.all()
    for layer, found in enumerate(cells(ours[0])):
        np.testing.assert_array_equal(found[running], theirs[0][:, :, 2:, 1:6, layer][running])
    own = np.stack([one.argmax(axis=-1) for one in np.split(ours[0][..., -14:], [4, 9], axis=-1)], axis=-1)
    np.testing.assert_array_equal(own[running], theirs[1][running])
    np.testing.assert_array_equal(ours[1][running], theirs[2][running])
    np.testing.assert_array_equal(ours[2][running], ended[running])


def test_every_episode_begins_in_the_layout_and_later_goals_are_worth_less() -> None:
    family = navix.make("Navix-Empty-5x5-v0", horizon=10)
    task = family.tasks.sample(jax.random.key(0))
    step, goals = jax.jit(family.env.step), []
    # The agent is in one corner and looks east, and the goal is in the opposite corner.
    for wait in (0, 2):
        first, state = family.env.reset(jax.random.key(wait), task)
        seen = None
        for action in (*[6] * wait, 2, 2, 1, 2, 2):
            seen, state, reward, terminated, _, _ = step(jax.random.key(0), state, jnp.int32(action), task)
            goals.append((float(reward), bool(terminated)))
        np.testing.assert_array_equal(seen, first)
    expected = [(0.0, False)] * 4 + [(1 - 0.9 * 5 / 10, True)] + [(0.0, False)] * 6 + [(1 - 0.9 * 7 / 10, True)]
    np.testing.assert_allclose(goals, expected, rtol=1e-6)


def test_seeds_of_training_are_few_if_asked_for() -> None:
    tasks = navix.make("Navix-Empty-Random-8x8-v0", training_layouts=3).tasks

    def drawn(sample: Any) -> int:
        layouts = jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), 100)).layout
        places = [entity.position.reshape(100, 2) for entity in layouts.entities.values()]
        return len(np.unique(np.concatenate(places, axis=1), axis=0))

    assert drawn(tasks.sample) == 3
    assert drawn(tasks.sample_heldout) > 50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "Navix-Empty-5x5-v1"}, "did you mean Navix-Empty-5x5-v0"),
        ({"view": 4}, "view must be 3, 5 or 7, not 4"),
        ({"view": 9}, "view must be a whole number above 2 and at most 7, not 9"),
        ({"horizon": 0}, "horizon must be a positive whole number"),
        ({"time_penalty": 1.5}, "time_penalty must be a finite number at least 0 and at most 1"),
        ({"training_layouts": 0}, "training_layouts must be a positive whole number"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        navix.make(**settings)


def test_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "navix", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[navix\]'"):
        navix.make()
