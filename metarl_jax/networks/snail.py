"""SNAIL (Mishra et al. 2018, arXiv 1707.03141): temporal convolutions that aggregate, and attention that looks up.

Dilated causal convolutions aggregate the steps of a sequence, and causal attentions between them select single steps.
Each of these layers appends its features to the features that it reads. The memory holds, for every convolution, its
contributions to later steps, and for every attention its keys and values. No step is therefore computed twice. The
sequence of a policy is its trial; the sequence of an in-context learner is the examples of a task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.checks import positive_int
from metarl_jax.interfaces.few_shot import FewShotFamily, InContextLearner
from metarl_jax.networks.convolutional import ImageEmbedding
from metarl_jax.networks.heads import ActorCriticHead, ObservationEncoder, dense, encode_inputs, remembering_policy
from metarl_jax.networks.windows import Window, attend, attend_each, attention, delay, empty_window
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import Array, HasSpaces, Inputs, Key, Output, Params, Policy, Space


class Attention(NamedTuple):
    """The sizes of one attention."""

    key_size: int
    """The size of keys and queries."""
    value_size: int
    """The size of values."""


class Design(NamedTuple):
    """The sequence of layers of a network, with their sizes."""

    window: int
    """The number of last steps that an attention reads, the current one included."""
    filters: int
    """The number of features that each convolution appends."""
    layers: tuple[int | Attention, ...]
    """The layers in order; each is the dilation of a convolution, or an attention."""

    @property
    def dilations(self) -> list[int]:
        """The dilations of the convolutions, in order."""
        return [layer for layer in self.layers if not isinstance(layer, Attention)]

    def empty(self) -> Memory:
        """Return the memory at the start of a sequence."""
        attentions = [layer for layer in self.layers if isinstance(layer, Attention)]
        windows = tuple(empty_window(self.window, 1, *attention) for attention in attentions)
        return Memory(jnp.int32(0), jnp.zeros((sum(self.dilations), 2 * self.filters), jnp.float32), windows)


def block(window: int) -> tuple[int, ...]:
    """Return the dilations 1, 2, 4, ... of convolutions that together cover a window of steps.

    The dilations follow the paper's pseudo-code, except that the first one is 1.
    """
    return tuple(2**i for i in range(max(1, math.ceil(math.log2(window)))))


class Memory(NamedTuple):
    """The memory that is carried from step to step; it is zero at the start of a sequence."""

    time: Array
    """The number of steps so far, ``int32``."""
    ahead: Array
    """The contributions of convolutions to later steps, in concatenated rings: ``[sum of dilations, 2 filters]``."""
    windows: tuple[Window, ...]
    """The window of keys and values of each attention."""


class _Convolution(nn.Module):
    """The two products of a causal convolution with kernel 2: a step's contributions to itself and to a later step."""

    filters: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        # A kernel of two steps has twice the inputs, so the variance of the weights is halved.
        small = nn.initializers.variance_scaling(0.5, "fan_in", "truncated_normal")
        products = dense(nn.Dense(4 * self.filters, use_bias=False, kernel_init=small, name="products"), x)
        bias = self.param("bias", nn.initializers.zeros, (2 * self.filters,), jnp.float32)
        now, later = jnp.split(products, 2, axis=-1)
        return now + bias, later


def _gate(x: Array) -> Array:
    candidate, gate = jnp.split(x, 2, axis=-1)
    return jnp.tanh(candidate) * jax.nn.sigmoid(gate)


def _alike(attention: Attention) -> nn.initializers.Initializer:
    """Return an initialiser that gives queries and keys the same weights.

    At first, a step then attends to similar steps more than to others.
    """

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        rows, columns = shape
        usual = nn.initializers.lecun_normal()(key, (rows, columns - attention.key_size), dtype)
        return jnp.concatenate([usual[:, : attention.key_size], usual], axis=1)

    return init


