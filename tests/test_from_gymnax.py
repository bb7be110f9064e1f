"""Families from gymnax's environments: the errors for bad arguments (the contract tests run the environments)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import from_gymnax
from metarl_jax.types import Box, Discrete, EnvFamily, Key


def cartpole_params(key: Key, **changes: Any) -> Any:
    import gymnax

    del key
    return gymnax.make("CartPole-v1")[1].replace(**changes)


def test_spaces_become_ours() -> None:
    family = from_gymnax.make("CartPole-v1", cartpole_params)
    assert family.action_space == Discrete(2)
    assert isinstance(family.observation_space, Box)
    assert family.observation_space.shape == (4,)
    assert family.horizon == 500  # gymnax's default
    assert family.tasks.sample is family.tasks.sample_heldout is family.tasks.validation


def test_every_task_has_the_familys_horizon() -> None:
    family = from_gymnax.make("CartPole-v1", lambda key: cartpole_params(key, max_steps_in_episode=3), horizon=9)
    assert int(family.tasks.sample(jax.random.key(0)).max_steps_in_episode) == 9


def test_heldout_tasks_have_a_sampler_of_their_own() -> None:
    def heldout(key: Key) -> Any:
        return cartpole_params(key, gravity=20.0)

    family = from_gymnax.make("CartPole-v1", cartpole_params, heldout)
    assert family.tasks.sample(jax.random.key(0)).gravity == pytest.approx(9.8)
    assert family.tasks.sample_heldout(jax.random.key(0)).gravity == pytest.approx(20.0)
    assert family.tasks.validation is family.tasks.sample


def test_validation_tasks_have_a_sampler_of_their_own() -> None:
    def validation(key: Key) -> Any:
        return cartpole_params(key, gravity=15.0)

    family = from_gymnax.make("CartPole-v1", cartpole_params, sample_validation=validation, horizon=7)
    task = family.tasks.validation(jax.random.key(0))
    assert (task.gravity, int(task.max_steps_in_episode)) == (pytest.approx(15.0), 7)
    assert family.tasks.sample_heldout(jax.random.key(0)).gravity == pytest.approx(9.8)


def test_parameters_change_the_physics() -> None:
    def sample(key: Key) -> Any:
        return cartpole_params(key, gravity=jax.random.uniform(key, maxval=20.0))

    family = from_gymnax.make("CartPole-v1", sample, horizon=10)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 3))

    def fall(task: Any) -> jax.Array:
        _, state = family.env.reset(jax.random.key(1), task)
        for _ in range(2):
            _, state, *_ = family.env.step(jax.random.key(2), state, jnp.int32(1), task)
        return state.theta_dot

    speeds = np.asarray(jax.vmap(fall)(tasks))
    assert len(np.unique(speeds)) == 3


def make(name: Any = "CartPole-v1", sample: Any = cartpole_params, **keywords: Any) -> EnvFamily:
    return from_gymnax.make(name, sample, **keywords)


def test_similar_names_are_suggested() -> None:
    with pytest.raises(ValueError, match=r"no environment 'CartPole'.*did you mean CartPole-v1"):
        make("CartPole")


@pytest.mark.parametrize("horizon", [0, -1, 2.5])
def test_bad_horizons_are_named(horizon: object) -> None:
    with pytest.raises(ValueError, match="horizon"):
        make(horizon=horizon)


def test_an_object_that_is_not_an_environment_is_named() -> None:
    with pytest.raises(TypeError, match="name or a gymnax environment"):
        make(3)


@pytest.mark.parametrize("which", ["sample", "sample_heldout", "sample_validation"])
def test_a_sampler_of_other_parameters_is_named(which: str) -> None:
    def pendulum(key: Key) -> Any:
        import gymnax

        del key
        return gymnax.make("Pendulum-v1")[1]

    with pytest.raises(TypeError, match=r"must return CartPole-v1's .*cartpole\.EnvParams.*not .*pendulum"):
        make(**{which: pendulum})
