"""Thousands of frames that are almost right: the server answers or closes, never breaks, and no row of others moves."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from frames import DTYPES, HEADER, OPS, SECTION, Peer, frame, header, section
from servers import SECRET, Servers

NUMBERS = [0, 1, 2, 3, 4, 7, 255, 2**16 - 1, 2**31, 2**32 - 1]
WIDE = [*NUMBERS, 2**40, 2**61, 2**62, 2**63, 2**64 - 1]


def _almost(rng: random.Random, table: int) -> bytes:
    """Return one frame with a few wrong bytes or fields."""
    name = rng.choice(["PULL", "PUSH", "ASSIGN", "TABLE", "STATUS", "SAVE", "LOAD", "ROWS", "DONE", "PROOF"])
    if name in ("PULL", "PUSH", "ASSIGN"):
        parts = []
        for _ in range(rng.randrange(4)):
            n = rng.randrange(5)
            lies = {}
            if rng.random() < 0.5:
                field = rng.choice(SECTION.names)
                lies[field] = rng.choice(WIDE if field == "num_keys" else NUMBERS)
            values = np.frombuffer(rng.randbytes(16 * n), "<f4").reshape(n, 4) if name != "PULL" else None
            dtype = rng.choice(["float32", *DTYPES]) if name != "ASSIGN" else "float32"
            keys = [1000 + rng.randrange(50) for _ in range(n)]
            parts.append(section(table, 4, keys, values, rng.choice([0.0, 1.0, 1e300]), lies, dtype=dtype))
        body, fields = b"".join(parts), {"num_tables": len(parts)}
    else:
        lies_json = b'{"directory": "/nowhere/x", "manifest": {}}'
        body, fields = rng.choice([b"{}", b"[]", rng.randbytes(20), b'{"directory": 3}', lies_json]), {}
    if rng.random() < 0.3:
        field = rng.choice([n for n in HEADER.names if n not in ("magic", "op", "body_bytes", "crc")])
        if field != "version":
            fields[field] = rng.choice(NUMBERS)
    fields = {"request": 1, "sequence": rng.choice(WIDE), "step": rng.choice(WIDE), **fields}
    whole = bytearray(frame(name, body, **fields))
    if rng.random() < 0.2:
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.1:
        del whole[rng.randrange(len(whole)) :]
    if rng.random() < 0.1:
        whole += rng.randbytes(rng.randrange(1, 100))
    return bytes(whole)


def _attack(address: str, seed: int, num_frames: int) -> None:
    rng = random.Random(seed)
    table, incarnation = 0, time.time_ns()
    peer: Peer | None = None
    for _ in range(num_frames):
        if peer is None:
            incarnation += 1
            peer = Peer(address, SECRET, trainer=1, incarnation=incarnation)
            table = peer.open("attacked", 4)
            peer.line.settimeout(0.05)
        try:
            peer.line.sendall(_almost(rng, table))
            if rng.random() < 0.5:
                peer.receive()
        except TimeoutError:
            peer.line.close()  # a frame was cut: nothing comes back
            peer = None
        except (OSError, EOFError):
            peer = None
    if peer is not None:
        peer.line.close()


def _run(num_frames: int, seeds: range) -> None:
    with Servers(1, world_size=3) as servers:
        with Peer(servers.addresses[0], SECRET) as good:
            table = good.open("good", 4)
            keys = np.arange(100, dtype=np.uint64)
            expected = good.pull([(table, 4, keys)])[0].copy()
            for step, seed in enumerate(seeds, start=1):
                _attack(servers.addresses[0], seed, num_frames)
                assert good.push([section(table, 4, keys, np.ones((100, 4)), 0.5)], sequence=step, step=step) == {}
                expected -= np.float32(0.5)
                np.testing.assert_array_equal(good.pull([(table, 4, keys)])[0], expected)
            assert good.ask_json("STATUS", {})["tables"]["attacked"]["rows"] < 100_000
        assert servers.processes[0].poll() is None
        assert "failed:" not in servers.log()  # no exception that the server did not foresee


def test_some_frames_that_are_almost_right() -> None:
    _run(100, range(2))


def test_frames_in_process() -> None:
    """As ``make fuzz-frames`` sends them by the million to a core with sanitizers."""
    program = Path(__file__).resolve().parents[1] / "fuzz/of_frames.py"
    done = subprocess.run([sys.executable, str(program), "20000"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0 and "no row moved that no frame named" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_many_frames_that_are_almost_right() -> None:
    _run(1500, range(2, 10))


@pytest.mark.slow
def test_random_bytes_at_every_moment_of_a_line() -> None:
    with Servers(1, world_size=3) as servers:
        rng = random.Random(0)
        for _ in range(300):
            with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
                head = header(rng.choice(list(OPS.values())), body_bytes=rng.randrange(100))
                peer.line.sendall(head + rng.randbytes(rng.randrange(300)))
                peer.line.shutdown(socket.SHUT_WR)
                peer.line.settimeout(5)
                with contextlib.suppress(ConnectionResetError):  # it closed over what it did not read
                    while peer.line.recv(1 << 16):
                        pass
        with Peer(servers.addresses[0], SECRET) as good:
            assert (good.pull([(good.open(), 4, [1])])[0] == 1).all()
