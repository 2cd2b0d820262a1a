"""Messages between driver and local workers: eight bytes of length, then a pickle. Both ends are ours, on one machine."""

from __future__ import annotations

import os
import pickle
from typing import Any

READ_BYTES = 1 << 18


def frame(message: Any) -> bytes:
    """Return a message as it is sent."""
    body = pickle.dumps(message, 5)
    return len(body).to_bytes(8, "little") + body


class Inbox:
    """Bytes that came, until they are messages."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def take(self, data: bytes) -> list[Any]:
        """Take what a connection gave; return the messages that are whole now."""
        held: bytes | bytearray = data
        if self._bytes:
            self._bytes += data
            if len(self._bytes) < 8 + int.from_bytes(self._bytes[:8], "little"):
                return []
            held, self._bytes = self._bytes, bytearray()
        found, at, size = [], 0, len(held)
        while size >= at + 8:
            end = at + 8 + int.from_bytes(held[at : at + 8], "little")
            if size < end:
                break
            found.append(pickle.loads(memoryview(held)[at + 8 : end]))
            at = end
        if at < size:
            self._bytes += memoryview(held)[at:]
        return found


def receive(descriptor: int, inbox: Inbox) -> list[Any] | None:
    """Block until at least one message is there; None at the end of the connection."""
    while True:
        data = os.read(descriptor, READ_BYTES)
        if not data:
            return None
        if found := inbox.take(data):
            return found


def send(descriptor: int, message: Any) -> None:
    """Block until a message is sent."""
    left = memoryview(frame(message))
    while left:
        left = left[os.write(descriptor, left) :]
