"""What does each tuning of ``--tune on`` gain? One JSON line per question; ratio = time without / time with.

    python benchmarks/tuning.py [--repeats 5]

Each measurement is a fresh process, with and without in turn (A B A B ...), on one core's worth of threads. The step is an eager
CTR-DNN (273 -> 400 -> 400 -> 400 -> 2, Adam); the first is checked: the loss with and without must agree to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

from parts import record

from fleet.launch import devices, shim
from fleet.launch.spec import MALLOC, MALLOC_NAME, MKL, MKL_NAME

QUESTIONS = {
    # name: (tuning, what the child runs, what that stands for)
    "AVX2 matrix products, step at batch 512": (MKL_NAME, "step:512:60", "an eager step on an AMD processor"),
    "AVX2 matrix products, matrix product": (MKL_NAME, "matmul:normal:300", "512x400x400"),
    "malloc thresholds, batch 4096": (
        "malloc thresholds",
        "step:4096:12",
        "large activations are not mapped and unmapped at each step",
    ),
    "malloc thresholds, batch 512": ("malloc thresholds", "step:512:60", "small activations: glibc keeps most of them anyway"),
    "flush-to-zero, denormal results": (
        "flush-to-zero",
        "matmul:denormal:40",
        "a matrix product of 512x400x400 on numbers about 1e-20",
    ),
    "flush-to-zero, normal numbers": ("flush-to-zero", "matmul:normal:300", "the same on ordinary numbers"),
    "switch interval, busy Python thread": ("switch interval", "busy:512:12", "a step beside a Python thread that never blocks"),
    "switch interval, nothing beside": ("switch interval", "step:512:60", "a step alone"),
}


def child(tuning: str, work: str) -> None:
    """Measure one work in this process and print milliseconds and a check value."""
    shim.tune([t for t in [tuning] if t not in (MKL_NAME, MALLOC_NAME)])
    kind, size, count = work.split(":")
    import numpy as np
    import paddle

    paddle.seed(1)
    if kind == "matmul":
        rng, scale = np.random.default_rng(1), np.float32(1e-20 if size == "denormal" else 1.0)
        a = paddle.to_tensor(rng.standard_normal((512, 400), dtype="float32") * scale)
        b = paddle.to_tensor(rng.standard_normal((400, 400), dtype="float32") * scale)
        ms, check = clock(lambda: paddle.matmul(a, b), int(count)), 0.0
    else:
        stop = threading.Event()
        if kind == "busy":
            threading.Thread(target=spin, args=(stop,), daemon=True).start()
        ms, check = train(paddle, np.random.default_rng(1), int(size), int(count))
        stop.set()
    print(json.dumps({"ms": ms, "check": check}))


def spin(stop: threading.Event) -> None:
    """Be a Python thread that never blocks."""
    while not stop.is_set():
        pass


def train(paddle, rng, batch: int, count: int) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Return milliseconds per step (median) and the last loss."""
    nn = paddle.nn
    model = nn.Sequential(
        nn.Linear(273, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 2)
    )
    optimizer = paddle.optimizer.Adam(1e-3, parameters=model.parameters())
    x = paddle.to_tensor(rng.standard_normal((batch, 273), dtype="float32"))
    y = paddle.to_tensor(rng.integers(0, 2, batch))
    last = []

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        last[:] = [loss]

    ms = clock(step, count)
    return ms, float(last[0])


def clock(work, count: int) -> float:  # type: ignore[no-untyped-def]
    """Return the median milliseconds of ``count`` calls, after three that do not count."""
    times = []
    for _ in range(count + 3):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times[3:])


def measure(tuning: str, work: str, is_on: bool) -> dict[str, float]:
    """Run one child and return what it printed."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    environ.pop("GLIBC_TUNABLES", None)
    environ.pop("MKL_DEBUG_CPU_TYPE", None)
    if (is_on or tuning != MKL_NAME) and devices.needs_mkl_told():
        environ.update(MKL)  # in force for all other questions, or slow matrix products would hide what these gain
    if is_on and tuning == MALLOC_NAME:
        environ["GLIBC_TUNABLES"] = ":".join(f"{k}={v}" for k, v in MALLOC.items())
    command = [sys.executable, __file__, "--child", tuning if is_on else "none", work]
    out = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def main() -> None:
    """Answer every question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="questions whose name holds this")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/tuning.jsonl")
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    for name, (tuning, work, meaning) in QUESTIONS.items():
        if given.only not in name:
            continue
        without, tuned = [], []
        for _ in range(given.repeats):
            without.append(measure(tuning, work, False))
            tuned.append(measure(tuning, work, True))
        assert abs(without[0]["check"] - tuned[0]["check"]) < 1e-5, (without[0], tuned[0])
        off, on = ([r["ms"] for r in results] for results in (without, tuned))
        ratios = sorted(a / b for a, b in zip(off, on, strict=True))
        record.write("tuning", {
            "question": f"{name}: {meaning}", "unit": "ms", "value": round(statistics.median(on), 3),
            "spread": [round(min(on), 3), round(max(on), 3)],
            "rival": "--tune off", "rival_value": round(statistics.median(off), 3),
            "ratio": round(statistics.median(ratios), 3), "ratio_spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        }, f"python benchmarks/tuning.py --repeats {given.repeats}", given.record)  # fmt: skip


if __name__ == "__main__":
    main()
