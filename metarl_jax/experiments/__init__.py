"""Experiments: presets, combinations of an algorithm and a family of tasks, and experiments of the user.

Code outside of this package adds its own algorithms, networks, families of tasks and experiments with ``register``. The
command line loads such code only if the user names it (``load``), never because a file names it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from metarl_jax import references
from metarl_jax.checks import did_you_mean
from metarl_jax.experiments import (
    adaptive_control,
    changing,
    control,
    cross_domain,
    diagnosis,
    driving,
    exploration,
    families,
    few_shot,
    icu_sepsis,
    imitation,
    jax_suites,
    locomotion,
    manipulation,
    markets,
    maze,
    minutes,
    motion_planning,
    point_robot,
    recommendation,
    registry,
    regression,
    rl2,
    shared_families,
    text,
    xland,
)
from metarl_jax.experiments.base import Experiment, combination, experiment
from metarl_jax.experiments.registry import REWARD_OF_TRIAL, Algorithm, Family, Measure, Network
from metarl_jax.references import Source

__all__ = [
    "REWARD_OF_TRIAL",
    "Algorithm",
    "Experiment",
    "Family",
    "Measure",
    "Network",
    "Source",
    "combination",
    "experiment",
    "families",
    "find",
    "get",
    "load",
    "names",
    "presets",
    "register",
    "registry",
    "source",
]

ENTRY_POINTS = "metarl_jax.experiments"
"""The group of entry points by which installed packages offer experiments: the value is an experiment, or a function
without parameters that returns one."""

_PRESETS: dict[str, Experiment] = {
    preset.name: dataclasses.replace(preset, minutes=minutes.MINUTES.get(preset.name))
    for module in (
        rl2,
        maze,
        regression,
        control,
        few_shot,
        exploration,
        imitation,
        point_robot,
        recommendation,
        adaptive_control,
        changing,
        cross_domain,
        diagnosis,
        icu_sepsis,
        locomotion,
        shared_families,
        manipulation,
        markets,
        motion_planning,
        driving,
        xland,
        jax_suites,
        text,
    )
    for preset in module.experiments()
}
_REGISTERED: dict[str, Experiment] = {}
"""The user's experiments by name."""
_SOURCES: dict[str, Source] = {}
"""The sources of the experiments that ``load`` registered."""
_ENTRIES: dict[Source, tuple[Algorithm, Family, Network]] = {}
"""The entries that the experiment of each source named when it was loaded."""


def names() -> list[str]:
    """Return the names of all presets and of the user's experiments."""
    return [*_PRESETS, *_REGISTERED]


def presets() -> list[Experiment]:
    """Return all presets and the user's experiments."""
    return [*_PRESETS.values(), *_REGISTERED.values()]


def get(name: str) -> Experiment:
    """Return the experiment of a name, or the combination "algorithm family" or "algorithm family network".

    Raises:
        ValueError: if there is no such experiment, where the message gives similar names; or if other code has replaced
            a part of it.
    """
    if name in _PRESETS:
        return _PRESETS[name]
    if name in _REGISTERED:
        found, origin = _REGISTERED[name], _SOURCES.get(name)
        if origin is not None and found.entries != _ENTRIES[origin]:
            raise ValueError(
                f"other code has replaced the algorithm, the family or the network of {name} ({origin.reference}): use "
                "one of them at a time"
            )
        return found
    words = name.split()
    if 2 <= len(words) <= 3:
        return combination(*words)
    raise ValueError(f"there is no experiment {name!r}{did_you_mean(name, names())}")


def find(text: str) -> Experiment:
    """Return the experiment that a user names by a name (``get``) or by a reference (``load``).

    Raises:
        ValueError: if there is no such experiment, or if it cannot be loaded.

    Example:
        >>> import metarl_jax as mrl
        >>> mrl.experiments.find("rl2-gridnavi").tuned
        True
        >>> mrl.experiments.find("rl2 gridnavi snail").network
        'snail'
    """
    if text not in names() and (references.is_reference(text) or references.is_entry_point(text, ENTRY_POINTS)):
        return load(text)
    return get(text)


