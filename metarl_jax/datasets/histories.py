"""Learning histories: stored trials in which a learner adapts to training tasks, for learners that imitate it.

A data set is a folder. ``histories.json`` says what the data are: ``schema`` (1), ``learner`` and ``family`` (texts),
``episodes`` and ``steps`` (of one history), ``observation`` and ``action`` (each with ``shape`` and ``dtype``), and
``shards``, a list of ``{"file", "histories", "sha256"}``. Each shard is a file in the safetensors format with the
tensors ``observation [N, T, ...]``, ``action [N, T, ...]``, ``reward [N, T]`` float32, ``done [N, T]`` uint8 (whether
the step ended an episode) and ``valid [N, T]`` uint8 (whether the step belongs to the trial). There is no pickle, and
``write`` holds no more than one shard in memory.

A source (``Source``) plays one trial. ``learning_history`` makes one from any learner that acts: reinforcement learning
from scratch on one task, as in Algorithm Distillation (Laskin et al. 2022). Reference learners are sources as well
(``types.Oracle.play``).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import host_calls
from metarl_jax.batching import map_tasks
from metarl_jax.checks import positive_int
from metarl_jax.interfaces.imitation import Demonstration, Draw
from metarl_jax.rollout import episode, joined, no_action
from metarl_jax.types import (
    Algorithm,
    Array,
    Carry,
    Discrete,
    EnvFamily,
    Inputs,
    Key,
    Space,
    Task,
    TaskDistribution,
    Transition,
)

SCHEMA = 1
HEADER = "histories.json"
MOST_HEADER_BYTES = 10_000_000
DEVICE_BYTES = 2**31
"""The size of the largest data set that is kept on the device as a whole by default, 2 GiB."""
_NAMES = ("observation", "action", "reward", "done", "valid")

Source: TypeAlias = Callable[[Key, Task], Transition]
"""``(key, task) -> Transition [T, ...]``: play one trial on a task."""


@dataclass(frozen=True)
class Histories:
    """A data set of histories, which ``load`` opened."""

    path: Path
    """The folder."""
    learner: str
    """The name of the learner that played them."""
    family: str
    """The name of the family of tasks."""
    histories: int
    """The number N of histories."""
    episodes: int
    """The number of episodes of a history."""
    steps: int
    """The number T of steps of a history."""
    arrays: dict[str, Any]
    """The tensors by name, ``[N, T, ...]``: arrays on the device, or lists of memory-mapped shards."""
    on_device: bool
    """Whether the tensors are on the device. Otherwise, drawing reads the files."""

    def demonstrations(self, family: EnvFamily, episodes: int) -> Draw:
        """Return a function that draws a whole history, with equal probabilities.

        Args:
            family: the family of the tasks on which the histories were played.
            episodes: the number of episodes of a demonstration. It must be that of a history.

        Raises:
            ValueError: if the family has other spaces or fewer actions, or the number of episodes differs.
        """
        if episodes != self.episodes:
            raise ValueError(f"the histories in {self.path} have {self.episodes} episodes each: set episodes to it")
        for name, space in (("observation", family.observation_space), ("action", family.action_space)):
            shape = self._shape(name)[2:]
            own = () if isinstance(space, Discrete) else tuple(space.shape)
            if shape != own:
                raise ValueError(f"an {name} in {self.path} has the shape {shape}, but one of the family {own}")
        if isinstance(family.action_space, Discrete):
            parts = [self.arrays["action"]] if self.on_device else self.arrays["action"]
            lowest, highest = min(int(x.min()) for x in parts), max(int(x.max()) for x in parts)
            if lowest < 0 or highest >= family.action_space.n:
                raise ValueError(
                    f"actions in {self.path} are from {lowest} to {highest}, but the family has {family.action_space.n}"
                )
        shapes = {name: self._struct(name) for name in _NAMES}

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            with host_calls.call():
                return self._read(np.asarray(index))

        def draw(key: Key) -> Demonstration:
            index = jax.random.randint(key, (), 0, self.histories, jnp.int32)
            if self.on_device:
                found = {name: self.arrays[name][index] for name in _NAMES}
            else:
                found = jax.pure_callback(read, shapes, index, vmap_method="broadcast_all")
            return _demonstration(found, family.action_space)

        return draw

    def _shape(self, name: str) -> tuple[int, ...]:
        kept = self.arrays[name]
        return tuple(kept.shape if self.on_device else (self.histories, *kept[0].shape[1:]))

    def _struct(self, name: str) -> jax.ShapeDtypeStruct:
        dtype = self.arrays[name].dtype if self.on_device else self.arrays[name][0].dtype
        return jax.ShapeDtypeStruct(self._shape(name)[1:], dtype)

    def _read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Read histories ``[...]`` from the memory-mapped shards."""
        flat = index.reshape(-1)
        ends = np.cumsum([len(shard) for shard in self.arrays["reward"]])
        shard = np.searchsorted(ends, flat, side="right")
        row = flat - np.where(shard > 0, ends[shard - 1], 0)
        return {
            name: np.stack([self.arrays[name][s][r] for s, r in zip(shard, row, strict=True)]).reshape(
                *index.shape, *self._shape(name)[1:]
            )
            for name in _NAMES
        }


