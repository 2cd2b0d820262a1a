"""The inline backend: members run in order, here, in the caller's thread, so that a debugger stops in them."""

from __future__ import annotations

import time
from collections import deque

from fleet.fanout import call as calls
from fleet.fanout import seeds
from fleet.fanout.backends.protocol import BATCHES, SEEDS, Opening
from fleet.fanout.call import Call, Outcome


class Inline:
    """One call at a time. A timeout cannot be kept without another thread, and is refused."""

    name = "inline"
    claims = frozenset({SEEDS, BATCHES})

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._opening: Opening | None = None

    def open(self, opening: Opening) -> None:
        self._opening = opening

    def room(self) -> int:
        return 1 - len(self._calls)

    def start(self, call: Call) -> None:
        self._calls.append(call)

    def wait(self, timeout_s: float | None) -> list[Outcome]:
        if not self._calls:
            if timeout_s:
                time.sleep(timeout_s)
            return []
        call = self._calls.popleft()
        assert self._opening is not None
        with seeds.sown(call.seed):
            return [calls.attempt(self._opening.levels[call.level], call, self._opening.cpus, "this process")]

    def wake(self) -> None:
        return  # nothing ever waits

    def stop(self) -> None:
        self._calls.clear()

    def close(self) -> None:
        self._calls.clear()
