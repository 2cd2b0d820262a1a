"""How fast are tables written and read back, how long does a pull wait meanwhile, and how large is a delta? One JSON line each.

    python benchmarks/snapshot.py [--rows 4000000] [--repeats 5] [--directory DIR] [--record]

One table of 16 floats a row with row-wise Adagrad, in this process, written and loaded as a server does it. Beside it the disk: as
many bytes written plainly and fsynced, and read plainly, in turns with ours in the same directory; both read what is no longer in
the page cache. "A core" is a second of processor time, of all threads. The longest pull is that of a thread which pulls 4,096
random rows again and again while another one pushes as many, from the cut until all is on the disk; `without` is the longest of as
long a time without a snapshot: what the machine does anyway.
Checked first: a full snapshot and a chain with a delta load to the rows that were written, to the bit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from parts import record  # noqa: E402

from fleet.parameter_server.snapshot import manifest as manifests  # noqa: E402
from fleet.parameter_server.snapshot.loading import read_table  # noqa: E402
from fleet.parameter_server.snapshot.manifest import Link  # noqa: E402
from fleet.parameter_server.snapshot.saving import Saver  # noqa: E402
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec  # noqa: E402
from fleet.parameter_server.tables import Gradient, Tables  # noqa: E402

DIM, IDS, BLOCK = 16, 4096, 1 << 20
ROW_BYTES = 8 + 4 * DIM + 4  # key, weights, row-wise Adagrad's float
TOUCHED = 0.05  # of the rows, before a delta
SPEC = TableSpec("t", DIM, "rowwise_adagrad", (), "uniform", (-0.01, 0.01), 1, 0)


class Job:
    """One server's tables, and its snapshots."""

    def __init__(self, rows: int) -> None:
        self.tables = Tables(0, 1)
        self.number = self.tables.open(SPEC.to_json())
        self.saver = Saver(self.tables, 1)
        self.rows = rows
        for at in range(0, rows, 1 << 16):
            self.push(np.arange(at, min(rows, at + (1 << 16)), dtype=np.uint64))

    def push(self, keys: Any) -> None:
        values = np.sin(keys[:, None] % np.uint64(1000) + np.arange(DIM)).astype(np.float32)
        self.tables.apply(Gradient(self.number, keys, values, 0.1), 1, "benchmark")

    def begin(self, directory: str, parent: Link | None = None) -> Callable[[], Link]:
        """Cut; return what waits until all is on the disk and the manifest is written."""
        name, delta = os.path.basename(directory), parent is not None
        os.mkdir(directory)
        self.saver.begin(directory, name, parent.manifest["id"] if parent is not None else None, delta, lambda: 1)

        def end() -> Link:
            while not (answer := self.saver.outcome(name))["done"]:
                time.sleep(0.001)
            whole = all(part["complete"] for part in answer["parts"].values())
            before = None
            if parent is not None and not whole:
                where = os.path.relpath(parent.directory, directory)
                before = {"directory": where, "id": parent.manifest["id"], "checksum": parent.manifest["checksum"]}
            tables = {"t": {"spec": SPEC.to_json(), "parts": [answer["parts"]["t"]]}}
            about = {"id": name, "job": "benchmark", "parent": before, "step": 1, "num_servers": 1, "applied": [{}]}
            return manifests.write(directory, {**about, "tables": tables})

        return end

    def load(self, link: Link) -> Any:
        return read_table(self.tables.core, SPEC, manifests.chain(link.directory), (0, NUM_SHARDS))

    def check(self, link: Link) -> None:
        """Fail unless a snapshot loads to the rows that are in memory now."""
        again, mine = self.load(link), self.tables.rows[self.number]
        if again.size != mine.size:
            raise SystemExit(f"wrong answer: {again.size} rows instead of {mine.size}")
        for at in range(0, self.rows, 1 << 16):
            keys = np.arange(at, min(self.rows, at + (1 << 16)), dtype=np.uint64)
            if any(a.tobytes() != b.tobytes() for a, b in zip(mine.read(keys), again.read(keys), strict=True)):
                raise SystemExit("wrong answer: a row is not the one that was written")


class Timed(NamedTuple):
    seconds: float
    cpu_s: float


def timed(work: Callable[[], Any]) -> Timed:
    began, cpu = time.monotonic(), time.process_time()
    work()
    return Timed(time.monotonic() - began, time.process_time() - cpu)


def files_of(link: Link) -> list[Path]:
    return sorted(Path(link.directory).rglob("*.safetensors"))


