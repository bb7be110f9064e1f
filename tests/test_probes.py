"""Linear probes of memories, against the exact posterior of a normal mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.environments import bandits
from metarl_jax.types import Acting, Algorithm, Array, EnvFamily, Inputs, Key, TaskDistribution

PULLS = 8
NOISE = 0.5


class Arm(NamedTuple):
    """A task with one arm and a number that has nothing to do with its rewards."""

    means: Array
    other: Array
    fixed: Array
    arms: Array


class OneArm:
    """An arm whose rewards are normal with the mean of the task."""

    def reset(self, key: Key, task: Arm) -> tuple[Array, Array]:
        return jnp.zeros(1), jnp.int32(0)

    def step(self, key: Key, state: Array, action: Array, task: Arm) -> Any:
        reward = task.means + NOISE * jax.random.normal(key)
        info = {"final_observation": jnp.zeros(1)}
        return jnp.zeros(1), state, reward, jnp.bool_(True), jnp.bool_(False), info


def one_arm(middle: float = 0.0) -> EnvFamily:
    """Return a family whose held-out means have another mean than its training means."""

    def sample(key: Key, middle: float = 0.0) -> Arm:
        mean, other = jax.random.normal(key, (2,))
        return Arm(middle + mean, jnp.stack([other, other]), jnp.float32(3), jnp.int32(1))

    tasks = TaskDistribution(sample=sample, sample_heldout=lambda key: sample(key, middle))
    family = bandits.gaussian(arms=2)
    return family._replace(env=_horizon(OneArm()), tasks=tasks)


def _horizon(env: Any) -> Any:
    env.horizon = 1
    return env


def adding(**acting: Any) -> Algorithm:
    """Return an algorithm whose memory is the sum of rewards, and which does not learn."""

    def act(key: Key, params: Any, memory: Array, inputs: Inputs, final_obs: Array) -> tuple[Array, Array, Any]:
        return memory + jnp.stack([inputs.prev_reward, 0.0]), jnp.int32(0), ()

    functions = Acting(params=lambda state: state, start=lambda key, params: jnp.zeros(2), act=act)
    nothing: Any = None
    return Algorithm(nothing, nothing, nothing, 1, acting=functions._replace(**acting))


def probes(family: EnvFamily, algorithm: Algorithm | None = None, **arguments: Any) -> mrl.probes.Probes:
    settings = {"episodes": PULLS, "num_tasks": 4000, "num_steps": PULLS, **arguments}
    return mrl.probes.linear_probes(jax.random.key(0), algorithm or adding(), (), family, **settings)


def test_a_sum_of_rewards_explains_what_the_posterior_mean_explains() -> None:
    """After k rewards, the posterior mean of a normal mean explains k / (k + noise²) of its variance."""
    found = probes(one_arm())
    assert found.names == ("means", "other", "fixed") and found.steps.tolist() == list(range(PULLS))
    seen = found.steps
    # The standard error of a share is below sqrt(2 / 4000) = 0.023 where it is largest.
    np.testing.assert_allclose(found.explained[:, 0], seen / (seen + NOISE**2), atol=0.02)
    np.testing.assert_allclose(found.explained[:, 1], 0.0, atol=0.01)
    assert np.isnan(found.explained[:, 2]).all()
    lines = str(found).splitlines()
    assert lines[0].split() == ["steps", *map(str, range(PULLS))] and lines[1].split()[:3] == ["means", "0.00", "0.80"]


def test_shifted_tasks_are_predicted_from_training_tasks() -> None:
    """The regression shrinks towards the mean of training tasks, which is wrong by ``middle`` on shifted tasks."""
    middle, seen = 3.0, PULLS - 1
    found = probes(one_arm(middle), num_steps=2)
    weight = seen / (seen + NOISE**2)
    left = (1 - weight) * (1 - weight) * (1 + middle**2) + weight**2 * NOISE**2 / seen
    np.testing.assert_allclose(found.explained[-1, 0], 1 - left / (1 + middle**2), atol=0.005)


def test_targets_and_parts_of_tasks() -> None:
    def targets(task: Arm) -> dict[str, Array]:
        return {"twice": 2 * task.means}

    found = probes(one_arm(), targets=targets, batch_size=1500, num_steps=1)
    assert found.names == ("twice",) and found.steps.tolist() == [0]
    last = probes(one_arm(), targets=targets, batch_size=1500, num_steps=2)
    whole = probes(one_arm(), targets=targets, num_steps=2)
    np.testing.assert_allclose(last.explained, whole.explained, atol=1e-5)


def test_the_memory_of_rl2_is_read() -> None:
    family = bandits.bernoulli(arms=2)
    policy = mrl.networks.recurrent.make(family, mrl.networks.recurrent.Settings(hidden_size=16, embedding_size=None))
    algorithm = mrl.algorithms.rl2.make(family, policy, mrl.algorithms.rl2.Config(episodes=6, trials=8, iterations=2))
    state = algorithm.init(jax.random.key(0))
    found = mrl.probes.linear_probes(jax.random.key(1), algorithm, state, family, episodes=6, num_tasks=1000)
    # A random recurrent network is an echo of its inputs. Before the first reward there is nothing to know.
    assert abs(found.explained[0, 0]) < 0.05 < 0.15 < found.explained[-1, 0]


def test_wrong_arguments_are_named() -> None:
    family = one_arm()
    with pytest.raises(ValueError, match="exceed the size of the memory, which is 2, not be 2"):
        probes(family, num_tasks=2)
    with pytest.raises(ValueError, match="memory that is updated at every step"):
        probes(family, adding(learn=lambda *_: None))
    with pytest.raises(ValueError, match="memory that is updated at every step"):
        probes(family, adding()._replace(acting=None))
    with pytest.raises(ValueError, match="no floating-point numbers: give targets"):
        probes(family, targets=lambda task: {})
    for name in ("episodes", "num_tasks", "num_steps", "batch_size", "penalty"):
        wrong: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=name):
            probes(family, adding(), **wrong)
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        mrl.probes.linear_probes(jax.random.PRNGKey(0), adding(), (), family, episodes=1)
