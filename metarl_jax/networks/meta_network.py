"""Meta Networks (Munkhdalai & Yu 2017, arXiv 1703.00837): weights that another network makes of gradients.

A base learner has slow weights, learned over tasks, and fast weights, made anew of what a task has shown: the gradient
of each example's loss in the slow weights goes, number by number, through a small network, the generator, and what
comes out is kept in a memory under a key that a second network, the representation, has made of the example. To
predict, one looks up the memory by cosine, and the base learner's layers are augmented: each is rectified with its slow
weights and again with the fast ones, and the two are added.

Gradients are data here: nothing is differentiated through them, as in the authors' code.
"""

from __future__ import annotations

import functools
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
"""p of the rule by which gradients are presented: below exp(-p) they count as small."""
CHUNK = 1024
"""Numbers of a gradient that a generator takes at a time: what it makes of more overflows a core's cache."""
SMALL = 0.01
"""Of a generator's last weights at the start, where one generates whole kernels: these begin next to nothing."""

_linear = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_rectified = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# Generators have numbers as columns, for they are many and features few: their weights are [outputs, inputs].
_columns = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)
_gates = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2, batch_axis=0)


# --------------------------------------------------------------------------------------------------- generators


def preprocess(gradient: Array) -> tuple[Array, Array]:
    """How large each number is, on a scale of logarithms, and its sign (Andrychowicz et al. 2016, appendix A).

    Of a number x the pair is ``(log|x| / p, sign(x))`` if ``|x| >= exp(-p)``, else ``(-1, exp(p) x)``.

    Args:
        gradient: of any shape.

    Returns:
        Both parts, each of that shape.
    """
    # The least number keeps the logarithm finite, and is far below what counts as small.
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
    """The generator m: two layers of rectified units, of each number ``[C]`` of a gradient by itself."""
    x = jnp.stack(preprocess(gradient))
    for name in ("first", "second"):
        x = nn.relu(params[name]["kernel"] @ x + params[name]["bias"][:, None])
    return params["output"]["kernel"] @ x + params["output"]["bias"]


def _init_sequential(key: Key, size: int) -> Tree:
    keys = jax.random.split(key, 3)
    return {
        "input": _gates(keys[0], (4, size, 2), jnp.float32),
        "recurrent": _gates(keys[1], (4, size, size), jnp.float32),
        # Of input, forget, output and candidate; what was is kept at first.
        "bias": jnp.zeros((4, size), jnp.float32).at[1].set(1.0),
        "output": _init_readout(keys[2], size, SMALL),
    }


def _sequential(params: Tree, gradients: Array) -> Array:
    """The generator d: an LSTM over gradients ``[T, C]``, of each number by itself: ``[C]``."""
    kernel = jnp.concatenate([params["recurrent"], params["input"], params["bias"][..., None]], axis=-1)
    return params["output"]["kernel"] @ _last_hidden(kernel, gradients) + params["output"]["bias"]


def _unroll(kernel: Array, gradients: Array) -> tuple[Array, list[tuple[Array, ...]]]:
    """The last hidden state ``[H, C]``, and what each step's derivative needs."""
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
    """The last hidden state ``[H, C]`` of an LSTM that sees the presented gradients ``[T, C]``.

    Its derivative is written down: it keeps the gates apart and computes them again, and takes a third of the time of
    what JAX makes of the above. None goes to the gradients.

    Args:
        kernel: ``[4, H, H + 3]``: of the hidden state, the presented number's two parts, and one.
        gradients: of T steps.
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
    """A generator on ``[..., P]``, on a CPU a part of P at a time: ``[P]``."""
    lead, numbers = gradients.shape[:-1], gradients.shape[-1]
    if numbers <= CHUNK or jax.default_backend() != "cpu":
        return generator(params, gradients)
    chunks = -(-numbers // CHUNK)
    padded = jnp.pad(gradients, [(0, 0)] * len(lead) + [(0, chunks * CHUNK - numbers)])
    parts = jnp.moveaxis(padded.reshape(*lead, chunks, CHUNK), -2, 0)
    return jax.lax.map(functools.partial(generator, params), parts).reshape(-1)[:numbers]


def _generate_each(params: Tree, gradients: Array) -> Array:
    """Fast weights of gradients, each number by itself: of any shape."""
    # What lies between its layers is computed again for the derivative: there is twenty times as much of it.
    generator = jax.checkpoint(_pointwise)  # pyright: ignore[reportPrivateImportUsage]
    return _in_chunks(generator, params, gradients.reshape(-1)).reshape(gradients.shape)


def _generate_one(params: Tree, gradients: Array) -> Array:
    """Fast weights ``[P]`` of the gradients ``[T, P]`` of T steps."""
    return _in_chunks(_sequential, params, gradients)


# ------------------------------------------------------------------------------------------------ classification

Weights: TypeAlias = dict[str, Any]
"""``convolutions``: a list of kernels ``[3, 3, channels, filters]``; ``hidden [features, H]``; ``output [H, ways]``,
which the representation has not."""


def _sum(terms: Iterable[Array]) -> Array:
    """Slow and fast."""
    return functools.reduce(jnp.add, terms)


def _pool(x: Array) -> Array:
    """The largest of every 2x2, over zeros beyond an odd edge; x is not negative."""
    x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
    return largest_of_four(x)


def _features(layers: Sequence[Weights], x: Array) -> Array:
    """What one or, augmented, two sets of weights make of images ``[N, ...]``: ``[N, features]``."""
    for kernels in zip(*(weights["convolutions"] for weights in layers), strict=True):
        seen = patches(x, KERNEL, 1)
        x = _pool(_sum(nn.relu(seen @ kernel.reshape(-1, kernel.shape[-1])) for kernel in kernels))
    return x.reshape(x.shape[0], -1)


def _key(layers: Sequence[Weights], x: Array) -> Array:
    """The representation's keys of images, not rectified: ``[N, H]``."""
    features = _features(layers, x)
    return _sum(features @ weights["hidden"] for weights in layers)


