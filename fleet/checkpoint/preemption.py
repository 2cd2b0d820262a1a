"""TERM as a request to save and leave: noted when it comes, obeyed by all trainers at the end of a step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from fleet import env, recovery

EX_PREEMPTED = 75  # "start me again", as sysexits.h has EX_TEMPFAIL


class Preemption:
    """Takes TERM in the place of its default, which would end the process at once; a handler of the script's own stays.

    The second TERM ends the process, and so does the first one in a run that is being ended because it failed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._installed = False

    def install(self) -> None:
        """Begin to take TERM; only the main thread can."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._take)
            os.register_at_fork(after_in_child=self.remove)  # a data worker ends when it is told to
            self._installed = True

    def remove(self) -> None:
        """Put the default back."""
        if self._installed:
            self._installed = False
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked or recovery.is_failing(env.get("FLEET_LOG_DIR")):
            self.remove()
            os.kill(os.getpid(), number)
        self.asked = True
