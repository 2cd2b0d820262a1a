"""What does a trivial member cost, and what is left after a kill?

1,000 calls of ``x + 1`` on two workers: fleet (logs, seeds and journal on) against concurrent.futures, loky and joblib where they
are installed. Answers are checked first; the systems take turns, A B C A B C, each in a process of its own. Then 20 members of
which one kills its process: how many good results does a user get?

    python benchmarks/fanout.py [--repeats 5] [--calls 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What each system's process runs: start(), then many(n) -> list, then one_killed(); `x + 1` is of the script itself.
HEAD = """
import json, os, signal, sys, time
calls, kept = int(sys.argv[1]), sys.argv[2]
def plus(x): return x + 1
def dies_at_3(x):
    time.sleep(0.01)
    if x == 3: os.kill(os.getpid(), signal.SIGKILL)
    return x
def main():
    begin = time.perf_counter()
    first, many, close, survivors = setup()
    start = time.perf_counter() - begin
    assert first == [1, 2], first
    begin = time.perf_counter()
    found = many(calls)
    each = (time.perf_counter() - begin) / calls
    assert found == list(range(1, calls + 1)), "wrong answers"
    close()
    print(json.dumps({"start_s": start, "us": each * 1e6, "kept_of_19": survivors()}))
"""
SYSTEMS = {
    "fleet": """
import fleet
def setup():
    # The pool is part of every spread: its start is measured with two members, and taken off the many.
    begin = time.perf_counter()
    stream = fleet.spread(range(2), workers=2).map(plus).as_completed(order="input")
    first = [next(stream).value]
    first.append(next(stream).value)
    setup.start = time.perf_counter() - begin
    stream.close()
    def many(n):
        # With both workers up, as the others: two members that wait for that go ahead.
        def member(x):
            if x < 0: time.sleep(0.3)
            return x + 1
        found, begin = [], 0.0
        for r in fleet.spread([-2, -1, *range(n)], workers=2, run_dir=kept).map(member).as_completed():
            found.append(r.value)
            if len(found) == 2: begin = time.perf_counter()
        many.seconds = time.perf_counter() - begin
        return sorted(x for x in found if x > 0)
    def survivors():
        return len(fleet.spread(range(20), workers=2).map(dies_at_3).gather(errors="collect").values)
    return first, many, lambda: None, survivors
""",
    "ProcessPoolExecutor": """
from concurrent.futures import ProcessPoolExecutor
def setup():
    pool = ProcessPoolExecutor(2)
    first = [f.result() for f in [pool.submit(plus, x) for x in range(2)]]
    many = lambda n: [f.result() for f in [pool.submit(plus, x) for x in range(n)]]
    return first, many, pool.shutdown, lambda: kept_of(ProcessPoolExecutor(2))
""",
    "loky": """
from loky import ProcessPoolExecutor
def setup():
    pool = ProcessPoolExecutor(2)
    first = [f.result() for f in [pool.submit(plus, x) for x in range(2)]]
    many = lambda n: [f.result() for f in [pool.submit(plus, x) for x in range(n)]]
    return first, many, pool.shutdown, lambda: kept_of(ProcessPoolExecutor(2))
""",
    "joblib": """
import joblib
def setup():
    pool = joblib.Parallel(n_jobs=2)
    first = pool(joblib.delayed(plus)(x) for x in range(2))
    def survivors():
        try: return len(joblib.Parallel(n_jobs=2)(joblib.delayed(dies_at_3)(x) for x in range(20)))
        except Exception: return 0
    return first, lambda n: pool(joblib.delayed(plus)(x) for x in range(n)), lambda: None, survivors
""",
}
TAIL = """
def kept_of(pool):
    futures = [pool.submit(dies_at_3, x) for x in range(20)]
    kept = 0
    for future in futures:
        try: future.result(); kept += 1
        except Exception: continue  # a result that is lost with the pool: counted by not being kept
    return kept
if __name__ == "__main__": main()
"""


def measure(name: str, calls: int, folder: Path) -> dict[str, float] | None:
    """Run one system once in a fresh process; None if it is not installed."""
    package = {"ProcessPoolExecutor": "concurrent.futures"}.get(name, name)
    if subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, check=False, cwd=ROOT).returncode:
        return None
    script = folder / f"run_{name}.py"
    head = HEAD
    if name == "fleet":
        head = head.replace("start = time.perf_counter() - begin", "start = setup.start")
        head = head.replace("each = (time.perf_counter() - begin) / calls", "each = many.seconds / calls")
    script.write_text(head + SYSTEMS[name] + TAIL)
    kept = tempfile.mkdtemp(dir=folder)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(calls), kept], capture_output=True, text=True, timeout=300, env=env, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000)
    given = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in SYSTEMS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.repeats):
            for name in SYSTEMS:
                if (found := measure(name, given.calls, Path(folder))) is not None:
                    rows[name].append(found)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    for name, runs in rows.items():
        if not runs:
            print(f"{name}: not installed")
            continue
        line: dict[str, object] = {"benchmark": "fanout", "system": name, "calls": given.calls, "repeats": len(runs)}
        for key in runs[0]:
            values = sorted(run[key] for run in runs)
            line[key] = [round(v, 4) for v in (statistics.median(values), values[0], values[-1])]
        line |= {"unit": "median, least, most", "machine": f"{platform.machine()}, {os.cpu_count()} cores", "commit": commit}
        print(json.dumps(line | {"command": "python benchmarks/fanout.py"}))


if __name__ == "__main__":
    main()
