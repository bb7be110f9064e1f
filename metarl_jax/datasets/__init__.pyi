from . import (
    classification,
    glyphs,
    histories,
    omniglot,
    sinusoid,
    text,
)

__all__ = [
    "classification",
    "glyphs",
    "histories",
    "omniglot",
    "sinusoid",
    "text",
]
