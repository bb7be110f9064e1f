"""The tasks of the benchmark: made from stored seeds, and compared with a stored digest.

Processors round differently, so that the last bits of a task's numbers may differ. The digest of a task is therefore
the SHA-256 of whole numbers. Each float is divided by a step, which is 1/64 of a power of two above the largest float
of its array, and is rounded down after a shift has been added. The shift is a multiple of 1/256 that is stored for each
task. The program that made the stored digests chose the first shift for which no float of the task is near an edge,
where rounding could differ. The same tasks therefore have the same digest on every processor, and a change of any float
by more than a step changes the digest. Whole numbers of a task enter as they are. Rendered pictures do not enter,
because they follow from the other numbers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.benchmark import families
from metarl_jax.benchmark.families import Split
from metarl_jax.types import Task, Tree

SHIFTS = 256
"""The number of shifts of the grid that are tried."""
STEPS = 64
"""The number of steps of the grid between zero and the largest float."""
MARGIN = 2e-5
"""The smallest distance of a float from an edge, relative to the largest float. Rounding errors are below 2e-6."""

PICTURES = (".first_view",)
"""The paths of rendered pictures."""


class Digest(NamedTuple):
    """The digest of the tasks of a family and a split."""

    sha256: str
    """The SHA-256 of the digests of all tasks, in hexadecimal."""
    scales: tuple[int, ...]
    """The exponent of the power of two above the largest float of each array that has floats."""
    shifts: tuple[int, ...]
    """The shift of the grid for each task, in units of 1/256 of a step."""


def draw(name: str, split: Split, number: int | None = None) -> Task:
    """Draw the tasks of a family from its stored seed.

    Args:
        name: the name of a family of the benchmark.
        split: "heldout" or "shifted".
        number: the number N of tasks, which are the first ones; None for all.

    Returns:
        The tasks, with leaves ``[N, ...]``.
    """
    entry = families.get(name)
    family = families.make(name, split)
    key = jax.random.key(entry.seed + (split == "shifted"), impl="threefry2x32")
    tasks = jax.jit(jax.vmap(family.tasks.sample_heldout))(jax.random.split(key, entry.tasks))
    return jax.tree.map(lambda x: x[:number], tasks)


def _arrays(tasks: Tree) -> list[tuple[str, np.ndarray]]:
    """Return the arrays of tasks by their paths. Random keys are represented by their data."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tasks):
        if jax.tree_util.keystr(path) in PICTURES:
            continue
        array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        found.append((jax.tree_util.keystr(path), array))
    return found


def _is_float(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def _scale(array: np.ndarray) -> int:
    largest = float(np.max(np.abs(array), initial=0.0))
    return math.frexp(largest)[1] if largest > 0 else 0


def _places(values: np.ndarray, scale: int, shift: int) -> np.ndarray:
    """Return the places of floats on the grid, in steps, as float64 numbers that are not rounded."""
    return np.asarray(values, np.float64) * (STEPS / 2.0**scale) + shift / SHIFTS


def _sha256(name: str, split: str, tasks: Tree, scales: Sequence[int], shifts: Sequence[int]) -> str:
    arrays = _arrays(tasks)
    head = [families.VERSION, name, split, [[path, array.dtype.kind, array.shape] for path, array in arrays]]
    whole = hashlib.sha256(json.dumps(head).encode())
    for index, shift in enumerate(shifts):
        exponents = iter(scales)
        for _, array in arrays:
            one = array[index]
            numbers = np.floor(_places(one, next(exponents), shift)) if _is_float(array) else one
            whole.update(np.ascontiguousarray(numbers, dtype="<i8").tobytes())
    return whole.hexdigest()


def make_digest(name: str, split: Split, tasks: Tree) -> Digest:
    """Make the digest that is stored.

    Args:
        name: the name of the family.
        split: "heldout" or "shifted".
        tasks: the tasks, with leaves ``[N, ...]``.

    Raises:
        ValueError: if there is no shift for a task with which all of its floats are away from the edges.
    """
    floats = [array for _, array in _arrays(tasks) if _is_float(array)]
    scales = tuple(_scale(array) for array in floats)
    number = len(_arrays(tasks)[0][1])
    least = MARGIN * STEPS

    def clear(index: int, shift: int) -> bool:
        for array, scale in zip(floats, scales, strict=True):
            rest = _places(array[index], scale, shift) % 1.0
            if np.any(np.minimum(rest, 1 - rest) < least):
                return False
        return True

    shifts = []
    for index in range(number):
        # The first shift is half a step, because many tasks have floats that are zero.
        found = next((shift for shift in _ORDER if clear(index, shift)), None)
        if found is None:
            raise ValueError(f"no grid fits task {index} of {name}")
        shifts.append(found)
    return Digest(_sha256(name, split, tasks, scales, shifts), scales, tuple(shifts))


_ORDER = tuple((SHIFTS // 2 + 77 * i) % SHIFTS for i in range(SHIFTS))


def digest(name: str, split: Split, tasks: Tree) -> str:
    """Compute the digest of tasks on the stored grid, in hexadecimal.

    It equals the digest of ``stored`` if the tasks are those of the benchmark.
    """
    known = stored(name, split)
    return _sha256(name, split, tasks, known.scales, known.shifts)


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(resources.files("metarl_jax.benchmark").joinpath("tasks.json").read_text(encoding="utf-8"))


def stored(name: str, split: Split) -> Digest:
    """Return the stored digest of a family and a split."""
    found = _content()["families"][name][split]
    return Digest(found["sha256"], tuple(found["scales"]), tuple(found["shifts"]))


def stored_sha256(name: str, split: Split) -> str:
    """Return the SHA-256 of the stored digest, in hexadecimal."""
    return stored(name, split).sha256
