"""JAX's 64-bit types: conversions at the package's boundaries, equal results with and without, and learning.

``contract/test_precision_contract.py`` traces every family and algorithm.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import double_precision

from metarl_jax import experiments, problems, training
from metarl_jax.algorithms import maml, rl2
from metarl_jax.datasets import sinusoid
from metarl_jax.environments import (
    bandits,
    classic_control,
    gridnavi,
    maze,
    point_robot,
    recommendation,
    tabular_mdp,
)
from metarl_jax.networks import mlp, recurrent
from metarl_jax.oracles import at_random
from metarl_jax.precision import as_action, keep_dtypes, narrow, without_64_bits
from metarl_jax.rollout import trial
from metarl_jax.runs import train
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.types import Algorithm, Array, Box, Discrete, EnvFamily, Inputs, Key, TaskDistribution, Transition

BOTH = pytest.mark.parametrize("enabled", [False, True], ids=["32 bits", "64 bits"])


def dtypes(tree: Any) -> list[str]:
    return [str(x.dtype) for x in jax.tree.leaves(tree)]


# --------------------------------------------------------------------------------------------------- conversions


def test_narrow_converts_only_64_bit_arrays() -> None:
    with jax.enable_x64(True):
        wide = [jnp.float64(0.1), jnp.int64(-3), jnp.uint64(7), jnp.complex128(1j), np.float64(0.1), np.arange(2)]
        other = [jnp.float16(0.1), jnp.bfloat16(0.1), jnp.float32(0.1), jnp.int8(1), jnp.uint8(1), jnp.bool_(True)]
        assert dtypes(narrow(wide)) == ["float32", "int32", "uint32", "complex64", "float32", "int32"]
        for before, after in zip(other, narrow(other), strict=True):
            assert after is before
        assert narrow({"limit": 5, "rate": 0.5}) == {"limit": 5, "rate": 0.5}
        assert type(narrow(5)) is int
        key = jax.random.key(0)
        assert narrow(key) is key


def test_keep_dtypes_converts_between_32_and_64_bits_only() -> None:
    with jax.enable_x64(True):
        before = {"a": jnp.float32(1), "b": jnp.float64(1), "c": jnp.int32(1), "d": jnp.float32(1), "e": jnp.int32(1)}
        after = {"a": jnp.float64(2), "b": jnp.float32(2), "c": jnp.int64(2), "d": jnp.float16(2), "e": jnp.float64(2)}
        kept = keep_dtypes(before, after)
        assert dtypes(kept) == ["float32", "float64", "int32", "float16", "float64"]
        assert jax.tree.leaves(kept) == [2, 2, 2, 2, 2]
        # The error of the scan is clearer.
        assert keep_dtypes(before, [after]) == [after]


def test_actions_have_the_dtype_of_their_space() -> None:
    with jax.enable_x64(True):
        for action in (jnp.int64(2), jnp.uint8(2), np.int64(2), 2):
            assert as_action(Discrete(3), action).dtype == jnp.int32
        for action in (jnp.ones(2), jnp.ones(2, int), np.ones(2)):
            assert as_action(Box(-1.0, 1.0, (2,)), action).dtype == jnp.float32


@BOTH
def test_a_discrete_action_that_is_not_a_whole_number_is_refused(enabled: bool) -> None:
    family = bandits.bernoulli(2)

    def act(key: Key, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], Array, tuple[()]]:
        del inputs
        return carry, jax.random.uniform(key), ()

    with (
        jax.enable_x64(enabled),
        pytest.raises(TypeError, match=r"an action of Discrete\(2\) must have an integer dtype, not float"),
    ):
        trial(jax.random.key(0), act, (), family, family.tasks.sample(jax.random.key(0)), 2)


def test_a_library_is_run_without_64_bits_within_a_program_that_has_them() -> None:
    seen: list[str] = []

    def library(key: Key, x: Array, scale: int) -> Array:
        drawn = jax.random.uniform(key, x.shape)
        seen.extend([type(scale).__name__, str(x.dtype), str(drawn.dtype)])
        return x + scale * drawn

    key = jax.random.key(0)
    expected = library(key, jnp.ones(3, jnp.float32), 2)
    seen.clear()
    with jax.enable_x64(True):
        got = jax.jit(lambda key, x: without_64_bits(library)(key, x, 2) + jnp.float64(0))(key, jnp.ones(3))
        assert got.dtype == jnp.float64
    assert seen == ["int", "float32", "float32"]
    np.testing.assert_array_equal(got, expected)


def test_constants_of_64_bits_in_a_library_cause_no_warning() -> None:
    with jax.enable_x64(True), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert without_64_bits(lambda: jnp.asarray(1, jnp.int64))().dtype == jnp.int32
    assert not caught


# ----------------------------------------------------------------------------------------------- others' environments


class Lift(NamedTuple):
    height: Array
    time: Array


class Careless:
    """An environment without explicit dtypes.

    Its numbers have the default precision, and are mixed with 32-bit numbers. A step goes up by the task and the
    action. The reward is a third of the height, and episodes have three steps.
    """

    def __init__(self, discrete: bool) -> None:
        self.discrete = discrete

    def reset(self, key: Key, params: Array) -> tuple[Array, Lift]:
        del key, params
        return jnp.zeros(1), Lift(jnp.float32(0), jnp.int32(0))

    def step(self, key: Key, state: Lift, action: Array, params: Array) -> tuple[Any, ...]:
        height = state.height + params + jnp.sum(action)
        time = state.time + jnp.arange(2)[1]
        obs, reward = jnp.stack([height]), height / 3
        over = time >= 3
        first, fresh = self.reset(key, params)
        state = jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, Lift(height, time))
        return jnp.where(over, first, obs), state, reward, False, over, {"final_observation": obs}

    def action_space(self, params: Any = None) -> Discrete | Box:
        del params
        return Discrete(2) if self.discrete else Box(-1.0, 1.0, (2,))

    def observation_space(self, params: Any = None) -> Box:
        del params
        return Box(-jnp.inf, jnp.inf, (1,))


def careless(discrete: bool) -> EnvFamily:
    env, tasks = Careless(discrete), TaskDistribution(jax.random.uniform, jax.random.uniform)
    return EnvFamily(env, tasks, 3, env.observation_space(), env.action_space())  # pyright: ignore[reportArgumentType]


@BOTH
@pytest.mark.parametrize("discrete", [False, True])
def test_a_users_environment_of_mixed_dtypes_is_played(discrete: bool, enabled: bool) -> None:
    family = careless(discrete)

    def act(key: Key, carry: Array, inputs: Inputs) -> tuple[Array, Array, tuple[()]]:
        del key, inputs
        # A counter and actions of the default dtypes.
        return carry + jnp.arange(2)[1], jnp.ones((), int) if discrete else jnp.full(2, 0.25), ()

    def play(key: Key) -> tuple[Array, Transition]:
        return trial(key, act, jnp.int32(0), family, jnp.float32(0.5), 2)

    with jax.enable_x64(enabled):
        count, t = jax.jit(play)(jax.random.key(0))
        # Its state may have 64 bits if the first state has 64 bits.
        assert jax.eval_shape(family.env.reset, jax.random.key(0), 0.5)[0].dtype == (
            jnp.float64 if enabled else jnp.float32
        )
    rise = 0.5 + (1 if discrete else 0.5)
    assert int(count) == 6
    np.testing.assert_allclose(t.reward, rise * np.array([1, 2, 3] * 2) / 3, rtol=1e-6)
    np.testing.assert_allclose(t.inputs.obs[:, 0], rise * np.array([0, 1, 2] * 2), rtol=1e-6)
    assert t.action.dtype == (jnp.int32 if discrete else jnp.float32)
    for x in (t.reward, t.inputs.obs, t.final_obs, t.inputs.prev_reward):
        assert x.dtype == jnp.float32


# ------------------------------------------------------------------------------------------------- the same numbers


def in_both(function: Callable[[], Any]) -> tuple[Any, Any]:
    """Return the results of a function without 64-bit types and with them.

    The function makes all of its objects itself.
    """
    results = []
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            results.append(jax.device_get(function()))
    return results[0], results[1]


def assert_alike(one: Any, other: Any, tolerance: float) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert dtypes(one) == dtypes(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bandits.gaussian(3, noise=0.5),
        lambda: tabular_mdp.make(states=4, actions=3, horizon=5),
        lambda: gridnavi.make(3, 6),
        point_robot.promp,
        lambda: recommendation.made_up(6),
        lambda: classic_control.cartpole("out_of_range", 30),
    ],
    ids=["bandit", "tabular MDP", "GridNavi", "corners", "recommendation", "CartPole"],
)
def test_trials_are_the_same(make: Callable[[], EnvFamily]) -> None:
    """Tasks, first states, transitions and rewards are equal: random numbers do not depend on the default precision."""

    def scores() -> Any:
        family = make()
        oracle = at_random.uniform(family, 2)

        def one(key: Key) -> tuple[Any, Array]:
            task = family.tasks.sample_heldout(key)
            return task, oracle.adapt(key, (), task).score

        # The limit of steps of a task is a Python number.
        return narrow(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 20)))

    one, other = in_both(scores)
    assert len(np.unique(one[1])) > 1
    assert_alike(one, other, 1e-4)


def test_mazes_are_the_same() -> None:
    one, other = in_both(lambda: maze.layout(jax.random.key(0), 5))
    np.testing.assert_array_equal(one, other)


def _recurrent_bandit(**settings: Any) -> Algorithm:
    family = bandits.bernoulli(2)
    policy = recurrent.make(family, recurrent.Settings(hidden_size=16, embedding_size=16))
    return rl2.make(family, policy, rl2.Config(**settings))


def _sinusoid(**settings: Any) -> Algorithm:
    problem = problems.few_shot(sinusoid.maml(shots=10, queries=10), mlp.predictor(1, 1))
    return maml.make(problem, maml.Config(inner_rate=0.01, **settings))


def run(algorithm: Algorithm, iterations: int) -> training.Chunk:
    state = training.start(algorithm, jax.random.key(0))
    return jax.jit(lambda state: training.run(algorithm, state, iterations, capacity=iterations))(state)


@pytest.mark.slow
def test_training_is_the_same() -> None:
    def train() -> Any:
        chunk = run(_sinusoid(tasks=4, iterations=3, adaptation_steps=1), 3)
        return chunk._replace(state=chunk.state._replace(key=jax.random.key_data(chunk.state.key)))

    # Optax corrects Adam's moments in the default precision.
    assert_alike(*in_both(train), tolerance=1e-3)


# --------------------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_maml_learns_with_64_bits() -> None:
    """MAML learns sinusoids: its error is less than half that of the prediction 0, E[amplitude^2] / 2."""
    nothing = (5**3 - 0.1**3) / (3 * (5 - 0.1)) / 2
    with jax.enable_x64(True):
        scores = run(_sinusoid(tasks=16, iterations=400, learning_rate=1e-2), 400).metrics["score"]
    assert float(jnp.mean(scores[:5])) > nothing / 2
    assert float(jnp.mean(scores[-50:])) < nothing / 2


@pytest.mark.slow
def test_rl2_learns_with_64_bits() -> None:
    """RL² learns two arms with ten pulls, on which random play has the return 5."""
    settings = {"episodes": 10, "trials": 128, "minibatches": 2, "learning_rate": 1e-2, "entropy_coefficient": 0.01}
    with jax.enable_x64(True):
        rewards = np.asarray(run(_recurrent_bandit(iterations=60, **settings), 60).metrics["trial_reward"])
    last = rewards[-10:]
    assert last.mean() - 3 * last.std(ddof=1) / len(last) ** 0.5 > 5.2


# -------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
def test_a_run_resumes_in_the_other_precision(tmp_path: Path) -> None:
    """A run that is half without 64-bit types and half with them equals a run without them."""
    sizes = {"iterations": 4, "tasks": 4, "adaptation_steps": 1}
    settings = experiments.get("fomaml-sinusoid").with_overrides(sizes)
    config = RunConfig(experiment="fomaml-sinusoid", settings=settings, seed=2**31, seeds=1, evaluate_every=2)

    def losses(folder: RunFolder) -> list[list[float]]:
        lines = (folder.path / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] + json.loads(line).get("heldout_score", []) for line in lines]

    whole, half = (train.new_run(tmp_path / name, config) for name in ("whole", "half"))
    assert train.train(whole, train.Options()).finished
    assert not train.train(half, train.Options(time_limit=0.0)).finished
    with double_precision():
        assert train.load_states(half, train.build(config)).iteration in (1, 2, 3)
        assert train.train(half, train.Options()).finished
    for one, other in zip(losses(whole), losses(half), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_states_with_tasks_of_other_libraries_are_of_the_same_types() -> None:
    """PEARL stores training tasks, where gymnax has Python numbers. A checkpoint of either precision fits."""

    def types() -> list[str]:
        experiment = experiments.get("pearl-cartpole")
        problem = experiment.build(experiment.with_overrides({}))
        return dtypes(jax.eval_shape(problem.algorithm.init, jax.random.key(0)))

    one, other = in_both(types)
    assert one == other


def test_jaxlib_computes_products_of_sums() -> None:
    """The version 0.10.2, which this package excludes, returns other numbers in a batch."""
    random = np.random.default_rng(0)
    weights, factors, batch = (random.normal(size=shape).astype(np.float32) for shape in ((256, 3), (256, 64), (6, 3)))

    def product(x: Array) -> Array:
        return jnp.sum(weights * x, axis=-1)[:, None] * factors

    expected = (weights[None] * batch[:, None]).sum(axis=-1)[..., None] * factors
    np.testing.assert_allclose(jax.jit(jax.vmap(product))(batch), expected, rtol=1e-4, atol=1e-4)
