"""The control channel: small messages between trainers, apart from Gloo and NCCL.

Trainer 0 hosts it in one thread; every trainer, 0 included, is a client over one AF_UNIX connection. Two verbs:

* ``meet(name, payload)``: wait until every trainer is at the meeting of this name; return all payloads in rank order.
  Whatever may make a trainer late waits here first, so that Gloo's fixed 30 s limit never runs, and so that the error
  names the trainer that is missing and where it is instead of a port number.
* ``tell(kind, payload)``: one way to trainer 0, never waits (``fleet.log``).

A rank is in one meeting at a time. So if all are in a meeting and the names differ, they can never meet: all are told at
once who is where. A trainer that died, ended, or stays away longer than its time fails the meeting for everybody. Whoever waits
long (for a disk, say) asks the host meanwhile whether it still lives: a trainer 0 that is stopped is noticed all the same.

Frame, little endian: u32 bytes that follow | u8 op | u32 rank | u32 milliseconds | u16 length of name | name | payload.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from fleet.errors import ConfigError, FleetError, PeerLost, RendezvousError

HELLO, MEET, TELL, BYE, MET, MISMATCH, LOST, ASK, HERE = range(1, 10)
_HEAD = struct.Struct("<BIIH")
MARGIN_S = 10.0  # the host answers in time unless trainer 0 itself is stuck
MAX_FRAME_BYTES = 1 << 28  # a meeting carries host values, never a model


class _Frame(NamedTuple):
    op: int
    rank: int
    milliseconds: int
    name: str
    payload: bytes


def _pack(op: int, rank: int, name: str = "", payload: bytes = b"", milliseconds: int = 0) -> bytes:
    text = name.encode()
    head = _HEAD.pack(op, rank, milliseconds, len(text))
    return struct.pack("<I", len(head) + len(text) + len(payload)) + head + text + payload


def _unpack(body: bytes) -> _Frame:
    op, rank, milliseconds, length = _HEAD.unpack_from(body)
    end = _HEAD.size + length
    return _Frame(op, rank, milliseconds, body[_HEAD.size : end].decode(), body[end:])


class Host:
    """Trainer 0's side: one thread that seats arrivals and answers when a meeting is complete.

    Args:
        path: where to listen (AF_UNIX).
        heard: called in the host's thread with (kind, rank, payload) of every ``tell``.
        returns: a trainer that was lost is started again, alone or with all others: wait for it as for one that is late.
    """

    def __init__(self, path: str, world_size: int, heard: Callable[[str, int, bytes], None], returns: bool = False) -> None:
        self._world_size, self._heard, self._returns = world_size, heard, returns
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(path)
        self._path = path
        self._wake_read, self._wake_write = os.pipe()
        self._buffers: dict[socket.socket, bytearray] = {}
        self._rank_of: dict[socket.socket, int] = {}
        self._line_of: dict[int, socket.socket] = {}
        self._ended: dict[int, str] = {}  # rank -> how: "has ended" or "was lost"
        self._seated: dict[int, tuple[_Frame, float]] = {}  # rank -> its meeting and its deadline
        self._last: dict[int, tuple[str, float]] = {}  # rank -> the last meeting it was in, and when
        self._broken = ""  # once a meeting failed, all later ones fail with the same words
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="fleet-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell everybody that trainer 0 has ended, and join the thread."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")
        self._thread.join(5)

    def gone(self) -> set[int]:
        """Return the ranks that have ended or were lost so far. Any thread may ask."""
        return set(self._ended)

    def forget(self) -> None:
        """In a forked child: close the inherited sockets, so that they do not keep a dead trainer's lines open."""
        for line in (self._listener, *self._buffers):
            with contextlib.suppress(OSError):
                os.close(line.detach())

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._listener:
                    line, _ = self._listener.accept()
                    self._buffers[line] = bytearray()
                    self._selector.register(line, selectors.EVENT_READ)
                elif key.fileobj == self._wake_read:
                    self._finish()
                    return
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._read(key.fileobj)
            self._check_time()

    def _finish(self) -> None:
        for rank in list(self._line_of):
            self._send(rank, _pack(BYE, 0))
        for line in (self._listener, *self._buffers):
            line.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _patience(self) -> float | None:
        if not self._seated:
            return None
        return max(0.0, min(deadline for _, deadline in self._seated.values()) - time.monotonic())

    def _read(self, line: socket.socket) -> None:
        try:
            data = line.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._drop(line)
            return
        buffer = self._buffers[line]
        buffer += data
        while len(buffer) >= 4:
            (size,) = struct.unpack_from("<I", buffer)
            if size > MAX_FRAME_BYTES or size < _HEAD.size:
                self._drop(line)
                return
            if len(buffer) < 4 + size:
                return
            try:
                frame = _unpack(bytes(buffer[4 : 4 + size]))
            except (struct.error, UnicodeDecodeError):
                self._drop(line)
                return
            del buffer[: 4 + size]
            if not self._is_known(line, frame):
                self._drop(line)  # not a trainer of this job: nobody waits for it
                return
            self._take(line, frame)

    def _is_known(self, line: socket.socket, frame: _Frame) -> bool:
        if frame.op == HELLO:
            return line not in self._rank_of and frame.rank < self._world_size and frame.rank not in self._line_of
        return self._rank_of.get(line) == frame.rank

    def _take(self, line: socket.socket, frame: _Frame) -> None:
        if frame.op == HELLO:
            self._rank_of[line] = frame.rank
            self._line_of[frame.rank] = line
            self._last[frame.rank] = ("the start", time.monotonic())
        elif frame.op == TELL:
            self._heard(frame.name, frame.rank, frame.payload)
        elif frame.op == ASK:
            self._send(frame.rank, _pack(HERE, frame.rank))
        elif frame.op == BYE:
            self._ended[frame.rank] = "has ended"
            self._check_absent()
        elif frame.op == MEET:
            deadline = time.monotonic() + frame.milliseconds / 1000
            self._seated[frame.rank] = (frame, deadline)
            self._last[frame.rank] = (frame.name, time.monotonic())
            if self._broken:
                self._fail(LOST, self._broken)
            else:
                self._seat()
                self._check_absent()

    def _seat(self) -> None:
        if len(self._seated) < self._world_size:
            return
        names = {frame.name for frame, _ in self._seated.values()}
        if len(names) > 1:
            where = "; ".join(f"trainer {r} is at {f.name}" for r, (f, _) in sorted(self._seated.items()))
            self._fail(MISMATCH, where)
            return
        payloads = [self._seated[rank][0].payload for rank in range(self._world_size)]
        answer = b"".join(struct.pack("<I", len(p)) + p for p in payloads)
        name = names.pop()
        self._seated.clear()
        # Trainer 0 last: its main thread goes on at once, maybe into a call that keeps the interpreter until all are there
        # (Paddle's store and new_group do), and this thread could not answer the others any more.
        for rank in reversed(range(self._world_size)):
            self._send(rank, _pack(MET, rank, name, answer))

    def _check_absent(self) -> None:
        if self._ended and self._seated:
            ended = "; ".join(f"trainer {r} {how} after {self._last[r][0]}" for r, how in sorted(self._ended.items()))
            self._fail(LOST, ended)

    def _check_time(self) -> None:
        now = time.monotonic()
        if not any(deadline <= now for _, deadline in self._seated.values()):
            return
        missing = [r for r in range(self._world_size) if r not in self._seated]
        if not missing:
            return
        words = []
        for rank in missing:
            if rank in self._last:
                name, when = self._last[rank]
                words.append(f"trainer {rank} did not come; it was last at {name}, {now - when:.0f} s ago")
            else:
                words.append(f"trainer {rank} never joined the job")
        self._fail(LOST, "; ".join(words))

    def _fail(self, op: int, why: str) -> None:
        self._broken = why
        for rank in list(self._seated):
            frame, _ = self._seated.pop(rank)
            self._send(rank, _pack(op, rank, frame.name, why.encode()))

    def _drop(self, line: socket.socket) -> None:
        self._selector.unregister(line)
        self._buffers.pop(line, None)
        line.close()
        rank = self._rank_of.pop(line, None)
        if rank is None:
            return
        self._line_of.pop(rank, None)
        self._seated.pop(rank, None)
        if self._returns and rank not in self._ended:
            return
        self._ended.setdefault(rank, "was lost")
        self._check_absent()

    def _send(self, rank: int, frame: bytes) -> None:
        line = self._line_of.get(rank)
        if line is not None:
            with contextlib.suppress(OSError):  # a line that just broke is noticed by its own read
                line.sendall(frame)


