"""The registry of algorithms, networks and families of tasks, with one entry for each.

The import of this module does not import JAX: entries name their modules, which are imported when they are used.

The *interface* of an algorithm defines its arguments: a policy with a memory, the networks of a belief, a problem of
gradient descent, and so on. It also defines which kinds of tasks the algorithm applies to, which networks serve it, and
how they and a family become the arguments of the algorithm's ``make``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

from metarl_jax.checks import did_you_mean

Kind: TypeAlias = Literal["reinforcement", "few-shot"]


class Measure(NamedTuple):
    """The score of a learner on a task that is reported, and its name."""

    title: str = "reward of a trial"
    stage: str = "episode"
    """The kind of stage that each score belongs to."""
    setting: str | None = "episodes"
    """The name of the setting that is the number of scores. None: there is one score."""
    first_stage: int = 1
    """The number of the first stage: 0 if the first score is that before adaptation."""
    total: bool = True
    """Whether the sum of the scores is reported. Otherwise the last score is reported."""
    higher_is_better: bool = True
    training_metric: str = "trial_reward"
    """The metric of training that measures the same score, or "loss", which shows the progress of training."""

    @property
    def progress_title(self) -> str:
        """Return the name of ``training_metric``."""
        return "loss" if self.training_metric == "loss" else self.title

    def headline(self, scores: Any) -> Any:
        """Return the reported score ``[...]`` from the scores ``[..., E]``."""
        return scores.sum(axis=-1) if self.total else scores[..., -1]


REWARD_OF_TRIAL = Measure()
REWARD_OF_TRIAL_BY_ADAPTATION = REWARD_OF_TRIAL._replace(setting="adaptation_episodes")
RETURN_BY_EPISODE = Measure(
    "return of the last episode", "episode", "adaptation_episodes", 1, False, True, "posterior_return"
)
RETURN_BY_STEP = Measure("return of an episode", "gradient step", "adaptation_steps", 0, False, True, "score")
REWARD_OF_TRIAL_BY_IMITATION = REWARD_OF_TRIAL._replace(training_metric="loss")
SCORE_IN_CONTEXT = RETURN_BY_STEP._replace(stage="reading", setting=None, first_stage=1)

Interface: TypeAlias = Literal[
    "policy", "asymmetric", "off-policy", "imitation", "estimates", "belief", "context", "gradient", "in-context"
]


class Algorithm(NamedTuple):
    """The entry of an algorithm."""

    name: str
    title: str
    module: str | ModuleType
    """The module, or its name. It has ``Config``, a dataclass of settings, and ``make``."""
    interface: Interface
    measure: Measure
    excluded: Mapping[str, str] = {}
    """Kinds of tasks to which the algorithm does not apply although its interface does, with the reason."""
    needs_optimal_action: bool = False
    """Whether the algorithm needs a family whose ``Family.optimal_action`` is true."""


class Network(NamedTuple):
    """The entry of a network."""

    name: str
    title: str
    module: str | ModuleType
    """The module, or its name."""
    serves: Literal["policy", "feed-forward policy", "belief", "context", "predictor", "in-context"]
    settings: str = "Settings"
    """The name of the dataclass of settings in the module."""
    make: str = "make"
    """The name of the function in the module that makes the network from a family and settings."""
    families: tuple[str, ...] | None = None
    """The families that the network serves. None: it serves all families."""
    tabular: bool = False
    """Whether the network serves only families with discrete actions and finitely many states (``Family.tabular``)."""
    inputs: Literal["vectors", "images"] | None = None
    """The kind of inputs of few-shot tasks that the network takes. None: it takes both kinds."""
    classification: bool = False
    """Whether the network serves few-shot tasks only if their targets are classes."""


class Family(NamedTuple):
    """The entry of a family of tasks."""

    name: str
    title: str
    make: Any
    """The function that makes the family, or its place as "package.module:function". The parameters of the function
    that have defaults are the settings of the tasks."""
    kind: Kind = "reinforcement"
    without_data: Any = None
    """A function like ``make`` whose family has the same shapes, losses and scores, but needs no data file, or its
    place. None: ``make`` needs no data file."""
    defaults: Mapping[str, Any] = {}
    """Values of the function's parameters that differ from their defaults."""
    hidden: tuple[str, ...] = ()
    """Parameters of the function that are not settings of runs."""
    references: tuple[Any, ...] = ("metarl_jax.oracles.at_random:uniform",)
    """The reference learners: functions of the family and the number of episodes, or their places as
    "package.module:function"."""
    inputs: Literal["vectors", "images"] = "vectors"
    """The kind of inputs of few-shot tasks."""
    score: str = "return"
    """The score of few-shot tasks: "accuracy" or "mean squared error"."""
    adam_rate: float | None = None
    """The step size of the reference learner that learns few-shot tasks from scratch with Adam. None: there is no such
    learner."""
    heldout_tasks: int = 500
    """The number of held-out tasks of the final table; in a study also the number of its validation tasks."""
    validation_tasks: int = 50
    """The number of tasks of each validation during training. There are about twenty validations."""
    heldout_batch: int = 250
    """The number of held-out or validation tasks that are evaluated at the same time, which bounds memory."""
    finite_arms: bool = False
    """Whether the tasks are bandits whose arms pay finitely many rewards."""
    tabular: bool = False
    """Whether actions are discrete, and observations are discrete or one-hot, or there are none."""
    optimal_action: bool = False
    """Whether the optimal action of the known task is known (``types.Privileged.optimal_action``)."""
    source: Any = None
    """The reference learner that is imitated by default: a function of the family and the number of episodes, or its
    place as "package.module:function". None: only stored histories can be imitated."""
    excluded: Mapping[str, str] = {}
    """Algorithms or interfaces that do not apply to the family, with the reason."""


