"""Which failure was first, and what the user is told about it."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import Any, NamedTuple

# What a process says when *another* one has failed. Types by name, so that nothing has to be imported.
CONSEQUENCE_TYPES = frozenset({"PeerLost", "RendezvousError", "ConnectionError", "EOFError"})
CONSEQUENCE_TEXT = (
    rb"(?i)connection reset by peer|closed by peer|remote process exited|timeout self_rank|"
    rb"connection refused|connection aborted|broken pipe|peer closed|"
    rb"socket closed|connect.{0,20}timed out|store.{0,40}(closed|timeout)"
)  # compiled by re on first use: nothing may have failed
EX_HANG = 124
LAST_LINES = 12
TAIL_BYTES = 16384


class Failure(NamedTuple):
    """How one process ended badly."""

    name: str  # "trainer 1"
    log_path: str
    status: int  # as waitstatus_to_exitcode has it: -n is signal n
    time_ns: int  # CLOCK_MONOTONIC: of the exception if it left a record, else of the exit
    record: dict[str, Any] | None
    consequence: bool  # what it says could come from another process's failure
    stopped: bool  # it was already being stopped by the launcher
    frozen: bool = False  # somebody stopped it (SIGSTOP), and the others lost it

    @property
    def exit_status(self) -> int:
        """The status that the launcher ends with on account of this failure."""
        if self.frozen:
            return EX_HANG
        if self.record and self.status < 0 and self.stopped:
            return int(self.record["status"])  # it had failed, but was still on its way out when it was stopped
        return 128 - self.status if self.status < 0 else self.status or 1

    def summary(self) -> str:
        """Say in one line how it ended."""
        if self.frozen:
            return "stopped (SIGSTOP, or a debugger) and not continued: the others waited for it in vain"
        if self.record:
            first = (self.record["message"].splitlines() or [""])[0]
            if self.record["type"] == "SystemExit":
                return f"sys.exit({first})"
            return f"{self.record['type']}: {first}" if first else self.record["type"]
        if self.status < 0:
            return f"ended by {signal_name(-self.status)}"
        return f"exited with status {self.status}" + ("" if self.status else " while trainers were running")


def signal_name(number: int) -> str:
    """Return ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_record(log_path: str) -> dict[str, Any] | None:
    """Read what the shim wrote about a failure, if it did."""
    import json

    try:
        with open(log_path.removesuffix(".log") + ".failure.json", encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def tail(path: str, num_bytes: int = TAIL_BYTES) -> bytes:
    """Return the end of a file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
            return file.read()
    except OSError:
        return b""


def failure(name: str, log_path: str, status: int, exit_ns: int, stopped: bool, frozen: bool = False) -> Failure:
    """Judge one process that ended badly."""
    if frozen:
        return Failure(name, log_path, status, 0, None, False, True, True)
    record = read_record(log_path)
    if record and record["thread"] and status < 0:
        record = None  # a thread's exception, but a signal ended the process
    if record:
        text = record["message"].encode("utf-8", "replace")
        consequence = bool(CONSEQUENCE_TYPES & set(record["bases"])) or bool(re.search(CONSEQUENCE_TEXT, text))
    else:
        crashed = -status in (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
        consequence = not crashed and bool(re.search(CONSEQUENCE_TEXT, tail(log_path, 4096)))
    return Failure(name, log_path, status, int(record["time_ns"]) if record else exit_ns, record, consequence, stopped)


def first_failure(failures: list[Failure], stop_ns: int) -> Failure | None:
    """Return the cause among all that failed: the earliest that another's failure does not explain.

    Args:
        stop_ns: when the launcher began to stop the processes; what failed later may come from that. A process that a
            signal of somebody else's ended is a cause even then: writing a core takes time.
    """
    own = (-signal.SIGTERM, -signal.SIGKILL)
    before = [f for f in failures if f.time_ns <= stop_ns or (f.status < 0 and f.status not in own)]
    real = [f for f in before if not f.consequence]
    return min(real or before, key=lambda f: f.time_ns, default=None)


def is_library(path: str) -> bool:
    """Say whether a source file belongs to Python, an installed package or fleet: not the user's own."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    standard = os.path.dirname(os.__file__)
    inside = any(path.startswith(folder + os.sep) for folder in (package, standard, os.path.join(sys.base_prefix, "lib")))
    return path.startswith("<") or inside or "site-packages" in path or "dist-packages" in path


def shorten(path: str) -> str:
    """Write a path as seen from here, if that is shorter."""
    try:
        return min(os.path.relpath(path), path, key=len)
    except (ValueError, OSError):  # the current directory may be gone
        return path


_DUMPED = rb'(?m)^  File "(.+)", line (\d+) in (.+)$'


def source_lines(failed: Failure) -> list[str]:
    """Return the user's own line, and the place below it where the exception arose if that is elsewhere."""
    if failed.record:
        frames = failed.record["frames"]
    else:  # faulthandler's dump, innermost first
        frames = [[p.decode(), int(n), "", f.decode()] for p, n, f in reversed(re.findall(_DUMPED, tail(failed.log_path)))]
    mine = [i for i, frame in enumerate(frames) if not is_library(frame[0])]
    if not frames:
        return []
    i = mine[-1] if mine else len(frames) - 1
    path, line, text, _ = frames[i]
    lines = [f"    {shorten(path)}:{line}   {text or source_of(path, line)}"]
    if i < len(frames) - 1:
        path, line, _, function = frames[-1]
        lines.append(f"    └ {shorten(path)}:{line}  {function}")
    return lines


def source_of(path: str, line: int) -> str:
    """Return one line of a source file."""
    import linecache

    return linecache.getline(path, line).strip()


def last_lines(path: str) -> list[str]:
    """Return the last lines of a log; of a progress bar, only its final state."""
    lines = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in tail(path).split(b"\n")]
    return [line.decode("utf-8", "replace") for line in lines if line.strip()][-LAST_LINES:]


