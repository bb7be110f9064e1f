"""Checkpoints: one file each, all of it under a checksum, moved into place in one step.

A file is the SHA-256 of the rest in hexadecimal, a newline, and a MessagePack map: ``meta`` (versions, configuration,
iteration, ...) and ``leaves`` (arrays by their path in the tree; typed random keys as their raw data).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

import metarl_jax
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.files import write_atomically
from metarl_jax.types import Tree

SCHEMA = 1
KEEP = 3
SUFFIX = ".checkpoint"


class Checkpoint(NamedTuple):
    """What a file held."""

    state: Tree
    iteration: int
    extra: dict[str, Any]


class Unreadable(Exception):
    """The file is truncated or corrupted."""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _flatten(tree: Tree) -> dict[str, Any]:
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
    leaves = _flatten(state)
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
    write_atomically(path, hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def path_of(folder: Path, iteration: int) -> Path:
    """Where the checkpoint of an iteration is."""
    return folder / f"{iteration:09d}{SUFFIX}"


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob(f"*{SUFFIX}"), reverse=True)


def read_payload(path: Path) -> bytes:
    """The MessagePack map of a file whose checksum fits.

    Raises:
        Unreadable: if it does not, or the file cannot be read.
    """
    try:
        digest, _, payload = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise Unreadable("truncated or corrupted: its checksum does not fit")
    return payload


def load(path: Path, target: Tree, config_hash: str) -> Checkpoint:
    """Read one checkpoint into the shape of ``target``.

    Args:
        path: the file.
        target: the tree of arrays or ``ShapeDtypeStruct`` that is expected.
        config_hash: that is expected.

    Raises:
        Unreadable: if the file is truncated or corrupted.
        UserError: if it is whole but not of this program, configuration or tree.
    """
    content: Any = serialization.msgpack_restore(read_payload(path))
    meta, leaves = content["meta"], content["leaves"]
    for what, found, expected in (
        ("checkpoint schema", meta["schema"], SCHEMA),
        ("metarl_jax version", meta["package"], metarl_jax.__version__),
    ):
        if found != expected:
            raise UserError(f"{path} has {what} {found}, this program has {expected}: it cannot be read")
    if meta["config_hash"] != config_hash:
        raise UserError(f"{path} was written under another configuration than the run's config.json")

    expected_leaves = _flatten(target)
    for name in sorted(expected_leaves.keys() ^ leaves.keys()):
        problem = "is missing" if name in expected_leaves else "is not expected"
        raise UserError(f"{path} does not fit this program: {name} {problem}")
    restored = []
    for name, expected in expected_leaves.items():
        leaf = leaves[name]
        if name in meta["keys"]:
            leaf = jax.random.wrap_key_data(leaf, impl=meta["keys"][name])
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            raise UserError(
                f"{path} does not fit this program: {name} is {leaf.dtype}{list(leaf.shape)}, "
                f"expected {expected.dtype}{list(expected.shape)}"
            )
        restored.append(leaf if _is_key(leaf) else jnp.asarray(leaf))
    state = jax.tree.unflatten(jax.tree.structure(target), restored)
    return Checkpoint(state, meta["iteration"], meta["extra"])


def load_latest(folder: Path, target: Tree, config_hash: str, warn: Callable[[str], None]) -> Checkpoint:
    """Read the newest checkpoint that is whole; each one passed over is named through ``warn``.

    Raises:
        UserError: if none can be read, or as ``load`` does.
    """
    found = paths(folder)
    for path in found:
        try:
            return load(path, target, config_hash)
        except Unreadable as problem:
            warn(f"skipped checkpoint {path}: {problem}")
    if found:
        raise UserError(f"no checkpoint in {folder} can be read ({', '.join(p.name for p in found)} are damaged)")
    raise UserError(f"there is no checkpoint in {folder}")


def load_named(path: Path, target: Tree, config_hash: str) -> Checkpoint:
    """As ``load``, of a file that nothing can stand in for.

    Raises:
        UserError: also if it is damaged or not there.
    """
    try:
        return load(path, target, config_hash)
    except Unreadable as problem:
        raise UserError(f"{path} cannot be read: {problem}") from None


def set_aside_damaged(folder: Path, after: int) -> None:
    """Rename checkpoints later than iteration ``after``, which ``load_latest`` passed over, to ``*.damaged``."""
    for path in paths(folder):
        if int(path.name.removesuffix(SUFFIX)) > after:
            path.rename(path.with_suffix(".damaged"))
