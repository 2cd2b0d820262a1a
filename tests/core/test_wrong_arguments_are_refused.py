"""Nothing is converted and nothing is guessed: a wrong array or value is an error that says what was wanted."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from core_oracle import core, random_floats, random_ids, table

IDS = random_ids(3)
W = random_floats(3, 4)


def misaligned() -> np.ndarray:
    return np.zeros(3 * 16 + 1, np.uint8)[1:].view(np.float32).reshape(3, 4)


def read_only() -> np.ndarray:
    out = np.zeros((3, 4), np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda t: t.pull(IDS.astype(np.int64), W, True), TypeError, r"ids must be uint64\[n\], got dtype int64"),
        (lambda t: t.pull([1, 2, 3], W, True), TypeError, r"ids must be a numpy array uint64\[n\], got list"),
        (lambda t: t.pull(IDS.astype(">u8"), W, True), TypeError, "got dtype >u8"),
        (lambda t: t.pull(IDS.reshape(1, 3), W, True), ValueError, r"ids must be uint64\[n\], got shape \[1, 3\]"),
        (lambda t: t.pull(IDS[::2], W[:2], True), ValueError, "C-contiguous"),
        (lambda t: t.pull(IDS, W.astype(np.float64), True), TypeError, r"out must be float32\[3, 4\], got dtype float64"),
        (lambda t: t.pull(IDS, W[:2], True), ValueError, r"out must be float32\[3, 4\], got shape \[2, 4\]"),
        (lambda t: t.pull(IDS, np.asfortranarray(W), True), ValueError, "C-contiguous"),
        (lambda t: t.pull(IDS, misaligned(), True), ValueError, "aligned"),
        (lambda t: t.pull(IDS, read_only(), True), ValueError, "writeable"),
        (lambda t: t.push(IDS, W[:, :3].copy(), 0.1, 1), ValueError, r"grads must be float32\[3, 4\]"),
        (lambda t: t.push(IDS, W, float("nan"), 1), ValueError, "lr must be finite"),
        (lambda t: t.push(IDS, W, 0.1, 0), ValueError, "step must be >= 1"),
        (lambda t: t.assign(IDS, W[:1]), ValueError, r"weights must be float32\[3, 4\]"),
        (lambda t: t.read(W), TypeError, "ids must be"),
        (lambda t: core.Cut([t], [0]).write(["/nowhere"], 5, 5), ValueError, "not a range"),
        (lambda t: core.Cut([t], [0]).write(["/nowhere"], 0, 1025), ValueError, "not a range"),
        (lambda t: core.Cut([t], [0]).write([], 0, 1024), ValueError, "one entry a table"),
        (lambda t: core.Cut([t], []), ValueError, "one epoch a table"),
        (lambda t: core.Cut([t, t], [0, 0]), ValueError, "is named twice"),
        (lambda t: core.Load(t, np.ones(1023, bool)), ValueError, r"keep must be bool\[1024\]"),
        (lambda t: core.Load(t, np.ones(1024, bool)).drop_shards(3, 2), ValueError, "a range"),
    ],
)
def test_table_calls(call: Callable[[Any], Any], kind: type[Exception], text: str) -> None:
    rows = table()
    with pytest.raises(kind, match=text):
        call(rows)
    assert rows.size == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dim": 0}, "dim must be 1 to"),
        ({"dim": 1 << 40}, "dim must be 1 to"),
        ({"dim": 100_000, "optimizer": "adam"}, "above the limit"),
        ({"optimizer": "lamb"}, "optimizer must be one of sgd, momentum, adagrad, .*, adam, adamw, ftrl, got lamb"),
        ({"optimizer": "momentum", "hyper": {"nesterov": 0.5}}, "nesterov must be 0 or 1, got 0.5"),
        ({"hyper": {"l2_decay": -0.1}}, r"l2_decay must be in \[0.0"),
        ({"hyper": {"clip_min": 1.0, "clip_max": 0.0}}, "clip_min must not be above clip_max"),
        ({"hyper": {"clip_min": float("-inf")}}, "clip_min must be in"),
        ({"optimizer": "sgd", "hyper": {"epsilon": 1e-6}}, "sgd has no hyper-parameter epsilon"),
        ({"optimizer": "adam", "hyper": {"beta3": 0.5}}, "adam has no hyper-parameter beta3"),
        ({"optimizer": "adam", "hyper": {"beta1": 1.0}}, r"beta1 must be in \[0.0, 1.0\), got 1.0"),
        ({"hyper": {"epsilon": 0.0}}, "epsilon must be in"),
        ({"hyper": {"initial_accumulator_value": -1.0}}, "initial_accumulator_value must be in"),
        ({"hyper": {"epsilon": float("nan")}}, "epsilon must be in"),
        ({"initializer": "xavier"}, "initializer must be uniform, normal or constant, got xavier"),
        ({"init_args": (1.0, 0.0)}, "low <= high"),
        ({"init_args": (0.0, float("inf"))}, "finite"),
        ({"initializer": "normal", "init_args": (0.0, -1.0)}, "standard deviation"),
        ({"initializer": "constant", "init_args": (0.0, 1.0)}, "constant takes"),
        ({"stripes": 3}, "stripes must be"),
        ({"stripes": 32}, "stripes must be"),
    ],
)
def test_tables_that_cannot_be(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        table(**changes)


def test_as_array_views_foreign_memory() -> None:
    memory = (ctypes.c_float * 6)(*range(6))
    view = core.as_array(ctypes.addressof(memory), 6, "float32")
    assert view.dtype == np.float32 and not view.flags.owndata and view.flags.writeable
    view[2] = 9.0
    assert memory[2] == 9.0
    memory[3] = 7.0
    assert view[3] == 7.0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 1, "float32"), "null or not aligned"),
        ((4098, 1, "int64"), "null or not aligned"),
        ((4096, -1, "int64"), "count must be"),
        ((4096, 1, "float64"), "dtype must be"),
    ],
)
def test_as_array_refuses(arguments: tuple[int, int, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        core.as_array(*arguments)


def test_simd_levels_that_this_cpu_lacks() -> None:
    with pytest.raises(ValueError, match="SIMD level must be one that this CPU has .*portable.*got sse9"):
        core.set_simd("sse9")
