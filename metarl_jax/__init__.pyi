from . import (
    agents,
    algorithms,
    datasets,
    environments,
    experiments,
    interfaces,
    networks,
    oracles,
    problems,
    runs,
    types,
)
from .agents import Agent
from .evaluation import evaluate
from .experiments import register
from .family_checks import check_family
from .runs.agent_files import load, save
from .training import train

__version__: str

__all__ = [
    "Agent",
    "agents",
    "algorithms",
    "check_family",
    "datasets",
    "environments",
    "evaluate",
    "experiments",
    "interfaces",
    "load",
    "networks",
    "oracles",
    "problems",
    "register",
    "runs",
    "save",
    "train",
    "types",
]
