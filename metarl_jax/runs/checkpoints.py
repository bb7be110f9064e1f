"""Checkpoints: one file each, all of it under a checksum, moved into place in one step.

A file is the SHA-256 of the rest in hexadecimal, a newline, and a MessagePack map: ``meta`` (versions, configuration,
iteration, ...) and ``leaves`` (arrays by their path in the tree; typed random keys as their raw data).
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
    """What a file held."""

    state: Tree
    iteration: int
    extra: dict[str, Any]


class Unreadable(Exception):
    """A file is not the checkpoint that its name promises: it is damaged, or of another iteration."""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as ``params/dense/kernel``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def save(
    folder: Path, state: Tree, iteration: int, config_hash: str, extra: dict[str, Any], *, keep: int = KEEP
) -> Path:
    """Write a checkpoint and delete all but the last ``keep``.

    Args:
        folder: where checkpoints are.
        state: any tree of arrays and typed keys.
        iteration: names the file.
        config_hash: of the run's configuration; a resume under another is refused.
        extra: plain values to keep beside the state.
        keep: how many there are to be, this one included.

    Raises:
        OSError: if it cannot be written; older checkpoints are untouched.
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
    """Where the checkpoint of an iteration is."""
    return folder / f"{iteration:09d}{SUFFIX}"


def iteration_of(path: Path) -> int:
    """The iteration that the name of a checkpoint tells."""
    return int(path.name.removesuffix(SUFFIX))


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first: files whose names are nine digits and the suffix."""
    return sorted((path for path in folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name)), reverse=True)


def read_payload(path: Path) -> bytes:
    """The MessagePack map of a file whose checksum fits.

    Raises:
        Unreadable: if it does not, or the file cannot be read.
    """
    try:
        digest, _, payload = files.read(path).partition(b"\n")
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise Unreadable("truncated or corrupted: its checksum does not fit")
    return payload


class _Content(NamedTuple):
    """The content of a file, of the right types; nothing else is known of it."""

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
    """What a payload holds.

    Raises:
        UserError: if it is not what ``write`` writes.
    """

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"{path} is no checkpoint: {what}")

    try:
        content: Any = serialization.msgpack_restore(payload)
    except Exception as error:  # The file may hold anything, and the parser raises many kinds of errors.
        raise UserError(f"{path} is no checkpoint: its content cannot be parsed ({type(error).__name__})") from error
    require(isinstance(content, dict) and {"meta", "leaves"} <= content.keys(), "it has no entries meta and leaves")
    meta, leaves = content["meta"], content["leaves"]
    require(isinstance(meta, dict), "meta is no map")
    for name, kind in {"schema": int, "config_hash": str, "iteration": int, "keys": dict, "extra": dict}.items():
        require(_is_a(meta.get(name), kind), f"meta.{name} is missing, or of another type than {kind.__name__}")
    require(meta["iteration"] >= 0, "meta.iteration is negative")
    require(
        all(isinstance(x, str) for item in meta["keys"].items() for x in item), "meta.keys does not map texts to texts"
    )
    require(isinstance(leaves, dict) and all(isinstance(name, str) for name in leaves), "leaves is no map of names")
    require(all(isinstance(leaf, np.ndarray) for leaf in leaves.values()), "a leaf is no array")
    extra = meta["extra"]
    require(_is_number(extra.get("wall_s")) and extra["wall_s"] >= 0, "meta.extra.wall_s is no number of seconds")
    diverged = extra.get("diverged")
    require(
        isinstance(diverged, dict)
        and all(isinstance(k, str) and re.fullmatch("[0-9]+", k) and _is_a(v, int) for k, v in diverged.items()),
        "meta.extra.diverged does not map seeds to iterations",
    )
    for name in ("best", "best_validation_score"):
        require(extra.get(name) is None or _is_number(extra[name]), f"meta.extra.{name} is no number")
    return _Content(meta["schema"], meta["config_hash"], meta["iteration"], meta["keys"], extra, leaves)


def _stored(expected: Any) -> tuple[Any, str | None]:
    """Shape and dtype of what is stored of a leaf, and the implementation of a random key (None: it is none)."""
    if not _is_key(expected):
        return expected, None
    found: list[str] = []

    def data(key: Any) -> Any:
        found.append(str(jax.random.key_impl(key)))
        return jax.random.key_data(key)

    return jax.eval_shape(data, expected), found[0]


def load(path: Path, target: Tree, config_hash: str, iterations: int) -> Checkpoint:
    """Read one checkpoint into the shape of ``target``.

    The version of the package that wrote it does not matter as long as its schema and its tree fit.

    Args:
        path: the file.
        target: the tree of arrays or ``ShapeDtypeStruct`` that is expected.
        config_hash: that is expected.
        iterations: of the whole run; a checkpoint of a later iteration is none of it.

    Raises:
        Unreadable: if the file is truncated or corrupted, or of another iteration than its name tells.
        UserError: if it is whole but not of this program, configuration or tree.
    """
    content = _content(path, read_payload(path))
    if content.schema != SCHEMA:
        raise UserError(f"{path} has checkpoint schema {content.schema}, this program has {SCHEMA}: it cannot be read")
    if content.config_hash != config_hash:
        raise UserError(f"{path} was written under another configuration than the run's config.json")
    if _NAME.fullmatch(path.name) and iteration_of(path) != content.iteration:
        raise Unreadable(f"it holds iteration {content.iteration}, not the one that its name tells")
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
                f"{'no random key' if name not in content.keys else 'a random key of another kind'}"
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
    """Read the newest checkpoint that is whole; each one passed over is named through ``warn``.

    Raises:
        UserError: if none can be read, or as ``load`` does.
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
    """As ``load``, of a file that nothing can stand in for.

    Raises:
        UserError: also if it is damaged or not there.
    """
    try:
        return load(path, target, config_hash, iterations)
    except Unreadable as problem:
        raise UserError(f"{path} cannot be read: {problem}") from None


def set_aside_damaged(folder: Path, after: int) -> None:
    """Rename checkpoints later than iteration ``after``, which ``load_latest`` passed over, to ``*.damaged``."""
    for path in paths(folder):
        if iteration_of(path) > after:
            path.rename(files.aside(path))
