"""Few-shot classification of images: MAML and Reptile on Omniglot, and on made-up glyphs.

Published numbers: accuracies of Finn et al. (2017) and Nichol et al. (2018). Settings that those papers leave open are
those of their authors' code, and marked so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metarl_jax.experiments.base import ACCURACY_BY_STEP, Experiment, Problem

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import FewShot, InnerProblem, Predictor

IMAGE_SHAPE = (28, 28, 1)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Settings of few-shot classification, whatever the images."""

    ways: int = 5
    """Classes of a task."""
    shots: int = 1
    """Examples of a class to adapt on, in training."""
    queries: int = 1
    """Examples of a class that adaptation is judged on, in training."""
    heldout_shots: int = 1
    """Examples of a class to adapt on, of a held-out task."""
    heldout_queries: int = 1
    """Examples of a class that adaptation is judged on, of a held-out task."""
    batch_size: int = 0
    """Examples that one inner step sees in training; 0: all."""
    heldout_batch_size: int = 0
    """Examples that one inner step sees on a held-out task; 0: all."""
    transductive: bool = True
    """Whether the examples of a query are normalised as one batch; if not, each alone beside the support."""
    architecture: Literal["convolutional", "mlp"] = "convolutional"
    """Of the network: strided convolutions, or layers of 256, 128, 64 and 64 units."""
    filters: int = 64
    """Of each convolution."""
    blocks: int = 4
    """Convolutions, each of which halves height and width."""
    features: Literal["average", "all"] = "average"
    """What the linear layer sees of the last convolution: each filter's mean over the image, or the whole map."""

    def check(self) -> None:
        """Raise ValueError naming the first number of classes or examples that is not positive and whole."""
        from metarl_jax.checks import check_fields, positive_int

        counts = ("ways", "shots", "queries", "heldout_shots", "heldout_queries")
        check_fields(self, **dict.fromkeys(counts, positive_int))

    def predictor(self) -> Predictor:
        """The network.

        Raises:
            ValueError: for an unknown name, or a size that is not a positive whole number.
        """
        from metarl_jax.checks import choice
        from metarl_jax.networks import convolutional, mlp

        if choice("convolutional", "mlp")("architecture", self.architecture) == "mlp":
            height, width, channels = IMAGE_SHAPE
            return mlp.classifier(height * width * channels, self.ways)
        return convolutional.classifier(
            IMAGE_SHAPE, self.ways, filters=self.filters, blocks=self.blocks, features=self.features
        )

    def problem(self, family: FewShot, heldout: FewShot) -> InnerProblem:
        """The problem of training tasks and held-out ones.

        Raises:
            ValueError: for a setting out of range.
        """
        from metarl_jax import problems
        from metarl_jax.checks import natural_int

        natural_int("batch_size", self.batch_size)
        everything = self.ways * self.heldout_shots
        return problems.few_shot(
            family,
            self.predictor(),
            heldout=heldout,
            batch_size=self.batch_size or None,
            heldout_batch_size=natural_int("heldout_batch_size", self.heldout_batch_size) or everything,
            transductive=self.transductive,
        )

    def steps_per_iteration(self, family: Any, config: Any) -> int:
        """Tasks that one seed meets in one meta-iteration."""
        del family
        return config.tasks


@dataclass(frozen=True, kw_only=True)
class GlyphClassification(Classification):
    """Settings of few-shot classification of made-up glyphs."""

    def make(self, family: Callable[[int, int, int], FewShot]) -> InnerProblem:
        """The problem, of a function of ways, shots and queries.

        Raises:
            ValueError: for a setting out of range.
        """
        self.check()
        return self.problem(
            family(self.ways, self.shots, self.queries),
            family(self.ways, self.heldout_shots, self.heldout_queries),
        )


@dataclass(frozen=True, kw_only=True)
class OmniglotClassification(Classification):
    """Settings of few-shot classification of Omniglot."""

    data_dir: str = "data"
    """The folder that omniglot.npz is in; metarl_jax.datasets.omniglot.download puts it there."""
    rotations: bool = True
    """Whether characters turned by 90, 180 and 270 degrees are classes of their own, in training."""
    heldout_rotations: bool = True
    """The same, of held-out tasks."""

    def make(self, family: Callable[[str], Callable[..., FewShot]]) -> InnerProblem:
        """The problem, of a function of the folder that gives one of ways, shots, queries and rotations.

        Raises:
            ValueError: for a setting out of range, or data that are not there or damaged.
        """
        self.check()
        few_shot = family(self.data_dir)
        return self.problem(
            few_shot(self.ways, self.shots, self.queries, rotations=self.rotations),
            few_shot(self.ways, self.heldout_shots, self.heldout_queries, rotations=self.heldout_rotations),
        )


