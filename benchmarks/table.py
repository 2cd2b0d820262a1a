"""How many rows a second does one table serve? In process, beside the hash map that one would write oneself.

    python benchmarks/table.py [--rows 6000000] [--repeats 7] [--calls 60] [--only in_process] [--record]

The rival is ``boost::unordered_flat_map`` and a dense array of rows (table_rival.cc), compiled here with ``g++ -O3`` and run in
turns with ours, on the same ids and the same gradients. The answer is checked first: after the same pushes both hold the same
weights. One thread, 16 floats a row, 16,384 random existing ids a call. Exit status 69: a compiler or boost is missing.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from parts import record, table_rivals  # noqa: E402
from parts.far import Far, splitmix64  # noqa: E402

from fleet.parameter_server import native  # noqa: E402
from fleet.parameter_server.spec import TableSpec  # noqa: E402
from fleet.parameter_server.tables import Gradient  # noqa: E402

DIM, IDS, SALT = 16, 16384, 20240607
U64 = NDArray[np.uint64]


class Figure(NamedTuple):
    """One line of the results. Values are medians over the repeats; spreads are (lowest, highest)."""

    question: str
    value: float
    spread: tuple[float, float]
    unit: str = "M rows/s"
    rival: str = ""
    rival_value: float | None = None
    rival_spread: tuple[float, float] | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.rival_value is None else self.value / self.rival_value


class Rival:
    """table_rival.cc as a process that answers one line per command."""

    def __init__(self, directory: Path) -> None:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            leave(f"there is no compiler {compiler}: install g++ (Debian: apt-get install g++) or set CXX")
        program = directory / "table_rival"
        built = subprocess.run(
            [compiler, "-O3", "-std=c++17", str(ROOT / "benchmarks" / "table_rival.cc"), "-o", str(program)],
            capture_output=True, text=True,
        )  # fmt: skip
        if built.returncode != 0:
            if "boost/" in built.stderr:
                leave("the rival needs boost 1.81 or newer (Debian: apt-get install libboost1.81-dev)")
            leave(f"{compiler} could not build table_rival.cc:\n{built.stderr}")
        self.process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str, count: int) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{command} {count}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the rival ended during {command!r} with status {self.process.wait()}")
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def make_table(optimizer: str, initializer: str) -> Any:
    """Return an empty core.Table."""
    return native.load().Table(
        dim=DIM, optimizer=optimizer, hyper={"epsilon": 1e-6}, initializer=initializer,
        init_args=(0.0, 0.0 if initializer == "constant" else 0.01), seed=0, salt=SALT,
    )  # fmt: skip


class Ours:
    """A core.Table with the same rows as the rival's, driven with the same ids."""

    def __init__(self, rows: int, optimizer: str) -> None:
        self.table = make_table(optimizer, "constant")
        self.together: Barrier | None = None  # where several users of the table begin their work
        self.rows, self.next_call = rows, 0
        self.buffer = np.empty((IDS, DIM), np.float32)
        for at in range(0, rows, 1 << 18):
            number = np.arange(at, min(rows, at + (1 << 18)), dtype=np.uint64)
            start = (number % np.uint64(1000)).astype(np.float32)[:, None] + np.arange(DIM, dtype=np.float32)
            self.table.assign(splitmix64(number), start)
        self.counter = np.arange(IDS, dtype=np.uint64)

    def twin(self) -> Ours:
        """Return another user of the same table, with ids and a buffer of its own."""
        other = copy.copy(self)
        other.buffer, other.next_call = np.empty_like(self.buffer), 1 << 20
        self.together = other.together = Barrier(2)
        return other

    def draw(self) -> U64:
        base = np.uint64(self.next_call * IDS)
        self.next_call += 1
        return splitmix64(splitmix64(~(base + self.counter)) % np.uint64(self.rows))

    def pull(self, calls: int) -> float:
        return self._timed(calls, lambda ids: self.table.pull(ids, self.buffer, False))

    def push(self, calls: int) -> float:
        self.buffer[:] = 0.01
        return self._timed(calls, lambda ids: self.table.push(ids, self.buffer, 0.01, 1))

    def _timed(self, calls: int, work: Callable[[U64], object]) -> float:
        drawn = [self.draw() for _ in range(calls)]
        if self.together is not None:
            self.together.wait()
        begin = time.perf_counter()
        for ids in drawn:
            work(ids)
        return time.perf_counter() - begin


