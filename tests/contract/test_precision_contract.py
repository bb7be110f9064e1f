"""With JAX's 64-bit types all modules trace, and compute the same as without them (``metarl_jax.precision``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import pytest
from builders import ALGORITHMS, ENVIRONMENTS, flat

from metarl_jax import experiments, training
from metarl_jax.datasets import glyphs, omniglot, sinusoid
from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Problem
from metarl_jax.oracles import changing, driving, linear_quadratic
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, Discrete, EnvFamily, Inputs, Key

FAMILIES = flat(ENVIRONMENTS)
# Samplers of these tests draw in the default precision.
NOT_OURS = ("from_gymnax.", "locomotion.make")


@pytest.fixture(autouse=True)
def _sixty_four_bits() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def wide(tree: Any) -> list[str]:
    """Return the leaves of 64-bit dtypes."""
    leaves = jax.tree.leaves_with_path(tree)
    return [f"{jax.tree_util.keystr(path)}: {x.dtype}" for path, x in leaves if x.dtype.itemsize == 8 and not _key(x)]


def _key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield all equations of a program and of its inner programs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def wide_draws(jaxpr: Any) -> int:
    """Return the number of equations of a program that draw 64 random bits for a number."""
    drawn = [e for e in equations(jaxpr) if e.primitive.name == "random_bits"]
    return sum(e.params["bit_width"] == 64 for e in drawn)


def float64_results(jaxpr: Any) -> list[str]:
    """Return the equations that compute float64 arrays.

    Weakly typed arrays, which take the dtypes of others, do not count. Scalars do not count either, because Optax
    corrects a bias by one.
    """

    def is_wide(x: Any) -> bool:
        return getattr(x.aval, "dtype", None) == jnp.float64 and x.aval.ndim > 0 and not x.aval.weak_type

    return [str(e.primitive) for e in equations(jaxpr) if any(map(is_wide, e.outvars))]


def types(tree: Any) -> list[Any]:
    """Return structure, shapes and dtypes, and whether the dtypes are weak."""
    return [jax.tree.structure(tree), *((x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree))]


# ---------------------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize(("name", "builder"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_a_trial_of_every_family_is_stored_in_32_bits(name: str, builder: Callable[[], EnvFamily]) -> None:
    """Trials have 32-bit data for every precision of the environment and of the actor's actions and memory."""
    family = builder()
    space = family.action_space

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del key, inputs
        action = jnp.int64(0) if isinstance(space, Discrete) else jnp.zeros(space.shape, jnp.float64)
        return carry + jnp.int64(1), action, ()

    def play(key: Key) -> Any:
        task = family.tasks.sample(key)
        # Trials of one episode and of several episodes are different programs.
        return [trial(key, act, jnp.int32(0), family, task, episodes) for episodes in (1, 2)]

    jaxpr, shapes = jax.make_jaxpr(play, return_shape=True)(jax.random.key(0))
    for memory, t in shapes:
        assert memory.dtype == jnp.int32
        assert not wide(t)
        assert t.reward.dtype == t.inputs.prev_reward.dtype == t.inputs.prev_done.dtype == jnp.float32
        assert t.action.dtype == t.inputs.prev_action.dtype
        assert t.action.dtype == (jnp.int32 if isinstance(space, Discrete) else jnp.float32)
        assert t.inputs.obs.dtype == t.final_obs.dtype
        allowed = (jnp.int32,) if isinstance(family.observation_space, Discrete) else (jnp.float32, jnp.uint8)
        assert t.inputs.obs.dtype in allowed
    if not name.startswith(NOT_OURS):
        assert wide_draws(jaxpr) == 0


# -------------------------------------------------------------------------------------------------------- algorithms

CASES = flat(ALGORITHMS)


@pytest.mark.slow
@pytest.mark.parametrize("builder", [builder for _, builder in CASES], ids=[name for name, _ in CASES])
def test_every_algorithm_trains_and_adapts(builder: Callable[[], Any]) -> None:
    """The state has the same structure and dtypes as without 64-bit types, so that checkpoints fit both."""
    with jax.enable_x64(False):
        expected = jax.eval_shape(builder().make().init, jax.random.key(0))
    case = builder()
    algorithm = case.make()

    def train_and_adapt(key: Key) -> Any:
        chunk = training.run(algorithm, training.start(algorithm, key), 2, capacity=2)
        return chunk, algorithm.adapt(key, chunk.state.algorithm, case.tasks.sample_heldout(key))

    chunk, adaptation = jax.eval_shape(train_and_adapt, jax.random.key(0))
    assert types(chunk.state.algorithm) == types(expected)
    assert not wide((chunk, adaptation))


