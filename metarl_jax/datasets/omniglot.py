"""Omniglot (Lake et al. 2015): 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

The images are not part of this package: ``download`` fetches them from their authors, and ``load`` reads an existing
file. The file, ``omniglot.npz``, holds ``images [1623, 20, 28, 28]`` uint8 (ink 255), ``character_id [1623]`` (1 to
1623, as in the authors' file names), ``alphabet_id [1623]`` and ``alphabet_names``. Other arrays in the file are not
read.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import positive_int
from metarl_jax.datasets.classification import accuracy, cross_entropy, episode
from metarl_jax.interfaces.few_shot import FewShot, FewShotFamily, FewShotTask
from metarl_jax.ops.draws import without_replacement
from metarl_jax.settings import PositiveInt
from metarl_jax.types import Array, Key, TaskDistribution

FILE = "omniglot.npz"
SOURCE = "https://github.com/brendenlake/omniglot/raw/master/python"
ARCHIVES: Mapping[str, str] = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
"""The authors' archives with their published MD5 sums, which detect damage, but not manipulation."""
CHARACTERS, EXAMPLES, SIDE = 1623, 20, 28
TRAINING_CHARACTERS = 1200
TURNS = 4
"""The number of rotations by multiples of 90 degrees."""
_NEEDED = ("images", "character_id", "alphabet_id", "alphabet_names")
_DRAWING = re.compile(r"images_(background|evaluation)/([^/]+)/character(\d+)/(\d+)_(\d+)\.png")
_SPLIT_SEED = 0


class Omniglot(NamedTuple):
    """The data set, in the order of the authors' numbers of characters."""

    images: Array
    """``[characters, examples, height, width]`` uint8, ink 255, on the device."""
    alphabet_id: np.ndarray
    """``[characters]``: the index of the alphabet of each character in ``alphabet_names``."""
    alphabet_names: tuple[str, ...]


class Characters(NamedTuple):
    """One task: N classes, each a character in a rotation, in the order of their labels."""

    character: Array
    """``[N]`` int32, rows of ``Omniglot.images``."""
    rotation: Array
    """``[N]`` int32, quarter turns anticlockwise."""