class Channel:
    """One trainer's side.

    Args:
        path: where trainer 0 listens.
        timeout_s: how long a meeting waits for the others unless it says otherwise.
    """

    def __init__(self, path: str, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self._line = _connect(path, timeout_s)
        self._meeting = threading.Lock()  # guards the answer stream: one meeting at a time
        self._sending = threading.Lock()  # guards the write side: meet and tell may come from two threads
        self._closed = False
        self._line.settimeout(timeout_s + MARGIN_S)  # of a frame that has begun
        self._send(_pack(HELLO, rank))

    def meet(self, name: str, payload: bytes = b"", timeout_s: float | None = None) -> list[bytes]:
        """Wait for all trainers at the meeting ``name``; return ``world_size`` payloads in rank order.

        Raises:
            RendezvousError: the trainers are at different meetings. A retry fails again.
            PeerLost: a trainer died, ended, or did not come in time. A retry fails again.
        """
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        with self._meeting:
            self._send(_pack(MEET, self.rank, name, payload, int(wait_s * 1000)))
            frame = self._receive(name, wait_s + MARGIN_S)
        if frame.op == MET:
            return _split(frame.payload)
        if frame.op == BYE:
            raise PeerLost(
                "trainer 0 has ended while others go on",
                at=self._here(name),
                fix="make all trainers run the same number of steps",
            )
        why = frame.payload.decode()
        if frame.op == MISMATCH:
            raise RendezvousError(
                f"the trainers wait at different places: {why}",
                at=self._here(name),
                fix="let every trainer make the same collective calls in the same order; see who branched off above",
            )
        raise PeerLost(
            f"{why}; the others waited for it at {name}",
            at=self._here(name),
            fix="look at that trainer's log; if it is only slow, raise timeout_s in the strategy",
        )

    def tell(self, kind: str, payload: bytes) -> None:
        """Send to trainer 0 without waiting; lost silently if trainer 0 is gone, for it would only be shown there."""
        if not self._closed:
            with contextlib.suppress(OSError, FleetError):
                self._send(_pack(TELL, self.rank, kind, payload))

    def close(self) -> None:
        """Say that this trainer has ended."""
        if not self._closed:
            with contextlib.suppress(OSError, FleetError):
                self._send(_pack(BYE, self.rank))
            self._closed = True
            self._line.close()

    def forget(self) -> None:
        """In a forked child: close the inherited socket without a word."""
        self._closed = True
        with contextlib.suppress(OSError):
            os.close(self._line.detach())

    def _here(self, name: str) -> str:
        return f"trainer {self.rank}, {name}"

    def _send(self, frame: bytes) -> None:
        if self._closed:
            raise PeerLost("the control channel is closed in this process", at=f"trainer {self.rank}",
                           fix="call collectives only between init and shutdown, and never in a forked child")  # fmt: skip
        try:
            with self._sending:
                self._line.sendall(frame)
        except OSError as error:
            raise self._host_lost(str(error)) from None

    def _receive(self, name: str, wait_s: float) -> _Frame:
        """Return the host's answer; ask it, where the wait is long, whether it is there."""
        end, silence_s = time.monotonic() + wait_s, self.timeout_s + MARGIN_S
        asked = False
        try:
            while True:
                left_s = min(silence_s, end - time.monotonic())
                if not self._answers_within(left_s):
                    if asked or left_s < silence_s:
                        raise self._host_stuck(name, silence_s if asked else wait_s)
                    self._send(_pack(ASK, self.rank))
                    asked = True
                    continue
                (size,) = struct.unpack("<I", self._read_exactly(4))
                frame = _unpack(self._read_exactly(size))
                if frame.op != HERE:
                    return frame
                asked = False
        except TimeoutError:
            raise self._host_stuck(name, silence_s) from None
        except OSError as error:
            raise self._host_lost(str(error)) from None

    def _answers_within(self, seconds: float) -> bool:
        poller = select.poll()  # select() knows file descriptors below 1024 only
        poller.register(self._line, select.POLLIN)
        return bool(poller.poll(max(0.0, seconds) * 1000))

    def _read_exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            data = self._line.recv(min(size - len(parts), 1 << 20))
            if not data:
                raise ConnectionResetError("closed by trainer 0")
            parts += data
        return bytes(parts)

    def _host_stuck(self, name: str, seconds: float) -> PeerLost:
        return PeerLost(
            f"trainer 0, which hosts the control channel, has not answered for {seconds:.0f} s",
            at=self._here(name),
            fix="look at trainer 0's log: it is stopped, or stuck in a call that holds the interpreter",
        )

    def _host_lost(self, why: str) -> PeerLost:
        return PeerLost(f"trainer 0 was lost ({why})", at=f"trainer {self.rank}", fix="look at trainer 0's log for the cause")


def _split(answer: bytes) -> list[bytes]:
    payloads, start = [], 0
    while start < len(answer):
        (size,) = struct.unpack_from("<I", answer, start)
        payloads.append(answer[start + 4 : start + 4 + size])
        start += 4 + size
    return payloads


def _listen(path: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # left by a run that was killed; a live one has another path
    try:
        line.bind(path)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {path}: {error}", at="FLEET_CONTROL", fix="give a writable directory with a short path"
        ) from None
    line.listen(1024)
    return line


def _connect(path: str, timeout_s: float) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deadline, pause_s = time.monotonic() + timeout_s, 0.001
    while True:
        try:
            line.connect(path)
            return line
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                line.close()
                raise PeerLost(
                    f"trainer 0 did not call fleet.init() within {timeout_s:.0f} s",
                    at=path,
                    fix="look at trainer 0's log; every trainer has to call fleet.init()",
                ) from None
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)
