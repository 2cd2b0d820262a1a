"""What the marks of ``fleet.timeline`` cost a step when nobody profiles, and how much that is of a very small step.

    python benchmarks/marks.py

A collective step makes one mark a parameter, three a bucket and five others. The step is that of an MLP with 6 parameters (64 x 32
inputs) in one process, so the cheapest that has any sense; its marks are those that it makes with two trainers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from paddle import nn  # noqa: E402
from parts import record  # noqa: E402

from fleet import timeline  # noqa: E402

REPEATS, STEPS = 9, 300


def marks_of_a_step() -> None:
    """Make the marks of a step with 6 parameters in one bucket, by the script's thread alone: the worst case."""
    for kind in ("load", *["encode"] * 6, "post", "meet", "send", "wait", "encode", "apply"):
        timeline.mark(kind, "name", timeline.now())


def microseconds(call: Callable[[], None]) -> float:
    """Return the microseconds of one call."""
    began = time.perf_counter()
    for _ in range(STEPS):
        call()
    return (time.perf_counter() - began) / STEPS * 1e6


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/marks.jsonl")
    given = parser.parse_args()
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = paddle.optimizer.SGD(0.01, parameters=net.parameters())
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((64, 32)).astype("float32"))
    y = x[:, :1]

    def step() -> None:
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()

    microseconds(step)
    pairs = [(microseconds(marks_of_a_step), microseconds(step)) for _ in range(REPEATS)]
    assert timeline.waited_s() > 0 and not timeline.is_recording()
    value, spread = record.spread(100 * marks / one for marks, one in pairs)
    record.write("marks", {
        "question": "marks of the timeline, nobody profiling, in a step of a 6-parameter MLP alone", "unit": "%",
        "value": round(value, 3), "spread": [round(s, 3) for s in spread],
        "marks_us": round(statistics.median(m for m, _ in pairs), 2), "step_us": round(statistics.median(s for _, s in pairs), 1),
    }, "benchmarks/marks.py", given.record)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
