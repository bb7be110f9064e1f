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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from metarl_jax.checks import did_you_mean

if TYPE_CHECKING:
    from metarl_jax.interfaces.asymmetric import AsymmetricNetworks
    from metarl_jax.interfaces.belief import BeliefNetworks
    from metarl_jax.interfaces.context import ContextNetworks
    from metarl_jax.interfaces.few_shot import InContextProblem
    from metarl_jax.interfaces.gradient import InnerProblem
    from metarl_jax.oracles.base import Oracle
    from metarl_jax.types import Algorithm, Array, EnvFamily, Policy, Task, TaskDistribution


class Measure(NamedTuple):
    """What of a learner's scores on a task is reported, and what it is called."""

    title: str = "reward of a trial"
    stage: str = "episode"
    """What each score is of."""
    setting: str | None = "episodes"
    """The setting that says how many of them there are; None: there is one."""
    first_stage: int = 1
    """The number of the first score; 0 where it is of no adaptation."""
    total: bool = True
    """Whether the sum of the scores is reported, or the last one."""
    higher_is_better: bool = True
    training_metric: str = "trial_reward"
    """The metric of training that shows the same."""

    def headline(self, scores: Any) -> Any:
        """``[..., E] -> [...]``."""
        return scores.sum(axis=-1) if self.total else scores[..., -1]


REWARD_OF_TRIAL = Measure()
RETURN_BY_EPISODE = Measure(
    "return of the last episode", "episode", "adaptation_episodes", 1, False, True, "posterior_return"
)
RETURN_BY_STEP = Measure("return of an episode", "gradient step", "adaptation_steps", 0, False, True, "score")
ACCURACY_BY_STEP = RETURN_BY_STEP._replace(title="accuracy")
ERROR_BY_STEP = RETURN_BY_STEP._replace(title="mean squared error", higher_is_better=False)
ACCURACY_IN_CONTEXT = ACCURACY_BY_STEP._replace(stage="reading", setting=None, first_stage=1)
ERROR_IN_CONTEXT = ACCURACY_IN_CONTEXT._replace(title="mean squared error", higher_is_better=False)


class Method(NamedTuple):
    """An algorithm, with what makes a named method of it."""

    title: str
    algorithm: str
    settings: Mapping[str, Any] = {}


class TrialNetwork:
    """What the networks of learners that play trials share."""

    def steps_per_iteration(self, family: EnvFamily, config: Any) -> int:
        """Environment steps that one seed takes in one meta-iteration."""
        return config.trials * config.episodes * family.horizon


@dataclass(frozen=True, kw_only=True)
class RecurrentNetwork(TrialNetwork):
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


@dataclass(frozen=True, kw_only=True)
class FastWeightNetwork(TrialNetwork):
    """Settings of the actor-critic whose memory is a matrix (``networks.fast_weights``)."""

    embedding_size: int = 192
    """Rectified units between the inputs and the memory."""
    key_size: int = 32
    """Rows of the memory."""
    value_size: int = 64
    """Columns of the memory."""
    readout_size: int = 64
    """Rectified units between what is read and the heads."""

    def make(self, family: EnvFamily) -> Policy:
        """The policy for a family of tasks.

        Raises:
            ValueError: for a size that is not a positive whole number.
        """
        from metarl_jax.networks import fast_weights

        return fast_weights.make(
            family.observation_space,
            family.action_space,
            embedding_size=self.embedding_size,
            key_size=self.key_size,
            value_size=self.value_size,
            readout_size=self.readout_size,
        )


