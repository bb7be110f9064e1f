"""Presets: where an algorithm meets a network and a family of tasks, with the paper's number beside it."""

from __future__ import annotations

from metarl_jax.checks import did_you_mean
from metarl_jax.experiments import (
    control,
    exploration,
    few_shot,
    locomotion,
    manipulation,
    maze,
    point_robot,
    recommendation,
    regression,
    rl2,
    shared_families,
    xland,
)
from metarl_jax.experiments.base import Experiment

_EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
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


def names() -> list[str]:
    """The names of all experiments."""
    return list(_EXPERIMENTS)


def get(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: if there is none; the message names the nearest ones.
    """
    if name not in _EXPERIMENTS:
        raise ValueError(f"there is no experiment {name!r}{did_you_mean(name, _EXPERIMENTS)}")
    return _EXPERIMENTS[name]
