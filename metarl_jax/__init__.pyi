from . import (
    agents,
    algorithms,
    batching,
    benchmark,
    curricula,
    datasets,
    environments,
    evaluation,
    experiments,
    interfaces,
    manipulation_evaluation,
    networks,
    oracles,
    probes,
    problems,
    rollout,
    runs,
    sequences,
    settings,
    training,
    types,
)
from .agents import Agent
from .evaluation import Scores, evaluate
from .experiments import register
from .family_checks import check_family
from .few_shot_learner import FewShotLearner
from .runs.agent_files import load, save
from .runs.pretrained_learners import Card, pretrained, pretrained_cards
from .training import Training, train

__version__: str

__all__ = [
    "Agent",
    "Card",
    "FewShotLearner",
    "Scores",
    "Training",
    "agents",
    "algorithms",
    "batching",
    "benchmark",
    "check_family",
    "curricula",
    "datasets",
    "environments",
    "evaluate",
    "evaluation",
    "experiments",
    "interfaces",
    "load",
    "manipulation_evaluation",
    "networks",
    "oracles",
    "pretrained",
    "pretrained_cards",
    "probes",
    "problems",
    "register",
    "rollout",
    "runs",
    "save",
    "sequences",
    "settings",
    "train",
    "training",
    "types",
]
