"""HTML from Python: ``tag("p", "a < b", class_="note")``; whatever is not ``Html`` already is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

_VOID = {"br", "img", "link", "meta"}
"""Elements without an end."""


class Html(str):
    """Text that is HTML already."""


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
    """An element.

    Args:
        name: of the element.
        children: text, which is escaped; elements; or sequences of these. None is nothing.
        attributes: an underscore at the end is dropped (``class_``), others become hyphens. None and False are left
            out, True is an attribute without a value.
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
    """Elements one after the other."""
    return Html(_rendered(children))
