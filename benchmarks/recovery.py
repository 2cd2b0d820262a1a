"""How long from a server's death until the job trains again? One JSON line a way of answering it; lower is better.

    python benchmarks/recovery.py [--rows 10000000] [--dim 16] [--repeats 3] [--record]

One server with Adagrad rows, one trainer. The server is killed in the middle of training; ``async`` carries on (the server alone
is started again and loads the last checkpoint), ``sync`` rolls back (all processes are started again). Checked: the job goes on
behind the checkpoint, and the server that came back holds all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from parts import record

SCRIPT = Path(__file__).resolve().parent / "jobs/recovery_fleet.py"


def wait(condition, seconds: float, what: str) -> float:  # type: ignore[no-untyped-def]
    """Wait for something; return when it was seen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)
    return time.monotonic()


def steps(directory: Path) -> list[tuple[int, float]]:
    """The trainer's steps so far: number and time."""
    path = directory / "steps-0"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(step), float(when)) for step, when in map(json.loads, lines)]


def server_of(launcher: int) -> int:
    """The server among the launcher's children."""
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if b"FLEET_ROLE=server" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError("there is no server")


def lose_one(rows: int, dim: int, consistency: str) -> dict[str, float]:
    """Run a job, kill its server, and return the seconds of each phase, all from the kill."""
    with tempfile.TemporaryDirectory(prefix="fleet-recovery-") as folder:
        logs, console = Path(folder, "logs"), Path(folder, "console")
        command = ["-m", "fleet.launch", "--server_num", "1", "--trainer_num", "1", "--device", "cpu", "--server_restarts", "1",
                   "--log_dir", str(logs), str(SCRIPT), str(Path(folder, "ckpt")), str(rows), str(dim), consistency]  # fmt: skip
        with open(console, "wb") as out:
            environ = {**os.environ, "PYTHONPATH": str(record.ROOT)}
            launcher = subprocess.Popen([sys.executable, *command], env=environ, stdout=out, stderr=out)
        try:
            filled = -(-rows // 250_000)
            wait(lambda: steps(logs) and steps(logs)[-1][0] > filled + 20, 600, "the table never filled: " + console.read_text())
            began, last = time.monotonic(), steps(logs)[-1][0]
            os.kill(server_of(launcher.pid), signal.SIGKILL)
            log = logs / "server-0.log"
            noticed = wait(lambda: b"started again" in console.read_bytes(), 60, "the launcher never said it")
            up = wait(lambda: log.read_bytes().count(b"listens on") == 2, 300, "the server never came back")
            size = len(steps(logs))
            again = wait(lambda: len(steps(logs)) > size + 1, 300, "the trainer never went on: " + console.read_text())
            (logs / "enough").touch()
            assert launcher.wait(60) == 0, console.read_text()
            after = [when for step, when in steps(logs) if when > up]
            resumed = next(step for step, when in steps(logs) if when > up)
            assert filled < resumed <= last + 3, (filled, resumed, last)
            found = re.findall(r"'rows': (\d+)", log.read_text())
            assert found and int(found[-1]) == rows, f"{found} rows, not {rows}"
            loaded = re.search(r"loaded in ([0-9.]+) s", log.read_text())
            return {"noticed": noticed - began, "server listens": up - began, "trains": after[0] - began, "seen": again - began,
                    **({"of that loading": float(loaded[1])} if loaded else {})}  # fmt: skip
        finally:
            launcher.kill()
            launcher.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/recovery.jsonl")
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"async": [], "sync": []}
    for _ in range(given.repeats):
        for consistency, results in found.items():
            results.append(lose_one(given.rows, given.dim, consistency))
    command = f"python benchmarks/recovery.py --rows {given.rows} --dim {given.dim} --repeats {given.repeats}"
    for consistency, results in found.items():
        trains = [r["trains"] for r in results]
        way = "carry on" if consistency == "async" else "roll back"
        record.write("recovery", {
            "question": f"server killed -> job training again, {given.rows:,} rows of dim {given.dim} with Adagrad: {way}",
            "unit": "s",
            "value": round(statistics.median(trains), 2), "spread": [round(min(trains), 2), round(max(trains), 2)], "way": way,
            "rows": given.rows, "phases_s": {name: round(statistics.median(r[name] for r in results), 2) for name in results[0]},
        }, command, given.record)  # fmt: skip


if __name__ == "__main__":
    main()
