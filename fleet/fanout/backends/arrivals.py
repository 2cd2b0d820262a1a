"""What came from other threads: outcomes in a queue, and Nones that only wake."""

from __future__ import annotations

from queue import Empty, SimpleQueue

from fleet.fanout.call import Outcome


def take(queue: SimpleQueue[Outcome | None], timeout_s: float | None) -> list[Outcome]:
    """Return the outcomes that are there; block until something comes or the time is over (None: no limit)."""
    found: list[Outcome] = []
    try:
        first = queue.get(timeout_s != 0, timeout_s or None)
        while True:
            if first is not None:
                found.append(first)
            first = queue.get_nowait()
    except Empty:
        return found
