"""What the run's console shows: the log files of the shown processes, live; warnings and errors of the others.

The processes write straight to their files (no pipe that could fill up and stop them); this follows the files. One shown
process is passed through as it is, redrawn progress lines included; several get a prefix, and equal lines are folded. A console
that does not take more text never stops the launcher: it is written to only when it is ready.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections import deque

FOLD_S = 0.3  # how long a line waits for the same line of other processes
STATE_INTERVAL_S = 10.0  # how often a progress line is shown where it cannot be redrawn
READ_BYTES = 1 << 18
QUEUE_BYTES = 1 << 20  # text that waits for the console; beyond it the logs are not read on
LONGEST_LINE_BYTES = 1 << 20
MAX_REPEATS = 3  # of one warning in a row; then only their number is shown
STUCK_S = 1.0  # how long a console may take nothing once Ctrl-C was pressed
STDOUT, STDERR = 1, 2

ALARM = (
    rb"\b(?:WARNING|ERROR|CRITICAL|FATAL)\b|\b\w*(?:[Ww]arning|[Ee]rror|Exception)\b *(?::|$)|^[WEF]\d{4} \d\d:\d\d|"
    rb"^Fatal Python error|Segmentation fault|PeerLost|OutOfMemory"
)


class Follower:
    """Reads one log file as it grows and cuts it in lines; of a line that was redrawn with ``\\r``, its last state."""

    def __init__(self, role: str, number: int, fd: int) -> None:
        self.role, self.number, self.fd = role, number, fd
        self.offset = 0
        self.partial = b""  # the line that has no end yet
        self.state_shown = b""
        self.alarm, self.repeats = b"", 0  # the last warning or error, and how often it came in a row
        self.state_time = time.monotonic()

    def read(self) -> bytes:
        """Return what is new, at most READ_BYTES."""
        data = os.pread(self.fd, READ_BYTES, self.offset)
        self.offset += len(data)
        return data

    def lines(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their ends."""
        *done, rest = (self.partial + data).split(b"\n")
        body = rest.rstrip(b"\r")
        self.partial = body.rpartition(b"\r")[2] + rest[len(body) :]
        if len(self.partial) > LONGEST_LINE_BYTES:
            done.append(self.partial)
            self.partial = b""
        return [final_state(line) for line in done]


