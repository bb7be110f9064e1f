"""Few-shot learners adapt and predict in the same way as their algorithms do on held-out tasks."""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import experiments, problems
from metarl_jax.algorithms import in_context, maml, reptile
from metarl_jax.datasets import glyphs, sinusoid
from metarl_jax.few_shot_learner import FewShotLearner
from metarl_jax.interfaces.few_shot import FewShotFamily
from metarl_jax.networks import convolutional, meta_network, mlp, snail
from metarl_jax.training import start
from metarl_jax.types import Algorithm

WAVES = sinusoid.maml_family(shots=4, queries=3, heldout_shots=5, heldout_queries=6)
GLYPHS = glyphs.family(ways=3, heldout_shots=2, heldout_queries=2)

SIZES: dict[str, dict[str, Any]] = {
    "maml sinusoid": {},
    "anil sinusoid": {},
    "cavia sinusoid": {"inner_rate": 0.1},
    "meta_sgd sinusoid": {},
    "imaml sinusoid": {"strength": 2.0},
    "multi_task sinusoid": {},
    "reptile sinusoid-reptile": {"inner_rate": 0.05},
    "in_context sinusoid": {"filters": 4, "key_size": 4, "value_size": 4, "embedding_size": 8},
    "maml glyphs": {"filters": 4, "ways": 3, "heldout_queries": 2},
    "reptile glyphs": {"filters": 4, "ways": 3, "transductive": False},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "maml sinusoid")) for n in SIZES])
def test_predictions_have_the_score_of_adapt(name: str) -> None:
    experiment = experiments.get(name)
    steps = {"adaptation_steps": 2} if "adaptation_steps" in experiment.fields() else {}
    problem = experiment.build(experiment.with_overrides({"iterations": 1, "tasks": 2, **steps, **SIZES[name]}))
    algorithm = problem.algorithm
    assert algorithm.acting is None
    state = start(algorithm, jax.random.key(0))
    tasks = jax.vmap(problem.tasks.sample_heldout)(jax.random.split(jax.random.key(1), 3))
    expected = jax.jit(jax.vmap(algorithm.adapt, (0, None, 0)))(
        jax.random.split(jax.random.key(2), 3), state.algorithm, tasks
    ).score
    learner = FewShotLearner(algorithm, state, problem.family)
    learner.adapt(*tasks.support)
    found = jax.vmap(problem.family.heldout.score)(learner.predict(tasks.query[0]), tasks.query[1])
    np.testing.assert_allclose(found, expected[:, -1], rtol=2e-3, atol=1e-5)
    if expected.shape[1] > 1:
        assert np.all(np.abs(found - expected[:, 0]) > 1e-5) or experiment.family == "glyphs"


