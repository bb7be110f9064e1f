from . import (
    at_random,
    bandits,
    base,
    exact_belief,
    from_scratch,
    gridnavi,
    known_task,
    maze,
    nearest_example,
    point_robot,
    recommendation,
    tabular_mdp,
)

__all__ = [
    "at_random",
    "bandits",
    "base",
    "exact_belief",
    "from_scratch",
    "gridnavi",
    "known_task",
    "maze",
    "nearest_example",
    "point_robot",
    "recommendation",
    "tabular_mdp",
]