def final_state(line: bytes) -> bytes:
    """Return what a terminal would show of a line in the end."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


class Console:
    """Shows a run.

    Args:
        show: "rank0", "all", "none" or ranks: "0,3".
        is_terminal: whether standard output can redraw a line.
    """

    def __init__(self, show: str, is_terminal: bool) -> None:
        self.show, self.is_terminal = show, is_terminal
        ranks = {"rank0": [0], "all": [], "none": []}.get(show)
        self._ranks = {int(r) for r in show.split(",")} if ranks is None else set(ranks)
        self._followers: list[Follower] = []
        self._queue: deque[tuple[int, bytes]] = deque()
        self._queued = 0
        self._closed: set[int] = set()  # consoles that are gone (| head)
        self._folds = Folds()
        self._open_line = b""  # what stands on the terminal's current line

    def follow(self, role: str, number: int, fd: int) -> None:
        """Begin to follow a log file."""
        self._followers.append(Follower(role, number, fd))

    def say(self, text: str) -> None:
        """Show the launcher's own words, on standard error."""
        self._insert(STDERR, text.encode("utf-8", "surrogateescape"))

    def pump(self) -> bool:
        """Read and show what is new; return whether there was anything."""
        moved = False
        for follower in self._followers:
            if self._queued < QUEUE_BYTES:
                data = follower.read()
                moved |= bool(data)
                self._take(follower, data)
        self._show_folded(time.monotonic() - FOLD_S)
        self._write()
        return moved or bool(self._queue)

    def finish(self, urgent: list[int]) -> None:
        """Show everything that was written. If there is a signal in ``urgent``, a console that is stuck for STUCK_S is given up."""
        while self.pump():
            self.flush(urgent)
        for follower in self._followers:
            if follower.partial and not (self._is_alone(follower) and self.is_terminal):
                self._take(follower, b"\n")
            self._end_repeats(follower)
        self._show_folded(float("inf"))
        if self._open_line:
            self._put(STDOUT, b"\n")
            self._open_line = b""
        self.flush(urgent)

    def flush(self, urgent: list[int]) -> None:
        """Write what waits; see ``finish``."""
        queued, since = self._queued, time.monotonic()
        while self._queue:
            self._write()
            if self._queued < queued:
                queued, since = self._queued, time.monotonic()
            elif urgent and time.monotonic() - since > STUCK_S:
                self._closed.add(self._queue[0][0])
                self._queue = deque(entry for entry in self._queue if entry[0] not in self._closed)
                queued = self._queued = sum(len(data) for _, data in self._queue)
            else:
                select.select([], [self._queue[0][0]], [], 0.1)

    def _is_shown(self, follower: Follower) -> bool:
        if self.show == "all":
            return True
        return follower.role == "trainer" and follower.number in self._ranks

    def _is_alone(self, follower: Follower) -> bool:
        shown = len(self._followers) if self.show == "all" else len(self._ranks)
        return shown == 1 and self._is_shown(follower)

    def _take(self, follower: Follower, data: bytes) -> None:
        if not self._is_shown(follower):
            for line in follower.lines(data) if data else ():
                if re.search(ALARM, line):
                    self._alarm(follower, line)
        elif not self._is_alone(follower):
            for line in follower.lines(data) if data else ():
                self._folds.add(STDOUT, line, follower)
        elif self.is_terminal:
            if data:
                self._put(STDOUT, data)
                last = (self._open_line + data).rpartition(b"\n")[2]
                self._open_line = last.rstrip(b"\r").rpartition(b"\r")[2][-4096:]
        else:
            for line in follower.lines(data) if data else ():
                self._put(STDOUT, line + b"\n")
                follower.state_shown, follower.state_time = b"", time.monotonic()
            self._show_state(follower)

    def _alarm(self, follower: Follower, line: bytes) -> None:
        """Show a warning or an error; of one that a process repeats, the first few and then how often it came."""
        if line == follower.alarm:
            follower.repeats += 1
        else:
            self._end_repeats(follower)
            follower.alarm, follower.repeats = line, 1
        if follower.repeats <= MAX_REPEATS:
            self._folds.add(STDERR, line, follower)

    def _end_repeats(self, follower: Follower) -> None:
        if follower.repeats > MAX_REPEATS:
            self._folds.add(STDERR, b"the line before came %d times more" % (follower.repeats - MAX_REPEATS), follower)
        follower.alarm, follower.repeats = b"", 0

    def _show_state(self, follower: Follower) -> None:
        """Show now and then how far a progress line is, where no line can be redrawn."""
        state, now = follower.partial.rstrip(b"\r"), time.monotonic()
        if state and state != follower.state_shown and now - follower.state_time > STATE_INTERVAL_S:
            self._put(STDOUT, state + b"\n")
            follower.state_shown, follower.state_time = state, now

    def _show_folded(self, before: float) -> None:
        for fd, line in self._folds.take(before):
            self._insert(fd, line + b"\n")

    def _insert(self, fd: int, text: bytes) -> None:
        """Show a text of its own, and then again the line that stood open on the terminal."""
        if self._open_line:
            self._put(STDOUT, b"\r\x1b[K")
        self._put(fd, text)
        if self._open_line:
            self._put(STDOUT, self._open_line)

    def _put(self, fd: int, data: bytes) -> None:
        if fd not in self._closed:
            self._queue.append((fd, data))
            self._queued += len(data)

    def _write(self) -> None:
        """Write as much as the console takes now. A console that is gone is forgotten; the run goes on."""
        while self._queue:
            fd, data = self._queue.popleft()
            try:
                if not select.select([], [fd], [], 0)[1]:
                    self._queue.appendleft((fd, data))
                    return
                written = os.write(fd, data[:4096])  # a ready pipe takes PIPE_BUF without blocking
            except BlockingIOError:
                written = 0
            except (OSError, ValueError):
                self._closed.add(fd)
                self._queued -= len(data)
                continue
            self._queued -= written
            if written < len(data):
                self._queue.appendleft((fd, data[written:]))


class Folds:
    """Lines that wait a moment for the same line of other processes. A process's own lines keep their order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, int, bytes, list[Follower]]] = deque()
        self._first = 0  # number of the entry at the left end
        self._number: dict[tuple[int, bytes], int] = {}
        self._last: dict[Follower, int] = {}

    def add(self, fd: int, line: bytes, follower: Follower) -> None:
        """Put a line in, joined to an equal one if that stands behind this process's last line."""
        number = self._number.get((fd, line), -1)
        if number <= self._last.get(follower, -1) or number < self._first:
            number = self._first + len(self._waiting)
            self._waiting.append((time.monotonic(), fd, line, []))
            self._number[fd, line] = number
        self._waiting[number - self._first][3].append(follower)
        self._last[follower] = number

    def take(self, before: float) -> list[tuple[int, bytes]]:
        """Return, and forget, the lines that came before a time."""
        out: list[tuple[int, bytes]] = []
        while self._waiting and self._waiting[0][0] <= before:
            _, fd, line, followers = self._waiting.popleft()
            if self._number.get((fd, line)) == self._first:
                del self._number[fd, line]
            self._first += 1
            count = b"" if len(followers) == 1 else b"  [x%d]" % len(followers)
            out.append((fd, names(followers).encode() + b": " + line + count))
        return out


def names(followers: list[Follower]) -> str:
    """Return ``trainer 3``, ``trainers 0-2,5`` or ``trainers 0-7, server 0``."""
    parts = []
    for role in ("trainer", "server"):
        indices = sorted(f.number for f in followers if f.role == role)
        if indices:
            runs: list[list[int]] = []
            for i in indices:
                if runs and runs[-1][1] == i - 1:
                    runs[-1][1] = i
                else:
                    runs.append([i, i])
            parts.append(f"{role}{'s' * (len(indices) > 1)} " + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs))
    return ", ".join(parts)
