"""Millions of frames that are almost right, against a server in this process, on a core built with sanitizers.

    make fuzz-frames [N=5000000]

Each frame begins as one that the protocol allows and then loses its way: flipped bytes, lying fields, cut ends. The header's
checksum is mended in most of them, so that they get past it. They go through the server's own handshake, parser and service, as
a connection's thread does it, but the bytes come from memory, in pieces of any size: no socket, no second thread. The server
may answer, refuse or close; it must not crash, hang, raise an exception that it did not foresee, change a row by a push that it
refuses, or move a row of the table that nobody attacks. Every 20,000 frames it is begun anew, in the next consistency.
As many processes as there are cores share the frames; SEED=N repeats a run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from typing import Any

from core_of import load_core

if len(sys.argv) > 2:
    load_core(sys.argv[2])

import numpy as np

from fleet.errors import FleetError
from fleet.parameter_server import server, wire
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.row_life import Life
from fleet.parameter_server.service import Service
from fleet.parameter_server.spec import OPTIMIZERS, TableSpec
from fleet.parameter_server.tables import Gradient

ROUND, TIMEOUT_S, LIMIT_S = 20_000, 1e-6, 300.0  # LIMIT_S: a round takes a second; one that takes this long hangs
SECRET, JOB = "secret", 7
WIDE = [0, 1, 2, 3, 7, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**61, 2**63, 2**64 - 1]
MODES = ("sync", "async", "bounded", "half_async", "geo")
STALENESS = dict.fromkeys(MODES, 0) | {"bounded": 2}
OPS = [wire.PULL] * 12 + [wire.PUSH] * 20 + [wire.ASSIGN] * 6 + [wire.TABLE] * 3 + [wire.LOAD] * 3
OPS += [wire.SHRINK, wire.STATUS, wire.BYE, 99]
KEYS = np.arange(1000, 1050, dtype=np.uint64)
GOOD = np.arange(100, dtype=np.uint64) + np.uint64(0x5EED_0000_0000)
EVER = Life()
ALIVE = Life(admission="score", score=3.0, age=5, below=0.1, nonclick=0.1, decay=0.9, every=2)  # its pushes carry shows and clicks
FORESEEN = (OSError, MemoryError, wire.WireError)  # as Server._attend: it logs and closes


def spec(name: str, dim: int = 4, optimizer: str = "sgd", life: Life = EVER) -> dict[str, Any]:
    """Return the JSON of a small table's spec."""
    hyper = tuple(sorted((constant, default) for constant, (default, _, _) in OPTIMIZERS[optimizer].items()))
    return TableSpec(name, dim, optimizer, hyper, "constant", (1.0, 0.0), 7, 0, life).to_json()


