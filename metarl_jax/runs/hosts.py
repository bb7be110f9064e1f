"""Several processes, on one machine or many, that train the same runs together on JAX's own distributed runtime.

Every process runs the same program on the same folder, which all of them see. The first one writes and speaks; what
depends on clocks, signals and files, it decides for all. Where one is killed, JAX's runtime aborts the others within
minutes (exit code 134); the last checkpoint is whole, and all of them resume.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from metarl_jax.runs.errors import Stop, UserError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
_WAIT_S = 86400
"""How long processes wait for each other; that one is gone is noticed within minutes."""


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
    client.key_value_set(f"metarl_jax/{_turn}/{jax.process_index()}", own)
    said = [client.blocking_key_value_get(f"metarl_jax/{_turn}/{i}", 1000 * _WAIT_S) for i in range(number())]
    # Who says something in this turn has read what was said in the last one.
    client.key_value_delete(f"metarl_jax/{_turn - 1}/{jax.process_index()}")
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


def leave(exit_code: int) -> None:
    """End this process at once if there are others: who waits for it in a program must not wait forever."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
