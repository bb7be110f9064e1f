"""In-context learning: SNAIL as a learner, the embedding of images, and the algorithm."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metarl_jax import problems, training
from metarl_jax.algorithms import in_context
from metarl_jax.datasets import classification, sinusoid
from metarl_jax.evaluation import meta_test
from metarl_jax.interfaces.few_shot import FewShot, FewShotTask, InContextLearner
from metarl_jax.networks import convolutional, snail
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.oracles import nearest_example
from metarl_jax.types import Array, Key, TaskDistribution

ATTENTIONS = ((3, 4), (5, 2))


def small_learner(window: int = 6, outputs: int = 3) -> InContextLearner:
    return snail.in_context_learner(
        (2,), outputs, classes=True, window=window, attentions=ATTENTIONS, filters=3, embedding_size=5
    )


def episode(examples: int = 5, queries: int = 4) -> FewShotTask:
    keys = jax.random.split(jax.random.key(0), 4)
    support = jax.random.normal(keys[0], (examples, 2)), jax.random.randint(keys[1], (examples,), 0, 3)
    query = jax.random.normal(keys[2], (queries, 2)), jax.random.randint(keys[3], (queries,), 0, 3)
    return FewShotTask(support, query)


def shaken(learner: InContextLearner) -> Any:
    """Return parameters without zeros."""
    params = learner.init(jax.random.key(1))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)


@pytest.mark.parametrize("window", [6, 3])
def test_reading_equals_acting_step_by_step(window: int) -> None:
    """A learner has the layers of a policy that gets the support and then one query, step by step."""
    layers: list[int | snail.Attention] = [snail.Attention(3, 4), 1, 2, snail.Attention(5, 2)]
    design = snail.Design(window, 3, tuple(layers))
    module = snail.Layers(design)
    shown, asked = jax.random.normal(jax.random.key(0), (5, 4)), jax.random.normal(jax.random.key(1), (2, 4))
    params = module.init(jax.random.key(2), design.empty(), shown[0])
    params = jax.tree.map(lambda p: p + 0.1, params)
    got = cast("Array", module.apply(params, shown, asked, method="predict"))
    for query, features in zip(asked, got, strict=True):
        memory, expected = design.empty(), jnp.zeros(())
        for x in (*shown, query):
            memory, expected = cast("tuple[snail.Memory, Array]", module.apply(params, memory, x))
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_prediction_depends_only_on_the_query_and_the_support() -> None:
    learner, task = small_learner(), episode()
    params = shaken(learner)
    together = learner.predict(params, task.support, task.query[0])
    alone = jnp.concatenate([learner.predict(params, task.support, x[None]) for x in task.query[0]])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    x, y = task.support
    relabelled = learner.predict(params, (x, (y + 1) % 3), task.query[0])
    assert np.all(np.abs(relabelled - together) > 1e-6)


@pytest.mark.slow
def test_the_examples_farthest_back_are_forgotten() -> None:
    """One block over a window of 3 reaches back 1 + 2 steps, and each of two attentions 2 steps."""
    learner, task = small_learner(window=3), episode(examples=9, queries=1)
    params = shaken(learner)

    def predict(x: Array) -> Array:
        return jnp.sum(learner.predict(params, (x, task.support[1]), task.query[0]))

    matters = np.flatnonzero(np.any(np.asarray(jax.grad(predict)(task.support[0])) != 0, axis=1))
    assert 9 - int(matters[0]) == 3 + 2 + 2


def test_keys_and_queries_of_the_first_attention_start_equal() -> None:
    design = snail.Design(4, 3, (snail.Attention(6, 2), 1))
    params: Any = snail.Layers(design).init(jax.random.key(0), design.empty(), jnp.zeros(5))
    kernel = params["params"]["projections_0"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :6], kernel[:, 6:12])
    assert kernel.shape == (5, 14)


@pytest.mark.parametrize("size", [8, 7])
def test_pooled_embedding_is_flax_s(size: int) -> None:
    images = jax.random.normal(jax.random.key(0), (3, size, size, 2))
    module = convolutional.ImageEmbedding(4, 5, 1, pooling=True)
    params: Any = module.init(jax.random.key(1), images)
    inner = params["params"]["Convolution_0"]
    x = jnp.asarray(nn.Conv(5, (3, 3)).apply({"params": inner}, images))
    centred = x - jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    x = centred / jnp.sqrt(jnp.mean(centred**2, axis=(1, 2, 3), keepdims=True) + 1e-3)
    x = nn.max_pool(nn.relu(x), (2, 2), (2, 2)).reshape(3, -1)
    head = params["params"]["Dense_0"]
    expected = nn.relu(x @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(np.asarray(module.apply(params, images)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", [True, False])
def test_the_embedding_of_an_image_does_not_depend_on_the_batch(pooling: bool) -> None:
    learner = snail.in_context_learner(
        (12, 12, 1), 3, classes=True, window=4, attentions=[(3, 3)], filters=3, image_filters=4, image_blocks=4,
        pooling=pooling,
    )  # fmt: skip
    images = jax.random.normal(jax.random.key(0), (7, 12, 12, 1))
    params = jax.jit(learner.init)(jax.random.key(1))
    support = images[:3], jnp.arange(3)
    read = jax.jit(learner.predict)
    together = read(params, support, images[3:])
    np.testing.assert_allclose(together[:1], read(params, support, images[3:4]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((2, 2), {}, "input_shape must be (features,) or (height, width, channels), not (2, 2)"),
        ((0,), {}, "input_shape must be a positive whole number, not 0"),
        ((2,), {"window": 0}, "window must be a positive whole number, not 0"),
        ((2,), {"attentions": []}, "attentions must be at least one pair (key size, value size), not none"),
        ((2,), {"attentions": [(3, 0)]}, "attentions must be a positive whole number, not 0"),
        ((2,), {"filters": -1}, "filters must be a positive whole number, not -1"),
        ((4, 4, 1), {"image_blocks": 0}, "image_blocks must be a positive whole number, not 0"),
    ],
)
def test_bad_sizes(shape: tuple[int, ...], changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"window": 4, **changes}
    with pytest.raises(ValueError, match="must be") as raised:
        snail.in_context_learner(shape, 3, classes=True, **settings)
    assert str(raised.value) == message


def test_outputs_must_be_the_tasks() -> None:
    with pytest.raises(ValueError, match="the network has 2 outputs, and the tasks ask for 1"):
        problems.in_context(sinusoid.maml(3, 4), snail.in_context_learner((1,), 2, classes=False, window=4))


def clusters(distance: float) -> FewShot:
    """Make tasks of two classes, whose points are around opposite ends of a stick of random direction."""

    def direction(key: Key) -> Array:
        angle = jax.random.uniform(key, (), maxval=2 * jnp.pi)
        return distance / 2 * jnp.array([jnp.cos(angle), jnp.sin(angle)])

    def draw(key: Key, task: Array) -> FewShotTask:
        ends = jnp.stack([task, -task])[:, None]
        points = ends + jax.random.normal(key, (2, 6, 2))
        return classification.episode(key, points, shots=1)

    tasks = TaskDistribution(direction, direction)
    return FewShot(tasks, draw, classification.cross_entropy, classification.accuracy, outputs=2)


@pytest.mark.slow
def test_in_context_learning_improves_and_stays_below_the_optimum() -> None:
    """For a stick of 4 standard deviations, the nearer end is right for 97.7 % of points (normal distribution). The
    nearest example, one point at each end, is right less often.
    """
    problem = problems.in_context(
        clusters(4.0),
        snail.in_context_learner(
            (2,), 2, classes=True, window=3, attentions=[(8, 8), (8, 8)], filters=8, embedding_size=16
        ),
    )
    config = in_context.Config(iterations=400, tasks=64, learning_rate=3e-3)
    algorithm = in_context.make(problem, config)

    @jax.jit
    def learn(key: Key) -> training.Chunk:
        return training.run(algorithm, training.start(algorithm, key), 400, capacity=400)

    states = jax.tree.map(lambda x: x[None], learn(jax.random.key(0)).state.algorithm)

    def accuracy(adapt: Any, states: Any) -> Any:
        score = meta_test(jax.random.key(9), adapt, states, problem.tasks, num_tasks=4000).score
        return mean_with_interval(np.asarray(score[0, :, 0]))

    read, nearest = accuracy(algorithm.adapt, states), accuracy(nearest_example.make(problem).adapt, ())
    assert 0.85 < nearest.mean < 0.977
    assert read.low > nearest.mean - 0.02
    assert read.mean < 0.977
