"""The program ``metarl-jax``, also ``python -m metarl_jax``."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"metarl-jax: stopped by SIGINT\n")
    finally:
        os._exit(128 + number)


def _command() -> int:
    from metarl_jax import cli

    return cli.dispatch(sys.argv[1:])


def main() -> int:
    """Run the command that the process was started with; return its exit code."""
    # Ctrl-C is handled before anything else is imported: an exception within an import may become another one.
    signal.signal(signal.SIGINT, _end)
    from metarl_jax.runs import process

    return process.run(_command, alone=True)


if __name__ == "__main__":
    sys.exit(main())