def source(name: str) -> Source | None:
    """Return the source of the experiment of a name; None if ``load`` did not register it."""
    return _SOURCES.get(name)


def register(*entries: Algorithm | Network | Family | Experiment) -> None:
    """Register the user's algorithms, networks, families of tasks and experiments under their names.

    An entry replaces an earlier one of the same name, unless the earlier one is the package's own. The parts of an
    experiment must be registered before the experiment is made.

    Args:
        entries: the entries.

    Raises:
        ValueError: if a name is taken by the package or has characters that names cannot have, or if an experiment
            names a part that is not registered, or an algorithm that does not apply to its family.

    Example:
        >>> import metarl_jax as mrl
        >>> def pairs() -> mrl.types.EnvFamily:
        ...     return mrl.environments.bandits.bernoulli(arms=2)
        >>> mrl.register(mrl.experiments.Family("pairs", "bandits of two arms", pairs))
        >>> mrl.experiments.get("rl2 pairs").family
        'pairs'
    """
    for entry in entries:
        if not isinstance(entry, Experiment):
            registry.register(entry)
            continue
        words = entry.name.split(" ")
        for word in words:
            registry.check_name(word)
        if entry.name in _PRESETS or _is_combination_of_package(words):
            raise ValueError(f"there is already an experiment {entry.name!r}, which is a part of metarl_jax")
        algorithm, family, _ = entry.entries
        if reason := registry.does_not_apply(algorithm, family):
            raise ValueError(f"{algorithm.name} does not apply to {family.name}: {reason}")
        _REGISTERED[entry.name] = entry
        _SOURCES.pop(entry.name, None)


def _is_combination_of_package(words: list[str]) -> bool:
    """Return whether words name a combination of entries that are all the package's own."""
    if not 2 <= len(words) <= 3:
        return False
    try:
        algorithm, family = registry.algorithm(words[0]), registry.family(words[1])
        network = registry.network(algorithm, family, words[2] if len(words) == 3 else None)
    except ValueError:
        return False
    return all(map(registry.is_package, (algorithm, family, network)))


def load(reference: str) -> Experiment:
    """Load the experiment that a reference names, and register it. The code behind the reference is executed.

    Args:
        reference: ``path/to/file.py:name``, ``package.module:name``, or the name of an entry point of the group
            ``ENTRY_POINTS``. It names an experiment, or a function without parameters that returns one.

    Raises:
        ValueError: if the reference does not name such an object, if the code raises an exception, or if the experiment
            cannot be registered.

    Example:
        >>> import metarl_jax as mrl
        >>> mrl.experiments.load("my_file.py:my_experiment").name
        'my-experiment'
    """
    loaded = references.load(reference, entry_points=ENTRY_POINTS)
    origin = Source(loaded.reference, loaded.sha256)
    if origin in _ENTRIES:
        # The code is not executed again, and other code may have replaced its entries since.
        registry.register(*(entry for entry in _ENTRIES[origin] if not registry.is_package(entry)))
    found = _experiment_of(loaded)
    register(found)
    _SOURCES[found.name] = origin
    _ENTRIES[origin] = found.entries
    return found


def _experiment_of(loaded: references.Loaded) -> Experiment:
    value: Any = loaded.value
    try:
        if callable(value):
            value = value()
        if isinstance(value, Experiment):
            value.check_names(value.settings)
    except Exception as error:  # The user's code may raise anything.
        described = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{loaded.reference} cannot be used: {described}") from error
    if not isinstance(value, Experiment):
        raise ValueError(
            f"{loaded.reference} must be an Experiment, or a function without parameters that returns one, not of the "
            f"type {type(value).__name__}"
        )
    return value
