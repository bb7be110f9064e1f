"""Checkpoints. Each one is a single file with a checksum, and is moved to its final name in one step.

A file consists of a SHA-256 in hexadecimal, a newline, and a MessagePack map. The SHA-256 is that of the map. The map
has the entries ``meta`` (versions, configuration, iteration, ...) and ``leaves`` (arrays by their path in the tree;
typed random keys as their raw data).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

import metarl_jax
from metarl_jax.runs import files
from metarl_jax.runs.errors import UserError
from metarl_jax.types import Tree

SCHEMA = 1
KEEP = 3
SUFFIX = ".checkpoint"
_NAME = re.compile(r"\d{9}\.checkpoint", re.ASCII)


class Checkpoint(NamedTuple):
    """The content of a checkpoint file."""

    state: Tree
    iteration: int
    extra: dict[str, Any]


class Unreadable(Exception):
    """A file is damaged, or holds another iteration than its name says."""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def flatten(tree: Tree) -> dict[str, Any]:
    """Return the leaves of a tree by their paths, such as ``params/dense/kernel``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def save(
    folder: Path, state: Tree, iteration: int, config_hash: str, extra: dict[str, Any], *, keep: int = KEEP
) -> Path:
    """Write a checkpoint and delete all but the last ``keep``.

    Args:
        folder: the folder of the run's checkpoints.
        state: any tree of arrays and typed keys.
        iteration: the iteration after which the state was reached; it gives the file its name.
        config_hash: the hash of the run's configuration. A run with another hash cannot load the checkpoint.
        extra: plain values to store with the state.
        keep: the number of checkpoints to keep, including this one.

    Returns:
        The path of the new file.

    Raises:
        OSError: if the file cannot be written; older checkpoints are then unchanged.
    """
    path = path_of(folder, iteration)
    write(path, state, iteration, config_hash, extra)
    for old in paths(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def write(path: Path, state: Tree, iteration: int, config_hash: str, extra: dict[str, Any]) -> None:
    """Write one checkpoint; arguments and errors as for ``save``."""
    leaves = flatten(state)
    keys = {path: str(jax.random.key_impl(leaf)) for path, leaf in leaves.items() if _is_key(leaf)}
    arrays = {path: np.asarray(jax.random.key_data(leaf) if path in keys else leaf) for path, leaf in leaves.items()}
    meta = {
        "schema": SCHEMA,
        "package": metarl_jax.__version__,
        "config_hash": config_hash,
        "iteration": iteration,
        "keys": keys,
        "extra": extra,
    }
    payload = serialization.msgpack_serialize({"meta": meta, "leaves": arrays})
    files.write_atomically(path, hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def path_of(folder: Path, iteration: int) -> Path:
    """Return the path of the checkpoint of an iteration."""
    return folder / f"{iteration:09d}{SUFFIX}"


def iteration_of(path: Path) -> int:
    """Return the iteration in the name of a checkpoint."""
    return int(path.name.removesuffix(SUFFIX))


def paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first: the files whose names are nine digits and the suffix."""
    return sorted((path for path in folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name)), reverse=True)


def read_payload(path: Path) -> bytes:
    """Return the MessagePack map of a file after checking its checksum.

    Raises:
        Unreadable: if the checksum is wrong, or the file cannot be read.
    """
    try:
        digest, _, payload = files.read(path).partition(b"\n")
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise Unreadable("truncated or corrupted: its checksum is wrong")
    return payload


class _Content(NamedTuple):
    """The content of a file, of which only the types have been checked."""

    schema: int
    config_hash: str
    iteration: int
    keys: dict[str, str]
    extra: dict[str, Any]
    leaves: dict[str, np.ndarray]


def _is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _content(path: Path, payload: bytes) -> _Content:
    """Parse a payload, and check the types in it.

    Raises:
        UserError: if the payload does not have the form that ``write`` writes.
    """

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"{path} is not a checkpoint: {what}")

    try:
        content: Any = serialization.msgpack_restore(payload)
    except Exception as error:  # The file may hold anything, and the parser raises many kinds of errors.
        raise UserError(f"{path} is not a checkpoint: its content cannot be parsed ({type(error).__name__})") from error
    require(isinstance(content, dict) and {"meta", "leaves"} <= content.keys(), "it has no entries meta and leaves")
    meta, leaves = content["meta"], content["leaves"]
    require(isinstance(meta, dict), "meta is not a map")
    for name, kind in {"schema": int, "config_hash": str, "iteration": int, "keys": dict, "extra": dict}.items():
        require(_is_a(meta.get(name), kind), f"meta.{name} is missing, or of another type than {kind.__name__}")
    require(meta["iteration"] >= 0, "meta.iteration is negative")
    require(
        all(isinstance(x, str) for item in meta["keys"].items() for x in item), "meta.keys does not map texts to texts"
    )
    require(isinstance(leaves, dict) and all(isinstance(name, str) for name in leaves), "leaves is not a map of names")
    require(all(isinstance(leaf, np.ndarray) for leaf in leaves.values()), "a leaf is not an array")
    extra = meta["extra"]
    require(_is_number(extra.get("wall_s")) and extra["wall_s"] >= 0, "meta.extra.wall_s is not a number of seconds")
    diverged = extra.get("diverged")
    require(
        isinstance(diverged, dict)
        and all(isinstance(k, str) and re.fullmatch("[0-9]+", k) and _is_a(v, int) for k, v in diverged.items()),
        "meta.extra.diverged does not map seeds to iterations",
    )
    for name in ("best", "best_validation_score"):
        require(extra.get(name) is None or _is_number(extra[name]), f"meta.extra.{name} is not a number")
    return _Content(meta["schema"], meta["config_hash"], meta["iteration"], meta["keys"], extra, leaves)


def _stored(expected: Any) -> tuple[Any, str | None]:
    """Return the shape and dtype under which a leaf is stored, and the implementation of a random key.

    For a random key these are the shape and dtype of its raw data. The implementation of any other leaf is None.
    """
    if not _is_key(expected):
        return expected, None
    found: list[str] = []

    def data(key: Any) -> Any:
        found.append(str(jax.random.key_impl(key)))
        return jax.random.key_data(key)

    return jax.eval_shape(data, expected), found[0]


def load(path: Path, target: Tree, config_hash: str, iterations: int) -> Checkpoint:
    """Read one checkpoint into the tree of ``target``.

    Any version of the package may have written the file, as long as its schema and its tree are the expected ones.

    Args:
        path: the file.
        target: the expected tree of arrays or ``ShapeDtypeStruct``.
        config_hash: the expected hash of the configuration.
        iterations: the number of iterations of the whole run. A checkpoint of a later iteration is refused.

    Raises:
        Unreadable: if the file is truncated or corrupted, or holds another iteration than its name says.
        UserError: if the file is whole, but has another schema, configuration or tree.
    """
    content = _content(path, read_payload(path))
    if content.schema != SCHEMA:
        raise UserError(f"{path} has checkpoint schema {content.schema}, this program has {SCHEMA}: it cannot be read")
    if content.config_hash != config_hash:
        raise UserError(f"{path} was written under another configuration than the run's config.json")
    if _NAME.fullmatch(path.name) and iteration_of(path) != content.iteration:
        raise Unreadable(f"it holds iteration {content.iteration}, not the one in its name")
    if content.iteration > iterations:
        raise Unreadable(f"it holds iteration {content.iteration} of a run of {iterations}")

    expected_leaves = flatten(target)
    for name in sorted(expected_leaves.keys() ^ content.leaves.keys()):
        problem = "is missing" if name in expected_leaves else "is not expected"
        raise UserError(f"{path} does not fit this program: {files.printable(name)} {problem}")
    restored = []
    for name, expected in expected_leaves.items():
        leaf = content.leaves[name]
        stored, impl = _stored(expected)
        if content.keys.get(name) != impl:
            raise UserError(
                f"{path} does not fit this program: {name} is "
                f"{'not a random key' if name not in content.keys else 'a random key of another kind'}"
                f"{'' if impl is None else f', expected {impl}'}"
            )
        if (leaf.shape, leaf.dtype) != (stored.shape, stored.dtype):
            raise UserError(
                f"{path} does not fit this program: {name} is {leaf.dtype}{list(leaf.shape)}, "
                f"expected {stored.dtype}{list(stored.shape)}"
            )
        restored.append(jnp.asarray(leaf) if impl is None else jax.random.wrap_key_data(jnp.asarray(leaf), impl=impl))
    state = jax.tree.unflatten(jax.tree.structure(target), restored)
    return Checkpoint(state, content.iteration, content.extra)


def load_latest(
    folder: Path, target: Tree, config_hash: str, iterations: int, warn: Callable[[str], None]
) -> Checkpoint:
    """Read the newest checkpoint that is whole. ``warn`` gets one line for each checkpoint that is skipped.

    Raises:
        UserError: if no checkpoint can be read, and where ``load`` raises it.
    """
    found = paths(folder)
    for path in found:
        try:
            return load(path, target, config_hash, iterations)
        except Unreadable as problem:
            warn(f"skipped checkpoint {path}: {problem}")
    if found:
        raise UserError(f"no checkpoint in {folder} can be read ({', '.join(p.name for p in found)} are damaged)")
    raise UserError(f"there is no checkpoint in {folder}")


def load_named(path: Path, target: Tree, config_hash: str, iterations: int) -> Checkpoint:
    """Read one checkpoint as ``load`` does, where no other checkpoint can replace it.

    Raises:
        UserError: if the file is damaged or missing, and where ``load`` raises it.
    """
    try:
        return load(path, target, config_hash, iterations)
    except Unreadable as problem:
        raise UserError(f"{path} cannot be read: {problem}") from None


def set_aside_damaged(folder: Path, after: int) -> None:
    """Rename the checkpoints after iteration ``after``, which ``load_latest`` skipped, to ``*.damaged``."""
    for path in paths(folder):
        if iteration_of(path) > after:
            path.rename(files.aside(path))
