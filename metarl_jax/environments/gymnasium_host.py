"""The host side of Gymnasium environments: slots that hold them, worker processes, and the pool that programs call.

This module imports neither JAX nor Gymnasium, so that worker processes start fast. Worker processes are spawned, never
forked. They end with their parent, also if it is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np

from metarl_jax import host_calls, references
from metarl_jax.host_calls import HostError

START_S = 300.0
"""The largest time in seconds that a worker process may take to start and to import the code of the user."""
CLOSE_S = 2.0
"""The time in seconds that worker processes get to close their environments."""


class Recipe(NamedTuple):
    """How environments are made and how their values are stored. Worker processes get it by pickle."""

    make_env: Callable[[Any], Any]
    set_task: Callable[[Any, Any], Any] | None
    horizon: int
    observations: tuple[int | None, tuple[int, ...]]
    """The number of elements of a discrete space of observations, or None; and the shape of an observation."""
    dtype: np.dtype[Any]
    """The dtype of an observation."""
    actions: tuple[int | None, tuple[int, ...]]
    """The same for actions as ``observations``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an observation."""
        return self.observations[1]


class Stepped(NamedTuple):
    """The results of a step of B environments."""

    obs: np.ndarray
    """``[B, ...]``: the next observations, after the reset where an episode ended."""
    final_obs: np.ndarray
    """``[B, ...]``: the observations before any reset."""
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    frames: np.ndarray
    """``[B, height, width, 3]`` uint8: pictures after the step; ``[B, 0]`` if none were requested."""


class Slots:
    """Environments in this process. Each has a number, its slot."""

    def __init__(self, recipe: Recipe, whose: str = "", note: Callable[[int], None] = lambda slot: None) -> None:
        """Make an object without environments.

        Args:
            recipe: how environments are made.
            whose: the name of the worker, for messages.
            note: a function that is called before each call of an environment, with the slot.
        """
        self._recipe, self._whose, self._note = recipe, whose, note
        self._envs: dict[int, Any] = {}
        # The functions that translate the observations and the actions of each environment.
        self._translate: dict[int, tuple[Callable[[Any], np.ndarray], Callable[[np.ndarray], Any]]] = {}
        # The number of steps of the episode of each environment.
        self._elapsed: dict[int, int] = {}

    def reset(
        self, slots: Sequence[int], seeds: Sequence[int], tasks: Sequence[Any], new: Sequence[bool], frames: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Begin trials; return the first observations and the pictures.

        Args:
            slots: the slots.
            seeds: the seed of each reset.
            tasks: the task of each slot.
            new: whether the slot's environment, if there is one, has another task.
            frames: whether pictures are requested.
        """
        obs, pictures = self._empty(len(slots)), []
        for row, slot in enumerate(slots):
            self._note(slot)
            if new[row] or slot not in self._envs:
                self._take_task(slot, tasks[row])
            self._begin(slot, seeds[row], obs, row)
            if frames:
                pictures.append(self._render(slot))
        self._check_finite(obs, slots, "an observation")
        return obs, _stacked(pictures, len(slots))

    def step(
        self, slots: Sequence[int], actions: np.ndarray, seeds: Sequence[int], frames: bool
    ) -> tuple[np.ndarray, ...]:
        """Take a step in each slot, and reset the environments whose episodes ended; return a ``Stepped`` as a tuple.

        Args:
            slots: the slots.
            actions: ``[B, ...]``: an action for each slot.
            seeds: the seed of a reset for each slot.
            frames: whether pictures are requested.
        """
        number, horizon = len(slots), self._recipe.horizon
        final, reward = self._empty(number), np.zeros(number, np.float32)
        terminated, truncated = np.zeros(number, np.bool_), np.zeros(number, np.bool_)
        over, pictures = [], []
        for row, slot in enumerate(slots):
            self._note(slot)
            self._elapsed[slot] += 1
            encode, decode = self._translate[slot]
            try:
                seen, gained, ended, cut, _ = self._envs[slot].step(decode(actions[row]))
                self._store(final, row, encode(seen), slot)
                reward[row], terminated[row], truncated[row] = gained, ended, cut
            except HostError:
                raise
            except (Exception, SystemExit) as error:  # The user's code may raise anything.
                raise self._failed(slot, f"raised {_described(error)}") from error
            if self._elapsed[slot] >= horizon:
                truncated[row] = True
            if terminated[row] or truncated[row]:
                over.append(row)
        self._check_finite(reward, slots, "a reward")
        self._check_finite(final, slots, "an observation")
        obs = final
        if over:
            obs = final.copy()
            for row in over:
                self._note(slots[row])
                self._begin(slots[row], seeds[row], obs, row)
            self._check_finite(obs, slots, "an observation")
        if frames:
            pictures = [self._render(slot) for slot in slots]
        return tuple(Stepped(obs, final, reward, terminated, truncated, _stacked(pictures, number)))

    def close(self) -> None:
        """Close all environments. Their errors are ignored, because nothing depends on them."""
        for env in self._envs.values():
            with contextlib.suppress(Exception):
                env.close()
        self._envs.clear()

    def _empty(self, number: int) -> np.ndarray:
        return np.zeros((number, *self._recipe.shape), self._recipe.dtype)

    def _take_task(self, slot: int, task: Any) -> None:
        recipe, env = self._recipe, self._envs.get(slot)
        name = "make_env" if env is None or recipe.set_task is None else "set_task"
        self._elapsed[slot] = 0
        try:
            if env is not None and recipe.set_task is not None:
                recipe.set_task(env, task)
                return
            if env is not None:
                del self._envs[slot]
                env.close()
            env = recipe.make_env(task)
            self._translate[slot] = translated(env, recipe)
        except HostError:
            raise
        except (Exception, SystemExit) as error:
            raise HostError(f"{name}{self._whose} raised {_described(error)}") from error
        self._envs[slot] = env

    def _begin(self, slot: int, seed: int, obs: np.ndarray, row: int) -> None:
        self._elapsed[slot] = 0
        try:
            seen, _ = self._envs[slot].reset(seed=seed)
            self._store(obs, row, self._translate[slot][0](seen), slot)
        except HostError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(slot, f"raised {_described(error)}") from error

    def _store(self, obs: np.ndarray, row: int, seen: np.ndarray, slot: int) -> None:
        if np.shape(seen) != self._recipe.shape:
            raise self._failed(
                slot, f"returned an observation of shape {np.shape(seen)}, not {self._recipe.shape} as its space says,"
            )
        obs[row] = seen

    def _render(self, slot: int) -> np.ndarray:
        try:
            return picture(self._envs[slot].render())
        except (Exception, SystemExit) as error:
            raise self._failed(slot, f"raised {_described(error)} in render(),") from error

    def _check_finite(self, values: np.ndarray, slots: Sequence[int], what: str) -> None:
        if values.dtype.kind != "f" or np.all(np.isfinite(values)):
            return
        wrong = ~np.isfinite(values.reshape(len(slots), -1)).all(axis=1)
        raise self._failed(slots[int(np.argmax(wrong))], f"returned {what} that is not finite (NaN or infinite)")

    def _failed(self, slot: int, what: str) -> HostError:
        step = self._elapsed.get(slot, 0)
        return HostError(f"the environment in slot {slot}{self._whose} {what} {_at(step)}")


