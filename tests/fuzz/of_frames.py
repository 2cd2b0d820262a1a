"""Millions of frames that are almost right, against a server in this process, on a core built with sanitizers.

    make fuzz-frames [N=5000000]

Each frame begins as one that the protocol allows and then loses its way: flipped bytes, lying fields, cut ends. The header's
checksum is mended in most of them, so that they get past it. The server may answer, refuse or close; it must not crash, hang,
leak a Python exception that it did not foresee, or move a row of the table that nobody attacks. Every 20,000 frames it is begun
anew, in the next consistency.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import random
import socket
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def load_core(path: str) -> None:
    """Take the core from this file instead of the installed one."""
    spec = importlib.util.spec_from_file_location("fleet.parameter_server._core", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["fleet.parameter_server._core"] = module


if len(sys.argv) > 2:
    load_core(sys.argv[2])

import numpy as np  # noqa: E402

from fleet.parameter_server import server, wire  # noqa: E402
from fleet.parameter_server.consistency.mode import Mode  # noqa: E402
from fleet.parameter_server.service import Service  # noqa: E402
from fleet.parameter_server.spec import TableSpec  # noqa: E402

server.BODY_S = 0.05  # a frame that is cut keeps nobody waiting
ROUND, TIMEOUT_S = 20_000, 0.001
WIDE = [0, 1, 2, 3, 7, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**61, 2**63, 2**64 - 1]
MODES = ("sync", "async", "bounded", "half_async")
GOOD = np.arange(100, dtype=np.uint64) + np.uint64(0x5EED_0000_0000)


def spec(name: str, dim: int = 4) -> dict[str, Any]:
    """Return the JSON of a small table's spec."""
    return TableSpec(name, dim, "sgd", (), "constant", (1.0, 0.0), 7, 0).to_json()


