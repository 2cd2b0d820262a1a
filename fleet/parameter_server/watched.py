"""A trainer's line to a server that does not wait for ever: silence is looked into, and a server that is stuck is named.

A server that owes an answer may be waiting for another trainer (then it says so itself, in time), or be stopped, stuck or cut
off. The difference: a server that lives challenges whoever connects, at once and in a thread of its own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from fleet import logger
from fleet.parameter_server import endpoint, wire

SUSPECT_S = 10.0  # silence before it is looked into
PROBE_S = 2.0  # for a server that lives to challenge a new line


class WatchedLine:
    """A connected socket. Reads and writes raise TimeoutError once the server has been silent for too long.

    Args:
        line: the socket.
        address: of the server, to be asked whether it lives.
        server: its index, for messages.
        timeout_s: for how long others wait for this trainer. A server that does not live is given up a little sooner, so that
            it is named, and not the trainer that waits for it.
        answer_s: for how long a server that lives may owe an answer.
    """

    def __init__(self, line: socket.socket, address: str, server: int, timeout_s: float, answer_s: float) -> None:
        self._line, self._address, self._server = line, address, server
        self._dead_s = timeout_s - min(5.0, timeout_s / 4)
        self._answer_s = answer_s
        self._slice_s = min(SUSPECT_S, self._dead_s / 2)
        self.patient = False  # the answer takes as long as a disk takes
        self.silent_s = 0.0  # how long, when TimeoutError was raised
        self._moved_s = time.monotonic()
        self._suspected = False
        endpoint.limit_silence(line, self._slice_s, sends=True)

    def expect(self) -> None:
        """Begin to count the silence: a request goes out now."""
        self._moved_s = time.monotonic()

    def recv_into(self, buffer: Any) -> int:
        return self._move(lambda: self._line.recv_into(buffer))

    def recvmsg_into(self, buffers: Sequence[Any]) -> int:
        return self._move(lambda: self._line.recvmsg_into(buffers)[0])

    def sendmsg(self, parts: Sequence[Any]) -> int:
        return self._move(lambda: self._line.sendmsg(parts))

    def _move(self, bytes_: Callable[[], int]) -> int:
        while True:
            try:
                count = bytes_()
            except BlockingIOError:  # nothing for a slice of time
                self._look()
            else:
                self._moved()
                return count

    def settimeout(self, seconds: float) -> None:
        """Give up soon, without a look: for the last word."""
        self._slice_s = self._dead_s = self._answer_s = seconds
        endpoint.limit_silence(self._line, seconds, sends=True)

    def close(self) -> None:
        self._line.close()

    def forget(self) -> None:
        """In a forked child: close the inherited socket without a word."""
        if self._line.fileno() >= 0:
            os.close(self._line.detach())

    def _moved(self) -> None:
        now = time.monotonic()
        if self._suspected:
            self._suspected = False
            logger.warning(f"server {self._server} answers again, after {now - self._moved_s:.0f} s")
        self._moved_s = now

    def _look(self) -> None:
        lives = _challenges(self._address, min(PROBE_S, self._slice_s))
        self.silent_s = time.monotonic() - self._moved_s
        if not lives and not self._suspected:
            self._suspected = True
            logger.warning(f"server {self._server} has not answered for {self.silent_s:.0f} s")
        limit_s = float("inf") if lives and self.patient else self._answer_s if lives else self._dead_s
        if self.silent_s + 0.05 >= limit_s:
            raise TimeoutError
        left_s = self._dead_s - self.silent_s
        endpoint.limit_silence(self._line, min(self._slice_s, left_s) if left_s > 0.05 else self._slice_s, sends=True)


def _challenges(address: str, timeout_s: float) -> bool:
    """Return whether a server greets a new line in time."""
    try:
        with endpoint.connect(address, timeout_s) as line:
            return wire.receive_header(line, wire.MAX_GREETING_BYTES).op == wire.CHALLENGE
    except (OSError, wire.WireError):
        return False
