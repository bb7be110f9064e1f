"""Omniglot: tasks and episodes on synthetic characters, valid and invalid files, and a download of tiny archives."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import problems
from metarl_jax.algorithms import maml, reptile
from metarl_jax.datasets import omniglot
from metarl_jax.interfaces.gradient import Predictor
from metarl_jax.networks import convolutional, mlp
from metarl_jax.types import Key

CHARACTERS, TRAINING = 30, 20
WAYS, SHOTS, QUERIES = 5, 2, 3


def small() -> omniglot.Omniglot:
    """Make data whose images encode their character and example in the first pixels, and their orientation."""
    images = np.zeros((CHARACTERS, 20, 28, 28), np.uint8)
    images[..., 0, 0] = np.arange(CHARACTERS)[:, None] + 1
    images[..., 0, 1] = np.arange(20) + 1
    images[..., 1, 0] = 255
    return omniglot.Omniglot(jnp.asarray(images), np.zeros(CHARACTERS, np.int32), ("only",))


FAMILY = omniglot.few_shot(small(), WAYS, SHOTS, QUERIES, training_characters=TRAINING)


def told(image: np.ndarray) -> tuple[int, int, int]:
    """Return the character, the example and the quarter turns of an image of ``small``."""
    for turns in range(4):
        upright = np.rot90(image[..., 0], -turns)
        if upright[1, 0] == 1:
            return round(float(upright[0, 0]) * 255) - 1, round(float(upright[0, 1]) * 255) - 1, turns
    raise AssertionError("none of four turns is upright")


@jax.jit
def _draw(key: Key) -> Any:
    key_task, key_draw = jax.random.split(key)
    task = FAMILY.tasks.sample(key_task)
    return task, FAMILY.draw(key_draw, task)


@jax.jit
def _tasks(keys: Key) -> Any:
    return jax.vmap(FAMILY.tasks.sample)(keys), jax.vmap(FAMILY.tasks.sample_heldout)(keys)


def test_episodes_are_distinct_examples_of_the_task_s_classes() -> None:
    for seed in range(5):
        task, (support, query, _) = _draw(jax.random.key(seed))
        seen = set()
        for (x, y), each in ((support, SHOTS), (query, QUERIES)):
            assert (x.shape, x.dtype, y.shape, y.dtype) == (
                *((WAYS * each, 28, 28, 1), jnp.float32),
                *((WAYS * each,), jnp.int32),
            )
            assert np.bincount(y, minlength=WAYS).tolist() == [each] * WAYS
            for image, label in zip(np.asarray(x), np.asarray(y), strict=True):
                character, example, turns = told(image)
                # A label is the same class in support and query.
                assert (character, turns) == (int(task.character[label]), int(task.rotation[label]))
                seen.add((character, turns, example))
        assert len(seen) == WAYS * (SHOTS + QUERIES), "no example is met twice"
        assert not np.array_equal(query[1], np.sort(query[1])), "examples come in random order"
    again = _draw(jax.random.key(0))[1]
    np.testing.assert_array_equal(again.query[0], _draw(jax.random.key(0))[1].query[0])
    assert not np.array_equal(again.query[0], _draw(jax.random.key(1))[1].query[0])


def test_splits_share_no_character_and_labels_are_in_random_order() -> None:
    train, heldout = _tasks(jax.random.split(jax.random.key(0), 1000))
    sets = [set(np.ravel(tasks.character).tolist()) for tasks in (train, heldout)]
    assert [len(characters) for characters in sets] == [TRAINING, CHARACTERS - TRAINING]
    assert not sets[0] & sets[1]
    for tasks in (train, heldout):
        character, rotation = np.asarray(tasks.character), np.asarray(tasks.rotation)
        assert set(np.ravel(rotation).tolist()) == {0, 1, 2, 3}
        classes = 4 * character + rotation
        assert all(len(set(task)) == WAYS for task in classes.tolist())
        # A class has the first label as often as the last one.
        assert (classes[:, 0] < classes[:, -1]).mean() == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
        # A character may be in a task twice, in different rotations.
        assert any(len(set(task)) < WAYS for task in character.tolist())
    # The split never changes: no run trains on the held-out characters of another one.
    assert sets[1] == {0, 3, 7, 9, 12, 15, 18, 19, 21, 25}


def test_without_rotations_every_class_is_upright() -> None:
    family = omniglot.few_shot(small(), WAYS, SHOTS, QUERIES, rotations=False, training_characters=TRAINING)
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 50))
    assert not np.any(tasks.rotation)
    assert all(len(set(task)) == WAYS for task in np.asarray(tasks.character).tolist())


def test_rotations_are_numpy_s() -> None:
    images = jax.random.uniform(jax.random.key(0), (3, 5, 5))
    for turns in range(4):
        expected = np.rot90(images, turns, axes=(1, 2))
        np.testing.assert_array_equal(omniglot.rotate(images, jnp.int32(turns)), expected)


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        ((0, 1, 1), {}, "ways must be a positive whole number, not 0"),
        ((5, 0, 1), {}, "shots must be a positive whole number, not 0"),
        ((5, 1, True), {}, "queries must be a positive whole number, not True"),
        ((41, 1, 1), {}, "ways must be at most 40, the number of classes, not 41"),
        ((11, 1, 1), {"rotations": False}, "ways must be at most 10, the number of classes, not 11"),
        ((5, 10, 11), {}, r"shots \+ queries must be at most 20, the number of examples of a character, not 10\+11"),
        (
            (5, 1, 1),
            {"training_characters": 30},
            "training_characters must be below 30, the number of all characters, not 30",
        ),
        ((5, 1, 1), {"training_characters": 0}, "training_characters must be a positive whole number, not 0"),
    ],
)
def test_numbers_beyond_the_data_set_are_refused(arguments: Any, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        omniglot.few_shot(small(), *arguments, **({"training_characters": TRAINING} | settings))


# ---------------------------------------------------------------------------------------------- as a problem


def _problem(network: Predictor, **settings: Any) -> Any:
    heldout = omniglot.few_shot(small(), WAYS, 1, 2, training_characters=TRAINING)
    return problems.few_shot(FAMILY, network, problems.FewShotSettings(**settings), heldout=heldout)


def test_inner_steps_see_batches_of_their_own_size_on_held_out_tasks() -> None:
    problem = _problem(mlp.classifier(784, WAYS, (4,)), batch_size=7, heldout_batch_size=3)
    params = problem.init(jax.random.key(0))
    for sample, batch, whole in ((problem.tasks.sample, 7, 10), (problem.tasks.sample_heldout, 3, 5)):
        task = sample(jax.random.key(1))
        x, y = problem.support(jax.random.key(2), params, task)
        assert (x.shape[0], y.shape[0], task.support[0].shape[0]) == (batch, batch, whole)
        assert len({told(image) for image in np.asarray(x)}) == batch
    with pytest.raises(ValueError, match="heldout_batch_size must be a positive whole number or None, not 0"):
        _problem(mlp.classifier(784, WAYS, (4,)), heldout_batch_size=0)


def test_without_transduction_each_query_is_classified_only_with_the_support() -> None:
    network = mlp.classifier(784, WAYS, (6,))
    problem = _problem(network, transductive=False)
    params = problem.init(jax.random.key(0))
    task = problem.tasks.sample_heldout(jax.random.key(1))
    batch = problem.query(jax.random.key(2), params, task)
    (x, _), (query, labels) = task.support, task.query
    logits = jnp.stack([network.apply(params, jnp.concatenate([x, one[None]]))[-1] for one in query])
    np.testing.assert_allclose(problem.outer_loss(params, batch), FAMILY.loss(logits, labels), rtol=1e-5)
    np.testing.assert_allclose(problem.score(params, batch), FAMILY.score(logits, labels))
    # Other examples in the query have no effect; in a transductive problem they have one.
    half = (batch[0][:4], batch[1][:4], batch[2])
    np.testing.assert_allclose(problem.outer_loss(params, half), FAMILY.loss(logits[:4], labels[:4]), rtol=1e-5)
    assert float(_problem(network).outer_loss(params, task.query)) != pytest.approx(
        float(FAMILY.loss(logits, labels)), rel=1e-3
    )


@pytest.mark.parametrize("module", [maml, reptile])
def test_learners_meet_it(module: Any) -> None:
    network = convolutional.classifier((28, 28, 1), WAYS, filters=3, blocks=1)
    problem = _problem(network, heldout_batch_size=2, transductive=module is maml)
    algorithm = module.make(problem, module.Config(tasks=2, inner_steps=1, adaptation_steps=2))

    def run(key: Key) -> Any:
        state, metrics = algorithm.step(key, algorithm.init(key))
        return metrics, algorithm.adapt(key, state, problem.tasks.sample_heldout(key)).score

    metrics, score = jax.jit(run)(jax.random.key(0))
    assert score.shape == (3,)
    assert 0 <= float(metrics["score"]) <= 1
    assert set(np.round(np.asarray(score) * 10, 4) % 1) == {0.0}, "accuracies on ten queries"


# ------------------------------------------------------------------------------------------------------ files


def test_a_file_is_loaded_in_the_order_of_its_characters(omniglot_folder: Path, tmp_path: Path) -> None:
    data = omniglot.load(str(omniglot_folder))
    assert (data.images.shape, data.images.dtype) == ((1623, 20, 28, 28), jnp.uint8)
    assert isinstance(data.images, jax.Array)
    assert (data.alphabet_id.shape, len(data.alphabet_names)) == ((1623,), 50)
    # The same file with reversed rows gives the same data.
    with np.load(omniglot_folder / "omniglot.npz") as file:
        content = {name: file[name] for name in file}
    turned = {name: array[::-1] if array.shape[0] == 1623 else array for name, array in content.items()}
    np.savez(tmp_path / "omniglot.npz", **turned)
    again = omniglot.load(tmp_path)
    np.testing.assert_array_equal(again.images, data.images)
    np.testing.assert_array_equal(again.alphabet_id, data.alphabet_id)
    family = omniglot.few_shot(data, 20, 5, 15)
    sizes = [sample(jax.random.key(0)).character.shape for sample in (family.tasks.sample, family.tasks.sample_heldout)]
    assert sizes == [(20,), (20,)]


def _small_file(**changes: Any) -> bytes:
    """Return the smallest content with which the check of images is reached."""
    content = {
        "images": np.zeros((2, 2), np.uint8),
        "character_id": np.arange(1, 1624),
        "alphabet_id": np.zeros(1623, np.uint8),
        "alphabet_names": np.asarray(["only"]),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in (content | changes).items() if array is not None})
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda: b"", "cannot be read as Omniglot"),
        (lambda: b"PK\x03\x04 and then nothing", "cannot be read as Omniglot"),
        (lambda: b"\x80\x04K\x01.", "cannot be read as Omniglot: .*pickle"),
        (lambda: _small_file()[:-100], "cannot be read as Omniglot"),
        (_npy, "cannot be read as Omniglot: it is not an .npz archive"),
        (lambda: _small_file(images=None), "cannot be read as Omniglot: it has no images"),
        (lambda: _small_file(character_id=None, alphabet_id=None), "it has no character_id, alphabet_id"),
        (lambda: _small_file(images=np.asarray([{}], object)), "cannot be read as Omniglot: .*pickle"),
        (_small_file, r"images must be \[1623, 20, 28, 28\] uint8, not \[2, 2\] uint8"),
        (lambda: _small_file(images=np.zeros((2, 2))), r"uint8, not \[2, 2\] float64"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, content: Callable[[], bytes], expected: str) -> None:
    (tmp_path / "omniglot.npz").write_bytes(content())
    with pytest.raises(ValueError, match=expected) as error:
        omniglot.load(tmp_path)
    assert str(tmp_path / "omniglot.npz") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"character_id": np.zeros(1623, int)}, "character_id must be the numbers 1 to 1623, each once"),
        ({"character_id": np.zeros(1623)}, r"character_id must be \[1623\] whole numbers, not \[1623\] float64"),
        ({"alphabet_id": np.zeros(5, int)}, r"alphabet_id must be \[1623\] whole numbers, not \[5\] int64"),
        ({"alphabet_id": np.full(1623, 3)}, "alphabet_id must be from 0 to 0, for 1 alphabet_names"),
        ({"alphabet_names": np.zeros(2)}, r"alphabet_names must be \[2\] text, not \[2\] float64"),
    ],
)
def test_bad_numbers_are_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    images = np.broadcast_to(np.uint8(0), (1623, 20, 28, 28))
    (tmp_path / "omniglot.npz").write_bytes(_small_file(images=images, **changes))
    with pytest.raises(ValueError, match=expected):
        omniglot.load(tmp_path)


def test_a_missing_file_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no Omniglot at") as error:
        omniglot.load(tmp_path)
    assert str(tmp_path / "omniglot.npz") in str(error.value)
    assert f"omniglot.download({str(tmp_path)!r})" in str(error.value)


# --------------------------------------------------------------------------------------------------- download


def drawing(character: int, person: int) -> np.ndarray:
    """Return ``[105, 105]`` zeros and ones: a block whose place and size encode person and character."""
    ink = np.zeros((105, 105))
    ink[15 * character : 15 * character + 30, 15 : 30 + 15 * person] = 1
    return ink


def _archive(part: str, characters: dict[int, tuple[str, int]]) -> bytes:
    """Make an archive of drawings by two people in the layout of the authors' archives, with some other files."""
    from PIL import Image

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{part}/", "")
        archive.writestr(f"__MACOSX/{part}/._rubbish.png", "no image")
        # The order in an archive is arbitrary.
        for number, (alphabet, place) in reversed(characters.items()):
            for person in (2, 1):
                png = io.BytesIO()
                # One bit per pixel with ink 0, as in the authors' files.
                Image.fromarray(drawing(number, person) == 0).save(png, format="png")
                name = f"{part}/{alphabet}/character{place:02}/{number:04}_{person:02}.png"
                archive.writestr(name, png.getvalue())
    return buffer.getvalue()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of two tiny archives, whose checksums replace the published ones."""
    archives = {
        "images_background.zip": _archive("images_background", {1: ("Greek", 1), 2: ("Arcadian", 1)}),
        "images_evaluation.zip": _archive("images_evaluation", {3: ("Angelic", 1), 4: ("Angelic", 2)}),
    }
    (tmp_path / "source").mkdir()
    for name, content in archives.items():
        (tmp_path / "source" / name).write_bytes(content)
    sums = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in archives.items()}
    monkeypatch.setattr(omniglot, "ARCHIVES", sums)
    monkeypatch.setattr(omniglot, "CHARACTERS", 4)
    monkeypatch.setattr(omniglot, "EXAMPLES", 2)
    return (tmp_path / "source").as_uri()


def test_a_download_is_shrunk_stored_and_loaded(tmp_path: Path, source: str) -> None:
    path = omniglot.download(tmp_path / "new" / "data", source=source)
    assert [p.name for p in path.parent.iterdir()] == ["omniglot.npz"]
    data = omniglot.load(path.parent)
    for number in range(1, 5):
        for person in (1, 2):
            expected = omniglot.shrink(drawing(number, person))
            np.testing.assert_array_equal(data.images[number - 1, person - 1], expected)
    # The alphabets of the background set come first.
    assert data.alphabet_names == ("Arcadian", "Greek", "Angelic")
    assert data.alphabet_id.tolist() == [1, 0, 2, 2]
    with np.load(path) as file:
        assert file["is_evaluation"].tolist() == [False, False, True, True]
        assert file["character_in_alphabet"].tolist() == [1, 1, 1, 2]
    before = path.read_bytes()
    assert omniglot.download(path.parent, source="file:///nowhere") == path
    assert path.read_bytes() == before


def test_a_download_that_fails_leaves_no_file(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    with pytest.raises(OSError, match=r"nowhere/images_background\.zip cannot be fetched"):
        omniglot.download(folder, source=(tmp_path / "nowhere").as_uri())
    monkeypatch.setattr(omniglot, "CHARACTERS", 5)
    with pytest.raises(ValueError, match="expected 5 characters of 2 drawings, found 4"):
        omniglot.download(folder, source=source)
    archive = tmp_path / "source" / "images_evaluation.zip"
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"images_evaluation\.zip is not the published archive: its MD5 is"):
        omniglot.download(folder, source=source)
    assert not folder.exists()


def test_shrinking_is_the_mean_over_areas() -> None:
    ink = (np.random.default_rng(0).random((105, 105)) < 0.3).astype(float)
    # At four times the resolution, each of the 28 pixels covers 15 by 15 whole pixels.
    fine = ink.repeat(4, axis=0).repeat(4, axis=1).reshape(28, 15, 28, 15).mean(axis=(1, 3))
    np.testing.assert_array_equal(omniglot.shrink(ink), np.round(255 * fine).astype(np.uint8))
    assert omniglot.shrink(np.ones((105, 105))).min() == 255
