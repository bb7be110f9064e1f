from .agent_files import load, save
from .opened import Evaluation, Learner, Run, open

__all__ = ["Evaluation", "Learner", "Run", "load", "open", "save"]
