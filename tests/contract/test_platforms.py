"""Tests that programs lower for accelerators, on a machine that has none.

Lowering is the last step that JAX takes itself before XLA compiles: it fails where an operation is not implemented for
a platform. ``jax.export`` also refuses custom calls that only the exporting process can execute, such as host
callbacks. These tests do not show whether XLA compiles the program, or how fast it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from builders import ALGORITHMS, ENVIRONMENTS, NETWORKS, SPACES, Case, flat

from metarl_jax import batching
from metarl_jax.environments import locomotion
from metarl_jax.networks import meta_network
from metarl_jax.rollout import trial
from metarl_jax.types import Algorithm, Array, Carry, Discrete, EnvFamily, Inputs, Key, Policy, Space, TaskDistribution

ACCELERATORS = ("cuda", "tpu")
# C MuJoCo runs in a host callback. On accelerators robots are simulated by MJX.
ON_THE_HOST = ("locomotion", "manipulation")
FAMILIES = [(name, builder) for name, builder in flat(ENVIRONMENTS) if not name.startswith(ON_THE_HOST)]
CASES = flat(ALGORITHMS)


@pytest.fixture(scope="module", autouse=True)
def accelerator() -> Iterator[None]:
    """Trace with the decisions that the package makes for an accelerator."""
    with pytest.MonkeyPatch.context() as patch:
        # The package asks only whether the backend is "cpu"; JAX itself does not call this name.
        patch.setattr(jax, "default_backend", lambda: "gpu")
        yield


def assert_lowers(function: Callable[..., Any], *arguments: Any) -> None:
    """Lower ``function`` for every accelerator. The arguments may be shapes."""
    assert jax.export.export(jax.jit(function), platforms=ACCELERATORS)(*arguments).platforms == ACCELERATORS


def assert_algorithm_lowers(algorithm: Algorithm, tasks: TaskDistribution) -> None:
    key = jax.random.key(0)
    state = jax.eval_shape(algorithm.init, key)
    assert_lowers(algorithm.init, key)
    assert_lowers(algorithm.step, key, state)
    assert_lowers(lambda key, state: algorithm.adapt(key, state, tasks.sample_heldout(key)), key, state)


@pytest.mark.parametrize("builder", [builder for _, builder in CASES], ids=[name for name, _ in CASES])
def test_every_algorithm_lowers(builder: Callable[[], Case]) -> None:
    case = builder()
    assert_algorithm_lowers(case.make(), case.tasks)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_kind_of_network_lowers(name: str) -> None:
    """Acting, and the gradient of training, lower."""
    observation_space, action_space = SPACES["index seen, one real action"]
    policy = next(iter(NETWORKS[name].values()))(observation_space, action_space)
    inputs = Inputs(
        obs=jnp.zeros(5, jnp.int32),
        prev_action=jnp.zeros((5, 1)),
        prev_reward=jnp.zeros(5),
        prev_done=jnp.zeros(5),
        first=jnp.arange(5) == 0,
    )

    def step(params: Any, inputs: Inputs) -> Any:
        carry, output = policy.step(params, policy.initial_carry(params), jax.tree.map(lambda x: x[0], inputs))
        return carry, output.value, output.distribution.sample(jax.random.key(0))

    def loss(params: Any, inputs: Inputs) -> Array:
        output = policy.unroll(params, policy.initial_carry(params), inputs)[1]
        return jnp.sum(output.value + output.distribution.log_prob(inputs.prev_action))

    params = jax.eval_shape(policy.init, jax.random.key(0))
    assert_lowers(step, params, inputs)
    assert_lowers(jax.grad(loss), params, inputs)


def play(family: EnvFamily) -> Callable[[Key], Any]:
    """Play a trial of two episodes with the action zero."""
    space = family.action_space

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del key, inputs
        return carry, jnp.int32(0) if isinstance(space, Discrete) else jnp.zeros(space.shape), ()

    def played(key: Key) -> Any:
        t = trial(key, act, (), family, family.tasks.sample(key), 2)[1]
        return t.inputs.obs, t.reward

    return played


@pytest.mark.slow
@pytest.mark.parametrize("builder", [builder for _, builder in FAMILIES], ids=[name for name, _ in FAMILIES])
def test_every_family_lowers(builder: Callable[[], EnvFamily]) -> None:
    assert_lowers(play(builder()), jax.random.key(0))


@pytest.mark.slow
def test_robots_lower_with_the_engine_that_accelerators_use() -> None:
    family = locomotion.half_cheetah_direction(horizon=6)
    assert_lowers(play(family), jax.random.key(0))


# ------------------------------------------------------------------------------------- what would not lower is caught


def test_an_algorithm_with_an_operation_for_cpus_only_is_caught() -> None:
    case = ALGORITHMS["multi_task"]["make"]()
    algorithm = case.make()

    def step(key: Key, state: Any) -> Any:
        # This operation is one of LAPACK; JAX has no other implementation.
        upper, _ = jax.lax.linalg.schur(jnp.eye(2) + jax.random.normal(key, (2, 2)))
        after, metrics = algorithm.step(key, state)
        return after, metrics | {"upper": upper[0, 0]}

    key = jax.random.key(0)
    state = jax.eval_shape(algorithm.init, key)
    assert jax.export.export(jax.jit(step), platforms=("cpu",))(key, state).platforms == ("cpu",)
    with pytest.raises(NotImplementedError, match=r"schur.*(cuda|gpu)"):
        assert_algorithm_lowers(algorithm._replace(step=step), case.tasks)


def test_a_host_callback_is_caught() -> None:
    with pytest.raises(NotImplementedError, match="python_callback"):
        assert_lowers(play(locomotion.half_cheetah_direction(horizon=6, engine="c")), jax.random.key(0))


# ------------------------------------------------------------------------------------------- decisions by the backend


def loops(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the number of loops in a program, including inner ones."""
    # A new function, because JAX would take an earlier trace from its cache.
    return str(jax.make_jaxpr(lambda *a: function(*a))(*arguments)).count("scan[")


