"""Experiments: presets build at their own size, combinations trace, and entries of a user train by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from toys import toy_algorithm, toy_family, toy_memory

from metarl_jax import cli, experiments, options, training
from metarl_jax.evaluation import Evaluation, meta_test
from metarl_jax.experiments import registry
from metarl_jax.family_checks import check_family
from metarl_jax.oracles import from_scratch
from metarl_jax.settings import Settings

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
    "head_units": 4,
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
    "model_size": 4,
    "heads": 2,
    "adaptation_episodes": 2,
    "model_trials": 2,
    "buffer_trials": 8,
    "latent_size": 2,
    "decoder_units": 4,
    "novelty_units": 4,
    "novelty_features": 4,
    "novelty_batch": 4,
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
    "initial_trials": 3,
    "replay_trials": 6,
    "batch_trials": 3,
}


def overrides(experiment: experiments.Experiment, changes: dict[str, Any], omniglot_folder: Path) -> dict[str, Any]:
    """Return the changes that are settings of the experiment, and the folder of its data."""
    changes = {**changes, "data_dir": str(omniglot_folder)}
    return {setting: value for setting, value in changes.items() if setting in experiment.fields()}


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the function's result. It is compiled without optimisations, because each of many presets runs once."""
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*arguments).compile(options)(*arguments)


def test_names_are_unique_and_found() -> None:
    names = experiments.names()
    assert names
    assert len(set(names)) == len(names)
    assert all(experiments.get(name).name == name for name in names)
    assert not set(names) & {entry.name for entry in [*registry.algorithms(), *registry.families()]}


def parts(name: str) -> tuple[str, str]:
    """The algorithm and the network are built.

    Families of tasks have a contract of their own, and settings have tests.
    """
    experiment = experiments.get(name)
    return experiment.algorithm, experiment.network


@pytest.mark.usefixtures("xland_benchmark")
@pytest.mark.parametrize("name", experiments.names())
def test_every_preset_builds_at_its_own_size(name: str, omniglot_folder: Path) -> None:
    experiment = experiments.get(name)
    fields = experiment.fields()
    assert set(experiment.settings) <= set(fields)
    problem = experiment.build(experiment.with_overrides(overrides(experiment, {}, omniglot_folder)))
    setting = experiment.measure.setting
    assert problem.stages == (1 if setting is None else fields[setting].default)
    assert problem.steps_per_iteration > 0
    assert experiment.oracles(problem, 2)
    # The algorithm says the same of itself.
    algorithm = problem.algorithm
    assert algorithm.iterations == problem.iterations
    assert algorithm.stage == experiment.measure.stage
    kind = registry.family(experiment.family).kind
    assert (algorithm.acting is not None, algorithm.predicting is not None) == (
        kind == "reinforcement",
        kind == "few-shot",
    )


def combinations() -> list[tuple[registry.Algorithm, registry.Family]]:
    """Every algorithm on every family that it applies to."""
    return [
        (algorithm, family)
        for algorithm in registry.algorithms()
        for family in registry.families()
        if registry.does_not_apply(algorithm, family) is None
    ]


def test_no_setting_of_a_combination_has_the_name_of_another_one() -> None:
    """The settings of all parts of an experiment have different names, because they share one command line."""
    for algorithm, family in combinations():
        for network in registry.networks(algorithm, family):
            made = experiments.combination(algorithm.name, family.name, network.name)
            names = [name for part in made.parts() for name in part]
            assert len(set(names)) == len(names), made.name
            assert not set(names) & options.RESERVED, made.name
            assert all(field.doc for field in made.fields().values()), made.name


# One family of each kind of actions and of labels. Other families differ from one of these in observations or sizes.
KINDS = ("bandit", "sinusoid", "navigation", "glyphs")


@pytest.mark.parametrize("family", [*KINDS[:2], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[2:])])
def test_every_algorithm_on_every_kind_of_task_traces(family: str, omniglot_folder: Path) -> None:
    entry, made = registry.family(family), None
    for algorithm in registry.algorithms():
        # Without a reference learner, only stored histories can be imitated (``tests/test_imitation.py``).
        if registry.does_not_apply(algorithm, entry) or (algorithm.interface == "imitation" and entry.source is None):
            continue
        # Every network serves RL²; that every algorithm takes it, on every kind of task, follows from the contract of
        # networks.
        networks = registry.networks(algorithm, entry)
        for network in networks if (algorithm.name, family) == ("rl2", "bandit") else networks[:1]:
            experiment = experiments.combination(algorithm.name, family, network.name)
            settings = experiment.with_overrides(overrides(experiment, {**SMALL, "steps": 1}, omniglot_folder))
            made = experiment.make_family(settings) if made is None else made
            problem = experiment.build(settings, family=made)
            key = jax.random.key(0)
            state = jax.eval_shape(problem.algorithm.init, key)
            after, metrics = jax.eval_shape(problem.algorithm.step, key, state)
            assert after == state
            assert all(value.shape == () for value in metrics.values())
            task = jax.eval_shape(problem.tasks.sample_heldout, key)
            score = jax.eval_shape(problem.algorithm.adapt, key, state, task).score
            assert score.shape == (problem.stages + (experiment.measure.first_stage == 0),)


