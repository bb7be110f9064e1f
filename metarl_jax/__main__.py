"""The program ``metarl-jax``, which ``python -m metarl_jax`` also runs."""

from __future__ import annotations

import contextlib
import os
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
    """Run the command of this process, and return its exit code."""
    import signal

    # Ctrl-C is handled before anything else is imported, because an import may replace an exception by another one.
    signal.signal(signal.SIGINT, _end)
    from importlib import metadata

    # jaxlib 0.10.1 logs long errors on some processors whenever it loads a stored program, although the program works.
    # The variable has to be set before jaxlib is imported. Some commands work without jaxlib.
    with contextlib.suppress(metadata.PackageNotFoundError):
        if metadata.version("jaxlib") == "0.10.1":
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from metarl_jax.runs import process

    return process.run(_command, alone=True)


def _leave_out_working_directory() -> None:
    """Remove the entry of ``sys.path`` that ``python -m`` has put first, so that nothing there can be imported.

    Afterwards, Python finds this package by the package's own path, even if it is in that directory.
    """
    try:
        here = os.getcwd()
    except OSError:
        return
    if not sys.flags.safe_path and sys.path[:1] == [here]:
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_working_directory()
    sys.exit(main())
