"""A line that misbehaves: sits between a trainer and a server, reads frames, and delays, cuts, repeats or swallows them.

    with Proxy(servers.addresses[0], Cuts(seed=1, share=0.1)) as proxy:
        client = servers.client(through=(proxy.address,))
"""

from __future__ import annotations

import contextlib
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from frames import HEADER, OPS, dial, receive_exactly

Send = Callable[[bytes], None]
PUSH = OPS["PUSH"]


class Cut(Exception):
    """The line breaks here."""


class Fault:
    """What happens to one frame: ``up`` goes to the server, ``down`` to the trainer. Counts what it did."""

    def __init__(self, seed: int = 0, share: float = 0.1) -> None:
        self.random, self.share, self.done = random.Random(seed), share, 0
        self._guard = threading.Lock()  # guards the three above: several lines share a fault

    def strikes(self, op: int) -> bool:
        """Draw whether this frame is hit. Frames of the handshake are left alone."""
        with self._guard:
            hit = op > OPS["WELCOME"] and self.random.random() < self.share
            self.done += hit
            return hit

    def up(self, whole: bytes, op: int, send: Send) -> None:
        send(whole)

    def down(self, whole: bytes, op: int, send: Send) -> None:
        send(whole)


class CutsRequests(Fault):
    """Sends a part of a request, ended at a random byte, and breaks the line."""

    def up(self, whole: bytes, op: int, send: Send) -> None:
        if self.strikes(op):
            send(whole[: self.random.randrange(len(whole))])
            raise Cut
        send(whole)


class CutsReplies(Fault):
    """The server has done its work, and the trainer gets only a part of the answer, or nothing."""

    def down(self, whole: bytes, op: int, send: Send) -> None:
        if self.strikes(op):
            send(whole[: self.random.randrange(len(whole))])
            raise Cut
        send(whole)


class Delays(Fault):
    """Holds frames up for up to 30 ms, so that trainers overtake each other."""

    def up(self, whole: bytes, op: int, send: Send) -> None:
        if self.strikes(op):
            time.sleep(0.03 * self.random.random())
        send(whole)


class Repeats(Fault):
    """Delivers a PUSH a second time, late and on a line of its own, as a network that reorders would."""

    def __init__(self, seed: int, share: float, repeat: Callable[[bytes], None]) -> None:
        super().__init__(seed, share)
        self._repeat = repeat
        self.threads: list[threading.Thread] = []  # joined by the test

    def up(self, whole: bytes, op: int, send: Send) -> None:
        send(whole)
        if op == PUSH and self.strikes(op):
            late = threading.Timer(0.02 * self.random.random(), self._repeat, (whole,))
            late.start()
            self.threads.append(late)


class Storm(Repeats):
    """All of it at once: frames come late, requests and answers get lost half-way, pushes arrive again behind newer ones."""

    def up(self, whole: bytes, op: int, send: Send) -> None:
        if self.strikes(op):
            time.sleep(0.01 * self.random.random())
        if self.strikes(op):
            send(whole[: self.random.randrange(len(whole))])
            raise Cut
        super().up(whole, op, send)

    def down(self, whole: bytes, op: int, send: Send) -> None:
        if self.strikes(op):
            send(whole[: self.random.randrange(len(whole))])
            raise Cut
        send(whole)


class Proxy:
    """Listens on an AF_UNIX socket; each line gets one of its own to ``target``."""

    def __init__(self, target: str, fault: Fault) -> None:
        self._target, self.fault = target, fault
        self._directory = tempfile.TemporaryDirectory(prefix="fleet-proxy-")
        self.address = f"unix:{self._directory.name}/p"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address.removeprefix("unix:"))
        self._listener.listen(64)
        self.lines = 0
        threading.Thread(target=self._accept, daemon=True).start()  # ended by close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._directory.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.lines += 1
            far = dial(self._target)
            far.settimeout(None)
            for source, sink, turn in ((near, far, self.fault.up), (far, near, self.fault.down)):
                threading.Thread(target=_carry, args=(source, sink, turn), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket, turn: Callable[[bytes, int, Send], None]) -> None:
    try:
        while True:
            head = receive_exactly(source, HEADER.size)
            fields: dict[str, Any] = HEADER.unpack(head)
            turn(head + receive_exactly(source, fields["body_bytes"]), fields["op"], sink.sendall)
    except (Cut, EOFError, OSError):
        for line in (source, sink):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
