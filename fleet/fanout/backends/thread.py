"""The thread backend: members share this process; good for waiting (databases, HTTP) and for libraries that release the GIL."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from fleet.fanout import call as calls
from fleet.fanout import machine
from fleet.fanout.backends import arrivals
from fleet.fanout.backends.protocol import BATCHES, Opening
from fleet.fanout.call import Call, Outcome

MOST = 32  # threads, unless workers= says otherwise: members of threads wait more than they compute


class Thread:
    """Threads that live as long as the run. They cannot be stopped: `stop` leaves a running member to its end, unheard."""

    name = "thread"
    claims = frozenset({BATCHES})

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []  # daemons: joined by close unless stopped
        self._opening: Opening | None = None
        self._most = self._running = 0
        self._stopped = False

    def open(self, opening: Opening) -> None:
        self._opening = opening
        self._most = opening.workers or min(MOST, machine.usable_cpus() + 4)

    def room(self) -> int:
        return self._most - self._running

    def start(self, call: Call) -> None:
        self._running += 1
        if self._running > len(self._threads):
            name = f"fleet-member-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        self._calls.put(call)

    def _work(self) -> None:
        assert self._opening is not None
        levels, cpus, name = self._opening.levels, self._opening.cpus, threading.current_thread().name
        while (call := self._calls.get()) is not None and not self._stopped:
            try:
                self._outcomes.put(calls.attempt(levels[call.level], call, cpus, name))
            except KeyboardInterrupt as error:  # raised by the member itself: a signal only ever reaches the main thread
                self._outcomes.put(Outcome(call.ticket, calls.ERROR, error=error, worker=name))

    def wait(self, timeout_s: float | None) -> list[Outcome]:
        found = arrivals.take(self._outcomes, timeout_s)
        self._running -= len(found)
        return found

    def wake(self) -> None:
        self._outcomes.put(None)

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        for _ in self._threads:
            self._calls.put(None)
        if not self._stopped:
            for thread in self._threads:
                thread.join()
        self._threads = []