class Layers(nn.Module):
    """The layers of a network, which append features to the features of each step of a sequence."""

    design: Design

    def setup(self) -> None:
        layers = self.design.layers
        self.convolutions = [_Convolution(self.design.filters) for _ in self.design.dilations]
        self.projections = [
            nn.Dense(2 * a.key_size + a.value_size, use_bias=False, kernel_init=_alike(a))
            for a in layers
            if isinstance(a, Attention)
        ]

    def _project(self, attention: Attention, i: int, features: Array) -> list[Array]:
        """Compute query, key and value of the single head of the i-th attention."""
        size = attention.key_size
        parts = jnp.split(dense(self.projections[i], features), [size, 2 * size], axis=-1)
        return [part[..., None, :] for part in parts]

    def _rings(self) -> list[int]:
        """Return the first row of each convolution's ring buffer."""
        dilations = self.design.dilations
        return [sum(dilations[:i]) for i in range(len(dilations))]

    def __call__(self, memory: Memory, features: Array) -> tuple[Memory, Array]:
        """Apply the layers to the features ``[F]`` of one step."""
        rows = jnp.array(self._rings()) + memory.time % jnp.array(self.design.dilations)
        arrived, sent, windows = memory.ahead[rows], [], []
        for layer in self.design.layers:
            if isinstance(layer, Attention):
                i = len(windows)
                window, more = attend(memory.windows[i], memory.time, *self._project(layer, i, features))
                windows.append(window)
                more = more[0]
            else:
                now, later = self.convolutions[len(sent)](features)
                more = _gate(now + arrived[len(sent)])
                sent.append(later)
            features = jnp.concatenate([features, more], axis=-1)
        return Memory(memory.time + 1, memory.ahead.at[rows].set(jnp.stack(sent)), tuple(windows)), features

    def unroll(self, memory: Memory, features: Array) -> tuple[Memory, Array]:
        """Apply the layers to T steps of B sequences, ``[T, B, F]``."""
        steps, begins, rings, windows = features.shape[0], self._rings(), [], []
        for layer in self.design.layers:
            if isinstance(layer, Attention):
                i = len(windows)
                window, more = attend_each(memory.windows[i], memory.time, *self._project(layer, i, features))
                windows.append(window)
                more = more[..., 0, :]
            else:
                begin = begins[len(rings)]
                now, later = self.convolutions[len(rings)](features)
                ring, arrived = delay(memory.ahead[:, begin : begin + layer], memory.time, later)
                more = _gate(now + arrived)
                rings.append(ring)
            features = jnp.concatenate([features, more], axis=-1)
        return Memory(memory.time + steps, jnp.concatenate(rings, axis=1), tuple(windows)), features

    def predict(self, shown: Array, asked: Array) -> Array:
        """Apply the layers to a whole sequence ``[N, F]``, and to each of Q alternative next steps ``[Q, F]``.

        Returns:
            The features of each of the Q steps.
        """
        n, q = shown.shape[0], asked.shape[0]
        features, attentions, convolutions = jnp.concatenate([shown, asked]), 0, 0
        position, row = np.minimum(np.arange(n + q), n), np.arange(n + q)
        back = position[:, None] - position
        visible = ((back > 0) & (back < self.design.window)) | (row[:, None] == row)
        for layer in self.design.layers:
            if isinstance(layer, Attention):
                query, key, value = self._project(layer, attentions, features)
                more = attention(query, Window(key, value), jnp.asarray(visible))[:, 0]
                attentions += 1
            else:
                now, later = self.convolutions[convolutions](features)
                begun = max(n - layer, 0)
                last = later[begun] if n >= layer else jnp.zeros_like(later[0])
                arrived = [jnp.zeros_like(later[: n - begun]), later[:begun], jnp.tile(last, (q, 1))]
                more = _gate(now + jnp.concatenate(arrived))
                convolutions += 1
            features = jnp.concatenate([features, more], axis=-1)
        return features[n:]


