"""Few-shot classification of images: MAML, Reptile, SNAIL and the Meta Network on Omniglot, and on made-up glyphs.

Published numbers: accuracies of Finn et al. (2017), Nichol et al. (2018), Mishra et al. (2018) and Munkhdalai & Yu
(2017). Settings that papers leave open are those of their authors' code, and marked so, or chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metarl_jax.experiments.base import ACCURACY_BY_STEP, ACCURACY_IN_CONTEXT, Experiment, Measure, Problem

if TYPE_CHECKING:
    from metarl_jax.interfaces.few_shot import FewShot, InContextProblem
    from metarl_jax.interfaces.gradient import InnerProblem, Predictor
    from metarl_jax.oracles.base import Oracle

IMAGE_SHAPE = (28, 28, 1)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Settings of few-shot classification, whatever the images and whoever learns."""

    ways: int = 5
    """Classes of a task."""
    shots: int = 1
    """Examples of a class to adapt on, in training."""
    queries: int = 1
    """Examples of a class that adaptation is judged on, in training."""
    heldout_shots: int = 1
    """Examples of a class to adapt on, of a held-out or validation task."""
    heldout_queries: int = 1
    """Examples of a class that adaptation is judged on, of a held-out or validation task."""

    def make(self, family: Any) -> InnerProblem | InContextProblem:
        """The problem, of what makes the families of tasks.

        Raises:
            ValueError: for a setting out of range, or data that are not there or damaged.
        """
        from metarl_jax.checks import check_fields, positive_int

        counts = ("ways", "shots", "queries", "heldout_shots", "heldout_queries")
        check_fields(self, **dict.fromkeys(counts, positive_int))
        return self.problem(*self.families(family))

    def families(self, family: Any) -> tuple[FewShot, FewShot]:
        """Of training tasks and of held-out ones."""
        raise NotImplementedError

    def problem(self, family: FewShot, heldout: FewShot) -> InnerProblem | InContextProblem:
        """The problem that they are to a learner."""
        raise NotImplementedError

    def steps_per_iteration(self, family: Any, config: Any) -> int:
        """Tasks that one seed meets in one meta-iteration."""
        del family
        return config.tasks


@dataclass(frozen=True, kw_only=True)
class Glyphs(Classification):
    """Settings of made-up glyphs."""

    def families(self, family: Callable[[int, int, int], FewShot]) -> tuple[FewShot, FewShot]:
        """Of a function of ways, shots and queries."""
        return (
            family(self.ways, self.shots, self.queries),
            family(self.ways, self.heldout_shots, self.heldout_queries),
        )


@dataclass(frozen=True, kw_only=True)
class Omniglot(Classification):
    """Settings of Omniglot."""

    data_dir: str = "data"
    """The folder that omniglot.npz is in; metarl_jax.datasets.omniglot.download puts it there."""
    rotations: bool = True
    """Whether characters turned by 90, 180 and 270 degrees are classes of their own, in training."""
    heldout_rotations: bool = True
    """The same, of held-out and validation tasks."""

    def families(self, family: Callable[[str], Callable[..., FewShot]]) -> tuple[FewShot, FewShot]:
        """Of a function of the folder that gives one of ways, shots, queries and rotations."""
        few_shot = family(self.data_dir)
        return (
            few_shot(self.ways, self.shots, self.queries, rotations=self.rotations),
            few_shot(self.ways, self.heldout_shots, self.heldout_queries, rotations=self.heldout_rotations),
        )


@dataclass(frozen=True, kw_only=True)
class Descent(Classification):
    """Settings of learners that descend on a task's loss."""

    batch_size: int = 0
    """Examples that one inner step sees in training; 0: all."""
    heldout_batch_size: int = 0
    """Examples that one inner step sees on a held-out or validation task; 0: all."""
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
        natural_int("heldout_batch_size", self.heldout_batch_size)
        return problems.few_shot(
            family,
            self.predictor(),
            problems.FewShotSettings(
                batch_size=self.batch_size or None,
                heldout_batch_size=self.heldout_batch_size or None,
                transductive=self.transductive,
            ),
            heldout=heldout,
        )


