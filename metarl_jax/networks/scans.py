"""Parts of memories that are computed for all steps of a trial at once: prefix computations, and stacks of layers.

On accelerators they are associative scans over time. On a CPU they are computed step by step, which keeps the cores
equally busy with less work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax.networks.heads import ActorCriticHead, ObservationEncoder, dense, encode_inputs
from metarl_jax.types import Array, Inputs, Output, Space


def prefix(then: Callable[[Array, Array], Array], state: Array, elements: Array) -> Array:
    """Combine a state with the elements of each step so far, by an associative function such as the maximum.

    Args:
        then: the function ``(earlier, later) -> combined``.
        state: the state before the first step, ``[B, ...]``.
        elements: the element of each step, ``[T, B, ...]``.

    Returns:
        The states after each step, ``[T, B, ...]``.
    """

    def stepwise(state: Array, elements: Array) -> Array:
        def step(before: Array, element: Array) -> tuple[Array, Array]:
            after = then(before, element)
            return after, after

        return jax.lax.scan(step, state, elements)[1]

    def parallel(state: Array, elements: Array) -> Array:
        return jax.lax.associative_scan(then, elements.at[0].set(then(state, elements[0])))

    return jax.lax.platform_dependent(state, elements, cpu=stepwise, default=parallel)


def linear(decay: Array, state: Array, driven: Array) -> Array:
    """Compute the linear recurrence ``h' = decay h + driven``, whose decay may differ from step to step.

    Args:
        decay: the factor of each step, ``[T, B, ...]``.
        state: the state h before the first step, ``[B, ...]``.
        driven: the contribution of the inputs of each step, ``[T, B, ...]``.

    Returns:
        The states after each step, ``[T, B, ...]``.
    """
    return jax.lax.platform_dependent(decay, state, driven, cpu=linear_stepwise, default=linear_parallel)


def linear_stepwise(decay: Array, state: Array, driven: Array) -> Array:
    """Compute ``linear`` one step after another."""

    def step(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        after = now[0] * before + now[1]
        return after, after

    return jax.lax.scan(step, state, (decay, driven))[1]


def linear_parallel(decay: Array, state: Array, driven: Array) -> Array:
    """Compute ``linear`` for all steps at once, by an associative scan."""

    def then(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] * later[0], later[0] * earlier[1] + later[1]

    begun = driven.at[0].add(decay[0] * state)
    return jax.lax.associative_scan(then, (decay, begun))[1]


class Driven(NamedTuple):
    """The result of a layer's computations that do not depend on its memory."""

    decay: Array
    """The factor of the memory at this step, ``[..., *state]``."""
    driven: Array
    """The contribution of the inputs to the memory, ``[..., *state]``."""
    rest: Any
    """The other arguments of the layer's output, in addition to the memory."""


class StackedActorCritic(nn.Module):
    """An actor-critic with layers whose memories are linear recurrences: embedding -> layers -> actions and value.

    A layer has two methods: ``drive`` maps features ``[..., model_size]`` to ``Driven``, and ``finish`` maps
    ``Driven.rest`` and the memory after the step to features ``[..., model_size]``. The carry is an array with the
    memories of all layers, ``[layers, *state]``.
    """

    observation_space: Space
    action_space: Space
    layers: int
    model_size: int
    critic: bool

    def setup(self) -> None:
        self.see = ObservationEncoder(self.observation_space)
        self.embedding = nn.Dense(self.model_size)
        self.stack = [self._layer() for _ in range(self.layers)]
        self.head = ActorCriticHead(self.action_space, self.critic)

    def _layer(self) -> Any:
        """Return a new layer."""
        raise NotImplementedError

    def _embed(self, inputs: Inputs) -> Array:
        return nn.relu(dense(self.embedding, encode_inputs(self.see(inputs.obs), self.action_space, inputs)))

    def __call__(self, carry: Array, inputs: Inputs) -> tuple[Array, Output]:
        x, after = self._embed(inputs), []
        for layer, before in zip(self.stack, carry, strict=True):
            decay, driven, rest = layer.drive(x)
            after.append(decay * before + driven)
            x = layer.finish(rest, after[-1])
        return jnp.stack(after), self.head(x)

    def unroll(self, carry: Array, inputs: Inputs) -> tuple[Array, Output]:
        """Apply the network to T steps of B trials, ``[T, B, ...]``."""
        x, after = self._embed(inputs), []
        for i, layer in enumerate(self.stack):
            decay, driven, rest = layer.drive(x)
            states = linear(decay, carry[:, i], driven)
            x = layer.finish(rest, states)
            after.append(states[-1])
        return jnp.stack(after, axis=1), self.head(x)
