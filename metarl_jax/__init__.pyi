from . import (
    agents,
    algorithms,
    batching,
    curricula,
    datasets,
    environments,
    evaluation,
    experiments,
    interfaces,
    manipulation_evaluation,
    networks,
    oracles,
    problems,
    rollout,
    runs,
    settings,
    training,
    types,
)
from .agents import Agent
from .evaluation import Scores, evaluate
from .experiments import register
from .family_checks import check_family
from .runs.agent_files import load, save
from .training import Training, train

__version__: str

__all__ = [
    "Agent",
    "Scores",
    "Training",
    "agents",
    "algorithms",
    "batching",
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
    "problems",
    "register",
    "rollout",
    "runs",
    "save",
    "settings",
    "train",
    "training",
    "types",
]
