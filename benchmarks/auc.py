"""Does a parameter-server job learn as much as one machine in the same epochs?

    python benchmarks/auc.py [--samples 300000] [--seeds 1 2 3] [--record]

Trains examples/ctr alone (single.py) and as 2 servers + 2 trainers (train.py) in every mode, with the same seeds and data, and
compares the AUC on held-out data. Wanted: |job - alone| at most 0.003, in async and geo 0.006 (medians over seeds); exit status 1
if not.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from parts.record import ROOT, write

EXAMPLE = ROOT / "examples" / "ctr"
RESULT = re.compile(r"AUC (\d\.\d+), (\d+) examples/s")
WITHIN = {"sync": 0.003, "half_async": 0.003, "bounded": 0.003, "async": 0.006, "geo": 0.006}


def run(command: list[str], options: list[str]) -> tuple[float, int]:
    """Return AUC and examples/s of one run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *command, *options], env=environment, capture_output=True, text=True)
    found = RESULT.search(done.stdout)
    if done.returncode or not found:
        raise SystemExit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(found[1]), int(found[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/auc.jsonl")
    args = parser.parse_args()
    ok = True
    with tempfile.TemporaryDirectory() as temporary:
        ways = {"alone": [str(EXAMPLE / "single.py")]}
        for mode in WITHIN:
            file = Path(temporary) / f"{mode}.yaml"
            file.write_text(f"strategy:\n  parameter_server: {{consistency: {mode}}}\n")
            launch = ["-m", "fleet.launch", "-c", str(file), "--device", "cpu", "--server_num", "2", "--trainer_num", "2"]
            ways[mode] = [*launch, "--log_dir", temporary, str(EXAMPLE / "train.py")]
        runs: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
        for seed in args.seeds:
            for way, command in ways.items():
                options = ["--samples", str(args.samples), "--seed", str(seed), "--data", str(ROOT / "data" / "ctr")]
                runs[way].append(run(command, options))
                print(f"seed {seed}  {way:<6} AUC {runs[way][-1][0]:.4f}  {runs[way][-1][1]} examples/s", flush=True)
    for mode, within in WITHIN.items():
        apart = [job[0] - alone[0] for job, alone in zip(runs[mode], runs["alone"], strict=True)]
        ratio = statistics.median(job[1] / alone[1] for job, alone in zip(runs[mode], runs["alone"], strict=True))
        middle = statistics.median(apart)
        ok = ok and abs(middle) <= within
        command = f"python benchmarks/auc.py --samples {args.samples} --seeds {' '.join(map(str, args.seeds))}"
        line = {
            "question": f"AUC of 2 servers + 2 trainers, {mode}, minus one machine's (same epochs)", "unit": "AUC",
            "value": middle, "spread": [min(apart), max(apart)],
            "wanted": within, "ratio": ratio, "ratio_of": "examples/s, job / alone", "alone": runs["alone"], "job": runs[mode],
        }  # fmt: skip
        write("auc", line, command, args.record)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