def resolve(reference: Any) -> Any:
    """Return the object that "package.module:name" names; return any other value unchanged."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


Entry: TypeAlias = Algorithm | Network | Family

_ALGORITHMS: dict[str, Algorithm] = {}
_NETWORKS: dict[tuple[str, str], Network] = {}
_FAMILIES: dict[str, Family] = {}
_PACKAGE: set[tuple[type, Any]] = set()
"""The kinds and keys of the package's own entries."""


def register(*entries: Entry, package: bool = False) -> None:
    """Add algorithms, networks or families. An entry of the user replaces an earlier one of the same name.

    Args:
        entries: the entries.
        package: whether they are the package's own, which no later entry can replace.

    Raises:
        ValueError: if a name is that of an entry of the package, or has characters that ``check_name`` does not allow.
    """
    for entry in entries:
        table, key = _place(entry)
        check_name(entry.name)
        if (type(entry), key) in _PACKAGE:
            kind = "an algorithm" if isinstance(entry, Algorithm) else f"a {type(entry).__name__.lower()}"
            raise ValueError(f"there is already {kind} {entry.name!r}, which is a part of metarl_jax")
        table[key] = entry
        if package:
            _PACKAGE.add((type(entry), key))


def check_name(name: str) -> None:
    """Check the name of an entry.

    Raises:
        ValueError: if a character is no letter, digit, ``_``, ``-`` or ``.``, or the first one is ``-`` or ``.``.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            f"a name must consist of letters, digits, '_', '-' and '.', and begin with a letter, not {name!r}"
        )


def is_package(entry: Entry) -> bool:
    """Return whether an entry is the package's own."""
    return (type(entry), _place(entry)[1]) in _PACKAGE


def unregister(*entries: Entry) -> None:
    """Remove entries; for tests."""
    for entry in entries:
        table, key = _place(entry)
        del table[key]


def _place(entry: Entry) -> tuple[dict[Any, Any], Any]:
    match entry:
        case Algorithm():
            return _ALGORITHMS, entry.name.replace("-", "_")
        case Network():
            return _NETWORKS, (entry.serves, entry.name)
        case Family():
            return _FAMILIES, entry.name


def algorithms() -> list[Algorithm]:
    """Return all algorithms."""
    return list(_ALGORITHMS.values())


def families() -> list[Family]:
    """Return all families of tasks."""
    return list(_FAMILIES.values())


def algorithm(name: str) -> Algorithm:
    """Return the algorithm of a name; raise a ValueError with similar names if there is none."""
    return _get(_ALGORITHMS, name.replace("-", "_"), "algorithm")


def family(name: str) -> Family:
    """Return the family of a name; raise a ValueError with similar names if there is none."""
    return _get(_FAMILIES, name, "family of tasks")


def _get(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"there is no {what} {name!r}{did_you_mean(name, table)}")
    return table[name]


