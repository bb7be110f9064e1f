"""``Experiment``: everything a run needs besides a seed. Importing this imports no JAX; building does."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metarl_jax.checks import did_you_mean

if TYPE_CHECKING:
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import Algorithm, EnvFamily, Policy


@dataclass(frozen=True, kw_only=True)
class RecurrentNetwork:
    """Settings of the recurrent actor-critic (``networks.recurrent``)."""

    cell: Literal["gru", "lstm"] = "gru"
    """The memory's kind."""
    hidden_size: int = 256
    """Units of the memory (256 in Duan et al. 2016)."""
    embedding_size: int = 64
    """Rectified units between the inputs and the memory; 0 for none. Chosen here, on tasks that no
    reported result uses."""
    readout_size: int = 0
    """Rectified units between the memory, beside the embedded inputs, and the heads; 0 for none."""
    previous_observation: bool = False
    """Whether the network also sees the previous observation, in which the previous action was taken."""

    def make(self, family: EnvFamily) -> Policy:
        """The policy for a family of tasks.

        Raises:
            ValueError: for an unknown cell, or a size that is not a positive whole number (of the embedding and
                the readout: or 0).
        """
        from metarl_jax.networks import recurrent

        return recurrent.make(
            family.observation_space,
            family.action_space,
            cell=self.cell,
            hidden_size=self.hidden_size,
            embedding_size=self.embedding_size,
            readout_size=self.readout_size,
            previous_observation=self.previous_observation,
        )


class Field(NamedTuple):
    """One setting that a run can change."""

    annotation: Any
    default: Any
    """With the experiment's own settings applied."""
    description: str


class Problem(NamedTuple):
    """An experiment, built."""

    family: EnvFamily
    algorithm: Algorithm
    iterations: int
    """Meta-iterations of a whole run."""
    episodes: int
    """Adaptation episodes of a trial."""
    steps_per_iteration: int
    """Environment steps that one seed takes in one meta-iteration."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One preset. Settings not named here have the defaults of the algorithm's ``Config`` and of ``network``."""

    name: str
    description: str
    algorithm: str
    """The module in ``metarl_jax.algorithms`` that has ``Config``, ``validate`` and ``make``."""
    family: Callable[[], EnvFamily]
    network: type[RecurrentNetwork] = RecurrentNetwork
    """A dataclass whose ``make(family)`` gives the policy."""
    settings: Mapping[str, Any]
    """Fields of ``Config`` and ``network`` with values of this experiment's own."""
    oracles: Callable[[EnvFamily, int], Sequence[Oracle]] = lambda family, episodes: ()
    """``(family, episodes) ->`` the reference learners to measure against."""
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Published mean reward of a whole trial of ``settings["episodes"]`` episodes, by "learner (source)"."""
    optimum: float | None = None
    """The exact Bayes-optimal mean reward of such a trial, where known."""

    def _module(self) -> ModuleType:
        return importlib.import_module(f"metarl_jax.algorithms.{self.algorithm}")

    def fields(self) -> dict[str, Field]:
        """Every setting by name: the fields of the algorithm's ``Config``, then those of ``network``."""
        found: dict[str, Field] = {}
        for cls in (self._module().Config, self.network):
            hints, descriptions = typing.get_type_hints(cls), _descriptions(cls)
            for field in dataclasses.fields(cls):
                default = self.settings.get(field.name, field.default)
                found[field.name] = Field(hints[field.name], default, descriptions.get(field.name, ""))
        return found

    def with_overrides(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, with some of them overridden.

        Raises:
            ValueError: for the name of no setting; near ones are named.
        """
        settings = {name: field.default for name, field in self.fields().items()}
        for name in overrides:
            if name not in settings:
                raise ValueError(f"{self.name} has no setting {name!r}{did_you_mean(name, settings)}")
        return {**settings, **overrides}

    def build(self, settings: Mapping[str, Any]) -> Problem:
        """Make the algorithm on this experiment's tasks.

        Args:
            settings: all of them, as ``with_overrides`` returns them.

        Raises:
            ValueError: naming the first setting that is out of range.
        """
        module, family = self._module(), self.family()
        own = {field.name for field in dataclasses.fields(self.network)}
        config = module.Config(**{name: value for name, value in settings.items() if name not in own})
        module.validate(config)
        policy = self.network(**{name: value for name, value in settings.items() if name in own}).make(family)
        return Problem(
            family=family,
            algorithm=module.make(family, policy, config),
            iterations=config.iterations,
            episodes=config.episodes,
            steps_per_iteration=config.trials * config.episodes * family.horizon,
        )


def _descriptions(cls: type) -> dict[str, str]:
    """The strings that stand under the fields of a class, by field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
