"""How much memory does a table take, over the bytes of its weights and row state? Resident memory of a fresh process per store.

    python benchmarks/memory.py [--rows 20000000] [--repeats 3] [--record]

16 floats a row; row-wise Adagrad keeps one float beside them, element-wise Adagrad 16, Adam 32. Rivals hold the same: the map
that one writes oneself (boost::unordered_flat_map and dense arrays), OpenEmbedding 0.1.2, Paddle 2.6.2's server, a dict of
NumPy rows.
Those that fill slowly get fewer rows (their line says how many): memory a row hardly depends on the number. The answer is
checked first: each store says how many rows it holds, or gives them back.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from parts import paddle262, record, table_rivals  # noqa: E402
from parts.table_rivals import Missing  # noqa: E402

DIM = 16
STATE = {"row-wise Adagrad": 1, "element-wise Adagrad": DIM, "Adam": 2 * DIM}  # floats
JOB = ROOT / "benchmarks" / "jobs" / "memory_paddle262.py"
Measure = Callable[[int], float]  # rows -> bytes a row


def resident(pid: int | str = "self") -> int:
    """Return the resident bytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def child(store: str, rows: int) -> None:
    """Fill one store in this process; print how much it grew."""
    from fleet.parameter_server import native

    number = np.arange(1 << 16, dtype=np.uint64)
    if store == "dict":
        table_rivals.key(number)
        before = resident()
        held = table_rivals.DictOfRows(rows)
        print(resident() - before, len(held.held))
        return
    optimizer = {"row-wise Adagrad": "rowwise_adagrad", "element-wise Adagrad": "adagrad", "Adam": "adam"}[store]
    begin = {"initializer": "uniform", "init_args": (-0.01, 0.01), "seed": 0, "salt": 7}
    table = native.load().Table(dim=DIM, optimizer=optimizer, hyper={}, **begin)
    buffer = np.zeros((len(number), DIM), np.float32)
    before = resident()
    for at in range(0, rows, len(number)):
        part = table_rivals.key(number[: min(len(number), rows - at)] + np.uint64(at))
        table.pull(part, buffer[: len(part)], True)
    print(resident() - before, table.size)


def in_child(store: str) -> Measure:
    def measure(rows: int) -> float:
        command = [sys.executable, __file__, "--child", store, "--rows", str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown, held = map(int, done.stdout.split())
        if held != rows:
            raise SystemExit(f"wrong answer: {held} rows instead of {rows}")
        return grown / rows

    return measure


def flat_map(rows: int) -> float:
    """Fill table_rival.cc: row-wise Adagrad."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "table_rival"
        command = ["g++", "-O3", "-std=c++17", str(ROOT / "benchmarks" / "table_rival.cc"), "-o", str(program)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(f"table_rival.cc cannot be built (g++, boost 1.81): {error}") from None
        with subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin and process.stdout
            before = resident(process.pid)
            process.stdin.write(f"fill {rows}\n")
            process.stdin.flush()
            if int(process.stdout.readline()) != rows:
                raise SystemExit("wrong answer: the flat map holds another number of rows")
            grown = resident(process.pid) - before
            process.stdin.close()
    return grown / rows


def open_embedding(rows: int) -> float:
    """Fill OpenEmbedding: element-wise Adagrad. Its threads and buffers come with the first rows and are not counted."""
    rival = table_rivals.OpenEmbedding(1 << 17)
    try:
        before = resident(rival.process.pid)
        rival.ask("fill", rows)
        grown = resident(rival.process.pid) - before
        first = rival.first(10)
        if len(first) != 10 or first.any():
            raise SystemExit("wrong answer: OpenEmbedding's rows are not those that were made")
        return grown / (rows - (1 << 17))
    finally:
        rival.close()


def paddle_server(rows: int) -> float:
    """Let Paddle 2.6.2's server hold the rows, with Adam: beside dense parameters it has only SGD and Adam."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            said = paddle262.run(JOB, [str(rows), str(DIM)], Path(directory) / "job")
        except (OSError, subprocess.SubprocessError) as error:
            raise Missing(f"Paddle 2.6.2 cannot be installed: {error}") from None
        found = re.search(r"RESULT (\d+) bytes", said)
        if not found:
            raise Missing(f"Paddle 2.6.2's server did not hold the rows: {said[-300:]}")
        return int(found[1]) / rows


# Name, our store of the same state, measure, share of the rows.
RIVALS: tuple[tuple[str, str, Measure, float], ...] = (
    ("boost::unordered_flat_map + dense rows", "row-wise Adagrad", flat_map, 1.0),
    ("Paddle 2.6.2's server", "Adam", paddle_server, 0.1),
    ("OpenEmbedding 0.1.2", "element-wise Adagrad", open_embedding, 0.1),
    ("dict of NumPy rows", "element-wise Adagrad", in_child("dict"), 0.02),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append the JSON lines to benchmarks/results/memory.jsonl")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.rows)
        return
    if options.rows < 1_000_000 or options.repeats < 1:
        parser.error("--rows must be at least 1000000 (below that it is pages that are measured), --repeats at least 1")
    command = " ".join(["python benchmarks/memory.py", *sys.argv[1:]])
    for name, state, measure, share in RIVALS:
        record.write("memory", line(name, state, measure, options.rows, share, options.repeats), command, options.record)


def line(name: str, state: str, measure: Measure, rows: int, share: float, repeats: int) -> dict[str, Any]:
    """Measure ours and one rival in turns; return the line of the result."""
    ideal = 4 * (DIM + STATE[state])
    their_rows = max(200_000, int(rows * share))
    ours, theirs, why = [], [], ""
    for _ in range(repeats):
        ours.append(in_child(state)(rows) / ideal)
        try:
            theirs.append(measure(their_rows) / ideal)
        except Missing as missing:
            why = f"; not measured: {missing}"
            break
    value, spread = record.spread(ours)
    other = statistics.median(theirs) if theirs and not why else None
    return {
        "question": f"resident memory over weights + state, {rows:,} rows of {DIM} floats, {state}, beside {name}",
        "value": value, "spread": spread, "unit": "x", "rival": f"{name}, {their_rows:,} rows{why}", "rival_value": other,
        "rival_spread": [min(theirs), max(theirs)] if other else None, "ratio": other / value if other else None,
    }  # fmt: skip


if __name__ == "__main__":
    main()
