from . import (
    asymmetric,
    belief,
    context,
    few_shot,
    gradient,
)

__all__ = [
    "asymmetric",
    "belief",
    "context",
    "few_shot",
    "gradient",
]