@dataclass(frozen=True, kw_only=True)
class SNAILReading(Classification):
    """Settings of SNAIL that reads a task's examples (``networks.snail``)."""

    key_size: int = 64
    """Of the first attention; of the second and third 4 and 8 times it (64, 256, 512 in Mishra et al. 2018). Between
    them are blocks of temporal convolutions."""
    value_size: int = 32
    """The same (32, 128, 256 in Mishra et al. 2018)."""
    filters: int = 128
    """Features that each temporal convolution adds (128 in Mishra et al. 2018)."""
    embedding_size: int = 64
    """Rectified units that see what convolutions make of an image (64 in Mishra et al. 2018)."""
    image_filters: int = 64
    """Of each convolution over an image (64 in Mishra et al. 2018)."""
    image_blocks: int = 4
    """Convolutions over an image, each of which halves height and width (4 in Mishra et al. 2018)."""
    pooling: bool = True
    """Whether they do so by pooling (published) or, in a quarter of the time, by strides of 2."""

    def problem(self, family: FewShot, heldout: FewShot) -> InContextProblem:
        """The problem of training tasks and held-out ones.

        Raises:
            ValueError: for a setting out of range.
        """
        from metarl_jax import problems
        from metarl_jax.checks import positive_int
        from metarl_jax.networks import snail

        sizes = positive_int("key_size", self.key_size), positive_int("value_size", self.value_size)
        learner = snail.in_context_learner(
            IMAGE_SHAPE,
            self.ways,
            classes=True,
            window=self.ways * max(self.shots, self.heldout_shots) + 1,
            attentions=[(sizes[0] * n, sizes[1] * n) for n in (1, 4, 8)],
            filters=self.filters,
            embedding_size=self.embedding_size,
            image_filters=self.image_filters,
            image_blocks=self.image_blocks,
            pooling=self.pooling,
        )
        return problems.in_context(family, learner, heldout=heldout)


@dataclass(frozen=True, kw_only=True)
class MetaNetworkReading(Classification):
    """Settings of the Meta Network (``networks.meta_network``; defaults: the code of Munkhdalai & Yu 2017)."""

    filters: int = 64
    """Of each convolution."""
    blocks: int = 5
    """Convolutions, each of which halves height and width, rounded up."""
    hidden_size: int = 64
    """Of the layer behind them, and of keys."""
    generator_size: int = 20
    """Units of each layer of the networks that make fast weights."""
    steps: int = 5
    """Parts of the support, of equal size, whose gradients one after another become task-level fast weights."""

    def problem(self, family: FewShot, heldout: FewShot) -> InContextProblem:
        """The problem of training tasks and held-out ones.

        Raises:
            ValueError: for a setting out of range.
        """
        from metarl_jax import problems
        from metarl_jax.networks import meta_network

        learner = meta_network.in_context_learner(
            IMAGE_SHAPE,
            self.ways,
            filters=self.filters,
            blocks=self.blocks,
            hidden_size=self.hidden_size,
            generator_size=self.generator_size,
            steps=self.steps,
        )
        for shots in (self.shots, self.heldout_shots):
            if self.ways * shots % self.steps:
                raise ValueError(
                    f"steps ({self.steps}) must divide the support, of {self.ways * shots} examples, into equal parts"
                )
        return problems.in_context(family, learner, heldout=heldout)


@dataclass(frozen=True, kw_only=True)
class GlyphsByDescent(Descent, Glyphs):
    """Settings of descent on made-up glyphs."""


@dataclass(frozen=True, kw_only=True)
class OmniglotByDescent(Descent, Omniglot):
    """Settings of descent on Omniglot."""


@dataclass(frozen=True, kw_only=True)
class GlyphsBySNAIL(SNAILReading, Glyphs):
    """Settings of SNAIL on made-up glyphs."""


@dataclass(frozen=True, kw_only=True)
class OmniglotBySNAIL(SNAILReading, Omniglot):
    """Settings of SNAIL on Omniglot."""


@dataclass(frozen=True, kw_only=True)
class GlyphsByMetaNetwork(MetaNetworkReading, Glyphs):
    """Settings of the Meta Network on made-up glyphs."""


@dataclass(frozen=True, kw_only=True)
class OmniglotByMetaNetwork(MetaNetworkReading, Omniglot):
    """Settings of the Meta Network on Omniglot."""


def _omniglot() -> Callable[[str], Callable[..., FewShot]]:
    from functools import partial

    from metarl_jax.datasets import omniglot

    return lambda data_dir: partial(omniglot.few_shot, omniglot.load(data_dir))


def _glyphs() -> Callable[[int, int, int], FewShot]:
    from metarl_jax.datasets import glyphs

    return glyphs.make


def _oracles(problem: Problem, steps: int) -> Sequence[Oracle]:
    from metarl_jax.oracles import from_scratch, nearest_example

    if problem.in_context_problem is not None:
        return [nearest_example.make(problem.in_context_problem)]
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


