"""Presets: few-shot classification by MAML, Reptile, SNAIL and the Meta Network on Omniglot and on synthetic glyphs.

Published numbers: accuracies of Finn et al. (2017), Nichol et al. (2018), Mishra et al. (2018) and Munkhdalai & Yu
(2017). Settings that a paper does not give are those of its authors' code, where a comment says so, or were chosen for
this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from metarl_jax.experiments.base import Experiment, experiment


def maml_settings(ways: int, shots: int) -> dict[str, Any]:
    """Return the settings of Finn et al. (2017). The number of queries equals that of shots, as in their code."""
    steps: dict[str, Any] = (
        {"tasks": 32, "inner_steps": 1, "inner_rate": 0.4, "adaptation_steps": 3}
        if ways == 5
        else {"tasks": 16, "inner_steps": 5, "inner_rate": 0.1, "adaptation_steps": 5}
    )
    counts = {"shots": shots, "queries": shots, "heldout_shots": shots, "heldout_queries": shots}
    return {"iterations": 60000, "ways": ways, **counts, **steps}


def reptile_settings(ways: int, shots: int) -> dict[str, Any]:
    """Return the settings of Nichol et al. (2018).

    One query of each class, and the network's last layer, are as in their code.
    """
    steps: dict[str, Any] = (
        {"iterations": 100000, "inner_rate": 1e-3, "inner_steps": 5, "batch_size": 10, "heldout_batch_size": 5}
        if ways == 5
        else {"iterations": 200000, "inner_rate": 5e-4, "inner_steps": 10, "batch_size": 20, "heldout_batch_size": 10}
    )
    counts = {"shots": 10, "heldout_shots": shots}
    return {"tasks": 5, "adaptation_steps": 50, "ways": ways, "features": "all", **counts, **steps}


MAML, REPTILE = "Finn et al. 2017", "Nichol et al. 2018"
# The published accuracies by (ways, shots), after the number of gradient steps of the settings above.
MAML_TABLE: dict[str, dict[tuple[int, int], float]] = {
    f"MAML ({MAML})": {(5, 1): 0.987, (5, 5): 0.999, (20, 1): 0.958, (20, 5): 0.989},
    f"MAML without convolutions ({MAML})": {(5, 1): 0.897, (5, 5): 0.975},
}
REPTILE_TABLE: dict[str, dict[tuple[int, int], float]] = {
    f"Reptile + transduction ({REPTILE})": {(5, 1): 0.9768, (5, 5): 0.9948, (20, 1): 0.8943, (20, 5): 0.9712},
    f"Reptile ({REPTILE})": {(5, 1): 0.9539, (5, 5): 0.9890, (20, 1): 0.8814, (20, 5): 0.9665},
}


# Mishra et al. (2018) give the network. The numbers of tasks, and the schedule, were chosen for this package.
SNAIL_TABLE: dict[str, dict[tuple[int, int], float]] = {
    "SNAIL (Mishra et al. 2018)": {(5, 1): 0.9907, (5, 5): 0.9978, (20, 1): 0.9764, (20, 5): 0.9936},
}


# The division into training and held-out characters is an earlier one than that of other papers.
META_NETWORK_TABLE: dict[str, dict[tuple[int, int], float]] = {
    "Meta Network (Munkhdalai & Yu 2017)": {(5, 1): 0.9895, (20, 1): 0.97},
}


def meta_network_settings(ways: int, shots: int) -> dict[str, Any]:
    """Return the settings of the code of Munkhdalai & Yu (2017): one task per iteration, 10 queries of a class.

    The iterations here are 1,000 of their 100,000 epochs of 100 tasks.
    """
    counts = {"ways": ways, "shots": shots, "heldout_shots": shots, "queries": 10}
    return {"iterations": 100000, "tasks": 1, "final_learning_rate_fraction": 1.0, **counts}


def snail_settings(ways: int, shots: int) -> dict[str, Any]:
    """Return the settings of SNAIL, with one query of each class. Each query is predicted independently."""
    return {"iterations": 60000, "ways": ways, "shots": shots, "heldout_shots": shots}


class Kind(NamedTuple):
    """A named method: an algorithm with its network and settings."""

    title: str
    algorithm: str
    network: str
    settings: Callable[[int, int], dict[str, Any]]
    """``(ways, shots) ->`` settings."""
    of_omniglot: Mapping[str, Any]
    """Further settings on Omniglot."""
    published: Mapping[str, Mapping[tuple[int, int], float]]


KINDS = {
    "maml": Kind("MAML", "maml", "convolutional", maml_settings, {}, MAML_TABLE),
    # In the code of Nichol et al. (2018), held-out characters are not rotated.
    "reptile": Kind(
        "Reptile", "reptile", "convolutional", reptile_settings, {"heldout_rotations": False}, REPTILE_TABLE
    ),
    "snail": Kind("SNAIL", "in_context", "snail", snail_settings, {}, SNAIL_TABLE),
    "meta-network": Kind("Meta Network", "in_context", "meta-network", meta_network_settings, {}, META_NETWORK_TABLE),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for name, kind in KINDS.items():
        for ways, shots in ((5, 1), (5, 5), (20, 1), (20, 5)):
            published = {
                learner: table[ways, shots] for learner, table in kind.published.items() if (ways, shots) in table
            }
            examples = f"{shots} example{'s' * (shots > 1)} of each"
            yield _experiment(
                f"{name}-omniglot-{ways}x{shots}",
                f"{kind.title} on Omniglot, {ways} classes, {examples}",
                kind,
                "omniglot",
                {**kind.settings(ways, shots), **kind.of_omniglot},
                published,
            )
    for name, kind in KINDS.items():
        yield _experiment(
            f"{name}-glyphs-5x1",
            f"{kind.title} on synthetic glyphs (no download), 5 classes, 1 example of each",
            kind,
            "glyphs",
            kind.settings(5, 1),
            {},
        )


def _experiment(
    name: str, description: str, kind: Kind, family: str, settings: dict[str, Any], published: dict[str, float]
) -> Experiment:
    made = experiment(
        name=name,
        description=description,
        algorithm=kind.algorithm,
        family=family,
        network=kind.network,
        settings=settings,
        tuned=True,
        paper=published,
        # The first learner of each table is the same method; Reptile also normalises over the queries of a task.
        same_method=next(iter(published), None),
    )
    # The reported and published score is that of the last stage.
    measure = made.measure
    last = settings[measure.setting] if measure.setting else measure.first_stage
    by_stage = {learner: {last: score} for learner, score in published.items()}
    return dataclasses.replace(made, paper_by_stage=by_stage)