def _logits(layers: Sequence[Weights], x: Array) -> Array:
    """The base learner's, ``[N, ways]``; at the last layer nothing is rectified."""
    features = _features(layers, x)
    hidden = _sum(nn.relu(features @ weights["hidden"]) for weights in layers)
    return _sum(hidden @ weights["output"] for weights in layers)


def _cross_entropy(logits: Array, y: Array) -> Array:
    labels = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))


def _make_fast(generate: Callable[[Tree, Array], Array], generators: Tree, gradients: Weights) -> Weights:
    """Fast weights of gradients: kernels have a generator of their own, the other layers share the second.

    Args:
        generate: ``(params, [N, P]) -> [..., P]``.
        generators: the parameters of both.
        gradients: with a leading axis of N.
    """

    def through(params: Tree, part: Tree) -> Tree:
        leaves, structure = jax.tree.flatten(part)
        made = generate(params, jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1))
        ends = np.cumsum([math.prod(leaf.shape[1:]) for leaf in leaves])
        made = zip(jnp.split(made, ends[:-1], axis=-1), leaves, strict=True)
        return jax.tree.unflatten(structure, [x.reshape(*x.shape[:-1], *leaf.shape[1:]) for x, leaf in made])

    kernels = {"convolutions": gradients["convolutions"]}
    others = {name: leaf for name, leaf in gradients.items() if name != "convolutions"}
    return through(generators["convolution"], kernels) | through(generators["dense"], others)


def cosine(query: Array, keys: Array) -> Array:
    """Of each of ``[Q, K]`` with each of ``[N, K]``: ``[Q, N]``."""
    sizes = jnp.sum(query**2, axis=-1)[:, None] * jnp.sum(keys**2, axis=-1)
    return query @ keys.T * jax.lax.rsqrt(sizes + 1e-6)


