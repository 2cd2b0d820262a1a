"""Ctrl-C while a driver waits: counted, not raised, so that no state is left half changed. A notebook interrupts the same way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """``with interrupts:`` around each wait; outside of it the user's own handler is in force.

    Only the main thread gets signals; in others, and where SIGINT is ignored or handled by somebody's own handler, nothing changes.
    """

    def __init__(self, wake: Callable[[], None], enabled: bool) -> None:
        self.count = 0
        self._wake, self._enabled = wake, enabled
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = None
        if self._enabled and threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._wake()

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