class Line:
    """In place of a socket: what is fed is read in pieces of any size; of what is sent the beginning is kept."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self._raw, self._at, self._piece = memoryview(b""), 0, 1 << 30

    def feed(self, raw: bytes, piece: int = 1 << 30) -> None:
        self._raw, self._at, self._piece = memoryview(raw), 0, piece
        self.answers.clear()

    def recv_into(self, buffer: Any) -> int:
        num = min(len(buffer), self._piece, len(self._raw) - self._at)
        buffer[:num] = self._raw[self._at : self._at + num]
        self._at += num
        return num

    def sendmsg(self, parts: list[Any]) -> int:
        self.answers.append(b"".join(parts))
        return len(self.answers[-1])

    @property
    def left(self) -> int:
        return len(self._raw) - self._at


def frame(head: wire.Header, parts: list[bytes]) -> bytes:
    """Return a frame as bytes."""
    line = Line()
    wire.send(line, head, parts)
    return b"".join(line.answers)


class Frames:
    """Makes frames. ``directory`` is where SAVE may go."""

    def __init__(self, rng: random.Random, target: Target, mode: str, directory: str) -> None:
        self._rng, self._tables, self._mode, self._directory = rng, target.tables, mode, directory
        self._target = target
        self._sequence, self._saves = 0, 0
        self._right_ones = [self._right(rng.choice(OPS)) for _ in range(1000)]

    def next(self) -> bytes:
        """Return one frame, wrong in most cases."""
        rng, chance = self._rng, self._rng.random
        self._sequence += 1
        raw = bytearray(rng.choice(self._right_ones) if chance() > 0.0005 else self._save())
        waits = raw[6] != wire.PULL or chance() < 0.3  # for steps that nobody takes
        step = self._target.next_step() if self._mode == "sync" else self._sequence
        struct.pack_into("<QQ", raw, 24, self._sequence, step if waits else 0)  # sequence and step
        kind = chance()
        if kind < 0.15:
            self._mend(raw)
            return bytes(raw)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            raw[self._place(len(raw))] = rng.choice((int(256 * chance()), 0, 255, 1))
        if chance() < 0.2 and len(raw) > 72:  # a lying number on an 8-byte boundary of the body
            at = 64 + 8 * int(chance() * ((len(raw) - 64) // 8))
            raw[at : at + 8] = struct.pack("<Q", rng.choice(WIDE))
        if chance() < 0.02:
            del raw[int(chance() * (len(raw) - 1)) + 1 :]
        if len(raw) >= 64 and chance() < 0.95:
            self._mend(raw, lies=chance() < 0.03)
        return bytes(raw)

    def _place(self, size: int) -> int:
        """Choose a byte: the header's and the sections' heads more often than the rows."""
        chance = self._rng.random
        return int(chance() * min(size, 64 if chance() < 0.3 else 64 + 48 if chance() < 0.6 else size))

    def _mend(self, raw: bytearray, lies: bool = False) -> None:
        raw[:4] = wire.MAGIC
        struct.pack_into("<H", raw, 4, wire.VERSION)
        struct.pack_into("<Q", raw, 40, self._rng.choice(WIDE) if lies else len(raw) - 64)
        struct.pack_into("<I", raw, 60, zlib.crc32(raw[:60]))

    def _right(self, op: int) -> bytes:
        rng = self._rng
        head = wire.Header(op, flags=rng.randrange(2), request=rng.randrange(1 << 16))
        if op not in wire.SECTIONED:
            return frame(head, [json.dumps(self._question(op)).encode()])
        sections = [self._section(op) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        if op == wire.PULL:
            sections = [s._replace(values=None, num_sightings=0, sightings=None) for s in sections]
        line = Line()
        wire.send_sections(line, head, sections)
        return b"".join(line.answers)

    def _section(self, op: int) -> wire.Section:
        rng, n = self._rng, self._rng.randrange(6)
        keys = np.array(rng.sample(KEYS.tolist(), n), np.uint64)
        dtype = rng.choice(wire.DTYPES) if op != wire.ASSIGN else "float32"
        values = rng.randbytes(wire.VALUE_BYTES[dtype] * 4 * n)
        if dtype == "float32" and rng.random() < 0.8:  # the others are NaN or infinite now and then
            values = np.array([rng.gauss(0, 1) for _ in range(4 * n)], np.float32).tobytes()
        rate, at = rng.choice((0.0, 1.0, 0.1, 1e300)), rng.randrange(2)
        seen = 2 if at and op == wire.PUSH else 0
        sightings = memoryview(np.ones((seen, n), np.uint32).tobytes()) if seen else None
        return wire.Section(self._tables[at], n, 4, keys.data.cast("B"), memoryview(values), rate, seen, sightings, dtype)

    def _question(self, op: int) -> Any:
        rng = self._rng
        if op == wire.TABLE and rng.random() < 0.5:
            wanted = spec(rng.choice("abc"), rng.choice((1, 4)), rng.choice(list(OPTIMIZERS)))
            return {"spec": wanted, "consistency": self._mode, "timeout_s": TIMEOUT_S, "staleness": STALENESS[self._mode]}
        if op == wire.TABLE:
            wanted, staleness = spec("alive", 4, "adam", ALIVE), rng.choice((0, 1, 2, -1, 2**70))
            return {"spec": wanted, "consistency": self._mode, "timeout_s": TIMEOUT_S, "staleness": staleness}
        if op == wire.LOAD:
            link = {"directory": f"{self._directory}/save-1", "manifest": {"tables": {"attacked": {}}}}
            whole = {"chain": [link], "keep_state": True}
            return rng.choice(({"apply": True}, whole, {"chain": [], "keep_state": False}, {"chain": 3}))
        if op == wire.SHRINK:
            return {"below": rng.choice((0.0, 1.0, -1.0, 1e300, "x", None))}
        return rng.choice(({}, [], None, 3, {"snapshot": "save-1"}, {"snapshot": 3, "cancel": True}))

    def _save(self) -> bytes:
        """Rarely: it waits for the disk."""
        self._saves += 1
        name = f"save-{self._saves}"
        parent = self._rng.choice((None, f"save-{self._saves - 1}", 7))
        ask = {"snapshot": name, "directory": f"{self._directory}/{name}", "parent": parent, "delta": self._rng.random() < 0.5}
        return frame(wire.Header(wire.SAVE), [json.dumps(ask).encode()])


class Target:
    """A server in this process; ``take`` gives it one frame as trainer 1."""

    def __init__(self, mode: str, directory: str, outcomes: Counter[str]) -> None:
        self.outcomes = outcomes
        self.service = Service(0, 1, 3)
        self._server = server.Server(f"unix:{directory}/socket", SECRET, self.service)
        self._core = self.service.tables
        made = (spec("attacked"), spec("alive", 4, "adam", ALIVE), spec("good"))
        self.attacked, alive, self._good = (self.service.open(s, Mode(mode, STALENESS[mode]), TIMEOUT_S) for s in made)
        self.tables = [self.attacked, alive]
        self._core.pull(self._good, GOOD, np.empty((100, 4), np.float32), True)
        self._line = Line()
        self._server._admit(wire.Header(wire.PROOF, trainer=0, incarnation=1, sequence=JOB))  # so its job is on
        self._mode, self._rows = mode, b""  # what the attacked tables hold; b"": not looked at since they changed

    def next_step(self) -> int:
        """Return the step that trainer 1 has to push next in sync, whatever failed before and whoever has ended."""
        mode: Any = self.service.consistency
        mode._waiting.failure = None
        mode._waiting.gone.clear()
        return int(mode.step) + 1

    def take(self, raw: bytes, piece: int) -> None:
        """Let the server read this frame and whatever it takes for the next ones; it may close the line."""
        pushes = len(raw) >= 8 and raw[6] == wire.PUSH
        if pushes and not self._rows:
            self._rows = self._seen()
        line = self._line
        line.feed(raw, piece)
        try:
            while line.left and self._server._one_request(line, 1, 1):  # type: ignore[arg-type]
                pass
        except FORESEEN:
            self.outcomes["closed"] += 1
            self._rows = b""
            return
        kind = line.answers[0][6] if line.answers else 0
        self.outcomes[{wire.DONE: "done", wire.ROWS: "rows", wire.ERROR: "refused", 0: "nothing"}.get(kind, "other")] += 1
        if pushes and kind == wire.ERROR and len(line.answers) == 1:
            assert self._rows == self._seen(), f"a push that was refused moved rows: {raw.hex()}"
            return
        if pushes and kind == wire.DONE and self._mode == "sync":  # the step of the others
            ones = Gradient(self.attacked, KEYS[:2], np.ones((2, 4), np.float32), 0.1)
            for trainer in (0, 2):
                with contextlib.suppress(FleetError):  # it was pushed already, or is not the next one
                    self.service.consistency.push(trainer, self.next_step(), [ones])
        self._rows = b""

    def greet(self, rng: random.Random) -> None:
        """Let a connection try to prove the secret, with a few bytes wrong."""
        line, proof = Line(), bytearray(frame(wire.Header(wire.PROOF, trainer=1, incarnation=2, sequence=JOB), [bytes(64)]))
        for _ in range(rng.randrange(4)):
            proof[rng.randrange(len(proof))] = rng.randrange(256)
        struct.pack_into("<I", proof, 60, zlib.crc32(proof[:60]))
        line.feed(bytes(proof[: rng.choice((len(proof), rng.randrange(len(proof))))]), rng.choice((1, 7, 1 << 30)))
        try:
            wire.greet_client(line, SECRET, lambda head: {"life": self._server._admit(head)})
        except FORESEEN:
            self.outcomes["turned away"] += 1
            return
        raise AssertionError("somebody without the secret was let in")

    def _seen(self) -> bytes:
        out = np.empty((2, len(KEYS), 4), np.float32)
        for table, rows in zip(self.tables, out, strict=True):
            self._core.pull(table, KEYS, rows, False)
        return out.tobytes()

    def check(self) -> None:
        """Fail if a row moved that no frame named: a frame may name this table too, but hardly one of these keys."""
        out = np.empty((100, 4), np.float32)
        self.service.tables.pull(self._good, GOOD, out, False)
        assert np.isfinite(out).all() and (out == 1).all(), "rows moved that no frame named"

    def close(self) -> None:
        self.service.clear()  # ends what is still being written
        self._server.close()


def attack(num_frames: int, seed: str) -> int:
    """Send frames to one server after the other, in this process; return an exit status."""
    os.environ["FLEET_LOG_LEVEL"] = "ERROR"  # not a line for each frame that is refused
    server.RETURN_S = -1.0  # nobody waits for another job's end
    began, done, errors, outcomes = time.monotonic(), 0, io.StringIO(), Counter[str]()
    with tempfile.TemporaryDirectory() as directory:
        while done < num_frames:
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)
            mode, rng = MODES[done // ROUND % len(MODES)], random.Random(f"{seed} {done}")
            target = Target(mode, directory, outcomes)
            frames, chance = Frames(rng, target, mode, directory), rng.random
            with contextlib.redirect_stderr(errors):
                for _ in range(min(ROUND, num_frames - done)):
                    if chance() < 0.01:
                        target.greet(rng)
                    else:
                        target.take(frames.next(), 1 + int(200 * chance()) if chance() < 0.1 else 1 << 30)
                    done += 1
            target.check()
            target.close()
            if "Traceback" in errors.getvalue():
                print(errors.getvalue()[-5000:])
                print(f"an exception that the server did not foresee, within {done} frames of seed {seed}")
                return 1
            errors.seek(0)
            errors.truncate()
            rate = done / (time.monotonic() - began)
            print(f"{seed}: {done} frames, {rate:.0f} a second: {dict(outcomes)}", flush=True)
    return 0


def main() -> int:
    """Share the frames out over processes of this program; the last word is the worst one's."""
    num_frames = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    if os.environ.get("PART"):
        return attack(num_frames, os.environ["PART"])
    seed, began = int(os.environ.get("SEED", "0")), time.monotonic()
    num = min(len(os.sched_getaffinity(0)), -(-num_frames // ROUND))
    shares = [num_frames * (k + 1) // num - num_frames * k // num for k in range(num)]
    parts = [
        subprocess.Popen([sys.executable, __file__, str(share), *sys.argv[2:]], env={**os.environ, "PART": f"{seed}.{k}"})
        for k, share in enumerate(shares)
    ]
    statuses = [part.wait() for part in parts]
    if any(statuses):
        print(f"FAILED with statuses {statuses}; seed {seed}")
        return 1
    print(f"{num_frames} frames of seed {seed} in {time.monotonic() - began:.0f} s: no crash, no hang, no exception unforeseen, "
          "no row moved that no frame named")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
