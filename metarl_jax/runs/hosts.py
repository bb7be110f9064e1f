"""Several processes, on one machine or many, that train the same runs together on JAX's own distributed runtime.

Every process runs the same program on the same folder, which all of them see. The first one writes and speaks; what
depends on clocks, signals and files, it decides for all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from metarl_jax.runs.errors import Stop, UserError

T = TypeVar("T")
_LONGEST_TEXT = 4096
_WAIT_S = 86400
"""How long processes that are done wait for the first one, which measures the result."""


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
    try:
        jax.distributed.initialize(address, processes, index, shutdown_timeout_seconds=_WAIT_S)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other processes: {' '.join(str(error).split())}") from error
    return processes


def speak_once() -> None:
    """Let only the first process write to standard output."""
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)


def number() -> int:
    """How many processes there are."""
    import jax

    return jax.process_count()


def first() -> bool:
    """Whether this is the process that writes."""
    import jax

    return jax.process_index() == 0


def agree(*values: int) -> np.ndarray:
    """What all processes say, ``[processes, values]`` (``int32``); each waits for the others."""
    own = np.asarray(values, np.int32)
    if number() == 1:
        return own[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(own))


def share_text(text: str) -> str:
    """What the first process says."""
    if number() == 1:
        return text
    from jax.experimental import multihost_utils

    content = np.frombuffer(text.encode().ljust(_LONGEST_TEXT, b"\0"), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(content))).rstrip(b"\0").decode()


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


def leave(exit_code: int) -> None:
    """End this process at once if there are others: who waits for it in a program must not wait forever."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
