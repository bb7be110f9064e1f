"""Meta Networks against slow, plain implementations, and the inputs that they may depend on."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.interfaces.few_shot import InContextLearner
from metarl_jax.networks import meta_network
from metarl_jax.types import Array, Discrete, Inputs, Spaces

WAYS, SHAPE = 3, (5, 3, 1)
SIZES: dict[str, Any] = {"filters": 4, "hidden_size": 5, "generator_size": 4}


def example(shots: int = 1, queries: int = 4) -> tuple[tuple[Array, Array], Array, Array]:
    """Return the support, and the images and labels of the query."""
    keys = jax.random.split(jax.random.key(5), 2)
    support = jax.random.normal(keys[0], (WAYS * shots, *SHAPE))
    query = jax.random.normal(keys[1], (queries, *SHAPE))
    return (support, jnp.arange(WAYS * shots, dtype=jnp.int32) % WAYS), query, jnp.arange(queries) % WAYS


@functools.cache
def network(steps: int = WAYS, blocks: int = 1) -> tuple[InContextLearner, Any]:
    """Return a compiled learner, and parameters at which the fast weights are far from zero."""
    learner = meta_network.in_context_learner(SHAPE, WAYS, steps=steps, blocks=blocks, **SIZES)
    return learner._replace(predict=jax.jit(learner.predict)), drawn_as(learner.init)


def drawn_as(init: Any) -> Any:
    """Return random parameters of the shapes of a network's, without compiling anything."""
    rng = np.random.default_rng(0)

    def drawn(path: Any, leaf: Any) -> Array:
        scale = 0.1 if path[-1].key == "bias" else 0.5
        return jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(
        lambda path, leaf: drawn([k for k in path if hasattr(k, "key")], leaf), jax.eval_shape(init, jax.random.key(0))
    )


# ---------------------------------------------------------------------------------------- plain, slow implementation


def presented(gradient: Any) -> np.ndarray:
    """Return the preprocessed numbers ``[..., 2]``, computed one after another."""

    def of(x: float) -> tuple[float, float]:
        if abs(x) >= math.exp(-7):
            return math.log(abs(x)) / 7, math.copysign(1.0, x)
        return -1.0, math.exp(7) * x

    gradient = np.asarray(gradient, np.float64)
    return np.array([of(x) for x in gradient.reshape(-1)]).reshape(*gradient.shape, 2)


def pointwise(params: Any, gradient: Any) -> np.ndarray:
    x = presented(gradient)
    for name in ("first", "second"):
        x = np.maximum(x @ np.asarray(params[name]["kernel"]).T + np.asarray(params[name]["bias"]), 0)
    return x @ np.asarray(params["output"]["kernel"]) + float(params["output"]["bias"])


def sequential(params: Any, gradients: list[Any]) -> np.ndarray:
    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    weights = {name: np.asarray(params[name], np.float64) for name in ("input", "recurrent", "bias")}
    hidden = cell = np.zeros((*np.shape(gradients[0]), weights["bias"].shape[1]))
    for gradient in gradients:
        write, forget, read, candidate = (
            presented(gradient) @ weights["input"][gate].T
            + hidden @ weights["recurrent"][gate].T
            + weights["bias"][gate]
            for gate in range(4)
        )
        cell = sigmoid(forget) * cell + sigmoid(write) * np.tanh(candidate)
        hidden = sigmoid(read) * np.tanh(cell)
    return hidden @ np.asarray(params["output"]["kernel"]) + float(params["output"]["bias"])


def convolved(image: Array, kernel: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=layout)