def does_not_apply(algorithm: Algorithm, family: Family) -> str | None:
    """Return the reason why an algorithm does not apply to a family; None if it applies."""
    if family.kind in algorithm.excluded:
        return algorithm.excluded[family.kind]
    for name in (algorithm.name, algorithm.interface):
        if name in family.excluded:
            return family.excluded[name]
    if family.kind == "few-shot":
        if algorithm.interface not in ("gradient", "in-context"):
            return "it needs actions, and few-shot tasks have none"
    elif algorithm.interface == "in-context":
        return "it needs labelled examples: use rl2 with a memory"
    if algorithm.needs_optimal_action and not family.optimal_action:
        return "the optimal action of the known task is not known"
    if algorithm.interface == "estimates" and not family.tabular:
        return "it needs discrete actions, and observations that are discrete or one-hot"
    if algorithm.interface == "asymmetric" and not family.finite_arms:
        return "its critic needs a bandit with finitely many reward values"
    return None


def networks(algorithm: Algorithm, family: Family) -> list[Network]:
    """Return the networks that serve an algorithm on a family. The first one is the default."""
    serves: Sequence[str]
    match algorithm.interface:
        case "policy" | "asymmetric" | "off-policy" | "imitation" | "estimates":
            serves = ("policy",)
        case "gradient":
            serves = ("feed-forward policy",) if family.kind == "reinforcement" else ("predictor",)
        case other:
            serves = (other,)
    return [
        network
        for network in _NETWORKS.values()
        if network.serves in serves
        and (network.families is None or family.name in network.families)
        and (family.tabular or not network.tabular)
        # The memory of RL³ observes estimates instead of the tasks' own observations.
        and (algorithm.interface != "estimates" or (network.families is None and not network.tabular))
        and (network.inputs is None or network.inputs == family.inputs)
        and (not network.classification or family.score == "accuracy")
    ]


def network(algorithm: Algorithm, family: Family, name: str | None) -> Network:
    """Return the network of a name that serves an algorithm on a family; without a name, the default one.

    Raises:
        ValueError: if there is none.
    """
    found = {network.name: network for network in networks(algorithm, family)}
    if name is None:
        return next(iter(found.values()))
    if name not in found:
        raise ValueError(
            f"{algorithm.name} on {family.name} has no network {name!r}{did_you_mean(name, found)}: "
            f"there is {', '.join(found)}"
        )
    return found[name]


# ---------------------------------------------------------------------------------------------------- algorithms

_NEEDS_POLICY = {"few-shot": "it needs a policy, and few-shot tasks have no actions"}
_NEEDS_CONTEXT = {"reinforcement": "no policy of this package has context parameters"}
register(
    Algorithm("rl2", "RL²", "metarl_jax.algorithms.rl2", "policy", REWARD_OF_TRIAL),
    Algorithm(
        "rl2_asymmetric",
        "RL² with a privileged critic",
        "metarl_jax.algorithms.rl2_asymmetric",
        "asymmetric",
        REWARD_OF_TRIAL,
    ),
    # RL³ is RL² with a policy that observes estimated action values.
    Algorithm("rl3", "RL³", "metarl_jax.algorithms.rl2", "estimates", REWARD_OF_TRIAL),
    Algorithm(
        "recurrent_sac",
        "recurrent soft actor-critic",
        "metarl_jax.algorithms.recurrent_sac",
        "off-policy",
        REWARD_OF_TRIAL,
    ),
    Algorithm(
        "algorithm_distillation",
        "Algorithm Distillation",
        "metarl_jax.algorithms.algorithm_distillation",
        "imitation",
        REWARD_OF_TRIAL_BY_IMITATION,
    ),
    Algorithm(
        "decision_pretrained",
        "the Decision-Pretrained Transformer",
        "metarl_jax.algorithms.decision_pretrained",
        "policy",
        REWARD_OF_TRIAL_BY_IMITATION,
        needs_optimal_action=True,
    ),
    Algorithm("varibad", "VariBAD", "metarl_jax.algorithms.varibad", "belief", REWARD_OF_TRIAL_BY_ADAPTATION),
    Algorithm("hyperx", "HyperX", "metarl_jax.algorithms.hyperx", "belief", REWARD_OF_TRIAL_BY_ADAPTATION),
    Algorithm("pearl", "PEARL", "metarl_jax.algorithms.pearl", "context", RETURN_BY_EPISODE),
    Algorithm("maml", "MAML", "metarl_jax.algorithms.maml", "gradient", RETURN_BY_STEP),
    Algorithm("maml_trpo", "MAML-TRPO", "metarl_jax.algorithms.maml_trpo", "gradient", RETURN_BY_STEP, _NEEDS_POLICY),
    Algorithm("e_maml", "E-MAML", "metarl_jax.algorithms.e_maml", "gradient", RETURN_BY_STEP, _NEEDS_POLICY),
    Algorithm("promp", "ProMP", "metarl_jax.algorithms.promp", "gradient", RETURN_BY_STEP, _NEEDS_POLICY),
    Algorithm("anil", "ANIL", "metarl_jax.algorithms.anil", "gradient", RETURN_BY_STEP),
    Algorithm("cavia", "CAVIA", "metarl_jax.algorithms.cavia", "gradient", RETURN_BY_STEP, _NEEDS_CONTEXT),
    Algorithm("imaml", "iMAML", "metarl_jax.algorithms.imaml", "gradient", RETURN_BY_STEP),
    Algorithm("meta_sgd", "Meta-SGD", "metarl_jax.algorithms.meta_sgd", "gradient", RETURN_BY_STEP),
    Algorithm("reptile", "Reptile", "metarl_jax.algorithms.reptile", "gradient", RETURN_BY_STEP),
    Algorithm("multi_task", "multi-task training", "metarl_jax.algorithms.multi_task", "gradient", RETURN_BY_STEP),
    Algorithm(
        "multi_task_trpo",
        "multi-task training with TRPO",
        "metarl_jax.algorithms.multi_task_trpo",
        "gradient",
        RETURN_BY_STEP,
        _NEEDS_POLICY,
    ),
    Algorithm("in_context", "in-context learning", "metarl_jax.algorithms.in_context", "in-context", SCORE_IN_CONTEXT),
    package=True,
)

