"""Meta Networks (Munkhdalai & Yu 2017, arXiv 1703.00837): fast weights that a network generates from gradients.

A base learner has slow weights, which are learned over tasks, and fast weights, which are generated for each task. For
each example, the gradient of its loss with respect to the slow weights is computed. A small network, the generator,
maps each number of this gradient to a fast weight. The fast weights of an example are stored in a memory under a key,
which a second network, the representation, computes from the example. To predict, the learner looks up the memory by
cosine similarity. The layers of the base learner are augmented: each layer is computed and rectified once with its slow
weights and once with the fast weights, and the two results are added.

Gradients are data here: no derivative passes through them, as in the authors' code.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.checks import positive_int
from metarl_jax.interfaces.few_shot import FewShotFamily, InContextLearner
from metarl_jax.networks.convolutional import KERNEL, largest_of_four, patches
from metarl_jax.networks.heads import (
    ActorCriticHead,
    ObservationEncoder,
    dense,
    encode,
    encode_inputs,
    observation_features,
    remembering_policy,
)
from metarl_jax.networks.windows import look_back, look_back_each
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Key, Output, Params, Policy, Space, Tree

PRECISION = 7.0
"""The constant p of the preprocessing of gradients (``preprocess``): numbers below exp(-p) count as small."""
CHUNK = 1024
"""The size of the parts in which a generator reads a gradient on a CPU. The intermediate results of larger parts
overflow a core's cache."""
SMALL = 0.01
"""The scale of the last weights of a generator of whole kernels at initialisation; with it, fast kernels start near
zero."""

_linear = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_rectified = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# The columns of a generator's arrays are the numbers of a gradient, which are many. Its weights are [outputs, inputs].
_columns = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)
_gates = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2, batch_axis=0)


# --------------------------------------------------------------------------------------------------- generators


def preprocess(gradient: Array) -> tuple[Array, Array]:
    """Compute the logarithmic size and the sign of each number of a gradient (Andrychowicz et al. 2016, appendix A).

    For a number x the result is ``(log|x| / p, sign(x))`` if ``|x| >= exp(-p)``, else ``(-1, exp(p) x)``.

    Args:
        gradient: an array of any shape.

    Returns:
        The size and the sign, each of the gradient's shape.
    """
    # The smallest float keeps the logarithm finite, and is far below exp(-p).
    size = jnp.log(jnp.abs(gradient) + jnp.finfo(gradient.dtype).tiny) / PRECISION
    return jnp.maximum(size, -1.0), jnp.clip(gradient * math.exp(PRECISION), -1.0, 1.0)


def _init_readout(key: Key, size: int, scale: float) -> Tree:
    return {"kernel": scale * _columns(key, (1, size), jnp.float32)[0], "bias": jnp.float32(0)}


def _init_pointwise(key: Key, size: int, scale: float) -> Tree:
    keys = jax.random.split(key, 3)
    return {
        "first": {"kernel": _columns(keys[0], (size, 2), jnp.float32), "bias": jnp.zeros(size, jnp.float32)},
        "second": {"kernel": _columns(keys[1], (size, size), jnp.float32), "bias": jnp.zeros(size, jnp.float32)},
        "output": _init_readout(keys[2], size, scale),
    }


def _pointwise(params: Tree, gradient: Array) -> Array:
    """Apply the generator m, two layers of rectified units, to each number ``[C]`` of a gradient separately."""
    x = jnp.stack(preprocess(gradient))
    for name in ("first", "second"):
        x = nn.relu(params[name]["kernel"] @ x + params[name]["bias"][:, None])
    return params["output"]["kernel"] @ x + params["output"]["bias"]


def _init_sequential(key: Key, size: int) -> Tree:
    keys = jax.random.split(key, 3)
    return {
        "input": _gates(keys[0], (4, size, 2), jnp.float32),
        "recurrent": _gates(keys[1], (4, size, size), jnp.float32),
        # The gates are input, forget, output and candidate. A bias of 1 keeps the forget gate open at first.
        "bias": jnp.zeros((4, size), jnp.float32).at[1].set(1.0),
        "output": _init_readout(keys[2], size, SMALL),
    }


