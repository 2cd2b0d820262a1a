"""Messages between driver and local workers: eight bytes of length, then a pickle. Both ends are ours, on one machine."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
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

    def add(self, data: bytes) -> None:
        """Take what a socket gave."""
        self._bytes += data

    def messages(self) -> Iterator[Any]:
        """Yield the messages that are whole."""
        held, at = self._bytes, 0
        with memoryview(held) as view:
            found = []
            while len(held) >= at + 8:
                end = at + 8 + int.from_bytes(view[at : at + 8], "little")
                if len(held) < end:
                    break
                found.append(pickle.loads(view[at + 8 : end]))
                at = end
        del held[:at]
        yield from found


def receive(descriptor: int, inbox: Inbox) -> list[Any] | None:
    """Block until at least one message is there; None at the end of the connection."""
    while True:
        data = os.read(descriptor, READ_BYTES)
        if not data:
            return None
        inbox.add(data)
        if found := list(inbox.messages()):
            return found


def send(descriptor: int, message: Any) -> None:
    """Block until a message is sent."""
    left = memoryview(frame(message))
    while left:
        left = left[os.write(descriptor, left) :]