# ------------------------------------------------------------------------------------------------------- networks

register(
    Network("recurrent", "a GRU or an LSTM", "metarl_jax.networks.recurrent", "policy"),
    Network("snail", "SNAIL", "metarl_jax.networks.snail", "policy"),
    Network("transformer", "a gated transformer", "metarl_jax.networks.transformer", "policy"),
    Network("linear", "a linear recurrent memory", "metarl_jax.networks.linear_recurrence", "policy"),
    Network("split-aggregation", "split aggregation", "metarl_jax.networks.split_aggregation", "policy"),
    Network("set-aggregation", "a permutation-invariant memory", "metarl_jax.networks.set_aggregation", "policy"),
    Network("min-gru", "minimal GRUs", "metarl_jax.networks.min_gru", "policy"),
    Network("selective", "selective state spaces", "metarl_jax.networks.selective", "policy"),
    Network("fast-weights", "fast weights", "metarl_jax.networks.fast_weights", "policy"),
    Network("meta-network", "a Meta Network's fast weights", "metarl_jax.networks.meta_network", "policy"),
    Network("hypernetwork", "a recurrent hypernetwork", "metarl_jax.networks.hypernetwork", "policy"),
    Network("none", "no memory", "metarl_jax.networks.mlp", "policy"),
    Network("estimates", "estimated action values", "metarl_jax.networks.estimates", "policy", tabular=True),
    Network(
        "exact-belief",
        "the exact belief",
        "metarl_jax.oracles.exact_belief",
        "policy",
        families=("gridnavi",),
    ),
    Network("mlp", "a feed-forward policy", "metarl_jax.networks.mlp", "feed-forward policy"),
    Network("belief", "a recurrent encoder and a decoder", "metarl_jax.networks.belief", "belief"),
    Network("context", "a permutation-invariant encoder of steps", "metarl_jax.networks.context", "context"),
    Network(
        "mlp",
        "a feed-forward network",
        "metarl_jax.networks.mlp",
        "predictor",
        "PredictorSettings",
        "make_predictor",
        inputs="vectors",
    ),
    Network(
        "convolutional", "a convolutional network", "metarl_jax.networks.convolutional", "predictor", inputs="images"
    ),
    Network(
        "normalised-mlp",
        "a feed-forward network with batch normalisation",
        "metarl_jax.networks.mlp",
        "predictor",
        "ClassifierSettings",
        "make_classifier",
        inputs="images",
    ),
    Network("snail", "SNAIL", "metarl_jax.networks.snail", "in-context", "InContextSettings", "make_in_context"),
    Network(
        "meta-network",
        "a Meta Network",
        "metarl_jax.networks.meta_network",
        "in-context",
        "InContextSettings",
        "make_in_context",
        classification=True,
    ),
    package=True,
)
