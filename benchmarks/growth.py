"""What does a job cost as it grows? Messages, bytes, rows and CPU-seconds of 1 to 8 processes, and a model of them.

    python benchmarks/growth.py [--steps 120] [--repeats 3] [--record]

CTR-DNN (26 ids through one table of dim 10, 3 x 400), async, lazy Adam, T trainers and S servers on this machine's cores. The model
knows docs/wire.md and the data, nothing of the code: it must predict every trainer's messages, bytes and rows exactly. CPU-seconds
(all processes, from their own clocks) are fitted on some runs as

    steps x (T x a + T x batch x b + T x S x c + rows x d + T x e if T > 1)

and predicted for others, which must come out within 15 %. With more processes than cores nothing here says how fast a job is on
more machines: docs/scale.md does the arithmetic, and says that it is arithmetic. Exit status 1 if a prediction fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from parts import record

ROOT = record.ROOT
DIM, IDS, WARM = 10, 26, 10


class Shape(NamedTuple):
    """One run."""

    trainers: int
    servers: int
    batch: int


FITTED = [Shape(*s) for s in ((1, 1, 256), (1, 1, 1024), (1, 2, 512), (2, 1, 512), (2, 2, 256), (3, 1, 256), (5, 1, 512))]
PREDICTED = [Shape(*s) for s in ((1, 1, 512), (2, 1, 1024), (2, 2, 512), (3, 2, 512), (4, 2, 256), (6, 2, 256))]
TERMS = ("trainer", "example", "trainer x server", "row", "trainer if several")


def make_data(path: Path, num_samples: int) -> None:
    """Write samples whose ids follow a heavy-tailed law, as clicks do."""
    draw = np.random.default_rng(0)
    ids = np.minimum(draw.pareto(0.6, (num_samples, IDS)) * 10, 1e12).astype(np.int64) * IDS + np.arange(IDS)
    dense = draw.standard_normal((num_samples, 13), dtype=np.float32)
    np.savez(path, ids=ids, dense=dense, label=(draw.random(num_samples) < 0.3).astype(np.int64))


def server_of(keys: Any, num_servers: int) -> Any:
    """Return which server holds each key, as docs/wire.md says."""
    salt = np.uint64(int.from_bytes(hashlib.blake2b(b"rows", digest_size=8).digest(), "little"))
    x = keys.astype(np.uint64) ^ salt
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> np.uint64(33))) * np.uint64(factor)
    shard = (x ^ (x >> np.uint64(33))) >> np.uint64(54)
    first = np.array([s * 1024 // num_servers for s in range(num_servers)])
    return np.searchsorted(first, shard.astype(np.int64), side="right") - 1


def predict(shape: Shape, ids: Any, steps: int) -> list[dict[str, int]]:
    """Return each trainer's messages, bytes and rows, from the data and docs/wire.md alone."""
    found = []
    for rank in range(shape.trainers):
        messages = bytes_out = bytes_in = rows = 0
        for step in range(steps):
            start = (step * shape.trainers + rank) * shape.batch
            keys = np.unique(ids[start : start + shape.batch])
            counts = np.bincount(server_of(keys, shape.servers), minlength=shape.servers)
            rows += len(keys)
            for n in map(int, counts):
                values = -(-4 * DIM * n // 8) * 8
                messages += 1  # PULL
                bytes_out += 64 + 32 + 8 * n
                bytes_in += 64 + 32 + values  # ROWS
                if n:  # PUSH; a server without keys gets none in async
                    messages += 1
                    bytes_out += 64 + 32 + 8 * n + values
                    bytes_in += 64 + 2  # DONE, {}
        found.append({"messages": messages, "bytes_out": bytes_out, "bytes_in": bytes_in, "rows": rows})
    return found


def run(shape: Shape, data: Path, steps: int) -> list[dict[str, Any]]:
    """Run the job; return what each trainer counted, by rank."""
    script = [str(ROOT / "benchmarks" / "jobs" / "growth_fleet.py"), str(data), str(shape.batch), str(steps)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as logs:
        launch = [sys.executable, "-m", "fleet.launch", "--device", "cpu", "--server_num", str(shape.servers), "--log_dir", logs]
        command = [*launch, "--trainer_num", str(shape.trainers), *script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        said = "".join(path.read_text() for path in Path(logs).glob("trainer-*.log"))
    lines = [line.split("TRAFFIC ", 1)[1] for line in said.splitlines() if "TRAFFIC " in line]
    if done.returncode or len(lines) != shape.trainers:
        raise SystemExit(f"{shape} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return sorted((json.loads(line) for line in lines), key=lambda found: int(found["rank"]))


def features(shape: Shape, rows: float) -> list[float]:
    """Return what one step's CPU-seconds are a sum of."""
    t, s, b = shape
    return [t, t * b, t * s, rows, t if t > 1 else 0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/growth.jsonl")
    args = parser.parse_args()
    shapes = [*FITTED, *PREDICTED]
    cpu: dict[Shape, list[float]] = {shape: [] for shape in shapes}
    rows: dict[Shape, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "samples.npz"
        make_data(data, max(s.trainers * s.batch for s in shapes) * args.steps)
        ids = np.load(data)["ids"]
        exact = True
        for repeat in range(args.repeats):
            for shape in shapes:
                counted = run(shape, data, args.steps)
                if repeat == 0:
                    predicted = predict(shape, ids, args.steps)
                    rows[shape] = sum(p.pop("rows") for p in predicted) / args.steps
                    same = all(all(c[k] == v for k, v in p.items()) for c, p in zip(counted, predicted, strict=True))
                    exact = exact and same
                    if not same:
                        print(f"{shape}: predicted {predicted}, counted {counted}")
                cpu[shape].append(sum(c["cpu_s"] for c in counted) / (args.steps - WARM))
                print(f"{repeat} {shape}: {1e6 * cpu[shape][-1] / shape.trainers / shape.batch:.1f} CPU-us an example", flush=True)
    medians = {shape: record.spread(found)[0] for shape, found in cpu.items()}
    matrix = np.array([features(s, rows[s]) for s in FITTED])
    wanted = np.array([medians[s] for s in FITTED])
    fit, *_ = np.linalg.lstsq(matrix / wanted[:, None], np.ones(len(FITTED)), rcond=None)  # relative errors count alike
    errors = {str(tuple(s)): float(np.dot(features(s, rows[s]), fit) / medians[s] - 1) for s in PREDICTED}
    worst = max(abs(e) for e in errors.values())
    per_example = {str(tuple(s)): 1e6 * medians[s] / s.trainers / s.batch for s in shapes}
    line = {
        "question": "growth: largest error of predicted CPU-seconds, runs that the model was not fitted on", "unit": "%",
        "value": 100 * worst, "spread": [100 * min(errors.values()), 100 * max(errors.values())], "wanted": 15,
        "messages_bytes_rows_exact": exact, "errors": errors, "cpu_us_per_example": per_example,
        "model_us": dict(zip(TERMS, (1e6 * fit).tolist(), strict=True)),
        "rows_per_step": {str(tuple(s)): rows[s] for s in shapes},
    }  # fmt: skip
    record.write("growth", line, f"python benchmarks/growth.py --steps {args.steps} --repeats {args.repeats}", args.record)
    return 0 if exact and worst <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
