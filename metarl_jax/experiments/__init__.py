"""Experiments: any algorithm on any family of tasks that it applies to, and presets with tuned settings."""

from __future__ import annotations

import dataclasses

from metarl_jax.checks import did_you_mean
from metarl_jax.experiments import (
    control,
    exploration,
    families,
    few_shot,
    locomotion,
    manipulation,
    maze,
    minutes,
    point_robot,
    recommendation,
    registry,
    regression,
    rl2,
    shared_families,
    xland,
)
from metarl_jax.experiments.base import Experiment, combination

__all__ = ["Experiment", "combination", "families", "get", "names", "register", "registry"]

_PRESETS: dict[str, Experiment] = {
    experiment.name: dataclasses.replace(experiment, minutes=minutes.MINUTES.get(experiment.name))
    for module in (
        rl2,
        maze,
        regression,
        control,
        few_shot,
        exploration,
        point_robot,
        recommendation,
        locomotion,
        shared_families,
        manipulation,
        xland,
    )
    for experiment in module.experiments()
}
register = registry.register


def names() -> list[str]:
    """The names of all presets."""
    return list(_PRESETS)


def presets() -> list[Experiment]:
    """All presets."""
    return list(_PRESETS.values())


def get(name: str) -> Experiment:
    """The preset of that name, or the combination that it names: "algorithm family" or "algorithm family network".

    Raises:
        ValueError: if there is none; the message names the nearest ones.
    """
    if name in _PRESETS:
        return _PRESETS[name]
    words = name.split()
    if 2 <= len(words) <= 3:
        return combination(*words)
    raise ValueError(f"there is no experiment {name!r}{did_you_mean(name, _PRESETS)}")