def few_shot(
    data: Omniglot,
    ways: int,
    shots: int,
    queries: int,
    *,
    rotations: bool = True,
    training_characters: int = TRAINING_CHARACTERS,
) -> FewShot:
    """Make few-shot classification of characters: 1200 random characters for training, 423 held-out characters.

    The numbers are those of Finn et al. (2017), whose own choice of characters is not published. Characters are chosen
    independently of their alphabet. A held-out character is in no training task in any rotation. Validation tasks use
    training characters, in episodes that training does not draw: all 1200 characters are trained on, as in the code of
    Nichol et al. (2018). Images are float32 ``[..., 28, 28, 1]``, with 1 for ink; labels are int32.

    Args:
        data: the data set, from ``load``.
        ways: the number of classes of a task, which are all different.
        shots: the number of examples of a class in the support.
        queries: the number of examples of a class in the query, which differ from those in the support.
        rotations: whether a character rotated by 90, 180 and 270 degrees gives three further classes.
        training_characters: the number of characters that are not held out.

    Raises:
        ValueError: if a number is not positive and whole, or if there are not enough classes or examples.
    """
    ways, shots, queries = positive_int("ways", ways), positive_int("shots", shots), positive_int("queries", queries)
    training_characters = positive_int("training_characters", training_characters)
    characters, examples = data.images.shape[:2]
    turns = TURNS if rotations else 1
    classes = turns * min(training_characters, characters - training_characters)
    if classes <= 0:
        raise ValueError(
            f"training_characters must be below {characters}, the number of all characters, not {training_characters}"
        )
    if ways > classes:
        raise ValueError(f"ways must be at most {classes}, the number of classes, not {ways}")
    if shots + queries > examples:
        raise ValueError(
            f"shots + queries must be at most {examples}, the number of examples of a character, not {shots}+{queries}"
        )
    # The numbers of this generator are the same in all versions of NumPy.
    order = np.random.RandomState(_SPLIT_SEED).permutation(characters).astype(np.int32)

    def sampler(characters: np.ndarray) -> Callable[[Key], Characters]:
        def sample(key: Key) -> Characters:
            chosen = without_replacement(key, turns * len(characters), ways)
            return Characters(jnp.asarray(characters)[chosen // turns], chosen % turns)

        return sample

    def draw(key: Key, task: Characters) -> FewShotTask:
        key_examples, key_episode = jax.random.split(key)
        chosen = without_replacement(key_examples, examples, shots + queries, (ways,))
        # Only the images of the task are gathered and converted to float.
        images = data.images[task.character[:, None], chosen].astype(jnp.float32) / 255
        images = jax.vmap(rotate)(images, task.rotation)
        return episode(key_episode, images[..., None], shots)

    tasks = TaskDistribution(sampler(order[:training_characters]), sampler(order[training_characters:]))
    return FewShot(tasks, draw, cross_entropy, accuracy, outputs=ways)


def family(
    ways: PositiveInt = 5,
    shots: PositiveInt = 1,
    queries: PositiveInt = 1,
    heldout_shots: PositiveInt = 1,
    heldout_queries: PositiveInt = 1,
    data_dir: str = "data",
    rotations: bool = True,
    heldout_rotations: bool = True,
) -> FewShotFamily:
    """Make Omniglot tasks, with different numbers of examples for training and for held-out tasks.

    Args:
        ways: Number of classes of a task.
        shots: Number of examples of a class in the support, in training.
        queries: Number of examples of a class in the query, in training.
        heldout_shots: Number of examples of a class in the support of a held-out or validation task.
        heldout_queries: Number of examples of a class in the query of a held-out or validation task.
        data_dir: The folder that contains omniglot.npz; metarl_jax.datasets.omniglot.download stores it there.
        rotations: Whether characters rotated by 90, 180 and 270 degrees are classes of their own in training.
        heldout_rotations: Whether characters rotated by 90, 180 and 270 degrees are classes of their own in held-out
            and validation tasks.

    Raises:
        ValueError: if a number is out of range, or if the data are missing or damaged.
    """
    return _family(
        load(data_dir), (ways, shots, queries), (ways, heldout_shots, heldout_queries), rotations, heldout_rotations
    )


def without_data(
    ways: int,
    shots: int,
    queries: int,
    heldout_shots: int,
    heldout_queries: int,
    data_dir: str,
    rotations: bool,
    heldout_rotations: bool,
) -> FewShotFamily:
    """Make the family that ``family`` makes, but with empty images, so that a trained learner needs no data file.

    Raises:
        ValueError: if a number is out of range.
    """
    del data_dir
    blank = Omniglot(jnp.zeros((CHARACTERS, EXAMPLES, SIDE, SIDE), jnp.uint8), np.zeros(CHARACTERS, np.int32), ("",))
    return _family(blank, (ways, shots, queries), (ways, heldout_shots, heldout_queries), rotations, heldout_rotations)


def _family(
    data: Omniglot,
    training: tuple[int, int, int],
    heldout: tuple[int, int, int],
    rotations: bool,
    heldout_rotations: bool,
) -> FewShotFamily:
    return FewShotFamily(
        few_shot(data, *training, rotations=rotations), few_shot(data, *heldout, rotations=heldout_rotations)
    )


def rotate(images: Array, turns: Array) -> Array:
    """Rotate square images ``[..., side, side]`` anticlockwise by 0 to 3 quarter turns, a scalar."""
    images = jnp.where(turns % 2 == 1, jnp.swapaxes(images, -1, -2)[..., ::-1, :], images)
    return jnp.where(turns // 2 == 1, images[..., ::-1, ::-1], images)


# ---------------------------------------------------------------------------------------------------------- files


def load(data_dir: str | Path) -> Omniglot:
    """Read ``omniglot.npz`` and put its images on the device.

    Args:
        data_dir: the folder that contains the file.

    Raises:
        ValueError: in one line, if there is no such file, or if it cannot be read as Omniglot.
    """
    path = Path(data_dir) / FILE
    if not path.is_file():
        raise ValueError(
            f'there is no Omniglot at {path}: copy {FILE} there, or download it with python -c "from '
            f'metarl_jax.datasets import omniglot; omniglot.download({str(data_dir)!r})"'
        )
    content = _read(path)
    images, names = content["images"], content["alphabet_names"]
    _expect(path, "images", images, (CHARACTERS, EXAMPLES, SIDE, SIDE), np.uint8, "uint8")
    for name in ("character_id", "alphabet_id"):
        _expect(path, name, content[name], (CHARACTERS,), np.integer, "whole numbers")
    _expect(path, "alphabet_names", names, (names.size,), np.str_, "text")
    if sorted(content["character_id"].tolist()) != list(range(1, CHARACTERS + 1)):
        raise ValueError(f"{path}: character_id must be the numbers 1 to {CHARACTERS}, each once")
    if int(content["alphabet_id"].min()) < 0 or int(content["alphabet_id"].max()) >= len(names):
        raise ValueError(f"{path}: alphabet_id must be from 0 to {len(names) - 1}, for {len(names)} alphabet_names")
    # The same characters are held out for every order of characters in the file.
    order = np.argsort(content["character_id"], kind="stable")
    return Omniglot(
        jnp.asarray(images[order]), content["alphabet_id"][order].astype(np.int32), tuple(str(name) for name in names)
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it is not an .npz archive")
            missing = [name for name in _NEEDED if name not in content]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}")
            return {name: content[name] for name in _NEEDED}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as Omniglot: {' '.join(str(error).split())}") from error


def _expect(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...], kind: type, wanted: str) -> None:
    if array.shape != shape or not np.issubdtype(array.dtype, kind):
        raise ValueError(f"{path}: {name} must be {list(shape)} {wanted}, not {list(array.shape)} {array.dtype}")


def download(data_dir: str | Path, *, source: str = SOURCE) -> Path:
    """Download the authors' two archives, shrink the drawings to 28x28 and store them as ``omniglot.npz``.

    Each pixel is the mean of the area of the 105x105 drawing that it covers. An existing file is not changed.

    Args:
        data_dir: the folder for the file, which is made if it does not exist.
        source: the address of the folder with the archives.

    Returns:
        The file's path.

    Raises:
        OSError: if an archive cannot be downloaded, or the file cannot be written.
        ValueError: if an archive is not the published one.
    """
    path = Path(data_dir) / FILE
    if path.exists():
        return path
    drawings: dict[int, dict[int, np.ndarray]] = {}
    alphabets: dict[int, tuple[bool, str, int]] = {}
    for name, checksum in ARCHIVES.items():
        content = _fetch(f"{source}/{name}")
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != checksum:
            raise ValueError(f"{source}/{name} is not the published archive: its MD5 is {found}, not {checksum}")
        _unpack(content, drawings, alphabets)
    wrong = [number for number, found in drawings.items() if sorted(found) != list(range(1, EXAMPLES + 1))]
    if wrong or sorted(drawings) != list(range(1, CHARACTERS + 1)):
        raise ValueError(f"{source}: expected {CHARACTERS} characters of {EXAMPLES} drawings, found {len(drawings)}")
    numbers = sorted(drawings)
    names = sorted({alphabets[number][:2] for number in numbers})
    arrays: dict[str, Any] = {
        "images": np.stack([np.stack([drawings[n][i] for i in sorted(drawings[n])]) for n in numbers]),
        "character_id": np.asarray(numbers, np.uint16),
        "alphabet_id": np.asarray([names.index(alphabets[n][:2]) for n in numbers], np.uint8),
        "character_in_alphabet": np.asarray([alphabets[n][2] for n in numbers], np.uint8),
        "is_evaluation": np.asarray([alphabets[n][0] for n in numbers], np.bool_),
        "alphabet_names": np.asarray([name for _, name in names]),
        "about": np.asarray("Omniglot, (c) 2015 Brenden Lake, MIT licence; 28x28 by area average, ink 255"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file gets its name only when it is complete.
    staging = path.with_name(f".{FILE}.{os.getpid()}.tmp")
    try:
        with open(staging, "wb") as file:
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    return path


def _fetch(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{address} cannot be fetched: {' '.join(str(error).split())}") from error


def _unpack(
    content: bytes, drawings: dict[int, dict[int, np.ndarray]], alphabets: dict[int, tuple[bool, str, int]]
) -> None:
    """Add the drawings ``[28, 28]`` of an archive.

    Drawings are stored by character and person; alphabets as (is evaluation, alphabet, place in the alphabet) by
    character.
    """
    # The import takes a second, and only a download needs it.
    from matplotlib.image import imread

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            match = _DRAWING.fullmatch(name)
            if match is None:
                continue
            part, alphabet, place, number, person = match.groups()
            ink = imread(io.BytesIO(archive.read(name)), format="png") < 0.5
            drawings.setdefault(int(number), {})[int(person)] = shrink(ink)
            alphabets[int(number)] = (part == "evaluation", alphabet, int(place))


def shrink(ink: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Shrink a drawing ``[n, n]`` of zeros and ones to ``[side, side]`` uint8, by the exact mean over each pixel."""
    size = ink.shape[0]
    edges = np.arange(size + 1) * side / size
    pixel = np.arange(side)[:, None]
    # The length of each small pixel that each large pixel covers, along one axis.
    overlap = np.clip(np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel), 0, None)
    return np.round(255 * (overlap @ ink @ overlap.T)).astype(np.uint8)
