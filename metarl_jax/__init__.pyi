from . import agents as agents
from . import algorithms as algorithms
from . import datasets as datasets
from . import environments as environments
from . import experiments as experiments
from . import interfaces as interfaces
from . import networks as networks
from . import oracles as oracles
from . import problems as problems
from . import runs as runs
from . import types as types
from .agents import Agent as Agent
from .evaluation import evaluate as evaluate
from .experiments import register as register
from .family_checks import check_family as check_family
from .runs.agent_files import load as load
from .runs.agent_files import save as save
from .training import train as train

__version__: str