def forget(paths: list[Path]) -> None:
    """Take files out of the page cache."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def write_plainly(path: Path, num_bytes: int) -> None:
    block = np.random.default_rng(0).bytes(BLOCK)
    with open(path, "wb", buffering=0) as file:
        for at in range(0, num_bytes, BLOCK):
            file.write(block[: min(BLOCK, num_bytes - at)])
        os.fsync(file.fileno())


def read_plainly(path: Path) -> None:
    buffer = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def longest_pull(job: Job, until: Callable[[], Any]) -> tuple[float, int]:
    """Pull and push in two threads until ``until`` returns; return the longest pull in ms, and how many there were."""
    going, longest, count = threading.Event(), 0.0, 0

    def push() -> None:
        rng = np.random.default_rng(2)
        values = np.full((IDS, DIM), 1e-3, np.float32)
        while not going.is_set():
            job.tables.apply(Gradient(job.number, rng.integers(0, job.rows, IDS, dtype=np.uint64), values, 0.1), 1, "benchmark")

    def pull() -> None:
        nonlocal longest, count
        rng, out = np.random.default_rng(3), np.empty((IDS, DIM), np.float32)
        while not going.is_set():
            keys = rng.integers(0, job.rows, IDS, dtype=np.uint64)
            began = time.monotonic()
            job.tables.pull(job.number, keys, out, False)
            longest, count = max(longest, time.monotonic() - began), count + 1

    threads = [threading.Thread(target=work) for work in (push, pull)]
    for thread in threads:
        thread.start()
    try:
        until()
    finally:
        going.set()
        for thread in threads:
            thread.join()
    return 1e3 * longest, count


def measure(rows: int, repeats: int, directory: Path) -> list[dict[str, Any]]:
    """Take all figures in turns; return the lines of the results."""
    job, num_bytes = Job(rows), rows * ROW_BYTES
    names = ("write", "write cpu", "disk write", "load", "load cpu", "disk read", "stall", "quiet", "delta")
    found: dict[str, list[float]] = {name: [] for name in names}
    plain = directory / "plain"
    for number in range(repeats):
        links: list[Link] = []
        full = str(directory / f"full-{number}")
        took = timed(lambda: links.append(job.begin(full)()))  # noqa: B023 - called here
        found["write"].append(num_bytes / took.seconds / 1e9)
        found["write cpu"].append(num_bytes / took.cpu_s / 1e9)
        found["disk write"].append(num_bytes / timed(lambda: write_plainly(plain, num_bytes)).seconds / 1e9)
        forget([*files_of(links[0]), plain])
        took = timed(lambda: job.load(links[0]))  # noqa: B023
        found["load"].append(num_bytes / took.seconds / 1e9)
        found["load cpu"].append(num_bytes / took.cpu_s / 1e9)
        found["disk read"].append(num_bytes / timed(lambda: read_plainly(plain)).seconds / 1e9)
        if number == 0:
            job.check(links[0])
        touched = np.unique(np.random.default_rng(number).integers(0, rows, int(rows * TOUCHED), dtype=np.uint64))
        job.push(touched)
        delta = job.begin(str(directory / f"delta-{number}"), links[0])()
        written = sum(path.stat().st_size for path in Path(delta.directory).rglob("*") if path.is_file())
        found["delta"].append(written / (len(touched) * ROW_BYTES))
        if number == 0:
            job.check(delta)
        beside = str(directory / f"beside-{number}")
        began = time.monotonic()
        found["stall"].append(longest_pull(job, lambda: job.begin(beside)())[0])  # noqa: B023
        lasted = time.monotonic() - began
        found["quiet"].append(longest_pull(job, lambda: time.sleep(lasted))[0])  # noqa: B023
        for path in [*directory.iterdir()]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return lines(found, rows)


def lines(found: dict[str, list[float]], rows: int) -> list[dict[str, Any]]:
    middle = {name: record.spread(values) for name, values in found.items()}
    what = f"{rows:,} rows of {DIM} floats, row-wise Adagrad"

    def line(question: str, name: str, unit: str, rival: str, beside: str | float, lower: bool = False) -> dict[str, Any]:
        value, spread = middle[name]
        theirs, their_spread = middle[beside] if isinstance(beside, str) else (beside, None)
        ratio = theirs / value if lower else value / theirs
        return {"question": f"{question}, {what}", "value": value, "spread": spread, "unit": unit, "rival": rival,
                "rival_value": theirs, "rival_spread": their_spread, "ratio": ratio}  # fmt: skip

    stall = line("longest pull while a snapshot is written under pulls and pushes", "stall", "ms", "asked for", 20.0, lower=True)
    return [
        line("snapshot written and fsynced", "write", "GB/s", "plain write and fsync of as many bytes", "disk write"),
        line("snapshot written, per core", "write cpu", "GB/CPU-s", "asked for", 1.0),
        line("snapshot loaded, page cache dropped", "load", "GB/s", "plain read of as many bytes", "disk read"),
        line("snapshot loaded, per core", "load cpu", "GB/CPU-s", "asked for", 0.8),
        {**stall, "without": middle["quiet"][0], "without_spread": middle["quiet"][1]},
        line("bytes of a delta over those of touched rows", "delta", "x", "asked for", 1.2, lower=True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directory", help="on the disk that is measured; the default is the system's for temporary files")
    parser.add_argument("--record", action="store_true", help="append the JSON lines to benchmarks/results/snapshot.jsonl")
    options = parser.parse_args()
    if options.rows < 100_000 or options.repeats < 1:
        parser.error("--rows must be at least 100000, --repeats at least 1")
    sys.setswitchinterval(1e-4)  # a pull waits for the tables, not for Python's own lock
    command = " ".join(["python benchmarks/snapshot.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="fleet-snapshot-", dir=options.directory) as directory:
        for line in measure(options.rows, options.repeats, Path(directory)):
            record.write("snapshot", line, command, options.record)


if __name__ == "__main__":
    main()
