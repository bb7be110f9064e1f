from . import (
    asymmetric,
    belief,
    context,
    few_shot,
    gradient,
    imitation,
)

__all__ = [
    "asymmetric",
    "belief",
    "context",
    "few_shot",
    "gradient",
    "imitation",
]