# ------------------------------------------------------------------------------------------------------- experiments


def network_of(name: str) -> Any:
    """The functions that make networks and learners."""
    experiment = experiments.get(name)
    learner, family = registry.algorithm(experiment.algorithm), registry.family(experiment.family)
    network = registry.network(learner, family, experiment.network)
    return f"{network.serves} {network.name}"


def oracles_of(name: str) -> str:
    """The functions that make the reference learners."""
    experiment = experiments.get(name)
    interface = registry.algorithm(experiment.algorithm).interface
    learns = interface if interface in ("gradient", "in-context") else ""
    return " ".join([learns, *registry.family(experiment.family).references])


def one_of_each(part: Callable[[str], Any]) -> list[str]:
    """Return names of experiments that together have all such parts."""
    return sorted({part(name): name for name in reversed(experiments.names())}.values())


def built(name: str, omniglot_folder: Path) -> Problem:
    """Build an experiment at its own size."""
    experiment = experiments.get(name)
    changes = {"data_dir": str(omniglot_folder)} if "data_dir" in experiment.fields() else {}
    return experiment.build(experiment.with_overrides(changes))


def assert_in_32_bits(problem: Problem, jaxpr: Any) -> None:
    """Nothing is computed in float64 except by robots, which are simulated in the default precision."""
    assert wide_draws(jaxpr) == 0
    robots = ("metarl_jax.environments.locomotion", "metarl_jax.environments.manipulation")
    if not type(getattr(problem.family, "env", None)).__module__.startswith(robots):
        assert not float64_results(jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each(network_of))
def test_every_network_learns_in_32_bits(name: str, omniglot_folder: Path) -> None:
    problem = built(name, omniglot_folder)
    algorithm = problem.algorithm

    def learn(key: Key) -> Any:
        state = algorithm.init(key)
        task = problem.tasks.sample_heldout(key)
        return state, *algorithm.step(key, state), algorithm.adapt(key, state, task)

    jaxpr, shapes = jax.make_jaxpr(learn, return_shape=True)(jax.random.key(0))
    before, after, *others = shapes
    assert after == before
    assert not wide((before, others))
    assert_in_32_bits(problem, jaxpr)


@pytest.mark.usefixtures("xland_benchmark")
@pytest.mark.parametrize("name", one_of_each(oracles_of))
def test_reference_learners_trace(name: str, omniglot_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Settings of some references are chosen by simulation before they are traced.
    for module, number in ((changing, "TASKS"), (driving, "TASKS"), (linear_quadratic, "PLANTS")):
        monkeypatch.setattr(module, number, 4)
    problem = built(name, omniglot_folder)
    oracles = experiments.get(name).oracles(problem, 2)
    assert oracles

    def measure(key: Key) -> list[Array]:
        task = problem.tasks.sample_heldout(key)
        return [oracle.adapt(key, (), task).score for oracle in oracles]

    jaxpr, scores = jax.make_jaxpr(measure, return_shape=True)(jax.random.key(0))
    assert not wide(scores)
    assert_in_32_bits(problem, jaxpr)


@pytest.mark.parametrize("make", ["maml", "reptile", "glyphs", "omniglot"])
def test_examples_of_few_shot_tasks_are_drawn_in_32_bits(make: str, omniglot_folder: Path) -> None:
    family = {
        "maml": lambda: sinusoid.maml(3, 4),
        "reptile": lambda: sinusoid.reptile(3, 4),
        "glyphs": lambda: glyphs.make(5, 1, 2),
        "omniglot": lambda: omniglot.few_shot(omniglot.load(omniglot_folder), 5, 1, 2),
    }[make]()
    jaxpr, drawn = jax.make_jaxpr(lambda key: family.draw(key, family.tasks.sample(key)), return_shape=True)(
        jax.random.key(0)
    )
    assert not wide(drawn)
    assert wide_draws(jaxpr) == 0
