"""How many lines a second does one core parse, beside the reader of Paddle 2.6.2's InMemoryDataset on the same MultiSlot file?

    python benchmarks/readers.py [--lines 100000] [--repeats 5] [--record]

The same samples (label, 26 ids, 13 numbers) in each format. Ours: every block of the file through the format, in one process;
"batches" is FileLoader with all that a trainer gets from it: shuffled within a window, in batches of 512. The rival: its C++
reader, load_into_memory() with one thread and pipe_command="cat", in the environment of benchmarks/parts/paddle262.py. Time is
CPU-seconds of all processes that take part, so that other work on the machine does not count. Runs take turns. The answer first:
the sums of ids and numbers must be the same everywhere. Parquet needs pyarrow; where it is missing the line says so. Skip-gram
samples are counted in words: there is no rival in Paddle's package.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from parts import paddle262, record  # noqa: E402

from fleet.data import FileLoader, Libffm, MultiSlot, Parquet, SkipGram, Slot, SlotValue, Vocabulary, criteo  # noqa: E402
from fleet.data.block import Ragged, join  # noqa: E402
from fleet.data.source import Task  # noqa: E402

SLOTS = [Slot("label", "int", 1), *(Slot(f"C{i}", "int", 1, "ids") for i in range(26)), Slot("dense", "float", 13)]
BAGS = [Slot("label", "int", 1), *(Slot(f"B{i}") for i in range(10)), Slot("dense", "float", 13)]  # the same ids, 1 to 5 a slot
RAGGED = [Slot("label", "int", 1), *(Slot(f"C{i}", "int", None, "ids") for i in range(26)), Slot("dense", "float", 13)]


def in_bags(ids: list[int]) -> list[list[int]]:
    """Cut a line's 26 ids in 10 bags, whose sizes differ from line to line."""
    turn = ids[0] % 10
    ends = list(accumulate((1, 2, 3, 4, 1, 2, 3, 4, 1, 5)[i - turn] for i in range(10)))
    return [ids[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def make(home: Path, num_lines: int) -> dict[str, Any]:
    """Write the samples once in each format; return the sums that every reader must find."""
    if not (home / "sums.json").exists() or not (home / "bags").exists():
        home.mkdir(parents=True, exist_ok=True)
        raw, _, _ = criteo.planted_files(home, round(num_lines / 0.9))
        batch = next(criteo.read(raw, batch_size=num_lines, num_buckets=2_000_003))
        ids, dense, label = batch["ids"], batch["dense"].round(4), batch["label"].astype(int)
        words = [[f"{v:.6g}" for v in row] for row in dense.tolist()]
        lines = list(zip(label.tolist(), ids.tolist(), words, strict=True))
        texts: dict[str, Callable[[Any], str]] = {
            "multislot": lambda s: f"1 {s[0]} " + " ".join(f"1 {i}" for i in s[1]) + f" 13 {' '.join(s[2])}\n",
            "bags": lambda s: f"1 {s[0]} " + " ".join(f"{len(b)} {' '.join(map(str, b))}" for b in in_bags(s[1]))
            + f" 13 {' '.join(s[2])}\n",
            "slot_value": lambda s: f"label:{s[0]} " + " ".join(f"C{k}:{i}" for k, i in enumerate(s[1]))
            + "".join(f" dense:{v}" for v in s[2]) + "\n",
            "libffm": lambda s: f"{s[0]} " + " ".join(f"{k}:{i}:1" for k, i in enumerate(s[1]))
            + "".join(f" {26 + k}:{k}:{v}" for k, v in enumerate(s[2])) + "\n",
        }  # fmt: skip
        for name, text in texts.items():
            with open(home / name, "w") as file:
                file.writelines(map(text, lines))
        numbers = np.array(words, np.float64).astype(np.float32)
        rng = np.random.default_rng(0)
        corpus = np.minimum(rng.zipf(1.2, (num_lines, 25)), 300_000)
        (home / "corpus").write_text("".join(" ".join(map(str, line)) + "\n" for line in corpus.tolist()))
        Vocabulary.build(home / "corpus", min_count=2).save(home / "vocabulary")
        if parquet_is_there():
            import pyarrow as pa
            from pyarrow import parquet

            matrix = {"ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), 26),
                      "dense": pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), 13)}  # fmt: skip
            parquet.write_table(pa.table({"label": label, **matrix}), home / "parquet", row_group_size=20_000)
        sums = {"lines": len(label), "label": int(label.sum()), "ids": int(ids.sum()),
                "dense": float(numbers.astype(np.float64).sum())}  # fmt: skip
        (home / "sums.json").write_text(json.dumps(sums))
    return dict(json.loads((home / "sums.json").read_text()))


