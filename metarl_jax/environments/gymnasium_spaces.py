"""Translation between Gymnasium's spaces and those of this package. The functions compute with NumPy, on the host.

Gymnasium is imported when a space is translated. Worker processes translate, too, and do not import JAX.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from metarl_jax.types import Space

MOST_ACTIONS = 4096
"""The largest number of combinations of discrete actions that become one discrete action."""


class Numbers(NamedTuple):
    """The numbers ``0 .. n - 1``, or arrays of a shape within bounds. ``space`` returns them as a space of JAX."""

    n: int | None
    """The number of elements of a discrete space; None for a box."""
    shape: tuple[int, ...] = ()
    low: Any = None
    high: Any = None

    def space(self) -> Space:
        """Return the space of the family."""
        from metarl_jax.types import Box, Discrete

        return Box(self.low, self.high, self.shape) if self.n is None else Discrete(self.n)


def _box(low: Any, high: Any, shape: tuple[int, ...]) -> Numbers:
    return Numbers(None, tuple(shape), low, high)


class Observations(NamedTuple):
    """The translation of an observation space."""

    numbers: Numbers
    """The elements of the family's space."""
    dtype: np.dtype[Any]
    """The dtype of an encoded observation."""
    encode: Callable[[Any], np.ndarray]
    """A function from an observation of Gymnasium to an element of the family's space."""


class Actions(NamedTuple):
    """The translation of an action space."""

    numbers: Numbers
    """The elements of the family's space."""
    decode: Callable[[np.ndarray], Any]
    """A function from an element of the family's space to an action of Gymnasium."""


def observations(space: Any) -> Observations:
    """Translate an observation space.

    ``Discrete`` becomes ``Discrete``, counted from zero. A ``Box`` stays a ``Box`` of float32, or of uint8 if its
    elements are uint8; an image of two axes gets a third one for its channel. ``MultiDiscrete``, ``MultiBinary``,
    ``Dict`` and ``Tuple`` become flat vectors, as ``gymnasium.spaces.flatten`` makes them: their discrete parts are
    one-hot.

    Args:
        space: a ``gymnasium.Space``.

    Raises:
        ValueError: if the space is of another kind, or has parts of another kind.
    """
    from gymnasium import spaces

    match space:
        case spaces.Discrete():
            start = int(space.start)

            def index(value: Any) -> np.ndarray:
                return np.asarray(int(value) - start)

            return Observations(Numbers(int(space.n)), np.dtype(np.int32), index)
        case spaces.Box():
            dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
            if dtype == np.uint8 and len(space.shape) == 2:
                image = _box(0, 255, (*space.shape, 1))
                return Observations(image, dtype, lambda value: np.asarray(value)[..., None])
            low, high = (0, 255) if dtype == np.uint8 else _bounds(space.low, space.high)
            return Observations(_box(low, high, space.shape), dtype, np.asarray)
    flat = _flattened("observation", space)
    low, high = _bounds(flat.low, flat.high)
    return Observations(
        _box(low, high, flat.shape), np.dtype(np.float32), lambda value: np.asarray(spaces.flatten(space, value))
    )


def actions(space: Any) -> Actions:
    """Translate an action space.

    ``Discrete`` becomes ``Discrete``, counted from zero. ``MultiDiscrete`` and ``MultiBinary`` become one ``Discrete``
    of all combinations. A ``Box`` stays a ``Box``. ``Dict`` and ``Tuple`` become one ``Box`` if all of their parts are
    boxes, and one ``Discrete`` of all combinations if all of their parts are discrete.

    Args:
        space: a ``gymnasium.Space``.

    Raises:
        ValueError: if the space is of another kind, has both continuous and discrete parts, or has too many
            combinations.
    """
    from gymnasium import spaces

    parts = _parts("action", space)
    if all(isinstance(part, spaces.Box) for part in parts):
        low, high = _bounds(*(np.concatenate([np.ravel(getattr(part, side)) for part in parts]) for side in _SIDES))
        if isinstance(space, spaces.Box):
            low, high = (x if isinstance(x, float) else x.reshape(space.shape) for x in (low, high))
            dtype = space.dtype
            return Actions(_box(low, high, space.shape), lambda action: np.array(action, dtype))
        size = sum(math.prod(part.shape) for part in parts)
        return Actions(_box(low, high, (size,)), lambda action: spaces.unflatten(space, np.array(action)))
    if any(isinstance(part, spaces.Box) for part in parts):
        raise ValueError(f"an action space must not have both continuous and discrete parts, as {space} has")
    counts = [count for part in parts for count in _counts(part)]
    combinations = math.prod(counts)
    if combinations > MOST_ACTIONS:
        raise ValueError(
            f"the action space must have at most {MOST_ACTIONS} combinations of discrete actions, but {space} has "
            f"{combinations}"
        )
    if isinstance(space, spaces.Discrete):
        start, kind = int(space.start), np.dtype(space.dtype or np.int64).type
        return Actions(Numbers(combinations), lambda action: kind(int(action) + start))

    def combined(action: np.ndarray) -> Any:
        numbers = iter(np.unravel_index(int(action), counts))
        return _rebuilt(space, numbers)

    return Actions(Numbers(combinations), combined)


_SIDES = ("low", "high")


def _bounds(low: np.ndarray, high: np.ndarray) -> tuple[Any, Any]:
    """Return bounds as float32; bounds that are equal for all entries become numbers, which are shorter in messages."""

    def one(bound: np.ndarray) -> Any:
        bound = np.asarray(bound, np.float32)
        return float(bound.flat[0]) if bound.size and np.all(bound == bound.flat[0]) else bound

    return one(low), one(high)


def _parts(what: str, space: Any) -> list[Any]:
    """Return the boxes and discrete spaces that a space consists of."""
    from gymnasium import spaces

    match space:
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return [space]
        case spaces.Dict():
            return [part for each in space.spaces.values() for part in _parts(what, each)]
        case spaces.Tuple():
            return [part for each in space.spaces for part in _parts(what, each)]
    raise ValueError(
        f"the {what} space must consist of Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple of "
        f"gymnasium.spaces, not of {type(space).__name__}"
    )


def _flattened(what: str, space: Any) -> Any:
    from gymnasium import spaces

    _parts(what, space)
    return spaces.flatten_space(space)


def _counts(part: Any) -> list[int]:
    """Return the numbers of values of the entries of a discrete space."""
    from gymnasium import spaces

    match part:
        case spaces.Discrete():
            return [int(part.n)]
        case spaces.MultiBinary():
            return [2] * math.prod(part.shape)
    return [int(n) for n in np.ravel(part.nvec)]


def _rebuilt(space: Any, numbers: Any) -> Any:
    """Build an action of a discrete space from the indices of its entries, which are counted from zero."""
    from gymnasium import spaces

    match space:
        case spaces.Discrete():
            return np.dtype(space.dtype or np.int64).type(int(next(numbers)) + int(space.start))
        case spaces.MultiDiscrete():
            values = np.array([next(numbers) for _ in range(space.nvec.size)], space.dtype)
            return values.reshape(space.nvec.shape) + np.asarray(space.start, space.dtype)
        case spaces.MultiBinary():
            return np.array([next(numbers) for _ in range(math.prod(space.shape))], space.dtype).reshape(space.shape)
        case spaces.Dict():
            return {name: _rebuilt(part, numbers) for name, part in space.spaces.items()}
    return tuple(_rebuilt(part, numbers) for part in space.spaces)
