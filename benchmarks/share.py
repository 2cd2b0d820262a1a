"""What share of a CTR-DNN step is the parameter server's, in CPU-seconds of all processes?

    python benchmarks/share.py [--batches 512 4096] [--consistency async] [--trainers 2] [--examples 400000] [--record]

The job of benchmarks/jobs/share_fleet.py: 26 ids through one table of dim 10, 3 x 400, lazy Adam, one server; the first 20 steps do
not count. The parameter server's are: all of the server process, all of the client's thread in the trainers, and the main thread
inside announcing, looking up, the hook of the rows' gradient, push and clear. The rest (Paddle, dense gradients, loader, log) is
the step's own. Every clock counts user and system time, so a busy machine changes the share little.

The answer is checked first: the job's AUC on held-out data must be within 0.006 of the same script's in plain Paddle on as many
examples, and its parts must not add up to more than the whole. Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parts import record

ROOT = record.ROOT
sys.path.insert(0, str(ROOT))

from fleet.data import criteo  # noqa: E402

SAMPLES, BUCKETS, WARM = 480_000, 2_000_003, 20  # about one epoch: in a fourth one AUC falls again, and says nothing
TOLERANCE = 0.006  # of the AUC: async
PARTS = ("servers", "client thread", "announce", "forward", "backward", "push")


def make_data(home: Path) -> None:
    """Write the data once."""
    if (home / "ready").exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    criteo.generate(home, SAMPLES, seed=0)
    for part in ("train", "test"):
        criteo.pack(home / part, home / f"{part}.pack", num_buckets=BUCKETS)
    (home / "ready").touch()


def run(home: Path, batch: int, args: argparse.Namespace, alone: bool = False) -> dict[str, Any]:
    """Run the job once; return what it printed. ``alone``: one process in plain Paddle, with the global batch."""
    processes = ["--trainer_num", "1"] if alone else ["--server_num", "1", "--trainer_num", str(args.trainers)]
    script = [str(ROOT / "benchmarks" / "jobs" / "share_fleet.py"), str(home), str(args.examples),
              str(batch * args.trainers if alone else batch), args.consistency, str(WARM), str(int(alone))]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as logs:
        command = [sys.executable, "-m", "fleet.launch", "--device", "cpu", *processes, "--log_dir", logs, *script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, Any] = json.loads(line[7:])
            return found
    raise SystemExit(f"a run printed no RESULT:\n{(done.stdout + done.stderr)[-3000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 4096], help="examples a trainer and step")
    parser.add_argument("--consistency", default="async")
    parser.add_argument("--trainers", type=int, default=2)
    parser.add_argument("--examples", type=int, default=400_000, help="that are counted, of all trainers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", default=str(ROOT / "data" / "ctr" / "share"))
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/share.jsonl")
    args = parser.parse_args()
    home = Path(args.data) / str(SAMPLES)
    make_data(home)
    right = dict.fromkeys(args.batches, True)
    runs: dict[int, list[dict[str, Any]]] = {batch: [] for batch in args.batches}
    plain = {batch: run(home, batch, args, alone=True) for batch in args.batches}
    for repeat in range(args.repeats):
        for batch in args.batches:
            found = run(home, batch, args)
            spent = found["spent"]
            found["ours"] = sum(spent[part] for part in PARTS)
            found["share"] = 100 * found["ours"] / (spent["trainers"] + spent["servers"])
            inside = found["ours"] - spent["servers"] <= spent["trainers"]
            close = abs(found["auc"] - plain[batch]["auc"]) <= TOLERANCE
            right[batch] = right[batch] and inside and close
            verdict = "" if inside and close else "  WRONG"
            aucs = f"AUC {found['auc']:.4f} ({plain[batch]['auc']:.4f} in plain Paddle)"
            print(f"{repeat}  batch {batch}: {found['share']:.1f} %, {aucs}{verdict}", flush=True)
            runs[batch].append(found)
    for batch, of_batch in runs.items():
        share, spread = record.spread(f["share"] for f in of_batch)
        per_step = {part: record.spread(1e6 * f["spent"][part] / f["steps"] / args.trainers for f in of_batch)[0] for part in PARTS}
        whole = record.spread(1e6 * (f["spent"]["trainers"] + f["spent"]["servers"]) / f["examples"] for f in of_batch)[0]
        line = {
            "question": f"share of the parameter server in a CTR-DNN step, {args.consistency}, batch {batch}: CPU of both sides",
            "unit": "%", "value": share, "spread": spread, "us_per_trainer_step": {k: round(v) for k, v in per_step.items()},
            "us_per_example": whole, "auc": record.spread(f["auc"] for f in of_batch), "auc_plain": plain[batch]["auc"],
        }  # fmt: skip
        given = f"--batches {batch} --consistency {args.consistency} --trainers {args.trainers} --examples {args.examples}"
        record.write("share", line, f"python benchmarks/share.py {given} --repeats {args.repeats}", args.record and right[batch])
    return 0 if all(right.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
