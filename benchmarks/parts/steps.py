"""What the processes of the collective benchmark have in common: the work's sizes, and how they are told to run. No framework."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Work(NamedTuple):
    """One model's batch on each process, and its learning rate."""

    batch: int
    rate: float
    what: str


WORKS = {
    "mlp": Work(64, 0.01, "MLP, 9.5 M parameters, batch 64 a process"),
    "resnet18": Work(8, 0.01, "ResNet-18, 11.2 M parameters, 8 images of 64 x 64 a process"),
    "bert": Work(8, 0.01, "BERT, 4 layers of 256, 5.2 M parameters, 8 x 64 tokens a process"),
}
WIDTHS = (1024, 2048, 2048, 1024, 1024, 10)  # of the MLP
CLASSES, SIDE = 10, 64  # of ResNet-18's images
HIDDEN, LAYERS, HEADS, LENGTH, VOCABULARY = 256, 4, 4, 64, 8000  # of BERT
NUM_CHECKED = 3  # steps after which the weights are compared


def data(work: str, rank: int) -> tuple[Any, Any]:
    """Return a process's batch: the same in every framework."""
    rng = np.random.default_rng(100 + rank)
    num = WORKS[work].batch
    if work == "mlp":
        return rng.normal(size=(num, WIDTHS[0])).astype("float32"), rng.integers(0, WIDTHS[-1], num)
    if work == "resnet18":
        return rng.normal(size=(num, 3, SIDE, SIDE)).astype("float32"), rng.integers(0, CLASSES, num)
    tokens = rng.integers(0, VOCABULARY, (num, LENGTH))
    return tokens, tokens[:, ::-1].copy()


def values(shapes: list[list[int]]) -> list[Any]:
    """Return small random values for parameters in their order: the same in every process."""
    rng = np.random.default_rng(1)
    return [rng.normal(0, 0.02, shape).astype("float32") + (len(shape) == 1) for shape in shapes]


def serve(run: Mapping[str, Callable[[int], None]], meet: Callable[[], Any], checked: dict[str, float]) -> None:
    """Say that this process is ready; then run blocks of steps as stdin says, until it ends.

    Each answer: milliseconds a step, and processor seconds a step of this process, all its threads.
    """
    print("ready " + json.dumps(checked), flush=True)
    for line in sys.stdin:
        name, steps = line.split()
        meet()
        used, began = time.process_time(), time.perf_counter()
        run[name](int(steps))
        took, busy = time.perf_counter() - began, time.process_time() - used
        print("took " + json.dumps({"ms": took / int(steps) * 1e3, "cpu_s": busy / int(steps)}), flush=True)
