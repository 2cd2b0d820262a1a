"""What a backend is: it carries calls to workers and outcomes back, and decides nothing.

Order, retries, journal, seeds, limits and cancelling are the driver's. A backend is driven by one thread, apart from `wake`.
What it cannot do it does not claim, and the driver refuses a request for it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fleet.fanout.call import Call, Outcome
from fleet.fanout.chain import Level

# What a backend may claim.
TIMEOUT = "timeout"  # ends a call that runs too long
MEMORY = "memory"  # ends a call whose process grows too large
LOGS = "logs"  # keeps what each member prints in a file of its own, C libraries included
SEEDS = "seeds"  # seeds random, numpy and paddle for each member
CPUS = "cpus"  # gives members cores (threads of libraries) and GPUs
PROCESSES = "processes"  # members cannot harm each other or the driver
SENDS = "sends"  # values are pickled: what cannot be is an error that names the variable
BATCHES = "batches"


class Opening(NamedTuple):
    """What a backend must know before the first call."""

    levels: tuple[Level, ...]  # Call.level counts in them
    workers: int | None
    num_calls: int | None  # if known: no more workers than that are needed
    cpus: float
    gpus: int
    memory: int | None
    run_dir: str
    reuse: bool  # items are of a list: an array that two of them hold is one array
    name: str


class Backend(Protocol):
    """The six verbs. ``claims``: of the names above."""

    name: str
    claims: frozenset[str]

    def open(self, opening: Opening) -> None:
        """Get ready; raise what a user must know now (an unpicklable function, a cluster that does not answer)."""

    def room(self) -> int:
        """Return how many more calls it takes now."""

    def start(self, call: Call) -> None:
        """Take a call. It never raises for the call's sake: that is an outcome."""

    def wait(self, timeout_s: float | None) -> list[Outcome]:
        """Return the outcomes that are there; block until one is, ``wake`` is called or the time is over (None: no limit)."""

    def wake(self) -> None:
        """Make `wait` return; any thread and a signal handler may call it."""

    def stop(self) -> None:
        """End every call that has not ended; nothing of it comes back."""

    def close(self) -> None:
        """Let everything go. It may be called twice, after any error."""
