"""How long is one data-parallel step? fleet beside paddle.DataParallel and beside no communication; lower is better.

    python benchmarks/data_parallel.py [--processes 2] [--repeats 9] [--steps 5] [--record]

An MLP of 9.5 M parameters (38 MB of gradients), batch 64 a process, SGD, one thread a process, Gloo. All three run in the same
processes, in turns (A B C A B C ...). The answer is checked first: after three steps fleet's and Paddle's weights agree, and
each is bitwise the same on every process. ``value`` is fleet's median in ms, ``ratio`` how many times longer Paddle takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from parts import record

ROOT = record.ROOT
WIDTHS = (1024, 2048, 2048, 1024, 1024, 10)
BATCH = 64


def make() -> Any:
    """Return the model, the same weights each time."""
    import numpy as np
    from paddle import nn

    random = np.random.default_rng(1)
    layers: list[Any] = []
    for wide, narrow in zip(WIDTHS, WIDTHS[1:], strict=False):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    for parameter in model.parameters():
        parameter.set_value(random.normal(0, 0.02, parameter.shape).astype("float32"))
    return model


def steps_of(model: Any, rank: int, before_step: Callable[[], None]) -> Callable[[int], None]:
    """Return a function that takes n training steps."""
    import numpy as np
    import paddle

    random = np.random.default_rng(100 + rank)
    x = paddle.to_tensor(random.normal(size=(BATCH, WIDTHS[0])).astype("float32"))
    y = paddle.to_tensor(random.integers(0, WIDTHS[-1], BATCH))
    optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())

    def run(n: int) -> None:
        for _ in range(n):
            paddle.nn.functional.cross_entropy(model(x), y).backward()
            before_step()
            optimizer.step()
            optimizer.clear_grad()

    return run


def trainer(repeats: int, steps: int) -> None:
    """Measure in one of the processes; rank 0 prints the milliseconds of every block."""
    import numpy as np
    import paddle

    from fleet import exchange, runtime
    from fleet.collective.reducer import Reducer

    runtime.init()
    job = runtime.current("the benchmark")
    models = {"fleet": make(), "paddle": make(), "alone": make()}
    reducer = Reducer(job, models["fleet"].named_parameters())
    assert job.group.backend == "gloo"  # opens Paddle's own groups: DataParallel without them does nothing, and says nothing
    replicas = paddle.DataParallel(models["paddle"])
    rank = job.role.rank
    run = {
        "fleet": steps_of(models["fleet"], rank, reducer.before_step),
        "paddle": steps_of(replicas, rank, lambda: None),
        "alone": steps_of(models["alone"], rank, lambda: None),
    }
    for name in run:
        run[name](3)
    flat = {name: np.concatenate([p.numpy().ravel() for p in models[name].parameters()]) for name in ("fleet", "paddle")}
    assert np.abs(flat["fleet"] - flat["paddle"]).max() < 1e-6, "fleet and Paddle computed different weights"
    for name, values in flat.items():
        assert len({v.tobytes() for v in exchange.all_gather(values[::97])}) == 1, f"{name}: the trainers differ"
    blocks: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(repeats):
        for name in run:
            job.meet("a block")
            begin = time.perf_counter()
            run[name](steps)
            blocks[name].append((time.perf_counter() - begin) / steps * 1e3)
    if rank == 0:
        print(json.dumps({"blocks": blocks, "buckets": len(reducer.bucket_plan()), "bytes": reducer.bytes_per_step}))


def start(given: argparse.Namespace) -> dict[str, Any]:
    """Start the processes and return what trainer 0 printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--trainer", "--repeats", str(given.repeats), "--steps", str(given.steps)]
        n = str(given.processes)
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={
                **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FLEET_CONTROL": f"unix:{folder}/control",
                "FLEET_RANK": str(r), "FLEET_LOCAL_RANK": str(r), "FLEET_WORLD_SIZE": n, "FLEET_LOCAL_SIZE": n})
            for r in range(given.processes)
        ]  # fmt: skip
        outputs = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), "a trainer failed; see above"
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append the line to results/data_parallel.jsonl")
    parser.add_argument("--trainer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.trainer:
        trainer(given.repeats, given.steps)
        return
    found = start(given)
    median = {name: statistics.median(values) for name, values in found["blocks"].items()}
    record.write("data_parallel", {
        "question": "one data-parallel step, 38 MB of gradients", "unit": "ms", "value": round(median["fleet"], 1),
        "rival": "paddle.DataParallel", "rival_value": round(median["paddle"], 1),
        "ratio": round(median["paddle"] / median["fleet"], 2), "alone": round(median["alone"], 1),
        "spread": [round(min(found["blocks"]["fleet"]), 1), round(max(found["blocks"]["fleet"]), 1)],
        "spreads": {name: [round(min(v), 1), round(max(v), 1)] for name, v in found["blocks"].items()},
        "buckets": found["buckets"], "gradient_bytes": found["bytes"], "processes": given.processes, "repeats": given.repeats,
    }, " ".join(["python", "benchmarks/data_parallel.py", *sys.argv[1:]]), given.record)  # fmt: skip


if __name__ == "__main__":
    main()