def cover() -> list[str]:
    """Return presets that include every algorithm and every network."""
    met: set[str] = set()
    found = []
    for name in experiments.names():
        if not met.issuperset(parts(name)):
            met.update(parts(name))
            found.append(name)
    return found


def run_and_test(problem: Any) -> Any:
    """Train for two iterations, and evaluate on three held-out tasks."""

    def run(key: jax.Array) -> training.Chunk:
        return training.run(problem.algorithm, training.start(problem.algorithm, key), 2, capacity=2)

    chunk = compiled(run, jax.random.key(0))
    assert not bool(chunk.diverged)
    assert int(chunk.state.step) == 2
    states = jax.tree.map(lambda x: x[None], chunk.state.algorithm)

    def test(key: jax.Array, states: Any) -> Evaluation:
        return meta_test(key, problem.algorithm.adapt, states, problem.tasks, num_tasks=3)

    return compiled(test, jax.random.key(1), states).score


@pytest.mark.slow
@pytest.mark.parametrize("name", cover())
def test_every_algorithm_and_every_network_runs_two_steps(name: str, omniglot_folder: Path) -> None:
    experiment = experiments.get(name)
    problem = experiment.build(experiment.with_overrides(overrides(experiment, SMALL, omniglot_folder)))
    stages = 1 if experiment.measure.setting is None else 2
    assert (problem.stages, problem.iterations) == (stages, 2)
    horizon = getattr(problem.family, "horizon", None)
    # Two episodes for each inner step and for the query; multi-task training has only the query, and Reptile has two
    # queries for its metrics.
    batches = {"multi_task": 1, "multi_task_trpo": 1, "reptile": 4}.get(experiment.algorithm, 3)
    if horizon is None:
        assert problem.steps_per_iteration == 4
    elif registry.algorithm(experiment.algorithm).interface == "gradient":
        assert problem.steps_per_iteration == 4 * 2 * horizon * batches
    else:
        assert problem.steps_per_iteration == 4 * 2 * horizon
    scores = run_and_test(problem)
    assert scores.shape == (1, 3, stages + (experiment.measure.first_stage == 0))
    assert bool(jnp.all(jnp.isfinite(scores)))


# ------------------------------------------------------------------------------------------------------ references


def test_the_reference_that_learns_from_scratch_has_the_run_s_step_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr(from_scratch, "gradient_descent", lambda problem, steps, rate: rates.append(rate))
    for name in ("maml-sinusoid", "maml-navigation", "maml-corners"):
        experiment = experiments.get(name)
        for rate in (0.25, 0.125):
            problem = experiment.build(experiment.with_overrides({"inner_rate": rate}))
            experiment.oracles(problem, 1)
    assert rates == [0.25, 0.125] * 3


# ------------------------------------------------------------------------------------------------------------ toys

TOYS = (
    registry.Algorithm("toy_algorithm", "a toy", toy_algorithm, "policy", registry.REWARD_OF_TRIAL),
    registry.Network("toy-memory", "a toy", "toys.toy_memory", "policy"),
    registry.Family("toy-family", "a toy", "toys.toy_family:make", references=()),
)


@pytest.fixture
def toys() -> Iterator[None]:
    """An algorithm, a memory and a family of a user need one file each, and one line each for registration."""
    experiments.register(*TOYS)
    yield
    registry.unregister(*TOYS)


@pytest.mark.usefixtures("toys")
def test_toys_keep_the_contracts() -> None:
    check_family(toy_family.make())
    family = toy_family.make(length=4)
    policy = toy_memory.make(family, toy_memory.Settings(units=3))
    params = policy.init(jax.random.key(0))
    assert issubclass(toy_algorithm.Config, Settings)
    algorithm = toy_algorithm.make(family, policy, toy_algorithm.Config(episodes=2, trials=3, iterations=2))
    state = jax.jit(algorithm.init)(jax.random.key(1))
    after, _ = jax.eval_shape(algorithm.step, jax.random.key(2), state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.leaves(params)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["toy_algorithm", "toy-family", "--memory", "toy-memory"], "toy_algorithm toy-family toy-memory"),
        (["toy_algorithm", "bandit", "--arms", "3"], "toy_algorithm bandit"),
        (["rl2", "toy-family", "--memory", "toy-memory", "--minibatches", "1"], "rl2 toy-family toy-memory"),
    ],
)
def test_toys_train_by_name(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--iterations", "2", "--trials", "4", "--episodes", "2", "--evaluation-tasks", "4", "--run-dir", "run"]
    assert cli.main(["train", *words, *small]) == 0, capsys.readouterr().err
    assert f"{name}: mean" in (printed := capsys.readouterr().out) and "(ours)" in printed
    assert cli.main(["evaluate", "run", "--evaluation-tasks", "4"]) == 0


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="there is already a family 'bandit'"):
        experiments.register(registry.family("bandit"))
    with pytest.raises(ValueError, match=r"there is no family of tasks 'gridnav'.*did you mean gridnavi"):
        experiments.combination("rl2", "gridnav")
    with pytest.raises(ValueError, match=r"rl2 on gridnavi has no network 'snial' \(did you mean snail\?\)"):
        experiments.combination("rl2", "gridnavi", "snial")
    with pytest.raises(ValueError, match="promp does not apply to sinusoid: it needs a policy"):
        experiments.combination("promp", "sinusoid")
