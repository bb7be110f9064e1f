from . import (
    classification,
    glyphs,
    omniglot,
    sinusoid,
)

__all__ = [
    "classification",
    "glyphs",
    "omniglot",
    "sinusoid",
]