def _sequential(params: Tree, gradients: Array) -> Array:
    """Apply the generator d, an LSTM over gradients ``[T, C]``, to each number separately: ``[C]``."""
    kernel = jnp.concatenate([params["recurrent"], params["input"], params["bias"][..., None]], axis=-1)
    return params["output"]["kernel"] @ _last_hidden(kernel, gradients) + params["output"]["bias"]


def _unroll(kernel: Array, gradients: Array) -> tuple[Array, list[tuple[Array, ...]]]:
    """Return the last hidden state ``[H, C]``, and the arrays that the derivative of each step needs."""
    hidden = cell = jnp.zeros((kernel.shape[1], gradients.shape[1]), kernel.dtype)
    steps = []
    for gradient in gradients:
        size, sign = preprocess(gradient)
        rows = jnp.concatenate([hidden, size[None], sign[None], jnp.ones_like(size)[None]])
        write, forget, read = (nn.sigmoid(kernel[gate] @ rows) for gate in range(3))
        candidate = jnp.tanh(kernel[3] @ rows)
        before, cell = cell, forget * cell + write * candidate
        shown = jnp.tanh(cell)
        hidden = read * shown
        steps.append((rows, write, forget, read, candidate, before, shown))
    return hidden, steps


@jax.custom_vjp
def _last_hidden(kernel: Array, gradients: Array) -> Array:
    """Return the last hidden state ``[H, C]`` of an LSTM over the preprocessed gradients ``[T, C]``.

    Its derivative is a custom rule, which keeps the gates separate and computes them again. It takes a third of the
    time of JAX's derivative. The derivative with respect to the gradients is zero.

    Args:
        kernel: the weights, ``[4, H, H + 3]``, of the hidden state, the two parts of a preprocessed number, and the
            constant 1.
        gradients: the gradients of T steps, ``[T, C]``.
    """
    return _unroll(kernel, gradients)[0]


def _last_hidden_forward(kernel: Array, gradients: Array) -> tuple[Array, tuple[Array, Array]]:
    return _last_hidden(kernel, gradients), (kernel, gradients)


def _last_hidden_backward(kept: tuple[Array, Array], hidden: Array) -> tuple[Array, None]:
    kernel, gradients = kept
    back = jnp.swapaxes(kernel[..., : kernel.shape[1]], 1, 2)
    by_cell, by_kernel = jnp.zeros_like(hidden), [jnp.zeros_like(gate) for gate in kernel]
    for rows, write, forget, read, candidate, before, shown in reversed(_unroll(kernel, gradients)[1]):
        by_cell += hidden * read * (1 - shown * shown)
        gates = [
            by_cell * candidate * write * (1 - write),
            by_cell * before * forget * (1 - forget),
            hidden * shown * read * (1 - read),
            by_cell * write * (1 - candidate * candidate),
        ]
        by_kernel = [total + gate @ rows.T for total, gate in zip(by_kernel, gates, strict=True)]
        hidden = back[0] @ gates[0] + back[1] @ gates[1] + back[2] @ gates[2] + back[3] @ gates[3]
        by_cell *= forget
    return jnp.stack(by_kernel), None


_last_hidden.defvjp(_last_hidden_forward, _last_hidden_backward)