def _demonstration(found: dict[str, Array], space: Space) -> Demonstration:
    """Return a history as a demonstration, whose inputs are those of a policy that plays it."""

    def before(first: Array, x: Array) -> Array:
        return jnp.concatenate([first[None].astype(x.dtype), x[:-1]])

    reward, done = found["reward"], found["done"].astype(jnp.float32)
    zero = jnp.float32(0)
    inputs = Inputs(
        obs=found["observation"],
        prev_action=before(no_action(space), found["action"]),
        prev_reward=before(zero, reward),
        prev_done=before(zero, done),
        first=jnp.arange(len(reward)) == 0,
    )
    return Demonstration(inputs, found["action"], found["valid"].astype(jnp.float32))


# ------------------------------------------------------------------------------------------------------------- sources


def learning_history(
    family: EnvFamily, make: Callable[[EnvFamily], Algorithm], episodes: int, *, every: int = 1
) -> Source:
    """Make a source that learns one task from scratch, and plays an episode after each step of learning.

    Args:
        family: the family of tasks.
        make: makes the learner for a family, of which it learns the only task. The learner must act step by step
            without changing parameters while it acts (``Algorithm.acting``, for example RL² without memory).
        episodes: the number of episodes of a history.
        every: the number of iterations of the learner between two episodes. Larger numbers leave out more of the
            learning, so that a learner that imitates the history learns faster than its source.

    Raises:
        ValueError: if a number is not positive and whole; when a task is played, if the learner does not act.
    """
    episodes, every = positive_int("episodes", episodes), positive_int("every", every)

    def play(key: Key, task: Task) -> Transition:
        def one(key: Key) -> Task:
            del key
            return task

        alone = family._replace(tasks=TaskDistribution(one, one))
        learner = make(alone)
        acting = learner.acting
        if acting is None or acting.learn is not None or acting.final_observation:
            raise ValueError("the learner of a history must act step by step: it has no such Algorithm.acting")

        def iterate(state: Any, key: Key) -> tuple[Any, Transition]:
            key_learn, key_start, key_play = jax.random.split(key, 3)
            state = jax.lax.scan(lambda s, k: (learner.step(k, s)[0], None), state, jax.random.split(key_learn, every))
            params = acting.params(state[0])

            def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
                return *acting.act(key, params, carry, inputs, inputs.obs)[:2], ()

            steps = episode(key_play, act, acting.start(key_start, params), alone, task)[1]
            return state[0], steps._replace(output=())

        key_init, key_learn = jax.random.split(key)
        return joined(jax.lax.scan(iterate, learner.init(key_init), jax.random.split(key_learn, episodes))[1])

    return play


# --------------------------------------------------------------------------------------------------------------- files


def write(
    path: str | Path,
    key: Key,
    source: Source,
    family: EnvFamily,
    *,
    histories: int,
    learner: str,
    name: str,
    shard: int = 256,
) -> Path:
    """Play histories on training tasks and write them to a new folder, shard by shard.

    Tasks are drawn without repetition until all of them were drawn, where the family lists its training tasks.

    Args:
        path: the folder, which must not exist.
        key: a random key.
        source: plays one trial (``learning_history``, or ``Oracle.play``).
        family: the family of tasks.
        histories: the number of histories.
        learner: the name of the learner, for the header.
        name: the name of the family, for the header.
        shard: the largest number of histories of a file, which are played at the same time.

    Returns:
        The folder.

    Raises:
        ValueError: if a number is not positive and whole, or the folder exists.
    """
    path = Path(path)
    histories, shard = positive_int("histories", histories), positive_int("shard", shard)
    if path.exists():
        raise ValueError(f"{path} exists already")
    key_tasks, key_play = jax.random.split(key)
    tasks = family.tasks.sample_distinct(key_tasks, histories)
    keys = jax.random.split(key_play, histories)
    play = jax.jit(map_tasks(source))
    path.parent.mkdir(parents=True, exist_ok=True)
    # The folder gets its name when it is complete. After an error nothing is left.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        partial = Path(folder) / "histories"
        partial.mkdir()
        header = {"schema": SCHEMA, "learner": learner, "family": name}
        header |= _write_shards(partial, play, tasks, keys, shard)
        (partial / HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
        os.rename(partial, path)
    return path


def _write_shards(
    folder: Path, play: Callable[[Key, Task], Transition], tasks: Task, keys: Key, shard: int
) -> dict[str, Any]:
    """Play histories on tasks ``[N, ...]`` and write them; return what the header says about them."""
    shards, header = [], {}
    for number, start in enumerate(range(0, len(keys), shard)):
        part = slice(start, start + shard)
        t: Transition = play(keys[part], jax.tree.map(lambda x, part=part: x[part], tasks))
        done = jnp.logical_or(t.terminated, t.truncated)
        tensors = {
            "observation": np.asarray(t.inputs.obs),
            "action": np.asarray(t.action),
            "reward": np.asarray(t.reward, np.float32),
            "done": np.asarray(done, np.uint8),
            "valid": np.asarray(t.valid, np.uint8),
        }
        if number == 0:
            header = {
                "episodes": int(np.max(np.where(t.valid, t.episode, 0))) + 1,
                "steps": tensors["reward"].shape[1],
                **{n: {"shape": list(tensors[n].shape[2:]), "dtype": str(tensors[n].dtype)} for n in _NAMES[:2]},
            }
        shards.append(_write_shard(folder, number, tensors))
    return {**header, "shards": shards}


def _write_shard(folder: Path, number: int, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(x) for name, x in tensors.items()})
    file = f"histories-{number:05d}.safetensors"
    (folder / file).write_bytes(data)
    return {"file": file, "histories": len(tensors["reward"]), "sha256": hashlib.sha256(data).hexdigest()}