def check_same_answer(ours: Ours, rival: Rival) -> None:
    """Push the same calls to both and compare rows; also warms both up."""
    ours.push(20)
    rival.ask("push", 20)
    count = min(ours.rows, 100_000)
    theirs = np.array(rival.ask("rows", count).split(), np.float64)
    weights = ours.table.read(splitmix64(np.arange(count, dtype=np.uint64)))[1][:, 0]
    worst = float(np.abs(weights - theirs).max())
    moved = int((weights != np.arange(count) % 1000).sum())
    if worst > 1e-4 or moved == 0:
        raise SystemExit(f"wrong answer: weights differ from the rival's by {worst}, {moved} of {count} rows moved")


def figure(name: str, seconds: list[float], rows: int, rival: str = "", rival_seconds: list[float] | None = None) -> Figure:
    rates = sorted(rows / s / 1e6 for s in seconds)
    mine = Figure(name, statistics.median(rates), (rates[0], rates[-1]))
    if not rival_seconds:
        return mine
    others = sorted(rows / s / 1e6 for s in rival_seconds)
    return mine._replace(rival=rival, rival_value=statistics.median(others), rival_spread=(others[0], others[-1]))


def in_process(options: argparse.Namespace) -> Iterator[Figure]:
    """Row-wise Adagrad beside the flat map, then Paddle's element-wise Adagrad."""
    with tempfile.TemporaryDirectory() as directory:
        rival = Rival(Path(directory))
        try:
            ours = Ours(options.rows, "rowwise_adagrad")
            if int(rival.ask("fill", options.rows)) != ours.table.size:
                raise SystemExit("wrong answer: the two tables differ in size")
            check_same_answer(ours, rival)
            times: dict[str, list[float]] = {"pull": [], "push": [], "their pull": [], "their push": []}
            for _ in range(options.repeats):  # A B A B
                times["pull"].append(ours.pull(options.calls))
                times["their pull"].append(float(rival.ask("pull", options.calls)))
                times["push"].append(ours.push(options.calls))
                times["their push"].append(float(rival.ask("push", options.calls)))
        finally:
            rival.close()
    rows = options.calls * IDS
    name = "boost::unordered_flat_map + dense rows"
    yield figure("table pull in process", times["pull"], rows, name, times["their pull"])
    yield figure("table push in process, row-wise Adagrad", times["push"], rows, name, times["their push"])
    del ours
    for optimizer, spoken in (("adagrad", "element-wise Adagrad"), ("adam", "Adam")):
        ours = Ours(options.rows, optimizer)
        ours.push(20)
        yield figure(f"table push in process, {spoken}", [ours.push(options.calls) for _ in range(options.repeats)], rows)
        del ours


