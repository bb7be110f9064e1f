"""The program ``metarl-jax``, also ``python -m metarl_jax``."""

from __future__ import annotations

import sys

from metarl_jax.runs import interrupts, process


def _command() -> int:
    # Signals are handled before anything large is imported.
    from metarl_jax import cli

    return cli.dispatch(sys.argv[1:])


def main() -> int:
    """Run the command that the process was started with; return its exit code."""
    code = process.run(_command)
    interrupts.act_as_default()
    return code


if __name__ == "__main__":
    sys.exit(main())
