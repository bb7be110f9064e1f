from .agent_files import load, save
from .opened import Evaluation, Learner, Run, open
from .opened_study import Cell, open_study
from .pretrained_learners import Card, pretrained, pretrained_cards

__all__ = [
    "Card",
    "Cell",
    "Evaluation",
    "Learner",
    "Run",
    "load",
    "open",
    "open_study",
    "pretrained",
    "pretrained_cards",
    "save",
]
