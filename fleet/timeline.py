"""Marks in time: what the threads of this process did, and how long the script's thread waited for others.

A mark is one call behind what it marks: ``began = timeline.now()``, the work, ``timeline.mark(kind, name, began)``. Kinds:

    load      the loader makes the next batch
    backward  the outermost backward pass
    encode    gradients on their way into messages: copied into buckets, made smaller, rows merged
    post      a bucket is given to the sender's thread (an instant)
    meet      trainers wait for each other on the control channel
    send      bytes move, or are added up
    wait      the script's thread waits for another thread's communication
    apply     the optimizer moves the parameters

Without a profile a mark keeps nothing but the sum of the script's waiting, for fleet.log: 0.3 us a mark (benchmarks/marks.py).
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

now = time.perf_counter_ns  # one clock for all processes of a node

WAITING = frozenset(("meet", "send", "wait"))  # on the script's thread, these are a step held up by communication


class Span(NamedTuple):
    """Something that a thread did."""

    kind: str
    name: str
    began: int  # by now()
    ended: int
    thread: int


_spans: list[Span] | None = None  # None: nobody profiles. Threads only append
_script = threading.get_ident()
_waited_ns = 0  # of the script's thread; only it writes this and the next
_counted_until = 0


def follow_this_thread() -> None:
    """Take the calling thread for the script's."""
    global _script
    _script = threading.get_ident()


def mark(kind: str, name: str, began: int) -> None:
    """Note that this thread did something from ``began`` until now."""
    global _waited_ns, _counted_until
    if _spans is None and kind not in WAITING:
        return
    ended, thread = now(), threading.get_ident()
    if thread == _script and kind in WAITING:
        _waited_ns += ended - max(began, _counted_until)  # what a wait inside it has counted is not counted twice
        _counted_until = ended
    if _spans is not None:
        _spans.append(Span(kind, name, began, ended, thread))


def waited_s() -> float:
    """Return the seconds that the script's thread has waited so far."""
    return _waited_ns / 1e9


def is_recording() -> bool:
    """Return whether marks are kept."""
    return _spans is not None


def record() -> None:
    """Begin to keep marks."""
    global _spans
    _spans = []


def stop() -> list[Span]:
    """Return the marks since ``record``, and keep none any more."""
    global _spans
    spans, _spans = _spans or [], None
    return spans


def script() -> int:
    """Return the number of the script's thread."""
    return _script