# Mishra et al. (2018) give the network; the numbers of tasks, and the schedule, are chosen here.
SNAIL_TABLE: dict[str, dict[tuple[int, int], float]] = {
    "SNAIL (Mishra et al. 2018)": {(5, 1): 0.9907, (5, 5): 0.9978, (20, 1): 0.9764, (20, 5): 0.9936},
}


# On an earlier division into training and held-out characters than that of other papers.
META_NETWORK_TABLE: dict[str, dict[tuple[int, int], float]] = {
    "Meta Network (Munkhdalai & Yu 2017)": {(5, 1): 0.9895, (20, 1): 0.97},
}


def meta_network_settings(ways: int, shots: int) -> dict[str, Any]:
    """As the code of Munkhdalai & Yu (2017): one task at a time, 10 queries of a class.

    Of their 100,000 epochs of 100 tasks, 1,000 are done here.
    """
    counts = {"ways": ways, "shots": shots, "heldout_shots": shots, "queries": 10}
    return {"iterations": 100000, "tasks": 1, "final_learning_rate_fraction": 1.0, **counts}


def snail_settings(ways: int, shots: int) -> dict[str, Any]:
    """A query of each class, read by itself."""
    return {"iterations": 60000, "ways": ways, "shots": shots, "heldout_shots": shots}


class Kind(NamedTuple):
    """An algorithm, with what makes a named method of it."""

    title: str
    algorithm: str
    settings: Callable[[int, int], dict[str, Any]]
    """Of ways and shots."""
    of_omniglot: Mapping[str, Any]
    """Settings besides, on Omniglot."""
    published: Mapping[str, Mapping[tuple[int, int], float]]
    omniglot: type[Omniglot]
    glyphs: type[Glyphs]
    measure: Measure


KINDS = {
    "maml": Kind("MAML", "maml", maml_settings, {}, MAML_TABLE, OmniglotByDescent, GlyphsByDescent, ACCURACY_BY_STEP),
    # In their code, held-out characters are not turned.
    "reptile": Kind(
        "Reptile",
        "reptile",
        reptile_settings,
        {"heldout_rotations": False},
        REPTILE_TABLE,
        OmniglotByDescent,
        GlyphsByDescent,
        ACCURACY_BY_STEP,
    ),
    "snail": Kind(
        "SNAIL",
        "in_context",
        snail_settings,
        {},
        SNAIL_TABLE,
        OmniglotBySNAIL,
        GlyphsBySNAIL,
        ACCURACY_IN_CONTEXT,
    ),
    "meta-network": Kind(
        "Meta Network",
        "in_context",
        meta_network_settings,
        {},
        META_NETWORK_TABLE,
        OmniglotByMetaNetwork,
        GlyphsByMetaNetwork,
        ACCURACY_IN_CONTEXT,
    ),
}


def experiments() -> Iterator[Experiment]:
    """Every preset of this file."""
    for name, kind in KINDS.items():
        for ways, shots in ((5, 1), (5, 5), (20, 1), (20, 5)):
            published = {
                learner: cells[ways, shots] for learner, cells in kind.published.items() if (ways, shots) in cells
            }
            yield _experiment(
                f"{name}-omniglot-{ways}x{shots}",
                f"{kind.title} on Omniglot, {ways} classes, {shots} example{'s' * (shots > 1)} of each",
                kind,
                {**kind.settings(ways, shots), **kind.of_omniglot},
                family=_omniglot,
                network=kind.omniglot,
                published=published,
            )
    for name, kind in KINDS.items():
        yield _experiment(
            f"{name}-glyphs-5x1",
            f"{kind.title} on made-up glyphs (no download), 5 classes, 1 example of each",
            kind,
            kind.settings(5, 1),
            family=_glyphs,
            network=kind.glyphs,
            published={},
        )


def _experiment(
    name: str,
    description: str,
    kind: Kind,
    settings: dict[str, Any],
    *,
    family: Callable[[], Any],
    network: type[Classification],
    published: dict[str, float],
) -> Experiment:
    # The stage that is reported, and published: the last.
    last = settings[kind.measure.setting] if kind.measure.setting else kind.measure.first_stage
    return Experiment(
        name=name,
        description=description,
        algorithm=kind.algorithm,
        family=family,
        network=network,
        settings=settings,
        measure=kind.measure,
        unit="tasks",
        heldout_tasks=1000,
        validation_tasks=200,
        heldout_batch=50,
        oracles=_oracles,
        paper=published,
        paper_by_stage={learner: {last: score} for learner, score in published.items()},
    )