def _at(step: int) -> str:
    return f"in step {step} of an episode" if step else "in a reset"


def translated(env: Any, recipe: Recipe) -> tuple[Callable[[Any], np.ndarray], Callable[[np.ndarray], Any]]:
    """Return the functions that translate an environment's observations and actions.

    Raises:
        HostError: if the environment is no Gymnasium environment, or its spaces differ from those of the family.
    """
    from metarl_jax.environments import gymnasium_spaces as spaces

    check_env(env)
    observations, actions = spaces.observations(env.observation_space), spaces.actions(env.action_space)
    own = observations.numbers[:2], observations.dtype, actions.numbers[:2]
    if own != (recipe.observations, recipe.dtype, recipe.actions):
        raise HostError(
            "all tasks of a family must have the same spaces, but make_env returned an environment with "
            f"{env.observation_space} and {env.action_space} for one of them"
        )
    return observations.encode, actions.decode


def check_env(env: Any) -> None:
    """Check that ``make_env`` returned an environment of Gymnasium.

    Raises:
        HostError: otherwise.
    """
    import gymnasium

    if not isinstance(env, gymnasium.Env):
        raise HostError(f"make_env must return a gymnasium.Env, not {type(env).__module__}.{type(env).__qualname__}")


def picture(frame: Any) -> np.ndarray:
    """Return a frame of ``render()`` as ``[height, width, 3]`` uint8.

    Raises:
        ValueError: if it is something else.
    """
    pixels = np.asarray(frame)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            "render() must return uint8 of shape (height, width, 3), as with render_mode 'rgb_array', not "
            f"{pixels.dtype} of shape {pixels.shape}"
        )
    return pixels


