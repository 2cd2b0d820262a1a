"""Errors that a fan-out makes or completes: who failed, on what item, how often, where its log lies."""

from __future__ import annotations

import os
import reprlib
import signal
from typing import TYPE_CHECKING, Any

from fleet.errors import MemberLost, MemberTimeout, TaskError
from fleet.fanout.parcel import Packed, unpack

if TYPE_CHECKING:
    from fleet.fanout.results import Result, Results

LOG_LINES = 20  # of a lost worker's last output that an error quotes
_TAIL_BYTES = 8192
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 120
_repr.maxdict = 12
# What a key of an item must not contain if its value is to be shown.
_SECRETS = ("password", "passwd", "secret", "token", "api_key", "apikey", "credential")


class Partial:
    """What an exception raised by `gather` carries as ``error.fleet``: the member, and all that was finished before."""

    def __init__(self, member: Result, partial: Results) -> None:
        self.member, self.partial = member, partial


def shown(item: Any) -> str:
    """Return a short text of an item; values under keys that look like secrets are not shown."""
    if isinstance(item, dict):
        item = {k: "***" if isinstance(k, str) and any(s in k.lower() for s in _SECRETS) else v for k, v in item.items()}
    try:
        return _repr.repr(item)
    except Exception as error:  # noqa: BLE001  a broken __repr__ must not hide the failure
        return f"<{type(item).__name__} whose repr raises {type(error).__name__}>"


def member_text(path: tuple[int, ...]) -> str:
    """Return ``member 3`` or ``member 3.1``."""
    return "member " + ".".join(map(str, path))


def noted(result: Result, partial: Results) -> BaseException:
    """Return a member's own exception, with a note that says what a reader must know to find it."""
    error = result.error
    assert error is not None
    times = "1 attempt" if result.attempts == 1 else f"{result.attempts} attempts"
    lines = [f"fleet: {member_text(result.path)} failed after {times}; item: {shown(result.item)}"]
    if result.log:
        lines.append(f"fleet: its log: {result.log}")
    if result.traceback and error.__traceback__ is None:  # it crossed a process, and left its own behind
        lines.append(f"fleet: raised in {result.worker}:\n{result.traceback.rstrip()}")
    note(error, "\n".join(lines))
    error.fleet = Partial(result, partial)  # type: ignore[attr-defined]
    return error


def note(error: BaseException, text: str) -> None:
    """Add a note that tracebacks print (Python 3.11); before, it is a cause."""
    if hasattr(error, "add_note"):
        error.add_note(text)
    elif error.__cause__ is None:
        error.__cause__ = TaskError("where it happened", at=text, fix="see the traceback above")


def tail(path: str, lines: int = LOG_LINES) -> str:
    """Return the last lines of a log, "" if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def how_it_ended(status: int) -> str:
    """Return "killed by SIGKILL" or "exited with status 3" of a wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            return f"was killed by signal {number}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"


def lost(path: tuple[int, ...], status: int, rss_bytes: int, log: str, oom_killed: bool) -> MemberLost:
    """Return the error of a member whose worker died under it."""
    text = tail(log) if log else ""
    why = "; the kernel killed it for memory" if oom_killed else ""
    said = "\nlast lines it printed:\n" + text if text else ""
    fix = "run fewer at once (workers=), or give it more memory" if oom_killed else "see its log; lost_retries= repeats it"
    return MemberLost(
        f"the worker of {member_text(path)} {how_it_ended(status)}{why} (its largest size: {rss_bytes / 1e6:.0f} MB){said}",
        at=log or member_text(path),
        fix=fix,
    )


def too_large(path: tuple[int, ...], rss_bytes: int, memory: int) -> MemberLost:
    """Return the error of a member that was stopped because it outgrew ``memory``."""
    return MemberLost(
        f"{member_text(path)} was stopped: its process holds {rss_bytes / 1e6:.0f} MB, more than memory={memory / 1e6:.0f} MB",
        at=member_text(path),
        fix="raise memory=, or make the member smaller",
    )


def timed_out(path: tuple[int, ...], timeout_s: float, log: str) -> MemberTimeout:
    """Return the error of a member that was killed for its time."""
    text = tail(log) if log else ""
    said = "\nlast lines it printed:\n" + text if text else ""
    return MemberTimeout(
        f"{member_text(path)} ran longer than timeout={timeout_s:g} s and was killed{said}",
        at=log or member_text(path),
        fix="raise timeout=, or see what it waits for",
    )


def unsendable(path: tuple[int, ...], kind: str, text: str) -> TaskError:
    """Return the stand-in of an exception that cannot be unpickled here."""
    return TaskError(
        f"{member_text(path)} raised {kind}: {text}",
        at=member_text(path),
        fix=f"{kind} cannot be rebuilt in another process: give it a __reduce__, or pass its arguments to super().__init__",
    )


def rebuilt(path: tuple[int, ...], body: bytes, kind: str, text: str) -> BaseException:
    """Return an exception that crossed a process, or its stand-in if it cannot be unpickled here."""
    if body:
        try:
            error = unpack(Packed(body))
            if isinstance(error, BaseException):
                return error
        except Exception:  # noqa: BLE001  unpickling runs the user's code; its type and text are known
            return unsendable(path, kind, text)
    return unsendable(path, kind, text)
