"""Small trained learners that are part of the package, each with a card that says how it was made and what it scores.

``benchmarks/pretrained.py`` makes the files. This module does not import JAX before a learner is loaded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

from metarl_jax.checks import did_you_mean
from metarl_jax.runs.errors import UserError

if TYPE_CHECKING:
    from metarl_jax.agents import Agent
    from metarl_jax.few_shot_learner import FewShotLearner

FOLDER = Path(__file__).parent.parent / "pretrained_learners"
"""The folder of the files: for each learner NAME.safetensors with weights and settings, and NAME.json with the card."""
AgentName: TypeAlias = Literal["rl2-bandit-100x5", "snail-bandit-10x5", "varibad-gridnavi", "pearl-point-robot-dense"]
FewShotName: TypeAlias = Literal["maml-sinusoid", "maml-glyphs-5x1"]
NAMES: tuple[str, ...] = (*get_args(AgentName), *get_args(FewShotName))


@dataclass(frozen=True, kw_only=True)
class Card:
    """How a trained learner of the package was made, and what it scores on held-out tasks. ``print`` shows it."""

    name: str
    """The name of the learner."""
    description: str
    """The algorithm and the tasks, in one line."""
    command: str
    """The command that trains the learner."""
    steps: int
    """The number of environment steps, or of few-shot tasks, of training."""
    unit: str
    """The unit of ``steps``: "environment steps" or "tasks"."""
    training_seconds: float
    """The time of training in seconds. It is an upper bound, since other programs may have delayed it."""
    metric: str
    """The score that was measured."""
    score: float
    """The mean score over held-out tasks."""
    ci95: tuple[float, float]
    """The 95 % interval of the score over held-out tasks."""
    heldout_tasks: int
    """The number of held-out tasks."""
    references: Mapping[str, float]
    """The scores of learners that were not meta-trained, on the same tasks, by name."""
    published: Mapping[str, float]
    """The published score of the same method by its name; empty if there is none."""
    optimum: float | None
    """The exact Bayes-optimal score; None if it is not known."""
    bytes: int
    """The size of the file of weights and settings."""
    device: str
    """The device that trained the learner."""
    versions: Mapping[str, str]
    """The versions of Python and of packages, by name."""
    commit: str
    """The commit of the package that measured the score."""

    def __str__(self) -> str:
        """Return the card as lines of text."""
        low, high = self.ci95
        compared = {**self.references, **self.published}
        if self.optimum is not None:
            compared["exact optimum"] = self.optimum
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join(
            [
                f"{self.name}: {self.description}",
                f"{self.metric}: {self.score:.4g} ({low:.4g} to {high:.4g}) on {self.heldout_tasks:,} held-out tasks",
                *(f"  {name}: {score:.4g}" for name, score in compared.items()),
                f"{self.steps:,} {self.unit} in {self.training_seconds:.0f} s ({self.device})",
                f"command: {self.command}",
                f"{self.bytes / 1000:.0f} kB; {versions}; commit {self.commit}",
            ]
        )


def pretrained_cards() -> dict[str, Card]:
    """Return the cards of all trained learners of the package, by name.

    Example:
        >>> import metarl_jax as mrl
        >>> card = mrl.pretrained_cards()["maml-sinusoid"]
        >>> card.ci95[0] < card.score < card.ci95[1]  # the mean squared error on held-out tasks
        True
        >>> print(card.command)
        metarl-jax train maml-sinusoid
    """
    return {name: _card(name) for name in NAMES}


def _card(name: str) -> Card:
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Card(**{**content, "ci95": tuple(content["ci95"])})


def write_card(card: Card) -> None:
    """Write a card to its file."""
    text = json.dumps(dataclasses.asdict(card), indent=1, ensure_ascii=False, allow_nan=False)
    (FOLDER / f"{card.name}.json").write_text(text + "\n", encoding="utf-8")


@overload
def pretrained(name: AgentName) -> Agent: ...
@overload
def pretrained(name: FewShotName) -> FewShotLearner: ...
@overload
def pretrained(name: str) -> Agent | FewShotLearner: ...
def pretrained(name: str) -> Any:
    """Load a trained learner that is part of the package. It needs no network access and no extra.

    Args:
        name: one of ``pretrained_cards()``.

    Returns:
        The learner as ``load`` returns it: an ``Agent``; for few-shot tasks a ``FewShotLearner``.

    Raises:
        UserError: if there is no such learner.

    Example:
        >>> import metarl_jax as mrl
        >>> agent = mrl.pretrained("rl2-bandit-100x5")
        >>> action = agent.act([])  # a bandit has an empty observation
        >>> action = agent.act([], reward=1.0, done=True)  # the reward of the first pull, which ended an episode
    """
    if name not in NAMES:
        guess = did_you_mean(name, NAMES) if isinstance(name, str) else ""
        raise UserError(f"there is no trained learner {name!r}{guess}; there are {', '.join(NAMES)}")
    from metarl_jax.runs import agent_files

    return agent_files.load(FOLDER / f"{name}{agent_files.SUFFIX}")