@dataclass(frozen=True, kw_only=True)
class SNAILNetwork(TrialNetwork):
    """Settings of SNAIL (``networks.snail``)."""

    window: int = 100
    """How many steps of a trial it looks back at; a block's convolutions together cover them."""
    blocks: int = 2
    """Of temporal convolutions, before the last attention (2 in Mishra et al. 2018)."""
    embedding_size: int = 32
    """Rectified units that see the inputs (32 in Mishra et al. 2018)."""
    filters: int = 32
    """Features that each convolution adds (32 in Mishra et al. 2018)."""
    key_size: int = 32
    """Of an attention (32 in Mishra et al. 2018)."""
    value_size: int = 32
    """Of an attention (32 in Mishra et al. 2018)."""
    attention_first: bool = False
    """Whether there is one before the blocks too (in Mishra et al. 2018 few-shot learning has it, RL has not)."""

    def make(self, family: EnvFamily) -> Policy:
        """The policy for a family of tasks.

        Raises:
            ValueError: for a size that is not a positive whole number.
        """
        from metarl_jax.networks import snail

        return snail.make(family.observation_space, family.action_space, **dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class AsymmetricSNAILNetwork(SNAILNetwork):
    """Settings of SNAIL with a critic of a bandit's arms beside it (``networks.arms``)."""

    critic_units: int = 64
    """Units of each of the critic's layers."""

    def make(self, family: EnvFamily) -> AsymmetricNetworks:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The policy and its critic for a family of bandits.

        Raises:
            ValueError: for a size that is not a positive whole number, or a family of anything else.
        """
        from metarl_jax.interfaces.asymmetric import AsymmetricNetworks
        from metarl_jax.networks import arms, snail

        if family.privileged is None or family.privileged.arm is None:
            raise ValueError(
                "a privileged critic is for bandits whose arms pay finitely many rewards (EnvFamily.privileged.arm)"
            )
        own = {name: getattr(self, name) for name in _names(SNAILNetwork)}
        policy = snail.make(family.observation_space, family.action_space, **own, critic=False)
        return AsymmetricNetworks(policy, arms.make(family.privileged.arm, units=self.critic_units))


@dataclass(frozen=True, kw_only=True)
class TransformerNetwork(TrialNetwork):
    """Settings of the gated transformer (``networks.transformer``)."""

    window: int = 100
    """How many steps of a trial a layer looks back at."""
    layers: int = 2
    """Of attention and rectified units."""
    size: int = 64
    """Of what passes from layer to layer."""
    heads: int = 4
    """Of each attention."""
    positions: Literal["rotary", "learned"] = "rotary"
    """How a layer knows when things were: by distance, or by a learned vector for each step of a trial."""

    def make(self, family: EnvFamily) -> Policy:
        """The policy for a family of tasks.

        Raises:
            ValueError: for a size that is not a positive whole number, heads that do not divide it, or an unknown name.
        """
        from metarl_jax.networks import transformer

        return transformer.make(family.observation_space, family.action_space, **dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class MetaNetworkMemory(TrialNetwork):
    """Settings of the Meta Network's fast weights as a memory (``networks.meta_network``); the paper has none."""

    window: int = 100
    """How many steps of a trial it looks up."""
    embedding_size: int = 32
    """Rectified units that see an observation and an action."""
    hidden_size: int = 32
    """Units of the layer that fast weights augment."""
    key_size: int = 16
    """Of the representation by which steps are looked up."""
    readout_size: int = 64
    """Rectified units between what is foretold and the heads."""
    generator_size: int = 8
    """Units of each layer of the generators of fast weights (20 in Munkhdalai & Yu 2017)."""

    def make(self, family: EnvFamily) -> Policy:
        """The policy for a family of tasks.

        Raises:
            ValueError: for a size that is not a positive whole number.
        """
        from metarl_jax.networks import meta_network

        return meta_network.make(family.observation_space, family.action_space, **dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class LinearRecurrentNetwork(TrialNetwork):
    """Settings of the linear recurrent memory (``networks.linear_recurrence``)."""

    layers: int = 2
    """Of memory and gated units."""
    size: int = 64
    """Of what passes from layer to layer."""
    hidden_size: int = 64
    """Complex numbers that a layer remembers."""
    least_memory: float = 2.0
    """How many steps the shortest memory lasts at the start of training."""
    longest_memory: float = 1000.0
    """How many steps the longest memory lasts at the start of training."""

    def make(self, family: EnvFamily) -> Policy:
        """The policy for a family of tasks.

        Raises:
            ValueError: for a size that is not a positive whole number, or spans out of order.
        """
        from metarl_jax.networks import linear_recurrence

        return linear_recurrence.make(family.observation_space, family.action_space, **dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class ContextNetwork:
    """Settings of PEARL's networks (``networks.context``; defaults: the code of Rakelly et al. 2019)."""

    latent_size: int = 5
    """Numbers of the latent variable."""
    encoder_units: int = 200
    """Rectified units of each of the encoder's layers."""
    units: int = 300
    """Rectified units of each layer of the actor and of each critic."""
    layers: int = 3
    """Of each network, before the last."""
    next_observation: bool = False
    """Whether the encoder sees where a step led."""

    def make(self, family: EnvFamily) -> ContextNetworks:
        """The networks for a family of tasks.

        Raises:
            ValueError: for a size that is not a positive whole number, or actions that are neither discrete nor vectors
                between finite bounds.
        """
        from metarl_jax.checks import positive_int
        from metarl_jax.networks import context

        spaces, layers = (family.observation_space, family.action_space), positive_int("layers", self.layers)
        encoder = context.encoder(
            *spaces,
            latent_size=self.latent_size,
            hidden_sizes=(self.encoder_units,) * layers,
            next_observation=self.next_observation,
        )
        return context.make(*spaces, encoder, latent_size=self.latent_size, hidden_sizes=(self.units,) * layers)

    def steps_per_iteration(self, family: EnvFamily, config: Any) -> int:
        """Environment steps that one seed takes in one meta-iteration (those before the first one come on top)."""
        return config.tasks * (config.prior_episodes + config.posterior_episodes) * family.horizon


@dataclass(frozen=True, kw_only=True)
class StepBeliefNetwork(TrialNetwork):
    """Settings of VariBAD's networks where rewards are real numbers (defaults: Zintgraf et al. 2020 on MuJoCo)."""

    latent_size: int = 5
    """Numbers of the latent variable."""
    hidden_size: int = 128
    """Units of the encoder's memory."""
    embedding_size: int = 64
    """Rectified units between the inputs and the memory; 0 for none."""
    decoder_units: int = 64
    """Rectified units of the decoder's first layer; its second has half as many."""
    policy_units: int = 128
    """Units of each of the policy's two hidden layers."""
    decode_transitions: bool = False
    """Whether the decoder says where steps lead, too, and not only what they pay."""

    def make(self, family: EnvFamily) -> BeliefNetworks:
        """The networks for a family of tasks.

        Raises:
            ValueError: for a size that is not a positive whole number (of the embedding: or 0), or a
                decoder of less than two units.
        """
        from metarl_jax.networks import belief

        spaces = family.observation_space, family.action_space
        encoder = belief.encoder(
            *spaces, latent_size=self.latent_size, hidden_size=self.hidden_size, embedding_size=self.embedding_size
        )
        decoder = belief.step_decoder(
            *spaces,
            latent_size=self.latent_size,
            hidden_sizes=(self.decoder_units, self.decoder_units // 2),
            transitions=self.decode_transitions,
        )
        sizes = (self.policy_units, self.policy_units)
        return belief.make(*spaces, encoder, decoder, latent_size=self.latent_size, hidden_sizes=sizes)


class Network(Protocol):
    """A dataclass of settings of a network, and of what makes a problem of it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def make(
        self, family: Any
    ) -> Policy | InnerProblem | InContextProblem | BeliefNetworks | ContextNetworks | AsymmetricNetworks:
        """What the algorithm takes, for what ``Experiment.family`` returned; ValueError for settings out of range."""
        ...

    def steps_per_iteration(self, family: Any, config: Any) -> int:
        """What one seed takes in one meta-iteration, in the experiment's unit."""
        ...


class Field(NamedTuple):
    """One setting that a run can change."""

    annotation: Any
    default: Any
    """With the experiment's own settings applied."""
    description: str


class Problem(NamedTuple):
    """An experiment, built."""

    family: Any
    """What the experiment's ``family`` returned."""
    inner_problem: InnerProblem | None
    """Of gradient-based learners."""
    in_context_problem: InContextProblem | None
    """Of learners that read examples."""
    algorithm: Algorithm
    vary: Callable[[Mapping[str, Any]], Algorithm]
    """The algorithm with other values of settings that are numbers, which may be tracers: many in one program."""
    tasks: TaskDistribution
    optimal_return: Callable[[Task], Array] | None
    """As ``EnvFamily.optimal_return``; None where scores do not add up to a trial's."""
    iterations: int
    """Meta-iterations of a whole run."""
    stages: int
    """Adaptation episodes of a trial, or gradient steps."""
    steps_per_iteration: int
    """In the experiment's ``unit``, of one seed in one meta-iteration."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One preset. Settings not named here have the defaults of ``Config``, ``network`` and ``world``."""

    name: str
    description: str
    algorithm: str
    """The module in ``metarl_jax.algorithms`` that has ``Config``, ``validate`` and ``make``."""
    family: Callable[..., Any]
    """Returns an ``EnvFamily``, or whatever else ``network`` makes a problem of. Where there is a ``world``, it is
    given one, made from the settings."""
    world: type | None = None
    """A dataclass of settings of the tasks themselves, as of what computes them; None: there are none."""
    network: type[Network] = RecurrentNetwork
    """A dataclass of settings, whose ``make(family)`` gives a policy, the problem of a gradient-based learner, or the
    networks of one that has several."""
    measure: Measure = REWARD_OF_TRIAL
    unit: str = "environment steps"
    """What progress is counted in."""
    heldout_tasks: int = 20_000
    """Held-out tasks of the final table; in a study as many validation tasks besides."""
    validation_tasks: int = 512
    """Tasks of each validation during training; there are about twenty validations."""
    heldout_batch: int = 2048
    """Held-out or validation tasks measured at a time, which bounds memory."""
    settings: Mapping[str, Any]
    """Fields of ``Config``, ``network`` and ``world`` with values of this experiment's own."""
    oracles: Callable[[Problem, int], Sequence[Oracle]]
    """``(problem, stages) ->`` the reference learners to measure against."""
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Published value of what is reported, with as many stages as ``settings`` has, by "learner (source)"."""
    paper_by_stage: Mapping[str, Mapping[int, float]] = dataclasses.field(default_factory=dict)
    """Published scores by stage, by "learner (source)"."""
    optimum: float | None = None
    """The exact Bayes-optimal mean reward of a trial, where known."""

    def _module(self) -> ModuleType:
        return importlib.import_module(f"metarl_jax.algorithms.{self.algorithm}")

    def fields(self) -> dict[str, Field]:
        """Every setting by name: the fields of the algorithm's ``Config``, those of ``network``, those of ``world``."""
        found: dict[str, Field] = {}
        for cls in (self._module().Config, self.network, *([self.world] if self.world else [])):
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

    def make_family(self, settings: Mapping[str, Any]) -> Any:
        """What ``family`` returns.

        Args:
            settings: all of them, as ``with_overrides`` returns them.

        Raises:
            ValueError: naming a setting of the tasks that is out of range.
        """
        if self.world is None:
            return self.family()
        own = _names(self.world)
        return self.family(self.world(**{name: value for name, value in settings.items() if name in own}))

    def build(self, settings: Mapping[str, Any]) -> Problem:
        """Make the algorithm on this experiment's tasks.

        Args:
            settings: all of them, as ``with_overrides`` returns them.

        Raises:
            ValueError: naming the first setting that is out of range.
        """
        from metarl_jax.interfaces.few_shot import InContextProblem
        from metarl_jax.interfaces.gradient import InnerProblem
        from metarl_jax.types import EnvFamily

        module, family = self._module(), self.make_family(settings)
        own = _names(self.network)
        others = own | (_names(self.world) if self.world else set())

        def assemble(settings: Mapping[str, Any]) -> tuple[Any, Any, Any, Algorithm]:
            config = module.Config(**{name: value for name, value in settings.items() if name not in others})
            module.validate(config)
            network = self.network(**{name: value for name, value in settings.items() if name in own})
            made = network.make(family)
            # Others are networks, which act in the family's environment.
            alone = isinstance(made, InnerProblem | InContextProblem)
            return config, network, made, module.make(made, config) if alone else module.make(family, made, config)

        config, network, made, algorithm = assemble(settings)
        problem = made if isinstance(made, InnerProblem | InContextProblem) else None
        return Problem(
            family=family,
            inner_problem=made if isinstance(made, InnerProblem) else None,
            in_context_problem=made if isinstance(made, InContextProblem) else None,
            algorithm=algorithm,
            vary=lambda values: assemble({**settings, **values})[3],
            tasks=problem.tasks if problem else family.tasks,
            optimal_return=family.optimal_return if isinstance(family, EnvFamily) and self.measure.total else None,
            iterations=config.iterations,
            stages=getattr(config, self.measure.setting) if self.measure.setting else 1,
            steps_per_iteration=network.steps_per_iteration(family, config),
        )


def _names(cls: type) -> set[str]:
    """The fields of a dataclass."""
    return {field.name for field in dataclasses.fields(cls)}


def _descriptions(cls: type) -> dict[str, str]:
    """The strings that stand under the fields of a class, by field."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= _own_descriptions(base)
    return found


def _own_descriptions(cls: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