class SNAILActorCritic(nn.Module):
    """The network: inputs -> embedding -> temporal convolutions and attentions -> actions and value."""

    observation_space: Space
    action_space: Space
    embedding_size: int
    design: Design
    critic: bool

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.embedding_size)
        self.layers = Layers(self.design)
        self.head = ActorCriticHead(self.action_space, self.critic)

    def _embed(self, inputs: Inputs) -> Array:
        return nn.relu(dense(self.embedding, encode_inputs(self.see(inputs.obs), self.action_space, inputs)))

    def __call__(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        carry, features = self.layers(carry, self._embed(inputs))
        return carry, self.head(features)

    def unroll(self, carry: Memory, inputs: Inputs) -> tuple[Memory, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        carry, features = self.layers.unroll(carry, self._embed(inputs))
        return carry, self.head(features)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of SNAIL as an actor-critic."""

    window: Annotated[
        PositiveInt,
        Doc(
            "The number of last steps of a trial that the network reads, the current one included. The convolutions of "
            "a block have dilations of 1, 2, 4, ... steps and together cover the window. An attention reads the same "
            "number of steps."
        ),
    ] = 100
    blocks: Annotated[
        PositiveInt,
        Doc("Blocks of temporal convolutions before the last attention (2 in Mishra et al. 2018 on bandits and MDPs)."),
    ] = 2
    embedding_size: Annotated[PositiveInt, Doc("Rectified units of the embedding (32 in Mishra et al. 2018).")] = 32
    filters: Annotated[PositiveInt, Doc("Features that each convolution appends (32 in Mishra et al. 2018).")] = 32
    key_size: Annotated[PositiveInt, Doc("Size of the keys of each attention (32 in Mishra et al. 2018).")] = 32
    value_size: Annotated[PositiveInt, Doc("Size of the values of each attention (32 in Mishra et al. 2018).")] = 32
    attention_first: Annotated[
        bool,
        Doc(
            "Whether there is also an attention before the blocks, as in the few-shot network of Mishra et al. "
            "(2018). An attention averages over a trial and can thus compute frequencies. If an attention comes first, "
            "the convolutions can use these frequencies, and not the linear head alone."
        ),
    ] = False


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT, *, critic: bool = True) -> Policy:
    """Make SNAIL as an actor-critic. Its carry is a ``Memory``.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes and the layers of the network.
        critic: whether the network has a critic; without one, its value is always zero.

    Example:
        >>> import metarl_jax as mrl
        >>> policy = mrl.networks.snail.make(mrl.environments.gridnavi.make())
    """
    attention = Attention(settings.key_size, settings.value_size)
    convolutions = block(settings.window) * settings.blocks
    layers = (*[attention] * settings.attention_first, *convolutions, attention)
    design = Design(settings.window, settings.filters, layers)
    network = SNAILActorCritic(family.observation_space, family.action_space, settings.embedding_size, design, critic)
    return remembering_policy(network, design.empty, family.observation_space, family.action_space, critic)


class SNAILReader(nn.Module):
    """The network: examples -> embedding, with labels -> attentions and temporal convolutions -> predictions."""

    outputs: int
    classes: bool
    embedding: nn.Module
    design: Design

    def setup(self) -> None:
        self.layers = Layers(self.design)
        self.head = nn.Dense(self.outputs)

    def _label(self, y: Array) -> Array:
        return jax.nn.one_hot(y, self.outputs, dtype=jnp.float32) if self.classes else y

    def __call__(self, support: tuple[Array, Array], x: Array) -> Array:
        x_support, y_support = support
        # Support and query are embedded as one batch, because the embedding of an example depends on no other example.
        embedded = self.embedding(jnp.concatenate([x_support, x]))
        labels = jnp.concatenate([self._label(y_support), jnp.zeros((x.shape[0], self.outputs), jnp.float32)])
        features = jnp.concatenate([embedded, labels], axis=-1)
        shown = x_support.shape[0]
        return self.head(self.layers.predict(features[:shown], features[shown:]))


def in_context_learner(
    input_shape: Sequence[int],
    outputs: int,
    *,
    classes: bool,
    window: int,
    attentions: Sequence[tuple[int, int]] = ((64, 32), (256, 128), (512, 256)),
    filters: int = 128,
    embedding_size: int = 64,
    image_filters: int = 64,
    image_blocks: int = 4,
    pooling: bool = True,
) -> InContextLearner:
    """Make SNAIL for few-shot learning: it reads the support as a sequence, and each query as the next step.

    The published embedding of images normalises over batches. Here each image is normalised separately, so that the
    prediction for a query does not depend on other queries.

    Args:
        input_shape: the shape of one x: ``(features,)``, or ``(height, width, channels)`` for images.
        outputs: the number of classes, or of features of y.
        classes: whether y are classes.
        window: the number of last steps that are read, the query included: the number of examples plus 1. The first
            examples of a larger support are not read.
        attentions: (size of keys, size of values) of each attention; blocks of convolutions stand between attentions.
        filters: the number of features that each convolution appends.
        embedding_size: rectified units of the embedding of x.
        image_filters: filters of each convolution over an image.
        image_blocks: the number of convolutions over an image, each of which halves height and width.
        pooling: whether convolutions over an image halve it by max-pooling (as published) or by strides of 2, which
            takes a quarter of the time.

    Raises:
        ValueError: if a size is not a positive whole number, x does not have one axis or three axes, or there is no
            attention.
    """
    shape = tuple(positive_int("input_shape", size) for size in input_shape)
    if len(shape) not in (1, 3):
        raise ValueError(f"input_shape must be (features,) or (height, width, channels), not {shape}")
    embedding_size = positive_int("embedding_size", embedding_size)
    image = positive_int("image_filters", image_filters), positive_int("image_blocks", image_blocks)
    window = positive_int("window", window)
    sizes = [Attention(positive_int("attentions", k), positive_int("attentions", v)) for k, v in attentions]
    if not sizes:
        raise ValueError("attentions must be at least one pair (key size, value size), not none")
    layers: list[int | Attention] = [sizes[0]]
    for size in sizes[1:]:
        layers += [*block(window), size]
    embedding = (
        ImageEmbedding(embedding_size, *image, pooling)
        if len(shape) == 3
        else nn.Sequential([nn.Dense(embedding_size), nn.relu])
    )
    design = Design(window, positive_int("filters", filters), tuple(layers))
    network = SNAILReader(positive_int("outputs", outputs), classes, embedding, design)

    def init(key: Key) -> Params:
        x = jnp.zeros((1, *shape), jnp.float32)
        y = jnp.zeros((1,), jnp.int32) if classes else jnp.zeros((1, outputs), jnp.float32)
        return network.init(key, (x, y), x)

    def predict(params: Params, support: tuple[Array, Array], x: Array) -> Array:
        return network.apply(params, support, x)  # pyright: ignore[reportReturnType]

    return InContextLearner(init, predict, outputs, most_examples=window - 1)


@dataclass(frozen=True, kw_only=True)
class InContextSettings(settings.Settings):
    """Settings of SNAIL for few-shot learning; defaults are those of Mishra et al. (2018) on images."""

    attentions: Annotated[
        PositiveInt, Doc("The number of attentions; blocks of temporal convolutions are between them.")
    ] = 3
    growing_attentions: Annotated[
        bool,
        Doc(
            "Whether the second attention is 4 times as large as the first, the third 8 times, and so on (64, 256, 512 "
            "in Mishra et al. 2018); otherwise all have the same size."
        ),
    ] = True
    key_size: Annotated[PositiveInt, Doc("Size of the keys of the first attention.")] = 64
    value_size: Annotated[PositiveInt, Doc("Size of the values of the first attention.")] = 32
    filters: Annotated[PositiveInt, Doc("Features that each temporal convolution appends.")] = 128
    embedding_size: Annotated[
        PositiveInt, Doc("Rectified units of the embedding of an input, which for images follows the convolutions.")
    ] = 64
    image_filters: Annotated[PositiveInt, Doc("Filters of each convolution over an image.")] = 64
    image_blocks: Annotated[PositiveInt, Doc("Convolutions over an image, each of which halves height and width.")] = 4
    pooling: Annotated[
        bool,
        Doc(
            "Whether convolutions over an image halve it by max-pooling (as published) or by strides of 2, which takes "
            "a quarter of the time."
        ),
    ] = True


def make_in_context(family: FewShotFamily, settings: InContextSettings) -> InContextLearner:
    """Make SNAIL for few-shot tasks.

    Args:
        family: the few-shot tasks.
        settings: the sizes of the network.

    Raises:
        ValueError: if the inputs are neither vectors nor images.
    """
    examples = family.examples()
    sizes = [1, *(2 ** (n + 1) for n in range(1, settings.attentions))]
    growth = sizes if settings.growing_attentions else [1] * settings.attentions
    return in_context_learner(
        examples.shape,
        examples.outputs,
        classes=examples.classes,
        window=max(examples.supports) + 1,
        attentions=[(settings.key_size * n, settings.value_size * n) for n in growth],
        filters=settings.filters,
        embedding_size=settings.embedding_size,
        image_filters=settings.image_filters,
        image_blocks=settings.image_blocks,
        pooling=settings.pooling,
    )
