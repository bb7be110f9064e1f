from .agent_files import load, save
from .opened import Evaluation, Learner, Run, open
from .opened_study import Cell, open_study

__all__ = ["Cell", "Evaluation", "Learner", "Run", "load", "open", "open_study", "save"]
