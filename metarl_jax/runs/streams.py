"""Standard output and standard error whose failures never end a run.

The product of a run is its folder. Standard output may be closed (``>&-``), full (``/dev/full``), a terminal that is
gone, or a pipe whose reader is gone, and its encoding may be ASCII. None of these cases changes the result of a run. A
command whose only product is its output (``list``, ``watch``, ``--help``) ends when the output cannot be written.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from metarl_jax.runs.errors import ReaderGone, StorageError


class Output(io.TextIOWrapper):
    """A text stream that writes to the buffer of another text stream.

    Characters that the encoding does not have are written as escapes. After the first write that fails, the stream
    drops all output. Its descriptor then refers to the null device, so that buffered text cannot fail again.
    """

    needed = True
    """Whether the output is the only product of the command. If so, the command ends when output cannot be written."""

    def __init__(self, stream: io.TextIOWrapper, *, lost: bool = False, silent: bool = False) -> None:
        """Wrap a stream.

        Args:
            stream: the stream, whose buffer is used until ``detach``.
            lost: whether nothing can be written from the start, because the stream was closed.
            silent: whether to drop output without a message, as for standard error.
        """
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._lost = OSError(errno.EBADF, os.strerror(errno.EBADF)) if lost else None
        self._silent = silent

    def write(self, text: str, /) -> int:
        """Write text, or drop it if it cannot be written.

        Raises:
            StorageError, ReaderGone: if the text cannot be written and is needed.
        """
        if self._lost is None:
            try:
                return super().write(text)
            except OSError as error:
                self._lose(error)
        elif self.needed and not self._silent:
            self._complain(self._lost)
        return len(text)

    def flush(self) -> None:
        """Write the buffered text, or drop it if it cannot be written.

        Raises:
            StorageError, ReaderGone: if the text cannot be written and is needed.
        """
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._lost = error
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
        if self._silent:
            return
        if self.needed:
            self._complain(error)
        print(
            f"metarl-jax: warning: cannot write to standard output ({error.strerror}); "
            "the command goes on, and its output is dropped",
            file=sys.stderr,
            flush=True,
        )

    def _complain(self, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            raise ReaderGone
        raise StorageError(f"cannot write to standard output: {error.strerror}") from error


def results_are_files() -> None:
    """Let the command continue when standard output cannot be written, because its results are files."""
    if isinstance(sys.stdout, Output):
        sys.stdout.needed = False


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Replace standard output and standard error by ``Output`` where they have a file descriptor.

    The descriptors 0, 1 and 2 are opened on the null device where they are closed. Otherwise a file that is opened
    later, such as a checkpoint, would get one of these numbers, and a library's messages would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # This call opens the lowest free descriptor, which is the one that is closed.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        sys.stdout, sys.stderr = _output(sys.stdout, opened), _output(sys.stderr, opened, silent=True)
        replaced = sys.stdout, sys.stderr
        try:
            yield
        finally:
            for stream in replaced:
                if isinstance(stream, Output):
                    with contextlib.suppress(StorageError, ReaderGone):
                        stream.flush()
                    stream.detach()
            sys.stdout, sys.stderr = before


def _output(stream: Any, opened: contextlib.ExitStack, silent: bool = False) -> Any:
    """Wrap a stream in an ``Output``. A stream that is not a file, as in a notebook, is returned unchanged."""
    if stream is None:
        return Output(opened.enter_context(open(os.devnull, "w", encoding="utf-8")), lost=True, silent=silent)
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return stream
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    return Output(stream, silent=silent)
