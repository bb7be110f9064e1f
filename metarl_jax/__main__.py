"""``python -m metarl_jax``."""

from __future__ import annotations

import sys

from metarl_jax.cli import main

sys.exit(main())