class Frames:
    """Makes frames. ``directory`` is where SAVE and LOAD may go."""

    def __init__(self, rng: random.Random, table: int, mode: str, directory: str) -> None:
        self._rng, self._table, self._mode, self._directory = rng, table, mode, directory
        self._sequence = 0

    def next(self) -> bytes:
        """Return one frame, wrong in most cases."""
        rng = self._rng
        raw = bytearray(self._right())
        if rng.random() < 0.1:
            return bytes(raw)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            raw[self._place(len(raw))] = rng.choice((rng.randrange(256), 0, 255, 1))
        if rng.random() < 0.2 and len(raw) > 72:  # a lying number on an 8-byte boundary of the body
            at = 64 + 8 * rng.randrange((len(raw) - 64) // 8)
            raw[at : at + 8] = struct.pack("<Q", rng.choice(WIDE))
        if rng.random() < 0.02:
            del raw[rng.randrange(1, len(raw)) :]
        if len(raw) >= 64 and rng.random() < 0.9:
            self._mend(raw)
        return bytes(raw)

    def _place(self, size: int) -> int:
        """Choose a byte: the header's and the sections' heads more often than the rows."""
        return self._rng.randrange(min(size, 64 if self._rng.random() < 0.4 else 64 + 48 if self._rng.random() < 0.6 else size))

    def _mend(self, raw: bytearray) -> None:
        raw[:4] = wire.MAGIC
        struct.pack_into("<H", raw, 4, wire.VERSION)
        struct.pack_into("<Q", raw, 40, len(raw) - 64 if self._rng.random() < 0.95 else self._rng.choice(WIDE))
        struct.pack_into("<I", raw, 60, zlib.crc32(raw[:60]))

    def _right(self) -> bytes:
        rng = self._rng
        self._sequence += 1
        op = rng.choice((wire.PULL, wire.PUSH, wire.PUSH, wire.ASSIGN, wire.TABLE, wire.STATUS, wire.LOAD,
                         wire.SHRINK, wire.BYE, 99))  # fmt: skip
        if op == wire.STATUS and rng.random() < 0.02:
            op = wire.SAVE  # rarely: it waits for the disk
        count = self._sequence
        head = wire.Header(op, flags=rng.randrange(2), sequence=count, step=count, request=count & 0xFFFF)
        if op not in wire.SECTIONED:
            return frame(head, [json.dumps(self._question(op)).encode()])
        sections = [self._section(op) for _ in range(rng.choice((0, 1, 1, 2)))]
        if op == wire.PULL:
            sections = [s._replace(values=None) for s in sections]
        out = Line()
        wire.send_sections(out, head, sections)  # type: ignore[arg-type]
        return out.getvalue()

    def _section(self, op: int) -> wire.Section:
        n = self._rng.randrange(5)
        keys = np.array([1000 + self._rng.randrange(50) for _ in range(n)], np.uint64)
        dtype = self._rng.choice(wire.DTYPES) if op != wire.ASSIGN else "float32"
        values = memoryview(self._rng.randbytes(4 * n * wire.VALUE_BYTES[dtype]))
        rate = self._rng.choice((0.0, 1.0, 1e300))
        return wire.Section(self._table, n, 4, keys.data.cast("B"), values, rate, dtype=dtype)

    def _question(self, op: int) -> Any:
        if op == wire.TABLE:
            wanted = spec(self._rng.choice("abc"), self._rng.choice((1, 4)))
            return {"spec": wanted, "consistency": self._mode, "timeout_s": TIMEOUT_S}
        if op == wire.SAVE:
            return {"directory": f"{self._directory}/{self._rng.randrange(3)}"}
        if op == wire.LOAD:
            return self._rng.choice(({"apply": True}, {"directory": f"{self._directory}/0", "manifest": {"tables": {}}}))
        return self._rng.choice(({}, [], None, 3, {"directory": 3}, {"below": 1.0}))


class Line(io.BytesIO):
    """What wire.send writes to, in place of a socket."""

    def sendmsg(self, parts: list[memoryview]) -> int:
        return self.write(b"".join(parts))


def frame(head: wire.Header, parts: list[bytes]) -> bytes:
    """Return a frame as bytes."""
    out = Line()
    wire.send(out, head, parts)  # type: ignore[arg-type]
    return out.getvalue()


class Target:
    """A server in this process; ``take`` gives it one frame as trainer 1."""

    def __init__(self, mode: str, directory: str, outcomes: Counter[str]) -> None:
        self.outcomes = outcomes
        self.service = Service(0, 1, 3)
        self._server = server.Server(f"unix:{directory}/socket", "secret", self.service)
        self.attacked = self.service.open(spec("attacked"), Mode(mode), TIMEOUT_S)
        self._good = self.service.open(spec("good"), Mode(mode), TIMEOUT_S)
        self.service.tables.pull(self._good, GOOD, np.empty((100, 4), np.float32), True)
        self._pair()

    def _pair(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self._far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self._near.setblocking(False)

    def take(self, raw: bytes) -> None:
        """Let the server read this frame and everything behind it; it may close the line."""
        self._near.sendall(raw)
        whole = len(raw) >= 64 and len(raw) == 64 + struct.unpack_from("<Q", raw, 40)[0]
        if not whole:
            self._near.shutdown(socket.SHUT_WR)  # the server need not wait for the rest
        try:
            open_ = self._server._one_request(self._far, 1, 1)
            self._note()
        except (OSError, MemoryError, wire.WireError):  # as Server._attend: it logs and closes
            open_ = False
            self.outcomes["closed"] += 1
        if not (open_ and whole):
            self._near.close()
            self._far.close()
            self._pair()

    def _note(self) -> None:
        """Read the answer, and count what it is."""
        with contextlib.suppress(BlockingIOError):
            head = self._near.recv(1 << 20)
            op = struct.unpack_from("<H", head, 6)[0] if len(head) >= 64 else 0
            self.outcomes[{wire.DONE: "done", wire.ROWS: "rows", wire.ERROR: "refused"}.get(op, "other")] += 1
            while self._near.recv(1 << 20):
                pass

    def check(self) -> None:
        """Fail if a row moved that no frame named: a frame may name this table too, but hardly one of these keys."""
        out = np.empty((100, 4), np.float32)
        self.service.tables.pull(self._good, GOOD, out, False)
        assert np.isfinite(out).all() and (out == 1).all(), "rows moved that no frame named"

    def close(self) -> None:
        self._near.close()
        self._far.close()
        self._server.close()


def main() -> int:
    num_frames = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(os.environ.get("SEED", "0"))
    began, done, errors, outcomes = time.monotonic(), 0, io.StringIO(), Counter[str]()
    with tempfile.TemporaryDirectory() as directory:
        while done < num_frames:
            mode = MODES[done // ROUND % len(MODES)]
            target = Target(mode, directory, outcomes)
            frames = Frames(random.Random(f"{seed} {done}"), target.attacked, mode, directory)
            with contextlib.redirect_stderr(errors):
                for _ in range(min(ROUND, num_frames - done)):
                    target.take(frames.next())
                    done += 1
            target.check()
            target.close()
            if "Traceback" in errors.getvalue():
                print(errors.getvalue()[:5000])
                print(f"an exception that the server did not foresee, within {done} frames of seed {seed}")
                return 1
            errors.seek(0)
            errors.truncate()
            rate = done / (time.monotonic() - began)
            print(f"{done} frames, {rate:.0f} a second: {dict(outcomes)}", flush=True)
    print(f"{done} frames of seed {seed}: no crash, no hang, no exception unforeseen, no row moved that no frame named")
    return 0


if __name__ == "__main__":
    sys.exit(main())