def in_context_learner(
    image_shape: Sequence[int],
    ways: int,
    *,
    filters: int = 64,
    blocks: int = 5,
    hidden_size: int = 64,
    generator_size: int = 20,
    steps: int = 5,
) -> InContextLearner:
    """The Meta Network of the Omniglot experiments, with the published sizes as defaults.

    Base learner and representation are alike: blocks of 3x3 convolution, rectification and 2x2 pooling, and a
    rectified layer; then, of the base learner, a linear one. Nothing has a bias, and nothing is normalised: so the
    authors' code has it, whose fast path is a rectified convolution with the fast kernel and no more. A key is the
    representation's last layer before rectification.

    1. The support is divided into ``steps`` parts. The representation's loss on each, a cross-entropy behind a last
       layer that is drawn once and for all (in the authors' code its weights are no input of the prediction either, and
       stay what they were), has gradients that an LSTM reads in turn: task-level fast weights.
    2. The base learner's cross-entropy on each example of the support, with slow weights alone, has gradients of which
       a network of two hidden layers makes example-level fast weights.
    3. A query's attention is ``softmax(cosine(keys of the support, its own key))``, keys being made with slow and
       task-level fast weights; its fast weights are the attention's mean of the examples'.

    Kernels and other layers have generators of their own. Which part an example of the support is in matters to the
    LSTM; within a part, and with ``steps`` of one everywhere, the order of examples does not. With more than one
    example of a class the paper's representation has a contrastive loss; here, as in the code, it is a cross-entropy.

    Two things are this package's: the slow weights' first size is that for rectified layers, and generators begin with
    small last weights. Without, a generator's bias makes every fast kernel constant, and large.

    Args:
        image_shape: of x without its examples, ``(height, width, channels)``.
        ways: classes; labels are ``0 .. ways - 1``, the prediction is their logits.
        filters: of each convolution.
        blocks: each halves height and width, rounded up.
        hidden_size: of the layer behind them, and of keys.
        generator_size: units of each layer of the generators.
        steps: parts of the support, of equal size; each is one step of the LSTM.

    Returns:
        A learner, whose ``predict`` raises ValueError for a support that cannot be divided into ``steps`` parts.

    Raises:
        ValueError: for a size that is not a positive whole number, or a shape that is not of three.
    """
    shape = tuple(positive_int("image_shape", size) for size in image_shape)
    if len(shape) != 3:
        raise ValueError(f"image_shape must be (height, width, channels), not {shape}")
    ways, filters, blocks = positive_int("ways", ways), positive_int("filters", filters), positive_int("blocks", blocks)
    hidden_size, steps = positive_int("hidden_size", hidden_size), positive_int("steps", steps)
    generator_size = positive_int("generator_size", generator_size)
    features = math.ceil(shape[0] / 2**blocks) * math.ceil(shape[1] / 2**blocks) * filters
    channels = (shape[2], *[filters] * blocks)
    # This generator's numbers are fixed for good, whatever the version of NumPy.
    drawn = np.random.RandomState(0).normal(size=(hidden_size, ways)) / hidden_size**0.5
    representation_output = drawn.astype(np.float32)

    def init_weights(key: Key) -> Weights:
        keys = jax.random.split(key, blocks + 1)
        kernels = [(KERNEL, KERNEL, *channels[block : block + 2]) for block in range(blocks)]
        return {
            "convolutions": [
                _rectified(key, kernel, jnp.float32) for key, kernel in zip(keys[:blocks], kernels, strict=True)
            ],
            "hidden": _rectified(keys[blocks], (features, hidden_size), jnp.float32),
        }

    def init(key: Key) -> Params:
        keys = jax.random.split(key, 7)
        return {
            "base": init_weights(keys[0]) | {"output": _linear(keys[1], (hidden_size, ways), jnp.float32)},
            "representation": init_weights(keys[2]),
            "example": {
                "convolution": _init_pointwise(keys[3], generator_size, SMALL),
                "dense": _init_pointwise(keys[4], generator_size, SMALL),
            },
            "task": {
                "convolution": _init_sequential(keys[5], generator_size),
                "dense": _init_sequential(keys[6], generator_size),
            },
        }

    def base_loss(weights: Weights, x: Array, y: Array) -> Array:
        return _cross_entropy(_logits([weights], x), y)

    def representation_loss(weights: Weights, x: Array, y: Array) -> Array:
        return _cross_entropy(nn.relu(_key([weights], x)) @ representation_output, y)

    def gradients(loss: Callable[..., Array], weights: Weights, support: tuple[Array, Array], parts: int) -> Weights:
        """Of each of the parts, in turn; they are data."""
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
        # Each query has weights of its own.
        return jax.vmap(lambda fast, one: _logits([slow, fast], one[None])[0])(fast, x)

    return InContextLearner(init, predict, ways)


# ------------------------------------------------------------------------------------------ reinforcement learning


class Examples(NamedTuple):
    """What is kept of the steps of a trial: rings, whose rows are one step each."""

    keys: Array
    """``[L, K]``."""
    features: Array
    """The fast weights' factor on the side of the layer's inputs, ``[L, E + 1]``."""
    errors: Array
    """Their factor on the side of its outputs, ``[L, H]``."""


class Memory(NamedTuple):
    """What the policy carries from step to step; zeros where a trial begins."""

    time: Array
    """Steps of the trial so far, ``int32``."""
    examples: Examples
    observation: Array
    """The last observation as a vector ``[O]``."""


