"""Synthetic characters of a few strokes: few-shot classification without a download, with unlimited tasks.

A character consists of two to four quadratic Bezier curves. Each example of it is slightly rotated, scaled, slanted and
shifted, and its control points are perturbed. These tasks do not replace Omniglot: there are no published results on
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.datasets.classification import accuracy, cross_entropy, episode
from metarl_jax.interfaces.few_shot import FewShot, FewShotFamily, FewShotTask
from metarl_jax.settings import PositiveInt
from metarl_jax.types import Array, Key, TaskDistribution

SIDE = 28
"""The width and the height of an image in pixels. The plane of a glyph is [-1, 1] x [-1, 1]."""
FEWEST_STROKES, MOST_STROKES = 2, 4
REACH = 0.85
"""Control points are drawn from [-REACH, REACH]."""
WOBBLE = 0.1
"""Standard deviation of the perturbation of a control point in a drawing."""
TURN, SLANT, STRETCH, SHIFT = 0.15, 0.15, 0.15, 0.1
"""Standard deviations of a drawing's angle in radians, its slant, the logarithm of its scales, and its shift."""
THICKNESS, BLUR = 0.07, 0.02
"""Half the width of a stroke, and half the width of its blurred edge."""
SEGMENTS = 8
"""The number of straight pieces that approximate a curve."""


class Glyphs(NamedTuple):
    """One task: N glyphs, in the order of their labels."""

    strokes: Array
    """``[N, MOST_STROKES, 3, 2]``: control points (x to the right, y down); a glyph of fewer strokes repeats its first
    one."""


def make(ways: int, shots: int, queries: int) -> FewShot:
    """Make few-shot classification of glyphs. Every task has new glyphs.

    The same key gives different training, held-out and validation tasks. Images are float32 ``[..., 28, 28, 1]``, with
    1 for ink; labels are int32.

    Args:
        ways: the number of glyphs of a task.
        shots: the number of examples of a glyph in the support.
        queries: the number of examples of a glyph in the query.

    Raises:
        ValueError: if a number is not positive and whole.
    """
    ways, shots, queries = positive_int("ways", ways), positive_int("shots", shots), positive_int("queries", queries)

    def sampler(stream: int) -> Callable[[Key], Glyphs]:
        def sample(key: Key) -> Glyphs:
            return Glyphs(jax.vmap(glyph)(jax.random.split(jax.random.fold_in(key, stream), ways)))

        return sample

    def draw(key: Key, task: Glyphs) -> FewShotTask:
        key_examples, key_episode = jax.random.split(key)
        keys = jax.random.split(key_examples, (ways, shots + queries))
        images = jax.vmap(jax.vmap(example, in_axes=(0, None)))(keys, task.strokes)
        return episode(key_episode, images[..., None], shots)

    tasks = TaskDistribution(sampler(0), sampler(1), sampler(2))
    return FewShot(tasks, draw, cross_entropy, accuracy, outputs=ways)


def glyph(key: Key) -> Array:
    """Draw the strokes of a random glyph, ``[MOST_STROKES, 3, 2]``."""
    key_points, key_count = jax.random.split(key)
    strokes = jax.random.uniform(key_points, (MOST_STROKES, 3, 2), jnp.float32, minval=-REACH, maxval=REACH)
    count = jax.random.randint(key_count, (), FEWEST_STROKES, MOST_STROKES + 1, jnp.int32)
    return jnp.where(jnp.arange(MOST_STROKES)[:, None, None] < count, strokes, strokes[0])


def example(key: Key, strokes: Array) -> Array:
    """Draw one example of a glyph, ``[SIDE, SIDE]``."""
    key_wobble, key_affine, key_shift = jax.random.split(key, 3)
    moved = strokes + WOBBLE * jax.random.normal(key_wobble, strokes.shape, jnp.float32)
    # Repeated strokes must stay identical to the first one.
    moved = jnp.where(jnp.all(strokes == strokes[0], axis=(1, 2), keepdims=True), moved[0], moved)
    sizes = jnp.asarray([TURN, SLANT, STRETCH, STRETCH], jnp.float32)
    angle, slant, wide, high = sizes * jax.random.normal(key_affine, (4,), jnp.float32)
    turn = jnp.asarray([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    affine = turn @ jnp.asarray([[jnp.exp(wide), slant], [0.0, jnp.exp(high)]])
    return render(moved @ affine.T + SHIFT * jax.random.normal(key_shift, (2,), jnp.float32))


def render(strokes: Array) -> Array:
    """Return the ink from 0 to 1, ``[SIDE, SIDE]``, from the distance of each pixel's centre to the nearest curve.

    Args:
        strokes: control points ``[strokes, 3, 2]``.
    """
    t = jnp.linspace(0, 1, SEGMENTS + 1, dtype=jnp.float32)
    weights = jnp.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
    points = jnp.einsum("tc,scd->std", weights, strokes)
    start, along = (x.reshape(-1, 2, 1, 1) for x in (points[:, :-1], points[:, 1:] - points[:, :-1]))
    centres = (2 * jnp.arange(SIDE, dtype=jnp.float32) + 1) / SIDE - 1
    across, down = centres[None, :] - start[:, 0], centres[:, None] - start[:, 1]
    # The position of the nearest point on each piece. A piece without length has only one point.
    length = jnp.sum(along**2, axis=1) + 1e-12
    place = jnp.clip((across * along[:, 0] + down * along[:, 1]) / length, 0, 1)
    squares = (across - place * along[:, 0]) ** 2 + (down - place * along[:, 1]) ** 2
    return jax.nn.sigmoid((THICKNESS - jnp.sqrt(jnp.min(squares, axis=0))) / BLUR)


def family(
    ways: PositiveInt = 5,
    shots: PositiveInt = 1,
    queries: PositiveInt = 1,
    heldout_shots: PositiveInt = 1,
    heldout_queries: PositiveInt = 1,
) -> FewShotFamily:
    """Make glyphs, with different numbers of examples for training and for held-out tasks.

    Args:
        ways: Number of classes of a task.
        shots: Number of examples of a class in the support, in training.
        queries: Number of examples of a class in the query, in training.
        heldout_shots: Number of examples of a class in the support of a held-out or validation task.
        heldout_queries: Number of examples of a class in the query of a held-out or validation task.

    Raises:
        ValueError: if a number is not positive and whole.
    """
    return FewShotFamily(make(ways, shots, queries), make(ways, heldout_shots, heldout_queries))
