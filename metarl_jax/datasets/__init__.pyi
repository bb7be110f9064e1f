from . import (
    classification,
    glyphs,
    histories,
    omniglot,
    sinusoid,
)

__all__ = [
    "classification",
    "glyphs",
    "histories",
    "omniglot",
    "sinusoid",
]