def parquet_is_there() -> bool:
    """Return whether pyarrow can be imported."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def parse(path: Path, format: Any) -> tuple[float, Any]:
    """Return the CPU-seconds of parsing a file, and its columns."""
    began = time.process_time()
    first, blocks = 0, []
    for piece in format.pieces(str(path)):
        blocks.append(format.load(Task(str(path), piece.start, piece.end, None, first)))
        first += piece.num_lines
    took = time.process_time() - began
    return took, join(blocks).columns


def batches(path: Path, format: Any) -> tuple[float, Any]:
    """Return the CPU-seconds of reading a file as a trainer does, and the sum of the ids as a column."""
    began = time.process_time()
    loader = FileLoader(path, format, 512, window=50_000, num_readers=0, to="numpy")
    parts = list(loader)
    took = time.process_time() - began
    return took, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rival(home: Path) -> tuple[float, dict[str, Any]]:
    """Return the CPU-seconds of the rival's load_into_memory(), and its sums."""
    script = ROOT / "benchmarks" / "jobs" / "readers_paddle262.py"
    command = [str(paddle262.python()), "-W", "ignore", str(script), str((home / "multislot").resolve())]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    # It leaves files where it runs.
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=1200, cwd=home)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found = json.loads(line[7:])
            return found["cpu_s"], found["sums"]
    raise SystemExit(f"the rival printed no RESULT:\n{(done.stdout + done.stderr)[-3000:]}")


def check(name: str, columns: Any, sums: dict[str, Any]) -> None:
    """End the benchmark if a reader's answer is another one."""
    def total(column: Any) -> float:
        return float((column.values if isinstance(column, Ragged) else np.asarray(column)).astype(np.float64).sum())

    found = {key: total(columns[key]) for key in sums if key in columns}
    if "B0" in columns:
        found["ids"] = sum(total(columns[f"B{i}"]) for i in range(10))
    if name == "libffm":  # ids and numbers are one column of features there
        values = columns["values"]
        found = {"label": total(columns["label"]), "dense": float(values[:, 26:].astype(np.float64).sum()),
                 "ids": float(columns["ids"][:, :26].sum())}  # fmt: skip
    wrong = {key: (value, sums[key]) for key, value in found.items() if abs(value - sums[key]) > 1e-6 * abs(sums[key])}
    if wrong or not found:
        raise SystemExit(f"{name} has another answer (found, expected): {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", default=str(ROOT / "data" / "readers"))
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/readers.jsonl")
    args = parser.parse_args()
    home = Path(args.data) / str(args.lines)
    sums = make(home, args.lines)
    raw = next((home / f"{round(args.lines / 0.9)}-samples-text-seed-0" / "train").glob("part-00000.txt"))
    words = SkipGram(str(home / "vocabulary"))
    contenders: dict[str, Callable[[], tuple[float, Any]]] = {
        "rival": lambda: rival(home),
        "multislot": lambda: parse(home / "multislot", MultiSlot(SLOTS)),
        "multislot, ragged": lambda: parse(home / "multislot", MultiSlot(RAGGED)),
        "multislot, bags": lambda: parse(home / "bags", MultiSlot(BAGS)),
        "multislot, batches": lambda: batches(home / "multislot", MultiSlot(SLOTS)),
        "slot_value": lambda: parse(home / "slot_value", SlotValue(SLOTS)),
        "libffm": lambda: parse(home / "libffm", Libffm(39)),
        "criteo": lambda: parse(raw, criteo.Criteo(2_000_003)),
        "skip-gram": lambda: parse(home / "corpus", words),
    }
    if parquet_is_there() and (home / "parquet").exists():
        contenders["parquet"] = lambda: parse(home / "parquet", Parquet(["label", "ids", "dense"]))
    else:
        print("pyarrow is not installed: Parquet is left out", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    num_lines = {name: sums["lines"] for name in contenders}
    num_lines["criteo"] = len(raw.read_bytes().splitlines())
    num_lines["skip-gram"] = sums["lines"] * 25  # words
    for repeat in range(args.repeats):
        for name, run in contenders.items():
            took, found = run()
            if name == "rival":
                check(name, {key: np.array([value]) for key, value in found.items()}, sums)
            elif name not in ("criteo", "skip-gram"):  # theirs are held by tests
                check(name, found, sums)
            rates[name].append(num_lines[name] / took)
            print(f"{repeat}  {name:<20} {rates[name][-1]:10.0f} /s and core", flush=True)
    command = f"python benchmarks/readers.py --lines {args.lines} --repeats {args.repeats}"
    rival_rate, rival_spread = record.spread(rates["rival"])
    for name in contenders:
        if name == "rival":
            continue
        value, spread = record.spread(rates[name])
        line = {"question": f"lines parsed a CPU-second: {name}", "unit": "lines/s", "value": value, "spread": spread}
        if name == "skip-gram":
            line |= {"question": "words of a corpus made into skip-gram samples a CPU-second", "unit": "words/s"}
        elif name.startswith("multislot"):
            ratios = sorted(a / b for a, b in zip(rates[name], rates["rival"], strict=True))
            line |= {"rival": "paddle 2.6.2 InMemoryDataset, load_into_memory, one thread", "rival_value": rival_rate,
                     "rival_spread": rival_spread, "ratio": ratios[len(ratios) // 2]}  # fmt: skip
        record.write("readers", line, command, args.record)


if __name__ == "__main__":
    main()
