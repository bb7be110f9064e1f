"""Every preset builds as it is; each algorithm and each network, made small, trains two steps and is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from metarl_jax import experiments, training
from metarl_jax.evaluation import Evaluation, meta_test
from metarl_jax.experiments import few_shot
from metarl_jax.experiments.control import ClassicControl

SMALL = {
    "episodes": 2,
    "iterations": 2,
    "trials": 4,
    "tasks": 4,
    "epochs": 1,
    "minibatches": 2,
    "hidden_size": 4,
    "embedding_size": 3,
    "units": 4,
    "key_size": 3,
    "value_size": 4,
    "readout_size": 4,
    "generator_size": 4,
    "inner_steps": 2,
    "adaptation_steps": 2,
    "filters": 4,
    "image_filters": 4,
    "blocks": 2,
    "window": 3,
    "layers": 1,
    "size": 4,
    "heads": 2,
    "adaptation_episodes": 2,
    "model_trials": 2,
    "buffer_trials": 8,
    "latent_size": 2,
    "decoder_units": 4,
    "policy_units": 4,
    "encoder_units": 4,
    "training_tasks": 6,
    "prior_episodes": 1,
    "posterior_episodes": 1,
    "initial_episodes": 2,
    "replay_episodes": 4,
    "gradient_steps": 2,
    "meta_batch": 2,
    "batch_size": 3,
}


def overrides(name: str, changes: dict[str, Any], omniglot_folder: Path) -> dict[str, Any]:
    """Those of the changes that the experiment knows, and where its data are."""
    changes = {**changes, "data_dir": str(omniglot_folder)}
    return {setting: value for setting, value in changes.items() if setting in experiments.get(name).fields()}


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result. There are many presets and each runs once: the compiler's optimisations do not pay."""
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*arguments).compile(options)(*arguments)


def test_names_are_unique_and_found() -> None:
    names = experiments.names()
    assert names
    assert len(set(names)) == len(names)
    assert all(experiments.get(name).name == name for name in names)


# Of few-shot classification, whatever the images.
LEARNERS = {few_shot.Descent, few_shot.SNAILReading, few_shot.MetaNetworkReading}


def parts(name: str) -> tuple[str, str]:
    """The algorithm and the network; families of tasks have a contract of their own, and settings have tests."""
    experiment = experiments.get(name)
    network = next((base for base in experiment.network.__bases__ if base in LEARNERS), experiment.network)
    return experiment.algorithm, network.__name__


@pytest.mark.usefixtures("xland_benchmark")
@pytest.mark.parametrize("name", experiments.names())
def test_every_preset_builds_at_its_own_size(name: str, omniglot_folder: Path) -> None:
    experiment = experiments.get(name)
    problem = experiment.build(experiment.with_overrides(overrides(name, {}, omniglot_folder)))
    setting = experiment.measure.setting
    assert problem.stages == (1 if setting is None else experiment.fields()[setting].default)
    assert problem.steps_per_iteration > 0
    assert experiment.oracles(problem, 2)


PAIRS = {parts(name): name for name in reversed(experiments.names())}


@pytest.mark.parametrize("name", sorted(PAIRS.values()))
def test_every_pair_of_algorithm_and_network_traces_at_its_own_size(name: str, omniglot_folder: Path) -> None:
    experiment = experiments.get(name)
    problem = experiment.build(experiment.with_overrides(overrides(name, {}, omniglot_folder)))
    state = jax.eval_shape(problem.algorithm.init, jax.random.key(0))
    after, metrics = jax.eval_shape(problem.algorithm.step, jax.random.key(0), state)
    assert after == state
    assert all(value.shape == () for value in metrics.values())


def cover() -> list[str]:
    """Presets with every algorithm and every network among them."""
    met: set[str] = set()
    found = []
    for name in experiments.names():
        if not met.issuperset(parts(name)):
            met.update(parts(name))
            found.append(name)
    return found


@pytest.mark.parametrize("name", cover())
def test_every_algorithm_and_every_network_runs_two_steps(name: str, omniglot_folder: Path) -> None:
    experiment = experiments.get(name)
    problem = experiment.build(experiment.with_overrides(overrides(name, SMALL, omniglot_folder)))
    stages = 1 if experiment.measure.setting is None else 2
    assert (problem.stages, problem.iterations) == (stages, 2)
    # A family, or a function that makes one of held-out tasks of a kind.
    family = problem.family("in_range") if experiment.network is ClassicControl else problem.family
    horizon = getattr(family, "horizon", None)
    # Two episodes for each inner step and for the query; multi-task training has but the query, and Reptile two of them
    # for its metrics.
    batches = {"multi_task": 1, "reptile": 4}.get(experiment.algorithm, 3)
    if experiment.algorithm in ("rl2", "rl2_asymmetric", "varibad", "pearl"):
        assert problem.steps_per_iteration == 4 * 2 * family.horizon
    elif horizon is None:
        assert problem.steps_per_iteration == 4
    else:
        assert problem.steps_per_iteration == 4 * 2 * horizon * batches

    def run(key: jax.Array) -> training.Chunk:
        return training.run(problem.algorithm, training.start(problem.algorithm, key), 2, capacity=2)

    chunk = compiled(run, jax.random.key(0))
    assert not bool(chunk.diverged)
    assert int(chunk.state.step) == 2
    states = jax.tree.map(lambda x: x[None], chunk.state.algorithm)

    def test(key: jax.Array, states: Any) -> Evaluation:
        return meta_test(key, problem.algorithm.adapt, states, problem.tasks, num_tasks=3)

    scores = compiled(test, jax.random.key(1), states).score
    assert scores.shape == (1, 3, stages + (experiment.measure.first_stage == 0))
    assert bool(jnp.all(jnp.isfinite(scores)))
