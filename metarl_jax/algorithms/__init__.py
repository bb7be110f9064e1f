"""Algorithms, one file each: ``Config``, ``State`` and ``make``."""