def inserts(options: argparse.Namespace) -> Iterator[Figure]:
    """Pulls that make rows: each call brings 16,384 ids that the table has not seen. Memory comes from the system as it grows."""
    calls, seconds = max(1, options.rows // IDS), []
    buffer = np.empty((IDS, DIM), np.float32)
    for _ in range(options.repeats):
        table, spent = make_table("rowwise_adagrad", "uniform"), 0.0
        for call in range(calls):
            ids = splitmix64(np.arange(call * IDS, (call + 1) * IDS, dtype=np.uint64))
            begin = time.perf_counter()
            table.pull(ids, buffer, True)
            spent += time.perf_counter() - begin
        if table.size != calls * IDS:
            raise SystemExit(f"wrong answer: {table.size} rows instead of {calls * IDS}")
        seconds.append(spent)
    yield figure("table insert in process, pulls that make rows", seconds, calls * IDS)


def two_threads(options: argparse.Namespace) -> Iterator[Figure]:
    """The same table used by one thread and by two at once; the ratio is how much more two do."""
    if (os.cpu_count() or 1) < 2:
        return
    single = Ours(options.rows, "rowwise_adagrad")
    first = copy.copy(single)
    second = first.twin()
    rows = options.calls * IDS
    for verb in ("pull", "push"):
        alone, together = [], []
        for _ in range(options.repeats):
            alone.append(getattr(single, verb)(options.calls))
            together.append(longest([getattr(first, verb), getattr(second, verb)], options.calls) / 2)
        yield figure(f"table {verb} in process, two threads", together, rows, "one thread", alone)


def longest(work: list[Callable[[int], float]], calls: int) -> float:
    """Run each in a thread of its own, begun together once their ids are drawn; return the longest time."""
    with ThreadPoolExecutor(len(work)) as pool:
        return max(pool.map(lambda one: one(calls), work))


def over_sockets(options: argparse.Namespace) -> Iterator[Figure]:
    """One trainer's link to one server process: pull and push of 16,384 ids a call, over AF_UNIX and over TCP."""
    with tempfile.TemporaryDirectory() as directory:
        port = socket.socket()
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", 0))  # held, not listened on: the server can bind it, nobody else is given it
        ways = {"AF_UNIX": f"unix:{directory}/server.sock", "TCP": f"tcp:127.0.0.1:{port.getsockname()[1]}"}
        far = {way: Far(address, options.rows) for way, address in ways.items()}
        try:
            for one in far.values():
                one.check()
            times: dict[str, list[float]] = {f"{verb} over {way}": [] for verb in ("pull", "push") for way in ways}
            for _ in range(options.repeats):
                for way, one in far.items():
                    times[f"pull over {way}"].append(one.pull(options.calls))
                    times[f"push over {way}"].append(one.push(options.calls))
        finally:
            for one in far.values():
                one.close()
    for name, seconds in times.items():
        yield figure(f"table {name}, one trainer, one server", seconds, options.calls * IDS)


class Served(table_rivals.Store):
    """Our side beside the rivals: element-wise Adagrad on the rows of table_rivals, on a server over AF_UNIX or in process."""

    def __init__(self, rows: int, address: str) -> None:
        hyper = {"epsilon": table_rivals.EPSILON, "initial_accumulator_value": table_rivals.INITIAL}
        spec = TableSpec("rows", DIM, "adagrad", tuple(sorted(hyper.items())), "constant", (0.0, 0.0), 0, 0)
        self.far = Far(address, 0, spec) if address else None
        self.table = None if address else spec.make(native.load())
        self.buffer = np.empty((IDS, DIM), np.float32)
        super().__init__(rows)

    def make(self, keys: U64) -> None:
        self.pull(keys, create=True)

    def pull(self, keys: U64, create: bool = False) -> Any:
        out = self.buffer[: len(keys)]
        if self.far is None:
            self.table.pull(keys, out, create)
        else:
            self.far.link.ask_pull(0, create, [(self.far.table, DIM, keys, "float32")])
            self.far.link.take_pull([out])
        return out

    def push(self, keys: U64) -> None:
        if self.far is None:
            self.table.push(keys, self.gradient, table_rivals.RATE, 1)
        else:
            self.far.calls += 1
            self.far.link.push(self.far.calls, self.far.calls, [Gradient(self.far.table, keys, self.gradient, table_rivals.RATE)])

    def close(self) -> None:
        if self.far is not None:
            self.far.close()


def rivals(options: argparse.Namespace) -> Iterator[Figure]:
    """Other stores of rows, each at a size that it reaches in seconds; ours on the same keys, behind a socket if they are."""
    for kind, rows, calls, remote in (
        (table_rivals.OpenEmbedding, min(options.rows, 2_000_000), max(1, options.calls // 4), True),
        (table_rivals.Redis, min(options.rows, 1_000_000), max(1, options.calls // 6), True),
        (table_rivals.DictOfRows, min(options.rows, 200_000), max(1, options.calls // 20), False),
    ):
        with tempfile.TemporaryDirectory() as directory:
            try:
                theirs = kind(max(rows, IDS))
            except table_rivals.Missing as missing:
                yield Figure(f"table beside {kind.name}", 0.0, (0.0, 0.0), rival=f"not measured: {missing}")
                continue
            ours = Served(max(rows, IDS), f"unix:{directory}/server.sock" if remote else "")
            try:
                yield from _beside(ours, theirs, options.repeats, calls, remote)
            finally:
                ours.close()
                theirs.close()


def _beside(ours: Served, theirs: Any, repeats: int, calls: int, remote: bool) -> Iterator[Figure]:
    for one in (ours, theirs):
        one.timed("push", 3)
    mine, other = ours.first(min(ours.rows, 50_000)), theirs.first(min(ours.rows, 50_000))
    if np.abs(mine - other).max() > 1e-6 or not mine.any():
        raise SystemExit(f"wrong answer: weights differ from those of {theirs.name} by {np.abs(mine - other).max()}")
    times: dict[str, tuple[list[float], list[float]]] = {"pull": ([], []), "push": ([], [])}
    for _ in range(repeats):  # A B A B
        for verb, (here, there) in times.items():
            here.append(ours.timed(verb, calls))
            there.append(theirs.timed(verb, calls))
    where = "over AF_UNIX" if remote else "in process"
    for verb, (here, there) in times.items():
        spoken = f"table {verb} {where}, element-wise Adagrad, {ours.rows:,} rows, beside {theirs.name}"
        yield figure(spoken, here, calls * IDS, theirs.name, there)


# Each group is one question's figures.
GROUPS: dict[str, Callable[[argparse.Namespace], Iterator[Figure]]] = {
    "in_process": in_process, "inserts": inserts, "two_threads": two_threads, "over_sockets": over_sockets,
    "rivals": rivals,
}  # fmt: skip


def leave(reason: str) -> None:
    print(f"benchmarks/table.py: {reason}", file=sys.stderr)
    raise SystemExit(69)


def show(one: Figure) -> None:
    beside = "" if one.ratio is None else f"   {one.rival_value:6.1f}  {one.ratio:5.2f}x  {one.rival}"
    print(f"{one.question:<46} {one.value:6.1f} {one.unit} ({one.spread[0]:.1f} to {one.spread[1]:.1f}){beside}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--repeats", type=int, default=7, help="at least 5")
    parser.add_argument("--calls", type=int, default=60, help="calls of 16,384 ids in one repeat")
    parser.add_argument("--only", choices=sorted(GROUPS), action="append", help="a group of figures; all if absent")
    parser.add_argument("--record", action="store_true", help="append the JSON lines to benchmarks/results/table.jsonl")
    options = parser.parse_args()
    if options.repeats < 5 or options.rows < 1 or options.calls < 1:
        parser.error("--repeats must be at least 5, --rows and --calls at least 1")
    command = " ".join(["python benchmarks/table.py", *sys.argv[1:]])
    info = native.load().core_info()
    core = {"simd": info["simd"], "huge_pages": info["huge_pages"]}
    figures = []
    for name in options.only or list(GROUPS):
        for one in GROUPS[name](options):
            show(one)
            figures.append(one)
    for one in figures:
        measured = not one.rival.startswith("not measured")
        record.write("table", {**one._asdict(), "ratio": one.ratio, "core": core}, command, options.record and measured)


if __name__ == "__main__":
    main()