def _in_chunks(generator: Callable[[Tree, Array], Array], params: Tree, gradients: Array) -> Array:
    """Apply a generator to ``[..., P]``, and return ``[P]``. On a CPU, one part of P is computed after another."""
    lead, numbers = gradients.shape[:-1], gradients.shape[-1]
    if numbers <= CHUNK or jax.default_backend() != "cpu":
        return generator(params, gradients)
    chunks = -(-numbers // CHUNK)
    padded = jnp.pad(gradients, [(0, 0)] * len(lead) + [(0, chunks * CHUNK - numbers)])
    parts = jnp.moveaxis(padded.reshape(*lead, chunks, CHUNK), -2, 0)
    return jax.lax.map(functools.partial(generator, params), parts).reshape(-1)[:numbers]


def _generate_each(params: Tree, gradients: Array) -> Array:
    """Generate fast weights from gradients of any shape, each from one number of the gradient."""
    # The derivative computes the hidden layers again, because they are twenty times as large as the gradient.
    generator = jax.checkpoint(_pointwise)  # pyright: ignore[reportPrivateImportUsage]
    return _in_chunks(generator, params, gradients.reshape(-1)).reshape(gradients.shape)


def _generate_one(params: Tree, gradients: Array) -> Array:
    """Generate fast weights ``[P]`` from the gradients ``[T, P]`` of T steps."""
    return _in_chunks(_sequential, params, gradients)


# ------------------------------------------------------------------------------------------------ classification

Weights: TypeAlias = dict[str, Any]
"""The weights of a network: ``convolutions``, a list of kernels ``[3, 3, channels, filters]``; ``hidden``,
``[features, H]``; and ``output``, ``[H, ways]``, which the representation does not have."""


def _sum(terms: Iterable[Array]) -> Array:
    """Add the results of slow and fast weights."""
    return functools.reduce(jnp.add, terms)


def _pool(x: Array) -> Array:
    """Compute the maximum of every 2x2 pixels of x, which is not negative; zeros pad an odd edge."""
    x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
    return largest_of_four(x)


def _features(layers: Sequence[Weights], x: Array) -> Array:
    """Compute the features ``[N, features]`` of images ``[N, ...]``, with one or (augmented) two sets of weights.

    Vectors have no convolutions and are their own features.
    """
    for kernels in zip(*(weights["convolutions"] for weights in layers), strict=True):
        seen = patches(x, KERNEL, 1)
        x = _pool(_sum(nn.relu(seen @ kernel.reshape(-1, kernel.shape[-1])) for kernel in kernels))
    return x.reshape(x.shape[0], -1)


def _key(layers: Sequence[Weights], x: Array) -> Array:
    """Compute the representation's keys of images, ``[N, H]``, which are not rectified."""
    features = _features(layers, x)
    return _sum(features @ weights["hidden"] for weights in layers)


def _logits(layers: Sequence[Weights], x: Array) -> Array:
    """Compute the logits of the base learner, ``[N, ways]``, whose last layer is not rectified."""
    features = _features(layers, x)
    hidden = _sum(nn.relu(features @ weights["hidden"]) for weights in layers)
    return _sum(hidden @ weights["output"] for weights in layers)


def _cross_entropy(logits: Array, y: Array) -> Array:
    labels = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))


def _make_fast(generate: Callable[[Tree, Array], Array], generators: Tree, gradients: Weights) -> Weights:
    """Generate fast weights from gradients.

    Convolution kernels have a generator of their own. All other layers share a second generator.

    Args:
        generate: a function ``(params, [N, P]) -> [..., P]``.
        generators: the parameters of both generators.
        gradients: gradients with a leading axis of N.
    """

    def through(params: Tree, part: Tree) -> Tree:
        leaves, structure = jax.tree.flatten(part)
        made = generate(params, jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1))
        ends = np.cumsum([math.prod(leaf.shape[1:]) for leaf in leaves])
        made = zip(jnp.split(made, ends[:-1], axis=-1), leaves, strict=True)
        return jax.tree.unflatten(structure, [x.reshape(*x.shape[:-1], *leaf.shape[1:]) for x, leaf in made])

    kernels = {"convolutions": gradients["convolutions"]}
    others = {name: leaf for name, leaf in gradients.items() if name != "convolutions"}
    convolutions = through(generators["convolution"], kernels) if kernels["convolutions"] else kernels
    return convolutions | through(generators["dense"], others)


def cosine(query: Array, keys: Array) -> Array:
    """Compute the cosine similarity of each query ``[Q, K]`` with each key ``[N, K]``: ``[Q, N]``."""
    sizes = jnp.sum(query**2, axis=-1)[:, None] * jnp.sum(keys**2, axis=-1)
    return query @ keys.T * jax.lax.rsqrt(sizes + 1e-6)


