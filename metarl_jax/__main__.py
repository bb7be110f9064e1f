"""The program ``metarl-jax``, also ``python -m metarl_jax``."""

from __future__ import annotations

import os
import sys


def _command() -> int:
    from metarl_jax import cli

    return cli.dispatch(sys.argv[1:])


def main() -> int:
    """Run the command that the process was started with; return its exit code."""
    # Signals are handled before anything large is imported.
    try:
        from metarl_jax.runs import process
    except KeyboardInterrupt:
        os.write(2, b"metarl-jax: stopped by SIGINT\n")
        os._exit(130)
    return process.run(_command, alone=True)


if __name__ == "__main__":
    sys.exit(main())
