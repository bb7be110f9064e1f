"""Read and write the files of a run folder, which may have come from a stranger.

A reader of a file sees its old content or its new content, never a part. No function here follows a symbolic link in
the last component of a path. No function opens a FIFO or a device, or writes to a temporary name that can be predicted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import stat
import sys
from pathlib import Path
from typing import IO, Any

from metarl_jax.runs import interrupts
from metarl_jax.runs.errors import UserError

TEMPORARY = ".tmp"
"""The ending of temporary files and folders."""
MOST_JSON_BYTES = 100_000_000
"""The size of the largest JSON file that is read."""
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.tmp")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that change the state of a terminal: the control characters, and those that set the writing direction."""


def _require_regular(mode: int) -> None:
    """Raise OSError for anything but a regular file."""
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed")
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def require_folder(path: Path) -> None:
    """Check that a sub-folder of a run folder is a folder, or that it does not exist.

    Raises:
        OSError: if it is a symbolic link or anything else.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed")
        if not stat.S_ISDIR(mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def exists(path: Path) -> bool:
    """Return whether anything has this name, including a link to nothing.

    Raises:
        OSError: if the answer cannot be found, for example because the name is too long.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: str = "rb") -> IO[bytes]:
    """Open a regular file. With ``os.O_CREAT`` among the flags, create it if it does not exist.

    Args:
        path: the file.
        flags: the flags of ``os.open``.
        mode: the mode of the file object, which must agree with ``flags``.

    Raises:
        OSError: if the file cannot be opened, or if it is a symbolic link, a folder, a FIFO or a device.
    """
    with contextlib.suppress(FileNotFoundError):
        # This check comes before the file is opened, because opening a device may already have an effect.
        _require_regular(os.lstat(path).st_mode)
    # O_NONBLOCK: the path may have become a FIFO since the check, and this process must not wait for its writer.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _require_regular(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def read(path: Path, most_bytes: int | None = None) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: where ``open_regular`` raises it, or if the file is larger than ``most_bytes``.
    """
    with open_regular(path) as file:
        if most_bytes is not None and os.fstat(file.fileno()).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {most_bytes:,} bytes")
        return file.read()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file in the same folder, force it to the disk, and move it to ``path`` in one step.

    Raises:
        OSError: if the file cannot be written, or if ``path`` exists and is not a regular file. Then ``path`` is
            unchanged, and no temporary file remains.
    """
    with contextlib.suppress(FileNotFoundError):
        _require_regular(os.lstat(path).st_mode)
    temporary = path.with_name(f".{secrets.token_hex(8)}{TEMPORARY}")
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with interrupts.temporary(temporary), open_regular(temporary, create, "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def finite(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON does not have, by None, also within lists and dictionaries."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [finite(item) for item in value]
        case dict():
            return {name: finite(item) for name, item in value.items()}
    return value


def write_json(path: Path, content: Any) -> None:
    """Write content as JSON by ``write_atomically``. Numbers must be finite."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    # Python represents a byte that is not text by a lone surrogate, whose escape is the same in Python and in JSON.
    write_atomically(path, text.encode(errors="backslashreplace"))


def printable(text: str) -> str:
    """Escape the control characters of a text, so that a terminal shows them and does not execute them."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _refuse_control_characters(value: Any) -> None:
    match value:
        case str() if _CONTROL.search(value):
            raise ValueError(f"the text {printable(value)[:80]!r} contains control characters")
        case list():
            for item in value:
                _refuse_control_characters(item)
        case dict():
            for name, item in value.items():
                _refuse_control_characters(name)
                _refuse_control_characters(item)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def parse_json(text: bytes | str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: if it is not JSON, is nested too deeply, or has a string that contains control characters.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        _refuse_control_characters(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: if the file cannot be read, is too large, or does not hold an object.
    """
    try:
        content = parse_json(read(path, MOST_JSON_BYTES))
        if not isinstance(content, dict):
            raise ValueError("it does not hold a JSON object")
        return content
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def check_shape(value: Any, shape: Any, where: str = "") -> None:
    """Check that JSON content has a given shape.

    Args:
        value: the content.
        shape: the expected shape. It is a type, or ``[shape]`` for a list, or ``{str: shape}`` for a dictionary with
            any names, or a dictionary of the shapes of entries. In the last case the content may have more entries. A
            ``float`` may be an integer or None, and must be finite as a float.
        where: the name of the value in messages.

    Raises:
        ValueError: if the content does not have the shape. The message names the first place.
    """
    match shape:
        case [inner]:
            if not isinstance(value, list):
                raise ValueError(f"{where} is not a list")
            for index, item in enumerate(value):
                check_shape(item, inner, f"{where}[{index}]")
        case dict():
            if not isinstance(value, dict):
                raise ValueError(f"{where or 'it'} is not a dictionary")
            for name, inner in (dict.fromkeys(value, shape[str]) if str in shape else shape).items():
                if name not in value:
                    raise ValueError(f"{where}{'.' * bool(where)}{name} is missing")
                check_shape(value[name], inner, f"{where}{'.' * bool(where)}{name}")
        case type() if shape is float:
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{where} is not a number")
            # An integer may be finite and too large for a float.
            if value is not None and not abs(value) <= sys.float_info.max:
                raise ValueError(f"{where} is not finite as a float")
        case _:
            if not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
                raise ValueError(f"{where} is of another type than {shape.__name__}")


def read_shaped(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """Read a JSON file by ``read_json``, and check the shape of its content by ``check_shape``.

    Raises:
        UserError: where ``read_json`` raises it, or if the content has another shape.
    """
    content = read_json(path)
    try:
        check_shape(content, shape)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return content


def aside(path: Path) -> Path:
    """Return an unused name for a damaged file: ``NAME.damaged``, ``NAME.damaged-2`` and so on."""
    found, number = path.with_name(f"{path.name}.damaged"), 1
    while exists(found):
        number += 1
        found = path.with_name(f"{path.name}.damaged-{number}")
    return found


def remove_temporary(folder: Path) -> None:
    """Delete the temporary files that a killed process left in a folder."""
    for name in os.listdir(folder):
        if _LEFTOVER.fullmatch(name):
            (folder / name).unlink(missing_ok=True)
