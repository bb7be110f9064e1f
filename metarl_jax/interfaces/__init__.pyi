from . import (
    asymmetric,
    belief,
    context,
    few_shot,
    gradient,
    imitation,
    off_policy,
)

__all__ = [
    "asymmetric",
    "belief",
    "context",
    "few_shot",
    "gradient",
    "imitation",
    "off_policy",
]
