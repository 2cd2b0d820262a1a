"""Rivals that hold rows by key: OpenEmbedding 0.1.2's core, Redis, a dict of NumPy rows. Used by table.py and memory.py.

All begin with rows of zeros, ``key(i)`` of row number i, and take calls of 16,384 distinct rows in the same order; a push is one
step of Adagrad with gradients of 0.01. A rival that cannot be had raises Missing, which says why.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
DIM, IDS, STRIDE = 16, 16384, 2654435761  # openembedding_rival.cc has them too
RATE, GRADIENT, INITIAL, EPSILON = 0.01, 0.01, 0.1, 1e-7
U64 = NDArray[np.uint64]


class Missing(Exception):
    """A rival cannot be installed or built here."""


def key(number: U64) -> U64:
    """Return the keys of row numbers: splitmix64 of them, in 63 bits, as OpenEmbedding wants."""
    x = number + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)


def walk(call: int, rows: int) -> U64:
    """Return the keys of the call: distinct rows, far from each other."""
    return key((np.uint64(call * IDS) + np.arange(IDS, dtype=np.uint64)) * np.uint64(STRIDE) % np.uint64(rows))


class Store:
    """Somebody who is asked from Python: ``fill, pull, push`` take keys. ``timed`` counts only the calls, not the drawing."""

    name = ""
    gradient = np.full((IDS, DIM), GRADIENT, np.float32)

    def __init__(self, rows: int) -> None:
        self.rows, self.next_call = rows, 0
        for at in range(0, rows, IDS):
            self.make(key(np.arange(at, min(rows, at + IDS), dtype=np.uint64)))

    def make(self, keys: U64) -> None: ...
    def pull(self, keys: U64) -> Any: ...
    def push(self, keys: U64) -> None: ...
    def close(self) -> None: ...

    def first(self, count: int) -> NDArray[np.float32]:
        """Return the first weight of the first rows."""
        parts = [key(np.arange(at, min(count, at + IDS), dtype=np.uint64)) for at in range(0, count, IDS)]
        return np.concatenate([np.array(self.pull(part))[:, 0] for part in parts])

    def timed(self, verb: str, calls: int) -> float:
        seconds = 0.0
        for _ in range(calls):
            keys = walk(self.next_call, self.rows)
            self.next_call += 1
            began = time.perf_counter()
            getattr(self, verb)(keys)
            seconds += time.perf_counter() - began
        return seconds


class DictOfRows(Store):
    """What one writes first: {key: NumPy row}, and beside each row its sums."""

    name = "dict of NumPy rows"

    def make(self, keys: U64) -> None:
        self.held: dict[int, tuple[Any, Any]] = getattr(self, "held", {})
        for k in keys.tolist():
            self.held[k] = (np.zeros(DIM, np.float32), np.full(DIM, INITIAL, np.float32))

    def pull(self, keys: U64) -> Any:
        return np.stack([self.held[k][0] for k in keys.tolist()])

    def push(self, keys: U64) -> None:
        for k, g in zip(keys.tolist(), self.gradient, strict=True):
            row, sums = self.held[k]
            sums += g * g
            row -= RATE * g / (np.sqrt(sums) + EPSILON)


class Redis(Store):
    """A key-value server: MGET and MSET of 16,384 keys in one command, over AF_UNIX; Adagrad is the client's work."""

    name = "Redis 7 (MGET, MSET)"
    HOME = ROOT / "benchmarks" / ".redis"
    PACKAGES = ("redis-tools", "libjemalloc2", "libatomic1", "liblua5.1-0", "lua-bitop", "lua-cjson", "liblzf1", "libhiredis0.14")

    def __init__(self, rows: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        program, environment = self.program()
        address = f"{self.directory.name}/redis"
        options = ["--port", "0", "--unixsocket", address, "--save", "", "--appendonly", "no", "--dir", self.directory.name]
        self.server = subprocess.Popen([program, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.line = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            try:
                self.line.connect(address)
                break
            except OSError:
                time.sleep(0.05)
        else:
            self.close()
            raise Missing("redis-server does not start")
        super().__init__(rows)

    @classmethod
    def program(cls) -> tuple[str, dict[str, str]]:
        """Return redis-server and its environment: the system's own, or Debian's package unpacked beside the benchmarks."""
        if found := shutil.which("redis-server"):
            return found, dict(os.environ)
        own = cls.HOME / "usr/bin/redis-check-rdb"  # redis-server is another name of it
        if not own.exists():
            cls.HOME.mkdir(exist_ok=True)
            try:
                subprocess.run(["apt-get", "download", *cls.PACKAGES], cwd=cls.HOME, check=True, capture_output=True, timeout=300)
                for package in cls.HOME.glob("*.deb"):
                    subprocess.run(["dpkg", "-x", str(package), str(cls.HOME)], check=True, capture_output=True)
            except (OSError, subprocess.SubprocessError) as error:
                raise Missing(f"no redis-server, and Debian's package cannot be had: {error}") from None
        server = cls.HOME / "redis-server"
        if not server.exists():
            server.symlink_to(own)
        libraries = ":".join(str(p) for p in sorted(cls.HOME.glob("usr/lib/*-linux-gnu")))
        return str(server), {**os.environ, "LD_LIBRARY_PATH": libraries}

    def make(self, keys: U64) -> None:
        values = np.zeros((len(keys), 2 * DIM), np.float32)
        values[:, DIM:] = INITIAL
        self._set(keys, values)

    def pull(self, keys: U64) -> Any:
        return self._get(keys)[:, :DIM]

    def push(self, keys: U64) -> None:
        values = self._get(keys).copy()
        gradient = self.gradient[: len(keys)]
        values[:, DIM:] += gradient * gradient
        values[:, :DIM] -= RATE * gradient / (np.sqrt(values[:, DIM:]) + EPSILON)
        self._set(keys, values)

    def close(self) -> None:
        self.line.close()
        self.server.kill()
        self.server.wait()
        self.directory.cleanup()

    def _get(self, keys: U64) -> NDArray[np.float32]:
        record = np.dtype([("head", "S4"), ("key", "<u8"), ("end", "S2")])
        asked = np.empty(len(keys), record)
        asked["head"], asked["key"], asked["end"] = b"$8\r\n", keys, b"\r\n"
        self.line.sendall(b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1) + asked.tobytes())
        size = 8 * DIM
        answer = np.dtype([("head", f"S{len(str(size)) + 3}"), ("value", "<f4", 2 * DIM), ("end", "S2")])
        head = b"*%d\r\n" % len(keys)
        raw = self._read(len(head) + answer.itemsize * len(keys))
        if raw[: len(head)] != head:
            raise SystemExit(f"Redis answers {raw[:60]!r}")
        found: NDArray[np.float32] = np.frombuffer(raw, answer, offset=len(head))["value"]
        return found

    def _set(self, keys: U64, values: NDArray[np.float32]) -> None:
        size = b"$%d\r\n" % values[0].nbytes
        head, value = [("a", "S4"), ("key", "<u8"), ("b", "S2")], [("c", f"S{len(size)}"), ("value", "<f4", 2 * DIM), ("d", "S2")]
        record = np.dtype([*head, *value])
        told = np.empty(len(keys), record)
        told["a"], told["key"], told["b"], told["c"], told["value"], told["d"] = b"$8\r\n", keys, b"\r\n", size, values, b"\r\n"
        self.line.sendall(b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(keys) + 1) + told.tobytes())
        if self._read(5) != b"+OK\r\n":
            raise SystemExit("Redis refused MSET")

    def _read(self, size: int) -> bytes:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while len(view):
            got = self.line.recv_into(view)
            if not got:
                raise SystemExit("Redis closed the line")
            view = view[got:]
        return bytes(buffer)


class OpenEmbedding:
    """openembedding_rival.cc, built against the library that OpenEmbedding's source package carries."""

    name = "OpenEmbedding 0.1.2, server in process"
    HOME = ROOT / "benchmarks" / ".openembedding"

    def __init__(self, rows: int) -> None:
        reader, writer = os.pipe()
        self.process = subprocess.Popen([str(self.program()), str(writer)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, text=True, pass_fds=[writer])  # fmt: skip
        os.close(writer)
        self.answers = os.fdopen(reader)
        self.empty_bytes = 0
        if int(self.ask("fill", rows)) != rows:
            raise SystemExit("wrong answer: OpenEmbedding holds other rows")

    @classmethod
    def program(cls) -> Path:
        """Return the driver, downloaded and compiled at first use."""
        program = cls.HOME / "driver"
        source = ROOT / "benchmarks" / "openembedding_rival.cc"
        if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
            return program
        compiler = os.environ.get("CXX", "g++")
        library = cls.HOME / "libcexb_pack.so"
        try:
            if not library.exists():
                cls.HOME.mkdir(exist_ok=True)
                # The package's setup.py wants TensorFlow; only two of its files are needed, so it is fetched and not built.
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(cls.HOME),
                           "openembedding==0.1.2"]  # fmt: skip
                subprocess.run(command, check=True, capture_output=True, timeout=900)
                with tarfile.open(next(cls.HOME.glob("openembedding-0.1.2.tar.gz"))) as package:
                    for name in ("entry/c_api.h", "libcexb_pack.so"):
                        held = package.extractfile(f"openembedding-0.1.2/openembedding/{name}")
                        assert held is not None
                        (cls.HOME / Path(name).name).write_bytes(held.read())
            command = [compiler, "-O3", "-std=c++17", f"-I{cls.HOME}", str(source), str(library), f"-Wl,-rpath,{cls.HOME}",
                       "-o", str(program)]  # fmt: skip
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, StopIteration, tarfile.TarError, KeyError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", b"") or b""
            raise Missing(f"OpenEmbedding 0.1.2 cannot be had: {error}; {told[-300:].decode(errors='replace')}") from None
        return program

    def ask(self, command: str, count: int) -> str:
        assert self.process.stdin
        self.process.stdin.write(f"{command} {count}\n")
        self.process.stdin.flush()
        answer = self.answers.readline()
        if not answer:
            raise Missing(f"OpenEmbedding's driver ended during {command!r} with status {self.process.wait()}")
        return answer

    def timed(self, verb: str, calls: int) -> float:
        return float(self.ask(verb, calls))

    def first(self, count: int) -> NDArray[np.float32]:
        return np.array(self.ask("rows", count).split(), np.float32)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.answers.close()