def untrained(algorithm: Algorithm) -> Any:
    """Return a state of zeros, which compiles nothing."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(algorithm.init, jax.random.key(0)))


def _maml(**settings: Any) -> Algorithm:
    problem = problems.few_shot(WAVES.training, mlp.predictor(1, 1, hidden_sizes=(8,)), heldout=WAVES.heldout)
    return maml.make(problem, maml.Config(tasks=2, adaptation_steps=2, iterations=3, **settings))


@pytest.fixture(scope="module")
def waves() -> FewShotLearner:
    algorithm = _maml()
    return FewShotLearner(algorithm, start(algorithm, jax.random.key(0)), WAVES, origin={"experiment": "mine"})


def classifier() -> FewShotLearner:
    network = convolutional.classifier((28, 28, 1), 3, filters=2)
    algorithm = maml.make(problems.few_shot(GLYPHS.training, network), maml.Config(adaptation_steps=1))
    return FewShotLearner(algorithm, untrained(algorithm), GLYPHS)


def test_a_learner_adapts_to_one_task_after_another(waves: FewShotLearner) -> None:
    x, query = np.linspace(-5, 5, 5)[:, None], np.linspace(-2, 2, 4)[:, None]
    waves.adapt(x, np.sin(x))
    first = waves.predict(query)
    assert (first.shape, first.dtype) == ((4, 1), np.float32)
    waves.adapt(x, -np.sin(x))
    second = waves.predict(query)
    assert not np.allclose(first, second)
    waves.adapt(x.tolist(), np.sin(x).tolist())  # lists are as good as arrays
    np.testing.assert_array_equal(waves.predict(query), first)
    # A batch of tasks.
    waves.adapt(np.stack([x, x]), np.stack([np.sin(x), -np.sin(x)]))
    np.testing.assert_allclose(waves.predict(np.stack([query, query])), np.stack([first, second]), rtol=1e-5, atol=1e-6)
    assert waves.origin == {"experiment": "mine"}
    assert waves.examples.supports == (4, 5)


X = np.zeros((5, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(5), X), r"inputs must have shape \[N, 1\] or \[tasks, N, 1\], not \[5\]"),
        ((np.zeros((0, 1)), X), r"inputs must have shape \[N, 1\] or \[tasks, N, 1\], not \[0, 1\]"),
        ((np.zeros((5, 2)), X), r"inputs must have shape \[N, 1\] or \[tasks, N, 1\], not \[5, 2\]"),
        ((X, np.zeros(5)), r"targets must have shape \[5, 1\] for these inputs, not \[5\]"),
        ((X[None], X), r"targets must have shape \[1, 5, 1\] for these inputs, not \[5, 1\]"),
        ((X, np.zeros((4, 1))), r"targets must have shape \[5, 1\] for these inputs, not \[4, 1\]"),
        ((X, np.full((5, 1), np.nan)), "targets must be finite"),
        ((np.full((5, 1), np.inf), X), "inputs must be finite"),
        ((X, "sine"), "targets must be numeric, not 'sine'"),
        ((X + 1j, X), "inputs must be numeric"),
        (([[1.0], [2.0, 3.0]], X), "inputs must be numeric"),
    ],
)
def test_wrong_examples_are_one_clear_error_before_anything_compiles(
    waves: FewShotLearner, arguments: tuple[Any, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with jax.log_compiles(), caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=message):
        waves.adapt(*arguments)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_wrong_classes_seeds_and_queries_are_refused(waves: FewShotLearner) -> None:
    learner = classifier()
    images = np.zeros((3, 28, 28, 1))
    with pytest.raises(ValueError, match="has not adapted to a task yet: call adapt first"):
        learner.predict(images)
    for labels, message in (
        ([0, 1, 3], "targets must be classes from 0 to 2, not 0 to 3"),
        ([0, -1, 2], "targets must be classes from 0 to 2, not -1 to 2"),
        ([0, 1.5, 2], "targets must be whole numbers of the type int32"),
        ([[0, 1, 2]], r"targets must have shape \[3\] for these inputs, not \[1, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.adapt(images, labels)
    with pytest.raises(ValueError, match="seed must be"):
        learner.adapt(images, [0, 1, 2], seed=-1)
    with pytest.raises(ValueError, match=r"inputs must have shape \[N, 28, 28, 1\] or \[tasks, N, 28, 28, 1\]"):
        learner.adapt(images[..., 0], [0, 1, 2])
    waves.adapt(X[None], X[None])
    with pytest.raises(ValueError, match=r"inputs must have shape \[1, Q, 1\], as the examples before, not \[5, 1\]"):
        waves.predict(X)
    with pytest.raises(
        ValueError, match=r"inputs must have shape \[1, Q, 1\], as the examples before, not \[2, 5, 1\]"
    ):
        waves.predict(np.stack([X, X]))


def test_numbers_of_examples_that_a_network_cannot_use_are_refused() -> None:
    reader = snail.in_context_learner(
        (1,), 1, classes=False, window=6, attentions=[(4, 4)], filters=2, embedding_size=4
    )
    algorithm = in_context.make(
        problems.in_context(WAVES.training, reader, heldout=WAVES.heldout), in_context.Config(iterations=1)
    )
    learner = FewShotLearner(algorithm, untrained(algorithm), WAVES)
    with pytest.raises(ValueError, match="this learner uses at most 5 examples of a task, not 6"):
        learner.adapt(np.zeros((6, 1)), np.zeros((6, 1)))
    family = glyphs.family(ways=2, shots=1, heldout_shots=1)
    parts = meta_network.make_in_context(family, meta_network.InContextSettings(filters=2, hidden_size=4, steps=2))
    algorithm = in_context.make(problems.in_context(family.training, parts), in_context.Config(iterations=1))
    learner = FewShotLearner(algorithm, untrained(algorithm), family)
    with pytest.raises(ValueError, match=r"the learner does not take 3 examples of shape \[28, 28, 1\]"):
        learner.adapt(np.zeros((3, 28, 28, 1)), [0, 1, 1])


def test_learners_of_the_other_kind_are_refused(waves: FewShotLearner) -> None:
    family = mrl.environments.bandits.bernoulli(arms=2)
    config = mrl.algorithms.rl2.Config(episodes=2, trials=2, minibatches=1, iterations=1)
    acting = mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family), config)
    with pytest.raises(ValueError, match=r"this algorithm does not predict: .* \(Agent\)"):
        FewShotLearner(acting, untrained(acting), WAVES)
    algorithm = _maml()
    state = untrained(algorithm)
    with pytest.raises(ValueError, match=r"this algorithm does not act: .* \(FewShotLearner\)"):
        mrl.Agent(algorithm, state, family)
    with pytest.raises(ValueError, match=r"the learner predicts \[1, 28, 28, 1\], but the family's"):
        FewShotLearner(algorithm, state, FewShotFamily(GLYPHS.training, GLYPHS.training))
    with pytest.raises(TypeError, match="the state does not belong to the algorithm"):
        FewShotLearner(algorithm, {"weights": jnp.zeros(3)}, WAVES)


def test_minibatches_of_the_support_depend_on_the_seed() -> None:
    problem = problems.few_shot(
        WAVES.training,
        mlp.predictor(1, 1, hidden_sizes=(8,)),
        problems.FewShotSettings(heldout_batch_size=2),
        heldout=WAVES.heldout,
    )
    algorithm = reptile.make(problem, reptile.Config(inner_steps=1, adaptation_steps=3, inner_rate=0.1))
    learner = FewShotLearner(algorithm, start(algorithm, jax.random.key(0)), WAVES)
    x = np.linspace(-5, 5, 5)[:, None]
    found = []
    for seed in (0, 0, 1):
        learner.adapt(x, np.sin(x), seed=seed)
        found.append(learner.predict(x))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])
