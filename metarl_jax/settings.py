"""Settings: each is declared, checked and documented once, in the frozen dataclass that uses it.

    @dataclass(frozen=True, kw_only=True)
    class Config(Settings):
        \"\"\"Settings of my algorithm.\"\"\"

        learning_rate: Annotated[PositiveFloat, Doc("Adam's step size.")] = 1e-3
        clip: Annotated[PositiveFloat | None, Doc("Clipping radius; None for no clipping.")] = None

The annotation holds the type, the bounds (from ``annotated_types``, which hypothesis also understands) and the text. An
object checks its values when it is made. The docstring of the class gets an ``Attributes:`` section, and the command
line has an option for each field. A setting that can be off is of the type ``... | None``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt
from typing_extensions import Doc

from metarl_jax.checks import boolean, choice, real, whole

__all__ = [
    "Doc",
    "Field",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Settings",
    "check",
    "fields",
    "parameters",
]

PositiveInt: TypeAlias = Annotated[int, Gt(0)]
NonNegativeInt: TypeAlias = Annotated[int, Ge(0)]
PositiveFloat: TypeAlias = Annotated[float, Gt(0)]
NonNegativeFloat: TypeAlias = Annotated[float, Ge(0)]
Fraction: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
"""A number from 0 to 1."""


TEXTS: Any = tuple[str, ...]


class Field(NamedTuple):
    """The declaration of one setting."""

    name: str
    type: Any
    """The type without annotations: ``int``, ``float``, ``bool``, ``str`` or a ``Literal``."""
    optional: bool
    """Whether the setting may be None, which turns its feature off."""
    bounds: Mapping[str, Any]
    """The bounds of a number, by the names of the arguments of ``checks.real``."""
    doc: str
    """The text that documents the setting."""
    default: Any
    annotation: Any
    """The whole annotation."""

    @property
    def valid(self) -> str:
        """Return a text that says which values are valid."""
        words = {"above": "above", "at_least": "at least", "at_most": "at most", "below": "below"}
        if get_origin(self.type) is Literal:
            text = "one of " + ", ".join(map(repr, get_args(self.type)))
        elif self.type is bool:
            text = "True or False"
        elif self.type in (str, TEXTS):
            text = "text" if self.type is str else "texts"
        else:
            kind = "a whole number" if self.type is int else "a number"
            text = " ".join([kind, " and ".join(f"{words[name]} {bound:g}" for name, bound in self.bounds.items())])
        return text.strip() + (" or None" if self.optional else "")


def _bounds(metadata: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for bound in metadata:
        match bound:
            case Gt(gt=value):
                found["above"] = value
            case Ge(ge=value):
                found["at_least"] = value
            case Le(le=value):
                found["at_most"] = value
            case Lt(lt=value):
                found["below"] = value
            case Interval():
                found |= _bounds(tuple(bound))
            case _:
                pass
    return found


def _field(name: str, annotation: Any, default: Any) -> Field:
    """Return the setting that an annotation declares.

    Raises:
        TypeError: if a setting cannot have that type.
    """
    kind, metadata, optional = annotation, (), False
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            metadata += tuple(more)
        elif get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
            (kind,) = (one for one in get_args(kind) if one is not type(None))
            optional = True
        else:
            break
    if not (kind in (int, float, bool, str, TEXTS) or get_origin(kind) is Literal):
        raise TypeError(
            f"the setting {name} is of type {kind!r}: it must be int, float, bool, str, tuple[str, ...] or a "
            "Literal, or one of these or None"
        )
    doc = next((one.documentation for one in metadata if isinstance(one, Doc)), "")
    return Field(name, kind, optional, _bounds(metadata), " ".join(doc.split()), default, annotation)


@functools.cache
def fields(settings: type) -> dict[str, Field]:
    """Return the settings of a dataclass by name, with those of its base classes first.

    Raises:
        TypeError: if a field has a type that a setting cannot have.
    """
    hints = typing.get_type_hints(settings, include_extras=True)
    return {one.name: _field(one.name, hints[one.name], one.default) for one in dataclasses.fields(settings)}


@functools.cache
def parameters(function: Callable[..., Any]) -> dict[str, Field]:
    """Return the settings that a function takes, by name.

    They are its parameters with defaults. Each is documented as a field is, or under ``Args:``.

    Raises:
        TypeError: if a parameter has a type that a setting cannot have.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    found = {
        name: _field(name, hints[name], parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }
    if all(field.doc for field in found.values()):
        return found
    import docstring_parser

    try:
        parsed = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        texts = {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}
    except docstring_parser.ParseError:
        texts = {}
    for name, field in found.items():
        if not field.doc and (text := texts.get(name)):
            found[name] = field._replace(doc=text, annotation=Annotated[field.annotation, Doc(text)])
    return found


def check(field: Field, value: Any) -> None:
    """Check the value of a setting.

    A tracer is accepted as a real number, because its value is not known yet.

    Raises:
        ValueError: naming the setting, its value, and what is valid.
    """
    if value is None and field.optional:
        return
    otherwise = " or None" if field.optional else ""
    if get_origin(field.type) is Literal:
        choice(*get_args(field.type))(field.name, value)
    elif field.type is bool:
        boolean(field.name, value)
    elif field.type is str:
        if not isinstance(value, str):
            raise ValueError(f"{field.name} must be text{otherwise}, not {value!r}")
    elif field.type == TEXTS:
        if not isinstance(value, tuple) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{field.name} must be a tuple of texts{otherwise}, not {value!r}")
    elif field.type is int:
        whole(**field.bounds)(field.name, value, otherwise)
    else:
        real(**field.bounds)(field.name, value, otherwise)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base class of settings: a frozen dataclass that checks its values when it is made.

    Raises:
        ValueError: naming the first setting that is out of range, its value, and what is valid.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        hints = typing.get_type_hints(cls, include_extras=True)
        lines = []
        for name, annotation in hints.items():
            field = _field(name, annotation, getattr(cls, name, dataclasses.MISSING))
            text = f"{name}: {field.doc} ({field.valid}; default: {field.default!r})"
            lines += textwrap.wrap(text, 110, initial_indent="    ", subsequent_indent="        ")
        if lines:
            cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or "Settings."), "", "Attributes:", *lines, ""])

    def __post_init__(self) -> None:
        for name, field in fields(type(self)).items():
            check(field, getattr(self, name))
        self.check_relations()

    def check_relations(self) -> None:
        """Check relations between settings. A subclass that overrides this method calls that of its base class.

        Raises:
            ValueError: naming both settings.
        """