def in_context_learner(
    input_shape: Sequence[int],
    ways: int,
    *,
    filters: int = 64,
    blocks: int = 5,
    hidden_size: int = 64,
    generator_size: int = 20,
    steps: int = 5,
) -> InContextLearner:
    """Make the Meta Network of the Omniglot experiments; its default sizes are the published ones.

    The base learner and the representation have the same architecture: blocks of 3x3 convolution, rectification and 2x2
    pooling, then a rectified layer. For inputs that are vectors there are no convolutions. The base learner has a
    linear layer on top. There are no biases and no
    normalisation, as in the authors' code, whose fast path is only a rectified convolution with the fast kernel. A key
    is the representation's last layer before rectification.

    1. The support is divided into ``steps`` parts. The representation's loss on each part is a cross-entropy on top of
       a fixed random last layer. (In the authors' code the weights of this layer are not an input of the prediction
       either, and never change.) An LSTM reads the gradients of the parts one after another, and generates task-level
       fast weights from them.
    2. The base learner's loss on each example of the support is a cross-entropy, computed with slow weights alone. A
       network of two hidden layers generates example-level fast weights from its gradient.
    3. The attention of a query is ``softmax(cosine(keys of the support, key of the query))``, where keys are computed
       with slow and task-level fast weights. The fast weights of the query are the mean of the examples' fast weights,
       weighted by the attention.

    Convolution kernels have one generator, and all other layers have another. The prediction depends, through the LSTM,
    on the part that an example of the support belongs to. It does not depend on the order of examples within a part;
    if ``steps`` is one, the order of examples has no effect at all. For more than one example of a class, the paper's
    representation has a contrastive loss; here, as in the authors' code, the loss is a cross-entropy.

    This package differs in two points: the initial scale of the slow weights is the one for rectified layers, and the
    last weights of generators are small at initialisation. Otherwise a generator's bias would make every fast kernel
    constant and large.

    Args:
        input_shape: the shape of one x: ``(features,)``, or ``(height, width, channels)`` for images.
        ways: the number of classes; labels are ``0 .. ways - 1``, and the prediction is their logits.
        filters: filters of each convolution.
        blocks: the number of blocks, each of which halves height and width, rounded up.
        hidden_size: units of the layer on top of the blocks, which is also the size of keys.
        generator_size: units of each layer of the generators.
        steps: the number of equal parts of the support; each part is one step of the LSTM.

    Returns:
        A learner, whose ``predict`` raises ValueError for a support that cannot be divided into ``steps`` equal parts.

    Raises:
        ValueError: if a size is not a positive whole number, or the shape has not one or three numbers.
    """
    shape = tuple(positive_int("input_shape", size) for size in input_shape)
    if len(shape) not in (1, 3):
        raise ValueError(f"input_shape must be (features,) or (height, width, channels), not {shape}")
    ways, filters, blocks = positive_int("ways", ways), positive_int("filters", filters), positive_int("blocks", blocks)
    hidden_size, steps = positive_int("hidden_size", hidden_size), positive_int("steps", steps)
    generator_size = positive_int("generator_size", generator_size)
    if len(shape) == 1:
        features, channels = shape[0], shape
    else:
        features = math.ceil(shape[0] / 2**blocks) * math.ceil(shape[1] / 2**blocks) * filters
        channels = (shape[2], *[filters] * blocks)
    # The numbers of RandomState are the same in every version of NumPy.
    drawn = np.random.RandomState(0).normal(size=(hidden_size, ways)) / hidden_size**0.5
    representation_output = drawn.astype(np.float32)

    def init_weights(key: Key) -> Weights:
        kernels = [(KERNEL, KERNEL, *pair) for pair in itertools.pairwise(channels)]
        keys = jax.random.split(key, len(kernels) + 1)
        return {
            "convolutions": [
                _rectified(key, kernel, jnp.float32) for key, kernel in zip(keys[:-1], kernels, strict=True)
            ],
            "hidden": _rectified(keys[-1], (features, hidden_size), jnp.float32),
        }

    def init(key: Key) -> Params:
        keys = jax.random.split(key, 7)
        return {
            "base": init_weights(keys[0]) | {"output": _linear(keys[1], (hidden_size, ways), jnp.float32)},
            "representation": init_weights(keys[2]),
            "example": generators(_init_pointwise(key, generator_size, SMALL) for key in keys[3:5]),
            "task": generators(_init_sequential(key, generator_size) for key in keys[5:7]),
        }

    def generators(made: Iterable[Tree]) -> Tree:
        """Return the generator of convolution kernels, if there are any, and the one of other layers."""
        both = dict(zip(("convolution", "dense"), made, strict=True))
        return both if len(channels) > 1 else {"dense": both["dense"]}

    def base_loss(weights: Weights, x: Array, y: Array) -> Array:
        return _cross_entropy(_logits([weights], x), y)

    def representation_loss(weights: Weights, x: Array, y: Array) -> Array:
        return _cross_entropy(nn.relu(_key([weights], x)) @ representation_output, y)

    def gradients(loss: Callable[..., Array], weights: Weights, support: tuple[Array, Array], parts: int) -> Weights:
        """Compute the gradient of the loss on each part of the support. No derivative passes through it."""
        x, y = (z.reshape(parts, -1, *z.shape[1:]) for z in support)
        return jax.vmap(jax.grad(loss), (None, 0, 0))(jax.lax.stop_gradient(weights), x, y)

    def predict(params: Params, support: tuple[Array, Array], x: Array) -> Array:
        shown = support[0].shape[0]
        if shown % steps:
            raise ValueError(f"a support of {shown} examples cannot be divided into {steps} equal parts (steps)")
        slow, representation = params["base"], params["representation"]
        task_fast = _make_fast(
            _generate_one, params["task"], gradients(representation_loss, representation, support, steps)
        )
        keys = _key([representation, task_fast], jnp.concatenate([support[0], x]))
        memory = _make_fast(_generate_each, params["example"], gradients(base_loss, slow, support, shown))
        attention = jax.nn.softmax(cosine(keys[shown:], keys[:shown]), axis=-1)
        fast = jax.tree.map(lambda weights: jnp.tensordot(attention, weights, axes=1), memory)
        # Each query has fast weights of its own.
        return jax.vmap(lambda fast, one: _logits([slow, fast], one[None])[0])(fast, x)

    return InContextLearner(init, predict, ways)


