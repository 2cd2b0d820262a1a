"""What a driver hands to a backend, and what comes back: one attempt at one member."""

from __future__ import annotations

import pickle
import time
from types import TracebackType
from typing import Any, NamedTuple

from fleet.fanout import chain, current
from fleet.fanout.parcel import Packed, pack, unpack

# How an attempt ends. RETURNED: it never began, because its worker was lost under another member; nobody is charged.
OK, DROPPED, ERROR, LOST, TIMEOUT, RETURNED, CANCELLED = "ok", "dropped", "error", "lost", "timeout", "returned", "cancelled"


class Call(NamedTuple):
    """One attempt. ``item`` is an object, or Packed if it came out of a worker."""

    ticket: int  # of this attempt, never used twice in a run
    level: int
    path: tuple[int, ...]
    item: Any
    attempt: int
    seed: int | None
    timeout_s: float | None = None


class Outcome:
    """How an attempt ended. ``value`` is an object (same process) or Packed (it crossed a process)."""

    __slots__ = ("error", "log", "seconds", "state", "ticket", "traceback", "value", "worker")

    def __init__(
        self,
        ticket: int,
        state: str,
        value: Any = None,
        seconds: float = 0.0,
        *,
        error: BaseException | None = None,
        trace: str = "",
        log: str = "",
        worker: str = "",
    ) -> None:
        self.ticket, self.state, self.value, self.seconds = ticket, state, value, seconds
        self.error, self.traceback, self.log, self.worker = error, trace, log, worker


def member_name(path: tuple[int, ...], attempt: int) -> str:
    """Return ``3.1`` for a member's files, ``3.1.attempt2`` for its second attempt."""
    name = ".".join(map(str, path))
    return name if attempt == 1 else f"{name}.attempt{attempt}"


def unpacked(item: Any) -> Any:
    """Return an item as an object."""
    return unpack(item) if type(item) is Packed else item


def attempt(level: chain.Level, call: Call, cpus: float, worker: str) -> Outcome:
    """Run a call in this process and thread; an exception of the member is an outcome, KeyboardInterrupt is not."""
    begin = time.perf_counter()
    with current.as_member(call.path, call.attempt, call.seed, cpus):
        try:
            value = chain.run(level, unpacked(call.item))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the member raises belongs to the member
            trace = trace_of(error, error.__traceback__)
            return Outcome(call.ticket, ERROR, None, time.perf_counter() - begin, error=error, trace=trace, worker=worker)
    state = DROPPED if value is chain.DROPPED else OK
    return Outcome(call.ticket, state, value, time.perf_counter() - begin, worker=worker)


def trace_of(error: BaseException, at: TracebackType | None) -> str:
    """Return the traceback as text, without the frames of fleet that carried the call."""
    import traceback  # 6 ms that a worker's start does not have to pay

    while at is not None and "/fleet/fanout/" in at.tb_frame.f_code.co_filename.replace("\\", "/"):
        at = at.tb_next
    return "".join(traceback.format_exception(type(error), error, at or error.__traceback__))


def packed_failure(error: BaseException) -> tuple[bytes, str, str, str]:
    """Return an exception as it travels: its pickle (b"" if it cannot be rebuilt), type, text and traceback."""
    trace = trace_of(error, error.__traceback__)
    try:
        body = pack(error.with_traceback(None)).body
        if type(pickle.loads(body)) is not type(error):
            body = b""
    except Exception:  # noqa: BLE001  then its type and text go
        body = b""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001
        text = "<its str() raises>"
    return body, type(error).__qualname__, text, trace
