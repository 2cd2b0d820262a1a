"""Trainers meet on the control channel; who is late, lost, gone or elsewhere is named to everybody who waits."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fleet import control
from fleet.control import MAX_FRAME_BYTES, Channel, Host
from fleet.errors import ConfigError, PeerLost, RendezvousError

WAIT_S = 10.0


class Job:
    """A host and channels to it, one thread a channel."""

    def __init__(self, path: str) -> None:
        self.path, self.notes = path, list[tuple[str, int, bytes]]()
        self.host: Host | None = None
        self.channels: dict[int, Channel] = {}
        self.pool = ThreadPoolExecutor(8)

    def open(self, world_size: int, ranks: tuple[int, ...] | None = None, timeout_s: float = WAIT_S) -> None:
        self.host = Host(self.path, world_size, lambda kind, rank, payload: self.notes.append((kind, rank, payload)))
        for rank in range(world_size) if ranks is None else ranks:
            self.join(rank, world_size, timeout_s)

    def join(self, rank: int, world_size: int, timeout_s: float = WAIT_S) -> None:
        self.channels[rank] = Channel(self.path, rank, world_size, timeout_s)

    def meet(self, rank: int, name: str, payload: bytes = b"", timeout_s: float | None = None) -> Future[list[bytes]]:
        return self.pool.submit(self.channels[rank].meet, name, payload, timeout_s)

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        if self.host is not None:
            self.host.close()
        self.pool.shutdown()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(str(tmp_path / "control"))
    yield made
    made.close()
    assert not [t for t in threading.enumerate() if t.name == "fleet-control"]
    assert not os.path.exists(made.path)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_payloads_come_in_rank_order(job: Job) -> None:
    job.open(3)
    for turn in range(20):
        asked = [job.meet(r, f"turn {turn}", b"%d" % r * (turn * r)) for r in (2, 0, 1)]
        for one in asked:
            assert one.result(WAIT_S) == [b"%d" % r * (turn * r) for r in range(3)]


def test_who_waits_long_asks_whether_trainer_0_still_lives(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MARGIN_S", 0.0)
    job.open(2, timeout_s=0.2)
    waits = job.meet(1, "the end of a long save", timeout_s=60)
    time.sleep(1.0)  # five times as long as the waiting one bears silence
    assert not waits.done()
    assert job.meet(0, "the end of a long save", timeout_s=60).result(WAIT_S) == waits.result(WAIT_S) == [b"", b""]


@pytest.mark.parametrize("begins", [b"", struct.pack("<I", 400) + b"half a frame"])
def test_a_host_that_is_stopped_is_noticed_by_who_waits_long(
    tmp_path: Path, begins: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MARGIN_S", 0.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        channel = Channel(str(tmp_path / "control"), 1, 2, 0.2)
        line, _ = listener.accept()  # as the kernel does for a process that is stopped
        with line:
            line.sendall(begins)
            with pytest.raises(PeerLost, match="trainer 0, which hosts the control channel, has not answered"):
                channel.meet("the end of a long save", timeout_s=60)
            channel.close()


def test_a_large_payload(job: Job) -> None:
    job.open(2)
    big = os.urandom(3 << 20)
    asked = [job.meet(0, "large", big), job.meet(1, "large", b"small")]
    assert [a.result(WAIT_S) for a in asked] == [[big, b"small"]] * 2


def test_a_note_is_told_without_waiting(job: Job) -> None:
    job.open(2)
    job.channels[1].tell("log", b"12")
    job.channels[0].tell("log", b"34")
    until(lambda: len(job.notes) == 2)
    assert sorted(job.notes) == [("log", 0, b"34"), ("log", 1, b"12")]


def test_different_meetings_are_named_at_once(job: Job) -> None:
    job.open(2)
    asked = [job.meet(0, "fleet.barrier(), call 1"), job.meet(1, "fleet.save(), call 1")]
    begin = time.monotonic()
    for one in asked:
        with pytest.raises(RendezvousError) as caught:
            one.result(WAIT_S)
        assert "trainer 0 is at fleet.barrier()" in caught.value.what and "trainer 1 is at fleet.save()" in caught.value.what
    assert time.monotonic() - begin < WAIT_S / 2


def test_a_late_trainer_is_named_with_where_it_was(job: Job) -> None:
    job.open(3)
    for one in [job.meet(r, "step 1") for r in range(3)]:
        one.result(WAIT_S)
    asked = [job.meet(r, "step 2", timeout_s=0.3) for r in (0, 2)]
    for one in asked:
        with pytest.raises(PeerLost, match="trainer 1 did not come; it was last at step 1") as caught:
            one.result(WAIT_S)
        assert "timeout_s" in caught.value.fix
    with pytest.raises(PeerLost, match="trainer 1"):  # also told to the late one, when it comes
        job.meet(1, "step 2").result(WAIT_S)


def test_a_trainer_that_never_joined_is_named(job: Job) -> None:
    job.open(3, ranks=(0, 1))
    asked = [job.meet(r, "step 1", timeout_s=0.3) for r in (0, 1)]
    for one in asked:
        with pytest.raises(PeerLost, match="trainer 2 never joined"):
            one.result(WAIT_S)


def test_a_late_joiner_is_waited_for(job: Job) -> None:
    job.open(2, ranks=(0,))
    early = job.meet(0, "step 1", b"0")
    time.sleep(0.1)
    job.join(1, 2)
    assert job.meet(1, "step 1", b"1").result(WAIT_S) == early.result(WAIT_S) == [b"0", b"1"]


def test_a_lost_trainer_is_named_at_once(job: Job) -> None:
    job.open(2)
    waits = job.meet(0, "step 1")
    job.channels[1]._line.close()  # what the kernel does when a process dies
    with pytest.raises(PeerLost, match="trainer 1 was lost after the start"):
        waits.result(WAIT_S / 2)


def test_a_trainer_that_ended_while_others_wait(job: Job) -> None:
    job.open(2)
    waits = job.meet(0, "step 1")
    job.channels[1].close()
    with pytest.raises(PeerLost, match="trainer 1 has ended"):
        waits.result(WAIT_S / 2)


def test_a_trainer_that_ended_before_others_came(job: Job) -> None:
    job.open(2)
    job.channels[1].close()
    with pytest.raises(PeerLost, match="trainer 1 has ended"):
        job.meet(0, "step 1").result(WAIT_S / 2)


def test_trainer_0_ended_while_others_wait(job: Job) -> None:
    job.open(2)
    waits = job.meet(1, "step 1")
    until(lambda: job.host is not None and job.host._seated)
    job.channels[0].close()
    assert job.host is not None
    job.host.close()
    with pytest.raises(PeerLost, match="trainer 0"):
        waits.result(WAIT_S / 2)


def test_a_closed_channel_refuses(job: Job) -> None:
    job.open(2)
    job.channels[1].close()
    with pytest.raises(PeerLost, match="closed in this process"):
        job.channels[1].meet("step 1")
    job.channels[1].tell("log", b"lost without a word")


def test_a_forked_child_does_not_hold_the_line_open(job: Job) -> None:
    job.open(2)
    ready, end = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # forget, then live on: trainer 1 dies meanwhile
        job.channels[1].forget()
        job.channels[0].forget()
        assert job.host is not None
        job.host.forget()
        os.write(ready[1], b"x")
        os.close(end[1])
        os.read(end[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        waits = job.meet(0, "step 1")
        job.channels[1]._line.close()
        with pytest.raises(PeerLost, match="trainer 1 was lost"):
            waits.result(WAIT_S / 2)
    finally:
        os.close(end[1])
        os.waitpid(child, 0)
        for fd in (*ready, end[0]):
            os.close(fd)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(PeerLost, match="trainer 0 did not call"):
        Channel(str(tmp_path / "nobody"), 1, 2, 0.2)


def test_a_place_where_nothing_can_listen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        Host(str(tmp_path / "missing" / "control"), 2, lambda *_: None)
    with pytest.raises(ConfigError, match="cannot listen"):
        Host("/tmp/" + "x" * 200, 2, lambda *_: None)


NOISE = {
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "a frame too large": struct.pack("<I", MAX_FRAME_BYTES + 1),
    "a frame too small": struct.pack("<I", 3) + b"abc",
    "a name that is no text": struct.pack("<IBIIH", 13, 2, 0, 0, 2) + b"\xff\xff",
    "a rank that is not there": struct.pack("<IBIIH", 11, 1, 7, 0, 0),
    "a rank that is taken": struct.pack("<IBIIH", 11, 1, 1, 0, 0),
    "a meeting before a greeting": struct.pack("<IBIIH", 11, 2, 1, 0, 0),
    "an end in another's name": struct.pack("<IBIIH", 11, 4, 1, 0, 0),
    "half a frame": struct.pack("<IBI", 11, 1, 1),
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_noise_on_the_socket_does_not_end_the_job(job: Job, noise: bytes) -> None:
    job.open(2)
    for one in [job.meet(r, "step 0") for r in range(2)]:
        one.result(WAIT_S)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(job.path)
        stranger.sendall(noise)
        if noise != NOISE["half a frame"]:
            stranger.settimeout(WAIT_S)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""  # hung up on
        asked = [job.meet(r, "step 1", b"%d" % r) for r in range(2)]
        assert [a.result(WAIT_S / 2) for a in asked] == [[b"0", b"1"]] * 2