def text(
    cause: Failure, others: list[Failure], num_stopped: int, elapsed_s: float, stop_s: float, status: int, refusal: str = ""
) -> str:
    """Return the report: who failed first, how, where, its last lines, and what followed from it.

    Args:
        refusal: why it was not started again, if that was asked for.
    """
    out = [rule(f"{cause.name} failed first")]
    summary = cause.summary()
    if cause.record and cause.record["type"] != "SystemExit":
        message = (f"{cause.record['type']}: {cause.record['message']}").rstrip().splitlines()
        out += ["  " + line for line in message[:20]]
        if cause.record["thread"]:
            out.append(f"  in thread {cause.record['thread']}")
    else:
        out.append("  " + summary)
    if cause.status == -signal.SIGKILL and not cause.stopped:
        out.append("  nobody in this run sent it: the kernel does when memory is short (dmesg says so)")
    out += source_lines(cause)
    out += ["", f"  last lines of {os.path.basename(cause.log_path)}"]
    out += ["  | " + line for line in last_lines(cause.log_path)] or ["  | (nothing was written)"]
    out.append("")
    for other in others[:8]:
        remark = "a consequence, not the cause" if other.consequence or other.stopped else "later"
        out.append(f"  {other.name}: {other.summary()}   ({remark})")
    if len(others) > 8:
        out.append(f"  and {len(others) - 8} more processes failed")
    if num_stopped:
        out.append(f"  {num_stopped} other process{'es were' if num_stopped > 1 else ' was'} stopped by fleet ({stop_s:.1f} s)")
    if refusal:
        out.append(f"  not started again: {refusal}")
    out += [f"  log  {shorten(cause.log_path)}", rule(f"exit {status} · ran {elapsed_s:.1f} s")]
    return "\n".join(out) + "\n"


def rule(words: str) -> str:
    """Draw a line with words in it."""
    return f"─── {words} " + "─" * max(3, 72 - len(words))
