from .opened import Evaluation, Learner, Run, open

__all__ = ["Evaluation", "Learner", "Run", "open"]
