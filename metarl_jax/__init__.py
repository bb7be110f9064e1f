"""Meta-reinforcement learning as pure functions: inner and outer loops compiled end to end by XLA.

The public names are in ``__init__.pyi``. Each is imported when it is first used: ``import metarl_jax`` imports no JAX.
"""

import lazy_loader

__version__ = "0.2.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
