"""How long is training held by a checkpoint, beside ``paddle.save`` of the same state? One JSON line.

    python benchmarks/checkpoint.py [--mb 100] [--repeats 9] [--directory DIR] [--record]

One trainer, a stack of linear layers under Adam, as many MB of state in all (weights and two moments). Held: from the call at
the end of a step until the loop goes on. The rival: ``paddle.save`` of the two state dicts into the same directory, which is
what a script does by itself (it does not fsync). In turns, the page cache as it is; the first save of the job is reported
apart. Checked first: what was written loads to the same bits in plain Paddle.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import paddle  # noqa: E402
from parts import record  # noqa: E402

import fleet  # noqa: E402

WIDTH = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="fleet-checkpoint-", dir=given.directory)
    try:
        measured = measure(directory, given.mb, given.repeats)
    finally:
        shutil.rmtree(directory)
    record.write("checkpoint", measured, " ".join(["python benchmarks/checkpoint.py", *sys.argv[1:]]), given.record)


def measure(directory: str, mb: float, repeats: int) -> dict[str, object]:
    fleet.init()
    num_layers = max(1, round(mb * 1e6 / 3 / 4 / WIDTH**2))
    model = fleet.distributed_model(paddle.nn.Sequential(*(paddle.nn.Linear(WIDTH, WIDTH) for _ in range(num_layers))))
    optimizer = fleet.distributed_optimizer(paddle.optimizer.Adam(1e-3, parameters=model.parameters()))
    ckpt = fleet.Checkpointer(os.path.join(directory, "ckpt"), model=model, optimizer=optimizer, keep=1)

    def step() -> None:
        model(paddle.ones([8, WIDTH])).mean().backward()
        optimizer.step()
        optimizer.clear_grad()

    def held() -> float:
        began = time.perf_counter()
        ckpt.save(wait=False)
        return 1e3 * (time.perf_counter() - began)

    def rival() -> float:
        began = time.perf_counter()
        paddle.save(model.state_dict(), os.path.join(directory, "rival.pdparams"))
        paddle.save(optimizer.state_dict(), os.path.join(directory, "rival.pdopt"))
        return 1e3 * (time.perf_counter() - began)

    for _ in range(3):
        step()
    time.sleep(1)  # the memory for the copy is made after the first step, in a thread; a job's first save is far behind that
    first = held()
    ckpt.wait()
    check(ckpt, model, optimizer)
    ours, theirs, whole = [], [], []
    for _ in range(repeats):
        step()
        began = time.perf_counter()
        ours.append(held())
        ckpt.wait()
        whole.append(1e3 * (time.perf_counter() - began))
        step()
        theirs.append(rival())
    return {
        "question": f"checkpoint of {mb:g} MB of state: time training is held", "unit": "ms",
        "value": round(statistics.median(ours), 2), "spread": [round(min(ours), 2), round(max(ours), 2)],
        "rival": "paddle.save of both state dicts", "rival_value": round(statistics.median(theirs), 1),
        "ratio": round(statistics.median(t / o for o, t in zip(ours, theirs, strict=True)), 2),
        "first_save_ms": round(first, 2), "until_complete_ms": round(statistics.median(whole), 1),
        "state_mb": round(3 * 4 * num_layers * (WIDTH**2 + WIDTH) / 1e6, 1),
    }  # fmt: skip


def check(ckpt: fleet.Checkpointer, model: paddle.nn.Layer, optimizer: object) -> None:
    path = os.path.join(ckpt.directory, f"step-{ckpt.step:08d}")
    for name, mine in (("model.pdparams", model.state_dict()), ("optimizer.pdopt", optimizer.state_dict())):  # type: ignore[attr-defined]
        loaded = paddle.load(os.path.join(path, name))
        for key, value in mine.items():
            if isinstance(value, paddle.Tensor):
                assert np.array_equal(loaded[key].numpy(), value.numpy()), key


if __name__ == "__main__":
    main()
