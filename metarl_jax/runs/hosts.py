"""Several processes, on one machine or many, that train the same runs together on JAX's own distributed runtime.

Every process runs the same program on the same folder, which all of them see. The first process writes and speaks. It
decides for all what depends on clocks, signals and files. When a process is killed, the others end within
``HEARTBEAT_S`` and a few seconds, with exit code 5; their last line on standard error says how to go on. The last
checkpoint is whole, and all processes resume from it.
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
"""How long processes wait for each other; the heartbeats show whether they are there."""
HEARTBEAT_S = 20
"""Seconds without a heartbeat, which JAX's runtime sends from a thread of its own, after which a process is gone."""
_abort_handler: Any = None
"""None: this process has not joined others."""


def join(text: str) -> int | None:
    """Join the other processes; to be called before JAX first computes anything.

    Args:
        text: ``HOST:PORT,INDEX,PROCESSES`` (the address of the first process, which of them this one is, and how many
            there are), or ``auto`` where the cluster knows (Slurm, Open MPI, Kubernetes, TPU pods).

    Returns:
        How many processes there are; None if only the cluster knows.

    Raises:
        UserError: if the text is neither, or the others cannot be found.
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
    # Signals are ours (``interrupts``).
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

    When another process is gone, JAX's runtime calls ``abort()`` from a thread of its own and offers no other way (its
    callback for that cannot be written in Python). Python's own signal handlers run in the main thread, which is too
    late: the C library ends the process when the handler of the signal returns.
    """
    global _abort_handler

    def gone(number: int) -> None:
        interrupts.last_words(f"error: {_gone()}", Lost.exit_code)

    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(gone)
    install = ctypes.CDLL(None).signal
    install.restype = ctypes.c_void_p
    install(int(signal.SIGABRT), _abort_handler)


def _gone() -> str:
    how = interrupts.how_to_go_on() or "; start all processes again"
    return f"another process of this run is gone, or cannot be reached (see above){how}"


def joined() -> bool:
    """Whether this process is one of several."""
    return _abort_handler is not None


def speak_once() -> None:
    """Let only the first process write to standard output."""
    if not first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)


def number() -> int:
    """How many processes there are."""
    import jax

    return jax.process_count()


def first() -> bool:
    """Whether this is the process that writes."""
    import jax

    return jax.process_index() == 0


_turn = 0


def _exchange(own: str) -> list[str]:
    """What each process says, in their order; each waits for the others, for however long.

    Not by a program that sums over devices: on CPUs such a program gives up when a process is half a minute late, as
    they are that compile on a busy machine, and the first one while it writes.
    """
    global _turn
    if number() == 1:
        return [own]
    import jax
    from jax._src import distributed  # JAX shows the store of its runtime nowhere else

    client = distributed.global_state.client
    assert client is not None
    _turn += 1
    try:
        client.key_value_set(f"metarl_jax/{_turn}/{jax.process_index()}", own)
        said = [client.blocking_key_value_get(f"metarl_jax/{_turn}/{i}", 1000 * _WAIT_S) for i in range(number())]
        # A process that says something in this turn has read what was said in the last one.
        client.key_value_delete(f"metarl_jax/{_turn - 1}/{jax.process_index()}")
    except jax.errors.JaxRuntimeError as error:
        raise Lost(_gone()) from error
    return said


def agree(*values: int) -> np.ndarray:
    """What all processes say, ``[processes, values]``; each waits for the others."""
    import numpy as np

    return np.asarray([json.loads(said) for said in _exchange(json.dumps([int(value) for value in values]))])


def share_text(text: str) -> str:
    """What the first process says."""
    return json.loads(_exchange(json.dumps(text))[0])


def on_first(function: Callable[[], T]) -> T | None:
    """Let the first process do something; the others wait for it, and stop if it must.

    Raises:
        Stop: what it raised; elsewhere a UserError.
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
        raise UserError("the first process stopped; it says why")
    return result