def _omniglot() -> Callable[[str], Callable[..., FewShot]]:
    from functools import partial

    from metarl_jax.datasets import omniglot

    return lambda data_dir: partial(omniglot.few_shot, omniglot.load(data_dir))


def _glyphs() -> Callable[[int, int, int], FewShot]:
    from metarl_jax.datasets import glyphs

    return glyphs.make


def _oracles(problem: Problem, steps: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import from_scratch

    assert problem.inner_problem is not None
    return [from_scratch.adam(problem.inner_problem, steps, 0.001)]


def maml_settings(ways: int, shots: int) -> dict[str, Any]:
    """As Finn et al. (2017); as many queries as shots, as in their code."""
    steps: dict[str, Any] = (
        {"tasks": 32, "inner_steps": 1, "inner_rate": 0.4, "adaptation_steps": 3}
        if ways == 5
        else {"tasks": 16, "inner_steps": 5, "inner_rate": 0.1, "adaptation_steps": 5}
    )
    counts = {"shots": shots, "queries": shots, "heldout_shots": shots, "heldout_queries": shots}
    return {"iterations": 60000, "ways": ways, **counts, **steps}


def reptile_settings(ways: int, shots: int) -> dict[str, Any]:
    """As Nichol et al. (2018); one query of each class and the network's last layer as in their code."""
    steps: dict[str, Any] = (
        {"iterations": 100000, "inner_rate": 1e-3, "inner_steps": 5, "batch_size": 10, "heldout_batch_size": 5}
        if ways == 5
        else {"iterations": 200000, "inner_rate": 5e-4, "inner_steps": 10, "batch_size": 20, "heldout_batch_size": 10}
    )
    counts = {"shots": 10, "heldout_shots": shots}
    return {"tasks": 5, "adaptation_steps": 50, "ways": ways, "features": "all", **counts, **steps}


MAML, REPTILE = "Finn et al. 2017", "Nichol et al. 2018"
# By (ways, shots): the accuracy after as many gradient steps as the settings have.
MAML_TABLE: dict[str, dict[tuple[int, int], float]] = {
    f"MAML ({MAML})": {(5, 1): 0.987, (5, 5): 0.999, (20, 1): 0.958, (20, 5): 0.989},
    f"MAML without convolutions ({MAML})": {(5, 1): 0.897, (5, 5): 0.975},
}
REPTILE_TABLE: dict[str, dict[tuple[int, int], float]] = {
    f"Reptile + transduction ({REPTILE})": {(5, 1): 0.9768, (5, 5): 0.9948, (20, 1): 0.8943, (20, 5): 0.9712},
    f"Reptile ({REPTILE})": {(5, 1): 0.9539, (5, 5): 0.9890, (20, 1): 0.8814, (20, 5): 0.9665},
}


class Method(NamedTuple):
    """An algorithm, with what makes a named method of it."""

    title: str
    settings: Callable[[int, int], dict[str, Any]]
    """Of ways and shots."""
    of_omniglot: Mapping[str, Any]
    """Settings besides, on Omniglot."""
    published: Mapping[str, Mapping[tuple[int, int], float]]


METHODS = {
    "maml": Method("MAML", maml_settings, {}, MAML_TABLE),
    # In their code, held-out characters are not turned.
    "reptile": Method("Reptile", reptile_settings, {"heldout_rotations": False}, REPTILE_TABLE),
}


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, method in METHODS.items():
        for ways, shots in ((5, 1), (5, 5), (20, 1), (20, 5)):
            published = {
                learner: cells[ways, shots] for learner, cells in method.published.items() if (ways, shots) in cells
            }
            yield _experiment(
                f"{name}-omniglot-{ways}x{shots}",
                f"{method.title} on Omniglot, {ways} classes, {shots} example{'s' * (shots > 1)} of each",
                name,
                {**method.settings(ways, shots), **method.of_omniglot},
                family=_omniglot,
                network=OmniglotClassification,
                published=published,
            )
    for name, method in METHODS.items():
        yield _experiment(
            f"{name}-glyphs-5x1",
            f"{method.title} on made-up glyphs (no download), 5 classes, 1 example of each",
            name,
            method.settings(5, 1),
            family=_glyphs,
            network=GlyphClassification,
            published={},
        )


def _experiment(
    name: str,
    description: str,
    algorithm: str,
    settings: dict[str, Any],
    *,
    family: Callable[[], Any],
    network: type[GlyphClassification | OmniglotClassification],
    published: dict[str, float],
) -> Experiment:
    return Experiment(
        name=name,
        description=description,
        algorithm=algorithm,
        family=family,
        network=network,
        settings=settings,
        measure=ACCURACY_BY_STEP,
        unit="tasks",
        heldout_tasks=1000,
        heldout_tasks_in_training=200,
        heldout_batch=50,
        oracles=_oracles,
        paper=published,
        paper_by_stage={learner: {settings["adaptation_steps"]: score} for learner, score in published.items()},
    )