def gradients(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    algorithm, key = case.make(), jax.random.key(0)
    return algorithm.step, (key, jax.eval_shape(algorithm.init, key))


def generated() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    spaces: tuple[Space, Space] = SPACES["index seen, one real action"]
    policy: Policy = NETWORKS["meta_network"]["make"](*spaces)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    inputs = Inputs(jnp.int32(0), jnp.zeros(1), jnp.float32(0), jnp.float32(0), jnp.bool_(True))
    return lambda p, x: policy.step(p, policy.initial_carry(p), x)[1].value, (params, inputs)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda: gradients(ALGORITHMS["anil"]["make"]()), id="tasks of gradient learners"),
        pytest.param(lambda: gradients(ALGORITHMS["reptile"]["make"]()), id="tasks of Reptile"),
        pytest.param(lambda: gradients(ALGORITHMS["in_context"]["make"]()), id="tasks that are read"),
        pytest.param(lambda: gradients(ALGORITHMS["rl2"]["make[bandit]"]()), id="trials"),
        pytest.param(generated, id="generated weights"),
    ],
)
def test_only_cpus_divide_work_to_fit_a_cache(
    program: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny cache, a CPU processes parts in a loop, and the program of an accelerator does not change."""
    as_before = loops(program()[0], *program()[1])
    monkeypatch.setattr(batching, "CACHED_BYTES", 0)
    monkeypatch.setattr(batching, "CACHED_CARRIES", 100)
    monkeypatch.setattr(batching, "LEAST_AT_ONCE", 1)
    monkeypatch.setattr(meta_network, "CHUNK", 1)
    assert loops(program()[0], *program()[1]) == as_before
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert loops(program()[0], *program()[1]) > as_before
