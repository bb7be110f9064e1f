"""References to code of the user: ``my_file.py:name``, ``package.module:name``, or the name of an entry point.

The code behind a reference is executed. A reference must therefore come from the user, who typed it, and never from a
file that the program reads. Nothing is added to ``sys.path``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from metarl_jax.checks import did_you_mean

MOST_CHARACTERS = 4096
"""The largest length of a reference, in characters. A longer one is refused."""


class Source(NamedTuple):
    """The source of an object: its reference, and the content of its file."""

    reference: str
    """The reference, as it was typed."""
    sha256: str | None
    """The SHA-256 of the file, in hexadecimal; None where the reference names no file."""


class Loaded(NamedTuple):
    """An object that was loaded by its reference."""

    value: Any
    reference: str
    """The reference, as it was typed."""
    sha256: str | None
    """The SHA-256 of the file, in hexadecimal; None where the reference names no file."""


_PREFIX = "metarl_jax_user_"
"""The beginning of the names of modules that were loaded from files."""


def loaded_files() -> dict[str, str]:
    """Return the absolute paths of the files that this process has loaded by references, by the names of the modules.

    A process that unpickles objects of these modules calls ``load_files`` first, because they cannot be imported.
    """
    files = {
        name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith(_PREFIX)
    }
    return {name: str(Path(file).resolve()) for name, file in files.items() if file is not None}


def load_files(files: dict[str, str]) -> None:
    """Load files in another process, as ``loaded_files`` of the first process returned them.

    Raises:
        ValueError: if a file cannot be loaded, or has changed since the first process loaded it.
    """
    for name, path in files.items():
        if _file(Path(path), path)[0].__name__ != name:
            raise ValueError(f"{path} has changed since the command began")


def is_reference(text: str) -> bool:
    """Return whether a word has the form of a reference: a file or a module, a colon and a name."""
    return ":" in text


def is_entry_point(name: str, group: str) -> bool:
    """Return whether an installed package has an entry point of this name in a group."""
    return name in importlib.metadata.entry_points(group=group).names


def check(text: str) -> None:
    """Check that a reference can be stored and shown.

    Raises:
        ValueError: if it is too long, has characters that cannot be printed, or begins with a dash, as options do.
    """
    if len(text) > MOST_CHARACTERS or not text.isprintable() or text.startswith("-"):
        raise ValueError(
            f"a reference must be printable text of at most {MOST_CHARACTERS} characters, without a dash at its "
            f"beginning, not {text[:80]!a}"
        )


def load(text: str, *, entry_points: str | None = None) -> Loaded:
    """Load the object that a reference names. Its code is executed if it was not loaded before.

    Args:
        text: ``path/to/file.py:name``, ``package.module:name``, or the name of an entry point.
        entry_points: the group of entry points; None: their names are not accepted.

    Raises:
        ValueError: if there is no such object, or if the code raises an exception, which the message quotes.
    """
    check(text)
    if not is_reference(text):
        return Loaded(_entry_point(text, entry_points), text, None)
    place, _, name = text.rpartition(":")
    if place.endswith(".py"):
        module, digest = _file(Path(place), text)
    else:
        module, digest = _module(place, text), None
    if not name or not hasattr(module, name):
        names = [word for word in vars(module) if not word.startswith("_")]
        raise ValueError(f"{place} has no {name!r}{did_you_mean(name, names)}")
    return Loaded(getattr(module, name), text, digest)


def _file(path: Path, text: str) -> tuple[ModuleType, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{text}: {path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    # Each version of a file gets its own module name. Dataclasses look up their module in ``sys.modules``.
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"{_PREFIX}{path.stem}_{place}_{digest[:8]}"
    if name in sys.modules:
        return sys.modules[name], digest
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        missing = isinstance(error, ModuleNotFoundError)
        hint = " (the file's folder is not searched: install the module, or set PYTHONPATH)" if missing else ""
        raise ValueError(f"{text} cannot be loaded: {_described(error)}{hint}") from error
    return module, digest


def _module(name: str, text: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # The user's code may raise anything.
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        hint = " (the working directory is not searched: install the package, or name a file)" if missing else ""
        raise ValueError(f"{text} cannot be loaded: {_described(error)}{hint}") from error


def _entry_point(name: str, group: str | None) -> Any:
    points = [] if group is None else importlib.metadata.entry_points(group=group)
    known = {point.name: point for point in points}
    if name not in known:
        raise ValueError(
            f"{name!r} is not a reference: it must be FILE.py:NAME or PACKAGE.MODULE:NAME{did_you_mean(name, known)}"
        )
    try:
        return known[name].load()
    except (Exception, SystemExit) as error:  # The user's code may raise anything.
        raise ValueError(f"the entry point {name} cannot be loaded: {_described(error)}") from error


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
