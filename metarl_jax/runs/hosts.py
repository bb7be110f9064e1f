"""Several processes, on one machine or many, that train the same runs together with JAX's distributed runtime.

Every process runs the same program on the same folder, which all of them see. Only the first process writes files and
prints messages. It makes the decisions that depend on clocks, signals and files, for all processes. When a process is
killed, the others end after ``HEARTBEAT_S`` and a few more seconds, with exit code 5. Their last line on standard error
says how to go on. The last checkpoint is whole, and all processes resume from it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from metarl_jax.runs import interrupts
from metarl_jax.runs.errors import Lost, Stop, UserError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
_WAIT_S = 86400
"""The longest time in seconds that processes wait for each other. Heartbeats show whether the others still run."""
HEARTBEAT_S = 20
"""The time in seconds without a heartbeat after which a process is considered gone. JAX's runtime sends heartbeats from
a separate thread."""
_abort_handler: Any = None
"""The handler of SIGABRT; None if this process has not joined other processes."""


def join(text: str) -> int | None:
    """Join the other processes. This function must be called before JAX first computes anything.

    Args:
        text: ``HOST:PORT,INDEX,PROCESSES`` (the address of the first process, the index of this process, and the number
            of processes), or ``auto`` on a cluster that provides these (Slurm, Open MPI, Kubernetes, TPU pods).

    Returns:
        The number of processes; None if ``text`` is ``auto``.

    Raises:
        UserError: if the text has neither form, or the other processes cannot be reached.
    """
    import jax

    if text == "auto":
        address, index, processes = None, None, None
    else:
        try:
            address, *numbers = text.split(",")
            host, colon, port = address.rpartition(":")
            index, processes = map(int, numbers)
            if not (host and colon and 0 < int(port) < 2**16 and 0 <= index < processes):
                raise ValueError
        except ValueError:
            raise UserError(
                f"--distributed must be auto or HOST:PORT,INDEX,PROCESSES with an INDEX from 0, not {text!r}"
            ) from None
    # This package handles signals itself (``interrupts``).
    jax.config.update("jax_enable_preemption_service", False)
    _end_where_jax_aborts()
    try:
        jax.distributed.initialize(
            address, processes, index, heartbeat_timeout_seconds=HEARTBEAT_S, shutdown_timeout_seconds=_WAIT_S
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other processes: {error}") from error
    return processes


def _end_where_jax_aborts() -> None:
    """Make ``abort()`` end this process with the exit code of ``Lost`` and a last line that says how to go on.

    When another process is gone, JAX's runtime calls ``abort()`` from its own thread. It offers a callback for this
    case, but the callback cannot be written in Python. A Python signal handler would run in the main thread, which is
    too late, because the C library ends the process when its own handler of the signal returns.
    """
    global _abort_handler

    def gone(number: int) -> None:
        interrupts.end_process(f"error: {_gone()}", Lost.exit_code)

    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(gone)
    install = ctypes.CDLL(None).signal
    install.restype = ctypes.c_void_p
    install(int(signal.SIGABRT), _abort_handler)


def _gone() -> str:
    how = interrupts.how_to_go_on() or "; start all processes again"
    return f"another process of this run is gone, or cannot be reached (see above){how}"


def joined() -> bool:
    """Return whether this process is one of several."""
    return _abort_handler is not None


def speak_once() -> None:
    """Let only the first process write to standard output."""
    if not first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)


def number() -> int:
    """Return the number of processes."""
    import jax

    return jax.process_count()


def first() -> bool:
    """Return whether this is the first process, which writes files."""
    import jax

    return jax.process_index() == 0


_turn = 0


def _exchange(own: str) -> list[str]:
    """Return the texts of all processes, in the order of the processes. Each process waits for all the others.

    The texts go through the key-value store of JAX's runtime. A program that sums over devices would not be reliable:
    on CPUs it fails when a process is half a minute late. A process that compiles on a busy machine can be that late,
    and so can the first process while it writes.
    """
    global _turn
    if number() == 1:
        return [own]
    import jax
    from jax._src import distributed  # JAX has no public access to the store of its runtime.

    client = distributed.global_state.client
    assert client is not None
    _turn += 1
    try:
        client.key_value_set(f"metarl_jax/{_turn}/{jax.process_index()}", own)
        said = [client.blocking_key_value_get(f"metarl_jax/{_turn}/{i}", 1000 * _WAIT_S) for i in range(number())]
        # A process that takes part in this exchange has read all texts of the previous one.
        client.key_value_delete(f"metarl_jax/{_turn - 1}/{jax.process_index()}")
    except jax.errors.JaxRuntimeError as error:
        raise Lost(_gone()) from error
    return said


def agree(*values: int) -> np.ndarray:
    """Return the values of all processes, ``[processes, values]``. Each process waits for all the others."""
    import numpy as np

    return np.asarray([json.loads(said) for said in _exchange(json.dumps([int(value) for value in values]))])


def share_text(text: str) -> str:
    """Return the text of the first process on every process."""
    return json.loads(_exchange(json.dumps(text))[0])


def on_first(function: Callable[[], T]) -> T | None:
    """Call a function on the first process only. The other processes wait for it, and stop if it fails.

    Returns:
        The result of the function on the first process; None on the others.

    Raises:
        Stop, OSError: on the first process, if the function raised it.
        UserError: on the other processes, if the function failed on the first one.
    """
    result: T | None = None
    problem: Stop | OSError | None = None
    if first():
        try:
            result = function()
        except (Stop, OSError) as error:
            problem = error
    failed = agree(problem is not None)[0, 0]
    if problem is not None:
        raise problem
    if failed:
        raise UserError("the first process stopped; its own message says why")
    return result