def load(path: str | Path, *, on_device: bool | None = None) -> Histories:
    """Open a data set.

    Args:
        path: the folder that ``write`` made.
        on_device: whether to keep all data on the device. Otherwise the files are mapped into memory, and histories are
            read from them when they are drawn. None: on the device, unless the data are larger than ``DEVICE_BYTES``.

    Raises:
        ValueError: in one line, if the folder is not such a data set, or a file is missing or damaged.
    """
    path = Path(path)
    header = _header(path)
    shards = [dict(_tensors(path, header, shard)) for shard in header["shards"]]
    size = sum(x.nbytes for shard in shards for x in shard.values())
    on_device = size <= DEVICE_BYTES if on_device is None else on_device
    arrays: dict[str, Any] = {name: [shard[name] for shard in shards] for name in _NAMES}
    if on_device:
        arrays = {name: jnp.asarray(np.concatenate(parts)) for name, parts in arrays.items()}
    number = sum(shard["histories"] for shard in header["shards"])
    return Histories(
        path, header["learner"], header["family"], number, header["episodes"], header["steps"], arrays, on_device
    )


def _header(path: Path) -> dict[str, Any]:
    file = path / HEADER
    try:
        if file.stat().st_size > MOST_HEADER_BYTES:
            raise ValueError(f"{file} is larger than {MOST_HEADER_BYTES} bytes")
        header = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a data set of histories: {HEADER} cannot be read ({error})") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"{file} must have the schema {SCHEMA}")
    for name in ("episodes", "steps"):
        if not isinstance(header.get(name), int) or header[name] < 1:
            raise ValueError(f"{file} must have a positive whole number {name!r}")
    for name in ("learner", "family"):
        if not isinstance(header.get(name), str):
            raise ValueError(f"{file} must have a text {name!r}")
    shards = header.get("shards")
    if not isinstance(shards, list) or not shards or not all(_is_shard(shard) for shard in shards):
        raise ValueError(f"{file} must list shards with 'file', 'histories' and 'sha256'")
    return header


def _is_shard(shard: Any) -> bool:
    return (
        isinstance(shard, dict)
        and isinstance(shard.get("file"), str)
        and Path(shard["file"]).name == shard["file"]
        and isinstance(shard.get("histories"), int)
        and shard["histories"] > 0
        and isinstance(shard.get("sha256"), str)
    )


def _is_tensor(entry: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether a header describes a tensor of a known type, with sizes and places that are whole numbers."""
    if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES:
        return False
    shape, places = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(places, list) or len(places) != 2:
        return False
    return all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in [*shape, *places])


_DTYPES = {"F32": "<f4", "I32": "<i4", "U8": "u1"}


def _tensors(path: Path, header: dict[str, Any], shard: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a shard, as arrays that are mapped to the file."""
    file = path / shard["file"]
    try:
        if file.is_symlink():
            raise OSError("it is a symbolic link, which is not followed")
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        data = np.memmap(file, np.uint8, "r")
        length = int.from_bytes(data[:8].tobytes(), "little")
        if not 0 < length <= min(MOST_HEADER_BYTES, len(data) - 8):
            raise ValueError("its header is damaged")
        entries = json.loads(data[8 : 8 + length].tobytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if digest != shard["sha256"]:
        raise ValueError(f"{file} is damaged: its SHA-256 differs from that in {HEADER}")
    for name in _NAMES:
        entry = entries.get(name) if isinstance(entries, dict) else None
        lead = [shard["histories"], header["steps"]]
        if not _is_tensor(entry) or entry["shape"][:2] != lead:
            raise ValueError(f"{file} must have a tensor {name!r} of shape {[*lead, '...']}, float32, int32 or uint8")
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if begin < 0 or end - begin != dtype.itemsize * math.prod(shape) or 8 + length + end > len(data):
            raise ValueError(f"{file}: the tensor {name!r} has the wrong size")
        yield name, data[8 + length + begin : 8 + length + end].view(dtype).reshape(shape)