class MetaNetworkActorCritic(nn.Module):
    """Inputs -> situation -> layer with slow and fast weights -> readout -> distribution over actions and value."""

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
        """An observation with the action taken there, or zeros: rectified units and a one, ``[..., E + 1]``."""
        units = nn.relu(dense(self.embedding, jnp.concatenate([observation, action], axis=-1)))
        return jnp.concatenate([units, jnp.ones_like(units[..., :1])], axis=-1)

    def _learn(self, seen: Array, inputs: Inputs, previous: Array) -> Examples:
        """What the step before these inputs leaves in memory, ``[...]``; where there was none: zeros."""
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
        """The situation that the policy is in, and its key."""
        nothing = jnp.zeros_like(encode(self.action_space, inputs.prev_action))
        situation = self._situation(seen, nothing)
        return situation, dense(self.representation, situation)

    def _look(self, query: tuple[Array, Array], examples: Examples, mask: Array) -> Array:
        """What the fast weights that each of T situations finds among S examples make of it: ``[T, H]``."""
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
        """Of trials side by side, ``[T, B, ...]``."""
        seen = self.see(inputs.obs)
        query = self._ask(seen, inputs)
        written = self._learn(seen, inputs, jnp.concatenate([carry.observation[None], seen[:-1]]))
        examples, fast = look_back_each(self._look, carry.examples, carry.time, written, query)
        time = carry.time + inputs.prev_reward.shape[0]
        return Memory(time, examples, seen[-1]), self._act(seen, inputs, query[0], fast)


def gradient_factors(layer: Array, outcome: Array, situation: Array, happened: Array) -> tuple[Array, Array]:
    """The gradient in ``layer`` of half the squared error of ``relu(situation @ layer) @ outcome``, as its factors.

    Args:
        layer: ``[E, H]``.
        outcome: ``[H, D]``.
        situation: ``[..., E]``.
        happened: ``[..., D]``.

    Returns:
        ``[..., E]`` and ``[..., H]``; the gradient is their outer product.
    """
    rows = situation.reshape(-1, situation.shape[-1])
    hidden = rows @ layer
    errors = (nn.relu(hidden) @ outcome - happened.reshape(-1, happened.shape[-1])) @ outcome.T
    errors = jnp.where(hidden > 0, errors, 0.0)
    return situation, errors.reshape(*situation.shape[:-1], -1)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of the Meta Network's fast weights as a memory."""

    window: Annotated[PositiveInt, Doc("How many steps of a trial the network looks up.")] = 100
    embedding_size: Annotated[PositiveInt, Doc("Rectified units that see an observation and an action.")] = 32
    hidden_size: Annotated[PositiveInt, Doc("Units of the layer that fast weights augment.")] = 32
    key_size: Annotated[
        PositiveInt,
        Doc("Size of the representation by which steps are looked up, one linear layer on the same embedding."),
    ] = 16
    readout_size: Annotated[PositiveInt, Doc("Rectified units between the predictions and the heads.")] = 64
    generator_size: Annotated[
        PositiveInt, Doc("Units of each layer of the generators of fast weights (20 in Munkhdalai & Yu 2017).")
    ] = 8


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """A Meta Network as a memory for reinforcement learning; its carry is a ``Memory``. The paper has none.

    The support is what the trial has shown: each step is an example. Its loss must be one that the step itself allows.
    A policy's own loss is none: it needs returns, which are not known yet, and where nothing was gained its gradient
    says nothing of what was tried. So the base learner predicts: from an observation and the action taken there it
    foretells the reward, whether the episode ends, and the next observation, by a layer of rectified units and a linear
    one, and the loss is half the squared error. Its gradient in the layer's weights, at the slow weights, is an outer
    product of the layer's inputs and of errors at those of its units that the action woke: what was done is bound to
    what came of it. A generator makes fast weights of each factor, number by number, and their outer product is the
    step's fast weights, which are never written out: keeping, finding and using them costs what attention does.

    To act, the base learner is asked about the observation, without an action. It looks up the last ``window`` steps
    by cosine (times a sharpness, one at first as published, that is learned: a cosine alone never prefers one step to
    another by more than e^2), augments its layer, and the policy sees what its units say and what they foretell, beside
    the inputs. All slow weights, those that predict among them, are learned from the policy's loss, as the paper's are
    from the query's. There are no task-level fast weights (the paper's MetaNet-): an LSTM would go through every number
    of the representation's gradients at every step.

    Args:
        family: the observation space and the action space, as a family of tasks has them.
        settings: sizes and kinds.
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
    hidden_size: Annotated[PositiveInt, Doc("Units of the layer on the convolutions, and of keys.")] = 64
    generator_size: Annotated[PositiveInt, Doc("Units of each layer of the networks that make fast weights.")] = 20
    steps: Annotated[
        PositiveInt,
        Doc(
            "Parts of the support, of equal size, whose gradients one after another become task-level fast weights; "
            "they must divide the support of training and of held-out tasks."
        ),
    ] = 5


def make_in_context(family: FewShotFamily, settings: InContextSettings) -> InContextLearner:
    """The Meta Network for few-shot classification of images.

    Args:
        family: the few-shot tasks.
        settings: sizes.

    Raises:
        ValueError: for inputs that are no images, or parts that do not divide the support.
    """
    examples = family.examples()
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