def _stacked(pictures: list[np.ndarray], number: int) -> np.ndarray:
    return np.stack(pictures) if pictures else np.zeros((number, 0), np.uint8)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# -------------------------------------------------------------------------------------------------- worker processes


def pickled(recipe: Recipe) -> bytes:
    """Return the recipe as bytes for worker processes.

    Raises:
        ValueError: if worker processes could not import ``make_env`` or ``set_task``.
    """
    need = "with workers, make_env and set_task must be functions at the top level of a module or a file"
    main = sys.modules.get("__main__")
    for function in (recipe.make_env, recipe.set_task):
        if getattr(function, "__module__", None) == "__main__" and not hasattr(main, "__file__"):
            raise ValueError(f"{need}, which worker processes import, not functions of a notebook or a prompt")
    try:
        return bytes(ForkingPickler.dumps(recipe))
    except Exception as error:  # Objects of the user may raise anything.
        raise ValueError(f"{need}, which worker processes import: {_described(error)}") from error


def _unpickled(recipe: bytes) -> Recipe:
    """Return the recipe that the parent process pickled. The bytes come from that process only."""
    loads: Callable[[bytes], Recipe] = ForkingPickler.loads  # pyright: ignore[reportAttributeAccessIssue]
    return loads(recipe)


def _work(link: connection.Connection, progress: Any, number: int, files: dict[str, str], recipe: bytes) -> None:
    """Serve the slots of one worker process until the parent closes the connection or ends."""
    # The parent decides what a signal to the group of processes means; it may need steps before it can save.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # JAX in an environment computes on the CPU: it must not take the memory of an accelerator from the parent.
    os.environ["JAX_PLATFORMS"] = "cpu"

    def note(slot: int) -> None:
        progress[0], progress[1] = slot, progress[1] + 1

    try:
        references.load_files(files)
        slots = Slots(_unpickled(recipe), f" of worker {number}", note)
    except (Exception, SystemExit) as error:
        link.send((f"worker {number} cannot import make_env: {_described(error)}", None))
        return
    link.send((None, None))
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            method, arguments = link.recv()
            try:
                answer = None, getattr(slots, method)(*arguments)
            except HostError as error:
                answer = str(error), None
            link.send(answer)
    slots.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(0)


class _Worker(NamedTuple):
    process: Any
    link: Any
    progress: Any
    """``[slot, number of calls of environments]``, which the worker writes."""


