"""Build the API reference from the docstrings: ``python .ci/api.py FOLDER``. Any warning is an error."""

from __future__ import annotations

import inspect
import sys
import typing
import warnings
from pathlib import Path
from typing import Any

import optax
import pdoc
import pdoc.doc
import pdoc.extract
import pdoc.render

import metarl_jax
from metarl_jax.settings import Settings

PAGES = (
    "metarl_jax",
    "metarl_jax.family_checks",
    "metarl_jax.meta_gradient",
    "metarl_jax.outer_updates",
    "metarl_jax.ppo",
    "metarl_jax.runs.tracking",
)
"""The package with its public modules, and other modules that an algorithm or a family of one's own uses."""


# The alias stands for a long union, which refers to itself.
optax.OptState = type("OptState", (), {"__module__": "optax"})


def field_types(cls: type) -> dict[str, Any]:
    """Return the types of the fields of a class by name, those of its base classes included.

    The text and the bounds of a setting are left out, because the section ``Attributes:`` has them.
    """
    if issubclass(cls, Settings):
        return typing.get_type_hints(cls)
    found = {}
    for base in reversed(cls.__mro__):
        for name, annotation in inspect.get_annotations(base).items():
            text = getattr(annotation, "__forward_arg__", annotation)
            found[name] = eval(text, vars(sys.modules[base.__module__])) if isinstance(text, str) else text
    return found


def resolve(cls: type) -> None:
    """Replace the annotations of a class, and of the function that makes an object, by the types that they name.

    pdoc looks names up in the module of a class. It does not find those of fields that another module declares.
    """
    found = field_types(cls)
    cls.__annotations__ = {name: found[name] for name in inspect.get_annotations(cls)}
    for function in (cls.__init__, cls.__new__):
        if inspect.isfunction(function):
            function.__annotations__.update({name: found[name] for name in function.__annotations__ if name in found})


def read(name: str) -> pdoc.doc.Module:
    """Return what the page of a module shows."""
    module = pdoc.extract.load_module(name)
    for public in getattr(module, "__all__", ()):
        # A lazy name is found in the module once it has been used.
        setattr(module, public, getattr(module, public))
    for value in list(vars(module).values()):
        if inspect.isclass(value) and value.__module__.startswith(metarl_jax.__name__ + "."):
            resolve(value)
    page = pdoc.doc.Module(module)
    for one in page.flattened_own_members:
        if not isinstance(one, pdoc.doc.Class):
            continue
        if not one.obj.__module__.startswith(metarl_jax.__name__ + "."):
            # A class of another package, such as jax.Array, is documented there.
            one.own_members = []
            one.docstring = f"The class `{one.obj.__module__}.{one.obj.__qualname__}`."
        for member in one.members.values():
            if member.docstring.startswith(("Alias for field number", "Create new instance of")):
                member.docstring = ""
            if issubclass(one.obj, Settings) and isinstance(member, pdoc.doc.Variable):
                member.docstring = "@private"
    return page


def build(folder: Path) -> None:
    """Write the pages to a folder."""
    pages = {name: read(name) for name in pdoc.extract.walk_specs(PAGES)}
    pdoc.render.configure(docformat="google", footer_text=f"metarl_jax {metarl_jax.__version__}")
    for name, page in pages.items():
        path = folder / f"{name.replace('.', '/')}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pdoc.render.html_module(page, pages), encoding="utf-8")
    (folder / "index.html").write_text(pdoc.render.html_index(pages), encoding="utf-8")
    (folder / "search.js").write_text(pdoc.render.search_index(pages), encoding="utf-8")


def main(*arguments: Any) -> None:
    if len(arguments) != 1:
        raise SystemExit("usage: python .ci/api.py FOLDER")
    folder = Path(arguments[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(folder)
    if caught:
        raise SystemExit("\n".join(["The API reference has warnings:", *(str(one.message) for one in caught)]))
    print(f"{sum(1 for _ in folder.rglob('*.html'))} pages: {folder / 'index.html'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
