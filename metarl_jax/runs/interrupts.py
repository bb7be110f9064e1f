"""Ctrl-C and SIGTERM as a flag to look at between chunks, so that a run can save before it stops."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupts:
    """While this context is entered, the first SIGINT or SIGTERM is noted; a second one acts as it always did."""

    received: int | None = None
    """The signal's number."""

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
