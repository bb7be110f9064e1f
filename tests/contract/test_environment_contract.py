"""The contract of every family of tasks, with gymnax's own class as the reference."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import ENVIRONMENTS, NOT_ENVIRONMENTS, SAME_ENVIRONMENTS, flat, makers, modules

import metarl_jax.environments
from metarl_jax.family_checks import check_family, check_shapes
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Box, Carry, Discrete, EnvFamily, Environment, Inputs, Key, Space, Transition

CASES = flat(ENVIRONMENTS)
EPISODES = 3
SEEDS = 20


@pytest.fixture(scope="module", params=[builder for _, builder in CASES], ids=[name for name, _ in CASES])
def family(request: pytest.FixtureRequest) -> EnvFamily:
    return request.param()


def test_every_module_has_a_builder() -> None:
    assert modules(metarl_jax.environments) - NOT_ENVIRONMENTS == set(ENVIRONMENTS)


@pytest.mark.parametrize("name", sorted(modules(metarl_jax.environments) - NOT_ENVIRONMENTS))
def test_every_maker_has_a_builder(name: str) -> None:
    module = importlib.import_module(f"metarl_jax.environments.{name}")
    found = makers(module, "EnvFamily") - SAME_ENVIRONMENTS
    assert found, "a module of environments has a public function that returns an EnvFamily"
    assert found == {builder.partition("[")[0] for builder in ENVIRONMENTS[name]}


def random_action(key: Key, space: Space) -> Array:
    match space:
        case Discrete(n=n):
            return jax.random.randint(key, (), 0, n)
        case Box(low=low, high=high, shape=shape):
            return jax.random.uniform(key, shape, minval=low, maxval=high)


@pytest.fixture(scope="module")
def played(family: EnvFamily) -> tuple[Any, Transition]:
    """Play ``SEEDS`` tasks at random; return the tasks, and transitions ``[SEEDS, T, ...]``."""

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, random_action(key, family.action_space), ()

    @jax.jit
    @jax.vmap
    def one(key: Key) -> tuple[Any, Transition]:
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample(key_task)
        return task, trial(key_trial, act, (), family, task, EPISODES)[1]

    return one(jax.random.split(jax.random.key(0), SEEDS))


def assert_same(got: Any, expected: Any, rtol: float = 1e-7, atol: float = 0.0) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(a) == jnp.shape(b)
        assert jnp.result_type(a) == jnp.result_type(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def one_step(family: EnvFamily, seed: int = 0) -> tuple[Key, Any, Array, Any]:
    """Return arguments of ``env.step``: key, state, action, task."""
    keys = jax.random.split(jax.random.key(seed), 4)
    task = family.tasks.sample(keys[0])
    _, state = family.env.reset(keys[1], task)
    return keys[2], state, random_action(keys[3], family.action_space), task


def many_steps(family: EnvFamily, number: int) -> tuple[Key, Any, Array, Any]:
    """Return arguments of ``env.step`` like ``one_step``, each with a leading axis for the seeds, by one program."""

    def one(seed: Array) -> tuple[Key, Any, Array, Any]:
        return one_step(family, seed)  # pyright: ignore[reportArgumentType]

    return jax.jit(jax.vmap(one))(jnp.arange(number))


def test_is_an_environment(family: EnvFamily) -> None:
    assert isinstance(family.env, Environment)


@pytest.mark.parametrize("which", ["sample", "sample_heldout", "validation"])
def test_tasks_differ_and_are_functions_of_the_key(family: EnvFamily, which: str) -> None:
    sample = getattr(family.tasks, which)
    one, again = sample(jax.random.key(1)), sample(jax.random.key(1))
    assert_same(one, again)
    # Some families have only two tasks. Of many drawn tasks at least two differ.
    many = jax.vmap(sample)(jax.random.split(jax.random.key(2), SEEDS))
    assert jax.tree.structure(one) == jax.tree.structure(many)
    assert any(not np.all(leaf == leaf[0]) for leaf in map(np.asarray, jax.tree.leaves(many)))


@pytest.mark.slow
def test_the_task_changes_transitions_or_rewards(family: EnvFamily) -> None:
    @jax.jit
    def outcome(key: Key, state: Any, action: Array, key_task: Key) -> tuple[Array, Array, Array]:
        """Play one action repeatedly. Where rewards are rare, many steps are needed for one."""
        task = family.tasks.sample(key_task)

        def step(state: Any, key: Key) -> tuple[Any, tuple[Array, Array, Array]]:
            obs, state, reward, *_, info = family.env.step(key, state, action, task)
            return state, (obs, jnp.asarray(reward, jnp.float32), info["final_observation"])

        return jax.lax.scan(step, state, jax.random.split(key, 40))[1]

    keys = jax.random.split(jax.random.key(5), SEEDS + 1)
    starts = many_steps(family, SEEDS)[:3]
    first, others = (jax.vmap(outcome, (0, 0, 0, axis))(*starts, key) for axis, key in ((None, keys[0]), (0, keys[1:])))
    assert any(not np.array_equal(a, b) for a, b in zip(first, others, strict=True))


def test_resetting_keeps_the_task(family: EnvFamily) -> None:
    """``step`` depends on its arguments only: another reset changes neither the environment nor the parameters."""
    key, state, action, task = one_step(family)
    kept = jax.tree.map(jnp.copy, task)
    attributes = dict(vars(family.env))
    before = family.env.step(key, state, action, task)
    for seed in range(3):
        _, other = family.env.reset(jax.random.key(seed), task)
        family.env.step(jax.random.key(seed), other, action, task)
    assert_same(family.env.step(key, state, action, task), before)
    assert_same(task, kept)
    assert vars(family.env) == attributes


def test_observations_lie_in_the_declared_space(family: EnvFamily, played: tuple[Any, Transition]) -> None:
    _, transitions = played
    for seen in (transitions.inputs.obs, transitions.final_obs):
        match family.observation_space:
            case Discrete(n=n):
                assert seen.ndim == 2
                assert jnp.issubdtype(seen.dtype, jnp.integer)
                assert bool(jnp.all((seen >= 0) & (seen < n)))
            case Box(low=low, high=high, shape=shape):
                assert seen.shape[2:] == shape
                assert jnp.issubdtype(seen.dtype, jnp.floating) or seen.dtype == jnp.uint8
                assert bool(jnp.all((seen >= low) & (seen <= high)))
    assert transitions.reward.dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(transitions.reward)))


def test_a_step_keeps_the_states_shapes_and_types(family: EnvFamily) -> None:
    key, state, action, task = one_step(family)
    obs, _ = family.env.reset(key, task)
    next_obs, next_state, reward, terminated, truncated, info = family.env.step(key, state, action, task)

    def shapes(tree: Any) -> Any:
        # Classes of a tree may define ``==`` for themselves, as some of navix do.
        return jax.tree.structure(tree), [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)]

    assert shapes(next_state) == shapes(state)
    assert shapes(next_obs) == shapes(obs) == shapes(info["final_observation"])
    assert jnp.shape(reward) == jnp.shape(terminated) == jnp.shape(truncated) == ()


@pytest.mark.slow
def test_jit_and_vmap_agree_with_single_calls(family: EnvFamily) -> None:
    batch, compiled = many_steps(family, 4), jax.jit(family.env.step)
    batched = jax.jit(jax.vmap(family.env.step))(*batch)
    for i in range(4):
        one, row = (jax.tree.map(lambda x, i=i: x[i], tree) for tree in (batch, batched))
        assert_same(compiled(*one), row, rtol=1e-5, atol=1e-6)
        # Without compilation, every operation is a program of its own, which takes long.
        if i == 0:
            assert_same(jax.tree.map(jnp.asarray, family.env.step(*one)), row, rtol=1e-5, atol=1e-6)


def test_the_horizon_holds(family: EnvFamily, played: tuple[Any, Transition]) -> None:
    tasks, transitions = played
    np.testing.assert_array_equal(tasks.max_steps_in_episode, family.horizon)
    truncated = np.asarray(transitions.truncated)
    done = np.asarray(transitions.terminated) | truncated
    for i in range(SEEDS):
        ends = np.flatnonzero(done[i])
        lasted = np.diff(ends, prepend=-1)
        assert len(ends) >= EPISODES
        assert np.all(lasted <= family.horizon)
        np.testing.assert_array_equal(truncated[i][ends], lasted == family.horizon)


def test_spaces_of_the_family_are_the_environments(family: EnvFamily) -> None:
    task = family.tasks.sample(jax.random.key(0))
    for ours, declared in (
        (family.observation_space, family.env.observation_space(task)),
        (family.action_space, family.env.action_space(task)),
    ):
        if isinstance(ours, Discrete):
            assert ours.n == declared.n
        else:
            assert ours.shape == tuple(declared.shape)


# One family of each module is played, because the compilation of all would take a minute. ``make`` of every preset's
# algorithm traces the preset's family (``test_experiment_contract``).
PLAYED = {next(iter(flat({module: builders})))[0] for module, builders in ENVIRONMENTS.items()}


def test_passes_the_checks_of_families(family: EnvFamily, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.id in PLAYED:
        check_family(family, num_tasks=2)
    else:
        check_shapes(family)


def test_optimal_return_is_a_finite_number(family: EnvFamily) -> None:
    if family.optimal_return is not None:
        best = family.optimal_return(family.tasks.sample(jax.random.key(0)))
        assert jnp.shape(best) == ()
        assert bool(jnp.isfinite(best))


# ------------------------------------------------------------------------------------------ against gymnax itself


def test_steps_and_resets_as_gymnax_does(family: EnvFamily) -> None:
    """Gymnax's own ``step`` and ``reset``, run on our class, give the same leaves, also at the ends of episodes."""
    from gymnax.environments.environment import Environment as Reference

    key, state, _, task = one_step(family)
    # Both are compiled, because the physics amplify differences by rounding.
    assert_same(Reference.reset(family.env, key, task), jax.jit(family.env.reset)(key, task))  # pyright: ignore
    ours = jax.jit(family.env.step)
    for step in range(family.horizon + 3):
        key_step, key_action = jax.random.split(jax.random.key(step))
        action = random_action(key_action, family.action_space)
        expected = Reference.step(family.env, key_step, state, action, task)  # pyright: ignore
        got = ours(key_step, state, action, task)
        assert_same(got, expected, rtol=1e-5, atol=1e-6)
        state = got[1]


@pytest.mark.parametrize(
    "method", ["reset", "step", "reset_env", "step_env", "is_truncated", "action_space", "observation_space", "name"]
)
def test_has_gymnaxs_signatures(family: EnvFamily, method: str) -> None:
    from gymnax.environments.environment import Environment as Reference

    ours, reference = getattr(type(family.env), method), getattr(Reference, method)
    if isinstance(reference, property):
        assert isinstance(ours, property)
        return
    names = list(inspect.signature(inspect.unwrap(ours)).parameters)
    assert names == list(inspect.signature(inspect.unwrap(reference)).parameters)