def layers_of(slow: Any, fast: Any, image: Array) -> tuple[Array, Array]:
    """Return the features of ONE image, and the next layer before rectification, slow and fast: ``[2, H]``."""
    x = image[None]
    for block in range(len(slow["convolutions"])):
        kernels = [weights["convolutions"][block] for weights in (slow, fast) if weights is not None]
        x = sum(jnp.maximum(convolved(x, kernel), 0) for kernel in kernels)
        # 5x3 becomes 3x2, and then 2x1: an odd edge is a window of its own.
        height, width = -(-x.shape[1] // 2), -(-x.shape[2] // 2)  # pyright: ignore[reportAttributeAccessIssue]
        rows = [
            [jnp.max(x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], axis=(0, 1)) for j in range(width)]  # pyright: ignore[reportIndexIssue]
            for i in range(height)
        ]
        x = jnp.stack([jnp.stack(row) for row in rows])[None]
    features = x.reshape(-1)  # pyright: ignore[reportAttributeAccessIssue]
    none = jnp.zeros(slow["hidden"].shape[1])
    return features, jnp.stack([features @ slow["hidden"], none if fast is None else features @ fast["hidden"]])


def loss_of(logits: Array, label: Array) -> Array:
    return jnp.log(jnp.sum(jnp.exp(logits))) - logits[label]