# ------------------------------------------------------------------------------------------ reinforcement learning


class Examples(NamedTuple):
    """The last L steps of a trial, as ring buffers in which each row is one step."""

    keys: Array
    """The keys of the steps, ``[L, K]``."""
    features: Array
    """The factor of the fast weights that belongs to the layer's inputs, ``[L, E + 1]``."""
    errors: Array
    """The factor of the fast weights that belongs to the layer's outputs, ``[L, H]``."""


class Memory(NamedTuple):
    """The memory that the policy carries from step to step; it is zero at the start of a trial."""

    time: Array
    """The number of steps of the trial so far, ``int32``."""
    examples: Examples
    """The last steps of the trial."""
    observation: Array
    """The last observation as a vector ``[O]``."""


class MetaNetworkActorCritic(nn.Module):
    """The network: inputs -> situation -> layer with slow and fast weights -> readout -> actions and value."""

    observation_space: Space
    action_space: Space
    embedding_size: int
    hidden_size: int
    key_size: int
    readout_size: int
    generator_size: int
    critic: bool = True

    def setup(self) -> None:
        seen = observation_features(self.observation_space)
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.embedding_size)
        self.representation = nn.Dense(self.key_size, use_bias=False)
        self.layer = self.param("layer", _rectified, (self.embedding_size + 1, self.hidden_size), jnp.float32)
        self.outcome = self.param("outcome", _linear, (self.hidden_size, 2 + seen), jnp.float32)
        self.of_features = self.param("of_features", _init_pointwise, self.generator_size, 1.0)
        self.of_errors = self.param("of_errors", _init_pointwise, self.generator_size, 1.0)
        self.sharpness = self.param("sharpness", nn.initializers.zeros, (), jnp.float32)
        self.readout = nn.Dense(self.readout_size)
        self.head = ActorCriticHead(self.action_space, self.critic)

    def _situation(self, observation: Array, action: Array) -> Array:
        """Compute rectified units of an observation and an action (or zeros), with a constant 1: ``[..., E + 1]``."""
        units = nn.relu(dense(self.embedding, jnp.concatenate([observation, action], axis=-1)))
        return jnp.concatenate([units, jnp.ones_like(units[..., :1])], axis=-1)

    def _learn(self, seen: Array, inputs: Inputs, previous: Array) -> Examples:
        """Compute the example of the step before these inputs, ``[...]``; it is zero at the start of a trial."""
        action = encode(self.action_space, inputs.prev_action)
        situation = self._situation(previous, action)
        happened = jnp.concatenate([jnp.stack([inputs.prev_reward, inputs.prev_done], axis=-1), seen], axis=-1)
        features, errors = jax.lax.stop_gradient(gradient_factors(self.layer, self.outcome, situation, happened))
        example = Examples(
            dense(self.representation, situation),
            _generate_each(self.of_features, features),
            _generate_each(self.of_errors, errors),
        )
        return jax.tree.map(lambda x: jnp.where(inputs.first[..., None], 0.0, x), example)

    def _ask(self, seen: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Compute the situation of the current observation without an action, and its key."""
        nothing = jnp.zeros_like(encode(self.action_space, inputs.prev_action))
        situation = self._situation(seen, nothing)
        return situation, dense(self.representation, situation)

    def _look(self, query: tuple[Array, Array], examples: Examples, mask: Array) -> Array:
        """Apply to each of T situations the fast weights that it looks up among S examples: ``[T, H]``."""
        situation, key = query
        scores = jnp.exp(self.sharpness) * cosine(key, examples.keys)
        attention = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
        # A mean of outer products, times the situation.
        return (attention * (situation @ examples.features.T)) @ examples.errors / situation.shape[-1]

    def _act(self, seen: Array, inputs: Inputs, situation: Array, fast: Array) -> Output:
        rows = situation.reshape(-1, situation.shape[-1])
        hidden = nn.relu((rows @ self.layer).reshape(fast.shape)) + nn.relu(fast)
        expected = (hidden.reshape(-1, self.hidden_size) @ self.outcome).reshape(*hidden.shape[:-1], -1)
        inputs_now = encode_inputs(seen, self.action_space, inputs)
        features = jnp.concatenate([inputs_now, hidden, expected], axis=-1)
        return self.head(nn.relu(dense(self.readout, features)))

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        seen = self.see(inputs.obs)
        query = self._ask(seen, inputs)
        written = self._learn(seen, inputs, carry.observation)
        examples, fast = look_back(self._look, carry.examples, carry.time, written, query)
        return Memory(carry.time + 1, examples, seen), self._act(seen, inputs, query[0], fast)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        seen = self.see(inputs.obs)
        query = self._ask(seen, inputs)
        written = self._learn(seen, inputs, jnp.concatenate([carry.observation[None], seen[:-1]]))
        examples, fast = look_back_each(self._look, carry.examples, carry.time, written, query)
        time = carry.time + inputs.prev_reward.shape[0]
        return Memory(time, examples, seen[-1]), self._act(seen, inputs, query[0], fast)


def gradient_factors(layer: Array, outcome: Array, situation: Array, happened: Array) -> tuple[Array, Array]:
    """Compute the two factors of the gradient of a prediction's loss with respect to ``layer``.

    The prediction is ``relu(situation @ layer) @ outcome``, and the loss is half its squared error.

    Args:
        layer: the weights of the hidden layer, ``[E, H]``.
        outcome: the weights of the linear layer, ``[H, D]``.
        situation: the inputs of the hidden layer, ``[..., E]``.
        happened: the targets of the prediction, ``[..., D]``.

    Returns:
        Two factors, ``[..., E]`` and ``[..., H]``; the gradient is their outer product.
    """
    rows = situation.reshape(-1, situation.shape[-1])
    hidden = rows @ layer
    errors = (nn.relu(hidden) @ outcome - happened.reshape(-1, happened.shape[-1])) @ outcome.T
    errors = jnp.where(hidden > 0, errors, 0.0)
    return situation, errors.reshape(*situation.shape[:-1], -1)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the Meta Network's fast weights as a memory."""

    window: Annotated[PositiveInt, Doc("The number of last steps of a trial that the network looks up.")] = 100
    embedding_size: Annotated[PositiveInt, Doc("Rectified units whose inputs are an observation and an action.")] = 32
    hidden_size: Annotated[PositiveInt, Doc("Units of the layer that fast weights augment.")] = 32
    key_size: Annotated[
        PositiveInt,
        Doc("Size of the keys by which steps are looked up; a linear layer computes them from the rectified units."),
    ] = 16
    readout_size: Annotated[PositiveInt, Doc("Rectified units between the predictions and the heads.")] = 64
    generator_size: Annotated[
        PositiveInt, Doc("Units of each layer of the generators of fast weights (20 in Munkhdalai & Yu 2017).")
    ] = 8


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make a Meta Network as the memory of an actor-critic; its carry is a ``Memory``.

    The paper has no reinforcement learning. Here the support consists of the steps of the trial: each step is an
    example. The loss of an example must be computable from the step alone. The policy's own loss is not, because it
    needs returns, which are not yet known. Moreover, its gradient has no information on an action without any gain. The
    base learner is therefore a predictor: from an observation and the action taken there it predicts the reward,
    whether the episode ends, and the next observation. It has a layer of rectified units and a linear layer, and the
    loss is half the squared error.

    The gradient of this loss with respect to the layer's weights, at the slow weights, is the outer product of the
    layer's inputs and of the errors at its active units. It associates an action with its outcome. A generator maps
    each number of each factor to a factor of the fast weights, and the outer product of the two factors is the fast
    weights of the step. This product is never computed as a matrix, so storing, finding and using the fast weights
    costs as much as attention.

    To act, the base learner gets the observation without an action. It looks up the last ``window`` steps by cosine
    similarity and augments its layer. The similarity is multiplied by a learned sharpness, which is one at first, as
    published; without it, no step could have more than e^2 times the weight of another. The policy's inputs are the
    activations of the augmented layer, its predictions, and the usual inputs. All slow weights, those of the predictor
    included, are learned from the policy's loss, as those of the paper are learned from the loss on the query. There
    are no task-level fast weights (this is MetaNet- in the paper), because an LSTM would have to read every number of
    the representation's gradients at every step.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes of the network.
        critic: whether the network has a critic; without one, its value is always zero.
    """
    network = MetaNetworkActorCritic(
        family.observation_space,
        family.action_space,
        settings.embedding_size,
        settings.hidden_size,
        settings.key_size,
        settings.readout_size,
        settings.generator_size,
        critic,
    )
    seen = observation_features(family.observation_space)

    def initial_carry() -> Memory:
        sizes = (settings.key_size, settings.embedding_size + 1, settings.hidden_size)
        examples = Examples(*(jnp.zeros((settings.window, size), jnp.float32) for size in sizes))
        return Memory(jnp.int32(0), examples, jnp.zeros(seen, jnp.float32))

    return remembering_policy(network, initial_carry, family.observation_space, family.action_space, critic)


@dataclass(frozen=True, kw_only=True)
class InContextSettings(settings.Settings):
    """Settings of the Meta Network for few-shot learning; defaults are those of the code of Munkhdalai & Yu (2017)."""

    filters: Annotated[PositiveInt, Doc("Filters of each convolution.")] = 64
    blocks: Annotated[PositiveInt, Doc("Convolutions, each of which halves height and width, rounded up.")] = 5
    hidden_size: Annotated[
        PositiveInt, Doc("Units of the layer on top of the convolutions, which is also the size of keys.")
    ] = 64
    generator_size: Annotated[PositiveInt, Doc("Units of each layer of the networks that generate fast weights.")] = 20
    steps: Annotated[
        PositiveInt,
        Doc(
            "The number of equal parts of the support. An LSTM reads the gradients of one part after another, and "
            "generates task-level fast weights. The number must divide the sizes of the supports of training and of "
            "held-out tasks."
        ),
    ] = 5


def make_in_context(family: FewShotFamily, settings: InContextSettings) -> InContextLearner:
    """Make the Meta Network for few-shot classification of images or vectors.

    Args:
        family: the few-shot tasks.
        settings: the sizes of the network, and the number of parts of the support.

    Raises:
        ValueError: if the targets are not classes, or the number of parts does not divide the size of the support.
    """
    examples = family.examples()
    if not examples.classes:
        raise ValueError("the Meta Network is for few-shot tasks whose targets are classes")
    for support in examples.supports:
        if support % settings.steps:
            raise ValueError(
                f"steps ({settings.steps}) must divide the support, of {support} examples, into equal parts"
            )
    return in_context_learner(
        examples.shape,
        examples.outputs,
        filters=settings.filters,
        blocks=settings.blocks,
        hidden_size=settings.hidden_size,
        generator_size=settings.generator_size,
        steps=settings.steps,
    )
