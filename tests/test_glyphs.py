"""Synthetic glyphs: drawings, classes of examples, and tasks that never repeat."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.datasets import glyphs
from metarl_jax.datasets.classification import accuracy, cross_entropy
from metarl_jax.types import Array, Key

WAYS, SHOTS, QUERIES = 5, 2, 3
FAMILY = glyphs.make(WAYS, SHOTS, QUERIES)


@jax.jit
def _draw(key: Key) -> Any:
    key_task, key_draw = jax.random.split(key)
    task = FAMILY.tasks.sample(key_task)
    return task, FAMILY.draw(key_draw, task)


def test_an_episode_has_the_shapes_and_labels_that_were_asked_for() -> None:
    _, (support, query, _) = _draw(jax.random.key(0))
    for (x, y), each in ((support, SHOTS), (query, QUERIES)):
        assert (x.shape, x.dtype) == ((WAYS * each, 28, 28, 1), jnp.float32)
        assert (y.shape, y.dtype) == ((WAYS * each,), jnp.int32)
        assert np.bincount(y, minlength=WAYS).tolist() == [each] * WAYS
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        ink = np.asarray(x).mean(axis=(1, 2, 3))
        assert ink.min() > 0.01, "every drawing has some ink"
        assert ink.max() < 0.6
    assert not np.array_equal(query[1], np.sort(query[1])), "examples come in random order"


def test_examples_differ_and_are_nearest_to_their_own_class() -> None:
    """Chance is one in five. Nothing is learned here, so the accuracy is not near one either."""
    keys = jax.random.split(jax.random.key(1), 40)

    def one(key: Key) -> tuple[Array, Array]:
        _, ((x, y), (query, labels), _) = _draw(key)
        distances = jnp.sum((query[:, None] - x[None]) ** 2, axis=(2, 3, 4))
        return jnp.mean(y[jnp.argmin(distances, axis=1)] == labels), jnp.min(distances)

    right, nearest = jax.lax.map(one, keys)
    assert 0.4 < float(right.mean()) < 0.9
    assert float(nearest.min()) > 0, "no drawing is in support and query"


def test_tasks_are_a_function_of_the_key_and_differ_between_splits() -> None:
    key = jax.random.key(3)
    validation = FAMILY.tasks.validation(key)
    one, again, heldout = FAMILY.tasks.sample(key), FAMILY.tasks.sample(key), FAMILY.tasks.sample_heldout(key)
    np.testing.assert_array_equal(one.strokes, again.strokes)
    others = heldout, validation, FAMILY.tasks.sample(jax.random.key(4))
    points = np.concatenate([task.strokes for task in (one, *others)])
    assert len(np.unique(points[:, 0], axis=0)) == 4 * WAYS


def test_a_straight_stroke_is_drawn_where_it_is() -> None:
    """A line from the left to the right edge, a quarter of the height from the top."""
    line = jnp.asarray([[[-1.0, -0.5], [0.0, -0.5], [1.0, -0.5]]])
    image = np.asarray(glyphs.render(line))
    assert image.shape == (28, 28)
    # The line lies between rows 6 and 7, whose centres are half a pixel, 1/28, from it.
    assert (image[6:8] > 0.8).all()
    assert (image[:5] < 0.01).all() and (image[9:] < 0.01).all()
    # A bend pulls the middle half of the way to its control point.
    bent = np.asarray(glyphs.render(line.at[0, 1, 1].set(0.5)))
    assert bent[13:15, 13:15].min() > 0.8
    assert bent[6:8, 13:15].max() < 0.01


def test_glyphs_have_two_to_four_strokes() -> None:
    strokes = np.asarray(jax.vmap(glyphs.glyph)(jax.random.split(jax.random.key(0), 200)))
    counts = [len(np.unique(glyph.reshape(glyphs.MOST_STROKES, 6), axis=0)) for glyph in strokes]
    assert set(counts) == {2, 3, 4}


def test_loss_and_score() -> None:
    logits = jnp.asarray([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    y = jnp.asarray([0, 1])
    expected = [np.log(np.exp(2) + 2) - 2, np.log(1 + np.e + np.exp(3)) - 1]
    assert float(cross_entropy(logits, y)) == pytest.approx(np.mean(expected), rel=1e-6)
    assert float(accuracy(logits, y)) == 0.5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 1, 1), "ways must be a positive whole number, not 0"),
        ((5, -1, 1), "shots must be a positive whole number, not -1"),
        ((5, 1, 2.5), "queries must be a positive whole number, not 2.5"),
    ],
)
def test_bad_sizes_are_named(arguments: tuple[Any, Any, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        glyphs.make(*arguments)