class Workers:
    """Environments in N worker processes, with the methods of ``Slots``. Worker ``slot % N`` holds a slot."""

    def __init__(self, recipe: bytes, number: int, step_timeout: float) -> None:
        """Start the processes.

        Args:
            recipe: the result of ``pickled``.
            number: the number N of processes.
            step_timeout: the largest time in seconds of one step or reset of an environment.

        Raises:
            HostError: if a process does not start.
        """
        context = multiprocessing.get_context("spawn")
        self._timeout, self._workers = step_timeout, list[_Worker]()
        # The number of steps of each slot's trial, for messages.
        self._steps: dict[int, int] = {}
        try:
            for index in range(number):
                ours, theirs = context.Pipe()
                progress = context.RawArray("q", 2)
                arguments = theirs, progress, index, references.loaded_files(), recipe
                process = context.Process(target=_work, args=arguments, daemon=True, name=f"environments-{index}")
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours, progress))
            self._answers(range(number), START_S)
        except BaseException:
            self.kill()
            raise

    def reset(
        self, slots: Sequence[int], seeds: Sequence[int], tasks: Sequence[Any], new: Sequence[bool], frames: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Do the same as ``Slots.reset``."""
        self._steps.update(dict.fromkeys(slots, 0))

        def part(rows: Sequence[int]) -> tuple[Any, ...]:
            return *([x[row] for row in rows] for x in (slots, seeds, tasks, new)), frames

        obs, pictures = self._call("reset", slots, part)
        return obs, pictures

    def step(
        self, slots: Sequence[int], actions: np.ndarray, seeds: Sequence[int], frames: bool
    ) -> tuple[np.ndarray, ...]:
        """Do the same as ``Slots.step``."""
        for slot in slots:
            self._steps[slot] += 1

        def part(rows: Sequence[int]) -> tuple[Any, ...]:
            return [slots[row] for row in rows], actions[list(rows)], [seeds[row] for row in rows], frames

        return self._call("step", slots, part)

    def _call(
        self, method: str, slots: Sequence[int], part: Callable[[Sequence[int]], tuple[Any, ...]]
    ) -> tuple[np.ndarray, ...]:
        whose = np.asarray(slots) % len(self._workers)
        rows = {index: np.flatnonzero(whose == index) for index in range(len(self._workers))}
        rows = {index: found for index, found in rows.items() if len(found)}
        for index, found in rows.items():
            # A worker that is gone is found while its answer is awaited.
            with contextlib.suppress(ConnectionError):
                self._workers[index].link.send((method, part(found.tolist())))
        answers = self._answers(rows, self._timeout)
        results = []
        for parts in zip(*answers.values(), strict=True):
            whole = np.zeros((len(slots), *parts[0].shape[1:]), parts[0].dtype)
            for found, values in zip(rows.values(), parts, strict=True):
                whole[found] = values
            results.append(whole)
        return tuple(results)

    def _answers(self, indices: Any, limit: float) -> dict[int, Any]:
        """Return the answers of workers, in the order of ``indices``.

        Raises:
            HostError: if a worker reports an error, ends, or makes no progress for ``limit`` seconds.
        """
        found: dict[int, Any] = dict.fromkeys(indices)
        waiting = {self._workers[index].link: index for index in indices}
        since = {index: (-1, time.monotonic()) for index in indices}
        while waiting:
            for link in connection.wait(list(waiting), min(limit / 4, 1.0)):
                index = waiting.pop(link)
                try:
                    message, found[index] = self._workers[index].link.recv()
                except (EOFError, OSError):
                    process = self._workers[index].process
                    process.join(CLOSE_S)
                    raise HostError(self._gone(index, process.exitcode)) from None
                if message is not None:
                    raise HostError(message)
            now = time.monotonic()
            for index in waiting.values():
                calls = int(self._workers[index].progress[1])
                if calls != since[index][0]:
                    since[index] = calls, now
                elif now - since[index][1] > limit:
                    raise HostError(f"worker {index} did not answer within {limit:g} s, {self._where(index)}")
        return found

    def _where(self, index: int) -> str:
        slot, calls = self._workers[index].progress
        if not calls:
            return "while it started"
        return f"in step {self._steps[slot]} of the trial in slot {slot}"

    def _gone(self, index: int, code: int | None) -> str:
        how = f"with exit code {code}" if code is not None else "without an exit code"
        if code is not None and code < 0:
            how = f"by signal {-code}"
        hint = ""
        if not self._workers[index].progress[1]:
            hint = " (a script that is run needs the line `if __name__ == '__main__':` before it trains)"
        return f"worker {index} ended {how}, {self._where(index)}{hint}"

    def close(self) -> None:
        """Let the processes close their environments and end; kill those that do not end in time."""
        for worker in self._workers:
            worker.link.close()
        deadline = time.monotonic() + CLOSE_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End the processes at once."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.link.close()
        self._workers.clear()


# -------------------------------------------------------------------------------------------------------- the pool


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """The environments of a family, as its compiled programs call them.

    A reset leases a slot for a trial. The number of the lease and the number of steps are part of the state that the
    program holds, so that a state that is used twice, or after its slot was leased again, is an error.
    """

    def __init__(self, recipe: Recipe, workers: int, step_timeout: float, most: int) -> None:
        """Make a pool without environments. They and the processes are made when they are needed first.

        Args:
            recipe: how environments are made.
            workers: the number of worker processes; 0 for environments in this process.
            step_timeout: the largest time in seconds of a step in a worker process.
            most: the largest number of environments.
        """
        self._recipe = recipe
        self._pickled = pickled(recipe) if workers else b""
        self._number, self._timeout, self._most = workers, step_timeout, most
        self._held: Slots | Workers | None = None
        # Programs on several devices may call at the same time.
        self._lock = threading.Lock()
        self._leases = 0
        self._forget()
        _POOLS.add(self)

    def _forget(self) -> None:
        # Each slot has the number of its lease (0: none), the steps of its trial, the call that used it last, its task.
        self._lease, self._steps, self._used = (np.zeros(0, np.int64) for _ in range(3))
        self._tasks: list[bytes] = []
        self._calls = 0

    @contextlib.contextmanager
    def _called(self) -> Iterator[Slots | Workers]:
        with host_calls.call(), self._lock:
            self._calls += 1
            try:
                if self._held is None:
                    self._held = (
                        Workers(self._pickled, self._number, self._timeout) if self._number else Slots(self._recipe)
                    )
                yield self._held
            except BaseException:
                # Environments that stopped in the middle of a batch cannot go on.
                self._drop(kill=True)
                raise

    def _drop(self, *, kill: bool) -> None:
        held, self._held = self._held, None
        if isinstance(held, Workers) and kill:
            held.kill()
        elif held is not None:
            held.close()
        self._forget()

    def close(self) -> None:
        """Close all environments and end the worker processes. The next reset makes new ones."""
        with self._lock:
            self._drop(kill=False)

    def reset(
        self, seeds: Sequence[int], tasks: Sequence[Any], contents: Sequence[bytes], frames: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Begin B trials.

        Args:
            seeds: the seeds of the first episodes.
            tasks: the tasks.
            contents: the content of each task, by which equal tasks are recognised.
            frames: whether pictures are requested.

        Returns:
            The slots, the lease, the first observations and the pictures, ``[B, ...]`` each.
        """
        with self._called() as held:
            slots = self._take(len(seeds))
            new = [self._tasks[slot] != content for slot, content in zip(slots, contents, strict=True)]
            obs, pictures = held.reset(slots, seeds, tasks, new, frames)
            self._leases += 1
            for slot, content in zip(slots, contents, strict=True):
                self._tasks[slot] = content
            self._lease[slots], self._steps[slots], self._used[slots] = self._leases, 0, self._calls
        return np.asarray(slots, np.int32), np.full(len(slots), self._leases, np.int32), obs, pictures

    def _take(self, number: int) -> list[int]:
        """Return free slots, and make some if there are too few."""
        if number > self._most:
            raise HostError(
                f"{number} environments would run at the same time, but max_environments is {self._most}: train or "
                "evaluate fewer tasks at a time"
            )
        missing = number - int(np.sum(self._lease == 0))
        more = max(0, min(missing, self._most - len(self._lease)))
        self._lease, self._steps, self._used = (np.pad(x, (0, more)) for x in (self._lease, self._steps, self._used))
        self._tasks += [b""] * more
        # If too few trials were ended by ``release``, those that were used least recently count as ended.
        in_use = np.flatnonzero(self._lease)
        given_up = in_use[np.argsort(self._used[in_use], kind="stable")][: max(0, missing - more)]
        self._lease[given_up] = 0
        return np.flatnonzero(self._lease == 0)[:number].tolist()

    def step(
        self,
        slot: np.ndarray,
        lease: np.ndarray,
        steps: np.ndarray,
        over: np.ndarray,
        actions: np.ndarray,
        seeds: Sequence[int],
        frames: np.ndarray,
    ) -> Stepped:
        """Take a step in each slot.

        Args:
            slot: ``[B]``: the slots.
            lease: ``[B]``: their leases.
            steps: ``[B]``: the number of steps of each trial so far.
            over: ``[B]``: whether the trial is over. Its slot is given back, and its results are zero.
            actions: ``[B, ...]``: the actions.
            seeds: the seed of a reset for each slot.
            frames: ``[B, ...]``: the pictures before the step, which remain where the trial is over.
        """
        number, recipe = len(slot), self._recipe
        empty = np.zeros((number, *recipe.shape), recipe.dtype)
        reward, terminated, truncated = (np.zeros(number, kind) for kind in (np.float32, np.bool_, np.bool_))
        whole = Stepped(empty, empty.copy(), reward, terminated, truncated, np.array(frames))
        with self._called() as held:
            self._free(slot[over], lease[over])
            rows = np.flatnonzero(~over).tolist()
            if not rows:
                return whole
            slots = slot[rows]
            self._check(slots, lease[rows], steps[rows])
            self._steps[slots] += 1
            self._used[slots] = self._calls
            wanted = whole.frames.ndim == 4
            found = held.step(slots.tolist(), actions[rows], [seeds[row] for row in rows], wanted)
            if len(rows) == number:
                return Stepped(*found)
            for all_rows, some in zip(whole, found, strict=True):
                all_rows[rows] = some
        return whole

    def release(self, slot: np.ndarray, lease: np.ndarray) -> None:
        """Give back the slots of trials that are over."""
        with self._called():
            self._free(slot, lease)

    def _current(self, slot: np.ndarray, lease: np.ndarray) -> np.ndarray:
        known = (slot >= 0) & (slot < len(self._lease))
        if not len(self._lease):
            return known
        return known & (self._lease[np.where(known, slot, 0)] == lease)

    def _free(self, slot: np.ndarray, lease: np.ndarray) -> None:
        self._lease[slot[self._current(slot, lease)]] = 0

    def _check(self, slot: np.ndarray, lease: np.ndarray, steps: np.ndarray) -> None:
        current = self._current(slot, lease)
        if not np.all(current):
            raise HostError(
                "a step was taken from a state whose trial has ended, or whose environment was taken for another "
                f"trial because more than max_environments ({self._most}) trials ran at the same time"
            )
        if np.any(self._steps[slot] != steps) or len(set(slot.tolist())) < len(slot):
            raise HostError(
                "two steps were taken from the same state: the state of a Gymnasium environment is not stored, so "
                "each state can be used once"
            )


@atexit.register
def _close_all() -> None:
    # Functions that were registered earlier run later, so programs that still run are awaited here.
    host_calls.wait_for_programs()
    for pool in list(_POOLS):
        pool.close()