def plain(params: Any, support: tuple[Array, Array], images: Array, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of each query, and those under uniform attention, computed number by number."""
    x, y = support
    slow, representation = params["base"], params["representation"]
    drawn = np.random.RandomState(0).normal(size=(SIZES["hidden_size"], WAYS)) / SIZES["hidden_size"] ** 0.5

    def representation_loss(weights: Any, part: int) -> Array:
        size = len(x) // steps
        losses = [
            loss_of(jnp.maximum(layers_of(weights, None, x[i])[1][0], 0) @ jnp.float32(drawn), y[i])
            for i in range(part * size, (part + 1) * size)
        ]
        return sum(losses[1:], start=losses[0]) / size

    def base_loss(weights: Any, image: Array, label: Array) -> Array:
        return loss_of(jnp.maximum(layers_of(weights, None, image)[1][0], 0) @ weights["output"], label)

    def generated(generator: Any, generators: Any, gradients: list[Any]) -> Any:
        def kind(path: Any) -> Any:
            return generators["convolution" if path[0].key == "convolutions" else "dense"]

        return jax.tree.map_with_path(lambda path, *leaves: generator(kind(path), list(leaves)), *gradients)

    # The functions are compiled for speed, but they are not batched.
    of_representation = jax.jit(jax.grad(representation_loss), static_argnums=1)
    of_base = jax.jit(jax.grad(base_loss))
    task_fast = generated(
        sequential, params["task"], [of_representation(representation, part) for part in range(steps)]
    )
    memory = [
        generated(lambda p, g: pointwise(p, g[0]), params["example"], [of_base(slow, a, b)])
        for a, b in zip(x, y, strict=True)
    ]
    both = jax.jit(lambda slow, fast, image: layers_of(slow, fast, image)[1])

    def key_of(image: Array) -> np.ndarray:
        return np.asarray(both(representation, task_fast, image).sum(0), np.float64)

    keys, logits = [key_of(image) for image in x], []
    for image in images:
        key = key_of(image)
        scores = np.exp([key @ k / np.sqrt((key @ key) * (k @ k) + 1e-6) for k in keys])
        for attention in (scores / scores.sum(), np.full(len(x), 1 / len(x))):
            fast = jax.tree.map(
                lambda *leaves, a=attention: sum(w * leaf for w, leaf in zip(a, leaves, strict=True)), *memory
            )
            hidden = np.maximum(both(slow, fast, image), 0).sum(0)
            logits.append(hidden @ np.asarray(slow["output"]) + hidden @ fast["output"])
    return np.array(logits[::2]), np.array(logits[1::2])


# ------------------------------------------------------------------------------------------------------ generators


def test_gradients_are_presented_by_the_published_rule() -> None:
    size, sign = meta_network.preprocess(jnp.array([math.exp(-3.5), -1.0, 0.0, 1e-4, -1e-5, math.exp(2.0)]))
    np.testing.assert_allclose(size, [-0.5, 0.0, -1.0, -1.0, -1.0, 2 / 7], atol=1e-6)
    np.testing.assert_allclose(sign, [1.0, -1.0, 0.0, 1e-4 * math.exp(7), -1e-5 * math.exp(7), 1.0], rtol=1e-5)
    at_edge = meta_network.preprocess(jnp.array([math.exp(-7) * 1.0001, math.exp(-7) * 0.9999]))
    np.testing.assert_allclose(at_edge, [[-1, -1], [1, 1]], atol=2e-4)


@pytest.mark.parametrize("chunk", [5, 100])
def test_generators_written_out_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(meta_network, "CHUNK", chunk)
    _, params = network()
    gradients = jnp.exp(jax.random.uniform(jax.random.key(2), (3, 14), minval=-12.0, maxval=1.0))
    gradients *= jax.random.rademacher(jax.random.key(3), gradients.shape)
    generators = params["example"]["dense"], params["task"]["dense"]
    each = jax.jit(meta_network._generate_each)(generators[0], gradients)
    np.testing.assert_allclose(each, pointwise(generators[0], gradients), rtol=1e-4, atol=1e-5)
    one = jax.jit(meta_network._generate_one)(generators[1], gradients)
    np.testing.assert_allclose(one, sequential(generators[1], list(gradients)), rtol=1e-4, atol=1e-5)


def test_the_lstm_s_derivative_is_that_of_its_definition() -> None:
    kernel = jax.random.normal(jax.random.key(0), (4, 5, 8))
    gradients = 0.1 * jax.random.normal(jax.random.key(1), (3, 7))
    weight = jax.random.normal(jax.random.key(2), (5, 7))
    written = jax.jit(jax.grad(lambda k, g: jnp.sum(weight * meta_network._last_hidden(k, g)), (0, 1)))(
        kernel, gradients
    )
    expected = jax.jit(jax.grad(lambda k: jnp.sum(weight * meta_network._unroll(k, gradients)[0])))(kernel)
    np.testing.assert_allclose(written[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(written[1], 0)


# -------------------------------------------------------------------------------------------------- classification


def test_the_reader_written_out() -> None:
    """A learner with two blocks, and two steps of three examples each, equals the plain implementation."""
    learner, params = network(steps=2, blocks=2)
    support, images, _ = example(shots=2)
    expected, alike = plain(params, support, images, steps=2)
    got = learner.predict(params, support, images)
    error = float(np.max(np.abs(got - expected)))
    assert error < 1e-3 * np.max(np.abs(expected))
    assert error < 0.1 * np.max(np.abs(alike - expected)), "the effect of attention must be larger than rounding"


def test_sizes_are_the_published_ones() -> None:
    shapes = jax.eval_shape(meta_network.in_context_learner((28, 28, 1), 5).init, jax.random.key(0))
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    kernels = 9 * 64 + 4 * 9 * 64 * 64
    assert count["representation"] == kernels + 64 * 64
    assert count["base"] == kernels + 64 * 64 + 64 * 5
    # The generators are 2 -> 20 -> 20 -> 1, and an LSTM 2 -> 20 with 20 -> 1; kernels have their own, as have layers.
    assert count["example"] == 2 * (3 * 20 + 21 * 20 + 21)
    assert count["task"] == 2 * (4 * 20 * (2 + 20 + 1) + 21)


def test_order_matters_only_between_steps_of_the_lstm() -> None:
    support, images, _ = example(shots=2)

    def predicted(steps: int, order: list[int]) -> Array:
        learner, params = network(steps)
        return learner.predict(params, jax.tree.map(lambda z: z[jnp.array(order)], support), images)

    kept, swapped, across = list(range(6)), [2, 0, 1, 5, 4, 3], [3, 1, 2, 0, 4, 5]
    np.testing.assert_allclose(predicted(2, swapped), predicted(2, kept), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predicted(1, across), predicted(1, kept), rtol=1e-4, atol=1e-5)
    assert float(jnp.max(jnp.abs(predicted(2, [3, 4, 5, 0, 1, 2]) - predicted(2, kept)))) > 1e-4


def test_queries_do_not_see_each_other() -> None:
    learner, params = network()
    support, images, _ = example()
    together = learner.predict(params, support, images)
    for i in range(len(images)):
        np.testing.assert_allclose(
            learner.predict(params, support, images[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5
        )
    poisoned = learner.predict(params, support, images.at[1].set(jnp.nan))
    np.testing.assert_allclose(poisoned[jnp.array([0, 2, 3])], together[jnp.array([0, 2, 3])], rtol=1e-5)


def test_labels_are_read() -> None:
    learner, params = network()
    (x, y), images, _ = example()
    assert float(
        jnp.max(jnp.abs(learner.predict(params, (x, (y + 1) % WAYS), images) - learner.predict(params, (x, y), images)))
    )


def test_every_weight_is_learned_and_no_derivative_passes_through_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivative of the loss is the same if the generators' inputs are recorded and then replaced by constants."""
    _, params = network()
    learner = meta_network.in_context_learner(SHAPE, WAYS, steps=WAYS, blocks=1, **SIZES)
    support, images, labels = example()

    def loss(params: Any) -> Array:
        return jnp.mean(jax.vmap(loss_of)(learner.predict(params, support, images), labels))

    gradient = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert bool(jnp.any(leaf != 0)), f"{jax.tree_util.keystr(path)} has no gradient"

    generate_all, recorded = meta_network._make_fast, []

    def record(generate: Any, generators: Any, gradients: Any) -> Any:
        recorded.append(gradients)
        return generate_all(generate, generators, gradients)

    def recording(params: Any) -> Any:
        loss(params)
        return recorded

    monkeypatch.setattr(meta_network, "_make_fast", record)
    constants = iter(jax.jit(recording)(params))
    monkeypatch.setattr(
        meta_network, "_make_fast", lambda generate, generators, _: generate_all(generate, generators, next(constants))
    )
    expected = jax.jit(jax.grad(loss))(params)
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_vectors_are_their_own_features() -> None:
    learner = meta_network.in_context_learner((6,), WAYS, steps=2, hidden_size=5, generator_size=4)
    params = drawn_as(learner.init)
    assert params["example"].keys() == params["task"].keys() == {"dense"}
    keys = jax.random.split(jax.random.key(5), 2)
    support = jax.random.normal(keys[0], (6, 6)), jnp.arange(6, dtype=jnp.int32) % WAYS
    vectors = jax.random.normal(keys[1], (4, 6))
    expected, alike = plain(params, support, vectors, steps=2)
    error = float(np.max(np.abs(jax.jit(learner.predict)(params, support, vectors) - expected)))
    assert error < 1e-3 * np.max(np.abs(expected))
    assert error < 0.1 * np.max(np.abs(alike - expected))


# ------------------------------------------------------------------------------------------ reinforcement learning


def test_factors_are_those_of_the_gradient() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    layer, outcome = jax.random.normal(keys[0], (4, 6)), jax.random.normal(keys[1], (6, 3))
    situation, happened = jax.random.normal(keys[2], (5, 4)), jax.random.normal(keys[3], (5, 3))

    def loss(layer: Array, situation: Array, happened: Array) -> Array:
        return 0.5 * jnp.sum((jnp.maximum(situation @ layer, 0) @ outcome - happened) ** 2)

    inner, outer = meta_network.gradient_factors(layer, outcome, situation, happened)
    for i in range(5):
        expected = jax.grad(loss)(layer, situation[i], happened[i])
        np.testing.assert_allclose(jnp.outer(inner[i], outer[i]), expected, rtol=1e-4, atol=1e-5)


def test_the_memory_written_out() -> None:
    """Compute fast weights as matrices, from one gradient for each step, averaged by a softmax of cosines."""
    states, actions, steps, window = 4, 3, 9, 3
    policy = meta_network.make(
        Spaces(Discrete(states), Discrete(actions)),
        meta_network.Settings(window=window, embedding_size=6, hidden_size=5, key_size=3, readout_size=7),
    )
    params = drawn_as(policy.init)
    keys = jax.random.split(jax.random.key(2), 4)
    inputs = Inputs(
        obs=jax.random.randint(keys[0], (steps,), 0, states),
        prev_action=jax.random.randint(keys[1], (steps,), 0, actions),
        prev_reward=jax.random.normal(keys[2], (steps,)),
        prev_done=jax.random.bernoulli(keys[3], 0.3, (steps,)).astype(jnp.float32),
        first=jnp.arange(steps) == 0,
    )
    carry, output = jax.jit(policy.unroll)(params, policy.initial_carry(params), inputs)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])

    def situation(state: int, action: int | None) -> np.ndarray:
        x = np.concatenate([np.eye(states)[state], np.zeros(actions) if action is None else np.eye(actions)[action]])
        return np.append(np.maximum(x @ p["embedding"]["kernel"] + p["embedding"]["bias"], 0), 1.0)

    def found(query: np.ndarray, keys: np.ndarray) -> np.ndarray:
        cosines = [query @ key / np.sqrt((query @ query) * (key @ key) + 1e-6) for key in keys]
        scores = np.exp(np.exp(p["sharpness"]) * np.array(cosines))
        return scores / scores.sum()

    # The first step of a trial writes zeros, because there is no step before it.
    memory: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(3), np.zeros((7, 5)))]
    for t in range(steps):
        obs, action = int(inputs.obs[t]), int(inputs.prev_action[t])
        reward, done = float(inputs.prev_reward[t]), float(inputs.prev_done[t])
        if t:
            x = situation(int(inputs.obs[t - 1]), action)
            units = x @ p["layer"]
            error = np.maximum(units, 0) @ p["outcome"] - np.concatenate([[reward, done], np.eye(states)[obs]])
            errors = np.where(units > 0, p["outcome"] @ error, 0)
            fast = np.outer(pointwise(p["of_features"], x), pointwise(p["of_errors"], errors)) / len(x)
            memory.append((x @ p["representation"]["kernel"], fast))
        x, seen = situation(obs, None), memory[-window:]
        attention = found(x @ p["representation"]["kernel"], np.stack([key for key, _ in seen]))
        fast = np.einsum("s,seh->eh", attention, np.stack([weights for _, weights in seen]))
        hidden = np.maximum(x @ p["layer"], 0) + np.maximum(x @ fast, 0)
        now = np.concatenate([np.eye(states)[obs], np.eye(actions)[action] * (t > 0), [reward, done]])
        features = np.concatenate([now, hidden, hidden @ p["outcome"]])
        features = np.maximum(features @ p["readout"]["kernel"] + p["readout"]["bias"], 0)
        value = features @ p["head"]["value"]["kernel"][:, 0] + p["head"]["value"]["bias"][0]
        np.testing.assert_allclose(output.value[t], value, rtol=1e-3, atol=1e-3)
    assert carry.time == steps
    assert carry.examples.keys.shape == (window, 3)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"input_shape must be \(features,\) or \(height, width, channels\), not \(28, 28\)"
    ):
        meta_network.in_context_learner((28, 28), 5)
    for name in ("ways", "filters", "blocks", "hidden_size", "generator_size", "steps"):
        with pytest.raises(ValueError, match=f"{name} must be a positive whole number, not 0"):
            meta_network.in_context_learner(**{"input_shape": SHAPE, "ways": WAYS, name: 0})
    for name in ("window", "embedding_size", "hidden_size", "key_size", "readout_size", "generator_size"):
        with pytest.raises(ValueError, match=f"{name} must be a positive whole number, not 0"):
            meta_network.make(Spaces(Discrete(2), Discrete(2)), meta_network.Settings(**{"window": 3, name: 0}))
    learner, params = network(steps=2)
    support, images, _ = example()
    with pytest.raises(ValueError, match=r"a support of 3 examples cannot be divided into 2 equal parts \(steps\)"):
        learner.predict(params, support, images)
