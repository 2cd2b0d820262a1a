"""A server process and the link that a trainer has to it, for table.py. table.py has made fleet importable."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleet.launch.spec import MALLOC
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import SocketLink
from fleet.parameter_server.spec import TableSpec
from fleet.parameter_server.tables import Gradient

ROOT = Path(__file__).resolve().parents[2]
DIM, IDS = 16, 16384
U64 = NDArray[np.uint64]


def splitmix64(x: U64) -> U64:
    """Scramble a counter, as table_rival.cc does."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Far:
    """A server process and the link that a trainer has to it."""

    def __init__(self, address: str, rows: int, spec: TableSpec | None = None) -> None:
        environment = {
            **os.environ, "FLEET_ROLE": "server", "FLEET_SERVER_INDEX": "0", "FLEET_SERVERS": address, "FLEET_SECRET": "benchmark",
            "FLEET_WORLD_SIZE": "1", "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ":".join(f"{k}={v}" for k, v in MALLOC.items()),
        }  # fmt: skip
        self.server = subprocess.Popen(
            [sys.executable, "-m", "fleet.parameter_server.server"], env=environment, stdout=subprocess.DEVNULL
        )
        self.link = SocketLink(address, 0, "benchmark", 0, 1, 60.0, 1)
        spec = spec or TableSpec("rows", DIM, "rowwise_adagrad", (), "constant", (0.0, 0.0), 0, 0)
        self.table = self.link.open(spec.to_json(), Mode("async", 0), 60.0)
        self.rows, self.calls = min(rows, 1_000_000), 0  # fewer than in process: the question here is the way, not the table
        self.buffer = np.empty((IDS, DIM), np.float32)
        for at in range(0, self.rows, 1 << 18):
            number = np.arange(at, min(self.rows, at + (1 << 18)), dtype=np.uint64)
            self.calls += 1
            weights = np.repeat((number % np.uint64(1000)).astype(np.float32)[:, None], DIM, axis=1)
            self.link.assign(self.calls, self.table, splitmix64(number), weights)

    def check(self) -> None:
        number = np.arange(IDS, dtype=np.uint64)
        self.link.ask_pull(0, False, [(self.table, DIM, splitmix64(number), "float32")])
        self.link.take_pull([self.buffer])
        if not np.array_equal(self.buffer[:, 3], (number % np.uint64(1000)).astype(np.float32)):
            raise SystemExit("wrong answer: the server gives other rows than were sent")

    def pull(self, calls: int) -> float:
        def once(keys: U64) -> None:
            self.link.ask_pull(0, False, [(self.table, DIM, keys, "float32")])
            self.link.take_pull([self.buffer])

        return self._timed(calls, once)

    def push(self, calls: int) -> float:
        gradient = np.full((IDS, DIM), 0.01, np.float32)

        def once(keys: U64) -> None:
            self.calls += 1
            self.link.push(self.calls, self.calls, [Gradient(self.table, keys, gradient, 0.01)])

        return self._timed(calls, once)

    def _timed(self, calls: int, work: Callable[[U64], object]) -> float:
        drawn = np.random.default_rng(0).integers(0, self.rows, (calls, IDS)).astype(np.uint64)
        began = time.perf_counter()
        for numbers in drawn:
            work(splitmix64(numbers))
        return time.perf_counter() - began

    def close(self) -> None:
        self.link.close()
        self.server.wait(10)
