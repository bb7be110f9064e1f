"""Generate HTML, as in ``tag("p", "a < b", class_="note")``. Text that is not of type ``Html`` is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

_VOID = {"br", "img", "link", "meta"}
"""The names of elements without an end tag."""


class Html(str):
    """A text that is HTML, and is therefore not escaped."""


Child: TypeAlias = "str | Iterable[Child] | None"


def _rendered(child: Child) -> str:
    match child:
        case None:
            return ""
        case Html():
            return child
        case str():
            return html.escape(child)
    return "".join(map(_rendered, child))


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Return an HTML element.

    Args:
        name: the name of the element.
        children: text, which is escaped; elements; or sequences of these. None is left out.
        attributes: the attributes by name. An underscore at the end of a name is removed (``class_``), and other
            underscores become hyphens. A value None or False leaves the attribute out. True gives an attribute without
            a value.
    """
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.removesuffix("_").replace("_", "-")
        written += f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
    start = Html(f"<{name}{written}>")
    return start if name in _VOID else Html(f"{start}{_rendered(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Concatenate elements."""
    return Html(_rendered(children))
