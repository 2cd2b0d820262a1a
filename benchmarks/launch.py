"""How long from the command to the last trainer's first line? One JSON line; lower is better.

    python benchmarks/launch.py [--processes 2] [--repeats 9]

The script prints the monotonic clock and ends. Measured in turn (A B C A B C ...): the bare interpreter, ``fleet.launch``, and
Paddle's own launcher where it is installed. ``value`` is fleet's median above the bare interpreter's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from parts import record

ROOT = record.ROOT
SCRIPT = "import os, time\nopen(f\"line-{os.environ.get('PADDLE_TRAINER_ID', 0)}\", 'w').write(str(time.monotonic_ns()))\n"


def first_lines(command: list[str], num_processes: int) -> tuple[float, float]:
    """Run a command; return seconds to the last process's first line, and to its end."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "line.py").write_text(SCRIPT)
        begin = time.monotonic_ns()
        done = subprocess.run([sys.executable, *command, "line.py"], cwd=folder, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
        end = time.monotonic_ns()
        assert done.returncode == 0, done.stderr
        lines = [int(path.read_text()) for path in Path(folder).glob("line-*")]
        assert len(lines) == num_processes, "not every trainer has written its line"
        return (max(lines) - begin) / 1e9, (end - begin) / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/launch.jsonl")
    given = parser.parse_args()
    n = str(given.processes)
    rivals = {"bare": [], "fleet": ["-m", "fleet.launch", "--nproc_per_node", n]}
    if find_spec("paddle") is not None:
        rivals["paddle"] = ["-m", "paddle.distributed.launch", "--nproc_per_node", n]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for _ in range(given.repeats):
        for name, command in rivals.items():
            seconds[name].append(first_lines(command, 1 if name == "bare" else given.processes))
    line = {name: [s[0] for s in values] for name, values in seconds.items()}
    bare = statistics.median(line["bare"])
    above = {name: round(statistics.median(values) - bare, 4) for name, values in line.items() if name != "bare"}
    record.write("launch", {
        "question": "launcher: command to the last trainer's first line, above the bare interpreter", "unit": "s",
        "value": above["fleet"], "spread": [round(min(line["fleet"]) - bare, 4), round(max(line["fleet"]) - bare, 4)],
        "rival": "paddle.distributed.launch", "rival_value": above.get("paddle"),
        "ratio": round(above["paddle"] / above["fleet"], 2) if "paddle" in above else None, "bare_s": round(bare, 4),
        "processes": given.processes,
        "whole_command_s": {name: round(statistics.median(s[1] for s in values), 4) for name, values in seconds.items()},
    }, f"python benchmarks/launch.py --processes {given.processes} --repeats {given.repeats}", given.record)  # fmt: skip


if __name__ == "__main__":
    main()
