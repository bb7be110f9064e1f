"""Meta-reinforcement learning as pure functions: inner and outer loops compiled end to end by XLA."""

__version__ = "0.2.0.dev0"
